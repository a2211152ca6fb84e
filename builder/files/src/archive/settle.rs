//! What is left when an archive has been unpacked, entry by entry, into a folder that is its root.
//!
//! moby's rules: an entry removes what is at its path unless both are folders; folders above it may be links, made by the
//! archive or there before, which are followed; a folder entry over a link replaces the link.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use lithify_oci::{EntryKind, TreePath};

use super::{Item, Raw, refuse};
use crate::arrange::canonical;

/// How many links a path may lead through, as in Linux.
const MAX_LINKS: usize = 40;

/// A path in canonical order, compared quickly.
#[derive(PartialEq, Eq)]
struct Key(TreePath);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        canonical(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

struct Unpacked<'a> {
    raw: &'a [Raw],
    /// What is there: which entry made the file. Names of one file have the same.
    live: BTreeMap<Key, u32>,
    /// Links that were there before.
    links: HashMap<&'a TreePath, &'a TreePath>,
}

/// Unpacks in mind.
pub(super) fn settle(raw: &[Raw], links: &[(TreePath, TreePath)]) -> io::Result<Vec<Item>> {
    let links = links.iter().map(|(from, to)| (from, to)).collect();
    let mut unpacked = Unpacked { raw, live: BTreeMap::new(), links };
    for (number, item) in raw.iter().enumerate() {
        let path = &item.entry.path;
        // The folder itself is there already and keeps what it is.
        let Some(name) = path.file_name() else { continue };
        let place = unpacked.folder_of(path)?.join(name);
        let made_by = match &item.entry.kind {
            EntryKind::HardLink { target } => unpacked.linked(target, path)?,
            _ => u32::try_from(number).map_err(|_| refuse("it has more than 4 billion entries"))?,
        };
        unpacked.put(place, made_by);
    }
    Ok(unpacked.items())
}

/// The folders above entries that nothing before has made.
pub(super) fn implied(raw: &[Raw]) -> Vec<TreePath> {
    let (mut made, mut implied) = (BTreeSet::new(), BTreeSet::new());
    for item in raw {
        let path = &item.entry.path;
        for ancestor in path.ancestors() {
            if !made.contains(ancestor.as_bytes()) {
                implied.insert(ancestor);
            }
        }
        if item.entry.kind == EntryKind::Directory {
            made.insert(path.as_bytes());
        }
    }
    implied.into_iter().collect()
}

impl Unpacked<'_> {
    fn kind(&self, made_by: u32) -> &EntryKind {
        &self.raw[made_by as usize].entry.kind
    }

    fn at(&self, path: &TreePath) -> Option<u32> {
        self.live.get(&Key(path.clone())).copied()
    }

    /// The folder that a path is in, links followed.
    fn folder_of(&self, path: &TreePath) -> io::Result<TreePath> {
        let mut pending: Vec<Vec<u8>> = path.components().rev().skip(1).map(<[u8]>::to_vec).collect();
        let (mut folder, mut followed) = (TreePath::root(), 0);
        while let Some(component) = pending.pop() {
            if component == b".." {
                folder = folder.parent().unwrap_or_default();
                continue;
            }
            let next = folder.join(&component);
            match self.at(&next).map(|made_by| self.kind(made_by)) {
                Some(EntryKind::Symlink { target }) => {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return Err(refuse(format!("{path}: too many symbolic links")));
                    }
                    if target.starts_with(b"/") {
                        folder = TreePath::root();
                    }
                    let components =
                        target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
                    pending.extend(components.rev().map(<[u8]>::to_vec));
                }
                Some(EntryKind::Directory) => folder = next,
                Some(_) => return Err(refuse(format!("{next} is not a folder, but {path} lies in it"))),
                None => folder = self.links.get(&next).map_or(next, |to| (*to).clone()),
            }
        }
        Ok(folder)
    }

    /// Which entry made the file that a hard link names.
    fn linked(&self, target: &TreePath, path: &TreePath) -> io::Result<u32> {
        let place = self.folder_of(target)?.join(target.file_name().unwrap_or_default());
        match self.at(&place) {
            Some(made_by) if *self.kind(made_by) != EntryKind::Directory => Ok(made_by),
            Some(_) => Err(refuse(format!("{path} is a hard link to the folder {target}"))),
            None => Err(refuse(format!("{path} is a hard link to {target}, which does not come before it"))),
        }
    }

    fn put(&mut self, path: TreePath, made_by: u32) {
        let is_directory = *self.kind(made_by) == EntryKind::Directory;
        let is_folder = self.at(&path).is_some_and(|there| *self.kind(there) == EntryKind::Directory);
        if is_folder && !is_directory {
            let below: Vec<TreePath> = self
                .live
                .range(Key(path.clone())..)
                .map(|(key, _)| key.0.clone())
                .take_while(|there| path.contains(there))
                .collect();
            for there in below {
                self.live.remove(&Key(there));
            }
        }
        self.live.insert(Key(path), made_by);
    }

    fn items(self) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::with_capacity(self.live.len());
        let mut names: HashMap<u32, u32> = HashMap::new();
        let has_links = self.raw.iter().any(|raw| matches!(raw.entry.kind, EntryKind::HardLink { .. }));
        for (Key(path), made_by) in self.live {
            let raw = &self.raw[made_by as usize];
            let first = if has_links { names.get(&made_by).copied() } else { None };
            let mut entry = raw.entry.clone();
            entry.path = path;
            if let Some(first) = first {
                entry.kind = EntryKind::HardLink { target: items[first as usize].entry.path.clone() };
            } else if has_links {
                names.insert(made_by, items.len() as u32);
            }
            items.push(Item { entry, place: raw.place, link_of: first });
        }
        items
    }
}
