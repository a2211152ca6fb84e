//! Hard-link groups: names that are one file.
//!
//! overlayfs copies a file up under the one name that is written to, and then the others still have the old content. So
//! the groups of the tree below are put into the upper folder as links before a step starts: then writing, chmod and chown reach
//! every name, and replacing one name leaves the others, as in any file system. Groups that were not touched are taken
//! out of it again.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use lithify_linux::owner::Owners;
use lithify_linux::tree::{self, Metadata};
use lithify_oci::TreePath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::node::{self, open_folder};
use crate::store::failed;
use crate::unpack::{OPAQUE, errno};
use crate::{Error, make};

/// The names of one file, in order.
pub(crate) type Group = Vec<TreePath>;

/// The file beside a tree that lists its groups: names end with a NUL, groups with another.
const FILE: &str = "links";

/// More is not copied for the sake of links; the names of larger groups come apart when a step writes to one of them.
const MOST_BYTES: u64 = 256 << 20;

pub(crate) fn save(folder: BorrowedFd<'_>, groups: &[Group]) -> Result<(), Error> {
    if groups.is_empty() {
        return Ok(());
    }
    let mut bytes = vec![];
    for group in groups {
        for name in group {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
        }
        bytes.push(0);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let made = rustix::fs::openat(folder, FILE, flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from);
    made.and_then(|file| std::fs::File::from(file).write_all(&bytes)).map_err(failed("write", FILE))
}

pub(crate) fn load(folder: BorrowedFd<'_>) -> Result<Vec<Group>, Error> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, FILE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(vec![]),
        other => other.map_err(|error| failed("open", FILE)(error.into()))?,
    };
    let mut bytes = vec![];
    std::fs::File::from(file).read_to_end(&mut bytes).map_err(failed("read", FILE))?;
    let mut groups = vec![];
    let mut group = vec![];
    for name in bytes.split(|byte| *byte == 0) {
        if name.is_empty() {
            groups.extend(Some(std::mem::take(&mut group)).filter(|group: &Group| !group.is_empty()));
        } else {
            group.extend(TreePath::checked(name));
        }
    }
    Ok(groups)
}

/// The groups in an upper folder.
pub(crate) fn find(upper: BorrowedFd<'_>) -> Result<Vec<Group>, Error> {
    let mut found: HashMap<u64, Group> = HashMap::new();
    tree::walk::<io::Error>(upper, &mut |visit| {
        note(&mut found, visit.path, visit.metadata);
        Ok(tree::Descend::Yes)
    })
    .map_err(failed("list", "diff"))?;
    Ok(in_order(found))
}

/// Takes a file into its group, where it has several names.
pub(crate) fn note(found: &mut HashMap<u64, Group>, path: &[u8], metadata: &Metadata) {
    if metadata.links > 1 && metadata.kind != FileType::Directory && !node::is_whiteout(metadata) {
        found.entry(metadata.inode).or_default().extend(TreePath::checked(path));
    }
}

/// Groups of more than one name, in the order of their first names.
pub(crate) fn in_order(found: HashMap<u64, Group>) -> Vec<Group> {
    let mut groups: Vec<Group> = found.into_values().filter(|group| group.len() > 1).collect();
    groups.iter_mut().for_each(|group| group.sort());
    groups.sort();
    groups
}

/// The groups of the tree that `upper` makes on a tree with the groups `below`.
pub(crate) fn merge(
    upper: BorrowedFd<'_>,
    below: Vec<Group>,
    above: Vec<Group>,
) -> Result<Vec<Group>, Error> {
    let mut groups = above;
    for group in below {
        let mut left = vec![];
        for name in group {
            if !hides(upper, &name).map_err(Error::file("look at", &name))? {
                left.push(name);
            }
        }
        groups.extend(Some(left).filter(|left| left.len() > 1));
    }
    groups.sort();
    Ok(groups)
}

/// Whether `upper` replaces or removes what is below at `path`.
fn hides(upper: BorrowedFd<'_>, path: &TreePath) -> io::Result<bool> {
    let mut folder = open_folder(upper, b"")?;
    let mut components = path.components().peekable();
    while let Some(name) = components.next() {
        let metadata = match tree::metadata(&folder, name) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => return Ok(false),
            other => other?,
        };
        if components.peek().is_none() || metadata.kind != FileType::Directory {
            return Ok(true);
        }
        folder = open_folder(&folder, name)?;
        if node::attribute(&folder, OPAQUE.as_bytes())?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What was put into an upper folder before a step, and how it looked then.
#[derive(Default)]
pub(crate) struct Prepared {
    groups: Vec<(Group, Stamp)>,
    folders: Vec<(TreePath, Stamp)>,
}

/// Changes whenever a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    changed: (i64, u32),
    links: u32,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        // The number of a folder's links says how many folders are in it.
        let links = if metadata.kind == FileType::Directory { 0 } else { metadata.links };
        Stamp { inode: metadata.inode, changed: metadata.changed, links }
    }

    /// The inode, where it has other names.
    pub(crate) fn linked_inode(&self) -> Option<u64> {
        (self.links > 1).then_some(self.inode)
    }

    /// The length of a stamp in a record.
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.inode.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.changed.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.changed.1.to_le_bytes());
        bytes[20..].copy_from_slice(&self.links.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        Stamp { inode: long(0), changed: (long(8) as i64, short(16)), links: short(20) }
    }
}

impl Prepared {
    /// Copies the groups that `below` has into the empty folder `upper`.
    pub(crate) fn fill(
        owners: Owners,
        upper: BorrowedFd<'_>,
        below: BorrowedFd<'_>,
        groups: Vec<Group>,
    ) -> Result<Self, Error> {
        let mut folders = vec![];
        let mut names = vec![];
        let mut total = 0;
        for group in groups {
            let Some(first) = group.first() else { continue };
            let size = stat(below, first).map_err(Error::file("look at", first))?.size_bytes;
            if total + size > MOST_BYTES {
                continue;
            }
            total += size;
            for name in &group {
                make_ancestors(owners, upper, below, name, &mut folders)?;
            }
            let (from, to) = (parent(below, first)?, parent(upper, first)?);
            let name = first.file_name().unwrap_or_default();
            let node = node::read(owners, from.as_fd(), name, first).map_err(Error::file("read", first))?;
            let Some(node) = node else { continue };
            make::copy(owners, node, first, to.as_fd(), name)?;
            for other in &group[1..] {
                let there = parent(upper, other)?;
                let other_name = other.file_name().unwrap_or_default();
                rustix::fs::linkat(&to, name, &there, other_name, AtFlags::empty())
                    .map_err(|error| Error::file("link", other)(error.into()))?;
            }
            names.push(group);
        }
        restore_times(upper, below, &folders)?;
        let stamp =
            |path: &TreePath| Ok(Stamp::of(&stat(upper, path).map_err(Error::file("look at", path))?));
        let groups = names.into_iter().map(|group| Ok((group[0].clone(), group)));
        let groups: Result<Vec<_>, Error> =
            groups.map(|pair| pair.and_then(|(first, group)| Ok((group, stamp(&first)?)))).collect();
        let folders: Result<Vec<_>, Error> =
            folders.into_iter().map(|path| stamp(&path).map(|stamp| (path, stamp))).collect();
        Ok(Prepared { groups: groups?, folders: folders? })
    }

    /// The inodes that nobody touched.
    pub(crate) fn untouched(&self, upper: BorrowedFd<'_>) -> std::collections::HashSet<u64> {
        let same = |(group, stamp): &&(Group, Stamp)| {
            group.iter().all(|name| stat(upper, name).is_ok_and(|now| Stamp::of(&now) == *stamp))
        };
        self.groups.iter().filter(same).map(|(_, stamp)| stamp.inode).collect()
    }

    /// Takes out again what nobody touched.
    pub(crate) fn clear(&self, upper: BorrowedFd<'_>) -> Result<(), Error> {
        // Looked at before anything is removed: removing changes folders.
        let untouched = self.untouched(upper);
        let same =
            |(path, stamp): &&(TreePath, Stamp)| stat(upper, path).is_ok_and(|now| Stamp::of(&now) == *stamp);
        let folders: Vec<_> = self.folders.iter().filter(same).map(|(path, _)| path).collect();
        for (group, stamp) in &self.groups {
            if !untouched.contains(&stamp.inode) {
                continue;
            }
            for name in group {
                let folder = parent(upper, name)?;
                rustix::fs::unlinkat(&folder, name.file_name().unwrap_or_default(), AtFlags::empty())
                    .map_err(|error| Error::file("remove", name)(error.into()))?;
            }
        }
        for path in folders.into_iter().rev() {
            let folder = parent(upper, path)?;
            // One that holds something by now stays.
            let _ = rustix::fs::unlinkat(&folder, path.file_name().unwrap_or_default(), AtFlags::REMOVEDIR);
        }
        Ok(())
    }
}

fn parent(root: BorrowedFd<'_>, path: &TreePath) -> Result<std::os::fd::OwnedFd, Error> {
    let parent = path.parent().unwrap_or_default();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    tree::open_beneath(root, parent.as_bytes(), flags, Mode::empty()).map_err(Error::file("open", &parent))
}

fn stat(root: BorrowedFd<'_>, path: &TreePath) -> io::Result<Metadata> {
    let file = tree::open_beneath(root, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
    tree::metadata(file, b"")
}

/// Makes the folders above `path` as they are below, and notes those that were not there, the outer ones first.
fn make_ancestors(
    owners: Owners,
    upper: BorrowedFd<'_>,
    below: BorrowedFd<'_>,
    path: &TreePath,
    made: &mut Vec<TreePath>,
) -> Result<(), Error> {
    for folder in path.ancestors() {
        if stat(upper, &folder).is_ok() {
            continue;
        }
        let (from, to) = (parent(below, &folder)?, parent(upper, &folder)?);
        let name = folder.file_name().unwrap_or_default();
        let node = node::read(owners, from.as_fd(), name, &folder).map_err(Error::file("read", &folder))?;
        let Some(node) = node else { continue };
        rustix::fs::mkdirat(&to, name, Mode::RWXU)
            .map_err(|error| Error::file("make", &folder)(error.into()))?;
        let opened = open_folder(&to, name).map_err(Error::file("open", &folder))?;
        make::finish(owners, &opened, &node.entry)?;
        let below = open_folder(&from, name).map_err(Error::file("open", &folder))?;
        owners.carry(below.as_fd(), opened.as_fd()).map_err(Error::file("set an attribute of", &folder))?;
        made.push(folder);
    }
    Ok(())
}

fn restore_times(upper: BorrowedFd<'_>, below: BorrowedFd<'_>, folders: &[TreePath]) -> Result<(), Error> {
    for path in folders.iter().chain([&TreePath::root()]) {
        let modified = node::modified(&stat(below, path).map_err(Error::file("look at", path))?);
        let opened =
            tree::open_beneath(upper, path.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let opened = opened.map_err(Error::file("open", path))?;
        rustix::fs::futimens(&opened, &make::times(modified))
            .map_err(|error| Error::file("set the time of", path)(error.into()))?;
    }
    Ok(())
}
