//! Trees as stacks of folders, put together by the kernel's overlayfs.
//!
//! A tree is `CHAIN/diff`: what its top layer changes, in overlayfs's own form (whiteouts are character devices 0:0, opaque
//! folders have `user.overlay.opaque`). Beside it lies the list of hard-link groups of the whole tree.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_linux::owner::Owners;
use lithify_linux::tree;
use lithify_oci::layer::{Catalogue, Limits, read_tar};
use lithify_oci::{EntrySink, TreePath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::diff::{Changes, Collector, Folders};
use crate::links::{self, Group, Prepared};
use crate::mount::{self, Upper};
use crate::node::{self, is_whiteout, open_folder};
use crate::remove::remove_tree;
use crate::store::{Store, Temporary, failed};
use crate::unpack::{OPAQUE, Style, Unpacker};
use crate::{ChainId, Error, MoveOrKeep, Snapshots, View, WorkTree, Workspace, make};

/// Folders that stay empty: an overlay without an upper needs two lowers.
const EMPTY: [&str; 2] = ["empty.0", "empty.1"];

/// Keeps trees as stacks of folders.
pub struct Overlay {
    store: Store,
    owners: Owners,
}

impl Overlay {
    /// Works in the folder for trees, whose files' owners are `owners`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn open(trees: BorrowedFd<'_>, owners: Owners) -> Result<Self, Error> {
        let store = Store::open(trees, "overlay")?;
        for name in EMPTY {
            store.make(name)?;
        }
        Ok(Overlay { store, owners })
    }

    /// Tries what needs most of the kernel: to remove a folder of a lower layer and make it again.
    ///
    /// # Errors
    /// The step that failed and what the kernel said of it.
    pub fn probe(&self) -> Result<(), Error> {
        let failed = |step| move |error: rustix::io::Errno| Error::Mount { step, source: error.into() };
        let place = self.store.temporary()?;
        let lower = place.make("lower")?;
        rustix::fs::mkdirat(&lower, "folder", Mode::RWXU).map_err(failed("mkdir"))?;
        let upper = Upper { diff: place.relative("diff"), work: place.relative("work") };
        place.make("diff")?;
        place.make("work")?;
        let root = mount::overlay(&self.store, &[place.relative("lower")], Some(&upper))?;
        rustix::fs::unlinkat(&root, "folder", rustix::fs::AtFlags::REMOVEDIR).map_err(failed("rmdir"))?;
        rustix::fs::mkdirat(&root, "folder", Mode::RWXU).map_err(failed("mkdir over a whiteout"))
    }

    fn lowers(&self, chain: &[ChainId]) -> Result<Vec<String>, Error> {
        for id in chain {
            if !self.store.has(*id).map_err(failed("look at", &id.digest().hex()))? {
                return Err(Error::Missing { chain: *id });
            }
        }
        Ok(chain.iter().rev().map(|id| format!("{}/diff", id.digest().hex())).collect())
    }

    fn groups(&self, chain: &[ChainId]) -> Result<Vec<Group>, Error> {
        chain.last().map_or(Ok(vec![]), |top| links::load(self.store.tree(*top)?.as_fd()))
    }

    /// A new folder to put over `below`, whose root looks like that one's.
    fn upper(&self, place: &Temporary, below: &View) -> Result<OwnedFd, Error> {
        let diff = place.make("diff")?;
        copy_root(self.owners, below.root(), &diff)?;
        Ok(diff)
    }
}

/// Gives a root folder the metadata of another.
fn copy_root(owners: Owners, from: BorrowedFd<'_>, to: &OwnedFd) -> Result<(), Error> {
    let root = TreePath::root();
    let node = node::read(owners, from, b"", &root).map_err(Error::file("look at", &root))?;
    node.map_or(Ok(()), |node| make::finish(owners, to, &node.entry))?;
    let carried = open_folder(from, b"").and_then(|from| owners.carry(from.as_fd(), to.as_fd()));
    carried.map_err(Error::file("set an attribute of", &root))
}

impl Snapshots for Overlay {
    fn has(&self, chain: &[ChainId]) -> std::io::Result<bool> {
        for id in chain {
            if !self.store.has(*id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn apply(
        &self,
        parents: &[ChainId],
        chain: ChainId,
        layer: &mut dyn Read,
        catalogue: Option<&Catalogue>,
    ) -> Result<(), Error> {
        if self.store.has(chain).map_err(failed("look at", &chain.digest().hex()))? {
            return Ok(());
        }
        let place = self.store.temporary()?;
        let below = self.view(parents)?;
        let diff = self.upper(&place, &below)?;
        let times = catalogue.map(Catalogue::entries).transpose().map_err(Error::Stream)?;
        let times = times.map(|entries| Box::new(entries) as Box<dyn Iterator<Item = _>>);
        let mut unpacker = Unpacker::new(self.owners, diff.as_fd(), Style::Upper(below), times);
        read_tar(layer, &mut unpacker, Limits::default()).map_err(Error::from_stream)?;
        unpacker.finish()?;
        let above = if unpacker.has_links { links::find(diff.as_fd())? } else { vec![] };
        let groups = links::merge(diff.as_fd(), self.groups(parents)?, above)?;
        links::save(place.folder(), &groups)?;
        if unpacker.has_special {
            place.mark_special()?;
        }
        place.publish(chain)
    }

    fn view(&self, chain: &[ChainId]) -> Result<View, Error> {
        let mut lowers = self.lowers(chain)?;
        lowers.extend(EMPTY.iter().take(2usize.saturating_sub(chain.len())).map(|name| (*name).to_owned()));
        Ok(View { root: mount::overlay(&self.store, &lowers, None)? })
    }

    fn workspace(&self, chain: &[ChainId], _: MoveOrKeep) -> Result<Workspace, Error> {
        let place = self.store.temporary()?;
        let below = self.view(chain)?;
        let diff = self.upper(&place, &below)?;
        place.make("work")?;
        let before = self.groups(chain)?;
        let prepared = Prepared::fill(self.owners, diff.as_fd(), below.root(), before.clone())?;
        let mut lowers = self.lowers(chain)?;
        if lowers.is_empty() {
            lowers.push(EMPTY[0].to_owned());
        }
        let upper = Upper { diff: place.relative("diff"), work: place.relative("work") };
        let mount = mount::overlay(&self.store, &lowers, Some(&upper))?;
        let has_special = chain.iter().any(|id| self.store.is_special(*id));
        Ok(Workspace::new(Box::new(Work {
            owners: self.owners,
            has_special,
            mount,
            below,
            diff,
            before,
            prepared,
            changes: None,
            place,
        })))
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

/// A workspace. The fields are dropped in this order: the mounts before the folder.
struct Work {
    owners: Owners,
    has_special: bool,
    mount: OwnedFd,
    below: View,
    diff: OwnedFd,
    before: Vec<Group>,
    prepared: Prepared,
    changes: Option<Changes>,
    place: Temporary,
}

impl Work {
    fn collect(&self, ignore: &[TreePath]) -> Result<Changes, Error> {
        let untouched = self.prepared.untouched(self.diff.as_fd());
        let mut walk = Walk { owners: self.owners, collector: Collector::new(ignore), untouched };
        let upper = open_folder(self.diff.as_fd(), b"").map_err(Error::file("open", &TreePath::root()))?;
        let below = open_folder(self.below.root(), b"").map_err(Error::file("open", &TreePath::root()))?;
        walk.folder(upper.as_fd(), Some(below.as_fd()), &TreePath::root(), Shows::Below)?;
        Ok(walk.collector.finish(&self.before))
    }

    fn is_below(&self, path: &TreePath) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        tree::open_beneath(self.below.root(), path.as_bytes(), flags, Mode::empty()).is_ok()
    }
}

impl Work {
    /// A socket in the place of a file from below has to go, and the file must not come back.
    fn replace_sockets(&self, changes: &Changes) -> Result<(), Error> {
        let mut folders = Folders::new(self.diff.as_fd());
        for path in &changes.leftovers {
            let Ok(folder) = folders.of(path) else { continue };
            let name = path.file_name().unwrap_or_default();
            if !tree::metadata(folder, name).is_ok_and(|metadata| metadata.kind == FileType::Socket) {
                continue;
            }
            let kind = FileType::CharacterDevice;
            rustix::fs::unlinkat(folder, name, AtFlags::empty())
                .and_then(|()| rustix::fs::mknodat(folder, name, kind, Mode::empty(), 0))
                .map_err(|error| Error::file("remove", path)(error.into()))?;
        }
        Ok(())
    }
}

impl WorkTree for Work {
    fn root_mount(&self) -> Result<OwnedFd, Error> {
        self.mount.try_clone().map_err(|source| Error::Mount { step: "dup", source })
    }

    fn has_special(&self) -> bool {
        self.has_special
    }

    fn diff(&mut self, ignore: &[TreePath], sink: &mut dyn EntrySink) -> Result<(), Error> {
        let changes = self.collect(ignore)?;
        if changes.emit((self.owners, self.diff.as_fd()), sink, None)? {
            self.place.mark_special()?;
        }
        self.changes = Some(changes);
        Ok(())
    }

    fn commit(mut self: Box<Self>, chain: ChainId) -> Result<(), Error> {
        let changes = match self.changes.take() {
            Some(changes) => changes,
            None => self.collect(&[])?,
        };
        changes.remove_leftovers(self.diff.as_fd(), |path| !self.is_below(path))?;
        self.replace_sockets(&changes)?;
        self.prepared.clear(self.diff.as_fd())?;
        // No layer says anything about the root, so it stays what it was.
        copy_root(self.owners, self.below.root(), &self.diff)?;
        let above = links::find(self.diff.as_fd())?;
        let groups = links::merge(self.diff.as_fd(), std::mem::take(&mut self.before), above)?;
        let Work { mount, below, diff, place, .. } = *self;
        drop((mount, below, diff));
        remove_tree(place.folder(), b"work").map_err(failed("remove", "work"))?;
        links::save(place.folder(), &groups)?;
        place.publish(chain)
    }
}

/// Walks an upper folder beside what is below it.
struct Walk<'a> {
    owners: Owners,
    collector: Collector<'a>,
    untouched: std::collections::HashSet<u64>,
}

impl Walk<'_> {
    fn folder(
        &mut self,
        upper: BorrowedFd<'_>,
        below: Option<BorrowedFd<'_>>,
        path: &TreePath,
        shows: Shows,
    ) -> Result<(), Error> {
        let names = tree::names(upper).map_err(Error::file("list", path))?;
        let mut there = Vec::with_capacity(names.len());
        for name in &names {
            let at = path.join(name.to_bytes());
            let metadata = self.owners.metadata(upper, name.to_bytes());
            let metadata = metadata.map_err(Error::file("look at", &at))?;
            let old = below.and_then(|below| self.owners.metadata(below, name.to_bytes()).ok());
            if is_whiteout(&metadata) {
                if old.is_some() {
                    self.collector.gone(at);
                }
            } else {
                there.push((name, at, metadata, old));
            }
        }
        let shows = if shows == Shows::Below && is_opaque(upper, path)? { Shows::Nothing } else { shows };
        if let Some(below) = below
            && shows == Shows::Nothing
        {
            for name in tree::names(below).map_err(Error::file("list", path))? {
                if names.binary_search(&name).is_err() {
                    self.collector.gone(path.join(name.to_bytes()));
                }
            }
        }
        for (name, at, metadata, old) in there {
            let name = name.to_bytes();
            let pair = Pair {
                owners: self.owners,
                upper,
                below,
                name,
                path: &at,
                metadata: &metadata,
                old: old.as_ref(),
            };
            self.file(&pair, shows)?;
        }
        Ok(())
    }

    fn file(&mut self, pair: &Pair<'_>, shows: Shows) -> Result<(), Error> {
        let Pair { upper, below, name, path, metadata, old, .. } = *pair;
        if metadata.kind == FileType::Socket {
            self.collector.leftover(path.clone());
            // A socket in a file's place: the file is gone.
            if old.is_some() {
                self.collector.gone(path.clone());
            }
            return Ok(());
        }
        if metadata.kind != FileType::Directory {
            self.collector.met(path, metadata);
            if !self.untouched.contains(&metadata.inode) && !pair.is_same()? {
                self.collector.changed(path, metadata);
            }
            return Ok(());
        }
        let old = old.filter(|old| old.kind == FileType::Directory);
        let same = |old: &tree::Metadata| {
            (old.mode, old.uid, old.gid) == (metadata.mode, metadata.uid, metadata.gid)
        };
        if !old.is_some_and(same) {
            self.collector.changed(path, metadata);
        }
        let inner = open_folder(upper, name).map_err(Error::file("open", path))?;
        let beside = match (below, old) {
            (Some(below), Some(_)) => Some(open_folder(below, name).map_err(Error::file("open", path))?),
            _ => None,
        };
        self.folder(inner.as_fd(), beside.as_ref().map(|folder| folder.as_fd()), path, shows)
    }
}

/// Whether what is below shows through an upper folder. Inside an opaque one, folders are not marked again.
#[derive(Clone, Copy, PartialEq)]
enum Shows {
    Below,
    Nothing,
}

/// A file in the upper folder, and what is below at its path.
struct Pair<'a> {
    owners: Owners,
    upper: BorrowedFd<'a>,
    below: Option<BorrowedFd<'a>>,
    name: &'a [u8],
    path: &'a TreePath,
    metadata: &'a tree::Metadata,
    old: Option<&'a tree::Metadata>,
}

impl Pair<'_> {
    fn is_same(&self) -> Result<bool, Error> {
        let (Some(below), Some(old)) = (self.below, self.old) else { return Ok(false) };
        let shape = |of: &tree::Metadata| (of.kind, of.mode, of.uid, of.gid, of.size_bytes);
        if shape(old) != shape(self.metadata) {
            return Ok(false);
        }
        let compare = || -> std::io::Result<bool> {
            let read = |folder| node::read(self.owners, folder, self.name, self.path);
            match (read(self.upper)?, read(below)?) {
                (Some(new), Some(old)) => new.same(old),
                _ => Ok(false),
            }
        };
        compare().map_err(Error::file("compare", self.path))
    }
}

fn is_opaque(folder: BorrowedFd<'_>, path: &TreePath) -> Result<bool, Error> {
    let opened = folder.try_clone_to_owned().map_err(Error::file("open", path))?;
    let value =
        node::attribute(&opened, OPAQUE.as_bytes()).map_err(Error::file("read an attribute of", path))?;
    Ok(value.is_some_and(|value| value == b"y"))
}

#[cfg(test)]
impl Overlay {
    /// A view and a workspace's mount, made the way that old kernels need, and the latter's folder.
    pub(crate) fn mount_by_text(&self, chain: &[ChainId]) -> Result<(OwnedFd, OwnedFd, Temporary), Error> {
        let place = self.store.temporary()?;
        place.make("diff")?;
        place.make("work")?;
        let upper = Upper { diff: place.relative("diff"), work: place.relative("work") };
        let mut lowers = self.lowers(chain)?;
        let writable = mount::by_text(&self.store, &lowers, Some(&upper))?;
        lowers.push(EMPTY[0].to_owned());
        Ok((mount::by_text(&self.store, &lowers, None)?, writable, place))
    }
}
