//! Schedules and drives the steps of a build.
//!
//! [`build`] takes a graph and gives back the image that it describes. What can be had from the cache is; the rest is
//! done by one worker process inside a user namespace, which is started only when the first step needs it. The engine
//! does not know Dockerfiles, HTTP, output formats or the terminal: files and images come from [`Sources`], and what
//! happens is told to an [`Observer`].

mod assemble;
mod build;
mod chain;
mod encode;
mod error;
mod event;
mod log;
mod operations;
mod resources;
mod schedule;
mod settings;
mod space;
mod trees;

pub use assemble::{Built, BuiltLayer};
pub use build::{Request, build};
pub use chain::TreeLayers;
pub use encode::Encoding;
pub use error::{Ending, Error, Failure, ProcessFailure};
pub use event::{Event, Observer, Origin, Stream};
pub use resources::{Cancel, FileSource, ImageLayers, SourceError, Sources, TemporaryFolder};
pub use settings::{NoCache, Secret, Settings};
pub use space::TreeFolders;
pub use trees::probe_snapshotter;
