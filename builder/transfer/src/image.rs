//! An image as manifests describe it, wherever they came from.

use lithify_oci::{Descriptor, Digest, Index, Manifest, Platform, media_type};
use serde::Deserialize;

use crate::Error;

/// The size in bytes above which a manifest or index is refused (distribution specification, "Pushing Manifests").
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// How deep indexes may stand in indexes.
pub(crate) const MAX_INDEX_DEPTH: usize = 4;

/// The image of one platform: the manifest, and what it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The manifest; with the platform where it was chosen from an index.
    pub manifest: Descriptor,
    /// The manifest's bytes, which have the digest of `manifest`.
    pub manifest_bytes: Vec<u8>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers as the manifest has them, the lowest first.
    pub layers: Vec<Descriptor>,
    /// The outermost index that the image was chosen from: what the tag stood for.
    pub index: Option<Descriptor>,
}

impl Image {
    /// Reads a manifest. `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything but an image manifest.
    pub fn from_manifest(bytes: Vec<u8>, what: &str) -> Result<Self, Error> {
        match Document::parse(&bytes, None, what)? {
            Document::Manifest(media_type, manifest) => Ok(Image::new(&media_type, *manifest, bytes)),
            Document::Index(..) => {
                Err(Error::malformed(what, "it is an index, not the manifest of an image"))
            }
        }
    }

    pub(crate) fn new(media_type: &str, manifest: Manifest, bytes: Vec<u8>) -> Self {
        Image {
            manifest: Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64),
            manifest_bytes: bytes,
            config: manifest.config,
            layers: manifest.layers,
            index: None,
        }
    }

    /// What the name stands for: the index where there is one, else the manifest.
    pub fn root(&self) -> &Descriptor {
        self.index.as_ref().unwrap_or(&self.manifest)
    }
}

/// An index with the images in it, which travel together.
#[derive(Clone, Copy, Debug)]
pub struct ImageIndex<'a> {
    /// The index.
    pub index: &'a Descriptor,
    /// The index's bytes, which have its digest.
    pub bytes: &'a [u8],
    /// All that the index refers to.
    pub images: &'a [Image],
}

/// What an archive or folder is to hold.
#[derive(Clone, Copy, Debug)]
pub enum Contents<'a> {
    /// One image.
    Image(&'a Image),
    /// Images for several platforms.
    Index(ImageIndex<'a>),
}

/// What a tag can stand for.
pub(crate) enum Document {
    Manifest(String, Box<Manifest>),
    Index(String, Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index. `declared` is the media type by which it was handed over; the one inside leads.
    pub(crate) fn parse(bytes: &[u8], declared: Option<&str>, what: &str) -> Result<Self, Error> {
        let malformed = |problem: &dyn std::fmt::Display| Error::malformed(what, problem);
        let shape: Shape =
            serde_json::from_slice(bytes).map_err(|error| malformed(&format!("invalid JSON: {error}")))?;
        match shape.schema_version {
            Some(2) => {}
            Some(1) => {
                return Err(malformed(
                    &"docker's schema 1 is not supported; push the image again with a current tool",
                ));
            }
            _ => return Err(malformed(&"it is no image manifest (schemaVersion is not 2)")),
        }
        let is_index = shape.manifests.is_some();
        // One document that reads both ways would be two images under one digest (CVE-2021-41190).
        if is_index && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(malformed(&"it is both an index and a manifest"));
        }
        let (known, default) = if is_index {
            ([media_type::INDEX, media_type::DOCKER_INDEX], media_type::INDEX)
        } else {
            ([media_type::MANIFEST, media_type::DOCKER_MANIFEST], media_type::MANIFEST)
        };
        let media_type = match shape.media_type.as_deref() {
            Some(inside) if known.contains(&inside) => inside,
            Some(inside) => return Err(malformed(&format!("unsupported media type {inside:?}"))),
            None => declared.filter(|declared| known.contains(declared)).unwrap_or(default),
        };
        let invalid = |error: serde_json::Error| malformed(&format!("invalid manifest: {error}"));
        if is_index {
            Ok(Document::Index(media_type.into(), serde_json::from_slice(bytes).map_err(invalid)?))
        } else {
            Ok(Document::Manifest(
                media_type.into(),
                Box::new(serde_json::from_slice(bytes).map_err(invalid)?),
            ))
        }
    }
}

/// The manifest in `index` that fits `wanted` best, by containerd's order: the very variant, then older ones that the
/// processor also runs. Attestations are no images.
pub(crate) fn choose<'a>(index: &'a Index, wanted: &Platform, what: &str) -> Result<&'a Descriptor, Error> {
    let images: Vec<(&Descriptor, Option<Platform>)> = index
        .manifests
        .iter()
        .filter(|descriptor| !descriptor.annotations.contains_key("vnd.docker.reference.type"))
        .map(|descriptor| (descriptor, descriptor.platform.as_ref().map(normal)))
        .collect();
    let exact = |candidate: &Platform| {
        images.iter().find(|(_, platform)| {
            platform.as_ref().is_some_and(|p| {
                (&p.os, &p.architecture, &p.variant)
                    == (&candidate.os, &candidate.architecture, &candidate.variant)
            })
        })
    };
    let found = fallbacks(wanted)
        .iter()
        .find_map(exact)
        .or_else(|| images.iter().find(|(_, p)| p.as_ref().is_some_and(|p| p.satisfies(&normal(wanted)))))
        .or_else(|| images.iter().find(|(_, platform)| platform.is_none()));
    found.map(|(descriptor, _)| *descriptor).ok_or_else(|| {
        let available = images.iter().filter_map(|(_, platform)| platform.as_ref().map(Platform::to_string));
        let mut available: Vec<String> = available.collect();
        if available.is_empty() {
            available.push("none".into());
        }
        Error::NoPlatform { what: what.into(), wanted: wanted.to_string(), available }
    })
}

/// What runs on `wanted`, the best first (containerd's platforms.Only).
fn fallbacks(wanted: &Platform) -> Vec<Platform> {
    let wanted = normal(wanted);
    let variant = |architecture: &str, variant: Option<u32>| Platform {
        variant: variant.map(|v| format!("v{v}")),
        ..Platform::new(&wanted.os, architecture)
    };
    let level =
        wanted.variant.as_deref().and_then(|v| v.strip_prefix('v')).and_then(|v| v.parse::<u32>().ok());
    let below = |architecture: &str, from: u32, to: u32| {
        (to..=from.min(16)).rev().map(|v| variant(architecture, Some(v))).collect::<Vec<_>>()
    };
    let mut all = vec![wanted.clone()];
    match (wanted.architecture.as_str(), level) {
        ("amd64", level) => {
            all.extend(below("amd64", level.unwrap_or(1).saturating_sub(1), 2));
            all.extend([variant("amd64", None), variant("386", None)]);
        }
        ("arm", Some(level)) => all.extend(below("arm", level.saturating_sub(1), 5)),
        ("arm64", _) => {
            all.push(variant("arm64", None));
            all.extend(below("arm", 8, 5));
        }
        _ => {}
    }
    all
}

/// Indexes carry platforms as their writers spelled them.
fn normal(platform: &Platform) -> Platform {
    let variant = platform.variant.as_deref().filter(|variant| !variant.is_empty());
    let text = match variant {
        Some(variant) => format!("{}/{}/{variant}", platform.os, platform.architecture),
        None => format!("{}/{}", platform.os, platform.architecture),
    };
    text.parse().unwrap_or_else(|_| platform.clone())
}

/// Whether a layer's blob is not meant to be pushed: it is fetched from elsewhere.
pub(crate) fn is_foreign(layer: &Descriptor) -> bool {
    layer.media_type.contains(".nondistributable.") || layer.media_type.contains(".foreign.")
}

#[cfg(test)]
mod tests;
