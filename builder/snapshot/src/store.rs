//! The folder for trees: one folder for each tree, named by its chain id, and temporary ones while they are made.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lithify_linux::tree;
use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::node::open_folder;
use crate::remove::remove_tree;
use crate::{ChainId, Error};

const TEMPORARY: &[u8] = b"tmp.";
/// The empty file beside a tree that may hold something special (see [`crate::node::is_special`]).
const SPECIAL: &str = "special";

/// The folder of one snapshotter inside the folder for trees.
#[derive(Clone)]
pub(crate) struct Store {
    folder: Arc<OwnedFd>,
}

impl Store {
    /// Opens the folder `name`, made where it is not there.
    pub(crate) fn open(trees: BorrowedFd<'_>, name: &'static str) -> Result<Self, Error> {
        make_folder(trees, name)?;
        let folder = open_folder(trees, name.as_bytes()).map_err(failed("open", name))?;
        Ok(Store { folder: Arc::new(folder) })
    }

    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Makes a folder that is to stay.
    pub(crate) fn make(&self, name: &str) -> Result<(), Error> {
        make_folder(self.folder(), name)
    }

    pub(crate) fn has(&self, chain: ChainId) -> io::Result<bool> {
        match tree::metadata(self.folder(), chain.digest().hex()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a tree was marked as special.
    pub(crate) fn is_special(&self, chain: ChainId) -> bool {
        tree::metadata(self.folder(), format!("{}/{SPECIAL}", chain.digest().hex())).is_ok()
    }

    /// Opens a tree's folder.
    pub(crate) fn tree(&self, chain: ChainId) -> Result<OwnedFd, Error> {
        let name = chain.digest().hex();
        open_folder(self.folder(), name.as_bytes()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing { chain },
            _ => failed("open", &name)(error),
        })
    }

    /// A new folder that goes away again unless it becomes a tree.
    pub(crate) fn temporary(&self) -> Result<Temporary, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("tmp.{}.{count}", std::process::id());
            match rustix::fs::mkdirat(self.folder(), &name, Mode::RWXU) {
                // Left by a process that had this number, or one that has it in another namespace.
                Err(Errno::EXIST) => continue,
                other => other.map_err(|error| failed("make", &name)(error.into()))?,
            }
            // A sweep may have taken the folder for a dead process's before it was locked.
            if let Some(temporary) = self.try_hold(name)? {
                return Ok(temporary);
            }
        }
    }

    /// Takes a tree out, to be changed; it goes away unless it becomes a tree again.
    pub(crate) fn take(&self, chain: ChainId) -> Result<Temporary, Error> {
        let temporary = self.temporary()?;
        let name = chain.digest().hex();
        let folder = self.folder();
        let renamed =
            rustix::fs::renameat_with(folder, &name, folder, &temporary.name, RenameFlags::EXCHANGE);
        match renamed {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(Error::Missing { chain }),
            Err(error) => return Err(failed("move", &name)(error.into())),
        }
        // The empty folder has the tree's name now.
        rustix::fs::unlinkat(folder, &name, rustix::fs::AtFlags::REMOVEDIR)
            .map_err(|error| failed("remove", &name)(error.into()))?;
        let mut temporary = temporary;
        let taken = std::mem::take(&mut temporary.name);
        self.hold(taken)
    }

    fn hold(&self, name: String) -> Result<Temporary, Error> {
        let swept = || failed("lock", &name)(Errno::NOENT.into());
        self.try_hold(name.clone())?.ok_or_else(swept)
    }

    /// Locks a folder, which tells a sweep that somebody works there; `None` where a sweep was faster.
    fn try_hold(&self, name: String) -> Result<Option<Temporary>, Error> {
        let folder = match open_folder(self.folder(), name.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed("open", &name))?,
        };
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other.map_err(|error| failed("lock", &name)(error.into()))?,
        }
        let links =
            rustix::fs::fstat(&folder).map_err(|error| failed("look at", &name)(error.into()))?.st_nlink;
        Ok((links > 0).then(|| Temporary { store: self.clone(), name, folder }))
    }

    pub(crate) fn rename(&self, from: ChainId, to: ChainId) -> Result<(), Error> {
        match self.take(from) {
            Err(Error::Missing { .. }) => Ok(()),
            other => other?.publish(to),
        }
    }

    pub(crate) fn remove(&self, chain: ChainId) -> Result<(), Error> {
        match self.take(chain) {
            Err(Error::Missing { .. }) => Ok(()),
            other => other?.remove(),
        }
    }

    pub(crate) fn sweep(&self) -> Result<(), Error> {
        let names = tree::names(self.folder()).map_err(failed("list", "."))?;
        for name in names.iter().filter(|name| name.to_bytes().starts_with(TEMPORARY)) {
            let Ok(folder) = open_folder(self.folder(), name.to_bytes()) else { continue };
            if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let text = name.to_string_lossy();
                remove_tree(self.folder(), name.to_bytes()).map_err(failed("remove", &text))?;
            }
        }
        Ok(())
    }
}

/// A folder that is being worked on; dropped, it is removed.
pub(crate) struct Temporary {
    store: Store,
    name: String,
    folder: OwnedFd,
}

impl Temporary {
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The name of a folder in it, from the store's folder.
    pub(crate) fn relative(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// Makes a folder in it and opens that.
    pub(crate) fn make(&self, name: &'static str) -> Result<OwnedFd, Error> {
        make_folder(self.folder(), name)?;
        open_folder(self.folder(), name.as_bytes()).map_err(failed("open", name))
    }

    /// Marks it as special.
    pub(crate) fn mark_special(&self) -> Result<(), Error> {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let marked = rustix::fs::openat(&self.folder, SPECIAL, flags, Mode::RUSR | Mode::WUSR);
        marked.map(drop).map_err(|error| failed("make", SPECIAL)(error.into()))
    }

    pub(crate) fn is_special(&self) -> bool {
        tree::metadata(&self.folder, SPECIAL).is_ok()
    }

    /// Gives it its name as a tree. Where there is one already, that one stays and this one is removed.
    pub(crate) fn publish(mut self, chain: ChainId) -> Result<(), Error> {
        let folder = self.store.folder();
        let name = chain.digest().hex();
        match rustix::fs::renameat_with(folder, &self.name, folder, &name, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.name.clear();
                Ok(())
            }
            Err(Errno::EXIST) => self.remove(),
            Err(error) => Err(failed("name", &name)(error.into())),
        }
    }

    fn remove(mut self) -> Result<(), Error> {
        let name = std::mem::take(&mut self.name);
        remove_tree(self.store.folder(), name.as_bytes()).map_err(failed("remove", &name))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // What cannot be removed now is left to a sweep.
            let _ = remove_tree(self.store.folder(), self.name.as_bytes());
        }
    }
}

fn make_folder(folder: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    match rustix::fs::mkdirat(folder, name, Mode::from(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other.map_err(|error| failed("make", name)(error.into())),
    }
}

pub(crate) fn failed(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Store { action, name: name.to_owned(), source }
}
