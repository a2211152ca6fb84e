//! Why a step was not found: the parts of its key against those of an earlier run.

use std::collections::BTreeMap;

use lithify_oci::Digest;

/// How many parts a summary names.
const NAMED: usize = 3;

/// One part of a key: what it is, and a short hash of its value. Values are not kept, since they may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What a step depended on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Which steps are "the same step" in two builds.
    pub step: String,
    /// The parts of its key.
    pub parts: Vec<Part>,
}

/// How two runs of a step differ: names of parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In both, with different values.
    pub changed: Vec<String>,
    /// Only in the new one.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
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

    /// How this differs from an earlier run. Parts of one name (several hosts, several sources) are compared together.
    pub fn difference(&self, earlier: &Explanation) -> Difference {
        let (old, new) = (by_name(earlier), by_name(self));
        let names = |keep: &dyn Fn(&str) -> bool, from: &BTreeMap<&str, Vec<u64>>| {
            from.keys().filter(|name| keep(name)).map(|name| (*name).to_owned()).collect()
        };
        Difference {
            changed: names(&|name| old.get(name).is_some_and(|values| *values != new[name]), &new),
            added: names(&|name| !old.contains_key(name), &new),
            removed: names(&|name| !new.contains_key(name), &old),
        }
        .without_sums()
    }
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
        self.changed.len() + self.added.len() + self.removed.len()
    }

    /// Whether none does, which leaves their order.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops "content changed" where it is said which file did.
    fn without_sums(mut self) -> Self {
        let says_which = |names: &[String]| names.iter().any(|name| name.starts_with("file "));
        if says_which(&self.changed) || says_which(&self.added) || says_which(&self.removed) {
            self.changed.retain(|name| name != "content");
        }
        self
    }

    /// In a few words: `app.txt changed, env FOO added and 3 more`.
    pub fn summary(&self) -> String {
        let named = |names: &[String], what: &str| -> Vec<String> {
            names
                .iter()
                .map(|name| format!("{} {what}", name.strip_prefix("file ").unwrap_or(name)))
                .collect()
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
pub(crate) fn nearest<'a>(
    new: &Explanation,
    earlier: &'a [Explanation],
) -> Option<(&'a Explanation, Difference)> {
    earlier.iter().map(|old| (old, new.difference(old))).min_by_key(|(_, difference)| difference.len())
}
