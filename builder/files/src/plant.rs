//! Entries as files of the caller: what an archive as context and a local output are written by.
//!
//! Nothing is written outside the folder, whatever is in it already and whatever the entries say: every folder on the way is
//! opened by its name alone, and links are never followed. Owners are the caller's; device nodes, which need privilege,
//! are left out.

#[cfg(test)]
mod tests;

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use lithify_oci::{Content, Entry, EntryKind, Timestamp, TreePath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// It is there.
    Made,
    /// It is a device node, which the caller may not make.
    LeftOut,
}

/// Writes entries below a folder. Entries come with those of the folders that they are in before them, or without: a folder that no
/// entry makes has mode 0755.
pub struct Planter {
    root: OwnedFd,
    /// The folder that the last entry was in.
    current: Option<(TreePath, OwnedFd)>,
    /// What folders get when nothing is written to them any more.
    folders: Vec<Folder>,
}

struct Folder {
    path: TreePath,
    mode: u32,
    modified: Timestamp,
}

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Planter {
    /// Writes below `root`, which may hold files already.
    ///
    /// # Errors
    /// A descriptor that cannot be copied.
    pub fn new(root: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Planter { root: root.try_clone_to_owned()?, current: None, folders: vec![] })
    }

    /// Writes one entry. What is in its place goes, unless both are folders. The root itself is left as it is.
    ///
    /// # Errors
    /// What the system and the content say.
    pub fn plant(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<Planted> {
        let (Some(name), Some(parent)) = (entry.path.file_name(), entry.path.parent()) else {
            return Ok(Planted::Made);
        };
        if matches!(entry.kind, EntryKind::CharDevice(_) | EntryKind::BlockDevice(_)) {
            return Ok(Planted::LeftOut);
        }
        let folder = self.folder(&parent)?;
        let is_folder = entry.kind == EntryKind::Directory;
        let there = clear(folder.as_fd(), name, is_folder)?;
        match &entry.kind {
            EntryKind::Directory => {
                if !there {
                    rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700))?;
                }
                let Entry { path, mode, modified, .. } = entry.clone();
                self.folders.push(Folder { path, mode, modified });
            }
            EntryKind::File { .. } => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file =
                    File::from(rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600))?);
                io::copy(&mut content.open()?, &mut file)?;
                file.set_permissions(Permissions::from_mode(entry.mode))?;
                rustix::fs::futimens(&file, &times(entry.modified))?;
            }
            EntryKind::Symlink { target } => {
                rustix::fs::symlinkat(target.as_slice(), &folder, name)?;
                set_times(folder.as_fd(), name, entry.modified)?;
            }
            EntryKind::HardLink { target } => {
                let (Some(first), Some(above)) = (target.file_name(), target.parent()) else {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a hard link to the root"));
                };
                let from = self.open(&above)?;
                rustix::fs::linkat(&from, first, &folder, name, AtFlags::empty())?;
            }
            EntryKind::Fifo => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(&folder, name, FileType::Fifo, mode, 0)?;
                rustix::fs::chmodat(&folder, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
                set_times(folder.as_fd(), name, entry.modified)?;
            }
            EntryKind::CharDevice(_) | EntryKind::BlockDevice(_) => {}
            EntryKind::Whiteout | EntryKind::Opaque => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a whiteout is no file"));
            }
        }
        Ok(Planted::Made)
    }

    /// Gives folders their modes and times, the innermost first.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(mut self) -> io::Result<()> {
        self.current = None;
        self.folders.sort_by(|one, other| one.path.cmp(&other.path));
        for folder in std::mem::take(&mut self.folders).into_iter().rev() {
            let opened = File::from(self.open(&folder.path)?);
            rustix::fs::futimens(&opened, &times(folder.modified))?;
            opened.set_permissions(Permissions::from_mode(folder.mode))?;
        }
        Ok(())
    }

    /// The folder at `path`, made where it is not there.
    fn folder(&mut self, path: &TreePath) -> io::Result<OwnedFd> {
        if let Some((_, opened)) = self.current.as_ref().filter(|(current, _)| current == path) {
            return opened.try_clone();
        }
        let mut at = self.root.try_clone()?;
        for component in path.components() {
            at = match rustix::fs::openat(&at, component, FOLDER, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    clear(at.as_fd(), component, true)?;
                    rustix::fs::mkdirat(&at, component, Mode::from_raw_mode(0o755))?;
                    rustix::fs::openat(&at, component, FOLDER, Mode::empty())?
                }
                Err(Errno::ACCESS) => {
                    // A folder of an earlier output may not be readable; it is the caller's, and gets its mode back below.
                    rustix::fs::chmodat(&at, component, Mode::from_raw_mode(0o700), AtFlags::empty())?;
                    rustix::fs::openat(&at, component, FOLDER, Mode::empty())?
                }
                Err(errno) => return Err(errno.into()),
            };
        }
        self.current = Some((path.clone(), at.try_clone()?));
        Ok(at)
    }

    fn open(&self, path: &TreePath) -> io::Result<OwnedFd> {
        let mut at = self.root.try_clone()?;
        for component in path.components() {
            at = rustix::fs::openat(&at, component, FOLDER, Mode::empty())?;
        }
        Ok(at)
    }
}

/// Takes away what is at `name`. Where a folder is wanted and there is one, it stays: the answer is whether one did.
fn clear(folder: BorrowedFd<'_>, name: &[u8], is_folder: bool) -> io::Result<bool> {
    let found = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => FileType::from_raw_mode(found.st_mode),
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    match (found, is_folder) {
        (FileType::Directory, true) => {
            // Nothing can be made in it otherwise; its own mode comes at the end.
            rustix::fs::chmodat(folder, name, Mode::from_raw_mode(0o700), AtFlags::empty())?;
            return Ok(true);
        }
        (FileType::Directory, false) => {
            let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name);
            std::fs::remove_dir_all(
                std::path::Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name),
            )?;
        }
        _ => rustix::fs::unlinkat(folder, name, AtFlags::empty())?,
    }
    Ok(false)
}

fn set_times(folder: BorrowedFd<'_>, name: &[u8], modified: Timestamp) -> io::Result<()> {
    Ok(rustix::fs::utimensat(folder, name, &times(modified), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(modified: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
