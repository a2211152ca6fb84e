//! Names of images: those in this store, and what names meant when a registry was asked.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use lithify_oci::manifest::canonical_json;
use lithify_oci::{Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference, media_type};
use rusqlite::{Connection, OptionalExtension};

use super::layers::{descriptor, json};
use super::session::Scratch;
use super::{Store, moment, nanoseconds};
use crate::Error;

/// The annotation with an image's name (OCI image specification, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image of the store, for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// The manifest.
    pub manifest: Descriptor,
    /// When the name came to mean this.
    pub resolved_at: SystemTime,
}

/// A name of the store and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedImage {
    /// The full name, with registry and tag.
    pub name: String,
    /// The manifest, or the index of an image for several platforms.
    pub manifest: Descriptor,
    /// When the name came to mean this.
    pub tagged_at: SystemTime,
}

/// What a reference meant when its registry was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The manifest for the platform.
    pub manifest: Descriptor,
    /// When the registry was asked.
    pub resolved_at: SystemTime,
}

impl Store {
    /// Gives an image a name, which it takes from whoever had it. `manifest` may be that of an index.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn tag_image(&self, name: &Reference, manifest: &Descriptor) -> Result<(), Error> {
        self.note(&manifest.digest)?;
        let (name, text) = (name.to_string(), json(manifest));
        let unchanged = self.tagged(&name)?.is_some_and(|image| image.manifest == *manifest);
        if unchanged && self.0.root.join("index.json").exists() {
            return Ok(());
        }
        let now = nanoseconds(SystemTime::now());
        self.access()?.write_or(|transaction| {
            let failed = |error| Error::database(&self.0.root.join("lithify.db"), error);
            let sql = "INSERT OR REPLACE INTO images VALUES (?1, ?2, ?3)";
            transaction.execute(sql, (name, text, now)).map_err(failed)?;
            self.write_view(transaction)
        })
    }

    /// Takes a name away; whether there was one. What it stood for stays until it is pruned.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn untag_image(&self, name: &Reference) -> Result<bool, Error> {
        self.access()?.write_or(|transaction| {
            let failed = |error| Error::database(&self.0.root.join("lithify.db"), error);
            let sql = "DELETE FROM images WHERE name = ?1";
            let removed = transaction.execute(sql, [name.to_string()]).map_err(failed)?;
            self.write_view(transaction)?;
            Ok(removed > 0)
        })
    }

    /// The image with this name for this platform; `None` too where its manifest is not here or for another platform.
    /// A name with a digest means just that manifest or index.
    ///
    /// # Errors
    /// A failure to read the store, and a manifest that is none.
    pub fn image(&self, name: &Reference, platform: &Platform) -> Result<Option<StoredImage>, Error> {
        let Some(image) = self.tagged(&name.to_string())? else { return Ok(None) };
        let manifest = self.for_platform(&image.manifest, platform)?;
        Ok(manifest.map(|manifest| StoredImage { manifest, resolved_at: image.tagged_at }))
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn images(&self) -> Result<Vec<TaggedImage>, Error> {
        let access = self.access()?;
        let rows = access.read(all_images)?;
        let mut images = vec![];
        for (name, text, time) in rows {
            images.push(TaggedImage { name, manifest: descriptor(&access, &text)?, tagged_at: moment(time) });
        }
        images.iter().try_for_each(|image| self.note(&image.manifest.digest))?;
        Ok(images)
    }

    fn tagged(&self, name: &str) -> Result<Option<TaggedImage>, Error> {
        let access = self.access()?;
        let found = access.read(|connection| {
            let sql = "SELECT manifest, resolved_at FROM images WHERE name = ?1";
            let mut query = connection.prepare_cached(sql)?;
            query.query_row([name], |row| Ok((row.get::<_, String>(0)?, row.get(1)?))).optional()
        })?;
        let Some((text, time)) = found else { return Ok(None) };
        let manifest = descriptor(&access, &text)?;
        self.note(&manifest.digest)?;
        Ok(Some(TaggedImage { name: name.to_owned(), manifest, tagged_at: moment(time) }))
    }

    /// The manifest for a platform: `found` itself, or one out of the index that it names.
    fn for_platform(&self, found: &Descriptor, platform: &Platform) -> Result<Option<Descriptor>, Error> {
        let Some(bytes) = self.read_blob(&found.digest)? else { return Ok(None) };
        let invalid = |source| Error::InvalidManifest { digest: found.digest, source };
        if matches!(found.media_type.as_str(), media_type::INDEX | media_type::DOCKER_INDEX) {
            let index: Index = serde_json::from_slice(&bytes).map_err(invalid)?;
            let fits = |one: &Descriptor| one.platform.as_ref().is_some_and(|have| have.satisfies(platform));
            let Some(manifest) = index.manifests.into_iter().find(fits) else { return Ok(None) };
            return Ok(self.blob_size_bytes(&manifest.digest)?.map(|_| manifest));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(invalid)?;
        let have = match (&found.platform, self.read_blob(&manifest.config.digest)?) {
            (Some(platform), _) => platform.clone(),
            (None, None) => return Ok(None),
            (None, Some(config)) => {
                let digest = manifest.config.digest;
                let invalid = |source| Error::InvalidManifest { digest, source };
                serde_json::from_slice::<ImageConfig>(&config).map_err(invalid)?.platform()
            }
        };
        Ok(have.satisfies(platform).then(|| found.clone()))
    }

    /// A small blob; `None` where it is not here.
    pub(super) fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        if self.blob_size_bytes(digest)?.is_none() {
            return Ok(None);
        }
        let path = self.blob_path(digest);
        fs::read(&path).map(Some).map_err(Error::at(&path))
    }

    /// Keeps what a registry said that a reference means for a platform.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn remember_resolution(
        &self,
        reference: &Reference,
        platform: &Platform,
        manifest: &Descriptor,
    ) -> Result<(), Error> {
        self.note(&manifest.digest)?;
        let now = nanoseconds(SystemTime::now());
        self.access()?.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO resolutions VALUES (?1, ?2, ?3, ?4)";
            let values = (reference.to_string(), platform.to_string(), json(manifest), now);
            transaction.execute(sql, values).map(drop)
        })
    }

    /// What a registry said last that a reference means for a platform.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn resolution(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<Resolution>, Error> {
        let access = self.access()?;
        let found = access.read(|connection| {
            let sql = "SELECT manifest, resolved_at FROM resolutions WHERE reference = ?1 AND platform = ?2";
            let mut query = connection.prepare_cached(sql)?;
            let key = (reference.to_string(), platform.to_string());
            query.query_row(key, |row| Ok((row.get::<_, String>(0)?, row.get(1)?))).optional()
        })?;
        let Some((text, time)) = found else { return Ok(None) };
        let manifest = descriptor(&access, &text)?;
        self.note(&manifest.digest)?;
        Ok(Some(Resolution { manifest, resolved_at: moment(time) }))
    }

    /// Writes `index.json`. Called inside the transaction that changes a name, so the database's lock is the view's too.
    pub(super) fn write_view(&self, connection: &Connection) -> Result<(), Error> {
        let database = self.0.root.join("lithify.db");
        let rows = all_images(connection).map_err(|error| Error::database(&database, error))?;
        let mut manifests = vec![];
        for (name, text, _) in rows {
            let invalid = |source| Error::InvalidRow { path: database.clone(), what: "descriptor", source };
            let mut manifest: Descriptor = serde_json::from_str(&text).map_err(invalid)?;
            manifest.annotations.insert(REF_NAME.into(), name);
            manifests.push(manifest);
        }
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::INDEX.into()),
            manifests,
            annotations: Default::default(),
            extra: Default::default(),
        };
        let (mut file, path) = self.0.unfinished.create()?;
        file.write_all(&canonical_json(&index)).map_err(Error::at(&path))?;
        let target = self.0.root.join("index.json");
        path.persist(&target).map_err(|failure| Error::at(&target)(failure.error))
    }
}

/// Names, descriptors and times, sorted by name.
pub(super) fn all_images(connection: &Connection) -> rusqlite::Result<Vec<(String, String, i64)>> {
    let mut query =
        connection.prepare_cached("SELECT name, manifest, resolved_at FROM images ORDER BY name")?;
    query.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

/// Writes the files that make a folder an OCI image layout (image-layout.md), where they are missing.
pub(super) fn write_layout(root: &Path) -> Result<(), Error> {
    let files = [
        ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        (
            "index.json",
            r#"{"manifests":[],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}"#,
        ),
    ];
    let scratch = Scratch::new(root.join("tmp"));
    for (name, content) in files {
        let path = root.join(name);
        if path.exists() {
            continue;
        }
        let (mut file, new) = scratch.create()?;
        file.write_all(content.as_bytes()).map_err(Error::at(&path))?;
        match new.persist_noclobber(&path) {
            Err(failure) if failure.error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::at(&path)(failure.error));
            }
            _ => {}
        }
    }
    Ok(())
}
