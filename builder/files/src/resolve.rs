//! Symbolic links resolved below a root, which stands for `/`: absolute targets start at it and `..` stops at it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use lithify_linux::tree::{self, Metadata};
use lithify_oci::TreePath;
use rustix::fs::{FileType, Mode, OFlags};

use crate::Error;
use crate::error::shown;

/// How many links one path may lead through; the number is that of BuildKit's library.
const MAX_LINKS: usize = 255;

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Without links. What is not there is taken by its text.
    pub(crate) path: TreePath,
    /// `None` if nothing is there.
    pub(crate) metadata: Option<Metadata>,
}

/// Follows every link in `path`, the last component's too. What `visible` denies (given its path and whether it is
/// a folder) counts as not there.
pub(crate) fn resolve(
    root: BorrowedFd<'_>,
    path: &[u8],
    visible: &dyn Fn(&[u8], bool) -> bool,
) -> Result<Resolved, Error> {
    let mut pending = reversed_components(path);
    let mut done: Vec<u8> = vec![];
    let mut links = 0;
    while let Some(component) = pending.pop() {
        let parent_length = done.len();
        if component == b".." {
            done.truncate(done.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            continue;
        }
        if parent_length > 0 {
            done.push(b'/');
        }
        done.extend_from_slice(&component);
        let Some(metadata) = look(root, &done, visible)? else { continue };
        if metadata.kind != FileType::Symlink {
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Error::LinkLoop { path: shown(path) });
        }
        let target = read_link(root, &done).map_err(|error| Error::read(&done, error))?;
        done.truncate(if target.starts_with(b"/") { 0 } else { parent_length });
        pending.extend(reversed_components(&target));
    }
    let metadata = look(root, &done, visible)?;
    Ok(Resolved { path: TreePath::cleaned(&done), metadata })
}

/// The file itself at a path that has no links above its last component; `None` if it is not there.
pub(crate) fn stat(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<Metadata>> {
    match tree::open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(file) => tree::metadata(file, "").map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn look(
    root: BorrowedFd<'_>,
    path: &[u8],
    visible: &dyn Fn(&[u8], bool) -> bool,
) -> Result<Option<Metadata>, Error> {
    match stat(root, path) {
        Ok(found) => Ok(found.filter(|metadata| visible(path, metadata.kind == FileType::Directory))),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(path.len());
            Err(Error::NotADirectory { path: shown(&path[..end]) })
        }
        Err(error) => Err(Error::read(path, error)),
    }
}

fn read_link(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Vec<u8>> {
    let link = tree::open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
    Ok(rustix::fs::readlinkat(link.as_fd(), c"", Vec::new())?.into_bytes())
}

fn reversed_components(path: &[u8]) -> Vec<Vec<u8>> {
    let components = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    components.rev().map(<[u8]>::to_vec).collect()
}
