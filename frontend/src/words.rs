//! Splitting the text of a logical line into words, with the place of each.

use crate::source::{Joined, Word};

/// A part of a logical line.
#[derive(Clone, Copy)]
pub(crate) struct Rest<'a> {
    pub(crate) line: &'a Joined,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The white space between words of FROM, EXPOSE, COPY and the like.
pub(crate) fn is_separator(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

impl<'a> Rest<'a> {
    /// All of a logical line, without white space around it.
    pub(crate) fn whole(line: &'a Joined) -> Self {
        Rest { line, start: 0, end: line.text.len() }.trim()
    }

    pub(crate) fn text(&self) -> &'a str {
        &self.line.text[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// All of it as one word.
    pub(crate) fn word(&self) -> Word {
        self.line.word(self.start, self.end)
    }

    pub(crate) fn part(&self, start: usize, end: usize) -> Rest<'a> {
        Rest { line: self.line, start: self.start + start, end: self.start + end }
    }

    /// Without white space around it.
    pub(crate) fn trim(self) -> Self {
        let text = self.text();
        let start = self.start + (text.len() - text.trim_start().len());
        Rest { start, end: start + text.trim().len(), ..self }
    }

    /// The first word and what follows the white space behind it, untrimmed.
    pub(crate) fn split_first(&self) -> (Rest<'a>, Rest<'a>) {
        let text = self.text();
        let end = text.find(is_separator).unwrap_or(text.len());
        let after = text[end..].trim_start_matches(is_separator);
        (self.part(0, end), self.part(text.len() - after.len(), text.len()))
    }

    /// Split at runs of white space; quotes mean nothing.
    pub(crate) fn split_plain(&self) -> Vec<Word> {
        let text = self.text();
        let mut words = vec![];
        let mut at = 0;
        while at < text.len() {
            let blank = text[at..].len() - text[at..].trim_start_matches(is_separator).len();
            at += blank;
            let length = text[at..].find(is_separator).unwrap_or(text.len() - at);
            if length > 0 {
                words.push(self.part(at, at + length).word());
            }
            at += length;
        }
        words
    }

    /// Split at white space outside quotes; quotes and escapes stay in the words.
    pub(crate) fn split_quoted(&self, escape: char) -> Vec<Word> {
        let text = self.text();
        let mut words = vec![];
        let mut start: Option<usize> = None;
        let mut quote: Option<char> = None;
        let mut dangling = false;
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            if start.is_none() && c.is_whitespace() {
                continue;
            }
            let from = *start.get_or_insert(at);
            match quote {
                None if c.is_whitespace() => {
                    words.push(self.part(from, at).word());
                    start = None;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                Some('\'') => {}
                _ if c == escape => dangling = chars.next().is_none(),
                _ => {}
            }
        }
        if let Some(from) = start {
            // An escape character that ends the line escapes nothing, and is dropped.
            let end = text.len() - if dangling { escape.len_utf8() } else { 0 };
            words.extend((end > from).then(|| self.part(from, end).word()));
        }
        words
    }
}
