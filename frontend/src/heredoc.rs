//! Heredocs: which words start one, and what it holds.

use lithify_graph::Span;

use crate::expand::{Lexer, NoVariables, Quotes};

/// A heredoc with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter, without quotes.
    pub name: String,
    /// Whether variables in the body are expanded: no part of the delimiter was quoted.
    pub expand: bool,
    /// `<<-`: leading tabs of the body's lines are dropped.
    pub chomp: bool,
    /// The body as it stands in the file, with every line end.
    pub body: Vec<u8>,
    /// Where the body stands, without the terminator.
    pub span: Span,
}

impl Heredoc {
    /// The body, without leading tabs for `<<-`.
    pub fn content(&self) -> Vec<u8> {
        if !self.chomp {
            return self.body.clone();
        }
        let lines = self.body.split_inclusive(|byte| *byte == b'\n');
        lines.flat_map(|line| without_tabs(line).iter().copied()).collect()
    }

    /// Whether a line of the file ends this heredoc.
    pub(crate) fn ends_with(&self, line: &[u8]) -> bool {
        let line = if self.chomp { without_tabs(line) } else { line };
        line == self.name.as_bytes()
    }
}

fn without_tabs(line: &[u8]) -> &[u8] {
    let tabs = line.iter().take_while(|byte| **byte == b'\t').count();
    &line[tabs..]
}

/// The heredocs that a logical line starts, in order, their bodies empty. Heredoc words are always read with a
/// backslash as the escape character, and none is found in a line whose quotes do not match.
pub(crate) fn in_line(line: &str) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return vec![];
    }
    let lexer = Lexer { quotes: Quotes::Keep, keep_escapes: true, keep_unset: true, ..Lexer::new('\\') };
    let Ok(expanded) = lexer.expand(line, &NoVariables) else { return vec![] };
    expanded.words.iter().filter_map(|word| heredoc(word)).collect()
}

/// The heredoc that a word is, its body empty: digits, `<<`, perhaps `-`, and a delimiter.
pub(crate) fn heredoc(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let lexer = Lexer { keep_unset: true, ..Lexer::new('\\') };
    let plain = lexer.expand(rest, &NoVariables).ok()?;
    let [name] = &plain.words[..] else { return None };
    let quoted = Lexer { quotes: Quotes::Keep, ..lexer }.text(rest, &NoVariables).ok()?;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = quotes(&quoted) == quotes(name);
    Some(Heredoc { name: name.clone(), expand, chomp, body: vec![], span: Span::default() })
}
