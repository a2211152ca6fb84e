//! Symbolic links in the paths of a layer's entries. Images rely on them: a layer may bring `bin/x` where `bin` is a link to
//! `usr/bin` in a layer below. As in containerd, links are followed as a process would follow them whose root folder the
//! tree is: absolute ones and `..` stay inside.
//!
//! The links are read here, one by one, and the path that comes out has none: whatever then opens it still refuses links.

use std::collections::VecDeque;

use lithify_linux::tree;
use lithify_oci::{Entry, EntryKind, TreePath};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Style, Unpacker, errno};
use crate::Error;

/// How many links one path may lead through, as in the kernel (MAXSYMLINKS in linux/namei.h).
const MAX_LINKS: usize = 40;

impl Unpacker<'_> {
    /// Gives an entry the path, and a hard link the target, that has no links on the way.
    pub(super) fn resolve(&mut self, entry: &mut Entry) -> Result<(), Error> {
        let path = entry.path.clone();
        entry.path = match entry.kind {
            // What it is about is the folder itself.
            EntryKind::Opaque => self.real_folder(&path, &path)?,
            _ => self.real_path(&path, &path)?,
        };
        if let EntryKind::HardLink { target } = &mut entry.kind {
            *target = self.real_path(target, &path)?;
        }
        Ok(())
    }

    /// `path` with the links in its folder's path followed; it may be one itself.
    fn real_path(&mut self, path: &TreePath, for_path: &TreePath) -> Result<TreePath, Error> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if !parent.is_root() => {
                Ok(self.real_folder(&parent, for_path)?.join(name))
            }
            _ => {
                self.resolved = Default::default();
                Ok(path.clone())
            }
        }
    }

    fn real_folder(&mut self, folder: &TreePath, for_path: &TreePath) -> Result<TreePath, Error> {
        // It holds until the next entry elsewhere: whatever replaces a folder on the way lies in another one.
        if self.resolved.0 != *folder {
            let real =
                if self.has_no_links(folder) { folder.clone() } else { self.follow(folder, for_path)? };
            self.resolved = (folder.clone(), real);
        }
        Ok(self.resolved.1.clone())
    }

    /// Whether neither this layer nor what is below has a link on the way.
    fn has_no_links(&self, folder: &TreePath) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let is_plain = |root| match tree::open_beneath(root, folder.as_bytes(), flags, Mode::empty()) {
            Ok(_) => true,
            Err(error) => errno(&error) == Some(Errno::NOENT),
        };
        is_plain(self.root)
            && match &self.style {
                Style::Upper(view) => is_plain(view.root()),
                Style::Whole => true,
            }
    }

    fn follow(&mut self, folder: &TreePath, for_path: &TreePath) -> Result<TreePath, Error> {
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
        };
        let mut left: VecDeque<Vec<u8>> = split(folder.as_bytes()).into();
        let mut real = TreePath::root();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            match &name[..] {
                b"." => continue,
                b".." => {
                    real = real.parent().unwrap_or_default();
                    continue;
                }
                _ => {}
            }
            let Some(target) = self.link_at(&real, &name, for_path)? else {
                real = real.join(&name);
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                let problem = "its path goes through too many symbolic links";
                return Err(Error::Refused { path: for_path.clone(), problem });
            }
            if target.starts_with(b"/") {
                real = TreePath::root();
            }
            split(&target).into_iter().rev().for_each(|name| left.push_front(name));
        }
        Ok(real)
    }

    /// The target of the link that `name` is in a folder without links on its way; `None` where it is something else.
    fn link_at(
        &mut self,
        folder: &TreePath,
        name: &[u8],
        for_path: &TreePath,
    ) -> Result<Option<Vec<u8>>, Error> {
        let path = folder.join(name);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let here = tree::open_beneath(self.root, folder.as_bytes(), flags, Mode::empty());
        if let Ok(here) = here
            && let Ok(metadata) = tree::metadata(&here, name)
        {
            return match metadata.kind {
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&here, name, vec![]);
                    target
                        .map(|target| Some(target.into_bytes()))
                        .map_err(|error| Error::file("read the link", &path)(error.into()))
                }
                // Another kind of file, or the mark that what is below is gone.
                _ => Ok(None),
            };
        }
        // Not in this layer: below, unless an opaque folder hides it.
        let Style::Upper(view) = &self.style else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let is_link = tree::open_beneath(view.root(), path.as_bytes(), flags, Mode::empty())
            .and_then(|file| tree::metadata(file, b""))
            .is_ok_and(|metadata| metadata.kind == FileType::Symlink);
        if !is_link {
            return Ok(None);
        }
        self.enter(folder.as_bytes(), for_path)?;
        match self.below(&path)?.map(|node| node.entry.kind) {
            Some(EntryKind::Symlink { target }) => Ok(Some(target)),
            _ => Ok(None),
        }
    }
}
