//! Physical lines: splitting, comments, continuations.

use crate::source::{BYTE_ORDER_MARK, Joined, Source};

/// The longest physical line in bytes, without its line end; BuildKit's scanner takes no more.
pub(crate) const MAX_LINE_BYTES: usize = 65535;

/// Hands out the physical lines of a source.
pub(crate) struct Lines<'a> {
    text: &'a [u8],
    at: usize,
}

/// A physical line.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Its bytes with the line end.
    pub(crate) raw: &'a [u8],
    /// The offset of its first byte.
    pub(crate) start: usize,
}

impl<'a> Line<'a> {
    /// Its bytes without line feeds and carriage returns at the end.
    pub(crate) fn content(&self) -> &'a [u8] {
        let end = self.raw.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
        &self.raw[..end]
    }

    /// The bytes after leading white space, and their offset.
    pub(crate) fn trimmed(&self) -> (&'a [u8], usize) {
        let content = self.content();
        let blank = leading_space(content);
        (&content[blank..], self.start + blank)
    }

    /// Whether the first thing on it is a `#`.
    pub(crate) fn is_comment(&self) -> bool {
        self.trimmed().0.first() == Some(&b'#')
    }

    /// Whether it is longer than BuildKit takes.
    pub(crate) fn is_too_long(&self) -> bool {
        self.raw.strip_suffix(b"\n").unwrap_or(self.raw).len() > MAX_LINE_BYTES
    }
}

impl<'a> Lines<'a> {
    pub(crate) fn new(source: &'a Source) -> Self {
        let at = if source.text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        Lines { text: &source.text, at }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let line = Line { raw: &rest[..length], start: self.at };
        self.at += length;
        Some(line)
    }
}

/// The part of a line before its continuation mark, if it ends in one: an escape character with only spaces and tabs
/// behind it, and not behind another escape character.
pub(crate) fn before_continuation(line: &[u8], escape: u8) -> Option<&[u8]> {
    let end = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t'))?;
    let doubled = end > 0 && line[end - 1] == escape;
    (line[end] == escape && !doubled).then(|| &line[..end])
}

/// How many bytes of white space (Unicode's) there are in front.
pub(crate) fn leading_space(bytes: &[u8]) -> usize {
    if bytes.first().is_none_or(|first| (0x21..0x80).contains(first)) {
        return 0;
    }
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    valid.len() - valid.trim_start().len()
}

/// A logical line while it is read.
#[derive(Default)]
pub(crate) struct Logical {
    /// The joined text.
    pub(crate) text: Joined,
    /// Whether all of it was UTF-8.
    pub(crate) invalid_utf8: bool,
    /// The offsets of blank lines between its parts.
    pub(crate) blank_lines: Vec<usize>,
    /// The offset behind the last part.
    pub(crate) end: usize,
}

impl Logical {
    /// Appends a part; false when the logical line ends with it.
    pub(crate) fn push(&mut self, part: &[u8], start: usize, escape: u8) -> bool {
        let (kept, goes_on) = match before_continuation(part, escape) {
            Some(before) => (before, true),
            None => (part, false),
        };
        self.invalid_utf8 |= std::str::from_utf8(kept).is_err();
        self.text.push(kept, start);
        self.end = start + part.len();
        goes_on
    }
}
