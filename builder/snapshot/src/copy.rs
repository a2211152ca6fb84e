//! Trees as whole folders. No mounts are needed, so this works everywhere.
//!
//! A tree is `CHAIN/tree`, and beside it lies its [`record`]. One that nobody needs any more moves on to become the next.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_linux::owner::Owners;
use lithify_linux::tree::{self, Metadata};
use lithify_oci::layer::{Catalogue, Limits, read_tar};
use lithify_oci::{EntryKind, EntrySink, TreePath};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use crate::diff::{Changes, Collector};
use crate::links::Group;
use crate::node::{self, open_folder};
use crate::record::{self, Fresh, Item, Record, Trust, WalkFailed};
use crate::store::{Store, Temporary, failed};
use crate::unpack::{Style, Unpacker};
use crate::{ChainId, Error, MoveOrKeep, Snapshots, View, WorkTree, Workspace, make};

const TREE: &str = "tree";

/// Keeps trees as whole folders.
pub struct Copy {
    store: Store,
    owners: Owners,
}

impl Copy {
    /// Works in the folder for trees, whose files' owners are `owners`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn open(trees: BorrowedFd<'_>, owners: Owners) -> Result<Self, Error> {
        Ok(Copy { store: Store::open(trees, "copy")?, owners })
    }

    /// A folder with the tree to start from, and its record.
    fn start(&self, chain: &[ChainId], reuse: MoveOrKeep) -> Result<(Temporary, OwnedFd), Error> {
        let Some(top) = chain.last() else {
            let place = self.store.temporary()?;
            let tree = place.make(TREE)?;
            rustix::fs::fchmod(&tree, Mode::from(0o755))
                .map_err(|error| failed("set the mode of", TREE)(error.into()))?;
            record::write(place.folder(), (self.owners, tree.as_fd()), None, Trust::Stamps, &Fresh::new())?;
            return Ok((place, tree));
        };
        if reuse == MoveOrKeep::Move
            && let Some(tree) = self.lock(*top, FlockOperation::NonBlockingLockExclusive)?
        {
            return Ok((self.store.take(*top)?, tree));
        }
        let old = Record::open(self.store.tree(*top)?.as_fd())?;
        let from = self.to_read(*top)?;
        let place = self.store.temporary()?;
        let tree = place.make(TREE)?;
        copy_folder(self.owners, from.as_fd(), &tree, &TreePath::root(), &mut HashMap::new())?;
        if self.store.is_special(*top) {
            place.mark_special()?;
        }
        record::write(place.folder(), (self.owners, tree.as_fd()), Some(old), Trust::Paths, &Fresh::new())?;
        Ok((place, tree))
    }

    /// Opens a tree and locks it: shared to read from it, exclusively to change it. `None` where another one's lock is in the way.
    fn lock(&self, chain: ChainId, how: FlockOperation) -> Result<Option<OwnedFd>, Error> {
        let open = || open_folder(&self.store.tree(chain)?, TREE.as_bytes()).map_err(failed("open", TREE));
        let tree = open()?;
        match rustix::fs::flock(&tree, how) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other.map_err(|error| failed("lock", TREE)(error.into()))?,
        }
        // It may have been taken away, and changed, before it was locked.
        let inode = |folder: &OwnedFd| tree::metadata(folder, b"").map(|metadata| metadata.inode);
        let same = inode(&tree).and_then(|locked| Ok(locked == inode(&open()?)?));
        match same {
            Ok(true) => Ok(Some(tree)),
            Ok(false) => Err(Error::Missing { chain }),
            Err(error) => Err(Error::from_stream(error)),
        }
    }

    /// A tree that nobody changes as long as the descriptor is open.
    fn to_read(&self, chain: ChainId) -> Result<OwnedFd, Error> {
        // Whoever has it locked is about to make another one of it.
        self.lock(chain, FlockOperation::NonBlockingLockShared)?.ok_or(Error::Missing { chain })
    }

    fn put_on(
        &self,
        parents: &[ChainId],
        chain: ChainId,
        layer: &mut dyn Read,
        catalogue: Option<&Catalogue>,
        reuse: MoveOrKeep,
    ) -> Result<(), Error> {
        if self.store.has(chain).map_err(failed("look at", &chain.digest().hex()))? {
            return Ok(());
        }
        let (place, tree) = self.start(parents, reuse)?;
        let times = catalogue.map(Catalogue::entries).transpose().map_err(Error::Stream)?;
        let times = times.map(|entries| Box::new(entries) as Box<dyn Iterator<Item = _>>);
        let mut unpacker = Unpacker::new(self.owners, tree.as_fd(), Style::Whole, times);
        unpacker.digests = Some(Fresh::new());
        read_tar(layer, &mut unpacker, Limits::default()).map_err(Error::from_stream)?;
        unpacker.finish()?;
        if unpacker.has_special {
            place.mark_special()?;
        }
        let fresh = unpacker.digests.take().unwrap_or_default();
        let old = Record::open(place.folder())?;
        record::write(place.folder(), (self.owners, tree.as_fd()), Some(old), Trust::Paths, &fresh)?;
        place.publish(chain)
    }
}

impl Snapshots for Copy {
    fn has(&self, chain: &[ChainId]) -> io::Result<bool> {
        chain.last().map_or(Ok(true), |top| self.store.has(*top))
    }

    fn apply(
        &self,
        parents: &[ChainId],
        chain: ChainId,
        layer: &mut dyn Read,
        catalogue: Option<&Catalogue>,
    ) -> Result<(), Error> {
        self.put_on(parents, chain, layer, catalogue, MoveOrKeep::Keep)
    }

    fn apply_moving(
        &self,
        parents: &[ChainId],
        chain: ChainId,
        layer: &mut dyn Read,
        catalogue: Option<&Catalogue>,
    ) -> Result<(), Error> {
        self.put_on(parents, chain, layer, catalogue, MoveOrKeep::Move)
    }

    fn view(&self, chain: &[ChainId]) -> Result<View, Error> {
        let Some(top) = chain.last() else {
            self.store.make("empty")?;
            return Ok(View {
                root: open_folder(self.store.folder(), b"empty").map_err(failed("open", "empty"))?,
            });
        };
        Ok(View { root: self.to_read(*top)? })
    }

    fn workspace(&self, chain: &[ChainId], reuse: MoveOrKeep) -> Result<Workspace, Error> {
        let (place, tree) = self.start(chain, reuse)?;
        Ok(Workspace::new(Box::new(Work { owners: self.owners, tree, found: None, place })))
    }

    fn rename(&self, from: ChainId, to: ChainId) -> Result<(), Error> {
        self.store.rename(from, to)
    }

    fn remove(&self, chain: ChainId) -> Result<(), Error> {
        self.store.remove(chain)
    }

    fn sweep(&self) -> Result<(), Error> {
        self.store.sweep()
    }
}

/// Copies what is in the folder `from` into the empty folder `to`, and then the folder's own metadata.
///
/// # Errors
/// What cannot be read or written, with its path below `from`.
pub fn copy_tree(owners: Owners, from: BorrowedFd<'_>, to: &OwnedFd) -> Result<(), Error> {
    copy_folder(owners, from, to, &TreePath::root(), &mut HashMap::new())
}

fn copy_folder(
    owners: Owners,
    from: BorrowedFd<'_>,
    to: &OwnedFd,
    path: &TreePath,
    linked: &mut HashMap<u64, (TreePath, OwnedFd)>,
) -> Result<(), Error> {
    for name in tree::names(from).map_err(Error::file("list", path))? {
        let name = name.to_bytes();
        let at = path.join(name);
        let Some(node) = node::read(owners, from, name, &at).map_err(Error::file("read", &at))? else {
            continue;
        };
        if node.entry.kind == EntryKind::Directory {
            rustix::fs::mkdirat(to, name, Mode::RWXU)
                .map_err(|error| Error::file("make", &at)(error.into()))?;
            let below = open_folder(from, name).map_err(Error::file("open", &at))?;
            let made = open_folder(to, name).map_err(Error::file("open", &at))?;
            copy_folder(owners, below.as_fd(), &made, &at, linked)?;
            continue;
        }
        let (inode, links) = (node.metadata.inode, node.metadata.links);
        if let Some((first, folder)) = linked.get(&inode) {
            let first = first.file_name().unwrap_or_default();
            rustix::fs::linkat(folder, first, to, name, AtFlags::empty())
                .map_err(|error| Error::file("link", &at)(error.into()))?;
            continue;
        }
        make::copy(owners, node, &at, to.as_fd(), name)?;
        if links > 1 {
            let folder = to.try_clone().map_err(Error::file("open", path))?;
            linked.insert(inode, (at, folder));
        }
    }
    let node = node::read(owners, from, b"", path).map_err(Error::file("look at", path))?;
    let Some(node) = node else { return Ok(()) };
    let mut entry = node.entry;
    let users = |(name, _): &(Vec<u8>, Vec<u8>)| name.starts_with(b"user.");
    let attributes = tree::xattrs(from).map_err(Error::file("read the attributes of", path))?;
    entry.xattrs.extend(attributes.into_iter().filter(users));
    make::finish(owners, to, &entry)
}

/// A workspace.
struct Work {
    owners: Owners,
    tree: OwnedFd,
    found: Option<Found>,
    place: Temporary,
}

/// What a walk beside the record has found.
struct Found {
    changes: Changes,
    digests: Fresh,
    /// Paths to ignore that were in the tree before.
    stay: HashSet<TreePath>,
    root: Option<Item>,
}

impl Work {
    fn collect(&self, ignore: &[TreePath]) -> Result<Found, Error> {
        let mut walk = Walk {
            owners: self.owners,
            old: Record::open(self.place.folder())?,
            collector: Collector::new(ignore),
            hidden: None,
            before: HashMap::new(),
            digests: Fresh::new(),
            stay: HashSet::new(),
        };
        let root = walk.old.at(&TreePath::root())?;
        tree::walk::<WalkFailed>(self.tree.as_fd(), &mut |visit| {
            let path = TreePath::checked(visit.path).unwrap_or_default();
            walk.file(visit.directory, visit.name.to_bytes(), &path, visit.metadata)?;
            Ok(tree::Descend::Yes)
        })?;
        walk.pass(None)?;
        let before: Vec<Group> = walk.before.into_values().collect();
        Ok(Found { changes: walk.collector.finish(&before), digests: walk.digests, stay: walk.stay, root })
    }
}

impl WorkTree for Work {
    fn root_mount(&self) -> Result<OwnedFd, Error> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let flags = flags | OpenTreeFlags::AT_EMPTY_PATH;
        match rustix::mount::open_tree(&self.tree, "", flags) {
            Ok(mount) => Ok(mount),
            // Without mounts the folder itself must do.
            Err(_) => self.tree.try_clone().map_err(|source| Error::Mount { step: "dup", source }),
        }
    }

    fn has_special(&self) -> bool {
        self.place.is_special()
    }

    fn diff(&mut self, ignore: &[TreePath], sink: &mut dyn EntrySink) -> Result<(), Error> {
        let mut found = self.collect(ignore)?;
        if found.changes.emit((self.owners, self.tree.as_fd()), sink, Some(&mut found.digests))? {
            self.place.mark_special()?;
        }
        self.found = Some(found);
        Ok(())
    }

    fn commit(mut self: Box<Self>, chain: ChainId) -> Result<(), Error> {
        let found = match self.found.take() {
            Some(found) => found,
            None => self.collect(&[])?,
        };
        found.changes.remove_leftovers(self.tree.as_fd(), |path| !found.stay.contains(path))?;
        if let Some(root) = &found.root {
            // No layer says anything about the root, so it stays what it was.
            make::finish(self.owners, &self.tree, &root.noted.entry)?;
        }
        let old = Record::open(self.place.folder())?;
        let tree = (self.owners, self.tree.as_fd());
        record::write(self.place.folder(), tree, Some(old), Trust::Stamps, &found.digests)?;
        let Work { tree, place, .. } = *self;
        drop(tree);
        place.publish(chain)
    }
}

struct Walk<'a> {
    owners: Owners,
    old: Record,
    collector: Collector<'a>,
    /// A path that is gone or no folder any more: what was below it needs no whiteouts.
    hidden: Option<TreePath>,
    /// The hard-link groups of the start, by inode.
    before: HashMap<u64, Group>,
    digests: Fresh,
    stay: HashSet<TreePath>,
}

impl Walk<'_> {
    /// Takes the recorded files before `path`: they are gone.
    fn pass(&mut self, path: Option<&TreePath>) -> Result<(), Error> {
        while let Some(item) = self.old.before(path)? {
            let gone = item.noted.entry.path;
            if !self.hidden.as_ref().is_some_and(|hidden| hidden.contains(&gone)) {
                self.hidden = Some(gone.clone());
                self.collector.gone(gone);
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<(), Error> {
        self.pass(Some(path))?;
        let item = self.old.at(path)?;
        if let Some(item) = &item {
            if self.collector.ignores(path) {
                self.stay.insert(path.clone());
            }
            if let Some(inode) = item.linked_inode() {
                self.before.entry(inode).or_default().push(path.clone());
            }
            if item.noted.entry.kind == EntryKind::Directory && metadata.kind != FileType::Directory {
                self.hidden = Some(path.clone());
            }
        }
        if metadata.kind == FileType::Socket {
            self.collector.leftover(path.clone());
            if item.is_some() {
                self.collector.gone(path.clone());
            }
            return Ok(());
        }
        self.collector.met(path, metadata);
        let Some(item) = item else {
            self.collector.changed(path, metadata);
            return Ok(());
        };
        if self.old.is_untouched(&item, metadata) {
            return Ok(());
        }
        let node = node::read(self.owners, directory, name, path).map_err(Error::file("read", path))?;
        let Some(mut node) = node else { return Ok(()) };
        let (same, digest) = item.is_same(&mut node).map_err(Error::file("compare", path))?;
        if digest.is_some() {
            self.digests.insert(path.clone(), digest);
        }
        if !same {
            self.collector.changed(path, metadata);
        }
        Ok(())
    }
}
