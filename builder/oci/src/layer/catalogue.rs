//! What a layer holds: kept beside it, so that its real times can be restored and questions answered without unpacking it.
//!
//! The form is our own: eight bytes of name and version, then, compressed by zstd, one item after the other. An item starts
//! with 1; a 0 ends the list. Numbers are unsigned LEB128; texts have their length before them; a path is the length that it
//! shares with the path before it, and the rest.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};

use super::{Compiled, InLayer};
use crate::{Device, Entry, EntryKind, FileDigest, Timestamp, TreePath};

const MAGIC: &[u8; 8] = b"lithcat1";
/// No text in a catalogue is longer: names have 4096 bytes at most, attributes 64 KiB.
const MAX_TEXT: u64 = 1 << 20;
/// What precedes the digest of a content. 1 stood for SHA-256: such digests are left out, as if they were not known.
const NO_DIGEST: u8 = 0;
const BLAKE3: u8 = 2;
/// The same, and after it the time of a compiled file's source, which its header in the layer says too, or does not.
const COMPILED_AS_IN_TREE: u8 = 3;
const COMPILED_AS_SOURCE: u8 = 4;

/// An entry with its real time, and the digest of its content where it is a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// All but the content.
    pub entry: Entry,
    /// The digest of the content of a regular file.
    pub digest: Option<FileDigest>,
    /// What is known of a compiled Python file. The digest is of its content in the tree.
    pub compiled: Option<Compiled>,
}

/// Writes a catalogue, entry by entry.
pub struct CatalogueWriter<W: Write> {
    items: ItemWriter<zstd::Encoder<'static, W>>,
}

impl<W: Write> CatalogueWriter<W> {
    /// Writes to `out`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(CatalogueWriter { items: ItemWriter::new(zstd::Encoder::new(out, 3)?) })
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add(
        &mut self,
        entry: &Entry,
        digest: Option<FileDigest>,
        compiled: Option<Compiled>,
    ) -> io::Result<()> {
        self.items.write(entry, digest, compiled)
    }

    /// Ends the list and gives back the writer.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> io::Result<W> {
        self.items.finish()?.finish()
    }
}

/// A catalogue in its stored form.
#[derive(Clone, PartialEq, Eq)]
pub struct Catalogue {
    bytes: Vec<u8>,
}

impl Catalogue {
    /// The catalogue of these entries.
    ///
    /// # Errors
    /// None that depend on the entries.
    pub fn write<'a>(entries: impl IntoIterator<Item = &'a CatalogueEntry>) -> io::Result<Self> {
        let mut writer = CatalogueWriter::new(vec![])?;
        for CatalogueEntry { entry, digest, compiled } in entries {
            writer.add(entry, *digest, *compiled)?;
        }
        Ok(Catalogue { bytes: writer.finish()? })
    }

    /// Takes the stored form. Its items are looked at when they are iterated.
    ///
    /// # Errors
    /// `InvalidData` for what is no catalogue, or one of another version.
    pub fn read(bytes: Vec<u8>) -> io::Result<Self> {
        match bytes.starts_with(MAGIC) {
            true => Ok(Catalogue { bytes }),
            false => Err(invalid("it is no catalogue of this version")),
        }
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The entries, in the layer's order.
    ///
    /// # Errors
    /// A decoder that cannot be set up; an item is `InvalidData` where the catalogue is damaged.
    pub fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<CatalogueEntry>> + Send + use<'_>> {
        let decoder = zstd::Decoder::with_buffer(&self.bytes[MAGIC.len()..])?;
        let mut items = ItemReader::new(BufReader::new(decoder));
        Ok(std::iter::from_fn(move || items.read().transpose()))
    }

    /// The entry at `path`, the last one where there are several.
    ///
    /// # Errors
    /// As [`Catalogue::entries`].
    pub fn find(&self, path: &TreePath) -> io::Result<Option<CatalogueEntry>> {
        let mut found = None;
        for item in self.entries()? {
            let item = item?;
            if item.entry.path == *path {
                found = Some(item);
            }
        }
        Ok(found)
    }
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Catalogue({} bytes)", self.bytes.len())
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the catalogue of a layer is damaged: {problem}"))
}

/// Writes items in the form that catalogues hold, uncompressed; more may be written beside each.
pub struct ItemWriter<W> {
    out: W,
    path: TreePath,
}

impl<W: Write> ItemWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        ItemWriter { out, path: TreePath::root() }
    }

    /// Writes one item.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(
        &mut self,
        entry: &Entry,
        digest: Option<FileDigest>,
        compiled: Option<Compiled>,
    ) -> io::Result<()> {
        let mut item = Vec::with_capacity(128);
        item.push(1);
        let path = entry.path.as_bytes();
        let shared = self.path.as_bytes().iter().zip(path).take_while(|(one, other)| one == other).count();
        put(&mut item, shared as u64);
        put_text(&mut item, &path[shared..]);
        put_kind(&mut item, &entry.kind);
        put(&mut item, u64::from(entry.mode));
        put(&mut item, u64::from(entry.uid));
        put(&mut item, u64::from(entry.gid));
        put(&mut item, (entry.modified.seconds << 1 ^ entry.modified.seconds >> 63) as u64);
        put(&mut item, u64::from(entry.modified.nanoseconds));
        put(&mut item, entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            put_text(&mut item, name);
            put_text(&mut item, value);
        }
        if let Some(digest) = digest {
            item.push(match compiled.map(|compiled| compiled.in_layer) {
                None => BLAKE3,
                Some(InLayer::AsInTree) => COMPILED_AS_IN_TREE,
                Some(InLayer::AsSource) => COMPILED_AS_SOURCE,
            });
            item.extend_from_slice(digest.as_bytes());
            if let Some(compiled) = compiled {
                put(&mut item, compiled.source_seconds.into());
            }
        } else {
            item.push(NO_DIGEST);
        }
        self.path = entry.path.clone();
        self.out.write_all(&item)
    }

    /// What is written to, for what stands beside the item.
    pub fn beside(&mut self) -> &mut W {
        &mut self.out
    }

    /// Ends the list and gives back the writer.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0])?;
        Ok(self.out)
    }
}

/// Reads what [`ItemWriter`] wrote.
pub struct ItemReader<R> {
    input: R,
    path: Vec<u8>,
}

impl<R: Read> ItemReader<R> {
    /// Reads from `input`, byte by byte: give it a buffer.
    pub fn new(input: R) -> Self {
        ItemReader { input, path: vec![] }
    }

    /// What is read from, for what stands beside the item.
    pub fn beside(&mut self) -> &mut R {
        &mut self.input
    }

    /// The next item; `None` at the end of the list.
    ///
    /// # Errors
    /// `InvalidData` and `UnexpectedEof` for a list that is damaged, and failures to read.
    pub fn read(&mut self) -> io::Result<Option<CatalogueEntry>> {
        match self.byte()? {
            0 => return Ok(None),
            1 => {}
            _ => return Err(invalid("an item starts with no known mark")),
        }
        let shared = self.number()?;
        let rest = self.text()?;
        if shared > self.path.len() as u64 {
            return Err(invalid("a path shares more than there is"));
        }
        self.path.truncate(shared as usize);
        self.path.extend_from_slice(&rest);
        let path = tree_path(&self.path)?;
        let kind = self.kind()?;
        let mode = self.small()?;
        let (uid, gid) = (self.small()?, self.small()?);
        let seconds = self.number()?;
        let seconds = (seconds >> 1) as i64 ^ -((seconds & 1) as i64);
        let modified = Timestamp { seconds, nanoseconds: self.small()? };
        let mut xattrs = BTreeMap::new();
        let mut room = MAX_TEXT;
        for _ in 0..self.number()? {
            let (name, value) = (self.text()?, self.text()?);
            let more = (name.len() + value.len()) as u64 + 1;
            room = room.checked_sub(more).ok_or_else(|| invalid("a file has too many attributes"))?;
            xattrs.insert(name, value);
        }
        let entry = Entry { path, kind, mode, uid, gid, modified, xattrs };
        let (digest, compiled) = self.content()?;
        Ok(Some(CatalogueEntry { entry, digest, compiled }))
    }

    fn content(&mut self) -> io::Result<(Option<FileDigest>, Option<Compiled>)> {
        let what = self.byte()?;
        if what == NO_DIGEST {
            return Ok((None, None));
        }
        let mut digest = [0; 32];
        self.input.read_exact(&mut digest)?;
        let in_layer = match what {
            COMPILED_AS_IN_TREE => InLayer::AsInTree,
            COMPILED_AS_SOURCE => InLayer::AsSource,
            _ => return Ok(((what == BLAKE3).then(|| FileDigest::from_bytes(digest)), None)),
        };
        let compiled = Compiled { source_seconds: self.small()?, in_layer };
        Ok((Some(FileDigest::from_bytes(digest)), Some(compiled)))
    }

    fn kind(&mut self) -> io::Result<EntryKind> {
        Ok(match self.byte()? {
            0 => EntryKind::Directory,
            1 => EntryKind::File { size_bytes: self.number()? },
            2 => EntryKind::Symlink { target: self.text()? },
            3 => EntryKind::HardLink { target: tree_path(&self.text()?)? },
            4 => EntryKind::CharDevice(Device { major: self.small()?, minor: self.small()? }),
            5 => EntryKind::BlockDevice(Device { major: self.small()?, minor: self.small()? }),
            6 => EntryKind::Fifo,
            7 => EntryKind::Whiteout,
            8 => EntryKind::Opaque,
            _ => return Err(invalid("an item is of no known kind")),
        })
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(invalid("a number has too many digits"))
    }

    fn small(&mut self) -> io::Result<u32> {
        u32::try_from(self.number()?).map_err(|_| invalid("a number is out of range"))
    }

    fn text(&mut self) -> io::Result<Vec<u8>> {
        let length = self.number()?;
        if length > MAX_TEXT {
            return Err(invalid("a text is too long"));
        }
        let mut text = vec![0; length as usize];
        self.input.read_exact(&mut text)?;
        Ok(text)
    }
}

fn tree_path(bytes: &[u8]) -> io::Result<TreePath> {
    TreePath::checked(bytes).ok_or_else(|| invalid("a path climbs"))
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put(out, text.len() as u64);
    out.extend_from_slice(text);
}

fn put_kind(out: &mut Vec<u8>, kind: &EntryKind) {
    let mut numbered = |tag, numbers: &[u64]| {
        out.push(tag);
        numbers.iter().for_each(|number| put(out, *number));
    };
    match kind {
        EntryKind::Directory => numbered(0, &[]),
        EntryKind::File { size_bytes } => numbered(1, &[*size_bytes]),
        EntryKind::Symlink { target } => {
            numbered(2, &[]);
            put_text(out, target);
        }
        EntryKind::HardLink { target } => {
            numbered(3, &[]);
            put_text(out, target.as_bytes());
        }
        EntryKind::CharDevice(device) => numbered(4, &[device.major.into(), device.minor.into()]),
        EntryKind::BlockDevice(device) => numbered(5, &[device.major.into(), device.minor.into()]),
        EntryKind::Fifo => numbered(6, &[]),
        EntryKind::Whiteout => numbered(7, &[]),
        EntryKind::Opaque => numbered(8, &[]),
    }
}
