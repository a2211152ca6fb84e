//! Everything that one COPY or ADD brings, as one list in canonical order: with final paths, owners and modes, later sources
//! over earlier ones, and the folders that are made on the way.

mod merge;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use lithify_linux::tree::Metadata;
use lithify_oci::{Entry, EntryKind, Timestamp, TreePath};
use rustix::fs::FileType;

pub(crate) use merge::canonical;

use crate::archive::Archive;
use crate::chmod::Chmod;
use crate::dest::Destination;
use crate::error::shown;
use crate::place::{Conflicts, HardLinks};
use crate::select::Match;
use crate::{Error, FileKind};

/// One thing to place, in the order in which the sources stand.
#[derive(Debug)]
pub enum Part {
    /// A match of a source; see [`crate::select::select`].
    Match(Match),
    /// A file whose content stands in the Dockerfile: 0644, root's.
    Inline {
        /// Its name, one component.
        name: String,
        /// The length of its content.
        size_bytes: u64,
    },
    /// An archive that ADD unpacks, in place of the match that is the archive.
    Archive(Archive),
}

/// What the flags of COPY and ADD say.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// `--chown`, resolved.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`. Not for links, and not for what comes out of archives.
    pub mode: Option<Chmod>,
    /// `--parents`: folders that exist keep their owners.
    pub parents: bool,
    /// The time of what has none: folders that are made, and inline files.
    pub made: Timestamp,
}

/// The merged list. Entries are made when they are asked for: the list itself takes eight bytes for each.
#[derive(Debug)]
pub struct Arrangement {
    parts: Vec<Part>,
    destination: TreePath,
    rules: Rules,
    /// The folders above all else that do not exist yet, the outermost first.
    made: Vec<Entry>,
    order: Vec<Place>,
    /// Names of [`Part::Match`] and [`Part::Inline`] files that go to the destination itself have an empty path.
    is_folder: bool,
    /// For a hard-link group whose first name is overwritten by a later source: the name that takes its place.
    promoted: HashMap<Place, u32>,
}

/// Which file of which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    part: u32,
    item: u32,
}

/// One file in its final place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// With its final path, owner and mode.
    pub entry: Entry,
    /// Where its content is.
    pub origin: Origin,
}

/// Where a placed file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A folder that is made on the way to the destination.
    Made,
    /// A file below the root from which the [`Part::Match`] was selected.
    Selected {
        /// Which part.
        part: usize,
        /// Which file of the match; for a hard link the group's first name.
        item: usize,
        /// Where the file is below the root.
        source: TreePath,
        /// What `statx` said of it.
        facts: Metadata,
    },
    /// The content of the [`Part::Inline`].
    Inline {
        /// Which part.
        part: usize,
    },
    /// An entry of the [`Part::Archive`].
    Archive {
        /// Which part.
        part: usize,
        /// Which entry; see [`Archive::content`].
        item: usize,
    },
}

/// Merges `parts`, in the order of their sources, for `destination`. No parts make an empty list: not even the destination is
/// made, as with BuildKit.
///
/// # Errors
/// A file over a folder and the other way round, be it that the sources clash with the destination or with one another.
pub fn arrange(parts: Vec<Part>, destination: &Destination, rules: &Rules) -> Result<Arrangement, Error> {
    let mut arrangement = Arrangement {
        parts,
        destination: destination.path.clone(),
        rules: rules.clone(),
        made: vec![],
        order: vec![],
        is_folder: false,
        promoted: HashMap::new(),
    };
    arrangement.make_folders(destination)?;
    let mut order = Vec::with_capacity(arrangement.parts.iter().map(Part::len).sum());
    for (part, items) in arrangement.parts.iter().map(Part::len).enumerate() {
        order.extend((0..items as u32).map(|item| Place { part: part as u32, item }));
    }
    if arrangement.parts.len() > 1 {
        order = merge::merge(&arrangement, order)?;
        arrangement.promoted = merge::promote(&arrangement, &order);
    }
    arrangement.order = order;
    Ok(arrangement)
}

/// The folders that a WORKDIR makes: the destination and what is missing above it, 0755 and the user's. None if it is there.
///
/// # Errors
/// A file in the way.
pub fn make_directory(
    destination: &Destination,
    owner: (u32, u32),
    made: Timestamp,
) -> Result<Vec<Entry>, Error> {
    match destination.existing {
        Some(FileKind::Directory) => Ok(vec![]),
        Some(_) => Err(Error::NotADirectory { path: shown(destination.path.as_bytes()) }),
        None => {
            let folders = missing_ancestors(destination).chain([destination.path.clone()]);
            Ok(folders.map(|path| folder(path, 0o755, owner, made)).collect())
        }
    }
}

fn missing_ancestors(destination: &Destination) -> impl Iterator<Item = TreePath> {
    let there = destination.path.ancestors().count().saturating_sub(destination.missing_ancestors);
    destination.path.ancestors().skip(there)
}

fn folder(path: TreePath, mode: u32, (uid, gid): (u32, u32), modified: Timestamp) -> Entry {
    Entry { path, kind: EntryKind::Directory, mode, uid, gid, modified, xattrs: BTreeMap::new() }
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Part::Match(found) => found.len(),
            Part::Inline { .. } => 1,
            Part::Archive(archive) => archive.len(),
        }
    }

    /// Whether what it brings goes into the destination, which is a folder then.
    fn is_folder(&self) -> bool {
        match self {
            Part::Match(found) => found.is_directory,
            Part::Inline { .. } => false,
            Part::Archive(_) => true,
        }
    }
}

impl Arrangement {
    /// The list in canonical order.
    pub fn items(&self) -> impl Iterator<Item = Placed> + '_ {
        let made = self.made.iter().map(|entry| Placed { entry: entry.clone(), origin: Origin::Made });
        made.chain(self.order.iter().map(|place| self.placed(*place)))
    }

    /// How many files the list has.
    pub fn len(&self) -> usize {
        self.made.len() + self.order.len()
    }

    /// Whether nothing is to be placed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The parts as they were given.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What [`crate::place::Placer`] is to do where something is in the way.
    pub fn conflicts(&self) -> Conflicts {
        match self.parts.iter().any(|part| matches!(part, Part::Archive(_))) {
            true => Conflicts::Replace,
            false if self.rules.parents => Conflicts::RefuseKeepingOwners,
            false => Conflicts::Refuse,
        }
    }

    /// The groups of hard links in the list, for [`crate::place::Placer::with_hard_links`].
    pub fn hard_links(&self) -> HardLinks {
        let mut groups = HardLinks::new();
        for place in &self.order {
            if let Some(first) = self.link_target(*place) {
                groups.entry(self.path(first)).or_default().push(self.path(*place));
            }
        }
        groups
    }

    /// Finds what is missing on the way, as each part in turn would find it.
    fn make_folders(&mut self, destination: &Destination) -> Result<(), Error> {
        let path = || shown(destination.path.as_bytes());
        let owner = self.rules.owner.unwrap_or((0, 0));
        let mut top = destination.existing;
        for part in &self.parts {
            let mode = match (&self.rules.mode, part) {
                (Some(chmod), Part::Match(_) | Part::Inline { .. }) => chmod.made_directory(),
                _ => 0o755,
            };
            let make = |path| folder(path, mode, owner, self.rules.made);
            if self.made.is_empty() && top.is_none() {
                self.made.extend(missing_ancestors(destination).map(make));
            }
            if !(part.is_folder() || destination.is_directory || top == Some(FileKind::Directory)) {
                top = Some(FileKind::File);
                continue;
            }
            match top {
                Some(FileKind::Directory) => {}
                Some(_) if part.is_folder() => return Err(Error::ReplacesFile { path: path() }),
                Some(_) => return Err(Error::NotADirectory { path: path() }),
                None => self.made.push(make(destination.path.clone())),
            }
            top = Some(FileKind::Directory);
        }
        self.is_folder = top == Some(FileKind::Directory);
        Ok(())
    }

    /// The path below the destination; empty for a file that becomes the destination.
    fn relative(&self, place: Place) -> &[u8] {
        match &self.parts[place.part as usize] {
            Part::Match(found) if found.is_directory => found.path(place.item as usize),
            Part::Match(found) if self.is_folder => &found.name,
            Part::Inline { name, .. } if self.is_folder => name.as_bytes(),
            Part::Match(_) | Part::Inline { .. } => b"",
            Part::Archive(archive) => archive.entry(place.item as usize).path.as_bytes(),
        }
    }

    fn path(&self, place: Place) -> TreePath {
        self.destination.join(self.relative(place))
    }

    fn is_directory(&self, place: Place) -> bool {
        match &self.parts[place.part as usize] {
            Part::Match(found) => found.kind(place.item as usize) == FileType::Directory,
            Part::Inline { .. } => false,
            Part::Archive(archive) => archive.entry(place.item as usize).kind == EntryKind::Directory,
        }
    }

    /// The first name of the group as its part has it, overwritten or not.
    fn first_name(&self, place: Place) -> Option<Place> {
        let item = match &self.parts[place.part as usize] {
            Part::Match(found) => found.link_of(place.item as usize),
            Part::Inline { .. } => None,
            Part::Archive(archive) => archive.link_of(place.item as usize),
        };
        item.map(|item| Place { part: place.part, item: item as u32 })
    }

    /// What a hard link in the list points to; `None` for everything else, and for a name that took the first one's place.
    fn link_target(&self, place: Place) -> Option<Place> {
        let first = self.first_name(place)?;
        match self.promoted.get(&first) {
            None => Some(first),
            Some(promoted) if *promoted == place.item => None,
            Some(promoted) => Some(Place { part: place.part, item: *promoted }),
        }
    }

    fn placed(&self, place: Place) -> Placed {
        // All names of a group are one file, so the first one's facts are right for the others.
        let source = self.first_name(place).unwrap_or(place);
        let (part, item) = (place.part as usize, source.item as usize);
        let (mut entry, origin) = match &self.parts[part] {
            Part::Match(found) => {
                let (source, facts) = (found.source(item), found.facts(item).clone());
                (found.entry(item), Origin::Selected { part, item, source, facts })
            }
            Part::Inline { size_bytes, .. } => (self.inline(*size_bytes), Origin::Inline { part }),
            Part::Archive(archive) => (archive.entry(item).clone(), Origin::Archive { part, item }),
        };
        entry.path = self.path(place);
        if let Some(target) = self.link_target(place) {
            entry.kind = EntryKind::HardLink { target: self.path(target) };
        }
        if let Some((uid, gid)) = self.rules.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        let is_symlink = matches!(entry.kind, EntryKind::Symlink { .. });
        if let Some(chmod) = &self.rules.mode
            && !is_symlink
            && !matches!(origin, Origin::Archive { .. })
        {
            entry.mode = chmod.apply(entry.mode, entry.kind == EntryKind::Directory);
        }
        Placed { entry, origin }
    }

    fn inline(&self, size_bytes: u64) -> Entry {
        Entry {
            path: TreePath::root(),
            kind: EntryKind::File { size_bytes },
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: self.rules.made,
            xattrs: BTreeMap::new(),
        }
    }
}
