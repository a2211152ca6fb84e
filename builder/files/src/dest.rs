//! The destination of a COPY or ADD, and the folder of a WORKDIR, looked up in the tree that they come on top of.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use lithify_linux::tree;
use lithify_oci::TreePath;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::shown;
use crate::resolve::{resolve, stat};
use crate::{Error, FileKind};

/// Where files go. It may cross a border between processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Symbolic links, the last component's too, are resolved inside the root.
    #[serde(with = "bytes")]
    pub path: TreePath,
    /// Whether it was written as a folder: with a slash at its end, or as `.`.
    pub is_directory: bool,
    /// What is there.
    pub existing: Option<FileKind>,
    /// How many of the folders above it are not there; the path itself does not count.
    pub missing_ancestors: usize,
}

/// Looks up `dest` below `root`, the tree that files are to come on top of. `is_directory` says whether it was written as a
/// folder.
///
/// # Errors
/// A path through something that is no folder, links in a circle, and what cannot be read.
pub fn inspect(root: BorrowedFd<'_>, dest: &str, is_directory: bool) -> Result<Destination, Error> {
    let resolved = resolve(root, TreePath::cleaned(dest.as_bytes()).as_bytes(), &|_, _| true)?;
    let mut missing_ancestors = 0;
    if resolved.metadata.is_none() {
        for ancestor in resolved.path.ancestors() {
            let found =
                stat(root, ancestor.as_bytes()).map_err(|error| Error::read(ancestor.as_bytes(), error))?;
            missing_ancestors += usize::from(found.is_none());
        }
    }
    let existing = resolved.metadata.map(|metadata| FileKind::from(metadata.kind));
    Destination::checked(resolved.path, is_directory, existing, missing_ancestors)
}

impl Destination {
    /// The same in a tree that has nothing but its root: `FROM scratch`, and `--link`, which knows no tree below.
    ///
    /// # Errors
    /// None at present; it answers as [`inspect`] does.
    pub fn in_empty_tree(dest: &str, is_directory: bool) -> Result<Destination, Error> {
        let path = TreePath::cleaned(dest.as_bytes());
        let existing = path.is_root().then_some(FileKind::Directory);
        let missing_ancestors = path.ancestors().count();
        Destination::checked(path, is_directory, existing, missing_ancestors)
    }

    fn checked(
        path: TreePath,
        is_directory: bool,
        existing: Option<FileKind>,
        missing_ancestors: usize,
    ) -> Result<Destination, Error> {
        if is_directory && existing.is_some_and(|kind| kind != FileKind::Directory) {
            return Err(Error::NotADirectory { path: shown(path.as_bytes()) });
        }
        Ok(Destination { path, is_directory, existing, missing_ancestors })
    }
}

/// Of `folders`, paths below the folder `path` of the tree, those that links lead elsewhere, each with where it leads,
/// also below `path`: an archive is unpacked as if that were the root. For [`crate::archive::Archive::follow`].
///
/// # Errors
/// What cannot be read. Links in a circle and paths through files are left alone; unpacking will find them in its way.
pub fn links(
    root: BorrowedFd<'_>,
    path: &TreePath,
    folders: &[TreePath],
) -> Result<Vec<(TreePath, TreePath)>, Error> {
    let flags = OFlags::DIRECTORY | OFlags::PATH;
    let folder = match tree::open_beneath(root, path.as_bytes(), flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(Error::read(path.as_bytes(), error)),
    };
    let mut found = vec![];
    for path in folders {
        match resolve(folder.as_fd(), path.as_bytes(), &|_, _| true) {
            Ok(resolved) if resolved.path != *path => found.push((path.clone(), resolved.path)),
            Ok(_) | Err(Error::NotADirectory { .. } | Error::LinkLoop { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Paths as bytes: names are not always text.
mod bytes {
    use lithify_oci::TreePath;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(path: &TreePath, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_bytes().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TreePath, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        TreePath::checked(&bytes).ok_or_else(|| D::Error::custom("a destination climbs out of its tree"))
    }
}
