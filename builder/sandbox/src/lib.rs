//! Runs one process in given mounts under given limits.
