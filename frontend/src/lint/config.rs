//! `# check=skip=A,B;error=true;experimental=C`.

use std::collections::BTreeSet;

use crate::directive;
use crate::lint::Rule;

/// Which rules count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckConfig {
    skip: Names,
    experimental: Names,
    /// Whether what is found fails a build.
    pub(crate) error: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: BTreeSet<String>,
}

impl Names {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        if text == "all" {
            return Names { all: true, names: BTreeSet::new() };
        }
        Names { all: false, names: text.split(',').map(|name| name.trim().to_owned()).collect() }
    }

    fn holds(&self, rule: Rule) -> bool {
        self.all || self.names.contains(rule.name())
    }

    fn extend(&mut self, other: &Names) {
        self.all |= other.all;
        self.names.extend(other.names.iter().cloned());
    }
}

/// A text that is no check configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid check option {option:?}: expected skip=RULES, error=true or experimental=RULES")]
pub struct InvalidCheck {
    /// The part that is not understood.
    pub option: String,
}

impl CheckConfig {
    /// Reads what stands behind `check=`, up to the first white space.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidCheck> {
        let text = text.split_whitespace().next().unwrap_or_default();
        let mut config = CheckConfig::default();
        if text.is_empty() {
            return Ok(config);
        }
        for part in text.splitn(3, ';') {
            let invalid = || InvalidCheck { option: part.to_owned() };
            let (key, value) = part.split_once('=').ok_or_else(invalid)?;
            match key.trim() {
                "skip" => config.skip = Names::parse(value),
                "experimental" => config.experimental = Names::parse(value),
                "error" => config.error = parse_bool(value.trim()).ok_or_else(invalid)?,
                _ => return Err(invalid()),
            }
        }
        Ok(config)
    }

    pub(crate) fn applies(&self, rule: Rule) -> bool {
        match rule.is_experimental() {
            true => self.experimental.holds(rule),
            false => !self.skip.holds(rule),
        }
    }

    /// With the skips and experiments of an instruction's own comment.
    pub(crate) fn merged(&self, own: &CheckConfig) -> CheckConfig {
        let mut merged = self.clone();
        merged.skip.extend(&own.skip);
        merged.experimental.extend(&own.experimental);
        merged
    }
}

/// The words that Go's ParseBool takes.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The configuration in the comment lines of an instruction.
pub(crate) fn from_comments(comments: &[String]) -> Option<CheckConfig> {
    let mut directives = comments.iter().filter_map(|comment| directive::name_and_value(comment));
    let (_, value) = directives.find(|(name, _)| name == "check")?;
    CheckConfig::parse(value).ok()
}
