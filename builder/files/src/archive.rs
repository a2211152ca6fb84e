//! Archives that ADD unpacks: known by their content, read in any order, given in canonical order.

mod settle;
mod sniff;
#[cfg(test)]
mod tests;

use std::env;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lithify_oci::entry::NoContent;
use lithify_oci::layer::{Limits, read_archive};
use lithify_oci::{Content, Entry, EntryKind, EntrySink, TreePath};

use rustix::fs::FileType;

use crate::Error;
use crate::facts::CAPABILITY;
use crate::plant::{Planted, Planter};
use crate::select::{Match, open_content};

/// An archive whose headers have been read. What it holds is what unpacking it into an empty folder would leave there:
/// later entries win over earlier ones, and links that it makes are followed.
#[derive(Debug)]
pub struct Archive {
    /// As they stand in the archive.
    raw: Vec<Raw>,
    /// What is left of them, in canonical order.
    items: Vec<Item>,
    /// The archive, not compressed.
    tar: File,
    /// The contents of sparse files, which the archive does not hold as they are.
    expanded: Option<File>,
}

#[derive(Debug)]
struct Raw {
    entry: Entry,
    place: Place,
}

/// Where a content is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Tar { offset_bytes: u64 },
    Expanded { offset_bytes: u64 },
}

#[derive(Debug)]
struct Item {
    entry: Entry,
    place: Place,
    /// The number of the first name of a hard link.
    link_of: Option<u32>,
}

/// Opens `file` as an archive: a tar that is plain or compressed with gzip, bzip2, xz or zstd, whatever its name. `None` if
/// it is none, an empty one too: ADD copies it then. A compressed one is written to an unlinked file in the folder for
/// temporary files.
///
/// # Errors
/// What reading says, and what is wrong with an archive after its first header.
pub fn open(file: File) -> io::Result<Option<Archive>> {
    open_with(file, &env::temp_dir())
}

/// Opens a selected file below `root` as an archive. `None` for folders and special files too.
///
/// # Errors
/// As [`open`], and where the file cannot be opened.
pub fn open_match(root: BorrowedFd<'_>, found: &Match) -> io::Result<Option<Archive>> {
    match found.top.kind {
        FileType::RegularFile => open(open_content(root, &found.base)?),
        _ => Ok(None),
    }
}

/// As [`open`], with the folder for temporary files.
///
/// # Errors
/// As [`open`].
pub fn open_with(mut file: File, temporary: &Path) -> io::Result<Option<Archive>> {
    file.seek(SeekFrom::Start(0))?;
    let mut magic = [0; 8];
    let length = file.read_at(&mut magic, 0)?;
    let compression = sniff::Compression::of(&magic[..length]);
    if !sniff::is_tar(compression.reader(BufReader::new(&file))) {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(0))?;
    let tar = match compression {
        sniff::Compression::None => file,
        _ => {
            let mut spool = tempfile::tempfile_in(temporary)?;
            io::copy(&mut compression.reader(BufReader::with_capacity(128 << 10, &file))?, &mut spool)?;
            spool
        }
    };
    Archive::read(tar, temporary).map(Some)
}

/// Whether a file is compressed with gzip, bzip2, xz or zstd, by its first bytes.
///
/// # Errors
/// What reading says.
pub fn is_compressed(file: &File) -> io::Result<bool> {
    let mut magic = [0; 8];
    let length = file.read_at(&mut magic, 0)?;
    Ok(sniff::Compression::of(&magic[..length]) != sniff::Compression::None)
}

impl Archive {
    fn read(mut tar: File, temporary: &Path) -> io::Result<Archive> {
        tar.seek(SeekFrom::Start(0))?;
        let mut collect = Collect { raw: vec![], expanded: None, length_bytes: 0, temporary };
        read_archive(&tar, &mut collect, Limits::default())?;
        let (raw, expanded) = (collect.raw, collect.expanded);
        let items = settle::settle(&raw, &[])?;
        Ok(Archive { raw, items, tar, expanded })
    }

    /// The folders that entries are in, without those that the archive makes itself before: if one is a link in the
    /// destination, what the archive has in it goes where the link leads. For [`crate::dest::links`].
    pub fn folders(&self) -> Vec<TreePath> {
        settle::implied(&self.raw)
    }

    /// Follows links of the destination: each a folder of [`Archive::folders`] and where it leads, both below the
    /// destination.
    ///
    /// # Errors
    /// A link that leads to what the archive makes no folder.
    pub fn follow(&mut self, links: &[(TreePath, TreePath)]) -> io::Result<()> {
        if !links.is_empty() {
            self.items = settle::settle(&self.raw, links)?;
        }
        Ok(())
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// An entry in canonical order; `item` is below [`Archive::len`].
    pub fn entry(&self, item: usize) -> &Entry {
        &self.items[item].entry
    }

    /// The number of the first name of a hard link.
    pub(crate) fn link_of(&self, item: usize) -> Option<usize> {
        self.items[item].link_of.map(|first| first as usize)
    }

    /// Writes everything below `root`, as files of the caller, and gives the device nodes that were left out.
    ///
    /// # Errors
    /// As [`Planter::plant`].
    pub fn unpack(&self, root: BorrowedFd<'_>) -> io::Result<Vec<TreePath>> {
        let mut planter = Planter::new(root)?;
        let mut left_out = vec![];
        for at in 0..self.len() {
            let entry = self.entry(at);
            let planted = match entry.kind {
                EntryKind::File { .. } => planter.plant(entry, &mut self.content(at)?),
                _ => planter.plant(entry, &mut NoContent),
            };
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", entry.path));
            if planted.map_err(named)? == Planted::LeftOut {
                left_out.push(entry.path.clone());
            }
        }
        planter.finish()?;
        Ok(left_out)
    }

    /// The content of an entry.
    ///
    /// # Errors
    /// Where the entry is no regular file, or one more name of one.
    pub fn content(&self, item: usize) -> io::Result<ArchiveContent<'_>> {
        let Item { entry, place, .. } = &self.items[item];
        let EntryKind::File { size_bytes } = entry.kind else {
            let message = format!("{} has no content in the archive", entry.path);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let (file, offset_bytes) = match *place {
            Place::Expanded { offset_bytes } => (self.expanded.as_ref().unwrap_or(&self.tar), offset_bytes),
            Place::Tar { offset_bytes } => (&self.tar, offset_bytes),
        };
        Ok(ArchiveContent { file, position: offset_bytes, left: size_bytes })
    }
}

/// The content of one entry: a piece of a file, read without moving anyone's position.
#[derive(Debug)]
pub struct ArchiveContent<'a> {
    file: &'a File,
    position: u64,
    left: u64,
}

impl Read for ArchiveContent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..wanted], self.position)?;
        if read == 0 && wanted > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive became shorter while it was read",
            ));
        }
        self.position += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Content for ArchiveContent<'_> {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self))
    }
}

/// Takes the headers, and the contents of sparse files.
struct Collect<'a> {
    raw: Vec<Raw>,
    expanded: Option<File>,
    length_bytes: u64,
    temporary: &'a Path,
}

impl EntrySink for Collect<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let place = match (content.position(), &entry.kind) {
            (Some(offset_bytes), _) => Place::Tar { offset_bytes },
            (None, EntryKind::File { size_bytes }) => self.expand(*size_bytes, content)?,
            (None, _) => Place::Tar { offset_bytes: 0 },
        };
        let mut entry = entry.clone();
        // The others never reach a layer, and would make files differ from the same ones in a tree.
        entry.xattrs.retain(|name, _| name == CAPABILITY.as_bytes());
        if matches!(entry.kind, EntryKind::Symlink { .. }) {
            entry.mode = 0o777;
        }
        self.raw.push(Raw { entry, place });
        Ok(())
    }
}

impl Collect<'_> {
    /// Writes a sparse file's content, holes as holes.
    fn expand(&mut self, size_bytes: u64, content: &mut dyn Content) -> io::Result<Place> {
        let file = match &mut self.expanded {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(self.temporary)?),
        };
        let offset_bytes = self.length_bytes;
        let (mut reader, mut chunk) = (content.open()?, vec![0; 64 << 10]);
        let mut position = offset_bytes;
        loop {
            let read = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk[..read].iter().any(|byte| *byte != 0) {
                file.seek(SeekFrom::Start(position))?;
                file.write_all(&chunk[..read])?;
            }
            position += read as u64;
        }
        self.length_bytes = offset_bytes + size_bytes;
        file.set_len(self.length_bytes)?;
        Ok(Place::Expanded { offset_bytes })
    }
}

fn refuse(what: impl Into<String>) -> io::Error {
    Error::Archive { what: what.into() }.into()
}
