//! File trees made of layers: overlay and copy.
