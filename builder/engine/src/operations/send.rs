//! The files of a copy on their way to the worker: an archive with exact times, written into a pipe.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;

use lithify_files::arrange::{Arrangement, Origin, Part};
use lithify_files::select::open_content;
use lithify_oci::entry::NoContent;
use lithify_oci::layer::{TarWriter, Times};
use lithify_oci::{Content, Entry, EntryKind, EntrySink};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::copy::PartContent;
use super::files::cannot_read;
use crate::error::Failure;

/// Files from this size on go into the pipe without passing through this process.
const LARGE: u64 = 64 << 10;

/// Why files could not be sent.
pub(super) enum Unsent {
    /// The worker does not read them.
    Pipe(io::Error),
    /// They cannot be read.
    File(Failure),
}

pub(super) fn send(arrangement: &Arrangement, origins: &[PartContent], pipe: File) -> Result<(), Unsent> {
    let mut archive = TarWriter::new(BufWriter::with_capacity(256 << 10, pipe), Times::Exact);
    for placed in arrangement.items() {
        let sent = match &placed.origin {
            Origin::Archive { part, item } => {
                let Part::Archive(unpacked) = &arrangement.parts()[*part] else { continue };
                match placed.entry.kind {
                    EntryKind::File { .. } => unpacked
                        .content(*item)
                        .and_then(|mut content| archive.entry(&placed.entry, &mut content)),
                    _ => archive.entry(&placed.entry, &mut NoContent),
                }
            }
            origin => match large_file(&placed.entry, origin, origins) {
                Some(open) => {
                    open.and_then(|file| archive.file_by(&placed.entry, |out, size| pour(&file, out, size)))
                }
                None => archive.entry(&placed.entry, &mut PlacedContent { origins, origin }),
            },
        };
        sent.map_err(|error| match (error.kind(), &placed.origin) {
            (io::ErrorKind::BrokenPipe, _) => Unsent::Pipe(error),
            (_, Origin::Selected { source, .. }) => Unsent::File(cannot_read(source, error)),
            _ => Unsent::File(Failure::Input(format!(
                "cannot read the content of {}: {error}",
                placed.entry.path
            ))),
        })?;
    }
    archive.finish().and_then(|mut pipe| pipe.flush()).map_err(Unsent::Pipe)
}

/// The content of one entry, opened when the archive comes to it.
struct PlacedContent<'a> {
    origins: &'a [PartContent],
    origin: &'a Origin,
}

impl Content for PlacedContent<'_> {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        match self.origin {
            Origin::Made => Ok(Box::new(io::empty())),
            Origin::Inline { part } => match &self.origins[*part] {
                PartContent::Inline(content) => Ok(Box::new(content.as_slice())),
                PartContent::Files(_) => Ok(Box::new(io::empty())),
            },
            Origin::Selected { part, source, .. } => match &self.origins[*part] {
                PartContent::Files(files) => Ok(Box::new(open_content(files.source.root.as_fd(), source)?)),
                PartContent::Inline(_) => Ok(Box::new(io::empty())),
            },
            // `send` takes it from the archive itself.
            Origin::Archive { .. } => Ok(Box::new(io::empty())),
        }
    }
}

/// The file that an entry's content is in, if it is large.
fn large_file(entry: &Entry, origin: &Origin, origins: &[PartContent]) -> Option<io::Result<File>> {
    match (&entry.kind, origin) {
        (EntryKind::File { size_bytes: LARGE.. }, Origin::Selected { part, source, .. }) => {
            match &origins[*part] {
                PartContent::Files(files) => Some(open_content(files.source.root.as_fd(), source)),
                PartContent::Inline(_) => None,
            }
        }
        _ => None,
    }
}

/// Lets the kernel hand the pages of a file to the pipe; those that are written to meanwhile are found out afterwards,
/// as with any file that changes.
fn pour(mut file: &File, pipe: &mut BufWriter<File>, size_bytes: u64) -> io::Result<()> {
    pipe.flush()?;
    let mut left = size_bytes;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        match splice(file, None, pipe.get_ref(), None, most, SpliceFlags::MOVE) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => left -= sent as u64,
            Err(Errno::INTR) => {}
            // Some file systems have no pages to hand out.
            Err(Errno::INVAL) => {
                return match io::copy(&mut Read::by_ref(&mut file).take(left), pipe)? {
                    copied if copied == left => Ok(()),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
