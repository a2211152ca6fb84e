//! Files outside the store: which ones a step selects, and what they hold.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lithify_cache::key::{self, ContentHasher, Matched, MountContent, SourceContent};
use lithify_cache::{ContextIndex, FileFacts};
use lithify_files::ignore::Ignore;
use lithify_files::select::{self, Match, Options, TreeKind, open_content};
use lithify_linux::tree::Metadata;
use lithify_oci::{FileDigest, FileHasher, Timestamp, TreePath};
use lithify_worker::Worker;

use crate::build::Running;
use crate::chain::TreeLayers;
use crate::error::Failure;
use crate::resources::{Cancel, FileSource};

/// The digests of the regular files of some matches, by match and number.
pub(super) struct FileDigests(Vec<Vec<Option<FileDigest>>>);

impl FileDigests {
    /// None yet.
    pub(super) fn of(matches: &[Match]) -> Self {
        FileDigests(matches.iter().map(|one| vec![None; one.len()]).collect())
    }

    pub(super) fn set(&mut self, group: usize, at: usize, digest: FileDigest) {
        self.0[group][at] = Some(digest);
    }

    /// `None` for what is no regular file.
    pub(super) fn get(&self, group: usize, at: usize) -> Option<&FileDigest> {
        self.0[group][at].as_ref()
    }
}

/// Files outside the store that a step wants.
pub(super) struct Files {
    pub(super) source: Arc<FileSource>,
    pub(super) matches: Vec<Match>,
    pub(super) digests: FileDigests,
}

impl Running<'_> {
    /// Which files of `source` a pattern means.
    pub(super) fn select(
        &self,
        source: &FileSource,
        pattern: &str,
        exclude: Option<&Ignore>,
        parents: bool,
    ) -> Result<Vec<Match>, Failure> {
        let options = Options { ignore: source.ignore.as_ref(), exclude, parents, tree: TreeKind::Context };
        Ok(select::select(source.root.as_fd(), pattern.as_bytes(), &options)?)
    }

    /// The digest of everything below a path of `source`, for the key of a RUN that mounts it.
    pub(super) fn content_of(&self, source: &FileSource, path: &str) -> Result<SourceContent, Failure> {
        let matches = self.select(source, &literal(path), None, false)?;
        let digests = self.file_digests(source, &matches)?;
        Ok(hash_matches(ContentHasher::new(), &matches, &digests))
    }

    /// Makes a tree of everything below a path of `source`, which stands at the same path in the tree.
    pub(super) fn tree_of_files(
        &self,
        worker: &Worker,
        source: &Arc<FileSource>,
        path: &str,
        expected: &MountContent,
    ) -> Result<TreeLayers, Failure> {
        let matches = self.select(source, &literal(path), None, false)?;
        let digests = self.file_digests(source, &matches)?;
        let content = hash_matches(ContentHasher::new(), &matches, &digests);
        if matches!(expected, MountContent::Content(expected) if expected.digest() != content.digest()) {
            return Err(Failure::Changed { path: path.to_owned() });
        }
        let keyed = key::files_key(path, &content);
        if let Some(diff_id) = self.recorded(&keyed.key)? {
            return Ok(TreeLayers::new([diff_id]));
        }
        let made =
            self.place_mounted(worker, path, Files { source: source.clone(), matches, digests }, &keyed)?;
        Ok(TreeLayers::new([made]))
    }

    /// The digest of each regular file, read only where the index does not know it.
    pub(super) fn file_digests(
        &self,
        source: &FileSource,
        matches: &[Match],
    ) -> Result<FileDigests, Failure> {
        let index = match &source.path {
            Some(path) => Some(ContextIndex::load(self.request.store, path)?),
            None => None,
        };
        let mut digests = FileDigests::of(matches);
        // By match and number; everything else can be had again, and there may be half a million.
        let mut unknown: Vec<(u32, u32)> = vec![];
        for (group, one) in matches.iter().enumerate() {
            for at in 0..one.len() {
                if one.facts(at).kind != rustix::fs::FileType::RegularFile {
                    continue;
                }
                let known = index
                    .as_ref()
                    .and_then(|index| index.digest(one.source(at).as_bytes(), &facts(one.facts(at))));
                match known {
                    Some(digest) => digests.set(group, at, digest),
                    None => unknown.push((group as u32, at as u32)),
                }
            }
        }
        read_all(source, matches, &unknown, &mut digests, self.request.cancel)?;
        if let Some(mut index) = index.filter(|_| !unknown.is_empty()) {
            for (group, at) in unknown {
                let (one, at) = (&matches[group as usize], at as usize);
                if let Some(digest) = digests.get(group as usize, at) {
                    index.insert(one.source(at).as_bytes(), &facts(one.facts(at)), digest);
                }
            }
            index.save()?;
        }
        Ok(digests)
    }
}

/// Hashes files, each given by its match and its number there, on all processors.
fn read_all(
    source: &FileSource,
    matches: &[Match],
    files: &[(u32, u32)],
    digests: &mut FileDigests,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len().div_ceil(8));
    let next = AtomicUsize::new(0);
    let digests = Mutex::new(digests);
    let work = || -> Result<(), Failure> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let Some((group, at)) = files.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
            let (group, at) = (*group as usize, *at as usize);
            let path = matches[group].source(at);
            let digest =
                hash(source, &path, &mut buffer, cancel).map_err(|error| cannot_read(&path, error))?;
            digests.lock().unwrap_or_else(std::sync::PoisonError::into_inner).set(group, at, digest);
        }
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        work()?;
        helpers.into_iter().try_for_each(|helper| helper.join().expect("hashing does not panic"))
    })
}

/// What it means that a file that was there cannot be read.
pub(super) fn cannot_read(path: &TreePath, error: io::Error) -> Failure {
    use io::ErrorKind::{InvalidData, NotADirectory, NotFound, UnexpectedEof};
    let is_link = rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::LOOP);
    match error.kind() {
        _ if is_link => Failure::Changed { path: path.to_string() },
        io::ErrorKind::Interrupted => Failure::Cancelled,
        NotFound | NotADirectory | InvalidData | UnexpectedEof => Failure::Changed { path: path.to_string() },
        _ => Failure::Input(format!(
            "cannot read {path} in the build context: {error}; make it readable or name it in .dockerignore"
        )),
    }
}

fn hash(source: &FileSource, path: &TreePath, buffer: &mut [u8], cancel: &Cancel) -> io::Result<FileDigest> {
    let mut file = open_content(source.root.as_fd(), path)?;
    let mut hasher = FileHasher::default();
    loop {
        // A large file takes longer than who presses Ctrl-C wants to wait.
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(buffer)? {
            0 => return Ok(hasher.finish()),
            length => hasher.write_all(&buffer[..length])?,
        }
    }
}

/// Hashes what matches hold: names, kinds, modes, owners and contents, never times.
pub(super) fn hash_matches(
    mut hasher: ContentHasher,
    matches: &[Match],
    digests: &FileDigests,
) -> SourceContent {
    for (group, one) in matches.iter().enumerate() {
        hasher.matched(if one.is_directory { Matched::Folder } else { Matched::Single });
        for (at, selected) in one.entries().enumerate() {
            let mut entry = selected.entry;
            if !one.is_directory {
                entry.path = TreePath::cleaned(&one.name);
            }
            hasher.add(&entry, digests.get(group, at));
        }
    }
    hasher.finish()
}

fn facts(metadata: &Metadata) -> FileFacts {
    FileFacts {
        inode: metadata.inode,
        device: (u64::from(metadata.device.0) << 32) | u64::from(metadata.device.1),
        size_bytes: metadata.size_bytes,
        modified: timestamp(metadata.modified),
        changed: timestamp(metadata.changed),
    }
}

fn timestamp((seconds, nanoseconds): (i64, u32)) -> Timestamp {
    Timestamp { seconds, nanoseconds }
}

/// A path as a pattern that means only it.
fn literal(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}
