//! The tree that files are placed on top of.

use std::cell::RefCell;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_linux::owner::Owners;
use lithify_linux::tree::{self, Metadata};
use lithify_oci::{Entry, TreePath};
use rustix::fs::{Mode, OFlags};

use crate::facts;
use crate::select::{TreeKind, entry_of, open_content};

/// A tree that can be asked about single paths. No component of a path that it is asked about is a symbolic link, but
/// for the last one.
pub trait Below {
    /// What is at the path; hard links as files. `None` if nothing is.
    ///
    /// # Errors
    /// What reading the tree says.
    fn entry(&self, path: &TreePath) -> io::Result<Option<Entry>>;

    /// The content of the file at the path.
    ///
    /// # Errors
    /// What opening it says.
    fn open(&self, path: &TreePath) -> io::Result<Box<dyn Read + '_>>;

    /// Whether two paths are names of one file.
    ///
    /// # Errors
    /// What reading the tree says.
    fn is_one_file(&self, one: &TreePath, other: &TreePath) -> io::Result<bool>;
}

/// A tree without files: scratch, and what `--link` copies onto.
pub struct EmptyBelow;

impl Below for EmptyBelow {
    fn entry(&self, _: &TreePath) -> io::Result<Option<Entry>> {
        Ok(None)
    }

    fn open(&self, path: &TreePath) -> io::Result<Box<dyn Read + '_>> {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("{path} is not in the empty tree")))
    }

    fn is_one_file(&self, _: &TreePath, _: &TreePath) -> io::Result<bool> {
        Ok(false)
    }
}

/// The tree below a folder.
pub struct FolderBelow<'a> {
    root: BorrowedFd<'a>,
    owners: Owners,
    /// The folder that was asked about last: streams ask about neighbours.
    last: RefCell<Option<(TreePath, OwnedFd)>>,
}

impl<'a> FolderBelow<'a> {
    /// The tree below the folder `root`.
    pub fn new(root: BorrowedFd<'a>, owners: Owners) -> Self {
        FolderBelow { root, owners, last: RefCell::new(None) }
    }

    /// Calls `look` with the folder that the path is in and its name there; `None` if either is not there.
    fn at<T>(
        &self,
        path: &TreePath,
        look: impl FnOnce(BorrowedFd<'_>, CString) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        let absent = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(error),
        };
        let parent = path.parent().unwrap_or_default();
        let mut last = self.last.borrow_mut();
        if !matches!(&*last, Some((known, _)) if *known == parent) {
            let flags = OFlags::DIRECTORY | OFlags::PATH;
            match tree::open_beneath(self.root, parent.as_bytes(), flags, Mode::empty()) {
                Ok(folder) => *last = Some((parent, folder)),
                Err(error) => return absent(error),
            }
        }
        let Some((_, folder)) = &*last else { return Ok(None) };
        let name = CString::new(path.file_name().unwrap_or(b"."))?;
        look(folder.as_fd(), name).map(Some).or_else(absent)
    }

    fn metadata(&self, path: &TreePath) -> io::Result<Option<Metadata>> {
        self.at(path, |folder, name| tree::metadata(folder, name.as_bytes()))
    }
}

impl Below for FolderBelow<'_> {
    fn entry(&self, path: &TreePath) -> io::Result<Option<Entry>> {
        self.at(path, |folder, name| {
            let facts = self.owners.metadata(folder, name.as_bytes())?;
            let extra = facts::extra(folder, &name, &facts, TreeKind::Image(self.owners))?;
            Ok(entry_of(path.clone(), &facts, extra.as_ref()))
        })
    }

    fn open(&self, path: &TreePath) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(open_content(self.root, path)?))
    }

    fn is_one_file(&self, one: &TreePath, other: &TreePath) -> io::Result<bool> {
        let key = |facts: Metadata| (facts.device, facts.inode);
        let (one, other) = (self.metadata(one)?.map(key), self.metadata(other)?.map(key));
        Ok(one.is_some() && one == other)
    }
}
