//! The tree that layers make, put together from the layers themselves: whiteouts are applied, no tree is unpacked and no
//! privilege is needed.
//!
//! Memory holds a few words for each file, never contents: those go, uncompressed, to unlinked temporary files.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use lithify_oci::entry::NoContent;
use lithify_oci::layer::{Limits, read_tar};
use lithify_oci::{Content, Entry, EntryKind, EntrySink, Timestamp, TreePath};

/// How many links a path may lead through, as in Linux.
const MAX_LINKS: usize = 40;

/// A tree in the making: add its layers, the lowest first.
#[derive(Debug, Default)]
pub struct Flattened {
    names: BTreeMap<TreePath, Name>,
    files: Vec<Node>,
    spools: Vec<Spool>,
}

/// One name of a file.
#[derive(Clone, Copy, Debug)]
struct Name {
    file: u32,
    /// The layer that brought the name: its own whiteouts do not reach it (layer.md, "Whiteouts").
    layer: u32,
}

/// All that is known of a file but its names.
#[derive(Debug)]
struct Node {
    kind: EntryKind,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: Timestamp,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    place: Place,
    names: u32,
}

/// Where a content is.
#[derive(Clone, Copy, Debug)]
struct Place {
    spool: u32,
    offset_bytes: u64,
}

/// Contents in a temporary file, holes as holes.
#[derive(Debug)]
struct Spool {
    file: File,
    length_bytes: u64,
}

impl Flattened {
    /// No files yet.
    pub fn new() -> Self {
        Flattened::default()
    }

    /// Adds a layer: its plain archive. `times` gives the real time of each of its entries, in order, where they are known.
    /// Contents are kept in an unlinked file in the folder `temporary`.
    ///
    /// # Errors
    /// An archive that is malformed, failures to read it and to write the temporary file.
    pub fn add(
        &mut self,
        archive: impl Read,
        times: Option<&mut dyn Iterator<Item = io::Result<(TreePath, Timestamp)>>>,
        temporary: &Path,
    ) -> io::Result<()> {
        let mut spool = Spool { file: tempfile::tempfile_in(temporary)?, length_bytes: 0 };
        let expanded = Spool { file: tempfile::tempfile_in(temporary)?, length_bytes: 0 };
        // Places of the archive's own bytes are in the first, of expanded sparse files in the second.
        let first = self.spools.len() as u32;
        let mut adding = Adding { tree: self, layer: first, times, expanded };
        read_tar(Tee { archive, spool: &mut spool }, &mut adding, Limits::default())?;
        let expanded = adding.expanded;
        spool.close()?;
        expanded.close()?;
        self.spools.extend([spool, expanded]);
        Ok(())
    }

    /// How many names it has.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Gives every file to `sink`, in canonical order.
    ///
    /// # Errors
    /// Failures to read the temporary files, and of the sink.
    pub fn stream(&self, sink: &mut dyn EntrySink) -> io::Result<()> {
        let mut first_names: HashMap<u32, &TreePath> = HashMap::new();
        for (path, name) in &self.names {
            let node = &self.files[name.file as usize];
            let kind = match first_names.get(&name.file) {
                Some(first) => EntryKind::HardLink { target: (*first).clone() },
                None => node.kind.clone(),
            };
            if node.names > 1 {
                first_names.entry(name.file).or_insert(path);
            }
            let (mode, uid, gid, modified) = (node.mode, node.uid, node.gid, node.modified);
            let entry =
                Entry { path: path.clone(), kind, mode, uid, gid, modified, xattrs: node.xattrs.clone() };
            match entry.kind {
                EntryKind::File { size_bytes } => {
                    let spool = &self.spools[node.place.spool as usize].file;
                    sink.entry(
                        &entry,
                        &mut Piece { spool, position: node.place.offset_bytes, left: size_bytes },
                    )?;
                }
                _ => sink.entry(&entry, &mut NoContent)?,
            }
        }
        Ok(())
    }

    fn node(&self, path: &TreePath) -> Option<&Node> {
        self.names.get(path).map(|name| &self.files[name.file as usize])
    }

    /// The folder that a path is in, links followed inside the tree; folders that are missing are made.
    fn folder_of(&mut self, path: &TreePath, layer: u32) -> io::Result<TreePath> {
        let mut pending: Vec<Vec<u8>> = path.components().rev().skip(1).map(<[u8]>::to_vec).collect();
        let (mut folder, mut followed) = (TreePath::root(), 0);
        while let Some(component) = pending.pop() {
            if component == b".." {
                folder = folder.parent().unwrap_or_default();
                continue;
            }
            let next = folder.join(&component);
            let target = match self.node(&next).map(|node| &node.kind) {
                Some(EntryKind::Directory) => {
                    folder = next;
                    continue;
                }
                Some(EntryKind::Symlink { target }) => target.clone(),
                None => {
                    self.put(next.clone(), implied_folder(), layer);
                    folder = next;
                    continue;
                }
                Some(_) => return Err(damaged(format!("{next} is no folder, but {path} lies in it"))),
            };
            followed += 1;
            if followed > MAX_LINKS {
                return Err(damaged(format!("{path}: too many symbolic links")));
            }
            if target.starts_with(b"/") {
                folder = TreePath::root();
            }
            let components = target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
            pending.extend(components.rev().map(<[u8]>::to_vec));
        }
        Ok(folder)
    }

    fn put(&mut self, path: TreePath, node: Node, layer: u32) {
        self.files.push(Node { names: 0, ..node });
        self.name(path, (self.files.len() - 1) as u32, layer);
    }

    /// Gives a file a name, which it takes from whoever had it.
    fn name(&mut self, path: TreePath, file: u32, layer: u32) {
        let is_folder = |file: u32| self.files[file as usize].kind == EntryKind::Directory;
        if self.names.get(&path).is_some_and(|there| is_folder(there.file)) && !is_folder(file) {
            self.remove_below(&path, None);
        }
        self.files[file as usize].names += 1;
        if let Some(before) = self.names.insert(path, Name { file, layer }) {
            self.files[before.file as usize].names -= 1;
        }
    }

    /// Takes away all that is below a path, but for what `layer` brought.
    fn remove_below(&mut self, path: &TreePath, layer: Option<u32>) {
        let below = self.names.range(path..).skip_while(|(there, _)| *there == path);
        let below = below.take_while(|(there, _)| path.contains(there));
        let gone = below.filter(|(_, name)| Some(name.layer) != layer).map(|(there, _)| there.clone());
        for there in gone.collect::<Vec<_>>() {
            self.remove(&there);
        }
    }

    fn remove(&mut self, path: &TreePath) {
        if let Some(name) = self.names.remove(path) {
            self.files[name.file as usize].names -= 1;
        }
    }
}

/// Takes the entries of one layer.
struct Adding<'a, 'b> {
    tree: &'a mut Flattened,
    layer: u32,
    times: Option<&'b mut dyn Iterator<Item = io::Result<(TreePath, Timestamp)>>>,
    expanded: Spool,
}

impl EntrySink for Adding<'_, '_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let mut modified = entry.modified;
        if let Some(times) = &mut self.times {
            match times.next().transpose()? {
                Some((path, time)) if path == entry.path => modified = time,
                _ => return Err(damaged(format!("its catalogue does not have {}", entry.path))),
            }
        }
        let Some(name) = entry.path.file_name() else { return Ok(()) };
        let layer = self.layer;
        let path = self.tree.folder_of(&entry.path, layer)?.join(name);
        let place = match &entry.kind {
            EntryKind::Whiteout => {
                self.tree.remove_below(&path, Some(layer));
                if self.tree.names.get(&path).is_some_and(|name| name.layer != layer) {
                    self.tree.remove(&path);
                }
                return Ok(());
            }
            EntryKind::Opaque => {
                self.tree.remove_below(&path, Some(layer));
                return Ok(());
            }
            EntryKind::HardLink { target } => {
                let first = target.file_name().unwrap_or_default();
                let first = self.tree.folder_of(target, layer)?.join(first);
                let Some(name) = self.tree.names.get(&first).copied() else {
                    return Err(damaged(format!("{path} is a hard link to {target}, which is not there")));
                };
                if path != first {
                    self.tree.name(path, name.file, layer);
                }
                return Ok(());
            }
            EntryKind::File { size_bytes } => match content.position() {
                Some(offset_bytes) => Place { spool: layer, offset_bytes },
                None => {
                    let offset_bytes = self.expanded.length_bytes;
                    io::copy(&mut content.open()?.take(*size_bytes), &mut self.expanded)?;
                    Place { spool: layer + 1, offset_bytes }
                }
            },
            _ => Place { spool: layer, offset_bytes: 0 },
        };
        let Entry { kind, mode, uid, gid, xattrs, .. } = entry.clone();
        self.tree.put(path, Node { kind, mode, uid, gid, modified, xattrs, place, names: 0 }, layer);
        Ok(())
    }
}

/// A folder that no entry makes (what tar does).
fn implied_folder() -> Node {
    Node {
        kind: EntryKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: Timestamp::default(),
        xattrs: BTreeMap::new(),
        place: Place { spool: 0, offset_bytes: 0 },
        names: 0,
    }
}

fn damaged(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the layer cannot be applied: {problem}"))
}

/// Keeps what is read.
struct Tee<'a, R> {
    archive: R,
    spool: &'a mut Spool,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(buffer)?;
        self.spool.write_all(&buffer[..read])?;
        Ok(read)
    }
}

impl Spool {
    fn close(&self) -> io::Result<()> {
        self.file.set_len(self.length_bytes)
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.iter().any(|byte| *byte != 0) {
            self.file.seek(SeekFrom::Start(self.length_bytes))?;
            self.file.write_all(bytes)?;
        }
        self.length_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A content in a spool.
struct Piece<'a> {
    spool: &'a File,
    position: u64,
    left: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.spool.read_at(&mut buffer[..wanted], self.position)?;
        self.position += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Content for Piece<'_> {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self))
    }
}
