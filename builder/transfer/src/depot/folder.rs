//! An OCI image layout (image-layout.md) that is written to object by object.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lithify_oci::manifest::canonical_json;
use lithify_oci::{Blobs, Descriptor, Digest, Index, Manifest, Platform, media_type};

use rustix::fs::{FlockOperation, flock};

use crate::layout::{self, OCI_LAYOUT, REF_NAME};
use crate::{Error, blob};

/// A layout and the name of one image in it. Everything here blocks.
///
/// Whoever reads or writes objects holds `oci-layout.use` shared, as long as this handle lives; who removes some must have it
/// alone, or leaves them to the next one.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    tag: Option<String>,
    digest: Option<Digest>,
    used: OnceLock<File>,
}

impl Folder {
    /// The image called `tag` in the layout at `path`, or with this digest. With neither it is `latest`, or the only one.
    pub fn new(path: impl Into<PathBuf>, tag: Option<String>, digest: Option<Digest>) -> Self {
        Folder { path: path.into(), tag, digest, used: OnceLock::new() }
    }

    /// The manifest; of an image for several platforms that of `platform`. `None` where there is no layout.
    ///
    /// # Errors
    /// A layout that cannot be read or has no such image.
    pub fn manifest(&self, platform: &Platform) -> Result<Option<Vec<u8>>, Error> {
        if !self.path.join("index.json").try_exists().map_err(Error::file("look at", &self.path))? {
            return Ok(None);
        }
        // A layout that may only be read is one that nobody removes from.
        let _ = self.use_it();
        let layout = layout::open(&self.path, self.tag.as_deref(), self.digest)?;
        Ok(Some(layout.resolve(platform)?.manifest_bytes))
    }

    /// Copies an object out, verified.
    ///
    /// # Errors
    /// A missing file, and one that is not what it is called.
    pub fn fetch(&self, object: &Descriptor, into: &dyn Blobs) -> Result<(), Error> {
        let path = self.blob(&object.digest);
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        blob::copy(file, object, into, &format!("the blob {} of {}", object.digest, self.path.display()))
    }

    /// Copies an object in, unless it is there.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn put(&self, object: &Descriptor, from: &dyn Blobs) -> Result<(), Error> {
        self.use_it()?;
        let path = self.blob(&object.digest);
        if fs::metadata(&path).is_ok_and(|there| there.len() == object.size_bytes) {
            return Ok(());
        }
        let mut reader = from.open(&object.digest).map_err(Error::reading(&object.digest))?;
        self.write(&path, |file| io::copy(&mut reader, file).map(drop))
    }

    /// Makes the tag stand for this manifest. Blobs that no image of the layout has any more are removed: a folder that is
    /// written by every build does not grow for ever.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn publish(&self, manifest: &[u8]) -> Result<(), Error> {
        let _locked = self.lock()?;
        let digest = Digest::of(manifest);
        self.write(&self.blob(&digest), |file| file.write_all(manifest))?;
        self.write(&self.path.join("oci-layout"), |file| file.write_all(OCI_LAYOUT.as_bytes()))?;
        let tag = self.tag.clone().unwrap_or_else(|| "latest".into());
        let mut descriptor = Descriptor::new(media_type::MANIFEST, digest, manifest.len() as u64);
        descriptor.annotations.insert(REF_NAME.into(), tag.clone());
        let mut index = self.index()?;
        index.manifests.retain(|known| known.annotations.get(REF_NAME) != Some(&tag));
        index.manifests.push(descriptor);
        self.write(&self.path.join("index.json"), |file| file.write_all(&canonical_json(&index)))?;
        self.sweep(&index);
        Ok(())
    }

    fn index(&self) -> Result<Index, Error> {
        let path = self.path.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::malformed(path.display().to_string(), error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index {
                schema_version: 2,
                media_type: Some(media_type::INDEX.into()),
                manifests: vec![],
                annotations: BTreeMap::new(),
                extra: BTreeMap::new(),
            }),
            Err(error) => Err(Error::file("read", &path)(error)),
        }
    }

    /// Held while the index changes.
    fn lock(&self) -> Result<File, Error> {
        let file = self.open("oci-layout.lock")?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|errno| Error::file("lock", &self.path)(errno.into()))?;
        Ok(file)
    }

    fn use_it(&self) -> Result<(), Error> {
        if self.used.get().is_none() {
            let file = self.open("oci-layout.use")?;
            flock(&file, FlockOperation::LockShared)
                .map_err(|errno| Error::file("lock", &self.path)(errno.into()))?;
            let _ = self.used.set(file);
        }
        Ok(())
    }

    fn open(&self, name: &str) -> Result<File, Error> {
        fs::create_dir_all(&self.path).map_err(Error::file("make", &self.path))?;
        let path = self.path.join(name);
        File::options().create(true).append(true).open(&path).map_err(Error::file("open", &path))
    }

    /// Removes what nothing names; where one image cannot be read, nothing. That something stays is no failure.
    fn sweep(&self, index: &Index) {
        let alone = self.used.get().map(|used| flock(used, FlockOperation::NonBlockingLockExclusive));
        if !matches!(alone, Some(Ok(()))) {
            return;
        }
        let mut named = HashSet::new();
        for descriptor in &index.manifests {
            let bytes = fs::read(self.blob(&descriptor.digest)).unwrap_or_default();
            let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { return };
            named.insert(descriptor.digest.hex());
            named.extend(manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.digest.hex()));
        }
        let entries = fs::read_dir(self.path.join("blobs/sha256")).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let is_blob = |name: &str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            if name.to_str().is_some_and(|name| is_blob(name) && !named.contains(name)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// Writes a file that appears whole.
    fn write(&self, path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
        let folder = path.parent().unwrap_or(&self.path);
        let write = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            let mut file = tempfile::Builder::new().prefix(".lithify-").tempfile_in(folder)?;
            content(file.as_file_mut())?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(mode)?;
            file.persist(path).map(drop).map_err(|error| error.error)
        };
        write().map_err(Error::file("write", path))
    }
}
