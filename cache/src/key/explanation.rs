//! Why a step was not found: the parts of its key against those of an earlier run.
//!
//! Some parts only explain another one, and are no part of the key: the lines of a command, the files of a content.
//! Values are never kept, since they may be secret; a command's lines are, which every image shows in its history.

use std::collections::{BTreeMap, HashSet};

use lithify_oci::Digest;
use serde::{Deserialize, Serialize};

/// How many parts a summary names.
const NAMED: usize = 3;

/// How many names of each kind a difference keeps in the log of builds.
const KEPT: usize = 1000;

/// How many lines of a command are kept, and how many characters of each.
const LINES: usize = 200;
const LINE_CHARS: usize = 300;

/// What names of parts begin with that only explain others.
pub(crate) const FILE: &str = "file ";
const FOLDER: &str = "folder ";
const LINE: &str = "line ";
/// The part that sums up what a COPY selects.
const CONTENT: &str = "content";

/// One part of a key: what it is, and a short hash of its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Such as `env FOO`, `file src/main.rs`, `base layer 3`.
    pub name: String,
    /// The first eight bytes of the value's SHA-256.
    pub value: u64,
}

impl Part {
    pub(crate) fn new(name: impl Into<String>, value: &[u8]) -> Self {
        let mut first = [0; 8];
        first.copy_from_slice(&Digest::of(value).as_bytes()[..8]);
        Part { name: name.into(), value: u64::from_be_bytes(first) }
    }
}

/// The lines of a command or script, for explanations.
pub(super) fn lines<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Part> {
    let lines = texts.into_iter().flat_map(str::lines).filter(|line| !line.trim().is_empty()).take(LINES);
    let cut = |line: &str| line.chars().take(LINE_CHARS).collect::<String>();
    lines.map(|line| Part::new(format!("{LINE}{}", cut(line)), line.as_bytes())).collect()
}

/// The name of the part that explains one file, or all files of a folder together.
pub(super) fn file_name(path: &[u8], is_whole_folder: bool) -> String {
    let path = if path.is_empty() { ".".into() } else { String::from_utf8_lossy(path) };
    format!("{}{path}", if is_whole_folder { FOLDER } else { FILE })
}

/// What a step depended on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Which steps are "the same step" in two builds.
    pub step: String,
    /// The parts of its key.
    pub parts: Vec<Part>,
}

/// How two runs of a step differ: names of parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In both, with different values.
    pub changed: Vec<String>,
    /// Only in the new one.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
    /// How many more there are that are not named.
    #[serde(default)]
    pub unnamed: usize,
}

impl Explanation {
    /// As the store keeps it.
    pub(crate) fn to_json(&self) -> String {
        let parts: Vec<_> =
            self.parts.iter().map(|part| (&part.name, format!("{:016x}", part.value))).collect();
        serde_json::json!(parts).to_string()
    }

    /// The reverse of [`Explanation::to_json`].
    pub(crate) fn from_json(step: &str, text: &str) -> serde_json::Result<Self> {
        let parts: Vec<(String, String)> = serde_json::from_str(text)?;
        let value = |text: &str| u64::from_str_radix(text, 16).map_err(serde::de::Error::custom);
        let parts = parts.into_iter().map(|(name, text)| Ok(Part { value: value(&text)?, name }));
        Ok(Explanation { step: step.to_owned(), parts: parts.collect::<serde_json::Result<_>>()? })
    }

    /// What the step does, as far as its parts tell: its command, or where it puts things.
    fn deed(&self) -> impl PartialEq + use<> {
        let is_deed =
            |part: &&Part| is_command(&part.name) || matches!(part.name.as_str(), "destination" | "path");
        self.parts.iter().filter(is_deed).map(|part| part.value).collect::<Vec<_>>()
    }

    /// How this differs from an earlier run. Parts of one name (several hosts, several sources) are compared together.
    pub fn difference(&self, earlier: &Explanation) -> Difference {
        let (old, new) = (by_name(earlier), by_name(self));
        // In the order of the parts, so that the lines of a command stay in theirs.
        let names = |keep: &dyn Fn(&str) -> bool, from: &Explanation| {
            let mut seen = HashSet::new();
            let names = from.parts.iter().map(|part| part.name.as_str());
            names.filter(|name| keep(name) && seen.insert(*name)).map(str::to_owned).collect()
        };
        let is_changed = |name: &str| old.get(name).is_some_and(|values| *values != new[name]);
        Difference {
            changed: names(&is_changed, self),
            added: names(&|name| !old.contains_key(name), self),
            removed: names(&|name| !new.contains_key(name), earlier),
            unnamed: 0,
        }
        .settled(&old, &new)
    }
}

fn is_command(name: &str) -> bool {
    matches!(name, "command" | "script")
}

/// Whether a part sums up files.
fn is_content(name: &str) -> bool {
    name == CONTENT || name.starts_with("bind mount ")
}

/// Whether a part is about one file of a sum, or one folder.
fn is_file(name: &str) -> bool {
    name.starts_with(FILE) || name.starts_with(FOLDER)
}

fn by_name(explanation: &Explanation) -> BTreeMap<&str, Vec<u64>> {
    let mut parts: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for part in &explanation.parts {
        parts.entry(&part.name).or_default().push(part.value);
    }
    parts
}

impl Difference {
    /// How many parts differ.
    pub fn len(&self) -> usize {
        self.changed.len() + self.added.len() + self.removed.len() + self.unnamed
    }

    /// Whether none does, which leaves their order.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lists(&mut self) -> [&mut Vec<String>; 3] {
        [&mut self.changed, &mut self.added, &mut self.removed]
    }

    /// Drops details that tell nothing: those whose sum is the same, those that only one of the two runs kept in this form,
    /// and sums whose details are told.
    fn settled(mut self, old: &BTreeMap<&str, Vec<u64>>, new: &BTreeMap<&str, Vec<u64>>) -> Self {
        let has =
            |parts: &BTreeMap<&str, Vec<u64>>, kind: &str| parts.keys().any(|name| name.starts_with(kind));
        let differs = |is_it: &dyn Fn(&str) -> bool| {
            [&self.changed, &self.added, &self.removed].into_iter().flatten().any(|name| is_it(name))
        };
        let lines_tell = differs(&is_command) && has(old, LINE) && has(new, LINE);
        let is_mixed = has(old, FILE) && has(new, FOLDER) || has(old, FOLDER) && has(new, FILE);
        let files_tell = differs(&is_content) && !is_mixed;
        let tells = |name: &str| match () {
            () if name.starts_with(LINE) => lines_tell,
            () if is_file(name) => files_tell,
            () => true,
        };
        self.lists().into_iter().for_each(|list| list.retain(|name| tells(name)));
        if self.lists().into_iter().flatten().any(|name| is_file(name)) {
            self.changed.retain(|name| name != CONTENT);
        }
        self
    }

    /// Without the names that are too many for a log.
    pub(crate) fn bounded(mut self) -> Self {
        let mut dropped = 0;
        for list in self.lists() {
            dropped += list.len().saturating_sub(KEPT);
            list.truncate(KEPT);
        }
        self.unnamed += dropped;
        self
    }

    /// With these files in place of the ones and the folders that are named.
    pub(crate) fn with_files(&self, files: Difference) -> Difference {
        let others = |mine: &[String], theirs: Vec<String>| -> Vec<String> {
            mine.iter().filter(|name| !is_file(name)).cloned().chain(theirs).collect()
        };
        Difference {
            changed: others(&self.changed, files.changed),
            added: others(&self.added, files.added),
            removed: others(&self.removed, files.removed),
            unnamed: files.unnamed,
        }
    }

    /// Whether only folders of many files are named, of which the catalogues of the two results can tell more.
    pub fn names_folders(&self) -> bool {
        [&self.changed, &self.added, &self.removed].into_iter().flatten().any(|name| name.starts_with(FOLDER))
    }

    /// In a few words: `app.txt changed, env FOO added and 3 more`.
    pub fn summary(&self) -> String {
        let named = |names: &[String], what: &str| -> Vec<String> {
            let told = names.iter().filter(|name| !name.starts_with(LINE));
            let short = |name: &String| {
                name.strip_prefix(FILE).or(name.strip_prefix(FOLDER)).unwrap_or(name).to_owned()
            };
            told.map(|name| format!("{} {what}", short(name))).collect()
        };
        let all =
            [named(&self.changed, "changed"), named(&self.added, "added"), named(&self.removed, "removed")]
                .concat();
        match all.len() {
            0 => "its parts are in another order".to_owned(),
            count if count > NAMED => format!("{} and {} more", all[..NAMED].join(", "), count - NAMED),
            _ => all.join(", "),
        }
    }
}

/// The earlier run that differs least, the first of several.
pub(crate) fn nearest<'a, T>(
    new: &Explanation,
    earlier: &'a [T],
    explanation: impl Fn(&T) -> &Explanation,
) -> Option<(&'a T, Difference)> {
    // Two runs that do the same are more likely the same step than two that share their environment.
    let deed = new.deed();
    let alike: Vec<_> = earlier.iter().filter(|old| explanation(old).deed() == deed).collect();
    let candidates = if alike.is_empty() { earlier.iter().collect() } else { alike };
    let compared = candidates.into_iter().map(|old| (old, new.difference(explanation(old))));
    compared.min_by_key(|(_, difference)| difference.len())
}
