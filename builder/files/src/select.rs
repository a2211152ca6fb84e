//! The sources of a COPY or ADD: which files a path or a pattern means below a root.

mod hint;
#[cfg(test)]
mod tests;
mod wildcard;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use lithify_linux::owner::Owners;
use lithify_linux::tree::{self, Metadata};
use lithify_oci::{Device, Entry, EntryKind, Timestamp, TreePath};
use rustix::fs::{FileType, Mode, OFlags};

use crate::Error;
use crate::error::shown;
use crate::facts::{self, Extra};
use crate::filter::{self, Filters, Seen};
use crate::glob;
use crate::ignore::Ignore;
use crate::resolve::resolve;

/// How sources are selected.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The ignore file of a context. What it hides is not there at all.
    pub ignore: Option<&'a Ignore>,
    /// `--exclude`: hides what lies in a selected folder, by its path there. Never a file that is itself a source.
    pub exclude: Option<&'a Ignore>,
    /// `--parents`: the pattern may hold `**` and a `/./`, and paths are kept from the root or from behind the `/./`.
    pub parents: bool,
    /// What tree they are in.
    pub tree: TreeKind,
}

/// A tree that files are selected in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeKind {
    /// A context, whose files belong to root, whoever owns them.
    Context,
    /// An image's: files keep their owners, and empty regular files with the attribute `user.lithify.node` stand for devices.
    Image(Owners),
}

impl TreeKind {
    pub(crate) fn owners(self) -> Owners {
        match self {
            TreeKind::Context => Owners::Real,
            TreeKind::Image(owners) => owners,
        }
    }
}

/// What one match of a pattern brings: a file, or what is in a folder.
#[derive(Debug)]
pub struct Match {
    /// The last component of the path that matched, before links were followed; empty for the root.
    pub name: Vec<u8>,
    /// Whether links led to a folder.
    pub is_directory: bool,
    /// Where it is below the root, links resolved.
    pub base: TreePath,
    /// What `statx` says of the file or of the folder itself.
    pub top: Metadata,
    items: Vec<Item>,
    /// The paths of all items, one behind the other: one allocation in place of half a million.
    paths: Vec<u8>,
    is_context: bool,
}

/// One file of a match. Kept small, for there may be very many.
#[derive(Debug)]
struct Item {
    start: u32,
    length: u32,
    kind: ItemKind,
    facts: Metadata,
    extra: Option<Box<Extra>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ItemKind {
    Plain,
    /// Another name of the item with this number.
    HardLink(u32),
}

/// One selected file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// What goes into the layer. The path is relative to the match, and empty for a match that is a file; so are targets of
    /// hard links.
    pub entry: Entry,
    /// Where it is below the root.
    pub source: TreePath,
    /// What `statx` says of it.
    pub facts: Metadata,
}

impl Match {
    /// The files in canonical order: for a folder those in it, for a file only that. A socket is no file: no layer holds one.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Selected> + '_ {
        (0..self.items.len()).map(|at| self.selected(at))
    }

    /// How many files it brings.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it brings nothing, such as an empty folder.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The file with this number, which is below [`Match::len`].
    pub fn selected(&self, at: usize) -> Selected {
        Selected { entry: self.entry(at), source: self.source(at), facts: self.items[at].facts.clone() }
    }

    /// Where the file with this number is below the root.
    pub fn source(&self, at: usize) -> TreePath {
        self.base.join(self.path(at))
    }

    /// What `statx` says of the file with this number.
    pub fn facts(&self, at: usize) -> &Metadata {
        &self.items[at].facts
    }

    /// The path of the file with this number, relative to the match.
    pub(crate) fn path(&self, at: usize) -> &[u8] {
        let (start, length) = (self.items[at].start as usize, self.items[at].length as usize);
        &self.paths[start..start + length]
    }

    /// The number of the first name of a hard link.
    pub(crate) fn link_of(&self, at: usize) -> Option<usize> {
        match self.items[at].kind {
            ItemKind::HardLink(first) => Some(first as usize),
            ItemKind::Plain => None,
        }
    }

    pub(crate) fn kind(&self, at: usize) -> FileType {
        self.items[at].facts.kind
    }

    pub(crate) fn entry(&self, at: usize) -> Entry {
        let item = &self.items[at];
        let kind = match item.kind {
            ItemKind::HardLink(first) => {
                EntryKind::HardLink { target: TreePath::cleaned(self.path(first as usize)) }
            }
            ItemKind::Plain => plain_kind(&item.facts, item.extra.as_deref()),
        };
        // The attributes were read once, for the first name.
        let first = &self.items[self.link_of(at).unwrap_or(at)];
        let capability = first.extra.as_ref().and_then(|extra| extra.capability.clone());
        let facts = &item.facts;
        Entry {
            path: TreePath::cleaned(self.path(at)),
            mode: if kind_is_symlink(&kind) { 0o777 } else { facts.mode },
            kind,
            uid: if self.is_context { 0 } else { facts.uid },
            gid: if self.is_context { 0 } else { facts.gid },
            modified: timestamp(facts),
            xattrs: capability
                .map(|value| (facts::CAPABILITY.into(), value))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        }
    }

    fn push(
        &mut self,
        path: &[u8],
        kind: ItemKind,
        facts: &Metadata,
        extra: Option<Extra>,
    ) -> Result<(), Error> {
        let too_much =
            |_| Error::read(path, io::Error::new(io::ErrorKind::FileTooLarge, "more than 4 GiB of paths"));
        let start = u32::try_from(self.paths.len()).map_err(too_much)?;
        let length = u32::try_from(path.len()).map_err(too_much)?;
        self.paths.extend_from_slice(path);
        self.items.push(Item { start, length, kind, facts: facts.clone(), extra: extra.map(Box::new) });
        Ok(())
    }
}

/// Finds what `pattern` means below `root`: a path, or a pattern of Go's `filepath.Match`; with [`Options::parents`] one with
/// `**` and `/./`. Leading slashes and `..` stay at the root. A wildcard that matches nothing gives no match and no error.
///
/// # Errors
/// A path without wildcards that is not there ([`Error::NotFound`], with a hint), a link that leads nowhere, a
/// pattern that breaks the rules, and what cannot be read.
pub fn select(root: BorrowedFd<'_>, pattern: &[u8], options: &Options<'_>) -> Result<Vec<Match>, Error> {
    if options.parents {
        select_with_parents(root, pattern, options)
    } else {
        select_plainly(root, pattern, options)
    }
}

fn select_plainly(root: BorrowedFd<'_>, pattern: &[u8], options: &Options<'_>) -> Result<Vec<Match>, Error> {
    let pattern = TreePath::cleaned(pattern);
    let is_literal = !glob::has_wildcards(pattern.as_bytes());
    let mut found = vec![];
    for path in wildcard::expand(root, &pattern, options)? {
        match select_one(root, &path, options, None)? {
            Some(one) => found.push(one),
            None if is_literal => return Err(not_found(root, &path, options)),
            None => {}
        }
    }
    Ok(found)
}

fn select_with_parents(
    root: BorrowedFd<'_>,
    pattern: &[u8],
    options: &Options<'_>,
) -> Result<Vec<Match>, Error> {
    let pivot = pattern.windows(3).position(|window| window == b"/./");
    let (start, rest) = match pivot {
        Some(at) => (TreePath::cleaned(&pattern[..at]), TreePath::cleaned(&pattern[at + 3..])),
        None => (TreePath::root(), TreePath::cleaned(pattern)),
    };
    let include = Ignore::from_patterns([rest.as_bytes()])?;
    let include = (!include.is_empty()).then_some(&include);
    let is_literal = !glob::has_wildcards(rest.as_bytes());
    let mut found = vec![];
    for path in wildcard::expand(root, &start, options)? {
        found.extend(select_one(root, &path, options, include)?);
    }
    if is_literal && include.is_some() && found.iter().all(Match::is_empty) {
        return Err(not_found(root, &start.join(rest.as_bytes()), options));
    }
    Ok(found)
}

/// Follows the links of one match and collects what is there; `None` for a hidden folder in which nothing is seen.
fn select_one(
    root: BorrowedFd<'_>,
    path: &TreePath,
    options: &Options<'_>,
    include: Option<&Ignore>,
) -> Result<Option<Match>, Error> {
    let resolved =
        resolve(root, path.as_bytes(), &|path, is_directory| is_visible(options.ignore, path, is_directory))?;
    let Some(top) = resolved.metadata else { return Err(not_found(root, path, options)) };
    let is_directory = top.kind == FileType::Directory;
    let mut found = Match {
        name: path.file_name().unwrap_or_default().to_vec(),
        is_directory,
        base: resolved.path,
        top,
        items: vec![],
        paths: vec![],
        is_context: options.tree == TreeKind::Context,
    };
    if !is_directory {
        add_single(root, &mut found, options)?;
        return Ok(Some(found));
    }
    let filters =
        Filters { ignore: options.ignore, exclude: options.exclude, include, owners: options.tree.owners() };
    let mut links = HashMap::new();
    let base = found.base.clone();
    filter::walk(root, &base, filters, &mut |seen| add(&mut found, &mut links, seen, options))?;
    found.items.shrink_to_fit();
    let is_hidden = options.ignore.is_some_and(|ignore| ignore.is_ignored(base.as_bytes()));
    Ok((!is_hidden || !found.is_empty()).then_some(found))
}

/// Adds one file of a folder.
fn add(
    found: &mut Match,
    links: &mut HashMap<((u32, u32), u64), u32>,
    seen: Seen<'_>,
    options: &Options<'_>,
) -> Result<(), Error> {
    let facts = seen.metadata;
    if facts.kind == FileType::Socket {
        return Ok(());
    }
    if facts.kind == FileType::RegularFile && facts.links > 1 {
        let next = u32::try_from(found.items.len()).unwrap_or(u32::MAX);
        let first = *links.entry((facts.device, facts.inode)).or_insert(next);
        if first != next {
            return found.push(seen.path, ItemKind::HardLink(first), facts, None);
        }
    }
    let extra = match seen.place {
        Some((directory, name)) => facts::extra(directory, name, facts, options.tree)
            .map_err(|error| Error::read(found.base.join(seen.path).as_bytes(), error))?,
        None => None,
    };
    found.push(seen.path, ItemKind::Plain, facts, extra)
}

/// Adds the file that is itself the match.
fn add_single(root: BorrowedFd<'_>, found: &mut Match, options: &Options<'_>) -> Result<(), Error> {
    let mut facts = found.top.clone();
    if facts.kind == FileType::Socket {
        return Ok(());
    }
    let read = |error: io::Error| Error::read(found.base.as_bytes(), error);
    let parent = found.base.parent().unwrap_or_default();
    let flags = OFlags::DIRECTORY | OFlags::PATH;
    let folder = tree::open_beneath(root, parent.as_bytes(), flags, Mode::empty()).map_err(read)?;
    let name = std::ffi::CString::new(found.base.file_name().unwrap_or_default())
        .map_err(|error| read(error.into()))?;
    let folder = std::os::fd::AsFd::as_fd(&folder);
    options.tree.owners().correct(folder, name.to_bytes(), &mut facts).map_err(read)?;
    let extra = facts::extra(folder, &name, &facts, options.tree).map_err(read)?;
    found.push(b"", ItemKind::Plain, &facts, extra)
}

fn plain_kind(facts: &Metadata, extra: Option<&Extra>) -> EntryKind {
    let device = Device { major: facts.special.0, minor: facts.special.1 };
    match facts.kind {
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => {
            EntryKind::Symlink { target: extra.map(|extra| extra.target.clone()).unwrap_or_default() }
        }
        FileType::CharacterDevice => EntryKind::CharDevice(device),
        FileType::BlockDevice => EntryKind::BlockDevice(device),
        FileType::Fifo => EntryKind::Fifo,
        _ => match extra.and_then(|extra| extra.stand_in) {
            Some((true, device)) => EntryKind::BlockDevice(device),
            Some((false, device)) => EntryKind::CharDevice(device),
            None => EntryKind::File { size_bytes: facts.size_bytes },
        },
    }
}

fn kind_is_symlink(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::Symlink { .. })
}

pub(crate) fn timestamp(facts: &Metadata) -> Timestamp {
    Timestamp { seconds: facts.modified.0, nanoseconds: facts.modified.1 }
}

/// The entry of a file that is looked at by itself; no hard links.
pub(crate) fn entry_of(path: TreePath, facts: &Metadata, extra: Option<&Extra>) -> Entry {
    let kind = plain_kind(facts, extra);
    let capability = extra.and_then(|extra| extra.capability.clone());
    Entry {
        path,
        mode: if kind_is_symlink(&kind) { 0o777 } else { facts.mode },
        kind,
        uid: facts.uid,
        gid: facts.gid,
        modified: timestamp(facts),
        xattrs: capability.map(|value| (facts::CAPABILITY.into(), value)).into_iter().collect(),
    }
}

/// Whether the ignore file leaves the path, or it is a folder in which it may leave something.
pub(crate) fn is_visible(ignore: Option<&Ignore>, path: &[u8], is_directory: bool) -> bool {
    ignore.is_none_or(|ignore| {
        let (hidden, matched) = ignore.descend(path);
        !hidden || (is_directory && ignore.may_bring_back(&matched, path))
    })
}

fn not_found(root: BorrowedFd<'_>, path: &TreePath, options: &Options<'_>) -> Error {
    Error::NotFound { path: shown(path.as_bytes()), hint: hint::find(root, path, options.ignore) }
}

/// Opens the content of a regular file that was selected before. No component of the path may be a link by now.
///
/// # Errors
/// What `openat2` says, and that it is no regular file any more.
pub fn open_content(root: BorrowedFd<'_>, source: &TreePath) -> io::Result<File> {
    // Not blocking: what was a file may have become a pipe since.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = tree::open_beneath(root, source.as_bytes(), flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(File::from(file)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{source} is no regular file any more"))),
    }
}
