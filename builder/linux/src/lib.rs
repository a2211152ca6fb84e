//! The kernel: namespaces, mounts, id maps, xattrs, seccomp.
