//! What is to be known of one file beside what `statx` says: where a link points, capabilities, stand-ins for devices.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use lithify_linux::tree::{self as files, Metadata};
use lithify_oci::Device;
use rustix::fs::FileType;

use crate::select::TreeKind;

/// The extended attribute of a regular file that stands for a device, where the builder may not make one: `c 1 3`.
pub const NODE_ATTRIBUTE: &str = "user.lithify.node";

/// The one attribute that goes into layers, as with BuildKit.
pub(crate) const CAPABILITY: &str = "security.capability";
const CAPABILITY_NAME: &CStr = c"security.capability";
const NODE_NAME: &CStr = c"user.lithify.node";

/// A kind of file, without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FileKind {
    /// A folder.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A device, a named pipe or a socket.
    Special,
}

impl From<FileType> for FileKind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::Directory => FileKind::Directory,
            FileType::RegularFile => FileKind::File,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Special,
        }
    }
}

/// What is rarely there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    /// Where a symbolic link points.
    pub(crate) target: Vec<u8>,
    /// `security.capability`, in its form without a root id.
    pub(crate) capability: Option<Vec<u8>>,
    /// The device that a regular file stands for, and whether it is a block device.
    pub(crate) stand_in: Option<(bool, Device)>,
}

/// Reads what belongs to the file `name` in `directory`; in a tree of this kind.
pub(crate) fn extra(
    directory: BorrowedFd<'_>,
    name: &CStr,
    metadata: &Metadata,
    tree: TreeKind,
) -> io::Result<Option<Extra>> {
    let mut extra = Extra::default();
    match metadata.kind {
        FileType::Symlink => {
            extra.target = tree.owners().read_link(directory, name.to_bytes())?;
            return Ok(Some(extra));
        }
        FileType::RegularFile => {
            extra.capability = files::attribute(directory, name, CAPABILITY_NAME)?.map(without_root_id);
            if tree != TreeKind::Context && metadata.size_bytes == 0 {
                let value = files::attribute(directory, name, NODE_NAME)?;
                extra.stand_in = value.and_then(|value| parse_node(&value));
            }
        }
        _ => {}
    }
    Ok((extra != Extra::default()).then_some(extra))
}

/// A capability that names the root of a user namespace (version 3) as one that does not (version 2): the namespace is the
/// builder's and means nothing in an image.
fn without_root_id(mut value: Vec<u8>) -> Vec<u8> {
    const VERSION_2: u8 = 2;
    const VERSION_3: u8 = 3;
    if value.len() == 24 && value[3] == VERSION_3 {
        value.truncate(20);
        value[3] = VERSION_2;
    }
    value
}

/// `c MAJOR MINOR` or `b MAJOR MINOR`.
fn parse_node(value: &[u8]) -> Option<(bool, Device)> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let is_block = match words.next()? {
        "b" => true,
        "c" => false,
        _ => return None,
    };
    let device = Device { major: words.next()?.parse().ok()?, minor: words.next()?.parse().ok()? };
    words.next().is_none().then_some((is_block, device))
}
