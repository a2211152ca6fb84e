//! A layer's blob made from the stored layer for the options asked for: times and compression never change what a step
//! makes, and a blob is made once for each set of options.

use std::io::{self, Read};

use lithify_cache::{LayerBlob, LayerFacts, Store};
use lithify_oci::layer::{
    Catalogue, CatalogueEntry, Compiled, Compression, InLayer, Layer, LayerWriter, Limits, Mended, Times,
    Written, decompress, read_tar, recompress,
};
use lithify_oci::{Content, Descriptor, Digest, Entry, EntrySink};

/// How an image's layers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// How they are compressed.
    pub compression: Compression,
    /// Which times their files, the configuration and the history have; those of base images stay.
    pub times: Times,
    /// Whether layers of base images are compressed anew where they are compressed otherwise.
    pub force_compression: bool,
}

impl Default for Encoding {
    fn default() -> Self {
        Encoding { compression: Compression::default(), times: Times::At(0), force_compression: false }
    }
}

impl Encoding {
    /// A layer that was built, in this encoding: its diffID, which differs where the times do, and its blob.
    ///
    /// # Errors
    /// A store that cannot be read or written, and one that has lost the layer.
    pub(crate) fn own(&self, store: &Store, diff_id: &Digest) -> io::Result<(Digest, Descriptor)> {
        if self.times == Times::At(0) {
            return Ok((*diff_id, self.of_plain(store, diff_id)?));
        }
        let (digest, catalogue) = catalogue_of(store, diff_id)?;
        let times = match self.times {
            Times::At(seconds) => format!("at {seconds}"),
            Times::Preserve | Times::Exact => format!("preserve {digest}"),
        };
        if let Some(known) = store.retimed(diff_id, &times)?
            && let Some(blob) = self.known(store, &known)?
        {
            return Ok((known, blob));
        }
        let new = store.create_file()?;
        let mut writer = LayerWriter::new(new.file().try_clone()?, self.compression, self.times)?;
        let mut retime = Retime { writer: &mut writer, entries: catalogue.entries()?, times: self.times };
        read_tar(open_layer(store, diff_id)?, &mut retime, Limits::default())?;
        let (_, Written { layer, .. }) = writer.finish()?;
        new.commit_as(layer.blob.digest, layer.blob.size_bytes)?;
        self.remember(store, &layer)?;
        store.remember_retimed(diff_id, &times, &layer.diff_id)?;
        Ok((layer.diff_id, layer.blob))
    }

    /// A base image's layer in this encoding.
    ///
    /// # Errors
    /// As [`Encoding::own`]; the blob must be in the store where it is to be compressed anew.
    pub(crate) fn base(&self, store: &Store, diff_id: &Digest, blob: &Descriptor) -> io::Result<Descriptor> {
        if !self.force_compression || blob.media_type == self.compression.media_type() {
            return Ok(blob.clone());
        }
        if let Some(known) = self.known(store, diff_id)? {
            return Ok(known);
        }
        self.compress(store, diff_id, store.open_blob(&blob.digest)?)
    }

    /// The layer's archive as it is.
    fn of_plain(&self, store: &Store, diff_id: &Digest) -> io::Result<Descriptor> {
        match self.known(store, diff_id)? {
            Some(known) => Ok(known),
            None => self.compress(store, diff_id, open_layer(store, diff_id)?),
        }
    }

    fn compress(&self, store: &Store, diff_id: &Digest, blob: impl Read + Send) -> io::Result<Descriptor> {
        let new = store.create_file()?;
        let (_, layer) = recompress(decompress(blob)?, new.file().try_clone()?, self.compression)?;
        if layer.diff_id != *diff_id {
            let problem = format!("the blob of the layer {diff_id} holds {}", layer.diff_id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        new.commit_as(layer.blob.digest, layer.blob.size_bytes)?;
        self.remember(store, &layer)?;
        Ok(layer.blob)
    }

    /// The blob that was made for these options before.
    fn known(&self, store: &Store, diff_id: &Digest) -> io::Result<Option<Descriptor>> {
        let identity = self.compression.identity();
        let blobs = store.layer(diff_id)?.map(|facts| facts.blobs).unwrap_or_default();
        let known = blobs.into_iter().find(|blob| blob.codec == identity).map(|blob| blob.descriptor);
        match known {
            Some(blob) if store.is_available(&blob.digest)? => Ok(Some(blob)),
            _ => Ok(None),
        }
    }

    fn remember(&self, store: &Store, layer: &Layer) -> io::Result<()> {
        let blob = LayerBlob { codec: self.compression.identity(), descriptor: layer.blob.clone() };
        let facts =
            LayerFacts { size_bytes: layer.uncompressed_size_bytes, blobs: vec![blob], catalogue: None };
        Ok(store.remember_layer(&layer.diff_id, &facts)?)
    }
}

/// The newest real time of a layer's files, in whole seconds; `None` for a layer of nothing.
pub(crate) fn newest(store: &Store, diff_id: &Digest) -> io::Result<Option<i64>> {
    let (_, catalogue) = catalogue_of(store, diff_id)?;
    let mut newest = None;
    for item in catalogue.entries()? {
        newest = newest.max(Some(item?.entry.modified.seconds));
    }
    Ok(newest)
}

pub(crate) fn catalogue_of(store: &Store, diff_id: &Digest) -> io::Result<(Digest, Catalogue)> {
    let digest = store.layer(diff_id)?.and_then(|facts| facts.catalogue);
    let digest = digest.ok_or_else(|| lost(diff_id))?;
    let mut bytes = vec![];
    store.open_blob(&digest)?.read_to_end(&mut bytes)?;
    Ok((digest, Catalogue::read(bytes)?))
}

/// The plain archive of a layer that was built.
fn open_layer(store: &Store, diff_id: &Digest) -> io::Result<Box<dyn Read + Send>> {
    let blobs = store.layer(diff_id)?.map(|facts| facts.blobs).unwrap_or_default();
    let opened = blobs.iter().find_map(|blob| store.open_blob(&blob.descriptor.digest).ok());
    decompress(opened.ok_or_else(|| lost(diff_id))?)
}

fn lost(diff_id: &Digest) -> io::Error {
    let problem = format!("the store has lost the layer {diff_id}: build again with --no-cache");
    io::Error::new(io::ErrorKind::NotFound, problem)
}

/// Gives entries their real times, and compiled Python the time that its source gets.
struct Retime<'a, I> {
    writer: &'a mut dyn EntrySink,
    entries: I,
    times: Times,
}

impl<I: Iterator<Item = io::Result<CatalogueEntry>>> EntrySink for Retime<'_, I> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let real = self.entries.next().transpose()?.filter(|real| real.entry.path == entry.path);
        let Some(real) = real else {
            let problem = format!("the catalogue of a layer does not have {}", entry.path);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        };
        let entry = Entry { modified: real.entry.modified, ..entry.clone() };
        match (real.compiled, self.times) {
            (Some(Compiled { in_layer: InLayer::AsSource, source_seconds }), times) => {
                let source_seconds = match times {
                    Times::At(seconds) => seconds as u32,
                    Times::Preserve | Times::Exact => source_seconds,
                };
                self.writer.entry(&entry, &mut Mended { content, source_seconds })
            }
            _ => self.writer.entry(&entry, content),
        }
    }
}

/// A moment as configurations have it (RFC 3339).
pub(crate) fn rfc3339(unix_seconds: i64) -> String {
    let (days, second) = (unix_seconds.div_euclid(86_400), unix_seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let check = |seconds: i64, expected: &str| assert_eq!(rfc3339(seconds), expected);
        check(0, "1970-01-01T00:00:00Z");
        check(-1, "1969-12-31T23:59:59Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(1_700_000_000, "2023-11-14T22:13:20Z");
        check(4_107_542_399, "2100-02-28T23:59:59Z");
    }
}
