//! Removes trees, by descriptors alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use lithify_linux::tree;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::node::open_folder;

/// Removes `name` in `directory`, and all that is below where it is a folder. No error where it is not there.
///
/// # Errors
/// What cannot be removed.
pub fn remove_tree(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let folder = open_folder(directory, name)?;
    for below in tree::names(folder.as_fd())? {
        remove_tree(folder.as_fd(), below.to_bytes())?;
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
