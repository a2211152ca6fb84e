//! The kernel: namespaces, mounts, id maps, xattrs, seccomp, and walks over folders.
//!
//! The only crate with `unsafe` code. It knows nothing of images, steps or policy.

pub mod tree;
