//! Places for objects by digest, and one manifest that names them: an image layout, a repository, an object store. They know
//! nothing of what the objects are.

mod bucket;
mod folder;
mod repository;

pub use bucket::{Bucket, BucketConfig};
pub use folder::Folder;
pub(crate) use repository::Nowhere;
pub use repository::Repository;

#[cfg(test)]
mod tests;
