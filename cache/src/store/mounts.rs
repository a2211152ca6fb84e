//! Cache mounts: which folder each has, and who may use it at the same time.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::SystemTime;

use lithify_graph::CacheSharing;
use lithify_oci::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Store;
use super::folders::MOUNT;
use super::locks::is_name_of;
use crate::Error;

/// The right to use a cache mount's folder, given back when this is dropped. The kernel takes it from a process that dies.
#[derive(Debug)]
pub struct CacheMountLock {
    folder: String,
    /// Locked as long as it is open.
    lock: File,
}

impl CacheMountLock {
    /// The name of the folder, one path component.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Lets others in who share the folder, after it was had alone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn share(&self) -> std::io::Result<()> {
        Ok(flock(&self.lock, FlockOperation::LockShared)?)
    }
}

/// A cache mount, as a step asks for it.
#[derive(Clone, Copy, Debug)]
pub struct CacheMountName<'a> {
    /// Its id, by which it is listed.
    pub id: &'a str,
    /// All else that tells its folder from others.
    pub details: &'a str,
}

impl Store {
    /// Takes the folder of a cache mount. Shared ones are had at once; a private one is another folder if the first is
    /// taken; for a locked one `None` is given while another has it.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn lock_cache_mount(
        &self,
        name: &CacheMountName<'_>,
        sharing: CacheSharing,
    ) -> Result<Option<CacheMountLock>, Error> {
        let CacheMountName { id, details } = name;
        let name = Digest::of(format!("{id}\0{details}")).hex();
        let how = match sharing {
            CacheSharing::Shared => FlockOperation::NonBlockingLockShared,
            CacheSharing::Private | CacheSharing::Locked => FlockOperation::NonBlockingLockExclusive,
        };
        let mut number = 0;
        loop {
            let folder = if number == 0 { name.clone() } else { format!("{name}-{number}") };
            let path = self.0.root.join("locks").join(format!("{MOUNT}{folder}"));
            let mut options = File::options();
            let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
            let mut lock = opened.map_err(Error::at(&path))?;
            match flock(&lock, how) {
                // Prune removes the file with the folder.
                Ok(()) if !is_name_of(&path, &lock)? => {}
                Ok(()) => {
                    describe(&mut lock, &path, id)?;
                    return Ok(Some(CacheMountLock { folder, lock }));
                }
                // A shared folder that someone has for himself alone will be free again too.
                Err(Errno::WOULDBLOCK) if sharing == CacheSharing::Private => number += 1,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::at(&path)(errno.into())),
            }
        }
    }
}

/// Notes in the lock what the folder is, and that it is used now.
fn describe(lock: &mut File, path: &Path, id: &str) -> Result<(), Error> {
    let mut write = || {
        if lock.metadata()?.len() == 0 {
            lock.rewind()?;
            // One line: an id is no more than a name.
            writeln!(lock, "{}", id.replace('\n', " "))?;
        }
        lock.set_modified(SystemTime::now())
    };
    write().map_err(Error::at(path))
}
