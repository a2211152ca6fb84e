//! Exit codes, and the problems that lead to them.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// The number that the process ends with. Part of the interface: documented in `--help` and the README, never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(u8);

/// A step failed: a RUN that did not end well, a COPY whose source is missing.
pub(crate) const STEP: Code = Code(1);
/// The command line or the Dockerfile is wrong.
pub(crate) const USAGE: Code = Code(2);
/// A base image, context or download cannot be had.
pub(crate) const SOURCE: Code = Code(3);
/// The machine does not let lithify run steps.
pub(crate) const SANDBOX: Code = Code(4);
/// The store cannot be read or written.
pub(crate) const STORE: Code = Code(5);
/// The image was built, but an output could not be written or pushed.
pub(crate) const OUTPUT: Code = Code(6);
/// Stopped by SIGINT or SIGTERM.
pub(crate) const INTERRUPTED: Code = Code(130);

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code.0)
    }
}

/// Why lithify ends with something else than 0.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The exit code.
    pub(crate) code: Code,
    /// What went wrong, in whole sentences; may have several lines.
    pub(crate) message: String,
    /// Why, the outermost first.
    pub(crate) causes: Vec<String>,
}

impl Problem {
    /// A problem whose message says it all.
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Problem { code, message: message.to_string(), causes: vec![] }
    }

    /// A problem with an error and all its causes.
    pub(crate) fn caused(code: Code, message: impl fmt::Display, error: &dyn Error) -> Self {
        let mut problem = Problem::new(code, message);
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors repeat their source's text in their own.
            if !text.is_empty() && problem.causes.last().is_none_or(|last| !last.contains(&text)) {
                problem.causes.push(text);
            }
            cause = error.source();
        }
        problem
    }
}

impl Problem {
    /// With the code of a full store where that is behind it: what failed to write there may be a download or a step.
    pub(crate) fn or_full_store(self) -> Self {
        let is_it = |text: &String| text.contains(lithify_cache::FULL);
        let is_full = is_it(&self.message) || self.causes.iter().any(is_it);
        Problem { code: if is_full { STORE } else { self.code }, ..self }
    }

    /// Message and causes in one text.
    pub(crate) fn lines(&self) -> String {
        std::iter::once(&self.message).chain(&self.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
    }
}
