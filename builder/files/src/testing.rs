//! Trees as text, for tests: one file a line, `KIND[,MODE][,UID:GID] PATH [REST]`.
//!
//! Kinds: `d` folder, `f` file (REST is its content), `l` link (its target), `h` hard link (its first name), `p` pipe, `c`
//! device (`MAJOR:MINOR`). Modes are 755 for folders and 644 for others, owners 0:0, unless they are there.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs as unix;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lithify_linux::owner::Owners;
use lithify_oci::{Content, Entry, EntryKind, EntrySink, TreePath};
use rustix::fs::{FileType, Mode};
use tempfile::TempDir;

use crate::arrange::{self, Origin, Part, Rules};
use crate::dest::{self, Destination};
use crate::ignore::Ignore;
use crate::place::{Below, EmptyBelow, FolderBelow, Placer};
use crate::select::{Options, TreeKind, open_content, select};

/// A temporary tree and its descriptor.
pub(crate) struct Tree {
    pub(crate) folder: TempDir,
    pub(crate) root: File,
}

/// Makes a tree from text; `None` (and a note) if it needs an owner or a device that this process may not make.
pub(crate) fn tree(text: &str) -> Option<Tree> {
    let folder = tempfile::tempdir().unwrap();
    let mut modes = vec![];
    for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let (head, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut attributes = head.split(',');
        let kind = attributes.next().unwrap();
        match kind {
            "d" => fs::create_dir_all(&path).unwrap(),
            "f" => fs::write(&path, rest).unwrap(),
            "l" => unix::symlink(rest, &path).unwrap(),
            "h" => fs::hard_link(folder.path().join(rest), &path).unwrap(),
            "p" => rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from(0o644), 0).unwrap(),
            "s" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
            _ => panic!("unknown kind in {line:?}"),
        }
        let mut mode = if kind == "d" { 0o755 } else { 0o644 };
        for attribute in attributes {
            match attribute.split_once(':') {
                Some((uid, gid)) => {
                    if unix::lchown(&path, uid.parse().ok(), gid.parse().ok()).is_err() {
                        skipped("chown");
                        return None;
                    }
                }
                None => mode = u32::from_str_radix(attribute, 8).unwrap(),
            }
        }
        if !matches!(kind, "l" | "h") {
            modes.push((path, mode));
        }
    }
    for (path, mode) in modes.iter().rev() {
        fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
    }
    let root = File::open(folder.path()).unwrap();
    Some(Tree { folder, root })
}

/// Notes that a test could not run.
pub(crate) fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    lithify_testkit::skipped(&name, &format!("no right to {why}; root may"));
}

/// Whether this process is root; a note if not. Files that a test makes are owned by root only then, as those of contexts
/// always are, and only root reads what nobody may.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("be root");
    }
    root
}

/// Writes entries as lines.
#[derive(Default)]
pub(crate) struct Lines(pub(crate) Vec<String>);

impl EntrySink for Lines {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let mut text = String::new();
        if let EntryKind::File { size_bytes } = entry.kind {
            content.open()?.read_to_string(&mut text)?;
            assert_eq!(text.len() as u64, size_bytes, "{}", entry.path);
        }
        self.0.push(line(entry, &text));
        Ok(())
    }
}

pub(crate) fn line(entry: &Entry, content: &str) -> String {
    let (kind, default, rest) = match &entry.kind {
        EntryKind::Directory => ("d", 0o755, String::new()),
        EntryKind::File { .. } => ("f", 0o644, content.to_owned()),
        EntryKind::Symlink { target } => ("l", 0o777, String::from_utf8_lossy(target).into_owned()),
        EntryKind::HardLink { target } => ("h", 0o644, target.to_string()[1..].to_owned()),
        EntryKind::Fifo => ("p", 0o644, String::new()),
        EntryKind::CharDevice(device) => ("c", 0o644, format!("{}:{}", device.major, device.minor)),
        other => panic!("{other:?} was not expected"),
    };
    let mut line = kind.to_owned();
    if entry.mode != default {
        line += &format!(",{:o}", entry.mode);
    }
    // Who runs the tests without being root owns what the tests make.
    let mine = |id: u32, own: u32| if id == own { 0 } else { id };
    let uid = mine(entry.uid, rustix::process::getuid().as_raw());
    let gid = mine(entry.gid, rustix::process::getgid().as_raw());
    if (uid, gid) != (0, 0) {
        line += &format!(",{uid}:{gid}");
    }
    line += &format!(" {}", &entry.path.to_string()[1..]);
    if rest.is_empty() { line } else { format!("{line} {rest}") }
}

/// One COPY from the trees as text to the entries of the layer as text.
#[derive(Default)]
pub(crate) struct Copy<'a> {
    pub(crate) source: &'a str,
    pub(crate) below: &'a str,
    pub(crate) from_stage: bool,
    pub(crate) ignore: &'a str,
    pub(crate) exclude: &'a [&'a str],
    pub(crate) inline: &'a [(&'a str, &'a str)],
    pub(crate) link: bool,
    pub(crate) rules: Rules,
}

impl Copy<'_> {
    /// The lines of the layer, or the error's text with its causes; `None` if the test cannot run.
    fn run(&self, sources: &[&str], dest: &str) -> Option<Result<Vec<String>, String>> {
        let (source, below) = (tree(self.source)?, tree(self.below)?);
        Some(self.run_on(&source, &below, sources, dest).map_err(|error| error.to_string()))
    }

    fn run_on(&self, source: &Tree, below: &Tree, sources: &[&str], dest: &str) -> io::Result<Vec<String>> {
        let is_directory = dest.ends_with('/') || dest.ends_with("/.");
        let destination = match self.link {
            true => Destination::in_empty_tree(dest, is_directory)?,
            false => dest::inspect(below.root.as_fd(), dest, is_directory)?,
        };
        let ignore = Ignore::parse(self.ignore.as_bytes())?;
        let exclude = Ignore::from_patterns(self.exclude)?;
        let context = !self.from_stage;
        let options = Options {
            ignore: context.then_some(&ignore),
            exclude: Some(&exclude),
            parents: self.rules.parents,
            tree: if context { TreeKind::Context } else { TreeKind::Image(Owners::Real) },
        };
        let mut parts = vec![];
        for pattern in sources {
            parts.extend(
                select(source.root.as_fd(), pattern.as_bytes(), &options)?.into_iter().map(Part::Match),
            );
        }
        parts.extend(self.inline.iter().map(|(name, content)| Part::Inline {
            name: (*name).to_owned(),
            size_bytes: content.len() as u64,
        }));
        let selected = parts.len() - self.inline.len();
        let arrangement = arrange::arrange(parts, &destination, &self.rules)?;
        let paths: Vec<TreePath> = arrangement.items().map(|placed| placed.entry.path).collect();
        assert!(paths.is_sorted(), "{paths:?}");

        let (folder_below, mut lines) =
            (FolderBelow::new(below.root.as_fd(), Owners::Real), Lines::default());
        let tree_below: &dyn Below = if self.link { &EmptyBelow } else { &folder_below };
        let mut placer = Placer::new(tree_below, arrangement.conflicts(), &mut lines)
            .with_hard_links(arrangement.hard_links());
        for placed in arrangement.items() {
            let content = match &placed.origin {
                Origin::Selected { source: path, .. }
                    if matches!(placed.entry.kind, EntryKind::File { .. }) =>
                {
                    io::read_to_string(open_content(source.root.as_fd(), path)?)?
                }
                Origin::Inline { part } => self.inline[part - selected].1.to_owned(),
                _ => String::new(),
            };
            placer.entry(&placed.entry, &mut content.as_bytes())?;
        }
        placer.finish()?;
        Ok(lines.0)
    }

    /// Checks the lines of the layer.
    #[track_caller]
    pub(crate) fn gives(&self, sources: &[&str], dest: &str, expected: &str) {
        let Some(got) = self.run(sources, dest) else { return };
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(got.expect("the copy works"), expected, "COPY {sources:?} {dest}");
    }

    /// Checks that the copy fails and says `message`.
    #[track_caller]
    pub(crate) fn fails(&self, sources: &[&str], dest: &str, message: &str) {
        let Some(got) = self.run(sources, dest) else { return };
        let error = got.expect_err("the copy fails");
        assert!(error.contains(message), "COPY {sources:?} {dest}: {error}");
    }
}

/// Whether a path is in the temporary tree.
pub(crate) fn exists(tree: &Tree, path: &str) -> bool {
    tree.folder.path().join(Path::new(path)).symlink_metadata().is_ok()
}
