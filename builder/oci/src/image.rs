//! Puts images together: configuration and manifest as the bytes that are stored.

use crate::{Descriptor, Digest, ImageConfig, Index, Manifest, manifest::canonical_json, media_type};

/// A configuration or manifest, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What names it.
    pub descriptor: Descriptor,
    /// Its content: canonical JSON.
    pub bytes: Vec<u8>,
}

impl Document {
    fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        Document { descriptor, bytes }
    }
}

/// An image without its layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The configuration.
    pub config: Document,
    /// The manifest; its descriptor carries the platform.
    pub manifest: Document,
}

/// Makes configuration and manifest of an image with these layers, the lowest first: each its diffID and its blob. The
/// configuration's list of layers is replaced by these, and docker's names for kinds of layers by the specification's.
pub fn assemble(mut config: ImageConfig, layers: impl IntoIterator<Item = (Digest, Descriptor)>) -> Image {
    let (diff_ids, mut layers): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    for layer in &mut layers {
        layer.media_type = oci_layer_type(&layer.media_type).to_owned();
    }
    config.rootfs.kind = "layers".into();
    config.rootfs.diff_ids = diff_ids;
    let platform = config.platform();
    let config = Document::new(media_type::CONFIG, canonical_json(&config));
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        config: config.descriptor.clone(),
        layers,
        annotations: Default::default(),
        extra: Default::default(),
    };
    let mut manifest = Document::new(media_type::MANIFEST, canonical_json(&manifest));
    manifest.descriptor.platform = Some(platform);
    Image { config, manifest }
}

/// Makes an index of several manifests.
pub fn index(manifests: Vec<Descriptor>) -> Document {
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.into()),
        manifests,
        annotations: Default::default(),
        extra: Default::default(),
    };
    Document::new(media_type::INDEX, canonical_json(&index))
}

fn oci_layer_type(name: &str) -> &str {
    match name {
        media_type::DOCKER_LAYER => media_type::LAYER,
        media_type::DOCKER_LAYER_GZIP => media_type::LAYER_GZIP,
        other => other,
    }
}
