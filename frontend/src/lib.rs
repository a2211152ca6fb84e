//! Dockerfile text to a graph of build steps.
//!
//! The way of the text: [`parse`] turns it into spanned instructions and never fails; [`plan`] resolves stages, expands
//! variables and lowers what the target needs to a [`lithify_graph::Graph`], asking for the configurations of images on
//! the way; [`lint`] runs the rules; [`outline`] and [`targets`] tell what a file offers. Errors are [`Diagnostics`],
//! every one of the file at once, and [`render`] shows one with its line and a caret.
//!
//! This crate reads no files, no environment and no clock, and opens no connections.

mod csv;
mod diagnostic;
mod directive;
mod epoch;
mod expand;
mod flags;
mod globals;
mod heredoc;
mod instruction;
mod lines;
mod lint;
mod lower;
mod options;
mod outline;
mod parse;
mod paths;
mod pattern;
mod place;
mod plan;
mod render;
mod resolve;
mod source;
mod suggest;
#[cfg(test)]
mod tests;
mod variables;
mod words;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use directive::Directive;
pub use epoch::{Epoch, source_date_epoch};
pub use flags::Flag;
pub use heredoc::Heredoc;
pub use instruction::{
    Add, ArgDefinition, CommandLine, Copy, Dockerfile, From, Instruction, Kind, Pair, Run, Stage, Transfer,
};
pub use lint::{Check, InvalidCheck, LintReport, Rule, Sarif, Warning, lint};
pub use options::{Ignored, ImageRequest, NamedContext, Options, Plan, ResolvedImage};
pub use outline::{
    Outline, OutlineArg, OutlineSecret, OutlineSsh, PlanOutline, TargetInfo, Targets, outline, targets,
};
pub use parse::parse;
pub use plan::plan;
pub use render::render;
pub use source::{LineStarts, Position, Source, Word};
