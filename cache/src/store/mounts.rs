//! Cache mounts: which folder each has, and who may use it at the same time.

use std::fs::File;

use lithify_graph::CacheSharing;
use lithify_oci::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Store;
use crate::Error;

/// The right to use a cache mount's folder, given back when this is dropped. The kernel takes it from a process that dies.
#[derive(Debug)]
pub struct CacheMountLock {
    folder: String,
    /// Locked as long as it is open.
    _lock: File,
}

impl CacheMountLock {
    /// The name of the folder, one path component.
    pub fn folder(&self) -> &str {
        &self.folder
    }
}

impl Store {
    /// Takes the folder of the cache mount `name`, which says all that tells it from others. Shared ones are had at once; a
    /// private one is another folder if the first is taken; for a locked one `None` is given while another has it.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn lock_cache_mount(
        &self,
        name: &str,
        sharing: CacheSharing,
    ) -> Result<Option<CacheMountLock>, Error> {
        let name = Digest::of(name).hex();
        let how = match sharing {
            CacheSharing::Shared => FlockOperation::NonBlockingLockShared,
            CacheSharing::Private | CacheSharing::Locked => FlockOperation::NonBlockingLockExclusive,
        };
        for number in 0.. {
            let folder = if number == 0 { name.clone() } else { format!("{name}-{number}") };
            let path = self.0.root.join("locks").join(format!("mount-{folder}"));
            let mut options = File::options();
            let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
            let lock = opened.map_err(Error::at(&path))?;
            match flock(&lock, how) {
                Ok(()) => return Ok(Some(CacheMountLock { folder, _lock: lock })),
                // A shared folder that someone has for himself alone will be free again too.
                Err(Errno::WOULDBLOCK) if sharing == CacheSharing::Private => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(Error::at(&path)(errno.into())),
            }
        }
        Ok(None)
    }
}
