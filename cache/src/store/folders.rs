//! What others keep in the store's folder: unpacked trees and cache mounts. The store knows when each was used and what it
//! takes; whoever owns it finds and removes it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::time::SystemTime;

use lithify_oci::Digest;
use rustix::fs::{FlockOperation, flock};

use super::Store;
use crate::Error;

/// What a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FolderKind {
    /// The tree of a chain of layers, which can be unpacked again.
    Tree,
    /// A cache mount.
    Mount,
    /// What a killed process left behind.
    Leftover,
}

/// A folder that the store does not own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// What it is.
    pub kind: FolderKind,
    /// Where, for its owner.
    pub place: String,
    /// Its name there: for a tree the hex digits of its chain id, for a cache mount the folder that its lock names.
    pub name: String,
    /// What it takes on disk.
    pub disk_bytes: u64,
    /// When it was used last, as far as its owner knows.
    pub last_used: SystemTime,
}

impl Folder {
    /// The chain id of a tree.
    fn chain_id(&self) -> Option<Digest> {
        format!("sha256:{}", self.name).parse().ok().filter(|_| self.kind == FolderKind::Tree)
    }
}

/// Whoever owns such folders.
pub trait Folders {
    /// All of them. What it cannot look at is not in the list.
    ///
    /// # Errors
    /// A failure to look.
    fn list(&self) -> io::Result<Vec<Folder>>;

    /// Puts folders out of everybody's reach, at once; called while nobody looks for trees.
    ///
    /// # Errors
    /// A failure to do so; what was done stays done.
    fn discard(&self, folders: &[Folder]) -> io::Result<()>;

    /// Removes what was discarded, now or by a process that was killed.
    ///
    /// # Errors
    /// A failure to remove something.
    fn sweep(&self) -> io::Result<()>;
}

/// For a store that nobody unpacks anything in.
pub struct NoFolders;

impl Folders for NoFolders {
    fn list(&self) -> io::Result<Vec<Folder>> {
        Ok(vec![])
    }

    fn discard(&self, _: &[Folder]) -> io::Result<()> {
        Ok(())
    }

    fn sweep(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What is known of a cache mount: its folder's name, and what the Dockerfile calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMount {
    /// The name of the folder.
    pub folder: String,
    /// The mount's id.
    pub id: String,
    /// When a step had it last.
    pub last_used: SystemTime,
}

impl Store {
    /// Looks for trees by `look`, so that prune takes none of them from now on, as long as this handle lives. `look` must
    /// not come back to the store.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn use_trees<T>(&self, chain_ids: &[Digest], look: impl FnOnce() -> T) -> Result<T, Error> {
        chain_ids.iter().try_for_each(|id| self.note(id))?;
        // Prune reads the notes and discards while it has the lock alone: either it sees ours, or we see what it did.
        let _nobody_discards = self.access()?;
        Ok(look())
    }

    /// The cache mounts that steps had, by what their locks say.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn known_mounts(&self) -> Result<Vec<KnownMount>, Error> {
        let folder = self.0.root.join("locks");
        let entries = fs::read_dir(&folder).map_err(Error::at(&folder))?;
        let known = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_prefix(MOUNT)?.to_owned();
            let id = fs::read_to_string(entry.path()).ok()?.trim_end().to_owned();
            Some(KnownMount { folder: name, id, last_used: entry.metadata().ok()?.modified().ok()? })
        });
        let mut known: Vec<_> = known.collect();
        known.sort_by(|one, other| (&one.id, &one.folder).cmp(&(&other.id, &other.folder)));
        Ok(known)
    }

    /// The folders with what the store knows of them, and those of them that are in use left out where `in_use` is given.
    pub(super) fn folders(&self, owner: &dyn Folders) -> Result<Vec<Folder>, Error> {
        let mut folders = owner.list().map_err(Error::at(&self.0.trees))?;
        let known = self.known_mounts()?;
        for folder in folders.iter_mut().filter(|folder| folder.kind == FolderKind::Mount) {
            if let Some(mount) = known.iter().find(|mount| mount.folder == folder.name) {
                folder.last_used = mount.last_used;
            }
        }
        Ok(folders)
    }

    /// Those of `folders` that nobody uses, and the locks that keep it so.
    pub(super) fn unused<'a>(
        &self,
        folders: impl IntoIterator<Item = &'a Folder>,
        in_use: &HashSet<Digest>,
    ) -> Result<(Vec<Folder>, Vec<File>), Error> {
        let (mut unused, mut locks) = (vec![], vec![]);
        for folder in folders {
            let is_free = match folder.kind {
                FolderKind::Leftover => true,
                FolderKind::Tree => folder.chain_id().is_none_or(|id| !in_use.contains(&id)),
                FolderKind::Mount => match self.try_lock_folder(&folder.name)? {
                    Some(lock) => {
                        locks.push(lock);
                        true
                    }
                    None => false,
                },
            };
            if is_free {
                unused.push(folder.clone());
            }
        }
        Ok((unused, locks))
    }

    fn try_lock_folder(&self, name: &str) -> Result<Option<File>, Error> {
        let path = self.0.root.join("locks").join(format!("{MOUNT}{name}"));
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = opened.map_err(Error::at(&path))?;
        Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(lock))
    }

    /// Forgets a cache mount whose folder is gone. To be called while its lock is held.
    pub(super) fn forget_mount(&self, name: &str) {
        // Whoever opened it before finds out that its name is gone. What stays is an empty file.
        let _ = fs::remove_file(self.0.root.join("locks").join(format!("{MOUNT}{name}")));
    }
}

/// How the names of locks of cache mounts begin.
pub(super) const MOUNT: &str = "mount-";
