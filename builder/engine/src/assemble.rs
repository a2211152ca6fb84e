//! From layers to an image: configuration, history and manifest.

use lithify_cache::remote::inline;
use lithify_cache::{Key, Store};
use lithify_graph::{HistoryItem, Target};
use lithify_oci::layer::Times;
use lithify_oci::manifest::canonical_json;
use lithify_oci::{Blobs, Descriptor, Digest, History, ImageConfig, Manifest, RootFs, media_type};

use crate::build::Running;
use crate::chain::TreeLayers;
use crate::encode::{self, Encoding};
use crate::error::Error;

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
    target: Target,
    /// For a cache inside the image: the keys that its layers answer.
    inline: Option<Vec<(Key, Digest)>>,
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
    /// The layer as the step made it, with no other times.
    pub stored: Digest,
}

pub(crate) fn assemble(running: &Running<'_>, tree: &TreeLayers) -> Result<Built, Error> {
    let store = running.request.store;
    let layers = tree.diff_ids().iter().map(|diff_id| match running.trees.base_layer(diff_id) {
        Some((image, blob)) => {
            let (diff_id, stored) = (*diff_id, *diff_id);
            Ok(BuiltLayer { diff_id, blob: oci_layer(blob), base: Some(image), stored })
        }
        None => own_layer(store, diff_id, &Encoding::default()),
    });
    let inline = running.request.settings.inline_cache.then(|| store.answers());
    let layers = layers.collect::<Result<_, _>>()?;
    put_together(store, &running.request.graph.target, layers, &Encoding::default(), inline)
}

impl Built {
    /// The same image with its layers written otherwise. Blobs that were made for these options before are used again.
    /// Layers of base images must be in the store where their compression is forced.
    ///
    /// # Errors
    /// A store that cannot be read or written, and one that has lost a layer.
    pub fn encoded(&self, store: &Store, encoding: &Encoding) -> Result<Built, Error> {
        let layers = self.layers.iter().map(|layer| match &layer.base {
            None => own_layer(store, &layer.stored, encoding),
            Some(_) => {
                let blob = encoding.base(store, &layer.diff_id, &layer.blob).map_err(Error::Assemble)?;
                Ok(BuiltLayer { blob, ..layer.clone() })
            }
        });
        let layers = layers.collect::<Result<_, _>>()?;
        put_together(store, &self.target, layers, encoding, self.inline.clone())
    }
}

fn own_layer(store: &Store, stored: &Digest, encoding: &Encoding) -> Result<BuiltLayer, Error> {
    let (diff_id, blob) = encoding.own(store, stored).map_err(Error::Assemble)?;
    Ok(BuiltLayer { diff_id, blob, base: None, stored: *stored })
}

fn put_together(
    store: &Store,
    target: &Target,
    layers: Vec<BuiltLayer>,
    encoding: &Encoding,
    inline: Option<Vec<(Key, Digest)>>,
) -> Result<Built, Error> {
    let created = created(store, &layers, encoding.times).map_err(Error::Assemble)?;
    let mut config = configuration(target, &layers, &created);
    // What a base image says of itself is not true of this one.
    config.extra.remove(inline::FIELD);
    if let Some(records) = &inline {
        let field = inline::field(records, &config.rootfs.diff_ids, &encoding.compression.identity());
        config.extra.insert(inline::FIELD.to_owned(), field);
    }
    let config_bytes = canonical_json(&config);
    let config = store_json(store, media_type::CONFIG, &config_bytes)?;
    let manifest_bytes = canonical_json(&Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        config: config.clone(),
        layers: layers.iter().map(|layer| layer.blob.clone()).collect(),
        annotations: Default::default(),
        extra: Default::default(),
    });
    let manifest = store_json(store, media_type::MANIFEST, &manifest_bytes)?;
    Ok(Built { manifest, manifest_bytes, config, layers, target: target.clone(), inline })
}

/// When the image says that it was made. With real times it is when the newest of its own files was: running the build
/// again from the cache makes the same image.
fn created(store: &Store, layers: &[BuiltLayer], times: Times) -> std::io::Result<String> {
    let seconds = match times {
        Times::At(seconds) => seconds,
        Times::Preserve | Times::Exact => {
            let mut newest = None;
            for layer in layers.iter().filter(|layer| layer.base.is_none()) {
                newest = newest.max(encode::newest(store, &layer.stored)?);
            }
            newest.unwrap_or(0)
        }
    };
    Ok(encode::rfc3339(seconds))
}

fn configuration(target: &Target, layers: &[BuiltLayer], created: &str) -> ImageConfig {
    ImageConfig {
        created: Some(created.into()),
        rootfs: RootFs { diff_ids: layers.iter().map(|layer| layer.diff_id).collect(), ..RootFs::default() },
        history: target.history.iter().map(|item| history(item, created)).collect(),
        ..target.config.clone()
    }
}

/// Elements of the base image keep their own times.
fn history(item: &HistoryItem, created: &str) -> History {
    let created = item.history.created.clone().or_else(|| Some(created.into()));
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
