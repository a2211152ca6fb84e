//! What names which blob: the reason for a blob to stay, and to whom it is counted.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use lithify_oci::Digest;

use super::database::{digest_at, maybe_digest_at};
use super::{Guard, Store, images, layers, moment};
use crate::Error;

/// Something that names blobs.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) what: Held,
    /// When it was used last, or came to be.
    pub(super) last_used: SystemTime,
    /// Without repetition.
    pub(super) blobs: Vec<Digest>,
}

/// What a [`Holder`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// An image, by name.
    Image(String),
    /// What a registry said a reference means for a platform.
    Resolution(String, String),
    /// A downloaded file, by the digest of its URL.
    Download([u8; 32]),
    /// A cache record, by its key: its step, and the layer that it made.
    Record { key: Digest, step: String, layer: Option<Digest> },
}

impl Store {
    /// Everything that names blobs.
    pub(super) fn holders(&self, access: &Guard<'_>) -> Result<Vec<Holder>, Error> {
        let mut holders = vec![];
        for (name, text, time) in access.read(images::all_images)? {
            let blobs = self.closure(&layers::descriptor(access, &text)?)?;
            holders.push(Holder { what: Held::Image(name), last_used: moment(time), blobs });
        }
        let resolutions = access.read(|connection| {
            let mut query =
                connection.prepare("SELECT reference, platform, manifest, resolved_at FROM resolutions")?;
            let row = |row: &rusqlite::Row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            query.query_map((), row)?.collect::<rusqlite::Result<Vec<(String, String, String, i64)>>>()
        })?;
        for (reference, platform, text, time) in resolutions {
            let blobs = self.closure(&layers::descriptor(access, &text)?)?;
            let what = Held::Resolution(reference, platform);
            holders.push(Holder { what, last_used: moment(time), blobs });
        }
        holders.extend(access.read(|connection| {
            let mut query = connection.prepare("SELECT url, digest, asked_at FROM downloads")?;
            let row = |row: &rusqlite::Row| {
                let what = Held::Download(row.get(0)?);
                Ok(Holder { what, blobs: vec![digest_at(row, 1)?], last_used: moment(row.get(2)?) })
            };
            query.query_map((), row)?.collect::<rusqlite::Result<Vec<_>>>()
        })?);
        holders.extend(records(access)?);
        for holder in &mut holders {
            let mut seen = HashSet::new();
            holder.blobs.retain(|blob| seen.insert(*blob));
        }
        Ok(holders)
    }
}

fn records(access: &Guard<'_>) -> Result<Vec<Holder>, Error> {
    let blobs_of = access.read(|connection| {
        let sql = "SELECT diff_id, digest FROM layer_blobs
             UNION SELECT diff_id, catalogue FROM layers WHERE catalogue IS NOT NULL";
        let mut blobs: HashMap<Digest, Vec<Digest>> = HashMap::new();
        let mut query = connection.prepare(sql)?;
        for row in query.query_map((), |row| Ok((digest_at(row, 0)?, digest_at(row, 1)?)))? {
            let (diff_id, blob) = row?;
            blobs.entry(diff_id).or_default().push(blob);
        }
        Ok(blobs)
    })?;
    access.read(|connection| {
        let mut query = connection.prepare("SELECT key, step, layer, catalogue, last_used FROM records")?;
        let row = |row: &rusqlite::Row| {
            let layer = maybe_digest_at(row, 2)?;
            let blobs = layer.and_then(|layer| blobs_of.get(&layer)).into_iter().flatten().copied();
            Ok(Holder {
                blobs: blobs.chain(maybe_digest_at(row, 3)?).collect(),
                what: Held::Record { key: digest_at(row, 0)?, step: row.get(1)?, layer },
                last_used: moment(row.get(4)?),
            })
        };
        query.query_map((), row)?.collect()
    })
}

/// How many holders each blob has.
pub(super) struct Counts(HashMap<Digest, usize>);

impl Counts {
    /// Those of `holders`; what is in use always has one more.
    pub(super) fn of<'a>(holders: impl IntoIterator<Item = &'a Holder>, in_use: &HashSet<Digest>) -> Self {
        let mut counts: HashMap<Digest, usize> = in_use.iter().map(|digest| (*digest, 1)).collect();
        let blobs = holders.into_iter().flat_map(|holder| &holder.blobs);
        blobs.for_each(|blob| *counts.entry(*blob).or_default() += 1);
        Counts(counts)
    }

    pub(super) fn get(&self, blob: &Digest) -> usize {
        self.0.get(blob).copied().unwrap_or(0)
    }

    /// One holder goes; the blobs that nobody holds any more.
    pub(super) fn release<'a>(&mut self, holder: &'a Holder) -> impl Iterator<Item = &'a Digest> {
        let counts = &mut self.0;
        holder.blobs.iter().filter(move |blob| match counts.get_mut(blob) {
            Some(count) => {
                *count = count.saturating_sub(1);
                *count == 0
            }
            None => false,
        })
    }
}
