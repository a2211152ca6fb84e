//! What can be reused, and where it is kept.
//!
//! - [`key`] says what a step's result depends on: the table there names every value and the key it enters.
//! - [`Store`] keeps what steps and pulls left behind: blobs as files that any OCI tool can read, and a database of
//!   what is known about them.
//! - [`remote`] reads and writes caches of other machines, wherever someone else keeps them.
//! - [`context_index`] remembers digests of context files, so an unchanged context is statted and not read.
//!
//! Nothing here knows how a step runs, HTTP or Dockerfiles.

pub mod context_index;
mod error;
pub mod key;
pub mod remote;
mod store;

pub use context_index::{ContextIndex, FileFacts};
pub use error::{Error, FULL};
pub use key::{Chain, Explanation, Key, Keyed};
pub use remote::MountEntry;
pub use store::{
    CacheMountLock, CacheMountName, Download, Folder, FolderKind, Folders, ImageUsage, Kind, KnownMount,
    LayerBlob, LayerFacts, LayerUsage, LoggedBuild, LoggedStep, Missed, MountUsage, NewFile, NoFolders, Past,
    Problem, PrunePolicy, Pruned, Record, RecordUsage, Resolution, StepLock, StepOutcome, Store, StoredImage,
    TaggedImage, Usage,
};
