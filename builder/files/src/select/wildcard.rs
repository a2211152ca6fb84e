//! Wildcards in a source: each component of the pattern against the names of one folder.
//!
//! BuildKit walks everything below the last folder that has no wildcard and matches whole paths; component by component
//! finds the same, for a `*` never crosses a slash, and reads only the folders that can match. (A negated class can match a
//! slash in Go; nobody means that, and it is left out here.)

use std::os::fd::{AsFd, BorrowedFd};

use lithify_linux::tree;
use lithify_oci::TreePath;
use rustix::fs::{FileType, Mode, OFlags};

use super::{Options, is_visible, not_found};
use crate::Error;
use crate::glob::{self, Pattern};
use crate::resolve::resolve;

/// The paths below the root that match, in canonical order. A pattern without wildcards is taken as it is, there or not.
pub(super) fn expand(
    root: BorrowedFd<'_>,
    pattern: &TreePath,
    options: &Options<'_>,
) -> Result<Vec<TreePath>, Error> {
    let components: Vec<&[u8]> = pattern.components().collect();
    let Some(first) = components.iter().position(|component| glob::has_wildcards(component)) else {
        return Ok(vec![pattern.clone()]);
    };
    let bad =
        |source| Error::Pattern { pattern: String::from_utf8_lossy(pattern.as_bytes()).into_owned(), source };
    let patterns = components[first..].iter().map(|component| Pattern::new(component).map_err(bad));
    let patterns = patterns.collect::<Result<Vec<_>, _>>()?;

    let literal = TreePath::cleaned(&components[..first].join(&b'/'));
    let base = resolve(root, literal.as_bytes(), &|path, is_directory| {
        is_visible(options.ignore, path, is_directory)
    })?;
    let Some(metadata) = base.metadata else { return Err(not_found(root, &literal, options)) };
    let mut found = vec![];
    if metadata.kind == FileType::Directory {
        descend(root, &base.path, &patterns, options, &mut found)?;
    }
    Ok(found)
}

fn descend(
    root: BorrowedFd<'_>,
    folder: &TreePath,
    patterns: &[Pattern],
    options: &Options<'_>,
    found: &mut Vec<TreePath>,
) -> Result<(), Error> {
    let Some((pattern, rest)) = patterns.split_first() else { return Ok(()) };
    let read = |error: std::io::Error| Error::read(folder.as_bytes(), error);
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let directory = tree::open_beneath(root, folder.as_bytes(), flags, Mode::empty()).map_err(read)?;
    for name in tree::names(directory.as_fd()).map_err(read)? {
        let name = name.as_bytes();
        if !pattern.matches(name) {
            continue;
        }
        let path = folder.join(name);
        let is_directory = tree::metadata(&directory, name).map_err(read)?.kind == FileType::Directory;
        if !is_visible(options.ignore, path.as_bytes(), is_directory) {
            continue;
        }
        if rest.is_empty() {
            found.push(path);
        } else if is_directory {
            descend(root, &path, rest, options, found)?;
        }
    }
    Ok(())
}
