//! Selecting and placing files: contexts, COPY, ADD, .dockerignore, WORKDIR.
//!
//! One COPY goes through here in five steps: [`dest::inspect`] resolves the destination in the tree below,
//! [`select::select`] finds the sources, [`arrange::arrange`] merges them into one list in canonical order, the caller
//! streams that list with its contents, and [`place::Placer`] checks it against the tree below and passes on what is new.
//! This crate knows files below a folder's descriptor; it knows no caches, no graph, no network and no Dockerfiles.

pub mod archive;
pub mod arrange;
pub mod chmod;
pub mod context;
pub mod dest;
mod error;
mod facts;
mod filter;
pub mod flatten;
pub mod glob;
pub mod ignore;
pub mod noise;
pub mod owner;
pub mod place;
pub mod plant;
mod resolve;
pub mod select;
#[cfg(test)]
mod testing;

pub use error::{Error, Hint};
pub use facts::{FileKind, NODE_ATTRIBUTE};
