//! From text to spanned instructions. Never fails: what is not understood is reported and left out.

mod arguments;
mod command;
mod duration;
mod healthcheck;
mod keyword;
mod transfer;

use lithify_graph::Span;

pub(crate) use duration::format as format_duration;

use crate::diagnostic::Diagnostic;
use crate::directive;
use crate::heredoc::{self, Heredoc};
use crate::instruction::{Dockerfile, Instruction, Kind};
use crate::lines::{Line, Lines, Logical, MAX_LINE_BYTES};
use crate::source::Source;

/// Parses a Dockerfile. Instructions with errors are [`Kind::Invalid`], and each error is in the list.
///
/// ```
/// use lithify_frontend::{Source, parse};
///
/// let source = Source::new("Dockerfile", "FROM alpine AS base\nRUM true\n");
/// let (dockerfile, errors) = parse(&source);
/// assert_eq!(dockerfile.stages()[0].name(), Some("base"));
/// assert_eq!(errors[0].message, "unknown instruction: RUM");
/// assert_eq!(errors[0].help.as_deref(), Some("did you mean RUN?"));
/// ```
pub fn parse(source: &Source) -> (Dockerfile, Vec<Diagnostic>) {
    let mut problems = vec![];
    let directives = directive::directives(source, &mut problems);
    let escape = directive::escape(&directives, &mut problems);
    let mut parser = Parser { lines: Lines::new(source), line: 0, escape, problems, comments: vec![] };
    let mut instructions = vec![];
    let mut directive_lines = directives.len();
    while let Some(line) = parser.next_line() {
        let is_directive = std::mem::take(&mut directive_lines);
        directive_lines = is_directive.saturating_sub(1);
        if line.is_comment() {
            if is_directive == 0 {
                parser.comment(&line);
            }
            continue;
        }
        instructions.extend(parser.instruction(line));
    }
    let mut problems = parser.problems;
    if source.text.is_empty() {
        problems.push(Diagnostic::general("the Dockerfile cannot be empty"));
    } else if instructions.is_empty() {
        problems.push(Diagnostic::general("file with no instructions"));
    }
    (Dockerfile { directives, escape, instructions }, problems)
}

struct Parser<'a> {
    lines: Lines<'a>,
    /// The number of the last line read, from 1.
    line: usize,
    escape: char,
    problems: Vec<Diagnostic>,
    comments: Vec<String>,
}

/// What an instruction is parsed from.
pub(crate) struct Request<'a> {
    logical: &'a Logical,
    heredocs: &'a [Heredoc],
    comments: &'a [String],
    escape: char,
}

impl<'a> Parser<'a> {
    fn next_line(&mut self) -> Option<Line<'a>> {
        let line = self.lines.next()?;
        self.line += 1;
        if line.is_too_long() {
            let span = Span { start: line.start, end: line.start + 1 };
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES}");
            self.problems.push(Diagnostic::at(span, message));
        }
        Some(line)
    }

    fn comment(&mut self, line: &Line<'_>) {
        let text = String::from_utf8_lossy(&line.trimmed().0[1..]).trim().to_owned();
        match text.is_empty() {
            true => self.comments.clear(),
            false => self.comments.push(text),
        }
    }

    /// The instruction that starts on this line; `None` for blank lines.
    fn instruction(&mut self, line: Line<'a>) -> Option<Instruction> {
        let (text, start) = line.trimmed();
        if text.is_empty() {
            return None;
        }
        let first_line = self.line;
        let logical = self.logical(text, start);
        if logical.text.text.trim().is_empty() {
            return None;
        }
        let keyword = keyword::keyword(&logical.text);
        let mut span = Span { start: keyword.span.start, end: logical.end };
        let heredocs = match keyword::may_hold_heredocs(&logical.text, self.escape) {
            true => self.heredocs(&logical.text.text, &mut span),
            false => vec![],
        };
        let comments = std::mem::take(&mut self.comments);
        let request =
            Request { logical: &logical, heredocs: &heredocs, comments: &comments, escape: self.escape };
        let before = self.problems.len();
        let (flags, kind) = keyword::parse(&request, &mut self.problems);
        if logical.invalid_utf8 && matches!(&kind, Kind::Run(run) if !run.command.json) {
            let message =
                "this command is not valid UTF-8, and what it would do with other bytes is not known";
            self.problems.push(Diagnostic::at(span, message).help("save the Dockerfile as UTF-8"));
        }
        let kind = if self.problems.len() > before { Kind::Invalid } else { kind };
        Some(Instruction {
            code: logical.text.text.trim().to_owned(),
            keyword,
            span,
            lines: (first_line, self.line),
            comments,
            flags,
            has_blank_continuation: !logical.blank_lines.is_empty(),
            kind,
        })
    }

    /// Joins continued lines.
    fn logical(&mut self, first: &[u8], start: usize) -> Logical {
        let escape = self.escape as u8;
        let mut logical = Logical::default();
        let mut goes_on = logical.push(first, start, escape);
        while goes_on {
            let Some(line) = self.next_line() else { break };
            if line.is_comment() {
                continue;
            }
            if line.trimmed().0.is_empty() {
                logical.blank_lines.push(line.start);
                continue;
            }
            goes_on = logical.push(line.content(), line.start, escape);
        }
        logical
    }

    /// Reads the bodies of the heredocs that a line starts.
    fn heredocs(&mut self, line: &str, span: &mut Span) -> Vec<Heredoc> {
        let mut heredocs = heredoc::in_line(line);
        for heredoc in &mut heredocs {
            let opening = *span;
            heredoc.span = Span { start: span.end, end: span.end };
            let mut terminated = false;
            while let Some(line) = self.next_line() {
                span.end = line.start + line.content().len();
                if heredoc.body.is_empty() {
                    heredoc.span.start = line.start;
                }
                heredoc.span.end = line.start;
                if heredoc.ends_with(line.content()) {
                    terminated = true;
                    break;
                }
                heredoc.body.extend_from_slice(line.raw);
            }
            if !terminated {
                let message = format!("unterminated heredoc: no line is {}", heredoc.name);
                let help = "the end word must stand alone on its line, with no spaces around it";
                self.problems.push(Diagnostic::at(opening, message).help(help));
                break;
            }
        }
        heredocs
    }
}
