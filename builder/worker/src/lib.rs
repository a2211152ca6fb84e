//! Works on trees inside the user namespace, for the main process of a build.
//!
//! The main process runs as the user: it reads the Dockerfile and the context, talks to registries and keeps the store.
//! Everything that needs the image's own ids, such as unpacking layers, running steps and reading what they made, is done by
//! one worker process, which is this program started again as root of a user namespace. [`Worker`] is the main process's
//! side, [`serve`] the worker's; [`protocol`] is what they say to each other.
//!
//! The worker has no network client, no cache and no credentials. Blobs come to it, and go from it, as open files.

mod agent;
mod client;
mod copy;
mod failure;
mod layers;
mod mounts;
pub mod protocol;
mod run;
mod serve;
pub mod space;

pub use client::{Error, WORKER_COMMAND, Worker, unexpected};
pub use lithify_files::noise::PROFILE as NOISE_PROFILE;
pub use lithify_sandbox::{Network, Security};
pub use protocol::{
    Chain, CopyRequest, FailureKind, MadeLayer, Request, Response, RunMount, RunMountKind, RunRequest,
    RunResult, SelectRules, Snapshotter, TreeSource,
};
pub use serve::serve;
