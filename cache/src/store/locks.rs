//! Locks of steps: two builds of the same step, in one process or two, do the work once.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Store;
use crate::{Error, Key};

/// The right to run a step, or a place in the queue for it. The kernel takes it from a process that dies.
#[derive(Debug)]
pub struct StepLock {
    path: PathBuf,
    held: Option<File>,
}

impl Store {
    /// Takes the lock of the step with this key if it is free; it never waits. Where it is not free,
    /// [`StepLock::waiting_for`] tells who has it and [`StepLock::wait`] waits.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn lock_step(&self, key: &Key) -> Result<StepLock, Error> {
        let mut lock = StepLock { path: self.0.root.join("locks").join(key.digest().hex()), held: None };
        lock.try_now()?;
        Ok(lock)
    }
}

impl StepLock {
    /// Whether this process may run the step now. Look the key up again first: whoever had the lock may have finished.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The process that runs the step, as it sees itself; `None` where that is us, and where it has not said yet.
    pub fn waiting_for(&self) -> Option<u32> {
        if self.is_held() {
            return None;
        }
        fs::read_to_string(&self.path).ok()?.trim().parse().ok()
    }

    /// Takes the lock if it is free now; whether it is held.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn try_now(&mut self) -> Result<bool, Error> {
        self.acquire(FlockOperation::NonBlockingLockExclusive)
    }

    /// Waits until the lock is ours: until whoever has it lets go or dies.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn wait(&mut self) -> Result<(), Error> {
        self.acquire(FlockOperation::LockExclusive).map(drop)
    }

    fn acquire(&mut self, how: FlockOperation) -> Result<bool, Error> {
        while self.held.is_none() {
            let mut options = File::options();
            let opened = options.read(true).write(true).create(true).truncate(false).open(&self.path);
            let mut file = opened.map_err(Error::at(&self.path))?;
            match flock(&file, how) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Error::at(&self.path)(errno.into())),
            }
            // Whoever had it has removed the file: then this is the lock of a name that is gone.
            if is_name_of(&self.path, &file)? {
                let text = format!("{}\n", std::process::id());
                let written = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(text.as_bytes()));
                written.map_err(Error::at(&self.path))?;
                self.held = Some(file);
            }
        }
        Ok(true)
    }
}

/// Whether a lock's path is still that of the open file.
pub(super) fn is_name_of(path: &Path, file: &File) -> Result<bool, Error> {
    let ours = file.metadata().map_err(Error::at(path))?;
    match fs::metadata(path) {
        Ok(theirs) => Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::at(path)(error)),
    }
}

impl Drop for StepLock {
    fn drop(&mut self) {
        if self.held.is_some() {
            // While it is still locked, so nobody else can hold the file that goes.
            let _ = fs::remove_file(&self.path);
        }
    }
}
