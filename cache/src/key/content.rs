//! Hashing what a COPY selects, or what a bind mount shows.

use lithify_graph::Copy;
use lithify_oci::{Digest, Entry, EntryKind, FileDigest};
use sha2::{Digest as _, Sha256};

use super::Part;
use super::copy::octal;
use super::explanation::file_name;

/// The one extended attribute that a layer carries.
const CAPABILITY: &[u8] = b"security.capability";

/// How many files or folders an explanation tells apart.
const DETAILS: usize = 256;

/// The content of what was selected: paths, kinds, modes, owners, link targets, devices, capabilities and bytes; never times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentDigest(Digest);

impl ContentDigest {
    /// The digest.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

/// What one source of a COPY selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceContent {
    digest: ContentDigest,
    details: Vec<Part>,
}

impl SourceContent {
    /// The digest of all of it.
    pub fn digest(&self) -> ContentDigest {
        self.digest
    }

    /// Digests of its files, or of its topmost folders where there are many, for explanations.
    pub(super) fn details(&self) -> &[Part] {
        &self.details
    }
}

/// What a source, or one match of a source's pattern, is. It decides where a COPY puts things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// A folder, whose contents are copied.
    Folder,
    /// Anything else, which is copied itself.
    Single,
}

/// Hashes entries, fed in canonical order. An entry's path is the one that it will have below the destination: its own
/// name for a single file, the path below the folder for what is in one, the kept path with `--parents`.
pub struct ContentHasher {
    hasher: Sha256,
    modes: Counted,
    owners: Counted,
    files: Vec<Part>,
    groups: Vec<Part>,
    group: Option<Group>,
    entries: usize,
}

/// What lies at or below one topmost name.
struct Group {
    top: Vec<u8>,
    is_folder: bool,
    hasher: Sha256,
}

/// Whether something counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Yes,
    No,
}

impl ContentHasher {
    /// For what is read as it is, such as a bind mount: everything counts.
    pub fn new() -> Self {
        ContentHasher {
            hasher: Sha256::new(),
            modes: Counted::Yes,
            owners: Counted::Yes,
            files: vec![],
            groups: vec![],
            group: None,
            entries: 0,
        }
    }

    /// For the sources of a COPY: what `--chmod` in octal digits or `--chown` replaces does not count. (`--parents`
    /// also makes folders, which keep what they have.)
    pub fn for_copy(copy: &Copy) -> Self {
        let counts = |replaced: bool| if replaced && !copy.parents { Counted::No } else { Counted::Yes };
        ContentHasher {
            modes: counts(copy.mode.as_deref().and_then(octal).is_some()),
            owners: counts(copy.owner.is_some()),
            ..ContentHasher::new()
        }
    }

    /// To be called before the entries of each match.
    pub fn matched(&mut self, what: Matched) {
        self.close_group();
        self.hasher.update([b'M', u8::from(what == Matched::Folder)]);
    }

    /// Adds one entry; `content` is the digest of a regular file's bytes. A hard link counts as the file that it is a
    /// name of, so it comes with that file's content too: which name came first does not matter.
    pub fn add(&mut self, entry: &Entry, content: Option<&FileDigest>) {
        let record = self.encode(entry, content);
        self.hasher.update((record.len() as u64).to_be_bytes());
        self.hasher.update(&record);
        self.explain(entry, &record);
    }

    fn encode(&self, entry: &Entry, content: Option<&FileDigest>) -> Vec<u8> {
        let mut record = Vec::with_capacity(128);
        let path = entry.path.as_bytes();
        put(&mut record, path);
        let (kind, target, device): (u8, &[u8], _) = match &entry.kind {
            EntryKind::Directory => (b'd', b"", None),
            EntryKind::File { .. } | EntryKind::HardLink { .. } => (b'f', b"", None),
            EntryKind::Symlink { target } => (b'l', target, None),
            EntryKind::CharDevice(device) => (b'c', b"", Some(device)),
            EntryKind::BlockDevice(device) => (b'b', b"", Some(device)),
            EntryKind::Fifo => (b'p', b"", None),
            EntryKind::Whiteout => (b'w', b"", None),
            EntryKind::Opaque => (b'o', b"", None),
        };
        record.push(kind);
        put(&mut record, target);
        let (major, minor) = device.map_or((0, 0), |device| (device.major, device.minor));
        let mode = if self.modes == Counted::No || kind == b'l' { 0 } else { entry.mode };
        let (uid, gid) = if self.owners == Counted::No { (0, 0) } else { (entry.uid, entry.gid) };
        [major, minor, mode, uid, gid]
            .iter()
            .for_each(|number| record.extend_from_slice(&number.to_be_bytes()));
        put(&mut record, entry.xattrs.get(CAPABILITY).map_or(b"", Vec::as_slice));
        put(&mut record, content.map_or(b"", |digest| digest.as_bytes().as_slice()));
        record
    }

    /// Keeps a short hash of each of the first files, and of each topmost folder.
    fn explain(&mut self, entry: &Entry, record: &[u8]) {
        self.entries += 1;
        if self.entries <= DETAILS {
            self.files.push(Part::new(file_name(entry.path.as_bytes(), false), record));
        }
        let top = entry.path.components().next().unwrap_or_default();
        if self.group.as_ref().is_none_or(|open| open.top != top) {
            self.close_group();
            let is_folder = top.len() < entry.path.as_bytes().len() || entry.kind == EntryKind::Directory;
            self.group = Some(Group { top: top.to_owned(), is_folder, hasher: Sha256::new() });
        }
        if let Some(group) = &mut self.group {
            group.hasher.update(record);
        }
    }

    fn close_group(&mut self) {
        if let Some(Group { top, is_folder, hasher }) = self.group.take()
            && self.groups.len() <= DETAILS
        {
            self.groups.push(Part::new(file_name(&top, is_folder), &hasher.finalize()));
        }
    }

    /// The digest of all that was added.
    pub fn finish(mut self) -> SourceContent {
        self.close_group();
        let details = match self.entries {
            0..=DETAILS => self.files,
            _ if self.groups.len() <= DETAILS => self.groups,
            _ => vec![],
        };
        SourceContent { digest: ContentDigest(Digest::from_bytes(self.hasher.finalize().into())), details }
    }
}

impl Default for ContentHasher {
    fn default() -> Self {
        ContentHasher::new()
    }
}

fn put(record: &mut Vec<u8>, value: &[u8]) {
    record.extend_from_slice(&(value.len() as u64).to_be_bytes());
    record.extend_from_slice(value);
}
