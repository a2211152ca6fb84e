//! What the folder for trees holds, and how it is got rid of.
//!
//! Works on a descriptor of the folder alone: inside the worker, and outside of it for whoever may read the folder there.
//! Nothing here follows a link.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use lithify_linux::tree;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The folders that snapshotters keep trees in.
const TREES: [&str; 2] = ["overlay", "copy"];
/// The folder of cache mounts.
pub const CACHE_MOUNTS: &str = "cache-mounts";
/// Folders of what lasts no longer than the step that it is for.
const SCRATCH: [&str; 2] = ["held", "copies"];
/// How names of folders begin that are being made or removed.
const TEMPORARY: &[u8] = b"tmp.";
/// How names of sockets of ssh agents begin.
const AGENT: &[u8] = b"agent.";
/// How old a mark of use must be to be renewed, in seconds.
const MARK_SECONDS: i64 = 60;

/// What a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FoundKind {
    /// The tree of a chain of layers.
    Tree,
    /// A cache mount.
    Mount,
    /// What a killed process left behind.
    Leftover,
}

/// A folder that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What it is.
    pub kind: FoundKind,
    /// The folder that it is in, below the folder for trees.
    pub folder: String,
    /// Its name there.
    pub name: String,
    /// What it takes on disk.
    pub disk_bytes: u64,
    /// When it was made or used last, in seconds since 1970.
    pub last_used_seconds: i64,
}

/// Everything in the folder for trees but what a process is at work on.
///
/// # Errors
/// A folder that cannot be read.
pub fn look(trees: BorrowedFd<'_>) -> io::Result<Vec<Found>> {
    let mut found = vec![];
    // A file with several names is counted where it is met first.
    let mut seen = HashSet::new();
    for (folder, kind) in TREES
        .into_iter()
        .map(|name| (name, FoundKind::Tree))
        .chain([(CACHE_MOUNTS, FoundKind::Mount)])
        .chain(SCRATCH.map(|name| (name, FoundKind::Leftover)))
    {
        let Some(open) = open(trees, folder.as_bytes())? else { continue };
        for name in tree::names(open.as_fd())? {
            let kind = match kind_of(kind, name.to_bytes()) {
                Some(FoundKind::Leftover) if left(&open, &name)?.is_none() => continue,
                Some(kind) => kind,
                None => continue,
            };
            // What was removed meanwhile is not there.
            let Ok(stat) = rustix::fs::statat(&open, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            found.push(Found {
                kind,
                folder: folder.to_owned(),
                name: name.to_string_lossy().into_owned(),
                disk_bytes: disk_bytes(open.as_fd(), &name, &mut seen)?,
                last_used_seconds: stat.st_mtime,
            });
        }
    }
    Ok(found)
}

/// What a name means in a folder whose folders are of `kind`.
fn kind_of(kind: FoundKind, name: &[u8]) -> Option<FoundKind> {
    let is_hex = |name: &[u8]| name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit);
    match kind {
        _ if name.starts_with(TEMPORARY) => Some(FoundKind::Leftover),
        FoundKind::Leftover => Some(FoundKind::Leftover),
        FoundKind::Tree => is_hex(name).then_some(kind),
        FoundKind::Mount if name.starts_with(AGENT) => Some(FoundKind::Leftover),
        FoundKind::Mount => {
            name.get(..64).is_some_and(is_hex).then_some(kind).filter(|_| !name.ends_with(b".lock"))
        }
    }
}

/// That nobody is at work in a folder or behind a socket, as long as this lives.
struct Left(#[expect(dead_code, reason = "held for its lock")] Option<OwnedFd>);

fn left(folder: &OwnedFd, name: &CStr) -> io::Result<Option<Left>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(open) => {
            let is_free = rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive).is_ok();
            Ok(is_free.then_some(Left(Some(open))))
        }
        Err(Errno::NOTDIR) if name.to_bytes().starts_with(AGENT) => {
            let path = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), name.to_string_lossy());
            let refused = std::os::unix::net::UnixStream::connect(path).err();
            let is_refused = refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            Ok(is_refused.then_some(Left(None)))
        }
        // A file that stands in place of a folder is nobody's.
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(Some(Left(None))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn disk_bytes(folder: BorrowedFd<'_>, name: &CStr, seen: &mut HashSet<(u64, u64)>) -> io::Result<u64> {
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(0),
        other => other?,
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_counted =
        kind != FileType::Directory && stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino));
    let mut bytes = if is_counted { 0 } else { stat.st_blocks as u64 * 512 };
    if kind == FileType::Directory
        && let Some(below) = open(folder, name.to_bytes())?
    {
        for name in tree::names(below.as_fd())? {
            bytes += disk_bytes(below.as_fd(), &name, seen)?;
        }
    }
    Ok(bytes)
}

/// Opens a folder; `None` where it is not there.
fn open(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(open) => Ok(Some(open)),
        Err(Errno::NOENT) => Ok(None),
        // In the worker nothing is closed to its root; elsewhere a cache mount may be closed to its owner.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            Ok(Some(rustix::fs::openat(folder, name, flags, Mode::empty())?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives folders names under which nobody looks for them, at once; [`sweep`] removes them. One that is gone is no error.
///
/// # Errors
/// A folder that cannot be renamed; those before it are.
pub fn discard(trees: BorrowedFd<'_>, found: &[(String, String)]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    for (folder, name) in found {
        let is_plain = |name: &str| !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        if !is_plain(folder) || !is_plain(name) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{folder}/{name} is no name of a tree"),
            ));
        }
        let Some(open) = open(trees, folder.as_bytes())? else { continue };
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let gone = format!("tmp.gone.{}.{}.{}.{count}", std::process::id(), now.tv_sec, now.tv_nsec);
        match rustix::fs::renameat(&open, name.as_str(), &open, &gone) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Removes what was discarded, and what killed processes left behind.
///
/// # Errors
/// The first failure; all else is removed before it is told.
pub fn sweep(trees: BorrowedFd<'_>) -> io::Result<()> {
    let mut result = Ok(());
    for (folder, is_scratch) in TREES
        .map(|name| (name, false))
        .into_iter()
        .chain([(CACHE_MOUNTS, false)])
        .chain(SCRATCH.map(|name| (name, true)))
    {
        let Some(open) = open(trees, folder.as_bytes())? else { continue };
        for name in tree::names(open.as_fd())? {
            let bytes = name.to_bytes();
            let is_ours = is_scratch
                || bytes.starts_with(TEMPORARY)
                || (folder == CACHE_MOUNTS && bytes.starts_with(AGENT));
            // Held while it is removed: whoever has made a folder locks it next, and sees then that it is gone.
            let held = if is_ours { left(&open, &name)? } else { None };
            if held.is_some() {
                let removed = lithify_snapshot::remove_tree(open.as_fd(), bytes);
                result = result.and(removed);
            }
        }
    }
    result
}

/// Notes that a tree is used now.
pub(crate) fn mark_used(trees: BorrowedFd<'_>, chain_id_hex: &str) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    for folder in TREES {
        let Ok(Some(open)) = open(trees, folder.as_bytes()) else { continue };
        let is_old = rustix::fs::statat(&open, chain_id_hex, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_mtime < now.tv_sec - MARK_SECONDS);
        if is_old {
            let now = Timespec { tv_sec: now.tv_sec, tv_nsec: now.tv_nsec };
            let times = Timestamps { last_access: now, last_modification: now };
            // It may go sooner than it should, and is unpacked again then.
            let _ = rustix::fs::utimensat(&open, chain_id_hex, &times, AtFlags::SYMLINK_NOFOLLOW);
        }
    }
}
