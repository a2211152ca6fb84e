//! Whether a layer that came from afar is what its cache says.

use std::io::{self, Read, Write};

use lithify_oci::layer::{
    CAPABILITY, Catalogue, CatalogueEntry, CatalogueWriter, Compiled, InLayer, Limits, Mended, decompress,
    read_tar, source_of,
};
use lithify_oci::{Content, Digest, DigestWriter, Entry, EntryKind, EntrySink, FileDigest, FileHasher};

/// Unpacks `blob` to nowhere, and compares it with what is claimed. Gives its uncompressed size, and a catalogue: the
/// claimed one, or where there is none one with the times that the layer itself has.
///
/// # Errors
/// `InvalidData` for anything that does not fit; failures to read.
pub(super) fn layer(
    blob: impl Read + Send,
    diff_id: &Digest,
    size_bytes: Option<u64>,
    catalogue: Option<Vec<u8>>,
) -> io::Result<(u64, Vec<u8>)> {
    let limit_bytes = size_bytes.map_or(u64::MAX, |size| size.saturating_add(1));
    let mut archive =
        Hashed { inner: decompress(blob)?.take(limit_bytes), hash: DigestWriter::new(io::sink()) };
    let catalogue = match catalogue {
        Some(bytes) => {
            let catalogue = Catalogue::read(bytes)?;
            let mut check = Check { claimed: catalogue.entries()? };
            read_tar(&mut archive, &mut check, Limits::default())?;
            if check.claimed.next().is_some() {
                return Err(invalid("its catalogue has files that it has not"));
            }
            drop(check);
            catalogue.as_bytes().to_vec()
        }
        None => {
            let mut sink = Describe { writer: CatalogueWriter::new(vec![])? };
            read_tar(&mut archive, &mut sink, Limits::default())?;
            sink.writer.finish()?
        }
    };
    let (_, found, found_bytes) = archive.hash.finish();
    if found != *diff_id || size_bytes.is_some_and(|size| size != found_bytes) {
        let problem = format!("it was to unpack to {diff_id}, but unpacks to {found} ({found_bytes} bytes)");
        return Err(invalid(&problem));
    }
    Ok((found_bytes, catalogue))
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

struct Hashed<R> {
    inner: R,
    hash: DigestWriter<io::Sink>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// The digest of a file's content as it is in the tree; `None` for what is no file.
fn content_digest(
    entry: &Entry,
    content: &mut dyn Content,
    compiled: Option<Compiled>,
) -> io::Result<Option<FileDigest>> {
    if !matches!(entry.kind, EntryKind::File { .. }) {
        return Ok(None);
    }
    let mut hash = FileHasher::default();
    match compiled {
        Some(Compiled { source_seconds, in_layer: InLayer::AsSource }) => {
            io::copy(&mut Mended { content, source_seconds }.open()?, &mut hash)?
        }
        _ => io::copy(&mut content.open()?, &mut hash)?,
    };
    Ok(Some(hash.finish()))
}

/// Compares entries with those of the claimed catalogue, one by one.
struct Check<I> {
    claimed: I,
}

impl<I: Iterator<Item = io::Result<CatalogueEntry>>> EntrySink for Check<I> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let claimed = self.claimed.next().transpose()?;
        // Nothing but the time in the header of compiled Python may be another one in the tree.
        let compiled =
            claimed.as_ref().and_then(|claimed| claimed.compiled).filter(|_| source_of(entry).is_some());
        let digest = content_digest(entry, content, compiled)?;
        let fits = claimed.is_some_and(|claimed| {
            let mut same = Entry { modified: entry.modified, ..claimed.entry.clone() };
            // A layer carries this one; a catalogue knows what else the file had.
            same.xattrs.retain(|name, _| name == CAPABILITY);
            same == *entry
                && claimed.digest == digest
                && claimed.compiled == compiled
                && claimed.entry.modified.nanoseconds < 1_000_000_000
        });
        if fits { Ok(()) } else { Err(invalid(&format!("its catalogue does not fit at {}", entry.path))) }
    }
}

/// Writes a catalogue of what comes by.
struct Describe {
    writer: CatalogueWriter<Vec<u8>>,
}

impl EntrySink for Describe {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let digest = content_digest(entry, content, None)?;
        self.writer.add(entry, digest, None)
    }
}
