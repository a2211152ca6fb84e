//! What the user sees: three renderers of one stream of events, and problems.

mod json;
mod plain;
mod tty;

use std::io::{IsTerminal, Write};

use lithify_engine::{Event, Observer};
use lithify_graph::Graph;

use crate::args::Progress;
use crate::exit::Problem;

/// How much of a line of output is kept, in bytes: a process may never end its line, and memory is bounded.
const LONGEST_LINE_BYTES: usize = 64 << 10;

/// One way to show progress. All of them write to standard error.
pub(crate) enum Renderer {
    Plain(plain::Plain),
    Tty(tty::Tty),
    Json(json::Json),
    Quiet,
}

impl Renderer {
    /// The renderer for the steps of `graph`.
    pub(crate) fn new(progress: Progress, graph: &Graph) -> Self {
        let titles: Vec<String> = graph.steps.iter().map(|step| step.title.clone()).collect();
        match progress {
            Progress::Quiet => Renderer::Quiet,
            Progress::Json => Renderer::Json(json::Json::new(titles)),
            Progress::Tty => Renderer::Tty(tty::Tty::new(titles)),
            Progress::Auto if std::io::stderr().is_terminal() => Renderer::Tty(tty::Tty::new(titles)),
            Progress::Auto | Progress::Plain => Renderer::Plain(plain::Plain::new(titles)),
        }
    }

    /// All steps are over, well or not.
    pub(crate) fn finish(&self) {
        if let Renderer::Tty(tty) = self {
            tty.finish();
        }
    }
}

impl Observer for Renderer {
    fn event(&self, event: Event<'_>) {
        match self {
            Renderer::Plain(plain) => plain.event(event),
            Renderer::Tty(tty) => tty.event(event),
            Renderer::Json(json) => json.event(event),
            Renderer::Quiet => {}
        }
    }
}

/// Whether messages may have colour: on a terminal, unless NO_COLOR is set.
pub(crate) fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes a line to standard error. That nobody reads it is no reason to fail.
pub(crate) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Shows why lithify could not do what it was asked to.
pub(crate) fn problem(problem: &Problem) {
    let label = if colour() { "\x1b[1;31merror\x1b[0m" } else { "error" };
    // A diagnostic of the Dockerfile brings its own label, coloured on a terminal.
    if problem.message.strip_prefix("\x1b[1;31m").unwrap_or(&problem.message).starts_with("error") {
        say(&problem.message);
    } else {
        say(format_args!("{label}: {}", problem.message));
    }
    for cause in &problem.causes {
        let indented = cause.trim_end().replace('\n', "\n    ");
        say(format_args!("  because: {indented}"));
    }
}

/// A number of bytes as people read it.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
