//! What a whole tree holds, written beside it: every file with its digest and what shows that it was touched.
//!
//! A difference is found by walking the tree beside its record. A file whose inode and time of change are the recorded ones
//! is unchanged; unless it was changed so shortly before it was recorded that a later change could have the same
//! time (git's rule for racy timestamps). Then, and where the time differs, everything else is compared, the content by its digest.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::BorrowedFd;

use lithify_linux::owner::Owners;
use lithify_linux::tree::{self, Metadata};
use lithify_oci::layer::CatalogueEntry;
use lithify_oci::layer::catalogue::{ItemReader, ItemWriter};
use lithify_oci::{Content, EntryKind, FileDigest, FileHasher, TreePath};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::time::ClockId;

use crate::Error;
use crate::links::Stamp;
use crate::node::{self, Node};
use crate::store::failed;

const FILE: &str = "record";
const NEW: &str = "record.new";

/// File systems take times from a clock that ticks at least this often (CONFIG_HZ=100).
const TICK_NANOSECONDS: i128 = 20_000_000;

/// One file of the tree. Names of one file are several files here, with one inode.
pub(crate) struct Item {
    pub(crate) noted: CatalogueEntry,
    stamp: Stamp,
}

/// A record that is being read, the root first, then in canonical order.
pub(crate) struct Record {
    items: ItemReader<BufReader<File>>,
    recorded: i128,
    next: Option<Item>,
}

impl Record {
    /// Opens the record in the folder of a tree.
    pub(crate) fn open(folder: BorrowedFd<'_>) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, FILE, flags, Mode::empty())
            .map_err(|error| failed("open", FILE)(error.into()))?;
        let open = || -> io::Result<Record> {
            let mut input = BufReader::with_capacity(64 << 10, File::from(file));
            let mut recorded = [0; 16];
            input.read_exact(&mut recorded)?;
            let mut record =
                Record { items: ItemReader::new(input), recorded: i128::from_le_bytes(recorded), next: None };
            record.advance()?;
            Ok(record)
        };
        open().map_err(failed("read", FILE))
    }

    fn advance(&mut self) -> io::Result<Option<Item>> {
        let following = match self.items.read()? {
            None => None,
            Some(noted) => Some(Item { noted, stamp: read_stamp(self.items.beside())? }),
        };
        Ok(std::mem::replace(&mut self.next, following))
    }

    /// Takes the next item, if its path is before `path`.
    pub(crate) fn before(&mut self, path: Option<&TreePath>) -> Result<Option<Item>, Error> {
        let is_before =
            |item: &Item| path.is_none_or(|path| item.noted.entry.path.cmp(path) == std::cmp::Ordering::Less);
        match &self.next {
            Some(item) if is_before(item) => self.advance().map_err(failed("read", FILE)),
            _ => Ok(None),
        }
    }

    /// Takes the item at `path`, where the next one is.
    pub(crate) fn at(&mut self, path: &TreePath) -> Result<Option<Item>, Error> {
        match &self.next {
            Some(item) if item.noted.entry.path == *path => self.advance().map_err(failed("read", FILE)),
            _ => Ok(None),
        }
    }

    /// Whether the file is certainly as it was recorded.
    pub(crate) fn is_untouched(&self, item: &Item, metadata: &Metadata) -> bool {
        let (seconds, nanoseconds) = metadata.changed;
        let changed = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        item.stamp == Stamp::of(metadata) && changed + TICK_NANOSECONDS < self.recorded
    }
}

impl Item {
    /// The number of the file that this name belongs to, where it has other names.
    pub(crate) fn linked_inode(&self) -> Option<u64> {
        self.stamp.linked_inode()
    }

    /// Whether the file at hand is the recorded one in all but times. Its digest, where it had to be read.
    pub(crate) fn is_same(&self, node: &mut Node) -> io::Result<(bool, Option<FileDigest>)> {
        let old = &self.noted.entry;
        let new = &node.entry;
        let shape = |entry: &lithify_oci::Entry| (entry.mode, entry.uid, entry.gid);
        let capability =
            |entry: &lithify_oci::Entry| entry.xattrs.get(lithify_oci::layer::CAPABILITY).cloned();
        if old.kind != new.kind || shape(old) != shape(new) || capability(old) != capability(new) {
            return Ok((false, None));
        }
        match new.kind {
            EntryKind::File { .. } => {
                let digest = digest(node)?;
                Ok((self.noted.digest == Some(digest), Some(digest)))
            }
            _ => Ok((true, None)),
        }
    }
}

fn read_stamp(input: &mut impl Read) -> io::Result<Stamp> {
    let mut bytes = [0; Stamp::BYTES];
    input.read_exact(&mut bytes)?;
    Ok(Stamp::from_bytes(&bytes))
}

fn digest(node: &mut Node) -> io::Result<FileDigest> {
    let mut hash = FileHasher::default();
    io::copy(&mut *node.open()?, &mut hash)?;
    Ok(hash.finish())
}

/// What an old record says of the files that nothing newer is known of.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Trust {
    /// They are what it says: the tree is a copy of the recorded one, or has only had known files written to it.
    Paths,
    /// They are what it says if they are untouched since.
    Stamps,
}

/// Digests by path; `None` for what must be read again.
pub(crate) type Fresh = HashMap<TreePath, Option<FileDigest>>;

/// Writes the record of `tree`, whose files' owners are `owners`, into `folder`, in place of the one that may be there.
pub(crate) fn write(
    folder: BorrowedFd<'_>,
    (owners, tree): (Owners, BorrowedFd<'_>),
    mut old: Option<Record>,
    trust: Trust,
    fresh: &Fresh,
) -> Result<(), Error> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, NEW, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| failed("write", NEW)(error.into()))?;
    let mut out = BufWriter::with_capacity(64 << 10, File::from(file));
    let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
    let recorded = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    out.write_all(&recorded.to_le_bytes()).map_err(failed("write", NEW))?;
    let mut writer = Writer { owners, items: ItemWriter::new(out), trust, fresh, linked: HashMap::new() };
    let root = tree::metadata(tree, b"").map_err(Error::file("look at", &TreePath::root()))?;
    writer.item(&mut old, tree, b"", &TreePath::root(), &root)?;
    tree::walk::<WalkFailed>(tree, &mut |visit| {
        if visit.metadata.kind != FileType::Socket {
            let path = TreePath::checked(visit.path).unwrap_or_default();
            writer.item(&mut old, visit.directory, visit.name.to_bytes(), &path, visit.metadata)?;
        }
        Ok(tree::Descend::Yes)
    })?;
    let finished = writer.items.finish().and_then(|mut out| out.flush());
    finished.map_err(failed("write", NEW))?;
    rustix::fs::renameat(folder, NEW, folder, FILE).map_err(|error| failed("name", FILE)(error.into()))
}

/// Lets our errors through a walk.
pub(crate) struct WalkFailed(Error);

impl From<Error> for WalkFailed {
    fn from(error: Error) -> Self {
        WalkFailed(error)
    }
}

impl From<tree::WalkError> for WalkFailed {
    fn from(error: tree::WalkError) -> Self {
        let path = TreePath::checked(&error.path).unwrap_or_default();
        WalkFailed(Error::File { action: "read", path, source: error.source })
    }
}

impl From<WalkFailed> for Error {
    fn from(failed: WalkFailed) -> Self {
        failed.0
    }
}

struct Writer<'a> {
    owners: Owners,
    items: ItemWriter<BufWriter<File>>,
    trust: Trust,
    fresh: &'a Fresh,
    linked: HashMap<u64, FileDigest>,
}

impl Writer<'_> {
    fn item(
        &mut self,
        old: &mut Option<Record>,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<(), Error> {
        let mut known = None;
        if let Some(old) = old {
            while old.before(Some(path))?.is_some() {}
            known = old.at(path)?.filter(|item| {
                old.is_untouched(item, metadata) || (self.trust == Trust::Paths && is_file(item, metadata))
            });
        }
        let fresh = self.fresh.get(path);
        let noted = match known {
            Some(item) if fresh.is_none() => item.noted,
            _ => {
                let node =
                    node::read(self.owners, directory, name, path).map_err(Error::file("read", path))?;
                let Some(mut node) = node else { return Ok(()) };
                let digest = self.digest(&mut node, fresh.copied().flatten());
                let digest = digest.map_err(Error::file("read", path))?;
                CatalogueEntry { entry: node.entry, digest, compiled: None }
            }
        };
        let stamp = Stamp::of(metadata);
        if let (Some(inode), Some(digest)) = (stamp.linked_inode(), noted.digest) {
            self.linked.insert(inode, digest);
        }
        let written = self.items.write(&noted.entry, noted.digest, None);
        written.and_then(|()| self.items.beside().write_all(&stamp.to_bytes())).map_err(failed("write", NEW))
    }

    fn digest(&self, node: &mut Node, fresh: Option<FileDigest>) -> io::Result<Option<FileDigest>> {
        if !matches!(node.entry.kind, EntryKind::File { .. }) {
            return Ok(None);
        }
        let linked = Stamp::of(&node.metadata).linked_inode().and_then(|inode| self.linked.get(&inode));
        match fresh.or(linked.copied()) {
            Some(digest) => Ok(Some(digest)),
            None => digest(node).map(Some),
        }
    }
}

/// Whether what is recorded and what is there are regular files of one size.
fn is_file(item: &Item, metadata: &Metadata) -> bool {
    metadata.kind == FileType::RegularFile
        && item.noted.entry.kind == EntryKind::File { size_bytes: metadata.size_bytes }
}
