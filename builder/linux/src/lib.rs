//! The kernel: namespaces, mounts, id maps, xattrs, seccomp, and walks over folders.
//!
//! The only crate with `unsafe` code. It knows nothing of images, steps or policy.

pub mod capability;
pub mod cgroup;
pub mod mount;
pub mod network;
pub mod owner;
pub mod process;
pub mod remote;
pub mod seccomp;
pub mod signals;
pub mod socket;
pub mod thread;
pub mod tree;
pub mod xattr;

#[cfg(test)]
mod tests;
