//! What is made in a root tree only for the time of a step.

use std::io;
use std::os::fd::BorrowedFd;

use lithify_linux::tree;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Removes what was made only to mount on, if nothing is in it: children before parents. Returns what is empty and still there.
pub(crate) fn remove_created(root: BorrowedFd<'_>, created: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let remove = |path: &[u8]| -> io::Result<()> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        let parent = tree::open_beneath(root, parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let metadata = tree::metadata(&parent, name)?;
        let flags = match metadata.kind {
            rustix::fs::FileType::Directory => AtFlags::REMOVEDIR,
            rustix::fs::FileType::RegularFile if metadata.size_bytes == 0 => AtFlags::empty(),
            // The step has put something else there.
            _ => return Ok(()),
        };
        Ok(rustix::fs::unlinkat(parent, name, flags)?)
    };
    let mut left = vec![];
    for path in created.iter().rev() {
        match remove(path).map_err(|error| Errno::from_io_error(&error)) {
            // Something is in it, or it is gone, or the step has replaced what led there.
            Ok(())
            | Err(Some(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {}
            Err(_) => left.push(path.clone()),
        }
    }
    left.reverse();
    left
}
