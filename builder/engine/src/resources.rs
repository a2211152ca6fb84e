//! What a build takes from outside, and how it is stopped.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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

    /// The commit that a git reference stands for now, in full, found without fetching anything of the repository; `None`
    /// where only a checkout can tell.
    ///
    /// # Errors
    /// A repository or reference that cannot be had.
    fn git_commit(&self, git: &Git) -> Result<Option<String>, SourceError>;

    /// A checkout of a git repository, at `commit` where it is known.
    ///
    /// # Errors
    /// A repository or reference that cannot be had, and one that is another commit by now.
    fn git(&self, git: &Git, commit: Option<&str>) -> Result<Arc<FileSource>, SourceError>;
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
    pub temporary: Option<TemporaryFolder>,
}

/// The temporary folders of this process that are still there.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(vec![]);

/// A folder that is gone when this is dropped, whatever modes an archive gave to what is in it.
#[derive(Debug)]
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Makes one in the folder for temporary files, for its owner alone.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn create() -> std::io::Result<Self> {
        let path = tempfile::Builder::new().prefix("lithify-").tempdir()?.keep();
        TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        Ok(TemporaryFolder(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes those of the whole process, which is about to end without unwinding.
    pub fn remove_all() {
        for path in TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            remove(&path);
        }
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        remove(&self.0);
        TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.0);
    }
}

/// Removes a tree of the caller's own. What cannot be removed stays: nobody is left to be told.
fn remove(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::remove_dir_all(folder).is_ok() {
        return;
    }
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        let _ = std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o700));
        let entries = std::fs::read_dir(&at).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(below.map(|entry| entry.path()));
    }
    let _ = std::fs::remove_dir_all(folder);
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
