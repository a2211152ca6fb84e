//! Places inside words.

use lithify_graph::Span;

use crate::diagnostic::Diagnostic;
use crate::expand::ExpandError;
use crate::source::Word;

/// The error of an expansion, at the very characters if the word stands in the source as it is.
pub(crate) fn error(word: &Word, error: &ExpandError) -> Diagnostic {
    Diagnostic::at(part(word, error.start, error.end), error.message.clone())
}

/// Where a part of a word stands.
pub(crate) fn part(word: &Word, start: usize, end: usize) -> Span {
    let is_verbatim = word.span.end - word.span.start == word.text.len();
    match is_verbatim && start < end {
        true => Span { start: word.span.start + start, end: word.span.start + end },
        false => word.span,
    }
}
