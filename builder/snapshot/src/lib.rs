//! File trees made of layers, kept as folders: [`Overlay`] stacks them by the kernel's overlayfs, [`Copy`] keeps whole trees.
//!
//! Both give the same entries for the same change. What both hold to:
//! - The folder for trees is an open descriptor. Everything is reached from it by names relative to it; no path of the world
//!   outside is used, no symbolic link is followed.
//! - A tree that is visible under its [`ChainId`] is whole and never changes. It is made under another name and renamed, so
//!   several processes may make the same tree at once, and one that is killed leaves only what [`Snapshots::sweep`] removes.
//! - Trees have real times; device nodes that may not be made are regular files that say so (see [`node`]).
//!
//! This crate knows nothing of cache keys, processes and registries.

mod copy;
mod diff;
mod links;
mod make;
mod mount;
pub mod node;
mod overlay;

mod record;
mod remove;
mod store;
#[cfg(test)]
mod tests;
mod unpack;

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_oci::layer::Catalogue;
use lithify_oci::{Digest, EntrySink, TreePath};

pub use copy::{Copy, copy_tree};
pub use overlay::Overlay;
pub use remove::remove_tree;

/// Names a tree: the layers that it is made of (OCI image specification, config.md, "Layer ChainID").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId(Digest);

impl ChainId {
    /// The tree of one layer on nothing.
    pub fn first(diff_id: Digest) -> Self {
        ChainId(diff_id)
    }

    /// The tree of one more layer.
    pub fn then(&self, diff_id: Digest) -> Self {
        ChainId(Digest::of(format!("{} {diff_id}", self.0)))
    }

    /// One id for each layer of an image, the lowest first.
    pub fn of_layers(diff_ids: &[Digest]) -> Vec<Self> {
        let mut chain: Vec<ChainId> = vec![];
        for diff_id in diff_ids {
            chain.push(chain.last().map_or(ChainId(*diff_id), |below| below.then(*diff_id)));
        }
        chain
    }

    /// The digest.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

impl From<Digest> for ChainId {
    fn from(digest: Digest) -> Self {
        ChainId(digest)
    }
}

impl std::fmt::Display for ChainId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether the tree that a workspace starts from is still wanted as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveOrKeep {
    /// Nobody needs it any more: it may become the workspace, and then is no longer there. A copy is made where somebody reads it
    /// all the same.
    Move,
    /// It must stay.
    Keep,
}

/// A way to keep trees. A chain names every layer's tree, the lowest first; its last id is the tree that is meant. The empty
/// chain is the empty tree.
pub trait Snapshots: Send + Sync {
    /// Whether the tree is here, with all that it stands on.
    ///
    /// # Errors
    /// A folder that cannot be looked at.
    fn has(&self, chain: &[ChainId]) -> io::Result<bool>;

    /// Makes the tree `chain` by putting a layer, an uncompressed tar, on the tree `parents`. Where the tree is here already
    /// nothing is done, and `layer` is not read. Times come from the catalogue, or from the tar where there is none.
    ///
    /// # Errors
    /// [`Error::Refused`] for a layer that is malformed or reaches outside; failures to read and write. None leaves a tree.
    fn apply(
        &self,
        parents: &[ChainId],
        chain: ChainId,
        layer: &mut dyn Read,
        catalogue: Option<&Catalogue>,
    ) -> Result<(), Error>;

    /// As [`apply`](Snapshots::apply), for when nobody needs the tree `parents` any more: it may become the new one.
    ///
    /// # Errors
    /// As `apply`; the tree `parents` may be lost then.
    fn apply_moving(
        &self,
        parents: &[ChainId],
        chain: ChainId,
        layer: &mut dyn Read,
        catalogue: Option<&Catalogue>,
    ) -> Result<(), Error> {
        self.apply(parents, chain, layer, catalogue)
    }

    /// The tree, to read.
    ///
    /// # Errors
    /// [`Error::Missing`] where it is not here, and a failure to mount.
    fn view(&self, chain: &[ChainId]) -> Result<View, Error>;

    /// A tree to change that starts as `chain`.
    ///
    /// # Errors
    /// [`Error::Missing`] where it is not here, and failures to mount or copy.
    fn workspace(&self, chain: &[ChainId], reuse: MoveOrKeep) -> Result<Workspace, Error>;

    /// Gives the tree `from` the name `to`; one that has it already stays. No error where there is none.
    ///
    /// # Errors
    /// A folder that cannot be moved.
    fn rename(&self, from: ChainId, to: ChainId) -> Result<(), Error>;

    /// Removes one tree. Views and workspaces that stand on it must be gone. No error where it is not here.
    ///
    /// # Errors
    /// A file that cannot be removed.
    fn remove(&self, chain: ChainId) -> Result<(), Error>;

    /// Removes what killed processes left behind.
    ///
    /// # Errors
    /// A file that cannot be removed.
    fn sweep(&self) -> Result<(), Error>;
}

/// A tree to read, as long as this lives.
pub struct View {
    root: OwnedFd,
}

impl View {
    /// Its root folder.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Its root folder, which keeps the tree mounted.
    pub fn into_root(self) -> OwnedFd {
        self.root
    }
}

/// A tree to change. Dropped without a commit it leaves nothing.
pub struct Workspace {
    inner: Box<dyn WorkTree>,
}

/// What a snapshotter does for a [`Workspace`]; see its methods.
pub trait WorkTree: Send {
    /// See [`Workspace::root_mount`].
    ///
    /// # Errors
    /// See there.
    fn root_mount(&self) -> Result<OwnedFd, Error>;

    /// See [`Workspace::has_special`].
    fn has_special(&self) -> bool;

    /// See [`Workspace::diff`].
    ///
    /// # Errors
    /// See there.
    fn diff(&mut self, ignore: &[TreePath], sink: &mut dyn EntrySink) -> Result<(), Error>;

    /// See [`Workspace::commit`].
    ///
    /// # Errors
    /// See there.
    fn commit(self: Box<Self>, chain: ChainId) -> Result<(), Error>;
}

impl Workspace {
    /// A workspace of any snapshotter.
    pub fn new(inner: Box<dyn WorkTree>) -> Self {
        Workspace { inner }
    }

    /// The root as a detached mount (`copy` where mounts are not allowed: the folder), to be moved to where it is wanted.
    ///
    /// # Errors
    /// A descriptor that cannot be had.
    pub fn root_mount(&self) -> Result<OwnedFd, Error> {
        self.inner.root_mount()
    }

    /// Whether the tree may hold files that a step is to be shown otherwise than the kernel does: regular files that stand for
    /// devices, or where owners are recorded, pipes that belong to somebody.
    pub fn has_special(&self) -> bool {
        self.inner.has_special()
    }

    /// The difference against the start, as the entries of a layer in its order, with real times. To be called when no
    /// process works in the tree any more.
    ///
    /// `ignore` are mount points that were made only to mount on: they are left out, folders of them unless something else
    /// is below. Left out as well: sockets, the root, and what differs in nothing but times.
    ///
    /// # Errors
    /// Failures to read the tree, and of the sink.
    pub fn diff(&mut self, ignore: &[TreePath], sink: &mut dyn EntrySink) -> Result<(), Error> {
        self.inner.diff(ignore, sink)
    }

    /// Makes the tree that of `chain`, with its real times; what [`diff`](Workspace::diff) left out because it is in no layer
    /// is removed from it. Where another process was first, its tree stays.
    ///
    /// # Errors
    /// Failures to write.
    pub fn commit(self, chain: ChainId) -> Result<(), Error> {
        self.inner.commit(chain)
    }
}

/// What can go wrong with trees.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer that must not be unpacked.
    #[error("the layer is refused: {path}: {problem}")]
    Refused {
        /// The entry.
        path: TreePath,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file belongs to an id that this process cannot give.
    #[error(
        "cannot give {path} to {uid}:{gid}: {source}; the id range of the user namespace does not hold it \
         (a wider range in /etc/subuid and /etc/subgid does)"
    )]
    Owner {
        /// The file.
        path: TreePath,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Why.
        source: io::Error,
    },
    /// Something with one file of a tree failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
    /// Something with the folder for trees failed.
    #[error("cannot {action} {name:?} in the folder for trees: {source}")]
    Store {
        /// What was to be done.
        action: &'static str,
        /// The name in that folder.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel did not mount a tree.
    #[error("cannot mount the tree by overlayfs ({step}): {source}")]
    Mount {
        /// The step that failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A tree that is not here.
    #[error("the tree of {chain} is not here")]
    Missing {
        /// Its name.
        chain: ChainId,
    },
    /// A layer or its catalogue that cannot be read, or a sink that failed.
    #[error(transparent)]
    Stream(io::Error),
}

impl Error {
    /// Finds the error that went through an interface that only knows [`io::Error`].
    fn from_stream(error: io::Error) -> Self {
        error.downcast::<Error>().unwrap_or_else(Error::Stream)
    }

    fn file(action: &'static str, path: &TreePath) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::File { action, path: path.clone(), source }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Refused { .. } => io::ErrorKind::InvalidData,
            Error::Missing { .. } => io::ErrorKind::NotFound,
            Error::Owner { source, .. }
            | Error::File { source, .. }
            | Error::Store { source, .. }
            | Error::Mount { source, .. } => source.kind(),
            Error::Stream(_) => io::ErrorKind::Other,
        };
        match error {
            Error::Stream(error) => error,
            other => io::Error::new(kind, other),
        }
    }
}
