//! The rules that BuildKit checks Dockerfiles by, under its names, so that existing `# check=skip=...` lines work.

mod config;
pub(crate) mod from;
mod notes;
mod report;
mod rules;
pub(crate) mod text;

use std::collections::{BTreeSet, HashMap};

use lithify_graph::Span;

pub use config::InvalidCheck;
pub(crate) use config::{CheckConfig, from_comments, parse_bool};
pub(crate) use notes::notes;
pub(crate) use report::location;
pub use report::{LintReport, Sarif};
pub use rules::Rule;

use crate::diagnostic::Diagnostic;
use crate::instruction::Instruction;
use crate::options::{ImageRequest, Options, ResolvedImage};
use crate::source::Source;

/// What a rule found, or a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: Rule,
    /// What was found.
    pub message: String,
    /// The instruction.
    pub span: Span,
    /// Its first and last line, from 1.
    pub lines: (usize, usize),
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (line {})", self.rule.name(), self.message, self.lines.0)
    }
}

/// How far a check got.
#[derive(Clone, Debug)]
pub enum Check {
    /// As [`crate::Plan::NeedImages`].
    NeedImages(BTreeSet<ImageRequest>),
    /// What was found.
    Report(LintReport),
}

/// Checks a Dockerfile by the rules; without a target all stages are checked. Errors of the file are
/// part of the report.
///
/// ```
/// use std::collections::HashMap;
/// use lithify_frontend::{Check, Options, Rule, Source, lint};
///
/// let source = Source::new("Dockerfile", "FROM scratch AS Base\nCMD echo hi\n");
/// let Check::Report(report) = lint(&source, &Options::default(), &HashMap::new()) else { panic!() };
/// let rules: Vec<Rule> = report.warnings.iter().map(|warning| warning.rule).collect();
/// assert_eq!(rules, [Rule::StageNameCasing, Rule::JsonArgsRecommended]);
/// ```
pub fn lint(source: &Source, options: &Options, images: &HashMap<ImageRequest, ResolvedImage>) -> Check {
    match crate::plan::check(source, options, images) {
        Ok(missing) if !missing.is_empty() => Check::NeedImages(missing),
        Ok(_) => Check::Report(LintReport::new(source, vec![], vec![], false)),
        Err(report) => Check::Report(report),
    }
}

/// Collects what the rules find.
pub(crate) struct Linter {
    config: CheckConfig,
    pub(crate) warnings: Vec<Warning>,
}

impl Linter {
    pub(crate) fn new(config: CheckConfig) -> Self {
        Linter { config, warnings: vec![] }
    }

    /// Reports what a rule found about an instruction, unless it is skipped for the file or for the instruction.
    pub(crate) fn report(&mut self, rule: Rule, instruction: &Instruction, message: String) {
        let own = match instruction.comments.is_empty() {
            true => None,
            false => from_comments(&instruction.comments),
        };
        let applies = match own {
            Some(own) => self.config.merged(&own).applies(rule),
            None => self.config.applies(rule),
        };
        if applies {
            let (span, lines) = (instruction.span, instruction.lines);
            self.warnings.push(Warning { rule, message, span, lines });
        }
    }

    /// The error that `error=true` makes of warnings.
    pub(crate) fn error(&self) -> Option<Diagnostic> {
        let counted = self.warnings.iter().filter(|warning| !warning.rule.is_note());
        let mut names: Vec<&str> = counted.map(|warning| warning.rule.name()).collect();
        if !self.config.error || names.is_empty() {
            return None;
        }
        names.sort_unstable();
        names.dedup();
        Some(Diagnostic::general(format!("lint violation found for rules: {}", names.join(", "))))
    }

    pub(crate) fn is_error(&self) -> bool {
        self.config.error
    }
}
