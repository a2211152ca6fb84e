//! Works on trees inside the user namespace.
