//! An image as the conformance cases record it: configuration, tree, removed paths, hard links, number of layers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Image;
use crate::image::sha256;
use crate::tar::{Member, readable};

/// What a runtime reads of a configuration.
const CONFIG: [&str; 12] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
];

/// The tree that an image's layers make, one line of text for each path.
#[derive(Debug, Default)]
pub struct Tree {
    /// Which node is at a path; hard links share a node.
    paths: BTreeMap<String, usize>,
    /// Kind, mode, owner, and what the kind has beyond that.
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    is_folder: bool,
    line: String,
}

impl Tree {
    /// Applies an image's layers one upon the other.
    ///
    /// # Errors
    /// When a layer cannot be read, or a hard link points to nothing.
    pub fn of(image: &Image) -> io::Result<Self> {
        let mut tree = Self::default();
        for layer in &image.layers {
            let mut tar = image.tar(layer)?;
            let mut here = BTreeSet::new();
            while let Some(member) = tar.next_member()? {
                let content = if member.is_file() { Some(sha256(&mut tar)?.0) } else { None };
                tree.apply(&member, content, &mut here)?;
            }
        }
        tree.paths.remove("/");
        Ok(tree)
    }

    /// The line that describes a path.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.paths.get(path).map(|node| self.nodes[*node].line.as_str())
    }

    /// All paths in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.keys().map(String::as_str)
    }

    fn apply(
        &mut self,
        member: &Member,
        content: Option<String>,
        here: &mut BTreeSet<String>,
    ) -> io::Result<()> {
        let path = member.path();
        let (parent, base) = path.rsplit_once('/').unwrap_or(("", &path));
        if base == ".wh..wh..opq" {
            self.remove_below(parent, here);
            return Ok(());
        }
        if let Some(gone) = base.strip_prefix(".wh.") {
            let gone = format!("{parent}/{gone}");
            self.remove_below(&gone, &BTreeSet::new());
            self.paths.remove(&gone);
            return Ok(());
        }
        let node = if member.kind == b'1' {
            let target = member.link_path();
            let missing =
                || io::Error::new(io::ErrorKind::InvalidData, format!("{path} is a link to no {target}"));
            *self.paths.get(&target).ok_or_else(missing)?
        } else {
            self.nodes.push(Node { is_folder: member.kind == b'5', line: line(member, content) });
            self.nodes.len() - 1
        };
        if !self.nodes[node].is_folder {
            self.remove_below(&path, &BTreeSet::new());
        }
        self.paths.insert(path.clone(), node);
        here.insert(path);
        Ok(())
    }

    fn remove_below(&mut self, folder: &str, except: &BTreeSet<String>) {
        let prefix = format!("{folder}/");
        let below = self.paths.range(prefix.clone()..).map(|(path, _)| path);
        let gone: Vec<String> = below
            .take_while(|path| path.starts_with(&prefix))
            .filter(|path| !except.contains(*path))
            .cloned()
            .collect();
        for path in gone {
            self.paths.remove(&path);
        }
    }

    /// The groups of paths that are one file, each sorted, and sorted by their first paths.
    fn groups(&self) -> Vec<Vec<&str>> {
        let mut groups: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for (path, node) in &self.paths {
            groups.entry(*node).or_default().push(path);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort();
        groups
    }
}

fn line(member: &Member, content: Option<String>) -> String {
    let kind = match member.kind {
        b'5' => 'd',
        b'2' => 'l',
        b'3' => 'c',
        b'4' => 'b',
        _ if member.is_file() => 'f',
        _ => 'p',
    };
    let mode = if kind == 'l' { "-".to_owned() } else { format!("{:04o}", member.mode) };
    let mut line = format!("{kind} {mode} {}:{}", member.uid, member.gid);
    if let Some(content) = content {
        line.push_str(&format!(" {} {}", member.size_bytes, short(&content)));
    }
    if kind == 'l' {
        line.push_str(&format!(" -> {}", readable(&member.link)));
    }
    if matches!(kind, 'c' | 'b') {
        line.push_str(&format!(" {}:{}", member.device.0, member.device.1));
    }
    let xattrs: Vec<String> = member
        .pax
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?, value)))
        .map(|(key, value)| {
            let (digest, _) = sha256(&mut value.as_slice()).unwrap_or_default();
            format!("{}: \"{}\"", Value::from(readable(key)), short(&digest))
        })
        .collect();
    if !xattrs.is_empty() {
        line.push_str(&format!(" {{{}}}", xattrs.join(", ")));
    }
    line
}

fn short(digest: &str) -> &str {
    digest.strip_prefix("sha256:").and_then(|hex| hex.get(..16)).unwrap_or(digest)
}

/// The base images that cases may start from, read once.
#[derive(Debug)]
pub struct Bases {
    images: Vec<(Vec<String>, Tree)>,
}

impl Bases {
    /// Reads every OCI layout in `folder`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut images = Vec::new();
        for name in base_names(folder)? {
            let image = Image::from_layout(&folder.join(name))?;
            images.push((image.diff_ids(), Tree::of(&image)?));
        }
        Ok(Self { images })
    }

    /// What is compared: the configuration that a runtime reads, and every path that differs from the base image's.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn describe(&self, image: &Image) -> io::Result<Value> {
        let tree = Tree::of(image)?;
        let ids = image.diff_ids();
        let empty = (Vec::new(), Tree::default());
        let base = self.images.iter().find(|(base, _)| ids.starts_with(base)).unwrap_or(&empty);
        let differs = |path: &&str| base.1.get(path) != tree.get(path);
        let mut changed: BTreeMap<&str, &str> =
            tree.paths().filter(differs).filter_map(|path| Some((path, tree.get(path)?))).collect();
        drop_stubs(&mut changed);
        let links: Vec<Vec<&str>> = tree
            .groups()
            .into_iter()
            .map(|group| group.into_iter().filter(|path| changed.contains_key(path)).collect::<Vec<_>>())
            .filter(|group| group.len() > 1)
            .collect();
        let removed: Vec<&str> = base.1.paths().filter(|path| tree.get(path).is_none()).collect();
        Ok(json!({
            "outcome": "ok",
            "config": runtime_config(&image.config["config"]),
            "tree": changed,
            "removed": removed,
            "hardlinks": links,
            "layers": image.layers.len() - base.0.len(),
        }))
    }
}

/// The names of the base images in `folder`, sorted.
///
/// # Errors
/// When the folder cannot be read.
pub fn base_names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().join("oci-layout").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Some builders leave empty folders where they mounted something.
fn drop_stubs(tree: &mut BTreeMap<&str, &str>) {
    for stub in ["/dev", "/proc", "/sys"] {
        let is_alone =
            !tree.keys().any(|path| path.strip_prefix(stub).is_some_and(|rest| rest.starts_with('/')));
        if tree.get(stub) == Some(&"d 0755 0:0") && is_alone {
            tree.remove(stub);
        }
    }
}

fn runtime_config(config: &Value) -> Value {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    };
    let kept: Map<String, Value> = CONFIG
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), config.get(key)?.clone())))
        .filter(|(_, value)| is_set(value))
        .collect();
    Value::Object(kept)
}
