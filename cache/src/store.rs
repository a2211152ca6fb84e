//! Where results are kept: blobs as files, and a database of what is known about them.
//!
//! ```text
//! oci-layout, index.json   the store seen as an OCI image layout: a view, rewritten whenever an image is named
//! blobs/sha256/<hex>       blobs
//! lithify.db               all else: cache records, names, layers (SQLite, write-ahead log); it leads
//! builds/                  what became of each step of the last builds, and why
//! contexts/                digests of context files (see `context_index`)
//! trees/                   unpacked trees, working folders and cache mounts: not ours, whoever unpacks owns what is in it
//! locks/                   one file for each step that is running, and one for each cache mount
//! tmp/                     blobs that are being written, locked by whoever writes them
//! use/                     one file for each process: what it uses, so that prune leaves it alone
//! gc.lock                  held while prune takes something away
//! ```
//!
//! **Nothing is synced to disk** as it is written. SIGKILL cannot hurt: a file becomes visible by rename, whole, and the
//! database by its log. A power cut can lose what was visible, so the database notes for each blob in which boot of
//! the machine it was written, and what another boot wrote (or nobody noted) is hashed before its first use.
//!
//! **Many processes** use one store at once. Writers meet in the database's lock, builders of one step in a file lock
//! ([`StepLock`]), and `prune` learns what is in use from the files in `use/`.

mod blobs;
mod builds;
mod database;
mod downloads;
mod folders;
mod images;
mod layers;
mod locks;
mod mounts;
mod prune;
mod records;
mod references;
mod session;
mod upstream;
mod usage;
mod verify;

#[cfg(test)]
mod process_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lithify_oci::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

pub use blobs::NewFile;
pub use builds::{LoggedBuild, LoggedStep, StepOutcome};
pub use downloads::Download;
pub use folders::{Folder, FolderKind, Folders, KnownMount, NoFolders};
pub use images::{Resolution, StoredImage, TaggedImage};
pub use layers::{LayerBlob, LayerFacts};
pub use locks::StepLock;
pub use mounts::{CacheMountLock, CacheMountName};
pub use prune::{Kind, PrunePolicy, Pruned};
pub use records::{Missed, Past, Record};
pub use usage::{ImageUsage, LayerUsage, MountUsage, RecordUsage, Usage};
pub use verify::Problem;

use crate::remote::Imports;
use crate::{Error, Key};
use database::Database;
use session::{Scratch, Session};

/// A store: a cheap handle, for any number of threads.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    root: PathBuf,
    trees: PathBuf,
    access: Mutex<Access>,
    session: Session,
    unfinished: Scratch,
    trusted: Mutex<HashMap<Digest, u64>>,
    boot: [u8; 16],
    upstream: OnceLock<Imports>,
    answers: Mutex<Answers>,
}

/// What was asked of this process's handles.
#[derive(Default)]
struct Answers {
    seen: Vec<(Key, Digest)>,
    watchers: Vec<Sender<Digest>>,
}

/// What one thread at a time works with.
struct Access {
    database: Database,
    gc_lock: File,
}

impl Store {
    /// Opens the store at `root`, and makes it where there is none.
    ///
    /// # Errors
    /// A folder that cannot be written, and a database that is damaged or newer than this program.
    pub fn open(root: &Path) -> Result<Store, Error> {
        let root = std::path::absolute(root).map_err(Error::at(root))?;
        let path = root.join("lithify.db");
        let database = match Database::open(&path)? {
            Some(database) => {
                // Someone may have removed a folder to be rid of what was in it.
                make_folders(&root)?;
                database
            }
            None => {
                lay_out(&root)?;
                Database::create(&path, &root.join("create.lock"))?
            }
        };
        let gc_lock = root.join("gc.lock");
        let opened = File::options().create(true).append(true).open(&gc_lock);
        let gc_lock = opened.map_err(Error::at(&gc_lock))?;
        let inner = Inner {
            trees: root.join("trees"),
            access: Mutex::new(Access { database, gc_lock }),
            session: Session::new(&root),
            unfinished: Scratch::new(root.join("tmp")),
            trusted: Mutex::default(),
            boot: boot_id(),
            upstream: OnceLock::new(),
            answers: Mutex::default(),
            root,
        };
        Ok(Store(Arc::new(inner)))
    }

    /// Where the store is; absolute.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The folder for unpacked trees. The store makes it and accounts for it, and knows nothing of what is in it.
    pub fn trees_root(&self) -> &Path {
        &self.0.trees
    }

    /// Where the blob is or would be. Reading it directly skips the check that a blob of an earlier boot needs:
    /// prefer [`Store::open_blob`].
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.0.root.join("blobs/sha256").join(digest.hex())
    }

    /// Access to the database while no process takes anything away.
    fn access(&self) -> Result<Guard<'_>, Error> {
        self.access_as(FlockOperation::LockShared)
    }

    /// Access to the database, and to the files, while no other process looks anything up.
    fn access_alone(&self) -> Result<Guard<'_>, Error> {
        self.access_as(FlockOperation::LockExclusive)
    }

    fn access_as(&self, how: FlockOperation) -> Result<Guard<'_>, Error> {
        let access = self.0.access.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match flock(&access.gc_lock, how) {
                Ok(()) => return Ok(Guard(access)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::at(&self.0.root.join("gc.lock"))(errno.into())),
            }
        }
    }
}

/// The database, and `gc.lock`.
struct Guard<'a>(MutexGuard<'a, Access>);

impl Deref for Guard<'_> {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.0.database
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Database {
        &mut self.0.database
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // A lock that is held can always be let go.
        let _ = flock(&self.0.gc_lock, FlockOperation::Unlock);
    }
}

/// Makes the folders, for their owner alone: trees hold other users' setuid files.
fn lay_out(root: &Path) -> Result<(), Error> {
    make_folders(root)?;
    images::write_layout(root)
}

fn make_folders(root: &Path) -> Result<(), Error> {
    let make =
        |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::at(path));
    ["blobs/sha256", "builds", "contexts", "trees", "locks", "tmp", "use"]
        .iter()
        .try_for_each(|name| make(&root.join(name)))
}

/// Which boot of the machine this is. Where the kernel does not tell, a value that no other process has, so that
/// everything that others wrote is checked before its use.
fn boot_id() -> [u8; 16] {
    let told = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let hash = match told {
        Some(id) => Digest::of(id.trim()),
        None => Digest::of(format!("{} {:?}", std::process::id(), SystemTime::now())),
    };
    let mut id = [0; 16];
    id.copy_from_slice(&hash.as_bytes()[..16]);
    id
}

/// A moment as the database keeps it: nanoseconds since 1970.
fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The reverse of [`nanoseconds`].
fn moment(nanoseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}
