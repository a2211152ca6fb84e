//! History texts, letter by letter as BuildKit writes them, which means as Go prints lists and quotes strings.

use lithify_graph::{HistoryItem, StepId};
use lithify_oci::{Healthcheck, History};

use crate::parse::format_duration;

/// What an instruction makes.
#[derive(Clone, Copy)]
pub(crate) enum Layer {
    /// No layer.
    None,
    /// A layer; the text ends in `# buildkit`.
    Marked(StepId),
    /// A layer, without that mark (WORKDIR).
    Unmarked(StepId),
}

/// An element of the history.
pub(crate) fn item(mut created_by: String, layer: Layer) -> HistoryItem {
    let step = match layer {
        Layer::None => None,
        Layer::Unmarked(step) => Some(step),
        Layer::Marked(step) => {
            created_by += " # buildkit";
            Some(step)
        }
    };
    let history = History {
        created: None,
        created_by: Some(created_by),
        author: None,
        comment: Some("buildkit.dockerfile.v0".into()),
        empty_layer: step.is_none(),
    };
    HistoryItem { history, step }
}

/// Go's `%v` of strings: `[a b]`.
pub(crate) fn list<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    format!("[{}]", words.join(" "))
}

/// Go's `%q` of strings: `["a" "b"]`.
pub(crate) fn quoted_list(words: &[String]) -> String {
    list(&words.iter().map(|word| quote(word)).collect::<Vec<String>>())
}

/// Go's `%q` of a string.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\x07' => quoted += "\\a",
            '\x08' => quoted += "\\b",
            '\x0c' => quoted += "\\f",
            '\n' => quoted += "\\n",
            '\r' => quoted += "\\r",
            '\t' => quoted += "\\t",
            '\x0b' => quoted += "\\v",
            c if is_printable(c) => quoted.push(c),
            c if c < ' ' || c == '\x7f' => quoted += &format!("\\x{:02x}", c as u32),
            c if (c as u32) < 0x10000 => quoted += &format!("\\u{:04x}", c as u32),
            c => quoted += &format!("\\U{:08x}", c as u32),
        }
    }
    quoted.push('"');
    quoted
}

/// Letters, marks, numbers, punctuation, symbols, and the space of ASCII. The standard library has that table only
/// behind `escape_debug`, which also escapes marks, but not those that follow a letter.
fn is_printable(c: char) -> bool {
    c == ' '
        || (c.is_ascii() && c.is_ascii_graphic())
        || (!c.is_ascii() && format!("a{c}").escape_debug().count() == 2)
}

/// Go's `%+v` of a health check.
pub(crate) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        list(&check.test),
        format_duration(check.interval_ns),
        format_duration(check.timeout_ns),
        format_duration(check.start_period_ns),
        format_duration(check.start_interval_ns),
        check.retries
    )
}

/// The text of RUN: `RUN |1 k=v /bin/sh -c make`.
pub(crate) fn run(args: &[String], build_args: &[(String, String)]) -> String {
    let mut parts = vec!["RUN".to_owned()];
    if !build_args.is_empty() {
        parts.push(format!("|{}", build_args.len()));
        parts.extend(build_args.iter().map(|(name, value)| format!("{name}={value}")));
    }
    parts.extend(args.iter().cloned());
    parts.join(" ")
}
