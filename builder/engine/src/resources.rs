//! What a build takes from outside, and how it is stopped.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lithify_files::ignore::Ignore;
use lithify_graph::{Context, Git, Http, Image};
use lithify_oci::{Descriptor, Digest};

/// Where base images, contexts and downloads come from.
pub trait Sources: Sync {
    /// The layers of an image, the lowest first. Nothing of them needs to be in the store yet.
    ///
    /// # Errors
    /// An image that is not to be had any more.
    fn image(&self, image: &Image) -> Result<ImageLayers, SourceError>;

    /// Brings the blob of one of the image's layers into the store.
    ///
    /// # Errors
    /// A registry that does not answer, or answers something else.
    fn fetch_layer(&self, image: &Image, layer: &Descriptor) -> Result<(), SourceError>;

    /// The files of the build context or a named one.
    ///
    /// # Errors
    /// A folder that cannot be read.
    fn context(&self, context: &Context) -> Result<Arc<FileSource>, SourceError>;

    /// One file from an HTTP server.
    ///
    /// # Errors
    /// A server that does not have it.
    fn http(&self, http: &Http) -> Result<Arc<FileSource>, SourceError>;

    /// A checkout of a git repository.
    ///
    /// # Errors
    /// A repository or reference that cannot be had.
    fn git(&self, git: &Git) -> Result<Arc<FileSource>, SourceError>;
}

/// Why something cannot be had; the cause says the rest.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// What, from where, why and what to do.
    pub message: String,
}

/// The layers of an image.
#[derive(Clone, Debug, Default)]
pub struct ImageLayers {
    /// For each the digest of the plain archive, and the blob.
    pub layers: Vec<(Digest, Descriptor)>,
}

/// A folder of files outside the store.
#[derive(Debug)]
pub struct FileSource {
    /// The folder.
    pub root: OwnedFd,
    /// Its path, which names it in the index of known digests; `None` where it is only there for this build.
    pub path: Option<PathBuf>,
    /// What of it is not to be seen.
    pub ignore: Option<Ignore>,
    /// Keeps a temporary folder alive as long as it is needed.
    pub temporary: Option<tempfile::TempDir>,
}

/// Stops a build, from another thread or a signal.
#[derive(Clone, Default)]
pub struct Cancel {
    state: Arc<CancelState>,
}

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    hooks: Mutex<Vec<Box<dyn Fn() + Send>>>,
}

impl Cancel {
    /// Stops the build: its processes are killed, and nothing new starts.
    pub fn cancel(&self) {
        self.state.cancelled.store(true, Ordering::SeqCst);
        if let Ok(hooks) = self.state.hooks.lock() {
            hooks.iter().for_each(|hook| hook());
        }
    }

    /// Whether the build was stopped.
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// Calls `hook` when the build is stopped, at once where it has been.
    pub(crate) fn on_cancel(&self, hook: Box<dyn Fn() + Send>) {
        if let Ok(mut hooks) = self.state.hooks.lock() {
            if self.is_cancelled() {
                hook();
            }
            hooks.push(hook);
        }
    }
}
