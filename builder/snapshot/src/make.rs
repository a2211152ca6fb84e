//! Makes single files of a tree.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use lithify_linux::owner::{ATTRIBUTE, Owner, Owners};
use lithify_oci::layer::CAPABILITY;
use lithify_oci::{Content, Device, Entry, EntryKind, FileDigest, FileHasher, Timestamp, TreePath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::Error;
use crate::node::Node;
use crate::node::{PLACEHOLDER, placeholder};

/// Whether the digest of a file's content is wanted while it is written.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Hash {
    Yes,
    No,
}

/// Makes the file `name`, which must not be there, in `directory`: anything but folders, hard links and whiteouts.
/// `EEXIST` is told as `None`, since then somebody has to make room first.
pub(crate) fn make(
    owners: Owners,
    directory: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    content: &mut dyn Content,
    hash: Hash,
) -> Result<Option<Made>, Error> {
    let made = match &entry.kind {
        EntryKind::File { size_bytes } => file(owners, directory, name, entry, *size_bytes, content, hash),
        EntryKind::Symlink { target } => {
            let owner = Owner::new(entry.uid, entry.gid);
            let made = owners.make_link(directory, name, target, owner);
            made.map_err(Error::of_errno("make", entry))
                .and_then(|()| finish_by_name(owners, directory, name, entry))
        }
        EntryKind::Fifo => {
            let made = rustix::fs::mkfifoat(directory, name, Mode::RUSR);
            made.map_err(Error::of_errno("make", entry))
                .and_then(|()| finish_by_name(owners, directory, name, entry))
        }
        EntryKind::CharDevice(number) => {
            device(owners, directory, name, entry, FileType::CharacterDevice, *number)
        }
        EntryKind::BlockDevice(number) => {
            device(owners, directory, name, entry, FileType::BlockDevice, *number)
        }
        EntryKind::Directory | EntryKind::HardLink { .. } | EntryKind::Whiteout | EntryKind::Opaque => {
            return Err(Error::Refused { path: entry.path.clone(), problem: "it is no single file" });
        }
    };
    match made {
        Ok(made) => Ok(Some(made)),
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

/// What was learned while a file was made.
#[derive(Default)]
pub(crate) struct Made {
    /// The digest of its content, where it is a file and one was wanted.
    pub(crate) digest: Option<FileDigest>,
}

impl Error {
    fn of_errno(action: &'static str, entry: &Entry) -> impl FnOnce(Errno) -> Error {
        let path = entry.path.clone();
        move |error| Error::File { action, path, source: error.into() }
    }
}

fn file(
    owners: Owners,
    directory: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    size_bytes: u64,
    content: &mut dyn Content,
    hash: Hash,
) -> Result<Made, Error> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(Error::of_errno("make", entry))?;
    let mut file = File::from(opened);
    let mut digest = None;
    if size_bytes > 0 {
        let mut reader = content.open().map_err(Error::Stream)?;
        digest =
            fill(&mut file, &mut *reader, size_bytes, hash).map_err(Error::file("write", &entry.path))?;
    } else if hash == Hash::Yes {
        digest = Some(FileDigest::of([]));
    }
    finish(owners, &OwnedFd::from(file), entry)?;
    Ok(Made { digest })
}

/// Zeros of at least this length become a hole.
const HOLE: usize = 64 << 10;

/// Writes the content, and leaves holes where it is zero for long.
fn fill(
    file: &mut File,
    reader: &mut dyn Read,
    size_bytes: u64,
    hash: Hash,
) -> io::Result<Option<FileDigest>> {
    let mut hasher = (hash == Hash::Yes).then(FileHasher::default);
    let mut buffer = vec![0; usize::try_from(size_bytes).unwrap_or(HOLE).min(HOLE)];
    let mut left = size_bytes;
    let mut ends_in_hole = false;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(HOLE).min(HOLE);
        reader.read_exact(&mut buffer[..want])?;
        let piece = &buffer[..want];
        if let Some(hasher) = &mut hasher {
            hasher.write_all(piece)?;
        }
        ends_in_hole = want == HOLE && piece.iter().all(|byte| *byte == 0);
        if ends_in_hole {
            file.seek(SeekFrom::Current(HOLE as i64))?;
        } else {
            file.write_all(piece)?;
        }
        left -= want as u64;
    }
    if ends_in_hole {
        file.set_len(size_bytes)?;
    }
    Ok(hasher.map(|hasher| hasher.finish()))
}

/// A real device where that is allowed, else a placeholder.
fn device(
    owners: Owners,
    directory: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    kind: FileType,
    number: Device,
) -> Result<Made, Error> {
    if kind == FileType::CharacterDevice && number == (Device { major: 0, minor: 0 }) {
        let problem = "the character device 0:0 is overlayfs's mark for a file that is gone";
        return Err(Error::Refused { path: entry.path.clone(), problem });
    }
    let special = rustix::fs::makedev(number.major, number.minor);
    match rustix::fs::mknodat(directory, name, kind, Mode::RUSR, special) {
        Ok(()) => finish_by_name(owners, directory, name, entry),
        Err(Errno::PERM) => {
            let mut stands_for = entry.clone();
            stands_for.kind = EntryKind::File { size_bytes: 0 };
            let text = placeholder(&entry.kind).unwrap_or_default();
            stands_for.xattrs.insert(PLACEHOLDER.into(), text.into_bytes());
            if owners == Owners::Recorded {
                // Root's too: it tells whoever shows it to a step that there is something to show.
                let owner = Owner::new(entry.uid, entry.gid).to_value();
                stands_for.xattrs.insert(ATTRIBUTE.into(), owner.into_bytes());
            }
            file(owners, directory, name, &stands_for, 0, &mut &[][..], Hash::No).map(|_| Made::default())
        }
        Err(error) => Err(Error::of_errno("make", entry)(error)),
    }
}

/// Gives an open file or folder its owner, mode, attributes and time, in the order in which none undoes another.
pub(crate) fn finish(owners: Owners, file: &OwnedFd, entry: &Entry) -> Result<(), Error> {
    let owned = owners.give(file.as_fd(), entry.uid, entry.gid);
    owned.map_err(|error| not_owned(entry, error))?;
    rustix::fs::fchmod(file, Mode::from(entry.mode)).map_err(Error::of_errno("set the mode of", entry))?;
    for (name, value) in &entry.xattrs {
        set_attribute(file.as_fd(), entry, name, value)?;
    }
    rustix::fs::futimens(file, &times(entry.modified)).map_err(Error::of_errno("set the time of", entry))
}

fn finish_by_name(
    owners: Owners,
    directory: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
) -> Result<Made, Error> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let is_link = matches!(entry.kind, EntryKind::Symlink { .. });
    // A link whose owner is recorded was made with the record.
    if !is_link || owners == Owners::Real {
        let given = owners.give_at(directory, name, entry.uid, entry.gid);
        given.map_err(|error| not_owned(entry, error))?;
    }
    if !is_link {
        rustix::fs::chmodat(directory, name, Mode::from(entry.mode), AtFlags::empty())
            .map_err(Error::of_errno("set the mode of", entry))?;
    }
    rustix::fs::utimensat(directory, name, &times(entry.modified), flags)
        .map_err(Error::of_errno("set the time of", entry))?;
    Ok(Made::default())
}

fn not_owned(entry: &Entry, error: Errno) -> Error {
    Error::Owner { path: entry.path.clone(), uid: entry.uid, gid: entry.gid, source: error.into() }
}

/// Sets what a tree carries: `security.capability`, our own mark, and users' attributes, never those that mean something
/// to overlayfs. A file system that has no place for users' attributes goes without.
fn set_attribute(file: BorrowedFd<'_>, entry: &Entry, name: &[u8], value: &[u8]) -> Result<(), Error> {
    let ours = name == PLACEHOLDER.as_bytes();
    let users = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    if name != CAPABILITY && !ours && !users {
        return Ok(());
    }
    match rustix::fs::fsetxattr(file, std::ffi::OsStr::from_bytes(name), value, XattrFlags::empty()) {
        Err(Errno::NOTSUP | Errno::NOSPC | Errno::PERM) if users && !ours => Ok(()),
        other => other.map_err(Error::of_errno("set an attribute of", entry)),
    }
}

/// Both times of a file; the one of access is nobody's business.
pub(crate) fn times(modified: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Makes `name` in `directory` a file like `node`, content, metadata and all; its path there is `path`.
pub(crate) fn copy(
    owners: Owners,
    mut node: Node,
    path: &TreePath,
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(), Error> {
    node.add_user_attributes().map_err(Error::file("read the attributes of", path))?;
    let mut entry = node.entry.clone();
    entry.path = path.clone();
    if let (Some(from), EntryKind::File { size_bytes }) = (node.file(), &entry.kind) {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::of_errno("make", &entry))?;
        let to = File::from(to);
        copy_content(from, &to, *size_bytes).map_err(Error::file("copy", path))?;
        return finish(owners, &OwnedFd::from(to), &entry);
    }
    match make(owners, directory, name, &entry, &mut node, Hash::No)? {
        Some(_) => Ok(()),
        None => Err(Error::file("copy", path)(io::ErrorKind::AlreadyExists.into())),
    }
}

/// Shares the blocks where the file system can, else copies the data inside the kernel, and leaves the holes.
fn copy_content(mut from: &File, to: &File, size_bytes: u64) -> io::Result<()> {
    if size_bytes == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(size_bytes)?;
    let mut position = 0;
    while position < size_bytes {
        let data = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(position)) {
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => position,
            other => other?,
        };
        let end = match rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(data)) {
            Err(Errno::INVAL) => size_bytes,
            other => other?,
        };
        copy_range(from, to, data, end)?;
        position = end;
    }
    from.rewind()
}

fn copy_range(mut from: &File, mut to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut write) = (start, start);
    while read < end {
        let length = usize::try_from(end - read).unwrap_or(1 << 30).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), length) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                from.seek(SeekFrom::Start(read))?;
                to.seek(SeekFrom::Start(read))?;
                let copied = io::copy(&mut from.take(end - read), &mut to)?;
                return if copied == end - read { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
