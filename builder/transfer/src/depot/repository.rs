//! A repository of a registry.

use std::io::{self, Read};
use std::sync::Arc;

use lithify_oci::{Blobs, Descriptor, Digest, NewBlob, Platform, Reference, media_type};

use crate::Error;
use crate::registry::Client;

/// A repository and the tag or digest of one manifest in it.
pub struct Repository {
    client: Arc<Client>,
    reference: Reference,
    /// Repositories on the same registry that may have objects which are put: they are mounted from there.
    sources: Vec<Reference>,
}

impl Repository {
    /// Nothing is asked yet.
    pub fn new(client: Arc<Client>, reference: Reference, sources: Vec<Reference>) -> Self {
        Repository { client, reference, sources }
    }

    /// The manifest; of an image for several platforms that of `platform`. `None` where the registry has no such name.
    ///
    /// # Errors
    /// Any of the network's.
    pub async fn manifest(&self, platform: &Platform) -> Result<Option<Vec<u8>>, Error> {
        match self.client.manifest_for(&self.reference, platform, &Nowhere).await {
            Ok(image) => Ok(Some(image.manifest_bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fetches an object, verified.
    ///
    /// # Errors
    /// Any of the network's.
    pub async fn fetch(&self, object: &Descriptor, into: &dyn Blobs) -> Result<(), Error> {
        self.client.pull_layer(&self.reference, object, into, &()).await
    }

    /// Sends an object, unless it is there.
    ///
    /// # Errors
    /// Any of the network's.
    pub async fn put(&self, object: &Descriptor, from: &dyn Blobs) -> Result<(), Error> {
        self.client.push_blob(&self.reference, object, from, &self.sources).await
    }

    /// Makes the tag stand for this manifest.
    ///
    /// # Errors
    /// Any of the network's.
    pub async fn publish(&self, manifest: &[u8]) -> Result<(), Error> {
        let descriptor = Descriptor::new(media_type::MANIFEST, Digest::of(manifest), manifest.len() as u64);
        self.client.push_manifest(&self.reference, &descriptor, manifest).await
    }
}

/// Manifests are not kept.
pub(crate) struct Nowhere;

impl Blobs for Nowhere {
    fn size_bytes(&self, _: &Digest) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn open(&self, _: &Digest) -> io::Result<Box<dyn Read + Send>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn create(&self) -> io::Result<Box<dyn NewBlob>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
