//! Owners of files as an image means them, where the kernel cannot give files to them: they are recorded beside the file.
//!
//! Where a process has one id only, every file belongs to that. Who owns it in the image is said by a record that lives and dies
//! with the file, moves with it and is copied with it by whoever copies attributes:
//! - a regular file or folder has the attribute [`ATTRIBUTE`]: `UID GID`, or `UID GID MODE` (octal) where the mode cannot be the
//!   file's own either;
//! - a symbolic link, which can have no such attribute, says it at the start of its text, as steps that lead nowhere (`./` and `/`);
//! - for pipes and sockets, the folder that they are in has an attribute with their name.
//!
//! What has no record belongs to root.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use crate::tree::{self, Metadata};

/// What the names of all our attributes start with. None of them is for programs, and none is in a layer.
pub const PREFIX: &str = "user.lithify.";
/// The attribute of a regular file or folder that belongs to another than root.
pub const ATTRIBUTE: &str = "user.lithify.owner";
const ATTRIBUTE_NAME: &CStr = c"user.lithify.owner";

/// What is recorded of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The mode (0 to 0o7777) where the file's own is not what it should be.
    pub mode: Option<u32>,
}

impl Owner {
    /// A user and a group.
    pub fn new(uid: u32, gid: u32) -> Self {
        Owner { uid, gid, mode: None }
    }

    /// Whether nothing need be recorded.
    pub fn is_default(&self) -> bool {
        *self == Owner::default()
    }

    /// Reads the value of [`ATTRIBUTE`]; `None` where it is not ours.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(value).ok()?.split(' ');
        let (uid, gid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let mode = words.next().map(|mode| u32::from_str_radix(mode, 8)).transpose().ok()?;
        words.next().is_none().then_some(Owner { uid, gid, mode })
    }

    /// The value of [`ATTRIBUTE`].
    pub fn to_value(self) -> String {
        let Owner { uid, gid, mode } = self;
        mode.map_or_else(|| format!("{uid} {gid}"), |mode| format!("{uid} {gid} {mode:o}"))
    }
}

/// What the bits of a record in a symbolic link's text start with. No program writes such paths.
const LINK_MARK: u16 = 0b1011_0010_1110_0101;
/// The mark, the user and the group.
const LINK_BITS: u32 = 16 + 32 + 32;

/// The text of a symbolic link to `target` that belongs to `owner`: it leads where `target` leads.
pub fn link_text(target: &[u8], owner: Owner) -> Vec<u8> {
    if owner.is_default() {
        return target.to_vec();
    }
    let record = (u128::from(LINK_MARK) << 64) | (u128::from(owner.uid) << 32) | u128::from(owner.gid);
    // What follows may only be read from the root where the target is.
    let mut text = if target.starts_with(b"/") { b"/".to_vec() } else { b"./".to_vec() };
    for bit in (0..LINK_BITS).rev() {
        text.extend_from_slice(if record >> bit & 1 == 1 { b"./" } else { b"/" });
    }
    text.extend_from_slice(target);
    text
}

/// The owner that a symbolic link's text names, and the target without it.
pub fn read_link_text(text: &[u8]) -> (Owner, &[u8]) {
    parse_link_text(text).unwrap_or((Owner::default(), text))
}

fn parse_link_text(text: &[u8]) -> Option<(Owner, &[u8])> {
    let mut rest = text.strip_prefix(b"./").or_else(|| text.strip_prefix(b"/"))?;
    let mut record = 0_u128;
    for _ in 0..LINK_BITS {
        record <<= 1;
        rest = match rest.strip_prefix(b"/") {
            Some(rest) => rest,
            None => {
                record |= 1;
                rest.strip_prefix(b"./")?
            }
        };
    }
    let is_ours = record >> 64 == u128::from(LINK_MARK) && !rest.is_empty();
    is_ours.then(|| (Owner::new((record >> 32) as u32, record as u32), rest))
}

/// The attribute of a folder that says whom its pipe or socket `name` belongs to.
pub fn attribute_for(name: &[u8]) -> Vec<u8> {
    [ATTRIBUTE.as_bytes(), b".", name].concat()
}

/// Who the owners of a tree's files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// Those whom the kernel names.
    #[default]
    Real,
    /// Those who are recorded.
    Recorded,
}

impl Owners {
    /// As [`tree::metadata`], with the owner that counts here.
    ///
    /// # Errors
    /// As there, and what reading an attribute says.
    pub fn metadata(self, directory: impl AsFd, name: impl AsRef<[u8]>) -> io::Result<Metadata> {
        let (directory, name) = (directory.as_fd(), name.as_ref());
        let mut metadata = tree::metadata(directory, name)?;
        self.correct(directory, name, &mut metadata)?;
        Ok(metadata)
    }

    /// Puts what is recorded of `name` in `directory` in the place of what the kernel said.
    ///
    /// # Errors
    /// What reading an attribute says.
    pub fn correct(self, directory: BorrowedFd<'_>, name: &[u8], metadata: &mut Metadata) -> io::Result<()> {
        if self == Owners::Real {
            return Ok(());
        }
        let owner = match metadata.kind {
            FileType::RegularFile | FileType::Directory => {
                let value = tree::attribute(directory, &CString::new(name)?, ATTRIBUTE_NAME)?;
                value.and_then(|value| Owner::parse(&value))
            }
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(directory, name, vec![])?;
                Some(read_link_text(text.to_bytes()).0)
            }
            // Of an open one, the folder is not known.
            _ if name.is_empty() => None,
            _ => {
                let value = tree::attribute(directory, c"", &CString::new(attribute_for(name))?)?;
                value.and_then(|value| Owner::parse(&value))
            }
        };
        let owner = owner.unwrap_or_default();
        (metadata.uid, metadata.gid) = (owner.uid, owner.gid);
        metadata.mode = owner.mode.unwrap_or(metadata.mode);
        Ok(())
    }

    /// Where the symbolic link `name` points.
    ///
    /// # Errors
    /// What `readlinkat` says.
    pub fn read_link(self, directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
        let text = rustix::fs::readlinkat(directory, name, vec![])?.into_bytes();
        Ok(match self {
            Owners::Real => text,
            Owners::Recorded => read_link_text(&text).1.to_vec(),
        })
    }

    /// Gives an open regular file or folder to an owner. Before its mode is set: giving clears some bits.
    ///
    /// # Errors
    /// What `fchown` or setting the attribute says.
    pub fn give(self, file: BorrowedFd<'_>, uid: u32, gid: u32) -> rustix::io::Result<()> {
        if self == Owners::Real {
            return rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        }
        record(file, ATTRIBUTE.as_bytes(), Owner::new(uid, gid))
    }

    /// As [`give`](Owners::give), for a pipe or socket in `directory`, or any file but a symbolic link where owners are real.
    ///
    /// # Errors
    /// As there.
    pub fn give_at(
        self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        uid: u32,
        gid: u32,
    ) -> rustix::io::Result<()> {
        if self == Owners::Real {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            return rustix::fs::chownat(directory, name, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        }
        // The folder may be known by a descriptor that is good for paths only.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
        record(folder.as_fd(), &attribute_for(name), Owner::new(uid, gid))
    }

    /// Makes the symbolic link `name` to `target`, which belongs to an owner.
    ///
    /// # Errors
    /// What `symlinkat` and `fchownat` say.
    pub fn make_link(
        self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        target: &[u8],
        owner: Owner,
    ) -> rustix::io::Result<()> {
        if self == Owners::Recorded {
            return rustix::fs::symlinkat(link_text(target, owner), directory, name);
        }
        rustix::fs::symlinkat(target, directory, name)
    }

    /// Gives a folder that hides `below` in an overlay what that one says of its pipes and sockets.
    ///
    /// # Errors
    /// What reading and setting attributes says.
    pub fn carry(self, below: BorrowedFd<'_>, folder: BorrowedFd<'_>) -> io::Result<()> {
        if self == Owners::Real {
            return Ok(());
        }
        let ours = attribute_for(b"");
        for (name, value) in tree::xattrs(below)? {
            if name.starts_with(&ours) {
                set(folder, &name, &value)?;
            }
        }
        Ok(())
    }
}

fn record(file: BorrowedFd<'_>, attribute: &[u8], owner: Owner) -> rustix::io::Result<()> {
    if !owner.is_default() {
        return set(file, attribute, owner.to_value().as_bytes());
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::removexattr(path, std::ffi::OsStr::from_bytes(attribute)) {
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

fn set(file: BorrowedFd<'_>, attribute: &[u8], value: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(file, std::ffi::OsStr::from_bytes(attribute), value, XattrFlags::empty())
}
