//! Compiled Python (PEP 3147, PEP 552). A `.pyc` holds the time of its source, and Python compiles anew where that is not the
//! time which the source has. In a layer files have other times than in the tree, so what the header says is changed
//! along; the catalogue remembers what it was, for the tree.

use std::io::{self, Read};

use crate::{Content, Entry, EntryKind, TreePath};

/// Magic number, flags, time and size of the source: four little-endian numbers of four bytes.
pub(super) const HEADER_BYTES: usize = 16;
const TIME_AT: usize = 8;

/// A `.pyc` that is found current by the time of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The time of its source, in seconds since 1970, as the header in the tree says.
    pub source_seconds: u32,
    /// What the header in the layer says.
    pub in_layer: InLayer,
}

/// Which time the header of a `.pyc` in a layer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InLayer {
    /// The same as in the tree.
    AsInTree,
    /// The one that its source has in the layer.
    AsSource,
}

impl Compiled {
    /// What the first bytes of a `.pyc` say; `None` where it holds a hash of its source, or is none.
    pub(super) fn of_header(header: &[u8]) -> Option<Self> {
        let header = header.first_chunk::<HEADER_BYTES>()?;
        // The magic number ends so in all versions, so that no transfer as a text goes unnoticed.
        let is_by_time = header[2..4] == *b"\r\n" && header[4..8] == [0; 4];
        let time = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        is_by_time.then_some(Compiled { source_seconds: time, in_layer: InLayer::AsInTree })
    }
}

/// Where the source of a compiled file is: `NAME.py` beside the `__pycache__` that has `NAME.TAG.pyc` or
/// `NAME.TAG.opt-LEVEL.pyc`. `None` for all other entries.
pub fn source_of(entry: &Entry) -> Option<TreePath> {
    let EntryKind::File { size_bytes } = entry.kind else { return None };
    if size_bytes < HEADER_BYTES as u64 || !entry.path.as_bytes().ends_with(b".pyc") {
        return None;
    }
    let folder = entry.path.parent()?;
    if folder.file_name() != Some(b"__pycache__") {
        return None;
    }
    let parts: Vec<&[u8]> = entry.path.file_name()?.split(|byte| *byte == b'.').collect();
    match parts[..] {
        [name, _, b"pyc"] | [name, _, _, b"pyc"] if !name.is_empty() => {
            Some(folder.parent()?.join([name, b".py"].concat()))
        }
        _ => None,
    }
}

/// The content of a `.pyc` whose header says another time.
pub struct Mended<'a> {
    /// The content as it is.
    pub content: &'a mut dyn Content,
    /// The time that the header is to say, in seconds since 1970.
    pub source_seconds: u32,
}

impl Content for Mended<'_> {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        let mut reader = self.content.open()?;
        let mut header = vec![];
        (&mut reader).take(HEADER_BYTES as u64).read_to_end(&mut header)?;
        if let Some(time) = header.get_mut(TIME_AT..TIME_AT + 4) {
            time.copy_from_slice(&self.source_seconds.to_le_bytes());
        }
        Ok(Box::new(io::Cursor::new(header).chain(reader)))
    }
}
