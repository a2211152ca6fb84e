//! Entries to a layer's blob in one pass: tar, diffID, compression, digest, and the catalogue.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::compiled::{Compiled, HEADER_BYTES, source_of};
use super::compress::{Compressor, SMALL, compress_small, lost_thread};
use super::{CatalogueEntry, CatalogueWriter, Compression, TarWriter, Times};
use crate::{Content, Descriptor, Digest, DigestWriter, Entry, EntryKind, EntrySink, FileHasher};

/// A layer that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the uncompressed tar (config.md, "Layer DiffID").
    pub diff_id: Digest,
    /// The blob.
    pub blob: Descriptor,
    /// The length of the uncompressed tar in bytes.
    pub uncompressed_size_bytes: u64,
}

/// A layer that was written, and what is told beside its blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The layer.
    pub layer: Layer,
    /// The bytes of its [`Catalogue`](super::Catalogue).
    pub catalogue: Vec<u8>,
    /// Whether it holds compiled Python whose header says a time.
    pub has_compiled: bool,
}

/// Writes entries, in [`layer_order`](super::layer_order), as a layer's blob.
///
/// A layer of less than 256 KiB is made without a thread; others are hashed and compressed on threads beside the one that
/// brings the entries. Neither the number of threads nor their timing shows in the bytes.
pub struct LayerWriter<W: Write + Send + 'static> {
    tar: TarWriter<Pipeline<W>>,
    catalogue: CatalogueWriter<Vec<u8>>,
    compression: Compression,
    has_compiled: bool,
}

impl<W: Write + Send + 'static> LayerWriter<W> {
    /// Writes to `blob` with as many threads as there are processors.
    ///
    /// # Errors
    /// A compressor that cannot be set up.
    pub fn new(blob: W, compression: Compression, times: Times) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |number| number.get());
        Self::with_threads(blob, compression, times, threads)
    }

    /// Writes to `blob` with `threads` threads for the compression.
    ///
    /// # Errors
    /// A compressor that cannot be set up.
    pub fn with_threads(blob: W, compression: Compression, times: Times, threads: usize) -> io::Result<Self> {
        let pipeline = Pipeline { pending: vec![], stage: Stage::Small(blob), compression, threads };
        Ok(LayerWriter {
            tar: TarWriter::new(pipeline, times),
            catalogue: CatalogueWriter::new(vec![])?,
            compression,
            has_compiled: false,
        })
    }

    /// Completes the blob. Gives back its writer, and what was written.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> io::Result<(W, Written)> {
        let sealed = self.tar.finish()?.finish()?;
        let layer = Layer {
            diff_id: sealed.diff_id,
            blob: Descriptor::new(self.compression.media_type(), sealed.digest, sealed.size_bytes),
            uncompressed_size_bytes: sealed.uncompressed_size_bytes,
        };
        let catalogue = self.catalogue.finish()?;
        Ok((sealed.blob, Written { layer, catalogue, has_compiled: self.has_compiled }))
    }
}

impl<W: Write + Send + 'static> LayerWriter<W> {
    /// Writes an entry of which the catalogue's item is known already, for a layer that is made anew of an older one.
    ///
    /// # Errors
    /// Those of the writer, and failures to read.
    pub fn noted(&mut self, item: &CatalogueEntry, content: &mut dyn Content) -> io::Result<()> {
        self.tar.entry(&item.entry, content)?;
        self.catalogue.add(&item.entry, item.digest, item.compiled)
    }
}

impl<W: Write + Send + 'static> EntrySink for LayerWriter<W> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        if !matches!(entry.kind, EntryKind::File { .. }) {
            self.tar.entry(entry, content)?;
            return self.catalogue.add(entry, None, None);
        }
        let seen = RefCell::new(Seen::default());
        self.tar.entry(entry, &mut Watched { content, seen: &seen })?;
        let Seen { hasher, start } = seen.into_inner();
        let compiled = source_of(entry).and_then(|_| Compiled::of_header(&start));
        self.has_compiled |= compiled.is_some();
        self.catalogue.add(entry, Some(hasher.finish()), compiled)
    }
}

/// What is learned of a content while it is read.
#[derive(Default)]
struct Seen {
    hasher: FileHasher,
    /// Its first bytes.
    start: Vec<u8>,
}

/// A content that is looked at while it is read.
struct Watched<'a> {
    content: &'a mut dyn Content,
    seen: &'a RefCell<Seen>,
}

impl Content for Watched<'_> {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        let reader = self.content.open()?;
        Ok(Box::new(WatchedReader { reader, seen: self.seen }))
    }
}

struct WatchedReader<'a> {
    reader: Box<dyn Read + 'a>,
    seen: &'a RefCell<Seen>,
}

impl Read for WatchedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        let mut seen = self.seen.borrow_mut();
        let wanted = HEADER_BYTES - seen.start.len();
        seen.start.extend_from_slice(&buffer[..got.min(wanted)]);
        seen.hasher.write_all(&buffer[..got])?;
        Ok(got)
    }
}

/// How much goes to the other thread at once.
const CHUNK: usize = 1 << 20;
/// How many chunks may wait there.
const WAITING: usize = 4;

/// Takes the bytes of the tar, and hands them on in chunks.
struct Pipeline<W: Write + Send + 'static> {
    pending: Vec<u8>,
    stage: Stage<W>,
    compression: Compression,
    threads: usize,
}

enum Stage<W: Write + Send + 'static> {
    /// Everything so far is in `pending`.
    Small(W),
    /// A thread hashes and compresses.
    Running(Running<W>),
    /// It has failed.
    Failed,
}

struct Running<W> {
    chunks: SyncSender<Vec<u8>>,
    used: Receiver<Vec<u8>>,
    thread: JoinHandle<io::Result<Sealed<W>>>,
}

struct Sealed<W> {
    blob: W,
    diff_id: Digest,
    uncompressed_size_bytes: u64,
    digest: Digest,
    size_bytes: u64,
}

impl<W: Write + Send + 'static> Pipeline<W> {
    /// Hands on what is pending, and starts the thread where there is none.
    fn hand_on(&mut self) -> io::Result<()> {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        let running = match stage {
            Stage::Failed => return Err(lost_thread()),
            Stage::Running(running) => running,
            Stage::Small(blob) => {
                let (chunks, received) = sync_channel(WAITING);
                let (give_back, used) = channel();
                let (compression, threads) = (self.compression, self.threads);
                let thread =
                    std::thread::spawn(move || work(blob, compression, threads, &received, &give_back));
                Running { chunks, used, thread }
            }
        };
        let mut fresh = running.used.try_recv().unwrap_or_else(|_| Vec::with_capacity(CHUNK));
        fresh.clear();
        let full = std::mem::replace(&mut self.pending, fresh);
        if running.chunks.send(full).is_err() {
            // The thread only goes early when it failed.
            drop(running.chunks);
            return Err(running.thread.join().map_err(|_| lost_thread())?.err().unwrap_or_else(lost_thread));
        }
        self.stage = Stage::Running(running);
        Ok(())
    }

    fn finish(mut self) -> io::Result<Sealed<W>> {
        if let Stage::Small(_) = self.stage {
            let Stage::Small(blob) = std::mem::replace(&mut self.stage, Stage::Failed) else {
                return Err(lost_thread());
            };
            let mut out = DigestWriter::new(blob);
            compress_small(&self.pending, self.compression, &mut out)?;
            let size = self.pending.len() as u64;
            return Ok(seal(out, Some(Digest::of(&self.pending)), size));
        }
        if !self.pending.is_empty() {
            self.hand_on()?;
        }
        match self.stage {
            Stage::Running(Running { chunks, thread, .. }) => {
                drop(chunks);
                thread.join().map_err(|_| lost_thread())?
            }
            Stage::Small(_) | Stage::Failed => Err(lost_thread()),
        }
    }
}

impl<W: Write + Send + 'static> Write for Pipeline<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limit = if matches!(self.stage, Stage::Small(_)) { SMALL } else { CHUNK };
        let taken = bytes.len().min(limit - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == limit {
            self.hand_on()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work<W: Write>(
    blob: W,
    compression: Compression,
    threads: usize,
    chunks: &Receiver<Vec<u8>>,
    used: &Sender<Vec<u8>>,
) -> io::Result<Sealed<W>> {
    // Without compression the blob is the tar: no need to hash it twice.
    let mut diff = (compression != Compression::None).then(|| DigestWriter::new(io::sink()));
    let mut compressor = Compressor::new(DigestWriter::new(blob), compression, threads)?;
    let mut size = 0;
    for chunk in chunks {
        size += chunk.len() as u64;
        if let Some(diff) = &mut diff {
            diff.write_all(&chunk)?;
        }
        compressor.write_all(&chunk)?;
        // Nobody takes it back once the last chunk is on its way.
        let _ = used.send(chunk);
    }
    Ok(seal(compressor.finish()?, diff.map(|diff| diff.finish().1), size))
}

fn seal<W: Write>(out: DigestWriter<W>, diff_id: Option<Digest>, uncompressed_size_bytes: u64) -> Sealed<W> {
    let (blob, digest, size_bytes) = out.finish();
    Sealed { blob, diff_id: diff_id.unwrap_or(digest), uncompressed_size_bytes, digest, size_bytes }
}

/// Compresses a layer's archive as it is, byte for byte.
///
/// # Errors
/// Failures to read and of the writer.
pub fn recompress<W: Write + Send + 'static>(
    mut archive: impl Read,
    blob: W,
    compression: Compression,
) -> io::Result<(W, Layer)> {
    let threads = std::thread::available_parallelism().map_or(1, |number| number.get());
    let mut pipeline = Pipeline { pending: vec![], stage: Stage::Small(blob), compression, threads };
    io::copy(&mut archive, &mut pipeline)?;
    let sealed = pipeline.finish()?;
    let layer = Layer {
        diff_id: sealed.diff_id,
        blob: Descriptor::new(compression.media_type(), sealed.digest, sealed.size_bytes),
        uncompressed_size_bytes: sealed.uncompressed_size_bytes,
    };
    Ok((sealed.blob, layer))
}
