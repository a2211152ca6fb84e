//! Files below a folder, reached from its descriptor only: no path leaves it, no symbolic link is followed unasked.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

/// What `statx` says of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The kind of file.
    pub kind: FileType,
    /// Permission, setuid, setgid and sticky bits (0 to 0o7777).
    pub mode: u32,
    /// The owner, as this process sees it.
    pub uid: u32,
    /// The group, as this process sees it.
    pub gid: u32,
    /// The length in bytes.
    pub size_bytes: u64,
    /// When the content was last changed: seconds since the epoch, and nanoseconds.
    pub modified: (i64, u32),
    /// When the inode was last changed: seconds since the epoch, and nanoseconds.
    pub changed: (i64, u32),
    /// The inode's number.
    pub inode: u64,
    /// The file system's device.
    pub device: (u32, u32),
    /// How many names the file has.
    pub links: u32,
    /// What device the file stands for, if it is one.
    pub special: (u32, u32),
}

impl From<Statx> for Metadata {
    fn from(stat: Statx) -> Self {
        let mode = u32::from(stat.stx_mode);
        Metadata {
            kind: FileType::from_raw_mode(mode),
            mode: mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size_bytes: stat.stx_size,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            inode: stat.stx_ino,
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            links: stat.stx_nlink,
            special: (stat.stx_rdev_major, stat.stx_rdev_minor),
        }
    }
}

/// The metadata of `name` in `directory`; a symbolic link's own. An empty name means the directory itself.
///
/// # Errors
/// What `statx` says; a name that holds a NUL byte is invalid input.
pub fn metadata(directory: impl AsFd, name: impl AsRef<[u8]>) -> io::Result<Metadata> {
    let name = c_name(name.as_ref())?;
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
    Ok(Metadata::from(stat))
}

/// Opens `path` below `root`. No component of it may be a symbolic link, `..` that climbs out, or a magic link; the
/// empty path is the root itself. With `O_PATH | O_NOFOLLOW` the last component may be a link, which is then opened itself.
///
/// # Errors
/// `ELOOP` where a component is a link, `EXDEV` where the path leaves the root, and what `openat2` says.
pub fn open_beneath(root: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_resolved(root, path, flags, mode, resolve)
}

/// Opens `path` below `root` as a process would whose root folder it is: symbolic links are followed, absolute ones and
/// `..` stay inside.
///
/// # Errors
/// What `openat2` says.
pub fn open_in_root(root: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_resolved(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

fn open_resolved(
    root: impl AsFd,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    how: ResolveFlags,
) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { c".".to_owned() } else { c_name(path)? };
    loop {
        // EAGAIN: a rename raced with the resolution, which the kernel asks to be tried again.
        match rustix::fs::openat2(&root, &path, flags | OFlags::CLOEXEC, mode, how) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
            other => return Ok(other?),
        }
    }
}

/// The longest path that the kernel takes (PATH_MAX in linux/limits.h).
const MAX_PATH_BYTES: usize = 4096;

/// The stack, in bytes, that a thread wants which goes through trees: a recursion as deep as the deepest tree. Only what
/// is used of it takes memory.
pub const STACK_BYTES: usize = 64 << 20;

/// What a visitor of [`walk`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descend {
    /// If this is a folder, visit what is in it.
    Yes,
    /// Leave out what is in it.
    No,
}

/// A file that a walk has come to.
pub struct Visit<'a> {
    /// Its path below the root of the walk, components joined by `/`.
    pub path: &'a [u8],
    /// The folder that it is in.
    pub directory: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a CStr,
    /// What it is.
    pub metadata: &'a Metadata,
}

/// Visits everything below the folder `root`, not the folder itself, in canonical order: names sorted by their bytes, a
/// folder right before what is in it. Symbolic links are visited and never followed.
///
/// # Errors
/// The first failure to read a folder, with its path in the message, and whatever `visit` returns.
pub fn walk<E: From<WalkError>>(
    root: impl AsFd,
    visit: &mut dyn FnMut(Visit<'_>) -> Result<Descend, E>,
) -> Result<(), E> {
    let mut path = Vec::with_capacity(256);
    walk_directory(root.as_fd(), &mut path, visit)
}

/// A folder that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path:?} in the folder: {source}", path = String::from_utf8_lossy(path))]
pub struct WalkError {
    /// Below the root of the walk.
    pub path: Vec<u8>,
    /// Why.
    pub source: io::Error,
}

impl From<WalkError> for io::Error {
    fn from(error: WalkError) -> Self {
        io::Error::new(error.source.kind(), error)
    }
}

fn walk_directory<E: From<WalkError>>(
    directory: BorrowedFd<'_>,
    path: &mut Vec<u8>,
    visit: &mut dyn FnMut(Visit<'_>) -> Result<Descend, E>,
) -> Result<(), E> {
    let at = |path: &[u8], source: io::Error| E::from(WalkError { path: path.to_vec(), source });
    // What no program can name, no layer should hold; and the recursion stays bounded.
    if path.len() >= MAX_PATH_BYTES {
        return Err(at(path, rustix::io::Errno::NAMETOOLONG.into()));
    }
    let names = names(directory).map_err(|error| at(path, error))?;
    let parent_length = path.len();
    for name in &names {
        if parent_length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let metadata = metadata(directory, name.to_bytes()).map_err(|error| at(path, error))?;
        let is_directory = metadata.kind == FileType::Directory;
        let descend = visit(Visit { path, directory, name, metadata: &metadata })?;
        if is_directory && descend == Descend::Yes {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(directory, name.as_c_str(), flags, Mode::empty());
            let below = below.map_err(|error| at(path, error.into()))?;
            walk_directory(below.as_fd(), path, visit)?;
        }
        path.truncate(parent_length);
    }
    Ok(())
}

/// The names in a folder, sorted by their bytes, without `.` and `..`. The descriptor may have been read before.
///
/// # Errors
/// What `getdents64` says.
// Never inlined: the buffer must not be part of the frame of a recursive caller.
#[inline(never)]
pub fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = vec![];
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// All extended attributes of an open file, by full name and in order. An `O_PATH` descriptor will not do.
///
/// # Errors
/// What `flistxattr` and `fgetxattr` say; a file system without attributes has none.
pub fn xattrs(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let file = file.as_fd();
    let list = match read_growing(|buffer| rustix::fs::flistxattr(file, buffer)) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(vec![]),
        other => other?,
    };
    let mut attributes = vec![];
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match read_growing(|buffer| rustix::fs::fgetxattr(file, OsStr::from_bytes(name), buffer)) {
            Ok(value) => attributes.push((name.to_vec(), value)),
            // Removed since the list was read, or not for this process to read.
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// One short extended attribute (up to 256 bytes) of `name` in `directory`; an empty name means the directory, or open file, itself. `None` where
/// it is not there, is not for this process to read, or the file system has none.
///
/// # Errors
/// What the kernel says.
pub fn attribute(directory: BorrowedFd<'_>, name: &CStr, attribute: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = [0; 256];
    let length = if name.is_empty() {
        rustix::fs::getxattr(format!("/proc/self/fd/{}", directory.as_raw_fd()), attribute, &mut value)
    } else {
        match crate::xattr::get(directory, name, attribute, &mut value) {
            Ok(length) => Ok(length),
            Err(error) => match Errno::from_io_error(&error) {
                // A filter of system calls may say EPERM to one that it does not know.
                Some(Errno::NOSYS | Errno::PERM) | None => {
                    attribute_by_path(directory, name, attribute, &mut value)
                }
                Some(errno) => Err(errno),
            },
        }
    };
    match length {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The attribute on kernels that cannot be asked for it by descriptor and name.
fn attribute_by_path(
    directory: BorrowedFd<'_>,
    name: &CStr,
    attribute: &CStr,
    value: &mut [u8],
) -> rustix::io::Result<usize> {
    // One system call instead of three: the descriptor's own name in /proc stands for the folder.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    match rustix::fs::lgetxattr(path, attribute, &mut *value) {
        // Without /proc the file must be opened.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match rustix::fs::openat(directory, name, flags, Mode::empty()) {
                Ok(file) => rustix::fs::fgetxattr(file, attribute, value),
                Err(Errno::ACCESS) => Err(Errno::NODATA),
                Err(error) => Err(error),
            }
        }
        other => other,
    }
}

/// Calls `read` with buffers of growing size until its answer fits.
fn read_growing(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut size = 256;
    loop {
        let mut buffer = vec![0; size];
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(rustix::io::Errno::RANGE) if size < 1 << 20 => size *= 4,
            Err(error) => return Err(error),
        }
    }
}

fn c_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a file name holds a NUL byte"))
}
