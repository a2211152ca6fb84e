//! One file of a tree: the type that scanning, selecting, diffing, writing and unpacking all speak.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};

/// A path inside a tree: components joined by `/`, no leading or trailing slash, no empty, `.` or `..` component.
/// The root itself is the empty path. Bytes, because Linux names are bytes.
///
/// The order is the canonical order of a layer: component by component, so a folder comes right before all that is in it.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Box<[u8]>);

impl TreePath {
    /// The root.
    pub fn root() -> Self {
        TreePath::default()
    }

    /// Takes a path that may be absolute and may have `.` and empty components. `None` where it has a `..` component
    /// or a NUL byte: nothing that comes from an archive or a layer may climb.
    pub fn checked(path: &[u8]) -> Option<Self> {
        let mut clean = Vec::with_capacity(path.len());
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return None,
                name if name.contains(&0) => return None,
                name => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(name);
                }
            }
        }
        Some(TreePath(clean.into()))
    }

    /// Takes a path and resolves `.` and `..` in it by its text alone, where `..` at the root stays at the root
    /// (Go's `path.Clean` of the rooted path).
    pub fn cleaned(path: &[u8]) -> Self {
        let mut parts: Vec<&[u8]> = vec![];
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                name => parts.push(name),
            }
        }
        TreePath(parts.join(&b'/').into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, the outermost first; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The folder that this is in; `None` for the root.
    pub fn parent(&self) -> Option<TreePath> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(TreePath(self.0[..end].into()))
    }

    /// This path with one or more components after it; `.` and empty components in `below` are dropped.
    ///
    /// # Panics
    /// If `below` has a `..` component or a NUL byte.
    pub fn join(&self, below: impl AsRef<[u8]>) -> TreePath {
        let below = TreePath::checked(below.as_ref()).expect("a joined path does not climb");
        match (self.is_root(), below.is_root()) {
            (true, _) => below,
            (_, true) => self.clone(),
            _ => TreePath([&self.0, &b"/"[..], &below.0].concat().into()),
        }
    }

    /// Every folder above this path, the outermost first, without the root and without the path itself.
    pub fn ancestors(&self) -> impl Iterator<Item = TreePath> {
        let ends = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.map(|end| TreePath(self.0[..end].into()))
    }

    /// Whether `other` is this path or below it.
    pub fn contains(&self, other: &TreePath) -> bool {
        self.is_root()
            || other.0.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // '/' sorts before every other byte, which is what comparing component by component means.
        let key = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// A moment: seconds since 1970-01-01T00:00:00Z, and nanoseconds after that (0 to 999,999,999).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Nanoseconds after the second.
    pub nanoseconds: u32,
}

/// The number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// What it means to the driver.
    pub minor: u32,
}

/// One file of a tree or of a layer: all that is known of it but its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: TreePath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission, setuid, setgid and sticky bits (0 to 0o7777). 0o777 for symbolic links, 0 for whiteouts.
    pub mode: u32,
    /// The owner, as the image sees it.
    pub uid: u32,
    /// The group, as the image sees it.
    pub gid: u32,
    /// When the content was last changed.
    pub modified: Timestamp,
    /// Extended attributes by full name, such as `security.capability` (in its form without a root id).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The kinds of files. Sockets are not among them: no layer can hold one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Directory,
    /// A regular file, whose content goes beside the entry.
    File {
        /// The length of its content in bytes.
        size_bytes: u64,
    },
    /// A symbolic link; the target is any text.
    Symlink {
        /// What it points to, as it is written.
        target: Vec<u8>,
    },
    /// One more name of the file at `target`, an entry that came earlier in canonical order. Its other fields repeat the target's.
    HardLink {
        /// The first name.
        target: TreePath,
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// In a layer: what is at this path below is gone (layer.md, "Whiteouts").
    Whiteout,
    /// In a layer: all that is below in the folder at this path is gone (layer.md, "Opaque Whiteout"). Read, never written.
    Opaque,
}

/// The content of a file, read only by those who want it.
pub trait Content {
    /// A reader of exactly the bytes that the entry announces; called at most once.
    ///
    /// # Errors
    /// What opening the file says.
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>>;

    /// Where the bytes start in the stream that they are read from, in bytes from its start, for those who can come back to
    /// them later. `None` where they do not lie there as they are, or nobody knows.
    fn position(&self) -> Option<u64> {
        None
    }
}

/// The content of every entry that is no regular file.
pub struct NoContent;

impl Content for NoContent {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(io::empty()))
    }
}

/// Content that is at hand.
impl Content for &[u8] {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(*self))
    }
}

/// Whoever takes a stream of entries: an archive writer, an unpacker, a hasher, a comparison.
///
/// Streams that lithify makes come in canonical order (see [`TreePath`]); those out of foreign archives come in any order.
pub trait EntrySink {
    /// Takes one entry. A sink that does not open `content` skips it.
    ///
    /// # Errors
    /// A failure to read the content or to write it.
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()>;
}
