//! Parser directives: `# escape=`, `# syntax=` and `# check=` on the first lines.

use lithify_graph::Span;

use crate::diagnostic::Diagnostic;
use crate::lines::{Lines, leading_space};
use crate::source::{Source, Word};

/// A parser directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// `syntax`, `escape` or `check`.
    pub name: String,
    /// What stands behind `=`.
    pub value: Word,
    /// The whole line.
    pub span: Span,
}

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// The directives of a file; the first line that is none ends them.
pub(crate) fn directives(source: &Source, problems: &mut Vec<Diagnostic>) -> Vec<Directive> {
    let mut found: Vec<Directive> = vec![];
    for line in Lines::new(source) {
        let (text, start) = line.trimmed();
        let Some(directive) = directive(text, start) else { break };
        if found.iter().any(|known| known.name == directive.name) {
            let message = format!("only one {} parser directive can be used", directive.name);
            problems.push(Diagnostic::at(directive.span, message));
            continue;
        }
        found.push(directive);
    }
    found
}

fn directive(line: &[u8], start: usize) -> Option<Directive> {
    let rest = line.strip_prefix(b"#")?;
    let rest = &rest[leading_space(rest)..];
    let text = std::str::from_utf8(rest).ok()?;
    let (name, value) = name_and_value(text)?;
    let value_start = start + line.len() - rest.len() + (value.as_ptr() as usize - text.as_ptr() as usize);
    let value_span = Span { start: value_start, end: value_start + value.len() };
    let span = Span { start, end: start + line.len() };
    Some(Directive { name, value: Word { text: value.to_owned(), span: value_span }, span })
}

/// The lower-cased name and the value of `name = value`, if the name is that of a directive.
pub(crate) fn name_and_value(text: &str) -> Option<(String, &str)> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim_end();
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let name = name.to_ascii_lowercase();
    let value = value.trim();
    (is_name && !value.is_empty() && KNOWN.contains(&name.as_str())).then_some((name, value))
}

/// The escape character that the directives choose.
pub(crate) fn escape(directives: &[Directive], problems: &mut Vec<Diagnostic>) -> char {
    let Some(directive) = directives.iter().find(|directive| directive.name == "escape") else { return '\\' };
    match directive.value.text.as_str() {
        "\\" => '\\',
        "`" => '`',
        other => {
            let message = format!("invalid escape token '{other}' does not match ` or \\");
            problems.push(Diagnostic::at(directive.value.span, message).label("expected ` or \\"));
            '\\'
        }
    }
}
