//! A cache inside an image: the keys of its own layers, in its configuration.
//!
//! What is written depends on the keys alone, so that the image has the same digest wherever it is built. Times and
//! explanations are not in it: a layer that comes from there has the times of its archive.

use lithify_oci::{Digest, ImageConfig, Manifest};
use serde::{Deserialize, Serialize};

use super::DepotError;
use super::format::{Contents, LayerEntry, Object, RecordEntry};
use crate::Key;

/// The field of the configuration.
pub const FIELD: &str = "vnd.lithify.cache.v1";

/// The value of the field.
#[derive(Debug, Serialize, Deserialize)]
struct Inline {
    /// What compressed the layers that have records.
    codec: String,
    records: Vec<InlineRecord>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct InlineRecord {
    layer: Digest,
    key: Digest,
}

/// What goes into the configuration of an image with these layers: those of the `records` that are about one of them.
pub fn field(records: &[(Key, Digest)], diff_ids: &[Digest], codec: &str) -> serde_json::Value {
    let own = records.iter().filter(|(_, layer)| diff_ids.contains(layer));
    let mut records: Vec<_> =
        own.map(|(key, layer)| InlineRecord { layer: *layer, key: *key.digest() }).collect();
    records.sort_unstable();
    records.dedup();
    serde_json::json!(Inline { codec: codec.to_owned(), records })
}

/// Reads the records in an image's configuration.
pub(super) fn contents(config: &[u8], manifest: &Manifest) -> Result<Contents, DepotError> {
    let broken =
        |error: serde_json::Error| DepotError::new(format_args!("its configuration cannot be read: {error}"));
    let config: ImageConfig = serde_json::from_slice(config).map_err(broken)?;
    let field = config.extra.get(FIELD);
    let field = field.ok_or_else(|| DepotError::new("it is an image without cache records"))?;
    let inline = Inline::deserialize(field).map_err(broken)?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(DepotError::new("its manifest and its configuration name different numbers of layers"));
    }
    let mut contents = Contents::new();
    contents.layers = config
        .rootfs
        .diff_ids
        .iter()
        .zip(&manifest.layers)
        .map(|(diff_id, blob)| LayerEntry {
            diff_id: *diff_id,
            size_bytes: None,
            codec: inline.codec.clone(),
            media_type: blob.media_type.clone(),
            blob: Object { digest: blob.digest, size_bytes: blob.size_bytes },
            catalogue: None,
        })
        .collect();
    contents.records = inline
        .records
        .into_iter()
        .map(|InlineRecord { layer, key }| RecordEntry {
            key,
            step: String::new(),
            layer,
            why: None,
            finished: 0,
        })
        .collect();
    Ok(contents)
}
