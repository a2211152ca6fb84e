//! Objects in memory: records and packs, which are small and no blobs of the store.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use lithify_oci::{Blobs, Digest, NewBlob};

type Content = Arc<Mutex<HashMap<Digest, Arc<Vec<u8>>>>>;

/// A few objects of at most so many bytes each.
#[derive(Default)]
pub(super) struct Memory {
    limit_bytes: u64,
    content: Content,
}

impl Memory {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Memory { limit_bytes, content: Content::default() }
    }

    pub(super) fn put(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.content.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::new(bytes));
        digest
    }

    pub(super) fn take(&self, digest: &Digest) -> Option<Arc<Vec<u8>>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).remove(digest)
    }

    fn get(&self, digest: &Digest) -> Option<Arc<Vec<u8>>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }
}

impl Blobs for Memory {
    fn size_bytes(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(self.get(digest).map(|bytes| bytes.len() as u64))
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.get(digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(Shared(bytes))))
    }

    fn create(&self) -> io::Result<Box<dyn NewBlob>> {
        Ok(Box::new(New { bytes: vec![], limit_bytes: self.limit_bytes, content: self.content.clone() }))
    }
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

struct New {
    bytes: Vec<u8>,
    limit_bytes: u64,
    content: Content,
}

impl Write for New {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.limit_bytes {
            let problem = format!("it has more than {} bytes", self.limit_bytes);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewBlob for New {
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> io::Result<(Digest, u64)> {
        let (digest, size_bytes) = (Digest::of(&self.bytes), self.bytes.len() as u64);
        if expected.is_some_and(|expected| *expected != digest) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the content is {digest}")));
        }
        self.content.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::new(self.bytes));
        Ok((digest, size_bytes))
    }
}
