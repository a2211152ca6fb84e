//! The text of a Dockerfile, and where in it things stand.

use lithify_graph::Span;

/// A Dockerfile: its bytes, and the name that diagnostics show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As shown in diagnostics, such as `Dockerfile`.
    pub name: String,
    /// The bytes of the file.
    pub text: Vec<u8>,
}

impl Source {
    /// A source with this name and text.
    pub fn new(name: impl Into<String>, text: impl Into<Vec<u8>>) -> Self {
        Source { name: name.into(), text: text.into() }
    }

    /// The line and column of an offset, both counted from 1; columns count characters. Takes time with the offset: for
    /// many offsets use [`Source::line_starts`].
    pub fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let before = &self.text[..offset];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.column(line, line_start, offset)
    }

    /// An index for finding many positions.
    pub fn line_starts(&self) -> LineStarts<'_> {
        let ends = self.text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        LineStarts { source: self, starts: [0].into_iter().chain(ends.map(|(at, _)| at + 1)).collect() }
    }

    fn column(&self, line: usize, line_start: usize, offset: usize) -> Position {
        let before = &self.text[line_start..offset];
        let before = if line == 1 { before.strip_prefix(BYTE_ORDER_MARK).unwrap_or(before) } else { before };
        Position { line, column: 1 + String::from_utf8_lossy(before).chars().count(), line_start }
    }

    /// The first and last line (from 1) that a span touches.
    pub fn lines(&self, span: Span) -> (usize, usize) {
        let first = self.position(span.start).line;
        let last = self.position(span.end.saturating_sub(1).max(span.start)).line;
        (first, last)
    }

    /// The text of the line that starts at `line_start`, without its line end.
    pub(crate) fn line_at(&self, line_start: usize) -> String {
        let rest = &self.text[line_start..];
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        String::from_utf8_lossy(line).into_owned()
    }
}

/// Where each line of a source starts.
#[derive(Clone, Debug)]
pub struct LineStarts<'a> {
    source: &'a Source,
    starts: Vec<usize>,
}

impl LineStarts<'_> {
    /// As [`Source::position`].
    pub fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.source.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        self.source.column(line, self.starts[line - 1], offset)
    }
}

/// UTF-8's byte order mark, dropped from the start of a file.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A place in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The offset in bytes of the line's first byte.
    pub line_start: usize,
}

/// A piece of text and the place that it was written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The text, continuation lines joined.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// A logical line: physical lines joined, with a way back to the source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    /// The text.
    pub(crate) text: String,
    /// `(offset in text, offset in source)` of each part that stands in the source as it does in the text, ascending.
    pieces: Vec<(usize, usize)>,
}

impl Joined {
    /// Appends a part that stands at `source` in the source. What is not UTF-8 is replaced.
    pub(crate) fn push(&mut self, bytes: &[u8], source: usize) {
        let mut at = source;
        self.pieces.push((self.text.len(), at));
        for chunk in bytes.utf8_chunks() {
            self.text.push_str(chunk.valid());
            at += chunk.valid().len();
            if !chunk.invalid().is_empty() {
                self.pieces.push((self.text.len(), at));
                self.text.push(char::REPLACEMENT_CHARACTER);
                at += chunk.invalid().len();
                self.pieces.push((self.text.len(), at));
            }
        }
    }

    /// Where a range of the text (in bytes) stands in the source.
    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        let first = self.at(start);
        let last = if end > start { self.behind(end) } else { first };
        Span { start: first, end: last.max(first) }
    }

    /// The word in a range of the text.
    pub(crate) fn word(&self, start: usize, end: usize) -> Word {
        Word { text: self.text[start..end].to_owned(), span: self.span(start, end) }
    }

    fn at(&self, offset: usize) -> usize {
        let index = self.pieces.partition_point(|(text, _)| *text <= offset);
        match self.pieces.get(index.wrapping_sub(1)) {
            Some((text, source)) => source + (offset - text),
            None => 0,
        }
    }

    /// Where the text in front of `offset` ends in the source.
    fn behind(&self, offset: usize) -> usize {
        let index = self.pieces.partition_point(|(text, _)| *text < offset);
        let Some((text, source)) = self.pieces.get(index.wrapping_sub(1)) else { return 0 };
        let end = source + (offset - text);
        // What was replaced is longer in the text than in the source.
        match self.pieces.get(index) {
            Some((next, source)) if *next == offset => end.min(*source),
            _ => end,
        }
    }
}
