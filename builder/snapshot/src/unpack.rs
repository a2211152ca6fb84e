//! Puts the entries of a layer into a folder. What the entries say is not trusted: every path is resolved folder by folder.
//! Symbolic links on the way are followed as in a root folder (see [`resolve`]), and never by the kernel; a file where a
//! folder should be is refused.

mod resolve;

use std::collections::{HashMap, HashSet, hash_map};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_linux::owner::{self, Owners};
use lithify_linux::tree;
use lithify_oci::layer::{CatalogueEntry, Compiled, InLayer, Mended};
use lithify_oci::{Content, Entry, EntryKind, EntrySink, FileDigest, Timestamp, TreePath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::make::{self, Hash, finish, times};
use crate::node::{self, is_whiteout, open_folder};
use crate::record::Fresh;
use crate::remove::remove_tree;
use crate::{Error, View};

/// overlayfs's mark for a folder that hides what is below it (Documentation/filesystems/overlayfs.rst).
pub(crate) const OPAQUE: &str = "user.overlay.opaque";

/// What the folder is.
pub(crate) enum Style {
    /// The upper folder of an overlay mount; what lies below can be seen in the view.
    Upper(View),
    /// The whole tree, with what was there before the layer.
    Whole,
}

/// Real times, in the order of the layer's entries.
pub(crate) type Times<'a> = Box<dyn Iterator<Item = io::Result<CatalogueEntry>> + 'a>;

/// Unpacks one layer.
pub(crate) struct Unpacker<'a> {
    owners: Owners,
    root: BorrowedFd<'a>,
    style: Style,
    /// The folder of the last entry and those above it, from the root's child on.
    open: Vec<Open>,
    /// What times folders get at the end, when nothing in them changes any more.
    folder_times: HashMap<TreePath, Timestamp>,
    /// What this layer brought, where that must be told from what was there before.
    written: HashSet<TreePath>,
    times: Option<Times<'a>>,
    /// The folder that was resolved last, and where it really is.
    resolved: (TreePath, TreePath),
    /// Where wanted: the digests of the files that the layer brought.
    pub(crate) digests: Option<Fresh>,
    /// Whether there were hard links.
    pub(crate) has_links: bool,
    /// Whether something special was among it.
    pub(crate) has_special: bool,
}

struct Open {
    name: Vec<u8>,
    folder: OwnedFd,
    /// Whether what the lower layers have here shines through.
    shines: bool,
}

impl EntrySink for Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let mut known = None;
        let mut compiled = None;
        let mut entry = entry.clone();
        if let Some(times) = &mut self.times {
            let item = times.next().transpose()?;
            let Some(item) = item.filter(|item| item.entry.path == entry.path) else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "the catalogue does not belong to the layer: {} is not where it should be",
                        entry.path
                    ),
                ));
            };
            entry.modified = item.entry.modified;
            known = item.digest;
            compiled = item.compiled;
        }
        // Our own marks say what kind a file is and whose; only we may set them.
        entry.xattrs.retain(|name, _| !name.starts_with(owner::PREFIX.as_bytes()));
        self.resolve(&mut entry)?;
        let taken = match compiled {
            Some(Compiled { source_seconds, in_layer: InLayer::AsSource }) => {
                self.take(&entry, &mut Mended { content, source_seconds }, known)
            }
            _ => self.take(&entry, content, known),
        };
        Ok(taken?)
    }
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(owners: Owners, root: BorrowedFd<'a>, style: Style, times: Option<Times<'a>>) -> Self {
        Unpacker {
            owners,
            root,
            style,
            open: vec![],
            folder_times: HashMap::new(),
            written: HashSet::new(),
            times,
            resolved: Default::default(),
            digests: None,
            has_links: false,
            has_special: false,
        }
    }

    fn take(
        &mut self,
        entry: &Entry,
        content: &mut dyn Content,
        known: Option<FileDigest>,
    ) -> Result<(), Error> {
        let path = &entry.path;
        match &entry.kind {
            EntryKind::Whiteout => return self.whiteout(path),
            EntryKind::Opaque => return self.opaque(path),
            EntryKind::Directory => self.directory(entry)?,
            EntryKind::HardLink { target } => self.hard_link(path, target)?,
            _ => {
                let hash = if self.digests.is_some() && known.is_none() { Hash::Yes } else { Hash::No };
                self.has_special |= node::is_special(self.owners, entry);
                let name = self.enter_parent(path)?;
                let made = loop {
                    match make::make(self.owners, self.folder(), name, entry, content, hash)? {
                        Some(made) => break made,
                        None => drop(self.make_room(name, path)?),
                    }
                };
                if let Some(digests) = &mut self.digests {
                    digests.insert(path.clone(), known.or(made.digest));
                }
            }
        }
        self.note(path);
        Ok(())
    }

    fn note(&mut self, path: &TreePath) {
        if matches!(self.style, Style::Whole) {
            // The folders above it belong to the layer as well, said or not.
            let mut next = Some(path.clone());
            while let Some(path) = next.filter(|path| !path.is_root()) {
                next = path.parent();
                if !self.written.insert(path) {
                    break;
                }
            }
        }
    }

    /// Sets the times of the folders. To be called after the last entry.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.open.clear();
        for (path, modified) in &self.folder_times {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            match tree::open_beneath(self.root, path.as_bytes(), flags, Mode::empty()) {
                Ok(folder) => rustix::fs::futimens(folder, &times(*modified))
                    .map_err(|error| Error::file("set the time of", path)(error.into()))?,
                // Replaced by a later entry.
                Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {}
                Err(error) => return Err(Error::file("open", path)(error)),
            }
        }
        Ok(())
    }

    /// The folder that was entered last.
    fn folder(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root, |open| open.folder.as_fd())
    }

    fn shines(&self) -> bool {
        self.open.last().is_none_or(|open| open.shines)
    }

    /// Enters the folder that `path` is in and gives the name there.
    fn enter_parent<'p>(&mut self, path: &'p TreePath) -> Result<&'p [u8], Error> {
        let name = path.file_name().unwrap_or_default();
        let length = path.as_bytes().len() - name.len();
        self.enter(&path.as_bytes()[..length], path)?;
        Ok(name)
    }

    /// Enters the folder `directory`, which may be missing in the layer; `for_path` is the entry, for messages.
    fn enter(&mut self, directory: &[u8], for_path: &TreePath) -> Result<(), Error> {
        let mut components = directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
        let mut depth = 0;
        while let Some(name) = components.peek() {
            match self.open.get(depth) {
                Some(open) if open.name == *name => depth += 1,
                _ => break,
            }
            components.next();
        }
        self.open.truncate(depth);
        for name in components {
            let open = self.open_or_make(name, for_path)?;
            self.open.push(open);
        }
        Ok(())
    }

    /// The path of a name in the folder that was entered last.
    fn here(&self, name: &[u8]) -> TreePath {
        let mut path: Vec<&[u8]> = self.open.iter().map(|open| &open.name[..]).collect();
        path.push(name);
        TreePath::checked(&path.join(&b'/')).unwrap_or_default()
    }

    fn open_or_make(&mut self, name: &[u8], for_path: &TreePath) -> Result<Open, Error> {
        let refused = |problem| Error::Refused { path: for_path.clone(), problem };
        let mut opaque = false;
        match open_folder(self.folder(), name) {
            Ok(folder) => return self.opened(name, folder),
            Err(error) => match errno(&error) {
                Some(Errno::NOENT) => {}
                Some(Errno::LOOP) => return Err(refused("a component of its path is a symbolic link")),
                Some(Errno::NOTDIR) if self.remove_whiteout(name) => opaque = true,
                Some(Errno::NOTDIR) => return Err(refused("a component of its path is no folder")),
                _ => return Err(Error::file("open", for_path)(error)),
            },
        }
        let path = self.here(name);
        let below = if opaque { None } else { self.below(&path)? };
        let entry = match below {
            Some(node) if node.entry.kind == EntryKind::Directory => node.entry,
            Some(node) if matches!(node.entry.kind, EntryKind::Symlink { .. }) => {
                return Err(refused("a component of its path is a symbolic link"));
            }
            Some(_) => return Err(refused("a component of its path is no folder")),
            None => Entry {
                path: path.clone(),
                kind: EntryKind::Directory,
                mode: 0o755,
                uid: 0,
                gid: 0,
                modified: Timestamp::default(),
                xattrs: Default::default(),
            },
        };
        let folder = self.make_folder(name, &entry, opaque)?;
        self.folder_times.entry(path.clone()).or_insert(entry.modified);
        self.note(&path);
        let shines = self.shines() && !opaque;
        Ok(Open { name: name.to_vec(), folder, shines })
    }

    /// A folder that is there.
    fn opened(&mut self, name: &[u8], folder: OwnedFd) -> Result<Open, Error> {
        let path = self.here(name);
        let mut shines = self.shines();
        match self.style {
            Style::Upper(_) => {
                let opaque = node::attribute(&folder, OPAQUE.as_bytes());
                shines &= opaque.map_err(Error::file("read an attribute of", &path))?.is_none();
            }
            Style::Whole => {
                self.keep_time(folder.as_fd(), path)?;
            }
        }
        Ok(Open { name: name.to_vec(), folder, shines })
    }

    fn make_folder(&self, name: &[u8], entry: &Entry, opaque: bool) -> Result<OwnedFd, Error> {
        let failed = |error: Errno| Error::file("make", &entry.path)(error.into());
        rustix::fs::mkdirat(self.folder(), name, Mode::RWXU).map_err(failed)?;
        let folder = open_folder(self.folder(), name).map_err(Error::file("open", &entry.path))?;
        if opaque {
            set_opaque(folder.as_fd(), &entry.path)?;
        }
        finish(self.owners, &folder, entry)?;
        self.carry(&entry.path, &folder)?;
        Ok(folder)
    }

    /// Gives a new folder the attributes of the one that it is merged with which are about what is in that.
    fn carry(&self, path: &TreePath, folder: &OwnedFd) -> Result<(), Error> {
        let Style::Upper(view) = &self.style else { return Ok(()) };
        if self.owners == Owners::Real || !self.shines() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match tree::open_beneath(view.root(), path.as_bytes(), flags, Mode::empty()) {
            Ok(below) => self
                .owners
                .carry(below.as_fd(), folder.as_fd())
                .map_err(Error::file("set an attribute of", path)),
            // Nothing is there, or no folder.
            Err(_) => Ok(()),
        }
    }

    /// What the layers below have at `path`, as far as it shines through.
    fn below(&self, path: &TreePath) -> Result<Option<node::Node>, Error> {
        let Style::Upper(view) = &self.style else { return Ok(None) };
        if !self.shines() {
            return Ok(None);
        }
        let parent = path.parent().unwrap_or_default();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let found =
            tree::open_beneath(view.root(), parent.as_bytes(), flags, Mode::empty()).and_then(|folder| {
                node::read(self.owners, folder.as_fd(), path.file_name().unwrap_or_default(), path)
            });
        match found {
            Ok(node) => Ok(node),
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                Ok(None)
            }
            Err(error) => Err(Error::file("look at what is below", path)(error)),
        }
    }

    fn directory(&mut self, entry: &Entry) -> Result<(), Error> {
        let path = &entry.path;
        self.folder_times.insert(path.clone(), entry.modified);
        if path.is_root() {
            self.open.clear();
            let root = open_folder(self.root, b"").map_err(Error::file("open", path))?;
            return finish(self.owners, &root, entry);
        }
        let name = self.enter_parent(path)?;
        let opaque = match tree::metadata(self.folder(), name) {
            Ok(metadata) if metadata.kind == FileType::Directory => {
                let folder = open_folder(self.folder(), name).map_err(Error::file("open", path))?;
                finish(self.owners, &folder, entry)?;
                let open = self.opened(name, folder)?;
                self.open.push(open);
                return Ok(());
            }
            Ok(_) => self.make_room(name, path)?,
            Err(_) => false,
        };
        let folder = self.make_folder(name, entry, opaque)?;
        let shines = self.shines() && !opaque;
        self.open.push(Open { name: name.to_vec(), folder, shines });
        Ok(())
    }

    /// Removes what is at `name`; says whether that was a whiteout.
    fn make_room(&self, name: &[u8], path: &TreePath) -> Result<bool, Error> {
        let was_whiteout = self.remove_whiteout(name);
        if !was_whiteout {
            remove_tree(self.folder(), name).map_err(Error::file("replace", path))?;
        }
        Ok(was_whiteout)
    }

    fn remove_whiteout(&self, name: &[u8]) -> bool {
        let is_whiteout = matches!(self.style, Style::Upper(_))
            && tree::metadata(self.folder(), name).is_ok_and(|metadata| is_whiteout(&metadata));
        is_whiteout && rustix::fs::unlinkat(self.folder(), name, AtFlags::empty()).is_ok()
    }

    fn hard_link(&mut self, path: &TreePath, target: &TreePath) -> Result<(), Error> {
        let refused = |problem| Error::Refused { path: path.clone(), problem };
        if path == target {
            return Err(refused("it is a hard link to itself"));
        }
        self.has_links = true;
        let target_name = target.file_name().unwrap_or_default();
        let mut copied_up = false;
        loop {
            let from = self.existing_folder(target, path)?;
            let name = self.enter_parent(path)?;
            if let Some(from) = from {
                let found = tree::metadata(&from, target_name);
                if found.as_ref().is_ok_and(|metadata| metadata.kind == FileType::Directory) {
                    return Err(refused("it is a hard link to a folder"));
                }
                if matches!(self.style, Style::Upper(_)) && found.is_ok_and(|metadata| is_whiteout(&metadata))
                {
                    return Err(refused("it is a hard link to a file that is not there"));
                }
                match rustix::fs::linkat(&from, target_name, self.folder(), name, AtFlags::empty()) {
                    Ok(()) => break,
                    Err(Errno::EXIST) => {
                        self.make_room(name, path)?;
                        continue;
                    }
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(Error::file("link", path)(error.into())),
                }
            }
            if std::mem::replace(&mut copied_up, true) || !self.copy_up(target)? {
                return Err(refused("it is a hard link to a file that is not there"));
            }
        }
        if let Some(digests) = &mut self.digests {
            let digest = digests.get(target).copied().flatten();
            digests.insert(path.clone(), digest);
        }
        Ok(())
    }

    /// The folder that a hard link's target is in, `None` where it is not there.
    fn existing_folder(&self, target: &TreePath, path: &TreePath) -> Result<Option<OwnedFd>, Error> {
        let parent = target.parent().unwrap_or_default();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match tree::open_beneath(self.root, parent.as_bytes(), flags, Mode::empty()) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) => match errno(&error) {
                Some(Errno::NOENT) => Ok(None),
                Some(Errno::LOOP | Errno::NOTDIR) => {
                    let problem = "its target's path goes through a symbolic link or a file";
                    Err(Error::Refused { path: path.clone(), problem })
                }
                _ => Err(Error::file("open", &parent)(error)),
            },
        }
    }

    /// Brings a file from the layers below into this folder, as a mounted overlay would; `false` where there is none.
    fn copy_up(&mut self, target: &TreePath) -> Result<bool, Error> {
        if !matches!(self.style, Style::Upper(_)) {
            return Ok(false);
        }
        let name = self.enter_parent(target)?;
        match self.below(target)? {
            Some(node) if node.entry.kind != EntryKind::Directory => {
                make::copy(self.owners, node, target, self.folder(), name)?;
                Ok(true)
            }
            Some(_) => {
                let problem = "a hard link leads to this folder";
                Err(Error::Refused { path: target.clone(), problem })
            }
            None => Ok(false),
        }
    }

    fn whiteout(&mut self, path: &TreePath) -> Result<(), Error> {
        match self.style {
            Style::Upper(_) => self.mark_gone(path),
            Style::Whole => {
                let Some(parent) = self.existing_parent(path)? else { return Ok(()) };
                self.open.clear();
                self.remove_older(parent.as_fd(), path)
            }
        }
    }

    fn mark_gone(&mut self, path: &TreePath) -> Result<(), Error> {
        // Not to make folders only to say that something in them is gone.
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let Style::Upper(view) = &self.style else { return Ok(()) };
        match tree::open_beneath(view.root(), path.as_bytes(), flags, Mode::empty()) {
            Ok(_) => {}
            Err(error) if errno(&error) == Some(Errno::LOOP) => {
                let problem = "a component of its path is a symbolic link";
                return Err(Error::Refused { path: path.clone(), problem });
            }
            Err(_) => return Ok(()),
        }
        let name = self.enter_parent(path)?;
        match tree::metadata(self.folder(), name) {
            // A whiteout means what is below, never what the same layer brings (layer.md, "Whiteouts").
            Ok(metadata) if metadata.kind == FileType::Directory => {
                let folder = open_folder(self.folder(), name).map_err(Error::file("open", path))?;
                set_opaque(folder.as_fd(), path)
            }
            Ok(_) => Ok(()),
            Err(_) => {
                let mode = Mode::empty();
                rustix::fs::mknodat(self.folder(), name, FileType::CharacterDevice, mode, 0)
                    .map_err(|error| Error::file("mark as removed", path)(error.into()))
            }
        }
    }

    fn opaque(&mut self, path: &TreePath) -> Result<(), Error> {
        match &self.style {
            Style::Upper(view) if path.is_root() => {
                // overlayfs does not look for the mark on the root.
                let root = view.root();
                let names = open_folder(root, b"").and_then(|root| tree::names(root.as_fd()));
                for name in names.map_err(Error::file("list", path))? {
                    self.mark_gone(&path.join(name.to_bytes()))?;
                }
                Ok(())
            }
            Style::Upper(_) => {
                self.enter(path.as_bytes(), path)?;
                set_opaque(self.folder(), path)?;
                if let Some(open) = self.open.last_mut() {
                    open.shines = false;
                }
                Ok(())
            }
            Style::Whole => {
                self.open.clear();
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                match tree::open_beneath(self.root, path.as_bytes(), flags, Mode::empty()) {
                    Ok(folder) => self.remove_older_below(folder.as_fd(), path),
                    Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(()),
                    Err(error) => Err(self.not_entered(path, error)),
                }
            }
        }
    }

    fn existing_parent(&self, path: &TreePath) -> Result<Option<OwnedFd>, Error> {
        let parent = path.parent().unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match tree::open_beneath(self.root, parent.as_bytes(), flags, Mode::empty()) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::NOTDIR)) => Ok(None),
            Err(error) => Err(self.not_entered(path, error)),
        }
    }

    fn not_entered(&self, path: &TreePath, error: io::Error) -> Error {
        match errno(&error) {
            Some(Errno::LOOP) => {
                Error::Refused { path: path.clone(), problem: "a component of its path is a symbolic link" }
            }
            Some(Errno::NOTDIR) => {
                Error::Refused { path: path.clone(), problem: "a component of its path is no folder" }
            }
            _ => Error::file("open", path)(error),
        }
    }

    /// Removes what is at `path` but for what this layer has brought.
    fn remove_older(&mut self, parent: BorrowedFd<'_>, path: &TreePath) -> Result<(), Error> {
        let name = path.file_name().unwrap_or_default();
        self.keep_time(parent, path.parent().unwrap_or_default())?;
        if !self.written.contains(path) {
            return remove_tree(parent, name).map_err(Error::file("remove", path));
        }
        match open_folder(parent, name) {
            Ok(folder) => self.remove_older_below(folder.as_fd(), path),
            Err(_) => Ok(()),
        }
    }

    fn remove_older_below(&mut self, folder: BorrowedFd<'_>, path: &TreePath) -> Result<(), Error> {
        for name in tree::names(folder).map_err(Error::file("list", path))? {
            self.remove_older(folder, &path.join(name.to_bytes()))?;
        }
        Ok(())
    }

    /// Removing something from a folder changes its time, which only the layer may say.
    fn keep_time(&mut self, folder: BorrowedFd<'_>, path: TreePath) -> Result<(), Error> {
        if let hash_map::Entry::Vacant(place) = self.folder_times.entry(path) {
            let metadata = tree::metadata(folder, b"").map_err(Error::file("look at", place.key()))?;
            place.insert(node::modified(&metadata));
        }
        Ok(())
    }
}

fn set_opaque(folder: BorrowedFd<'_>, path: &TreePath) -> Result<(), Error> {
    rustix::fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())
        .map_err(|error| Error::file("mark as opaque", path)(error.into()))
}

pub(crate) fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}
