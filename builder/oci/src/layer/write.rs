//! Entries to tar, by the byte rules of [`super`].

use std::cmp::Ordering;
use std::io::{self, Read, Write};

use super::header::{BLOCK, Header, Records, XATTR, encode_records, flag};
use super::{OPAQUE_NAME, Times, WHITEOUT_PREFIX, layer_order};
use crate::{Content, Device, Entry, EntryKind, EntrySink, Timestamp, TreePath};

/// Large enough to go past the buffers of those it reads from.
const BUFFER: usize = 128 << 10;

/// The one attribute that a layer carries.
pub const CAPABILITY: &[u8] = b"security.capability";

/// Writes entries as a tar archive.
///
/// With [`Times::At`] and [`Times::Preserve`] it writes layers, and refuses what a layer of ours may not hold: entries out
/// of order, opaque markers, names that would be read as whiteouts. With [`Times::Exact`] it carries whatever comes.
pub struct TarWriter<W> {
    out: W,
    times: Times,
    last: Option<(TreePath, bool)>,
    buffer: Box<[u8]>,
}

impl<W: Write> TarWriter<W> {
    /// Writes to `out`, in pieces of all sizes.
    pub fn new(out: W, times: Times) -> Self {
        TarWriter { out, times, last: None, buffer: vec![0; BUFFER].into() }
    }

    /// Writes the end of the archive and gives back the writer.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    /// Writes a file whose content `write` brings, in place of a reader: exactly as many bytes as the entry announces.
    ///
    /// # Errors
    /// Those of the writer and of `write`.
    pub fn file_by(
        &mut self,
        entry: &Entry,
        write: impl FnOnce(&mut W, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let EntryKind::File { size_bytes } = entry.kind else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file", entry.path)));
        };
        self.check(entry)?;
        self.header(entry)?;
        write(&mut self.out, size_bytes)?;
        self.pad(size_bytes)
    }

    fn check(&mut self, entry: &Entry) -> io::Result<()> {
        let whiteout = entry.kind == EntryKind::Whiteout;
        let invalid = |problem: &str| {
            let message = format!("{} cannot be in a layer: {problem}", entry.path);
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        };
        if entry.path.is_root() && !matches!(entry.kind, EntryKind::Directory | EntryKind::Opaque) {
            return invalid("the root is a folder");
        }
        if entry.path.file_name().is_some_and(|name| name.starts_with(WHITEOUT_PREFIX)) {
            return invalid("names that start with .wh. mark what was removed");
        }
        if self.times == Times::Exact {
            return Ok(());
        }
        if entry.kind == EntryKind::Opaque {
            return invalid("opaque markers are written out as whiteouts");
        }
        if let Some((path, was_whiteout)) = &self.last
            && layer_order((path, *was_whiteout), (&entry.path, whiteout)) != Ordering::Less
        {
            return invalid(&format!("it is out of order after {path}"));
        }
        self.last = Some((entry.path.clone(), whiteout));
        Ok(())
    }

    fn header(&mut self, entry: &Entry) -> io::Result<()> {
        let mut records = self.attributes(entry);
        let (kind, size) = match &entry.kind {
            EntryKind::Directory => (flag::DIRECTORY, 0),
            EntryKind::File { size_bytes } => (flag::FILE, *size_bytes),
            EntryKind::Symlink { .. } => (flag::SYMLINK, 0),
            EntryKind::HardLink { .. } => (flag::HARD_LINK, 0),
            EntryKind::CharDevice(_) => (flag::CHAR_DEVICE, 0),
            EntryKind::BlockDevice(_) => (flag::BLOCK_DEVICE, 0),
            EntryKind::Fifo => (flag::FIFO, 0),
            EntryKind::Whiteout | EntryKind::Opaque => (flag::FILE, 0),
        };
        let mut header = Header::new(kind);
        header.set_name(&archive_name(entry), &mut records);
        header.set_size(size, &mut records);
        header.set_mtime(self.time(entry), &mut records);
        if !matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque) {
            header.set_mode(entry.mode);
            header.set_uid(entry.uid, &mut records);
            header.set_gid(entry.gid, &mut records);
        }
        match &entry.kind {
            EntryKind::Symlink { target } => header.set_link(target, &mut records),
            EntryKind::HardLink { target } => header.set_link(target.as_bytes(), &mut records),
            EntryKind::CharDevice(Device { major, minor })
            | EntryKind::BlockDevice(Device { major, minor })
                if !header.set_device(*major, *minor) =>
            {
                let message = format!("{} has a device number that no archive can hold", entry.path);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            _ => {}
        }
        header.seal();
        self.records(&records)?;
        self.out.write_all(&header.0)
    }

    fn time(&self, entry: &Entry) -> Timestamp {
        let whole = |seconds| Timestamp { seconds, nanoseconds: 0 };
        match self.times {
            Times::At(seconds) => whole(seconds),
            Times::Preserve => whole(entry.modified.seconds),
            Times::Exact => entry.modified,
        }
    }

    fn attributes(&self, entry: &Entry) -> Records {
        // A hard link has no attributes of its own.
        if matches!(entry.kind, EntryKind::HardLink { .. }) {
            return Records::new();
        }
        let wanted = entry.xattrs.iter().filter(|(name, _)| {
            // '=' ends the key of a record, so such a name cannot be said.
            (self.times == Times::Exact && !name.contains(&b'=')) || *name == CAPABILITY
        });
        wanted.map(|(name, value)| ([XATTR, name].concat(), value.clone())).collect()
    }

    fn records(&mut self, records: &Records) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let bytes = encode_records(records);
        let mut none = Records::new();
        let mut header = Header::new(flag::PAX);
        // The name that Python's tarfile gives it; nobody reads it.
        header.set_name(b"././@PaxHeader", &mut none);
        header.set_size(bytes.len() as u64, &mut none);
        header.seal();
        self.out.write_all(&header.0)?;
        self.out.write_all(&bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let over = (length % BLOCK as u64) as usize;
        if over > 0 {
            self.out.write_all(&[0; BLOCK][over..])?;
        }
        Ok(())
    }

    fn content(&mut self, entry: &Entry, size: u64, content: &mut dyn Content) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        let mut reader = content.open()?;
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let got = match reader.read(&mut self.buffer[..want]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if got == 0 {
                let message = format!(
                    "{} became shorter while it was read: {left} of {size} bytes are missing",
                    entry.path
                );
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            self.out.write_all(&self.buffer[..got])?;
            left -= got as u64;
        }
        drop(reader);
        self.pad(size)
    }
}

impl<W: Write> EntrySink for TarWriter<W> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        self.check(entry)?;
        self.header(entry)?;
        match entry.kind {
            EntryKind::File { size_bytes } => self.content(entry, size_bytes, content),
            _ => Ok(()),
        }
    }
}

/// The name in the archive: no leading slash, folders end in one, whiteouts carry their prefix.
fn archive_name(entry: &Entry) -> Vec<u8> {
    let path = entry.path.as_bytes();
    match entry.kind {
        EntryKind::Directory if path.is_empty() => b"./".to_vec(),
        EntryKind::Directory => [path, b"/"].concat(),
        EntryKind::Whiteout => {
            let name = entry.path.file_name().unwrap_or_default();
            [&path[..path.len() - name.len()], WHITEOUT_PREFIX, name].concat()
        }
        EntryKind::Opaque if path.is_empty() => OPAQUE_NAME.to_vec(),
        EntryKind::Opaque => [path, b"/", OPAQUE_NAME].concat(),
        _ => path.to_vec(),
    }
}
