//! The layer codec (OCI image specification, layer.md): entries to tar and back, compression, and what a layer holds.
//!
//! **The bytes of a layer.** The same entries give the same bytes, always:
//! - Entries come in [`layer_order`]: sorted by path component, parents first and, inside a folder, whiteouts first.
//! - Headers are ustar; a PAX header precedes one only where ustar cannot say something (a name that does not split into
//!   155 and 100 bytes, a size from 8 GiB, an owner from 2^21, a time before 1970, an attribute), its records sorted by key.
//! - Names have no leading slash, those of folders end in one; the names of owners are empty, their numbers are what counts.
//! - Times are one second for all ([`Times::At`], 0 unless asked for otherwise), or cut to whole seconds.
//! - `security.capability` is the only extended attribute. No access or change times, no device or inode numbers.
//! - Whiteouts are empty files of mode 0 and owner 0; opaque markers are never written.
//! - Two blocks of zeros end the archive.
//!
//! What may differ for one tar is the compressed blob: [`Compression::identity`] names all that decides about it.

mod blob;
pub mod catalogue;
mod compiled;
mod compress;
mod header;
mod read;
mod sparse;
#[cfg(test)]
mod tests;
mod write;

use std::cmp::Ordering;

use crate::TreePath;

pub use blob::{Layer, LayerWriter, Written, recompress};
pub use catalogue::{Catalogue, CatalogueEntry, CatalogueWriter};
pub use compiled::{Compiled, InLayer, Mended, source_of};
pub use compress::{Compression, decompress};
pub use read::{InvalidArchive, Limits, read_archive, read_tar};
pub use write::{CAPABILITY, TarWriter};

/// What the name of a whiteout starts with (layer.md, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// What AUFS called files of its own.
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
/// The name that marks the folder it is in as opaque (layer.md, "Opaque Whiteout").
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// Which times go into an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// This one for all: seconds since 1970-01-01T00:00:00Z.
    At(i64),
    /// The real ones, cut to whole seconds.
    Preserve,
    /// The real ones with their nanoseconds, and every extended attribute: for pipes between processes, not for layers.
    Exact,
}

impl Default for Times {
    fn default() -> Self {
        Times::At(0)
    }
}

/// The order of entries in a layer. Each side is a path, and whether it is a whiteout.
///
/// It is the order of [`TreePath`], but that inside a folder the whiteouts come first.
pub fn layer_order(left: (&TreePath, bool), right: (&TreePath, bool)) -> Ordering {
    let (mut ours, mut theirs) = (left.0.components(), right.0.components());
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(one), Some(other)) if one == other => {}
            (Some(one), Some(other)) => {
                let left_first = left.1 && ours.next().is_none();
                let right_first = right.1 && theirs.next().is_none();
                return (!left_first, one).cmp(&(!right_first, other));
            }
        }
    }
}
