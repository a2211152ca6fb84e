//! Dockerfile text to a graph of build steps.
mod csv;
mod diagnostic;
mod directive;
mod expand;
mod flags;
mod heredoc;
mod instruction;
mod lines;
mod parse;
mod pattern;
mod source;
mod suggest;
mod words;
pub use diagnostic::{Diagnostic, Diagnostics};
pub use instruction::*;
pub use parse::parse;
pub use source::*;
