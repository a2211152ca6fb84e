//! The records of a cache as they travel: JSON, and the manifest around it.

use std::collections::{BTreeMap, HashMap};

use lithify_oci::manifest::canonical_json;
use lithify_oci::{Descriptor, Digest, Manifest, media_type};
use serde::{Deserialize, Serialize};

use super::DepotError;

/// What the manifest says it is (OCI image specification, manifest.md, "Guidelines for Artifact Usage").
pub(super) const ARTIFACT: &str = "application/vnd.lithify.cache.v1";
/// The media type of the records.
pub(super) const RECORDS: &str = "application/vnd.lithify.cache.records.v1+json";
/// The media type of a large object that is no layer.
pub(super) const OBJECT: &str = "application/vnd.lithify.cache.object.v1";
/// The media type of a pack.
pub(super) const PACK: &str = "application/vnd.lithify.cache.pack.v1";
/// The media type of a cache mount's contents.
pub(super) const MOUNT: &str = "application/vnd.lithify.cache.mount.v1.tar+zstd";

/// The version of this form.
const VERSION: u32 = 1;

/// Objects of at most this many bytes are packed: a request costs a service about as much as sending this.
pub(super) const SMALL_BYTES: u64 = 512 << 10;
/// Packs are closed when they have more: whoever needs one object fetches the pack.
pub(super) const PACK_BYTES: u64 = 8 << 20;

/// A pack of more is none of ours.
pub(super) const MAX_PACK_BYTES: u64 = 4 * PACK_BYTES;
/// Records of more are refused; some 200,000 steps fit in.
pub(super) const MAX_RECORDS_BYTES: u64 = 64 << 20;
/// An explanation of more is refused: one line for each file of a context, of which there are some 500,000.
pub(super) const MAX_WHY_BYTES: u64 = 128 << 20;
/// A catalogue of more is refused: a layer of a million files has some 40 MiB.
pub(super) const MAX_CATALOGUE_BYTES: u64 = 1 << 30;

/// All that a cache says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Contents {
    version: u32,
    #[serde(default)]
    pub(super) records: Vec<RecordEntry>,
    #[serde(default)]
    pub(super) layers: Vec<LayerEntry>,
    #[serde(default)]
    pub(super) packs: Vec<PackEntry>,
    #[serde(default)]
    pub(super) mounts: Vec<MountEntry>,
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordEntry {
    pub(super) key: Digest,
    /// Which steps are the same step in two builds.
    pub(super) step: String,
    /// The diffID.
    pub(super) layer: Digest,
    /// The parts of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<Object>,
    /// Nanoseconds since 1970.
    pub(super) finished: u64,
}

/// A layer, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerEntry {
    pub(super) diff_id: Digest,
    /// Uncompressed; `None` in an image, which does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) size_bytes: Option<u64>,
    /// What compressed it.
    pub(super) codec: String,
    pub(super) media_type: String,
    pub(super) blob: Object,
    /// With the real times. An image has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) catalogue: Option<Object>,
}

/// Some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Object {
    pub(super) digest: Digest,
    #[serde(rename = "size")]
    pub(super) size_bytes: u64,
}

/// Objects that lie one after the other in one blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackEntry {
    pub(super) digest: Digest,
    pub(super) members: Vec<Object>,
}

/// The contents of a cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountEntry {
    /// The id in the Dockerfile.
    pub id: String,
    /// The digest of all that tells the mount from others: see [`crate::Store::lock_cache_mount`].
    pub name: Digest,
    /// The archive, compressed.
    pub blob: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// By itself.
    Alone(Box<Descriptor>),
    /// In the pack of this number, from this byte on.
    Packed { pack: usize, offset: u64 },
}

impl Contents {
    pub(super) fn new() -> Self {
        Contents { version: VERSION, ..Contents::default() }
    }

    /// Reads the records of a cache.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, DepotError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let broken = |error| DepotError::new(format_args!("its records cannot be read: {error}"));
        let Versioned { version } = serde_json::from_slice(bytes).map_err(broken)?;
        if version != VERSION {
            let problem =
                format!("its records have version {version}, and this lithify knows version {VERSION}");
            return Err(DepotError::new(problem));
        }
        serde_json::from_slice(bytes).map_err(broken)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        canonical_json(self)
    }

    /// Where each object is, by the packs and by what the manifest names. Whatever contradicts itself is left out.
    pub(super) fn places(&self, manifest: &Manifest) -> HashMap<Digest, (u64, Place)> {
        let named: HashMap<Digest, &Descriptor> =
            manifest.layers.iter().map(|descriptor| (descriptor.digest, descriptor)).collect();
        let alone = named.iter().map(|(digest, descriptor)| {
            (*digest, (descriptor.size_bytes, Place::Alone(Box::new((*descriptor).clone()))))
        });
        let mut places: HashMap<_, _> = alone.collect();
        for (pack, entry) in self.packs.iter().enumerate() {
            let size = entry.size_bytes();
            let is_sound = size.is_some_and(|size| size <= MAX_PACK_BYTES)
                && named.get(&entry.digest).is_some_and(|named| Some(named.size_bytes) == size);
            if !is_sound {
                continue;
            }
            let mut offset = 0;
            for member in &entry.members {
                places.entry(member.digest).or_insert((member.size_bytes, Place::Packed { pack, offset }));
                offset += member.size_bytes;
            }
        }
        places
    }
}

impl PackEntry {
    /// The size of the whole; `None` for one that no number holds.
    pub(super) fn size_bytes(&self) -> Option<u64> {
        self.members.iter().try_fold(0u64, |sum, member| sum.checked_add(member.size_bytes))
    }
}

/// The manifest of a cache.
pub(super) fn manifest(records: Descriptor, objects: Vec<Descriptor>) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        config: records,
        layers: objects,
        annotations: BTreeMap::new(),
        extra: BTreeMap::from([("artifactType".to_owned(), ARTIFACT.into())]),
    }
}
