//! Showing a diagnostic: file, line and column, the line itself, a caret under the words.

use crate::diagnostic::Diagnostic;
use crate::source::Source;

const RED: &str = "\x1b[1;31m";
const BLUE: &str = "\x1b[1;34m";
const GREEN: &str = "\x1b[1;32m";
const RESET: &str = "\x1b[0m";

/// The widest part of a line that is shown, in characters.
const MAX_COLUMNS: usize = 160;

/// A diagnostic as text of several lines, each ended by a line feed; `colour` adds terminal colours and nothing else.
///
/// ```
/// use lithify_frontend::{Source, parse, render};
///
/// let source = Source::new("Dockerfile", "FROM alpine\nCOPPY a b\n");
/// let (_, errors) = parse(&source);
/// let expected = "\
/// error: unknown instruction: COPPY
///   --> Dockerfile:2:1
///    |
///  2 | COPPY a b
///    | ^^^^^
///    = help: did you mean COPY?
/// ";
/// assert_eq!(render(&source, &errors[0], false), expected);
/// ```
pub fn render(source: &Source, diagnostic: &Diagnostic, colour: bool) -> String {
    let paint = |code: &str, text: &str| match colour {
        true => format!("{code}{text}{RESET}"),
        false => text.to_owned(),
    };
    let mut text = format!("{}: {}\n", paint(RED, "error"), printable(&diagnostic.message));
    let mut gutter = String::from("  ");
    match diagnostic.span {
        None => text += &format!("  {} {}\n", paint(BLUE, "-->"), source.name),
        Some(span) => {
            let place = source.position(span.start);
            let line = source.line_at(place.line_start);
            let number = place.line.to_string();
            gutter = " ".repeat(number.len() + 2);
            let arrow = paint(BLUE, "-->");
            text += &format!("  {arrow} {}:{number}:{}\n", source.name, place.column);
            let bar = paint(BLUE, "|");
            let (shown, before, width) = excerpt(&line, place.column - 1, source, span);
            text += &format!("{gutter}{bar}\n {} {bar} {shown}\n", paint(BLUE, &number));
            let label = diagnostic.label.as_deref().map_or(String::new(), |label| format!(" {label}"));
            let carets = paint(RED, &format!("{}{}", "^".repeat(width), printable(&label)));
            text += &format!("{gutter}{bar} {}{carets}\n", " ".repeat(before));
        }
    }
    if let Some(help) = &diagnostic.help {
        text += &format!("{gutter}{} {}: {}\n", paint(BLUE, "="), paint(GREEN, "help"), printable(help));
    }
    text
}

/// The part of a line around a column, how many columns come before the words in it, and how many carets they get.
fn excerpt(line: &str, column: usize, source: &Source, span: lithify_graph::Span) -> (String, usize, usize) {
    let chars: Vec<char> = line.chars().collect();
    let marked = String::from_utf8_lossy(
        &source.text[span.start.min(source.text.len())..span.end.min(source.text.len())],
    );
    let marked = marked.lines().next().map_or(0, |first| first.chars().count());
    let width = marked.clamp(1, chars.len().saturating_sub(column).max(1));
    let start = if column + width > MAX_COLUMNS { column.saturating_sub(MAX_COLUMNS / 4) } else { 0 };
    let end = chars.len().min(start + MAX_COLUMNS);
    let mut shown: String = chars[start.min(end)..end].iter().map(|c| one_column(*c)).collect();
    let mut before = column - start;
    if start > 0 {
        shown.insert_str(0, "...");
        before += 3;
    }
    if end < chars.len() {
        shown += "...";
    }
    (shown, before, width.min(MAX_COLUMNS))
}

/// Tabs become spaces, so that carets line up, and control characters cannot reach the terminal.
fn one_column(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { one_column(c) }).collect()
}
