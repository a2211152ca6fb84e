//! Taking away what is no longer wanted.
//!
//! Records go, by age or the least recently used first; then every blob goes that nothing names any more: no image, no
//! record's layer, no resolution of a registry's tag, no process that is at work.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use lithify_oci::{Descriptor, Digest, Index, Manifest, media_type};

use super::database::digest_at;
use super::{Guard, Store, images, layers, nanoseconds, records};
use crate::Error;

/// What goes. The default takes only what nothing names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Records and resolutions that were not used for this long.
    pub unused_for: Option<Duration>,
    /// So many records, the least recently used first, that the store's blobs take no more bytes than this on disk. Named
    /// images and what is in use stay even if they take more.
    pub keep_bytes: Option<u64>,
}

/// What went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Cache records.
    pub records: u64,
    /// Blobs.
    pub blobs: u64,
    /// The bytes on disk that the blobs took.
    pub bytes: u64,
}

/// A blob's file.
pub(super) struct BlobFile {
    pub(super) digest: Digest,
    /// What it takes on disk.
    pub(super) disk_bytes: u64,
}

impl Store {
    /// Takes away what `policy` says. Runs beside builds: they wait for it when they look something up, and it leaves
    /// alone what they use.
    ///
    /// # Errors
    /// A store that cannot be read or written; what went until then stays gone, and the store is sound.
    pub fn prune(&self, policy: &PrunePolicy) -> Result<Pruned, Error> {
        // Files first, then who uses them: whoever adds a blob says so before it appears.
        let files = self.blob_files()?;
        let mut access = self.access_alone()?;
        let in_use = self.0.session.used_by_all()?;
        let pruned_records = prune_records(self, &mut access, policy, &in_use, &files)?;
        let wanted = wanted(self, &access, &in_use)?;
        let mut pruned = Pruned { records: pruned_records, ..Pruned::default() };
        let unwanted: Vec<_> = files.iter().filter(|file| !wanted.contains(&file.digest)).collect();
        for file in &unwanted {
            let path = self.blob_path(&file.digest);
            match fs::remove_file(&path) {
                Ok(()) => {
                    pruned.blobs += 1;
                    pruned.bytes += file.disk_bytes;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::at(&path)(error)),
            }
        }
        access.write(|transaction| {
            let sql = ["DELETE FROM blobs WHERE digest = ?1", "DELETE FROM origins WHERE digest = ?1"];
            for sql in sql {
                let mut delete = transaction.prepare(sql)?;
                unwanted.iter().try_for_each(|file| delete.execute([file.digest.as_bytes()]).map(drop))?;
            }
            Ok(())
        })?;
        Ok(pruned)
    }

    /// All files in `blobs/`. Files of other names are someone else's.
    pub(super) fn blob_files(&self) -> Result<Vec<BlobFile>, Error> {
        let folder = self.0.root.join("blobs/sha256");
        let mut files = vec![];
        for entry in fs::read_dir(&folder).map_err(Error::at(&folder))? {
            let entry = entry.map_err(Error::at(&folder))?;
            let name = entry.file_name();
            let Ok(digest) = format!("sha256:{}", name.to_string_lossy()).parse() else { continue };
            // One that was removed meanwhile is no file any more.
            let Ok(metadata) = entry.metadata() else { continue };
            files.push(BlobFile { digest, disk_bytes: metadata.blocks() * 512 });
        }
        Ok(files)
    }

    /// The blobs that a manifest or index names, itself first, as far as they are here.
    pub(super) fn closure(&self, manifest: &Descriptor) -> Result<Vec<Digest>, Error> {
        let mut found = vec![manifest.digest];
        let Ok(bytes) = fs::read(self.blob_path(&manifest.digest)) else { return Ok(found) };
        // Whatever is damaged names nothing; `verify` reports it.
        match manifest.media_type.as_str() {
            media_type::INDEX | media_type::DOCKER_INDEX => {
                let Ok(index) = serde_json::from_slice::<Index>(&bytes) else { return Ok(found) };
                for one in index.manifests.iter().filter(|one| one.digest != manifest.digest) {
                    found.extend(self.closure(one)?);
                }
            }
            _ => {
                let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { return Ok(found) };
                found.push(manifest.config.digest);
                found.extend(manifest.layers.iter().map(|layer| layer.digest));
            }
        }
        Ok(found)
    }
}

/// Takes records and resolutions away; how many records.
fn prune_records(
    store: &Store,
    access: &mut Guard<'_>,
    policy: &PrunePolicy,
    in_use: &HashSet<Digest>,
    files: &[BlobFile],
) -> Result<u64, Error> {
    let by_age = access.read(records::by_last_use)?;
    let mut candidates = by_age.iter().filter(|(key, _)| !in_use.contains(key)).peekable();
    let mut gone = 0;
    if let Some(age) = policy.unused_for {
        let limit = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut old = vec![];
        while let Some((key, _)) = candidates.next_if(|(_, used)| *used < limit) {
            old.push(*key);
        }
        gone += delete_records(access, &old)?;
        let sql =
            ["DELETE FROM resolutions WHERE resolved_at < ?1", "DELETE FROM downloads WHERE asked_at < ?1"];
        access.write(|transaction| {
            sql.iter().try_for_each(|sql| transaction.execute(sql, [nanoseconds(limit)]).map(drop))
        })?;
    }
    if let Some(limit) = policy.keep_bytes {
        // What can be had again without running anything goes first.
        if bytes_of(files, &wanted(store, access, in_use)?) > limit {
            access.write(|transaction| transaction.execute("DELETE FROM downloads", ()))?;
        }
        let mut rest: Vec<Digest> = candidates.map(|(key, _)| *key).collect();
        rest.reverse();
        while bytes_of(files, &wanted(store, access, in_use)?) > limit && !rest.is_empty() {
            // A few at a time, since each look at the whole store costs as much.
            let some = rest.split_off(rest.len() - rest.len().div_ceil(8));
            gone += delete_records(access, &some)?;
        }
    }
    Ok(gone)
}

fn delete_records(access: &mut Guard<'_>, keys: &[Digest]) -> Result<u64, Error> {
    access.write(|transaction| {
        let mut delete = transaction.prepare("DELETE FROM records WHERE key = ?1")?;
        keys.iter().map(|key| delete.execute([key.as_bytes()]).map(|rows| rows as u64)).sum()
    })
}

fn bytes_of(files: &[BlobFile], wanted: &HashSet<Digest>) -> u64 {
    files.iter().filter(|file| wanted.contains(&file.digest)).map(|file| file.disk_bytes).sum()
}

/// Every blob that something names.
fn wanted(store: &Store, access: &Guard<'_>, in_use: &HashSet<Digest>) -> Result<HashSet<Digest>, Error> {
    let mut wanted = in_use.clone();
    let named = access.read(images::all_images)?.into_iter().map(|(_, text, _)| text);
    let resolved = access.read(|connection| {
        let mut query = connection.prepare("SELECT manifest FROM resolutions")?;
        query.query_map((), |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
    })?;
    for text in named.chain(resolved) {
        wanted.extend(store.closure(&layers::descriptor(access, &text)?)?);
    }
    wanted.extend(access.read(|connection| {
        let sql = "SELECT catalogue FROM records WHERE catalogue IS NOT NULL
             UNION SELECT digest FROM downloads
             UNION SELECT layer_blobs.digest FROM records JOIN layer_blobs ON diff_id = layer
             UNION SELECT catalogue FROM layers WHERE catalogue IS NOT NULL AND diff_id IN (SELECT layer FROM records)";
        let mut query = connection.prepare(sql)?;
        query.query_map((), |row| digest_at(row, 0))?.collect::<rusqlite::Result<Vec<_>>>()
    })?);
    Ok(wanted)
}
