//! Blobs between tasks, which must not block, and the store, which does.

use std::io::{self, Read, Write};

use bytes::Bytes;
use futures_util::Stream;
use lithify_oci::{Blobs, Descriptor, Digest, NewBlob};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::Error;

/// How many chunks may wait between network and disk: bounds the memory of one transfer.
const CHUNKS_IN_FLIGHT: usize = 8;

/// The size of the chunks that are read from the store.
const CHUNK_BYTES: usize = 128 << 10;

/// Writes a new blob on a thread that may block.
pub(crate) struct Writer {
    chunks: mpsc::Sender<Bytes>,
    task: JoinHandle<io::Result<Box<dyn NewBlob>>>,
    /// How many bytes were handed in.
    pub(crate) written_bytes: u64,
}

impl Writer {
    pub(crate) fn create(blobs: &dyn Blobs) -> Result<Self, Error> {
        let mut blob = blobs.create().map_err(Error::writing)?;
        let (chunks, mut waiting) = mpsc::channel::<Bytes>(CHUNKS_IN_FLIGHT);
        let task = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = waiting.blocking_recv() {
                blob.write_all(&chunk)?;
            }
            Ok(blob)
        });
        Ok(Writer { chunks, task, written_bytes: 0 })
    }

    /// Hands in more content; a failure of the store shows in [`Writer::commit`] at the latest.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        let length = chunk.len() as u64;
        if self.chunks.send(chunk).await.is_err() {
            let outcome = (&mut self.task).await.map_err(io::Error::other).and_then(|outcome| outcome);
            let error = outcome.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
            return Err(Error::writing(error));
        }
        self.written_bytes += length;
        Ok(())
    }

    /// Makes the blob visible, if its content is what is `expected`. `what` names it in errors.
    pub(crate) async fn commit(self, expected: Option<Digest>, what: &str) -> Result<(Digest, u64), Error> {
        drop(self.chunks);
        let blob =
            self.task.await.map_err(io::Error::other).and_then(|outcome| outcome).map_err(Error::writing)?;
        let committed = tokio::task::spawn_blocking(move || blob.commit(expected.as_ref()));
        match (committed.await.map_err(io::Error::other).and_then(|outcome| outcome), expected) {
            (Ok(done), _) => Ok(done),
            (Err(error), Some(expected)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Error::DigestMismatch { what: what.into(), expected })
            }
            (Err(error), _) => Err(Error::writing(error)),
        }
    }
}

/// Copies a blob from a reader, verified. Blocks.
pub(crate) fn copy(
    mut from: impl Read,
    descriptor: &Descriptor,
    blobs: &dyn Blobs,
    what: &str,
) -> Result<(), Error> {
    let mut blob = blobs.create().map_err(Error::writing)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut found_bytes = 0;
    loop {
        let count = from
            .read(&mut chunk)
            .map_err(|source| Error::Store { doing: format!("copy {what} to"), source })?;
        if count == 0 {
            break;
        }
        found_bytes += count as u64;
        if found_bytes > descriptor.size_bytes {
            break;
        }
        blob.write_all(&chunk[..count]).map_err(Error::writing)?;
    }
    if found_bytes != descriptor.size_bytes {
        return Err(Error::SizeMismatch {
            what: what.into(),
            expected_bytes: descriptor.size_bytes,
            found_bytes,
        });
    }
    commit(blob, descriptor.digest, what)
}

/// Stores a small blob that is in memory.
pub(crate) fn store(bytes: &[u8], digest: Digest, blobs: &dyn Blobs, what: &str) -> Result<(), Error> {
    if blobs.size_bytes(&digest).map_err(Error::reading(&digest))? == Some(bytes.len() as u64) {
        return Ok(());
    }
    let mut blob = blobs.create().map_err(Error::writing)?;
    blob.write_all(bytes).map_err(Error::writing)?;
    commit(blob, digest, what)
}

fn commit(blob: Box<dyn NewBlob>, expected: Digest, what: &str) -> Result<(), Error> {
    match blob.commit(Some(&expected)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Error::DigestMismatch { what: what.into(), expected })
        }
        Err(error) => Err(Error::writing(error)),
    }
}

/// The whole of a small blob, `None` where it is not in the store or longer than `limit_bytes`. Verified.
pub(crate) fn load(digest: &Digest, limit_bytes: u64, blobs: &dyn Blobs) -> Result<Option<Vec<u8>>, Error> {
    match blobs.size_bytes(digest).map_err(Error::reading(digest))? {
        Some(size) if size <= limit_bytes => {}
        _ => return Ok(None),
    }
    let mut bytes = vec![];
    let reader = blobs.open(digest).map_err(Error::reading(digest))?;
    reader.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(Error::reading(digest))?;
    Ok((Digest::of(&bytes) == *digest).then_some(bytes))
}

/// The content of a reader from `skip_bytes` on as a stream; reading goes on on a thread that may block. `sent` is
/// called with the size of each chunk as it is taken.
pub(crate) fn stream(
    mut from: Box<dyn Read + Send>,
    skip_bytes: u64,
    sent: mpsc::UnboundedSender<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (chunks, mut ready) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_IN_FLIGHT);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = io::copy(&mut (&mut from).take(skip_bytes), &mut io::sink()) {
            let _ = chunks.blocking_send(Err(error));
            return;
        }
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let item = match from.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    chunk.truncate(count);
                    Ok(Bytes::from(chunk))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = item.is_err();
            if chunks.blocking_send(item).is_err() || failed {
                return;
            }
        }
    });
    futures_util::stream::poll_fn(move |context| {
        let item = ready.poll_recv(context);
        if let std::task::Poll::Ready(Some(Ok(chunk))) = &item {
            let _ = sent.send(chunk.len() as u64);
        }
        item
    })
}
