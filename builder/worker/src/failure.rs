//! Errors of the libraries as answers to the main process.

use std::error::Error;

use crate::protocol::{Failure, FailureKind};

impl Failure {
    pub(crate) fn input(message: impl std::fmt::Display) -> Self {
        Failure { kind: FailureKind::Input, message: message.to_string() }
    }

    /// `doing` says what was tried; the error and its causes follow.
    pub(crate) fn storage(doing: &str, error: &dyn Error) -> Self {
        Failure { kind: FailureKind::Storage, message: format!("{doing}: {}", chain(error)) }
    }

    pub(crate) fn sandbox(error: &dyn Error) -> Self {
        Failure { kind: FailureKind::Sandbox, message: chain(error) }
    }
}

/// An error and its causes in one line. Many errors repeat their source's text in their own.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

impl From<lithify_files::Error> for Failure {
    fn from(error: lithify_files::Error) -> Self {
        Failure::input(chain(&error))
    }
}

impl From<lithify_files::noise::Error> for Failure {
    fn from(error: lithify_files::noise::Error) -> Self {
        Failure { kind: FailureKind::Storage, message: error.to_string() }
    }
}

impl From<lithify_snapshot::Error> for Failure {
    fn from(error: lithify_snapshot::Error) -> Self {
        let kind = match error {
            lithify_snapshot::Error::Missing { .. } => FailureKind::Missing,
            _ => FailureKind::Storage,
        };
        Failure { kind, message: chain(&error) }
    }
}

impl From<lithify_sandbox::Error> for Failure {
    fn from(error: lithify_sandbox::Error) -> Self {
        match error {
            lithify_sandbox::Error::Displaced { .. } | lithify_sandbox::Error::Unsupported { .. } => {
                Failure::input(error)
            }
            error => Failure::sandbox(&error),
        }
    }
}
