//! Flags of instructions: `--name`, `--name=value`.

use lithify_graph::Span;

use crate::diagnostic::Diagnostic;
use crate::source::Word;
use crate::words::Rest;

/// A flag as written, quotes and escapes removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without the dashes.
    pub name: String,
    /// What stands behind `=`.
    pub value: Option<String>,
    /// The whole flag.
    pub span: Span,
}

/// Takes the flags in front of an instruction's arguments; what is left is the arguments.
pub(crate) fn take<'a>(rest: Rest<'a>, escape: char) -> (Vec<Flag>, Rest<'a>) {
    let mut flags = vec![];
    let mut rest = rest.trim();
    while rest.text().starts_with("--") {
        let (text, length) = unquote(rest.text(), escape);
        let word = rest.part(0, length);
        rest = rest.part(length, rest.text().len()).trim();
        if text == "--" {
            break;
        }
        let body = text.strip_prefix("--").unwrap_or(&text);
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (body.to_owned(), None),
        };
        flags.push(Flag { name, value, span: word.word().span });
    }
    (flags, rest)
}

/// The first word without its quotes and escapes, and its length as written.
fn unquote(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(c),
        }
    }
    (word, text.len())
}

/// The kind of a flag's value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagKind {
    /// `--link`, `--link=true`, `--link=false`.
    Switch,
    /// `--from=x`, once.
    Value,
    /// `--mount=x`, any number of times.
    Values,
}

/// The flags that an instruction has.
pub(crate) struct Flags<'a> {
    known: &'a [(&'a str, FlagKind)],
    flags: Vec<Flag>,
}

impl<'a> Flags<'a> {
    /// Checks names, kinds and repetitions.
    pub(crate) fn check(
        flags: Vec<Flag>,
        known: &'a [(&'a str, FlagKind)],
        problems: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut seen: Vec<&str> = vec![];
        for flag in &flags {
            match problem(flag, known, &seen) {
                Some(problem) => problems.push(problem),
                None => seen.push(&flag.name),
            }
        }
        Flags { known, flags }
    }

    /// The value of a flag with one.
    pub(crate) fn value(&self, name: &str) -> Option<Word> {
        self.values(name).pop()
    }

    /// The values of a flag that may be repeated.
    pub(crate) fn values(&self, name: &str) -> Vec<Word> {
        debug_assert!(self.known.iter().any(|(known, _)| *known == name));
        let with_name = self.flags.iter().filter(|flag| flag.name == name);
        with_name.filter_map(|flag| Some(Word { text: flag.value.clone()?, span: flag.span })).collect()
    }

    /// Whether a switch is on; `None` when it was not given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        let flag = self.flags.iter().rfind(|flag| flag.name == name)?;
        Some(!flag.value.as_deref().is_some_and(|value| value.eq_ignore_ascii_case("false")))
    }
}

fn problem(flag: &Flag, known: &[(&str, FlagKind)], seen: &[&str]) -> Option<Diagnostic> {
    let name = &flag.name;
    let Some((_, kind)) = known.iter().find(|(known, _)| known == name) else {
        let options: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
        let wrong = format!("--{name}");
        let diagnostic = Diagnostic::at(flag.span, format!("unknown flag: {wrong}"));
        let diagnostic = match options.is_empty() {
            true => diagnostic.label("no flag is known here"),
            false => diagnostic.label(format!("expected {}", options.join(", "))),
        };
        return Some(diagnostic.suggest(&wrong, options.iter().map(String::as_str)));
    };
    if *kind != FlagKind::Values && seen.contains(&name.as_str()) {
        return Some(Diagnostic::at(flag.span, format!("duplicate flag specified: --{name}")));
    }
    match (kind, flag.value.as_deref()) {
        (FlagKind::Switch, Some("")) | (FlagKind::Value | FlagKind::Values, None) => {
            Some(Diagnostic::at(flag.span, format!("missing a value on flag: --{name}")))
        }
        (FlagKind::Switch, Some(value))
            if !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false") =>
        {
            let message = format!("expecting boolean value for flag --{name}, not: {value}");
            Some(Diagnostic::at(flag.span, message).label("expected true or false"))
        }
        _ => None,
    }
}
