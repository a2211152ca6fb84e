//! Digests of context files, remembered so that an unchanged file is statted and not read.
//!
//! A file is taken for unchanged when its path, inode, device, size, and times of modification and change are those of
//! when it was read. That alone would be wrong for a file that changes again within the granularity of its timestamps,
//! so, as in git's index, a file that was changed only just before it was read is not remembered: it is read again next
//! time. "Just before" is judged by the clock at the start of the scan, so a clock that was set back errs on the side
//! of reading.
//!
//! Not seen: writes through a memory mapping that the kernel has not noticed yet, and file systems that lie about times.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lithify_oci::{Digest, DigestWriter, FileDigest, Timestamp};

use crate::{Error, Store};

#[cfg(test)]
mod tests;

/// The beginning of the file. Another version is read as an empty index.
const MAGIC: &[u8] = b"lithify context index 2\n";

/// The size in bytes of what follows an entry's path: three numbers, two times, a digest.
const FACTS_BYTES: usize = 3 * 8 + 2 * 12 + 32;

/// How old a change must be, where the file system counts in fractions of a second: several ticks of the slowest
/// kernel clock (100 Hz).
const FINE_MARGIN: Duration = Duration::from_millis(100);

/// The same where it seems to count in seconds (FAT in two).
const COARSE_MARGIN: Duration = Duration::from_secs(2);

/// Marks of use are not renewed more often.
const MARK: Duration = Duration::from_secs(3600);

/// How many entries that nobody asked for are kept in any case.
const SPARE: usize = if cfg!(test) { 5 } else { 100_000 };

/// What a stat tells of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// The number of its inode.
    pub inode: u64,
    /// The number of the device that it is on.
    pub device: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When its content was changed last.
    pub modified: Timestamp,
    /// When the inode was changed last; nobody can set this.
    pub changed: Timestamp,
}

/// The remembered digests of one context.
pub struct ContextIndex {
    store: Store,
    root: PathBuf,
    file: PathBuf,
    started: Timestamp,
    bytes: Vec<u8>,
    /// Where in `bytes` the paths are, sorted; the facts follow each.
    paths: Vec<Range<usize>>,
    asked: Vec<AtomicBool>,
    next: AtomicUsize,
    inserted: BTreeMap<Vec<u8>, [u8; FACTS_BYTES]>,
}

impl ContextIndex {
    /// Loads what is remembered of the context at `root`, to be called before its files are statted. An index that is
    /// missing, damaged or of another version is empty.
    ///
    /// # Errors
    /// A failure to read it.
    pub fn load(store: &Store, root: &Path) -> Result<Self, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        Self::load_at(store, root, Timestamp { seconds, nanoseconds: now.subsec_nanos() })
    }

    fn load_at(store: &Store, root: &Path, started: Timestamp) -> Result<Self, Error> {
        let root = std::path::absolute(root).map_err(Error::at(root))?;
        let file = store.root().join("contexts").join(Digest::of(root.as_os_str().as_bytes()).hex());
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            Err(error) => return Err(Error::at(&file)(error)),
        };
        mark_used(&file);
        let paths = parse(&bytes, &root).unwrap_or_default();
        let asked = paths.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(ContextIndex {
            store: store.clone(),
            root,
            file,
            started,
            bytes,
            paths,
            asked,
            next: AtomicUsize::new(0),
            inserted: BTreeMap::new(),
        })
    }

    /// The digest of the file at `path` (below the root), if it is surely the one that was read.
    pub fn digest(&self, path: &[u8], facts: &FileFacts) -> Option<FileDigest> {
        let stored = match self.inserted.get(path) {
            Some(stored) => stored,
            None => {
                let at = self.find(path)?;
                self.asked[at].store(true, Ordering::Relaxed);
                self.facts_at(at)
            }
        };
        let (facts_bytes, digest) = stored.split_at(FACTS_BYTES - 32);
        (facts_bytes == encode(facts)).then(|| digest.try_into().map(FileDigest::from_bytes).ok())?
    }

    /// Scans ask in nearly the order of the index, so the entry after the last one is tried first.
    fn find(&self, path: &[u8]) -> Option<usize> {
        let is_it = |at: &usize| self.paths.get(*at).is_some_and(|range| self.bytes[range.clone()] == *path);
        let search = || self.paths.binary_search_by(|range| self.bytes[range.clone()].cmp(path)).ok();
        let next = self.next.load(Ordering::Relaxed);
        let at = Some(next).filter(is_it).or_else(search)?;
        self.next.store(at + 1, Ordering::Relaxed);
        Some(at)
    }

    /// Remembers the digest of a file that was statted, then read. Does nothing for one that was changed too recently.
    pub fn insert(&mut self, path: &[u8], facts: &FileFacts, digest: &FileDigest) {
        if self.is_settled(facts.modified) && self.is_settled(facts.changed) {
            let mut stored = [0; FACTS_BYTES];
            stored[..FACTS_BYTES - 32].copy_from_slice(&encode(facts));
            stored[FACTS_BYTES - 32..].copy_from_slice(digest.as_bytes());
            self.inserted.insert(path.to_owned(), stored);
        }
    }

    /// Whether a change after the scan began would show in a timestamp.
    fn is_settled(&self, time: Timestamp) -> bool {
        let margin = if time.nanoseconds == 0 { COARSE_MARGIN } else { FINE_MARGIN };
        let nanoseconds =
            |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
        nanoseconds(time) + (margin.as_nanos() as i128) < nanoseconds(self.started)
    }

    fn facts_at(&self, entry: usize) -> &[u8; FACTS_BYTES] {
        let start = self.paths[entry].end;
        // `parse` has checked that every entry is whole.
        self.bytes[start..].first_chunk().unwrap_or(&[0; FACTS_BYTES])
    }

    /// Writes the index, if there is anything new. Of two processes that do so at once, the last one's stays whole.
    /// Files that nobody asked for may belong to another Dockerfile of the same context; they are forgotten when they
    /// become far too many.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn save(self) -> Result<(), Error> {
        if self.inserted.is_empty() {
            return Ok(());
        }
        let asked = self.asked.iter().filter(|asked| asked.load(Ordering::Relaxed)).count();
        let keep_all = self.paths.len() - asked <= SPARE + 4 * (asked + self.inserted.len());
        let old = (0..self.paths.len()).filter(|at| keep_all || self.asked[*at].load(Ordering::Relaxed));
        let mut entries: Vec<(&[u8], &[u8; FACTS_BYTES])> = old
            .map(|at| (&self.bytes[self.paths[at].clone()], self.facts_at(at)))
            .filter(|(path, _)| !self.inserted.contains_key(*path))
            .chain(self.inserted.iter().map(|(path, stored)| (path.as_slice(), stored)))
            .collect();
        entries.sort_unstable_by_key(|(path, _)| *path);
        let new = self.store.create_file()?;
        self.write(&entries, new.file()).map_err(Error::at(&self.file))?;
        new.persist_as(&self.file)
    }

    fn write(&self, entries: &[(&[u8], &[u8; FACTS_BYTES])], file: &fs::File) -> io::Result<()> {
        let mut out = DigestWriter::new(BufWriter::with_capacity(1 << 20, file));
        out.write_all(MAGIC)?;
        let mut block = vec![];
        put(&mut block, self.root.as_os_str().as_bytes());
        for (path, stored) in entries {
            put(&mut block, path);
            block.extend_from_slice(*stored);
            if block.len() > 1 << 16 {
                out.write_all(&block)?;
                block.clear();
            }
        }
        out.write_all(&block)?;
        let (mut file, digest, _) = out.finish();
        file.write_all(digest.as_bytes())?;
        file.flush()
    }
}

/// Tells prune by the file's time that the index is in use; not each time, for it is a write.
fn mark_used(file: &Path) {
    let age =
        fs::metadata(file).and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
    if age.is_some_and(|age| age > MARK) {
        // It may go sooner than it should, and is written again then.
        let _ =
            fs::File::options().append(true).open(file).and_then(|file| file.set_modified(SystemTime::now()));
    }
}

/// Finds the paths in an index; `None` where it is not one of ours, whole, and of this root.
fn parse(bytes: &[u8], root: &Path) -> Option<Vec<Range<usize>>> {
    let (content, sum) = bytes.split_last_chunk::<32>()?;
    let content_start = content.strip_prefix(MAGIC)?;
    if Digest::of(content).as_bytes() != sum {
        return None;
    }
    let (start, mut rest) = take(content_start)?;
    if start != root.as_os_str().as_bytes() {
        return None;
    }
    let mut paths = vec![];
    while !rest.is_empty() {
        let (path, after) = take(rest)?;
        let end = content.len() - after.len();
        paths.push(end - path.len()..end);
        rest = after.get(FACTS_BYTES..)?;
    }
    Some(paths)
}

fn put(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    bytes.extend_from_slice(value);
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

fn encode(facts: &FileFacts) -> [u8; FACTS_BYTES - 32] {
    let FileFacts { inode, device, size_bytes, modified, changed } = facts;
    let mut bytes = [0; FACTS_BYTES - 32];
    let numbers = [*inode, *device, *size_bytes, modified.seconds as u64, changed.seconds as u64];
    for (number, place) in numbers.iter().zip(bytes.chunks_exact_mut(8)) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes[40..44].copy_from_slice(&modified.nanoseconds.to_le_bytes());
    bytes[44..].copy_from_slice(&changed.nanoseconds.to_le_bytes());
    bytes
}
