//! Files outside the store: which ones a step selects, and what they hold.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lithify_cache::key::{self, ContentHasher, Matched, MountContent, SourceContent};
use lithify_cache::{ContextIndex, FileFacts};
use lithify_files::ignore::Ignore;
use lithify_files::select::{self, Match, Options, open_content};
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
        let options = Options { ignore: source.ignore.as_ref(), exclude, parents, context: true };
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
        let mut index = match &source.path {
            Some(path) => Some(ContextIndex::load(self.request.store, path)?),
            None => None,
        };
        let mut digests = FileDigests::of(matches);
        let mut unknown: Vec<Unknown> = vec![];
        for (group, one) in matches.iter().enumerate() {
            for at in 0..one.len() {
                if one.facts(at).kind != rustix::fs::FileType::RegularFile {
                    continue;
                }
                let path = one.source(at);
                let known =
                    index.as_ref().and_then(|index| index.digest(path.as_bytes(), &facts(one.facts(at))));
                match known {
                    Some(digest) => digests.set(group, at, digest),
                    None => unknown.push(Unknown { group, at, path, facts: facts(one.facts(at)) }),
                }
            }
        }
        for (file, digest) in unknown.iter().zip(read_all(source, &unknown, self.request.cancel)?) {
            if let Some(index) = &mut index {
                index.insert(file.path.as_bytes(), &file.facts, &digest);
            }
            digests.set(file.group, file.at, digest);
        }
        if let Some(index) = index.filter(|_| !unknown.is_empty()) {
            index.save()?;
        }
        Ok(digests)
    }
}

struct Unknown {
    group: usize,
    at: usize,
    path: TreePath,
    facts: FileFacts,
}

/// Hashes files on all processors.
fn read_all(source: &FileSource, files: &[Unknown], cancel: &Cancel) -> Result<Vec<FileDigest>, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len().div_ceil(8));
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; files.len()]);
    let work = || -> Result<(), Failure> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(at) else { return Ok(()) };
            let digest = hash(source, &file.path, &mut buffer, cancel)
                .map_err(|error| cannot_read(&file.path, error))?;
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[at] = Some(digest);
        }
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        work()?;
        helpers.into_iter().try_for_each(|helper| helper.join().expect("hashing does not panic"))
    })?;
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(results.into_iter().flatten().collect())
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
