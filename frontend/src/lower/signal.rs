//! Names of signals.

use lithify_graph::Span;

use crate::diagnostic::Diagnostic;

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether a text names a signal, with or without SIG and in any case, or is its number.
pub(crate) fn check(text: &str, span: Span) -> Result<(), Diagnostic> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, max: u32| {
        name.strip_prefix(prefix).and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| (1..=max).contains(&n))
    };
    let is_number = text.parse::<i64>().is_ok_and(|number| number != 0);
    if is_number || NAMES.contains(&name) || real_time("RTMIN+", 15) || real_time("RTMAX-", 14) {
        return Ok(());
    }
    let diagnostic = Diagnostic::at(span, format!("invalid signal: {text}"));
    Err(diagnostic.label("expected a signal such as SIGTERM or 15").suggest(name, NAMES))
}
