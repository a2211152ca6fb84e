//! From layers to an image: configuration, history and manifest.

use lithify_cache::Store;
use lithify_graph::{HistoryItem, Target};
use lithify_oci::manifest::canonical_json;
use lithify_oci::{Blobs, Descriptor, Digest, History, ImageConfig, Manifest, RootFs, media_type};

use crate::build::Running;
use crate::chain::TreeLayers;
use crate::error::{Error, Failure};

/// An image that was built. Its configuration and manifest are in the store.
#[derive(Clone, Debug)]
pub struct Built {
    /// The manifest.
    pub manifest: Descriptor,
    /// Its bytes.
    pub manifest_bytes: Vec<u8>,
    /// The configuration; its digest is what docker calls the image's id.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<BuiltLayer>,
}

/// A layer of a built image.
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    /// The digest of the plain archive.
    pub diff_id: Digest,
    /// The blob.
    pub blob: Descriptor,
    /// The base image that it came from; its blob need not be in the store.
    pub base: Option<lithify_graph::Image>,
}

/// Every time in an image is this one, unless the user asks for another.
const EPOCH: &str = "1970-01-01T00:00:00Z";

pub(crate) fn assemble(running: &Running<'_>, tree: &TreeLayers) -> Result<Built, Error> {
    let target = &running.request.graph.target;
    let mut layers = vec![];
    for diff_id in tree.diff_ids() {
        let layer = match running.trees.base_layer(diff_id) {
            Some((image, blob)) => BuiltLayer { diff_id: *diff_id, blob: oci_layer(blob), base: Some(image) },
            None => {
                let blob = running.trees.blob(diff_id).map_err(|failure| match failure {
                    Failure::Store(error) => Error::Store(error),
                    other => Error::Assemble(std::io::Error::other(other.to_string())),
                })?;
                BuiltLayer { diff_id: *diff_id, blob, base: None }
            }
        };
        layers.push(layer);
    }
    let config_bytes = canonical_json(&configuration(target, tree));
    let config = store_json(running.request.store, media_type::CONFIG, &config_bytes)?;
    let manifest_bytes = canonical_json(&Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        config: config.clone(),
        layers: layers.iter().map(|layer| layer.blob.clone()).collect(),
        annotations: Default::default(),
        extra: Default::default(),
    });
    let manifest = store_json(running.request.store, media_type::MANIFEST, &manifest_bytes)?;
    Ok(Built { manifest, manifest_bytes, config, layers })
}

fn configuration(target: &Target, tree: &TreeLayers) -> ImageConfig {
    ImageConfig {
        created: Some(EPOCH.into()),
        rootfs: RootFs { diff_ids: tree.diff_ids().to_vec(), ..RootFs::default() },
        history: target.history.iter().map(history).collect(),
        ..target.config.clone()
    }
}

/// Elements of the base image keep their own times.
fn history(item: &HistoryItem) -> History {
    let created = item.history.created.clone().or_else(|| Some(EPOCH.into()));
    History { created, ..item.history.clone() }
}

/// docker's names for layers become those of OCI: one manifest does not mix the two.
fn oci_layer(blob: Descriptor) -> Descriptor {
    let media_type = match blob.media_type.as_str() {
        media_type::DOCKER_LAYER_GZIP => media_type::LAYER_GZIP,
        media_type::DOCKER_LAYER => media_type::LAYER,
        other => other,
    };
    Descriptor { media_type: media_type.to_owned(), ..blob.clone() }
}

fn store_json(store: &Store, media_type: &str, bytes: &[u8]) -> Result<Descriptor, Error> {
    let digest = Digest::of(bytes);
    let store_it = || -> std::io::Result<()> {
        if store.size_bytes(&digest)?.is_none() {
            let mut blob = store.create()?;
            std::io::Write::write_all(&mut blob, bytes)?;
            blob.commit(Some(&digest))?;
        }
        Ok(())
    };
    store_it().map_err(Error::Assemble)?;
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}
