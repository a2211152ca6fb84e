//! What is known of layers: by diffID, the blobs that hold them, and the repositories that have those blobs.

use lithify_oci::{Descriptor, Digest, Reference};
use rusqlite::{Connection, OptionalExtension};

use super::Store;
use super::database::{digest_at, maybe_digest_at, size_at};
use crate::Error;

/// What is known of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// The size of the layer's tar archive in bytes, uncompressed.
    pub size_bytes: u64,
    /// The blobs that hold it, which need not be here.
    pub blobs: Vec<LayerBlob>,
    /// The blob with the real times of its files.
    pub catalogue: Option<Digest>,
}

/// One blob that holds a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBlob {
    /// What made it: compressor, version and options, such as `zstd 1.5.7 level 3`; `""` where someone else did.
    pub codec: String,
    /// The blob.
    pub descriptor: Descriptor,
}

impl Store {
    /// What is known of the layer with this diffID. Where no blob of it is here, and a remote cache answered with it in this
    /// build, it is what that cache says, which is checked when the blob is opened.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<LayerFacts>, Error> {
        let here = self.local_layer(diff_id)?;
        let Some(upstream) = self.upstream_layer(diff_id) else { return Ok(here) };
        for blob in here.iter().flat_map(|facts| &facts.blobs) {
            if self.trusted(&blob.descriptor.digest)?.is_some() {
                return Ok(here);
            }
        }
        Ok(Some(upstream))
    }

    pub(super) fn local_layer(&self, diff_id: &Digest) -> Result<Option<LayerFacts>, Error> {
        let access = self.access()?;
        let key = [diff_id.as_bytes()];
        let found = access.read(|connection| {
            let mut query =
                connection.prepare_cached("SELECT size_bytes, catalogue FROM layers WHERE diff_id = ?1")?;
            query.query_row(key, |row| Ok((size_at(row, 0)?, maybe_digest_at(row, 1)?))).optional()
        })?;
        let Some((size_bytes, catalogue)) = found else { return Ok(None) };
        let rows = access.read(|connection| {
            let sql = "SELECT codec, descriptor FROM layer_blobs WHERE diff_id = ?1";
            let mut query = connection.prepare_cached(sql)?;
            let rows = query.query_map(key, |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, String)>>>()
        })?;
        let mut blobs = vec![];
        for (codec, text) in rows {
            blobs.push(LayerBlob { codec, descriptor: descriptor(&access, &text)? });
        }
        for digest in blobs.iter().map(|blob| &blob.descriptor.digest).chain(&catalogue).chain([diff_id]) {
            self.note(digest)?;
        }
        Ok(Some(LayerFacts { size_bytes, blobs, catalogue }))
    }

    /// Adds to what is known of a layer. Whoever calls this vouches that the blobs unpack to just this layer.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn remember_layer(&self, diff_id: &Digest, facts: &LayerFacts) -> Result<(), Error> {
        let named =
            facts.blobs.iter().map(|blob| &blob.descriptor.digest).chain(&facts.catalogue).chain([diff_id]);
        named.into_iter().try_for_each(|digest| self.note(digest))?;
        self.access()?.write(|transaction| {
            let sql = "INSERT INTO layers VALUES (?1, ?2, ?3) ON CONFLICT (diff_id)
                       DO UPDATE SET catalogue = coalesce(excluded.catalogue, catalogue)";
            let catalogue = facts.catalogue.map(|digest| *digest.as_bytes());
            transaction.prepare_cached(sql)?.execute((
                diff_id.as_bytes(),
                facts.size_bytes.cast_signed(),
                catalogue,
            ))?;
            let mut insert =
                transaction.prepare_cached("INSERT OR REPLACE INTO layer_blobs VALUES (?1, ?2, ?3, ?4)")?;
            for LayerBlob { codec, descriptor } in &facts.blobs {
                let digest = descriptor.digest.as_bytes();
                insert.execute((diff_id.as_bytes(), codec, digest, json(descriptor)))?;
            }
            Ok(())
        })
    }

    /// The layer that another one became with other times, where that was made before; see [`Store::remember_retimed`].
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn retimed(&self, diff_id: &Digest, times: &str) -> Result<Option<Digest>, Error> {
        self.access()?.read(|connection| {
            let sql = "SELECT result FROM retimed WHERE diff_id = ?1 AND times = ?2";
            let mut query = connection.prepare_cached(sql)?;
            query.query_row((diff_id.as_bytes(), times), |row| digest_at(row, 0)).optional()
        })
    }

    /// Remembers that a layer becomes `result` with other times. `times` names all that decides about them.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn remember_retimed(&self, diff_id: &Digest, times: &str, result: &Digest) -> Result<(), Error> {
        self.access()?.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO retimed VALUES (?1, ?2, ?3)";
            transaction.execute(sql, (diff_id.as_bytes(), times, result.as_bytes())).map(drop)
        })
    }

    /// The layer that a blob is known to hold.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn diff_id(&self, blob: &Digest) -> Result<Option<Digest>, Error> {
        self.access()?.read(|connection| {
            let mut query = connection.prepare_cached("SELECT diff_id FROM layer_blobs WHERE digest = ?1")?;
            query.query_row([blob.as_bytes()], |row| digest_at(row, 0)).optional()
        })
    }

    /// Notes that a repository has a blob: a push to the same registry can then mount it from there.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn remember_origin(&self, blob: &Digest, repository: &Reference) -> Result<(), Error> {
        let repository = format!("{}/{}", repository.registry(), repository.repository());
        self.access()?.write(|transaction| {
            let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO origins VALUES (?1, ?2)")?;
            insert.execute((blob.as_bytes(), repository)).map(drop)
        })
    }

    /// The repositories (`registry/repository`) that are known to have had a blob.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn origins(&self, blob: &Digest) -> Result<Vec<String>, Error> {
        self.access()?.read(|connection| {
            let mut query = connection.prepare_cached("SELECT repository FROM origins WHERE digest = ?1")?;
            query.query_map([blob.as_bytes()], |row| row.get(0))?.collect()
        })
    }
}

/// The blobs that a layer is in.
pub(super) fn blobs_of(connection: &Connection, diff_id: &Digest) -> rusqlite::Result<Vec<Digest>> {
    let mut query = connection.prepare_cached("SELECT digest FROM layer_blobs WHERE diff_id = ?1")?;
    query.query_map([diff_id.as_bytes()], |row| digest_at(row, 0))?.collect()
}

/// A descriptor as the database keeps it.
pub(super) fn json(descriptor: &Descriptor) -> String {
    String::from_utf8_lossy(&lithify_oci::manifest::canonical_json(descriptor)).into_owned()
}

/// The reverse of [`json`].
pub(super) fn descriptor(access: &super::Database, text: &str) -> Result<Descriptor, Error> {
    let invalid = |source| Error::InvalidRow { path: access.path().to_owned(), what: "descriptor", source };
    serde_json::from_str(text).map_err(invalid)
}
