//! Files of a tree as entries. A device that may not be made (in a user namespace: EPERM) is an empty regular file with the
//! attribute [`PLACEHOLDER`], `c MAJOR MINOR` or `b MAJOR MINOR`; whoever runs a step on the tree makes or fakes the device.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_linux::owner::Owners;
use lithify_linux::tree::{self, Metadata};
use lithify_oci::layer::CAPABILITY;
use lithify_oci::{Content, Device, Entry, EntryKind, Timestamp, TreePath};
use rustix::fs::{FileType, Mode, OFlags};

/// The attribute of a file that stands for a device.
pub const PLACEHOLDER: &str = "user.lithify.node";

/// A file that was looked at.
pub(crate) struct Node {
    pub(crate) entry: Entry,
    pub(crate) metadata: Metadata,
    file: Option<File>,
}

/// Looks at `name` in `directory`, which is at `path` in its tree; `None` for sockets and other things no layer can hold.
pub(crate) fn read(
    owners: Owners,
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: &TreePath,
) -> io::Result<Option<Node>> {
    let metadata = owners.metadata(directory, name)?;
    let mut file = None;
    let mut xattrs = std::collections::BTreeMap::new();
    let device = Device { major: metadata.special.0, minor: metadata.special.1 };
    let kind = match metadata.kind {
        FileType::Directory => EntryKind::Directory,
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            if let Some(value) = attribute(&opened, CAPABILITY)? {
                xattrs.insert(CAPABILITY.to_vec(), value);
            }
            let placeholder = match metadata.size_bytes {
                0 => attribute(&opened, PLACEHOLDER.as_bytes())?.and_then(|value| parse_placeholder(&value)),
                _ => None,
            };
            file = Some(File::from(opened));
            placeholder.unwrap_or(EntryKind::File { size_bytes: metadata.size_bytes })
        }
        FileType::Symlink => EntryKind::Symlink { target: owners.read_link(directory, name)? },
        FileType::CharacterDevice => EntryKind::CharDevice(device),
        FileType::BlockDevice => EntryKind::BlockDevice(device),
        FileType::Fifo => EntryKind::Fifo,
        _ => return Ok(None),
    };
    let mode = if metadata.kind == FileType::Symlink { 0o777 } else { metadata.mode };
    let entry = Entry {
        path: path.clone(),
        kind,
        mode,
        uid: metadata.uid,
        gid: metadata.gid,
        modified: modified(&metadata),
        xattrs,
    };
    Ok(Some(Node { entry, metadata, file }))
}

impl Node {
    /// Whether the two are one in all but path and times. Contents are only read where nothing else tells.
    pub(crate) fn same(mut self, mut other: Node) -> io::Result<bool> {
        other.entry.path = self.entry.path.clone();
        other.entry.modified = self.entry.modified;
        if self.entry != other.entry {
            return Ok(false);
        }
        match self.entry.kind {
            EntryKind::File { size_bytes } if size_bytes > 0 => {
                same_content(&mut *self.open()?, &mut *other.open()?)
            }
            _ => Ok(true),
        }
    }
}

impl Node {
    /// Adds users' attributes, which are in no layer but stay with a copy.
    pub(crate) fn add_user_attributes(&mut self) -> io::Result<()> {
        if let (Some(file), EntryKind::File { .. }) = (&self.file, &self.entry.kind) {
            let users = |(name, _): &(Vec<u8>, Vec<u8>)| name.starts_with(b"user.");
            self.entry.xattrs.extend(tree::xattrs(file)?.into_iter().filter(users));
        }
        Ok(())
    }

    /// The open file, where this is a regular one.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

impl Content for Node {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        match &mut self.file {
            Some(file) => Ok(Box::new(file)),
            None => Ok(Box::new(io::empty())),
        }
    }
}

/// When the content was changed.
pub(crate) fn modified(metadata: &Metadata) -> Timestamp {
    Timestamp { seconds: metadata.modified.0, nanoseconds: metadata.modified.1 }
}

/// Whether this is overlayfs's mark for a file that is gone (Documentation/filesystems/overlayfs.rst, "whiteouts").
pub(crate) fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.kind == FileType::CharacterDevice && metadata.special == (0, 0)
}

/// One attribute of an open file.
pub(crate) fn attribute(file: &OwnedFd, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    use std::os::unix::ffi::OsStrExt;
    // The longest that the kernel makes of these is 24 bytes; a placeholder's text is shorter than that.
    let mut value = vec![0; 64];
    match rustix::fs::fgetxattr(file, std::ffi::OsStr::from_bytes(name), &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP | rustix::io::Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The text of a placeholder's attribute; `None` for what is no device.
pub(crate) fn placeholder(kind: &EntryKind) -> Option<String> {
    match kind {
        EntryKind::CharDevice(Device { major, minor }) => Some(format!("c {major} {minor}")),
        EntryKind::BlockDevice(Device { major, minor }) => Some(format!("b {major} {minor}")),
        _ => None,
    }
}

fn parse_placeholder(value: &[u8]) -> Option<EntryKind> {
    let text = std::str::from_utf8(value).ok()?;
    let mut words = text.split(' ');
    let kind = words.next()?;
    let device = Device { major: words.next()?.parse().ok()?, minor: words.next()?.parse().ok()? };
    match (kind, words.next()) {
        ("c", None) => Some(EntryKind::CharDevice(device)),
        ("b", None) => Some(EntryKind::BlockDevice(device)),
        _ => None,
    }
}

fn same_content(one: &mut dyn Read, other: &mut dyn Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let got = read_full(one, &mut left)?;
        if got != read_full(other, &mut right)? || left[..got] != right[..got] {
            return Ok(false);
        }
        if got == 0 {
            return Ok(true);
        }
    }
}

fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether a step has to be shown something else than the kernel would show it: devices, where owners are real; otherwise pipes, of
/// which the folder that they are in knows the owner (devices and other files say that themselves). In `dev` something is mounted anyway.
pub(crate) fn is_special(owners: Owners, entry: &Entry) -> bool {
    let is_special = match owners {
        Owners::Real => placeholder(&entry.kind).is_some(),
        Owners::Recorded => entry.kind == EntryKind::Fifo && (entry.uid, entry.gid) != (0, 0),
    };
    is_special && entry.path.components().next() != Some(b"dev")
}

/// Opens the folder `name` in `directory`, never through a symbolic link.
pub(crate) fn open_folder(directory: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    tree::open_beneath(directory, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}
