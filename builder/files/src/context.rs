//! A whole context as a stream: what a bind mount of it shows, and what an export of it holds.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use lithify_linux::tree::Metadata;
use lithify_oci::entry::NoContent;
use lithify_oci::{Content, Entry, EntryKind, EntrySink, TreePath};

use crate::Error;
use crate::ignore::Ignore;
use crate::select::{self, Match, Options, TreeKind, open_content};

/// Finds everything in the context below `root` that the ignore file leaves, with root as the owner.
///
/// # Errors
/// What cannot be read.
pub fn scan(root: BorrowedFd<'_>, ignore: &Ignore) -> Result<Match, Error> {
    let options = Options { ignore: Some(ignore), exclude: None, parents: false, tree: TreeKind::Context };
    let mut found = select::select(root, b"/", &options)?;
    found.pop().ok_or(Error::NotFound { path: "/".to_owned(), hint: crate::Hint::None })
}

/// Streams a scanned context with its contents; `facts` hears of every entry before it goes to `sink`.
///
/// # Errors
/// A file that cannot be read, and what the sink says.
pub fn stream(
    root: BorrowedFd<'_>,
    scanned: &Match,
    facts: &mut dyn FnMut(&Entry, &Metadata),
    sink: &mut dyn EntrySink,
) -> io::Result<()> {
    for selected in scanned.entries() {
        facts(&selected.entry, &selected.facts);
        match selected.entry.kind {
            EntryKind::File { .. } => {
                let mut content = FileContent::new(root, selected.source);
                sink.entry(&selected.entry, &mut content)?;
            }
            _ => sink.entry(&selected.entry, &mut NoContent)?,
        }
    }
    Ok(())
}

/// The content of a selected file, opened when it is wanted.
pub struct FileContent<'a> {
    root: BorrowedFd<'a>,
    source: TreePath,
}

impl<'a> FileContent<'a> {
    /// The content of the regular file `source` below `root`.
    pub fn new(root: BorrowedFd<'a>, source: TreePath) -> Self {
        FileContent { root, source }
    }

    /// Opens the file.
    ///
    /// # Errors
    /// As [`open_content`], with the path.
    pub fn file(&self) -> io::Result<File> {
        open_content(self.root, &self.source)
            .map_err(|error| Error::read(self.source.as_bytes(), error).into())
    }
}

impl Content for FileContent<'_> {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.file()?))
    }
}
