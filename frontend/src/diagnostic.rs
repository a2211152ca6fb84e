//! What is wrong with a Dockerfile.

use std::fmt;

use lithify_graph::Span;

/// Every error of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Diagnostics(vec![diagnostic])
    }
}

/// One error: what is wrong, where, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// The words that it is about; `None` when it is about the whole file or the command line.
    pub span: Option<Span>,
    /// Shown under the caret: what was expected there.
    pub label: Option<String>,
    /// How to mend it: "did you mean ...".
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error about the words at `span`.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        Diagnostic { message: message.into(), span: Some(span), label: None, help: None }
    }

    /// An error about no words in particular.
    pub(crate) fn general(message: impl Into<String>) -> Self {
        Diagnostic { message: message.into(), span: None, label: None, help: None }
    }

    /// The same with a label under the caret.
    pub(crate) fn label(self, label: impl Into<String>) -> Self {
        Diagnostic { label: Some(label.into()), ..self }
    }

    /// The same with a remedy.
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Diagnostic { help: Some(help.into()), ..self }
    }

    /// The same, suggesting the option that `wrong` was probably meant to be, if any is near.
    pub(crate) fn suggest<'a>(self, wrong: &str, options: impl IntoIterator<Item = &'a str>) -> Self {
        match crate::suggest::nearest(wrong, options) {
            Some(option) => self.help(format!("did you mean {option}?")),
            None => self,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}
