//! Conformance cases: a Dockerfile with its context, in one file, and what a build of it must give.
//!
//! A case is `NAME.txtar`: comment lines, optional `key: value` lines, then files, each under a `-- path --` line.
//! - `args: --build-arg X=1 --target t`: extra flags, split as a shell would; may be repeated.
//! - `fails: TEXT`: the build must fail and say TEXT (case does not matter); TEXT may be empty.
//! - `compare: config,tree,layers`: what is compared (all three unless said).
//!
//! Files are written below a fresh folder with mode 0644. `setup.sh`, if present, runs there with `sh -e` and is
//! removed. The folder is the build context; flags see it as `$CTX`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// One case as its file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The file's name without `.txtar`.
    pub name: String,
    /// Extra flags.
    pub args: Vec<String>,
    /// What a build that must fail has to say.
    pub fails: Option<String>,
    /// What is compared: `config`, `tree`, `layers`.
    pub compare: Vec<String>,
    /// The files and their content.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Case {
    /// Reads a case.
    ///
    /// # Errors
    /// When the file cannot be read, or an `args:` line has an open quote.
    pub fn read(path: &Path) -> io::Result<Self> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::parse(&name, &fs::read(path)?)
    }

    /// Parses a case.
    ///
    /// # Errors
    /// When an `args:` line has an open quote.
    pub fn parse(name: &str, bytes: &[u8]) -> io::Result<Self> {
        let mut case = Self {
            name: name.to_owned(),
            args: Vec::new(),
            fails: None,
            compare: ["config", "tree", "layers"].map(str::to_owned).to_vec(),
            files: Vec::new(),
        };
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if let Some(path) = file_header(line) {
                case.files.push((path, Vec::new()));
            } else if let Some((_, content)) = case.files.last_mut() {
                content.extend_from_slice(line);
            } else {
                case.head(&String::from_utf8_lossy(line))?;
            }
        }
        Ok(case)
    }

    fn head(&mut self, line: &str) -> io::Result<()> {
        let Some((key, value)) = line.trim().split_once(':') else { return Ok(()) };
        match key {
            "args" => self.args.extend(split_words(value)?),
            "fails" => self.fails = Some(value.trim().to_owned()),
            "compare" => self.compare = value.split(',').map(|word| word.trim().to_owned()).collect(),
            _ => {}
        }
        Ok(())
    }

    /// Whether the case needs root: its `setup.sh` makes devices, owners, file capabilities, or files that only root may read.
    pub fn needs_root(&self) -> bool {
        let setup = self.files.iter().find(|(path, _)| path == "setup.sh");
        let text = setup.map(|(_, content)| String::from_utf8_lossy(content)).unwrap_or_default();
        ["mknod", "chown", "chgrp", "setcap", "setfattr", "chmod 000", "chmod 0 "]
            .iter()
            .any(|word| text.contains(word))
    }

    /// Writes the context into `folder`, which must be empty.
    ///
    /// # Errors
    /// When a file cannot be written or `setup.sh` fails.
    pub fn lay_out(&self, folder: &Path) -> io::Result<()> {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        for (name, content) in &self.files {
            let path = folder.join(name);
            for parent in Path::new(name).ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
                let parent = folder.join(parent);
                if !parent.exists() {
                    fs::create_dir(&parent)?;
                    fs::set_permissions(&parent, fs::Permissions::from_mode(0o755))?;
                }
            }
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        let setup = folder.join("setup.sh");
        if setup.exists() {
            let script = "umask 022; exec sh -e ./setup.sh";
            let output = Command::new("sh").args(["-c", script]).current_dir(folder).output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(io::Error::other(format!("setup.sh: {said}")));
            }
            fs::remove_file(setup)?;
        }
        Ok(())
    }

    /// The extra flags for a context at `folder`; a Dockerfile named by `-f` is inside it.
    pub fn flags(&self, folder: &Path) -> Vec<String> {
        let mut flags: Vec<String> = Vec::new();
        for word in &self.args {
            let word = word.replace("$CTX", &folder.to_string_lossy());
            let is_file = flags.last().is_some_and(|last| matches!(last.as_str(), "-f" | "--file"));
            flags.push(if is_file { folder.join(word).to_string_lossy().into_owned() } else { word });
        }
        flags
    }

    /// How a result differs from the recorded one; empty when it does not.
    pub fn differences(&self, want: &Value, got: &Value, log: &str) -> Vec<String> {
        if want["outcome"] != got["outcome"] {
            return vec![format!("outcome: want {}, got {}", want["outcome"], got["outcome"])];
        }
        if want["outcome"] == "error" {
            let text = self.fails.as_deref().unwrap_or_default();
            let is_said = log.to_lowercase().contains(&text.to_lowercase());
            return if is_said { Vec::new() } else { vec![format!("the message does not say: {text}")] };
        }
        let keys = self.compare.iter().flat_map(|key| match key.as_str() {
            "tree" => vec!["tree", "removed", "hardlinks"],
            key => vec![key],
        });
        keys.flat_map(|key| field_differences(key, &want[key], &got[key])).collect()
    }
}

fn field_differences(key: &str, want: &Value, got: &Value) -> Vec<String> {
    if want == got {
        return Vec::new();
    }
    let (Some(wanted), Some(found)) = (want.as_object(), got.as_object()) else {
        return vec![format!("{key}: want {want}, got {got}")];
    };
    let mut names: Vec<&String> = wanted.keys().chain(found.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| wanted.get(*name) != found.get(*name))
        .map(|name| format!("{key} {name}: want {}, got {}", want[name.as_str()], got[name.as_str()]))
        .collect()
}

/// The path in a `-- path --` line.
fn file_header(line: &[u8]) -> Option<String> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let path = line.strip_prefix(b"-- ")?.strip_suffix(b" --")?;
    if path.is_empty() { None } else { String::from_utf8(path.to_vec()).ok() }
}

/// Splits words as a POSIX shell does, without expansions.
fn split_words(text: &str) -> io::Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.trim().chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some('"'), '\\') => {
                let next = chars.next();
                let is_escape = matches!(next, Some('"' | '\\'));
                word.get_or_insert_default().extend((!is_escape).then_some('\\').into_iter().chain(next));
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an open quote in: {text}")));
    }
    Ok(words)
}
