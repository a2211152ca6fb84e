//! What a process uses, told to others: a file in `use/`, locked while its process lives, that lists digests.
//!
//! Whoever wants something to stay notes it here first. `prune` reads the files of all who live while it holds
//! `gc.lock` alone; whoever finds something in the database holds `gc.lock` together with others and notes what was
//! found before letting go. So either the note comes before prune's look, or the search after prune's deed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use lithify_oci::Digest;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempPath;

use crate::Error;

/// A folder of files that live no longer than the processes that write them: each is locked by its process, so a file
/// that can be locked is a leftover.
pub(super) struct Scratch {
    folder: PathBuf,
    swept: Once,
}

impl Scratch {
    pub(super) fn new(folder: PathBuf) -> Self {
        Scratch { folder, swept: Once::new() }
    }

    /// A new file, removed when its path is dropped or, after a kill, by whoever comes next.
    pub(super) fn create(&self) -> Result<(File, TempPath), Error> {
        self.swept.call_once(|| drop(self.living()));
        loop {
            let new = tempfile::Builder::new().prefix("").rand_bytes(12).tempfile_in(&self.folder);
            let (file, path) = new.map_err(Error::at(&self.folder))?.into_parts();
            flock(&file, FlockOperation::LockExclusive).map_err(|errno| Error::at(&path)(errno.into()))?;
            // Another process may have taken it for a leftover before it was locked.
            if file.metadata().map_err(Error::at(&path))?.nlink() > 0 {
                return Ok((file, path));
            }
        }
    }

    /// Removes leftovers and returns the files that are being written. What cannot be read or removed is left alone.
    pub(super) fn living(&self) -> Vec<File> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return vec![] };
        let files = entries.flatten().filter_map(|entry| {
            let file = File::open(entry.path()).ok()?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    // Nothing to tell: whoever comes next tries again.
                    let _ = fs::remove_file(entry.path());
                    None
                }
                Err(_) => Some(file),
            }
        });
        files.collect()
    }
}

/// What this handle of the store has used.
pub(super) struct Session {
    files: Scratch,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: HashSet<Digest>,
    file: Option<(File, TempPath)>,
}

impl Session {
    pub(super) fn new(root: &Path) -> Self {
        Session { files: Scratch::new(root.join("use")), state: Mutex::default() }
    }

    /// Notes that `digest` (a blob, a layer or a record's key) is in use for as long as this handle lives.
    pub(super) fn note(&self, digest: &Digest) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.used.contains(digest) {
            return Ok(());
        }
        let (mut file, path) = match state.file.take() {
            Some(open) => open,
            None => self.files.create()?,
        };
        let written = file.write_all(digest.as_bytes()).map_err(Error::at(&path));
        state.file = Some((file, path));
        written?;
        state.used.insert(*digest);
        Ok(())
    }

    /// Everything that was noted through this handle.
    pub(super) fn used(&self) -> Vec<Digest> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used.iter().copied().collect()
    }

    /// Everything that any living process uses.
    pub(super) fn used_by_all(&self) -> Result<HashSet<Digest>, Error> {
        let mut used = HashSet::new();
        for mut file in self.files.living() {
            let mut bytes = vec![];
            file.read_to_end(&mut bytes).map_err(Error::at(&self.files.folder))?;
            used.extend(bytes.as_chunks::<32>().0.iter().map(|digest| Digest::from_bytes(*digest)));
        }
        Ok(used)
    }
}
