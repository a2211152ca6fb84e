//! What a step changed, as the entries of a layer. How changes are found is each snapshotter's own; this is what both share.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_linux::owner::Owners;
use lithify_linux::tree::{self, Metadata};
use lithify_oci::layer::layer_order;
use lithify_oci::{Content, Entry, EntryKind, EntrySink, FileHasher, Timestamp, TreePath};
use rustix::fs::AtFlags;

use crate::links::{self, Group};
use crate::node::{self, Node, open_folder};
use crate::record::Fresh;
use crate::{Error, make};

/// Gathers changes, found in any order of the tree that has folders before what is in them.
pub(crate) struct Collector<'a> {
    ignore: HashSet<&'a TreePath>,
    list: Vec<(TreePath, bool)>,
    linked: HashMap<u64, Group>,
    touched: HashSet<u64>,
    leftovers: Vec<TreePath>,
}

/// What a step changed.
#[derive(Default)]
pub(crate) struct Changes {
    /// In the layer's order; whether each is a whiteout.
    list: Vec<(TreePath, bool)>,
    /// What is in the tree and in no layer.
    pub(crate) leftovers: Vec<TreePath>,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(ignore: &'a [TreePath]) -> Self {
        Collector {
            ignore: ignore.iter().collect(),
            list: vec![],
            linked: HashMap::new(),
            touched: HashSet::new(),
            leftovers: ignore.to_vec(),
        }
    }

    /// Whether this path was made only to mount on.
    pub(crate) fn ignores(&self, path: &TreePath) -> bool {
        self.ignore.contains(path)
    }

    /// Something is gone.
    pub(crate) fn gone(&mut self, path: TreePath) {
        if !self.ignores(&path) {
            self.add(path, true);
        }
    }

    /// Something is new, or is not what it was.
    pub(crate) fn changed(&mut self, path: &TreePath, metadata: &Metadata) {
        if self.ignores(path) {
            return;
        }
        if metadata.links > 1 {
            self.touched.insert(metadata.inode);
        }
        self.add(path.clone(), false);
    }

    /// Something is in the tree, changed or not.
    pub(crate) fn met(&mut self, path: &TreePath, metadata: &Metadata) {
        links::note(&mut self.linked, path.as_bytes(), metadata);
    }

    /// Something that no layer can hold.
    pub(crate) fn leftover(&mut self, path: TreePath) {
        self.leftovers.push(path);
    }

    /// Adds an entry, and the folders above it that are not there yet.
    fn add(&mut self, path: TreePath, whiteout: bool) {
        let last = self.list.last().map(|(last, _)| last.clone());
        for folder in path.ancestors() {
            if !last.as_ref().is_some_and(|last| folder.contains(last)) {
                self.list.push((folder, false));
            }
        }
        self.list.push((path, whiteout));
    }

    /// Completes groups: where one name changed, and where names became one file that were not one before, all are emitted.
    pub(crate) fn finish(mut self, before: &[Group]) -> Changes {
        let joined = |group: &Group| {
            !before.iter().any(|old| old.contains(&group[0]) && group.iter().all(|name| old.contains(name)))
        };
        let mut whole = vec![];
        for (inode, group) in &self.linked {
            if self.touched.contains(inode) || (group.len() > 1 && joined(group)) {
                whole.extend(group.iter().cloned());
            }
        }
        for path in whole {
            self.add(path, false);
        }
        self.list.sort_by(|one, other| layer_order((&one.0, one.1), (&other.0, other.1)));
        self.list.dedup();
        Changes { list: self.list, leftovers: self.leftovers }
    }
}

impl Changes {
    /// Emits the entries, read from `tree`, which holds at least what changed. Where `digests` is given it gets the digests
    /// of the files that the sink reads. Says whether something special is among them.
    pub(crate) fn emit(
        &self,
        (owners, tree): (Owners, BorrowedFd<'_>),
        sink: &mut dyn EntrySink,
        mut digests: Option<&mut Fresh>,
    ) -> Result<bool, Error> {
        let mut has_special = false;
        let mut folders = Folders::new(tree);
        let mut first_names: HashMap<u64, TreePath> = HashMap::new();
        for (path, whiteout) in &self.list {
            if *whiteout {
                sink.entry(&whiteout_at(path), &mut lithify_oci::entry::NoContent)
                    .map_err(Error::from_stream)?;
                continue;
            }
            let folder = folders.of(path).map_err(Error::file("open the folder of", path))?;
            let name = path.file_name().unwrap_or_default();
            let node = node::read(owners, folder, name, path).map_err(Error::file("read", path))?;
            let Some(mut node) = node else { continue };
            has_special |= node::is_special(owners, &node.entry);
            if node.metadata.links > 1 && node.entry.kind != EntryKind::Directory {
                if let Some(target) = first_names.get(&node.metadata.inode) {
                    node.entry.kind = EntryKind::HardLink { target: target.clone() };
                    if let Some(digests) = &mut digests
                        && let Some(digest) = digests.get(target).copied()
                    {
                        digests.insert(path.clone(), digest);
                    }
                } else {
                    first_names.insert(node.metadata.inode, path.clone());
                }
            }
            emit_node(node, sink, digests.as_deref_mut())?;
        }
        Ok(has_special)
    }

    /// Removes from the tree what no layer holds: sockets, and what was made only to mount on and is not in `below`.
    pub(crate) fn remove_leftovers(
        &self,
        tree: BorrowedFd<'_>,
        is_new: impl Fn(&TreePath) -> bool,
    ) -> Result<(), Error> {
        let mut paths: Vec<_> = self.leftovers.iter().filter(|path| !path.is_root()).collect();
        paths.sort();
        for path in paths.into_iter().rev() {
            if !is_new(path) {
                continue;
            }
            let mut folders = Folders::new(tree);
            let Ok(folder) = folders.of(path) else { continue };
            let modified = tree::metadata(folder, b"").map(|metadata| node::modified(&metadata));
            let name = path.file_name().unwrap_or_default();
            let removed = match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                // Somebody has put something into it: then it is no mere mount point.
                Err(_) => rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR).is_ok(),
                Ok(()) => true,
            };
            if let (true, Ok(modified)) = (removed, modified) {
                let opened = open_folder(folder, b"").map_err(Error::file("open the folder of", path))?;
                rustix::fs::futimens(&opened, &make::times(modified))
                    .map_err(|error| Error::file("set the time of the folder of", path)(error.into()))?;
            }
        }
        Ok(())
    }
}

fn whiteout_at(path: &TreePath) -> Entry {
    Entry {
        path: path.clone(),
        kind: EntryKind::Whiteout,
        mode: 0,
        uid: 0,
        gid: 0,
        modified: Timestamp::default(),
        xattrs: Default::default(),
    }
}

fn emit_node(mut node: Node, sink: &mut dyn EntrySink, digests: Option<&mut Fresh>) -> Result<(), Error> {
    let entry = node.entry.clone();
    let (Some(digests), EntryKind::File { size_bytes }) = (digests, &entry.kind) else {
        return sink.entry(&entry, &mut node).map_err(Error::from_stream);
    };
    let mut hashed = Hashed { node, hash: FileHasher::default() };
    sink.entry(&entry, &mut hashed).map_err(Error::from_stream)?;
    // A sink may have left some of it unread.
    if hashed.hash.size_bytes() == *size_bytes {
        digests.insert(entry.path, Some(hashed.hash.finish()));
    }
    Ok(())
}

/// Hashes what the sink reads.
struct Hashed {
    node: Node,
    hash: FileHasher,
}

impl Content for Hashed {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(Tee { reader: self.node.open()?, hash: &mut self.hash }))
    }
}

struct Tee<'a> {
    reader: Box<dyn Read + 'a>,
    hash: &'a mut FileHasher,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.hash.write_all(&buffer[..got])?;
        Ok(got)
    }
}

/// Opens the folders of paths, keeping those that the next path may share.
pub(crate) struct Folders<'a> {
    root: BorrowedFd<'a>,
    open: Vec<(Vec<u8>, OwnedFd)>,
}

impl<'a> Folders<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>) -> Self {
        Folders { root, open: vec![] }
    }

    /// The folder that `path` is in.
    pub(crate) fn of(&mut self, path: &TreePath) -> io::Result<BorrowedFd<'_>> {
        let mut wanted: Vec<&[u8]> = path.components().collect();
        wanted.pop();
        let shared = self.open.iter().zip(&wanted).take_while(|(open, name)| open.0 == **name).count();
        self.open.truncate(shared);
        for name in &wanted[shared..] {
            let above = self.open.last().map_or(self.root, |(_, folder)| folder.as_fd());
            let folder = open_folder(above, name)?;
            self.open.push((name.to_vec(), folder));
        }
        Ok(self.open.last().map_or(self.root, |(_, folder)| folder.as_fd()))
    }
}
