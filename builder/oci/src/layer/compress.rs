//! Compressed blobs, the same bytes for the same input however many threads work on them.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use flate2::{Compress, Crc, FlushCompress, Status};
use zstd::zstd_safe;

use crate::media_type;

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip {
        /// 1 (fast) to 9 (small).
        level: u32,
    },
    /// Zstandard (RFC 8878).
    Zstd {
        /// 1 (fast) to 22 (small).
        level: i32,
    },
}

impl Default for Compression {
    fn default() -> Self {
        Compression::Zstd { level: 3 }
    }
}

/// The version of zlib-rs that Cargo.lock pins; a test compares them.
pub(super) const ZLIB_RS_VERSION: &str = "0.6.8";

impl Compression {
    /// Names all that decides about the bytes: compressor, its version, level. For the keys of caches.
    pub fn identity(&self) -> String {
        match self {
            Compression::None => "none".into(),
            Compression::Gzip { level } => format!("gzip-zlib-rs-{ZLIB_RS_VERSION}-512k-{level}"),
            Compression::Zstd { level } => format!("zstd-{}-{level}", zstd_safe::version_string()),
        }
    }

    /// The media type of a layer compressed like this.
    pub fn media_type(&self) -> &'static str {
        match self {
            Compression::None => media_type::LAYER,
            Compression::Gzip { .. } => media_type::LAYER_GZIP,
            Compression::Zstd { .. } => media_type::LAYER_ZSTD,
        }
    }
}

/// The most memory that a zstd blob may ask of its reader, as a power of two: 128 MiB, what `zstd -d` allows by default.
const MAX_WINDOW_LOG: u32 = 27;

/// Reads what may be compressed, told by its first bytes: gzip (any number of members), zstd (any number of frames, skippable
/// ones left out) or plain.
///
/// # Errors
/// Those of the reader. What is wrong with compressed data is found when it is read.
pub fn decompress<'a>(reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut reader = BufReader::with_capacity(128 << 10, reader);
    let mut start = Vec::with_capacity(4);
    // A pipe may give less than four bytes at once, and a buffer cannot be asked for more.
    (&mut reader).take(4).read_to_end(&mut start)?;
    let kind = start.clone();
    let whole = BufReader::with_capacity(128 << 10, io::Cursor::new(start).chain(reader));
    match kind[..] {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Ok(Box::new(zstd_reader(whole)?)),
        _ => Ok(Box::new(whole)),
    }
}

fn zstd_reader<R: BufRead>(reader: R) -> io::Result<zstd::Decoder<'static, R>> {
    let mut decoder = zstd::Decoder::with_buffer(reader)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    Ok(decoder)
}

/// Inputs below this size are compressed where they are, with no thread started; it decides about zstd's bytes.
pub(super) const SMALL: usize = 256 << 10;

/// Compresses an input of less than [`SMALL`] bytes at once.
pub(super) fn compress_small(bytes: &[u8], compression: Compression, out: &mut impl Write) -> io::Result<()> {
    match compression {
        Compression::None => out.write_all(bytes),
        Compression::Zstd { level } => out.write_all(&zstd::bulk::compress(bytes, level)?),
        Compression::Gzip { level } => {
            let mut gzip = GzipEnds::default();
            out.write_all(&GZIP_HEADER)?;
            if !bytes.is_empty() {
                let block = deflate(bytes.to_vec(), level)?;
                gzip.add(&block);
                out.write_all(&block.deflated)?;
            }
            out.write_all(&gzip.trailer())
        }
    }
}

/// Compresses a stream, on `threads` threads and with the same bytes whatever their number.
pub(super) enum Compressor<W: Write> {
    Plain(W),
    Zstd(zstd::Encoder<'static, W>),
    Gzip(GzipBlocks<W>),
}

impl<W: Write> Compressor<W> {
    pub(super) fn new(mut out: W, compression: Compression, threads: usize) -> io::Result<Self> {
        match compression {
            Compression::None => Ok(Compressor::Plain(out)),
            Compression::Zstd { level } => {
                let mut encoder = zstd::Encoder::new(out, level)?;
                // Zero workers give other bytes than one or more.
                encoder.multithread(u32::try_from(threads.clamp(1, 64)).unwrap_or(1))?;
                Ok(Compressor::Zstd(encoder))
            }
            Compression::Gzip { level } => {
                out.write_all(&GZIP_HEADER)?;
                Ok(Compressor::Gzip(GzipBlocks::new(out, level, threads)))
            }
        }
    }

    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Compressor::Plain(out) => Ok(out),
            Compressor::Zstd(encoder) => encoder.finish(),
            Compressor::Gzip(blocks) => blocks.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Compressor::Plain(out) => out.write(bytes),
            Compressor::Zstd(encoder) => encoder.write(bytes),
            Compressor::Gzip(blocks) => blocks.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The length of the pieces that gzip's blocks are made of; they do not refer to each other.
const GZIP_BLOCK: usize = 512 << 10;

/// No name, no time, unknown system: what Go's compress/gzip writes (RFC 1952, 2.3).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

struct Block {
    deflated: Vec<u8>,
    checksum: Crc,
}

/// Deflates one block with a state of its own: one that was used before would leave traces. It ends at a byte's border,
/// so blocks can simply be joined.
fn deflate(plain: Vec<u8>, level: u32) -> io::Result<Block> {
    let mut state = Compress::new(flate2::Compression::new(level.min(9)), false);
    let mut deflated = Vec::with_capacity(plain.len() + plain.len() / 1000 + 64);
    loop {
        let rest = &plain[state.total_in() as usize..];
        let status = state.compress_vec(rest, &mut deflated, FlushCompress::Sync)?;
        let done = state.total_in() as usize == plain.len() && deflated.len() < deflated.capacity();
        if done || status == Status::StreamEnd {
            break;
        }
        deflated.reserve(64 << 10);
    }
    let mut checksum = Crc::new();
    checksum.update(&plain);
    Ok(Block { deflated, checksum })
}

#[derive(Default)]
struct GzipEnds {
    checksum: Crc,
    length: u64,
}

impl GzipEnds {
    fn add(&mut self, block: &Block) {
        self.checksum.combine(&block.checksum);
        self.length += u64::from(block.checksum.amount());
    }

    /// An empty last block, the checksum, and the length modulo 2^32.
    fn trailer(&self) -> Vec<u8> {
        let mut bytes = vec![3, 0];
        bytes.extend_from_slice(&self.checksum.sum().to_le_bytes());
        bytes.extend_from_slice(&(self.length as u32).to_le_bytes());
        bytes
    }
}

type Job = (Vec<u8>, SyncSender<io::Result<Block>>);

/// One gzip member made of blocks that are deflated side by side.
pub(super) struct GzipBlocks<W> {
    out: W,
    ends: GzipEnds,
    pending: Vec<u8>,
    jobs: Vec<SyncSender<Job>>,
    next: usize,
    results: VecDeque<Receiver<io::Result<Block>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W: Write> GzipBlocks<W> {
    fn new(out: W, level: u32, threads: usize) -> Self {
        let workers = (0..threads.clamp(1, 64)).map(|_| {
            let (sender, jobs) = sync_channel::<Job>(2);
            let thread = std::thread::spawn(move || {
                for (plain, answer) in jobs {
                    // Nobody waits for the answer any more where writing has failed.
                    let _ = answer.send(deflate(plain, level));
                }
            });
            (sender, thread)
        });
        let (jobs, threads) = workers.unzip();
        GzipBlocks {
            out,
            ends: GzipEnds::default(),
            pending: Vec::with_capacity(GZIP_BLOCK),
            jobs,
            next: 0,
            results: VecDeque::new(),
            threads,
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        let plain = std::mem::replace(&mut self.pending, Vec::with_capacity(GZIP_BLOCK));
        let (answer, result) = sync_channel(1);
        self.jobs[self.next].send((plain, answer)).map_err(|_| lost_thread())?;
        self.next = (self.next + 1) % self.jobs.len();
        self.results.push_back(result);
        if self.results.len() > 2 * self.jobs.len() { self.collect() } else { Ok(()) }
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(result) = self.results.pop_front() else { return Ok(()) };
        let block = result.recv().map_err(|_| lost_thread())??;
        self.ends.add(&block);
        self.out.write_all(&block.deflated)
    }

    fn finish(mut self) -> io::Result<W> {
        if !self.pending.is_empty() {
            self.submit()?;
        }
        while !self.results.is_empty() {
            self.collect()?;
        }
        self.jobs.clear();
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| lost_thread())?;
        }
        self.out.write_all(&self.ends.trailer())?;
        Ok(self.out)
    }
}

impl<W: Write> Write for GzipBlocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(GZIP_BLOCK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == GZIP_BLOCK {
            self.submit()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn lost_thread() -> io::Error {
    io::Error::other("a thread that compresses has panicked")
}
