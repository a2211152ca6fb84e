//! Whether files stayed what they were between the look that made a step's key and the copy: a layer must never be
//! recorded under the key of other contents.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use lithify_files::arrange::{Arrangement, Origin, Part};
use lithify_linux::tree::{self, Metadata};
use lithify_oci::layer::CatalogueEntry;
use lithify_oci::{EntryKind, TreePath};
use rustix::fs::{Mode, OFlags};

use super::compiled::read_catalogue;
use super::copy::{Found, PartContent};
use crate::error::Failure;

/// Compares the contents that the new layer's catalogue tells with those that the key was made of. What is not in the
/// catalogue, because it equals what is below or was unpacked, must not have been written to meanwhile.
///
/// # Errors
/// [`Failure::Changed`] with the first file that is not what it was, and a catalogue that cannot be read.
pub(super) fn check(
    arrangement: &Arrangement,
    origins: &[PartContent],
    catalogue: &File,
) -> Result<(), Failure> {
    let failed =
        |source: io::Error| Failure::Io { doing: "cannot read the catalogue of a new layer", source };
    let catalogue = read_catalogue(catalogue).map_err(failed)?;
    let mut made = catalogue.entries().map_err(failed)?;
    let mut next: Option<CatalogueEntry> = None;
    for placed in arrangement.items() {
        let Origin::Selected { part, item, source, facts } = &placed.origin else { continue };
        let PartContent::Files(found) = &origins[*part] else { continue };
        if !matches!(placed.entry.kind, EntryKind::File { .. }) {
            continue;
        }
        // Both lists are in canonical order.
        while next.as_ref().is_none_or(|next| next.entry.path < placed.entry.path) {
            match made.next().transpose().map_err(failed)? {
                Some(entry) => next = Some(entry),
                None => break,
            }
        }
        let unchanged = match next.as_ref().filter(|next| next.entry.path == placed.entry.path) {
            Some(made) => made.digest.as_ref() == found.digests.get(found.group, *item),
            None => is_untouched(found, source, facts),
        };
        if !unchanged {
            return Err(Failure::Changed { path: source.to_string() });
        }
    }
    check_archives(arrangement, origins)
}

fn check_archives(arrangement: &Arrangement, origins: &[PartContent]) -> Result<(), Failure> {
    for (part, origin) in arrangement.parts().iter().zip(origins) {
        if let (Part::Archive(_), PartContent::Files(found)) = (part, origin)
            && let Some((source, facts)) = &found.single
            && !is_untouched(found, source, facts)
        {
            return Err(Failure::Changed { path: source.to_string() });
        }
    }
    Ok(())
}

/// Whether a file is the one that was looked at, and its times say that nobody has written to it since.
fn is_untouched(found: &Found, source: &TreePath, before: &Metadata) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let now = tree::open_beneath(found.source.root.as_fd(), source.as_bytes(), flags, Mode::empty())
        .and_then(|file| tree::metadata(file, b""));
    let facts = |of: &Metadata| (of.kind, of.device, of.inode, of.size_bytes, of.modified, of.changed);
    now.is_ok_and(|now| facts(&now) == facts(before))
}
