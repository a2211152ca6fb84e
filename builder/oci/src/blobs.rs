//! Where content lies: the interface between those who store blobs and those who move them.

use std::io::{self, Read, Write};

use crate::Digest;

/// Content addressed by its digest. Implementations may be used by many threads and processes at once.
pub trait Blobs: Send + Sync {
    /// The size in bytes of the blob, `None` where it is not here.
    ///
    /// # Errors
    /// A failure to look.
    fn size_bytes(&self, digest: &Digest) -> io::Result<Option<u64>>;

    /// A reader of the whole blob.
    ///
    /// # Errors
    /// `NotFound` where it is not here.
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>>;

    /// Starts a new blob. Nothing of it can be seen until it is committed; dropping it leaves nothing behind.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn create(&self) -> io::Result<Box<dyn NewBlob>>;
}

/// A blob that is being written.
pub trait NewBlob: Write + Send {
    /// Makes the blob visible under its digest; a blob that is there already stays, which is no error. Returns the
    /// digest and the size in bytes.
    ///
    /// # Errors
    /// `InvalidData` where `expected` names another digest than the content has; then nothing becomes visible.
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> io::Result<(Digest, u64)>;
}
