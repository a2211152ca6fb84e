//! The trees and cache mounts of a store, for who counts and removes them.
//!
//! They are kept apart by whose ids they hold. What this process may read it looks at itself; for what belongs to a range
//! of subordinate ids a worker is started, which is root there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, UNIX_EPOCH};

use lithify_cache::{Folder, FolderKind, Folders, Store};
use lithify_sandbox::Place;
use lithify_worker::space::{self, Found, FoundKind};
use lithify_worker::{Request, Response, Worker};

use crate::trees::tree_folder;

/// See the module.
pub struct TreeFolders<'a> {
    store: &'a Store,
    /// By the place that the trees are of.
    open: RefCell<BTreeMap<String, Access>>,
}

/// How the trees of one place are got at.
enum Access {
    Here(OwnedFd),
    Worker(Box<Worker>),
    /// Why they are not.
    Closed(String),
}

impl<'a> TreeFolders<'a> {
    /// Those of a store. Nothing is looked at yet.
    pub fn new(store: &'a Store) -> Self {
        TreeFolders { store, open: RefCell::default() }
    }

    /// The places whose trees could not be looked at, and why.
    pub fn closed(&self) -> Vec<(String, String)> {
        let open = self.open.borrow();
        let closed = open.iter().filter_map(|(place, access)| match access {
            Access::Closed(why) => Some((place.clone(), why.clone())),
            _ => None,
        });
        closed.collect()
    }

    fn places(&self) -> io::Result<Vec<String>> {
        let mut places = vec![];
        for entry in std::fs::read_dir(self.store.trees_root())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                places.extend(entry.file_name().into_string());
            }
        }
        places.sort();
        Ok(places)
    }

    fn with<T>(&self, place: &str, ask: impl FnOnce(&Access) -> io::Result<T>) -> io::Result<T> {
        let mut open = self.open.borrow_mut();
        ask(open.entry(place.to_owned()).or_insert_with(|| self.access(place)))
    }

    fn access(&self, place: &str) -> Access {
        use rustix::fs::{Mode, OFlags};
        let path = self.store.trees_root().join(place);
        let me = rustix::process::geteuid();
        // Of what is in a range, only the folder is the user's; the rest belongs to subordinate ids.
        let range = lithify_sandbox::id_map().map(Place::Range);
        // There, folders may be closed to the user, but not to root of the namespace.
        let single = lithify_sandbox::single_id().map(Place::Single);
        let known = [range.as_ref().ok(), single.as_ref().ok()];
        if let Some(known) = known.into_iter().flatten().find(|known| known.key() == place && !me.is_root()) {
            return match self.worker(known) {
                Ok(worker) => Access::Worker(Box::new(worker)),
                Err(why) => Access::Closed(why),
            };
        }
        let is_mine = rustix::fs::stat(&path).is_ok_and(|stat| me.is_root() || stat.st_uid == me.as_raw());
        if is_mine {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            return match rustix::fs::open(&path, flags, Mode::empty()) {
                Ok(folder) => Access::Here(folder),
                Err(error) => Access::Closed(error.to_string()),
            };
        }
        match range {
            Ok(_) => {
                Access::Closed("they belong to another range of subordinate ids than yours is now".into())
            }
            Err(error) => Access::Closed(error.to_string()),
        }
    }

    fn worker(&self, place: &Place) -> Result<Worker, String> {
        let folder = tree_folder(self.store.trees_root(), place).map_err(|error| error.to_string())?;
        // The copying snapshotter needs nothing of the kernel, and none is used.
        Worker::start(place, folder, Some(lithify_worker::Snapshotter::Copy))
            .map_err(|error| error.to_string())
    }
}

impl Access {
    fn look(&self) -> io::Result<Vec<Found>> {
        match self {
            Access::Here(folder) => space::look(folder.as_fd()),
            Access::Worker(worker) => match call(worker, &Request::Look)? {
                Response::Found(found) => Ok(found),
                other => Err(io::Error::other(lithify_worker::unexpected(&other))),
            },
            Access::Closed(_) => Ok(vec![]),
        }
    }

    fn discard(&self, names: Vec<(String, String)>) -> io::Result<()> {
        match self {
            Access::Here(folder) => space::discard(folder.as_fd(), &names),
            Access::Worker(worker) => call(worker, &Request::Discard(names)).map(drop),
            Access::Closed(_) => Ok(()),
        }
    }

    fn sweep(&self) -> io::Result<()> {
        match self {
            Access::Here(folder) => space::sweep(folder.as_fd()),
            Access::Worker(worker) => call(worker, &Request::Sweep).map(drop),
            Access::Closed(_) => Ok(()),
        }
    }
}

fn call(worker: &Worker, request: &Request) -> io::Result<Response> {
    worker.call(request, &[]).map_err(io::Error::other)
}

impl Folders for TreeFolders<'_> {
    fn list(&self) -> io::Result<Vec<Folder>> {
        let mut folders = vec![];
        for place in self.places()? {
            for found in self.with(&place, Access::look)? {
                folders.push(Folder {
                    kind: match found.kind {
                        FoundKind::Tree => FolderKind::Tree,
                        FoundKind::Mount => FolderKind::Mount,
                        FoundKind::Leftover => FolderKind::Leftover,
                    },
                    place: format!("{place}/{}", found.folder),
                    name: found.name,
                    disk_bytes: found.disk_bytes,
                    last_used: UNIX_EPOCH
                        + Duration::from_secs(u64::try_from(found.last_used_seconds).unwrap_or(0)),
                });
            }
        }
        Ok(folders)
    }

    fn discard(&self, folders: &[Folder]) -> io::Result<()> {
        let mut names: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
        for folder in folders {
            let (place, inner) = folder.place.split_once('/').unwrap_or((&folder.place, ""));
            names.entry(place).or_default().push((inner.to_owned(), folder.name.clone()));
        }
        names.into_iter().try_for_each(|(place, names)| self.with(place, |access| access.discard(names)))
    }

    fn sweep(&self) -> io::Result<()> {
        self.open.borrow().values().try_for_each(Access::sweep)
    }
}
