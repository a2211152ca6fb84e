//! Sources and sinks of images and files: registries, OCI layouts, archives, downloads and git.
//!
//! Content passes between the outside and an implementation of [`lithify_oci::Blobs`]; nothing is ever held whole in
//! memory but manifests. Whatever comes in is verified, digest and size, before it can be seen.

pub mod archive;
mod blob;
pub mod credentials;
pub mod depot;
pub mod error;
pub mod fetch;
mod http;
pub mod image;
pub mod layout;
pub mod registry;

pub use credentials::{Credentials, Secret};
pub use error::Error;
pub use image::{Contents, Image, ImageIndex};

/// Told how a transfer goes on. Called from several tasks at once.
pub trait Progress: Send + Sync {
    /// This many more bytes are where they belong. A blob that needs no transfer counts at once.
    fn advance(&self, bytes: u64);

    /// This many of the bytes reported before have to be transferred again.
    fn rewind(&self, _bytes: u64) {}
}

/// Nobody watches.
impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}

#[cfg(test)]
mod testing;
