//! The vocabulary of OCI images, and the layer codec.
//!
//! Nouns only: digests, references, platforms, descriptors, manifests and configs, and [`Entry`], one file of a
//! tree. This crate knows the OCI specifications and nothing else: no files, network, clock or environment.

pub mod blobs;
pub mod config;
pub mod digest;
pub mod entry;
pub mod file_digest;
pub mod image;
pub mod layer;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod validate;

pub use blobs::{Blobs, NewBlob};
pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use digest::{Digest, DigestWriter};
pub use entry::{Content, Device, Entry, EntryKind, EntrySink, Timestamp, TreePath};
pub use file_digest::{FileDigest, FileHasher};
pub use manifest::{Descriptor, Index, Manifest, media_type};
pub use platform::Platform;
pub use reference::Reference;
