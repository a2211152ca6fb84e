//! Digests of the contents of single files, for the builder's own use: they stand in catalogues, records of trees, the
//! index of context files and cache keys, never in an image.

use std::io::{self, Write};

/// A BLAKE3 digest of the content of a file.
///
/// Not SHA-256, which only names that others see need: what is copied is hashed as a file and again as a part of its
/// layer, and BLAKE3 makes the first next to free (several times the speed of SHA-256 with the processor's own instructions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileDigest([u8; 32]);

impl FileDigest {
    /// The digest of `content`.
    pub fn of(content: impl AsRef<[u8]>) -> Self {
        FileDigest(blake3::hash(content.as_ref()).into())
    }

    /// The digest made of 32 raw bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        FileDigest(bytes)
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Hashes and counts the content that is written to it.
#[derive(Default)]
pub struct FileHasher(blake3::Hasher);

impl FileHasher {
    /// The digest of what was written.
    pub fn finish(&self) -> FileDigest {
        FileDigest(self.0.finalize().into())
    }

    /// How many bytes were written.
    pub fn size_bytes(&self) -> u64 {
        self.0.count()
    }
}

impl Write for FileHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
