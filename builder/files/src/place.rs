//! What is to be placed against what is there: only what is new or changed goes on, with the folders above it.

mod below;
mod resume;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};

use lithify_oci::{Content, Entry, EntryKind, EntrySink, Timestamp, TreePath};

pub use below::{Below, EmptyBelow, FolderBelow};

use crate::Error;
use crate::error::shown;

/// What happens where a file meets a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Conflicts {
    /// COPY: it is an error.
    Refuse,
    /// `COPY --parents`: it is an error, and folders that exist take the source's mode but keep their owner.
    RefuseKeepingOwners,
    /// Archives: what comes later replaces what is there.
    Replace,
}

/// The hard links of a stream: the first name of each group, and its other names.
pub type HardLinks = HashMap<TreePath, Vec<TreePath>>;

/// Takes the files to place in canonical order, and gives on the entries of the new layer, in canonical order too.
///
/// A folder above a changed file goes along once, as it is below. An entry that equals the one below in all but times is
/// dropped; contents are compared by their bytes. A folder that is missing on the way is made: 0755, root's.
pub struct Placer<'a> {
    below: &'a dyn Below,
    conflicts: Conflicts,
    out: &'a mut dyn EntrySink,
    /// The folders that the stream is in, the outermost first.
    folders: Vec<Folder>,
    /// `None`: the stream has not said.
    links: Option<HardLinks>,
    /// Files that were dropped and that hard links may yet point to.
    dropped: HashSet<TreePath>,
    /// For such a file that a new link points to after all: the name under which it is in the layer.
    relinked: HashMap<TreePath, TreePath>,
}

struct Folder {
    path: TreePath,
    /// Waits until something in it goes on.
    waiting: Option<Entry>,
    /// Whether it is there below, so that what is in it may be too.
    is_below: bool,
}

impl<'a> Placer<'a> {
    /// A placer on top of `below`, which must not change meanwhile.
    pub fn new(below: &'a dyn Below, conflicts: Conflicts, out: &'a mut dyn EntrySink) -> Self {
        let (folders, dropped, relinked) = (vec![], HashSet::new(), HashMap::new());
        Placer { below, conflicts, out, folders, links: None, dropped, relinked }
    }

    /// Says which hard links will come, so that a group goes on whole when any of its names is new or changed. Without
    /// this a new name of an unchanged file becomes a file of its own.
    pub fn with_hard_links(mut self, links: HardLinks) -> Self {
        self.links = Some(links);
        self
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// None at present: every entry goes on as it comes.
    pub fn finish(self) -> io::Result<()> {
        Ok(())
    }

    /// Makes `folders` those above `path`.
    fn enter(&mut self, path: &TreePath) -> io::Result<()> {
        while self.folders.last().is_some_and(|folder| folder.path == *path || !folder.path.contains(path)) {
            self.folders.pop();
        }
        let Some(parent) = path.parent() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root itself cannot be placed"));
        };
        let known = self.folders.len();
        if self.folders.last().map_or(parent.is_root(), |folder| folder.path == parent) {
            return Ok(());
        }
        let missing: Vec<TreePath> = path.ancestors().skip(known).collect();
        for ancestor in missing {
            let found = self.find(&ancestor)?;
            if found.as_ref().is_some_and(|found| found.kind != EntryKind::Directory) {
                return Err(Error::NotADirectory { path: shown(ancestor.as_bytes()) }.into());
            }
            let is_below = found.is_some();
            let waiting = Some(found.unwrap_or_else(|| implied_folder(&ancestor)));
            self.folders.push(Folder { path: ancestor, waiting, is_below });
        }
        Ok(())
    }

    /// What is below at a path whose folder is the innermost of `folders`.
    fn find(&self, path: &TreePath) -> io::Result<Option<Entry>> {
        match self.folders.last() {
            Some(folder) if !folder.is_below => Ok(None),
            _ => self.below.entry(path),
        }
    }

    fn emit(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        for folder in &mut self.folders {
            if let Some(waiting) = folder.waiting.take() {
                self.out.entry(&waiting, &mut lithify_oci::entry::NoContent)?;
            }
        }
        self.out.entry(entry, content)
    }

    fn folder(&mut self, entry: &Entry, found: Option<Entry>) -> io::Result<()> {
        let mut entry = entry.clone();
        let is_below = found.as_ref().is_some_and(|found| found.kind == EntryKind::Directory);
        if found.is_some() && !is_below && self.conflicts != Conflicts::Replace {
            return Err(Error::ReplacesFile { path: shown(entry.path.as_bytes()) }.into());
        }
        let path = entry.path.clone();
        let found = found.filter(|_| is_below);
        if let Some(found) = &found
            && self.conflicts == Conflicts::RefuseKeepingOwners
        {
            (entry.uid, entry.gid, entry.xattrs) = (found.uid, found.gid, found.xattrs.clone());
        }
        let waiting = found.filter(|found| equal_but_for_times(found, &entry));
        if waiting.is_none() {
            self.emit(&entry, &mut lithify_oci::entry::NoContent)?;
        }
        self.folders.push(Folder { path, waiting, is_below });
        Ok(())
    }

    fn file(&mut self, entry: &Entry, found: Option<Entry>, content: &mut dyn Content) -> io::Result<()> {
        let unchanged = found.is_some_and(|found| equal_but_for_times(&found, entry))
            && self.is_one_below(&entry.path)?;
        if !unchanged {
            return self.emit(entry, content);
        }
        if let EntryKind::File { size_bytes } = entry.kind
            && size_bytes > 0
        {
            let below = self.below;
            let open = || below.open(&entry.path);
            let mut content = content.open()?;
            if let Some(mut rest) = resume::compare(&mut *content, &open)? {
                return self.emit(entry, &mut rest);
            }
        }
        let may_be_linked = self.links.as_ref().is_none_or(|links| links.contains_key(&entry.path));
        if may_be_linked && matches!(entry.kind, EntryKind::File { .. }) {
            self.dropped.insert(entry.path.clone());
        }
        Ok(())
    }

    /// Whether the names that the stream will link to this file are all one file below.
    fn is_one_below(&self, path: &TreePath) -> io::Result<bool> {
        let names = self.links.as_ref().and_then(|links| links.get(path)).map_or(&[][..], Vec::as_slice);
        for name in names {
            if !self.below.is_one_file(path, name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn hard_link(&mut self, entry: &Entry, target: &TreePath) -> io::Result<()> {
        if !self.dropped.contains(target) {
            return self.emit(entry, &mut lithify_oci::entry::NoContent);
        }
        if self.below.is_one_file(target, &entry.path)? {
            return Ok(());
        }
        if let Some(target) = self.relinked.get(target) {
            let kind = EntryKind::HardLink { target: target.clone() };
            return self.emit(&Entry { kind, ..entry.clone() }, &mut lithify_oci::entry::NoContent);
        }
        let gone =
            || io::Error::new(io::ErrorKind::NotFound, format!("{target} changed while files were placed"));
        let kind = self.below.entry(target)?.ok_or_else(gone)?.kind;
        self.relinked.insert(target.clone(), entry.path.clone());
        let below = self.below;
        self.emit(&Entry { kind, ..entry.clone() }, &mut FromBelow { below, path: target })
    }
}

impl EntrySink for Placer<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        self.enter(&entry.path)?;
        let found = self.find(&entry.path)?;
        if entry.kind == EntryKind::Directory {
            return self.folder(entry, found);
        }
        let over_folder = found.as_ref().is_some_and(|found| found.kind == EntryKind::Directory);
        if over_folder && self.conflicts != Conflicts::Replace {
            return Err(Error::ReplacesDirectory { path: shown(entry.path.as_bytes()) }.into());
        }
        match &entry.kind {
            EntryKind::HardLink { target } => self.hard_link(entry, target),
            _ => self.file(entry, found, content),
        }
    }
}

/// The content of a file below.
struct FromBelow<'a> {
    below: &'a dyn Below,
    path: &'a TreePath,
}

impl Content for FromBelow<'_> {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        self.below.open(self.path)
    }
}

fn equal_but_for_times(left: &Entry, right: &Entry) -> bool {
    let facts = |entry: &Entry| (entry.mode, entry.uid, entry.gid);
    facts(left) == facts(right) && left.kind == right.kind && left.xattrs == right.xattrs
}

/// A folder that an archive names only in the paths of files.
fn implied_folder(path: &TreePath) -> Entry {
    Entry {
        path: path.clone(),
        kind: EntryKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: Timestamp::default(),
        xattrs: BTreeMap::new(),
    }
}
