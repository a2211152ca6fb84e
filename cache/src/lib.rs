//! What can be reused, and where it is kept.
