//! Where a mount goes: a path in the root tree, with what is missing made for it.
//!
//! Nothing else runs in the sandbox yet, so the tree holds still; but it may hold any symbolic link. All is resolved by
//! descriptor inside the root.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_linux::tree;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// As many symbolic links as the kernel follows.
const MAX_LINKS: usize = 40;

/// What to make where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
}

/// Opens `path` (`O_PATH`) below `root` as a process with that root would, following links, dangling ones too, and making what is
/// missing: folders, and at the end a `kind`. Appends what it made to `created`, parents first, relative to the root.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &str,
    kind: Kind,
    created: &mut Vec<Vec<u8>>,
) -> io::Result<OwnedFd> {
    match tree::open_in_root(root, path.as_bytes(), OFlags::PATH, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut walk = Walk { root, folders: vec![], names: vec![], pending: VecDeque::new(), links: 0 };
    walk.expect(path.as_bytes());
    while let Some(name) = walk.pending.pop_front() {
        if let Some(file) = walk.enter(name, kind, created)? {
            return Ok(file);
        }
    }
    match walk.folders.pop() {
        Some(folder) => Ok(folder),
        None => Ok(rustix::io::fcntl_dupfd_cloexec(root, 0)?),
    }
}

/// Where something is or can be put.
pub(crate) struct Spot {
    /// The folder.
    pub(crate) parent: OwnedFd,
    /// The name there, of no symbolic link.
    pub(crate) name: Vec<u8>,
    /// The path of that below the root, free of links.
    pub(crate) path: Vec<u8>,
}

/// As [`open`], but for the last component, which is found but not made.
pub(crate) fn locate(root: BorrowedFd<'_>, path: &str, created: &mut Vec<Vec<u8>>) -> io::Result<Spot> {
    let mut walk = Walk { root, folders: vec![], names: vec![], pending: VecDeque::new(), links: 0 };
    walk.expect(path.as_bytes());
    while let Some(name) = walk.pending.pop_front() {
        if walk.pending.is_empty() && name != b".." && !walk.is_link(&name)? {
            walk.names.push(name);
            return walk.spot(walk.folders.len());
        }
        walk.enter(name, Kind::Folder, created)?;
    }
    walk.spot(walk.folders.len().saturating_sub(1))
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// The folders entered, below the root.
    folders: Vec<OwnedFd>,
    /// Their names.
    names: Vec<Vec<u8>>,
    /// The components still to come.
    pending: VecDeque<Vec<u8>>,
    links: usize,
}

impl Walk<'_> {
    /// Puts the components of `path` before those that are still to come.
    fn expect(&mut self, path: &[u8]) {
        let components = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        for name in components.rev() {
            self.pending.push_front(name.to_vec());
        }
    }

    /// Goes one component on. A file, which only the last may be, is returned.
    fn enter(
        &mut self,
        name: Vec<u8>,
        kind: Kind,
        created: &mut Vec<Vec<u8>>,
    ) -> io::Result<Option<OwnedFd>> {
        if name == b".." {
            self.folders.pop();
            self.names.pop();
            return Ok(None);
        }
        let here = self.folders.last().map_or(self.root, AsFd::as_fd);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = match rustix::fs::openat(here, name.as_slice(), flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                let is_last = self.pending.is_empty();
                match kind {
                    Kind::File if is_last => {
                        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                        drop(rustix::fs::openat(here, name.as_slice(), flags, Mode::from_raw_mode(0o644))?);
                    }
                    _ => rustix::fs::mkdirat(here, name.as_slice(), Mode::from_raw_mode(0o755))?,
                }
                created.push(self.path_of(&name));
                rustix::fs::openat(here, name.as_slice(), flags, Mode::empty())?
            }
            other => other?,
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&entry)?.st_mode) {
            FileType::Symlink => {
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let link = rustix::fs::readlinkat(&entry, c"", vec![])?;
                if link.to_bytes().starts_with(b"/") {
                    self.folders.clear();
                    self.names.clear();
                }
                self.expect(link.to_bytes());
                Ok(None)
            }
            FileType::Directory => {
                self.folders.push(entry);
                self.names.push(name);
                Ok(None)
            }
            _ if self.pending.is_empty() => Ok(Some(entry)),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn is_link(&self, name: &[u8]) -> io::Result<bool> {
        let here = self.folders.last().map_or(self.root, AsFd::as_fd);
        match tree::metadata(here, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => Ok(other?.kind == FileType::Symlink),
        }
    }

    /// The last of the names, in the folder above which there are `depth`.
    fn spot(&self, depth: usize) -> io::Result<Spot> {
        let parent = depth.checked_sub(1).map_or(self.root, |above| self.folders[above].as_fd());
        // The root itself has no name.
        let name = self.names.last().ok_or(Errno::BUSY)?.clone();
        let parent = rustix::io::fcntl_dupfd_cloexec(parent, 0)?;
        Ok(Spot { parent, name, path: self.names.join(&b'/') })
    }

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.names.join(&b'/');
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}
