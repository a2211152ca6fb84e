//! What a process writes: told as it comes, and its last lines kept for the message of its failure.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use lithify_graph::StepId;

use crate::event::{Event, Observer, Stream};

/// How many of the last lines are kept.
const TAIL_LINES: usize = 20;
/// How much of one line is kept, in bytes.
const TAIL_LINE_BYTES: usize = 2000;

/// Reads a process's output until it ends.
pub(super) struct OutputReader<'a> {
    pub(super) step: StepId,
    pub(super) observer: &'a dyn Observer,
    pub(super) tail: Tail,
}

impl OutputReader<'_> {
    /// Reads one stream to its end: until every process that has it is gone.
    pub(super) fn read(&self, stream: Stream, from: OwnedFd) {
        let mut from = std::fs::File::from(from);
        let mut buffer = vec![0; 64 << 10];
        // A pipe does not fail; if it did, the output ends here.
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..length];
            self.tail.add(bytes);
            self.observer.event(Event::Output { step: self.step, stream, bytes });
        }
    }
}

/// The last lines of a process's output.
#[derive(Default)]
pub(super) struct Tail {
    lines: Mutex<VecDeque<Vec<u8>>>,
}

impl Tail {
    pub(super) fn add(&self, bytes: &[u8]) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, part) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if at > 0 || lines.is_empty() {
                lines.push_back(vec![]);
            }
            if lines.len() > TAIL_LINES + 1 {
                lines.pop_front();
            }
            if let Some(line) = lines.back_mut() {
                let room = TAIL_LINE_BYTES.saturating_sub(line.len());
                line.extend_from_slice(&part[..part.len().min(room)]);
            }
        }
    }

    /// The lines, the last one last, without the empty one behind the final line break.
    pub(super) fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<String> =
            lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        let surplus = lines.len().saturating_sub(TAIL_LINES);
        lines.split_off(surplus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], expected: &[&str]) {
        let tail = Tail::default();
        pieces.iter().for_each(|piece| tail.add(piece.as_bytes()));
        assert_eq!(tail.lines(), expected, "{pieces:?}");
    }

    #[test]
    fn lines_are_put_together() {
        check(&[], &[]);
        check(&["a\n"], &["a"]);
        check(&["a", "b\nc"], &["ab", "c"]);
        check(&["a\n", "\n", "b\n"], &["a", "", "b"]);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let tail = Tail::default();
        (0..100).for_each(|number| tail.add(format!("{number}\n").as_bytes()));
        let lines = tail.lines();
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (TAIL_LINES, Some("99")));
    }

    #[test]
    fn an_endless_line_is_cut() {
        let tail = Tail::default();
        (0..100).for_each(|_| tail.add(&[b'x'; 1000]));
        assert_eq!(tail.lines()[0].len(), TAIL_LINE_BYTES);
    }
}
