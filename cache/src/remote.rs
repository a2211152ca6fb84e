//! Caches of other machines: what they look like, and why they cannot do harm.
//!
//! A remote cache is one OCI image manifest and the objects that it names, wherever those are kept: a registry, a folder, an
//! object store. Here are the form and the rules; whoever moves the bytes implements [`Depot`].
//!
//! ```text
//! manifest   artifactType application/vnd.lithify.cache.v1
//!   config   application/vnd.lithify.cache.records.v1+json   records, layers, packs and cache mounts: see `format`
//!   layers   application/vnd.oci.image.layer.v1.tar+zstd     layers of more than 512 KiB, each by its own digest
//!            application/vnd.lithify.cache.object.v1         other large objects: catalogues, explanations
//!            application/vnd.lithify.cache.pack.v1           small objects, one after the other, up to 8 MiB
//!            application/vnd.lithify.cache.mount.v1.tar+zstd contents of cache mounts
//! ```
//!
//! A *record* maps a key to a layer (by diffID) and to what the key was made of. A *layer* has a blob, and a catalogue, in
//! which the real times of its files travel. An image can be a cache as well: see [`inline`].
//!
//! **Import.** The manifest and the records are read when the store itself does not have a key ([`Imports`]). A hit is the
//! diffID and no more; a layer's blob is fetched when something opens it: a step that has to run on top of it, or an output.
//! Only then is the hit written to the store, so a build that needed no blob leaves nothing behind that has no content.
//!
//! **What a cache may say.** It is not trusted further than it has to be:
//!
//! - What is fetched has the digest and the size that were announced, or it is not seen at all.
//! - Before a fetched layer is used, it is unpacked on the fly: it must hash to its diffID, have the announced size, and agree
//!   with its catalogue entry by entry in everything but the times. Only then does the store vouch for it.
//! - A record can only name layers of its cache, and these only objects of its cache's manifest: not what happens to lie in the
//!   store or in another repository, so no record makes a build push or read content that the cache's writer did not have.
//! - Names, numbers and sizes are bounded before memory is taken for them. No path of the store is made of what a cache says:
//!   blobs have the names of their digests.
//! - Facts from a cache are used for layers that it answered for in this build, and for no others.
//!
//! What stays is inherent: who may write to a cache may answer a key with another layer, as who may push to a base image's
//! repository may. And a layer that a build neither reads nor writes is never fetched, so that its diffID is its writer's
//! word when the image is pushed to a registry that has the blob; whoever pulls it finds out.
//!
//! **Failure.** A cache that cannot be read is named in a warning, and the build goes on without it. If it breaks after it
//! answered, whoever drives the build starts over without it ([`crate::Store::lost_upstream`]): what was done is in the store.

mod export;
mod format;
mod import;
pub mod inline;
mod memory;
mod verify;

#[cfg(test)]
mod tests;

pub use export::{Export, Mode, send_early};
pub use format::MountEntry;
pub use import::{Import, Imports};

use lithify_oci::{Blobs, Descriptor};

/// Where a remote cache is kept.
pub trait Depot: Send + Sync {
    /// What messages call it: `type=registry,ref=…`.
    fn name(&self) -> String;

    /// The manifest that the cache's name stands for now; `None` where there is none yet.
    ///
    /// # Errors
    /// A place that does not answer or does not let us in.
    fn manifest(&self) -> Result<Option<Vec<u8>>, DepotError>;

    /// Brings an object; it becomes visible in `into` only with the right digest and size.
    ///
    /// # Errors
    /// A place that does not answer, lacks the object, or sends another.
    fn fetch(&self, object: &Descriptor, into: &dyn Blobs) -> Result<(), DepotError>;

    /// Takes an object out of `from`, unless it is there already.
    ///
    /// # Errors
    /// A place that does not take it.
    fn put(&self, object: &Descriptor, from: &dyn Blobs) -> Result<(), DepotError>;

    /// Makes the cache's name stand for this manifest, whose objects are all there.
    ///
    /// # Errors
    /// A place that does not take it.
    fn publish(&self, manifest: &[u8]) -> Result<(), DepotError>;
}

/// Why a remote cache cannot be used; with all causes.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DepotError {
    /// What was wanted, and why it was not had.
    pub message: String,
}

impl DepotError {
    pub(crate) fn new(message: impl std::fmt::Display) -> Self {
        DepotError { message: message.to_string() }
    }
}
