//! Things put into a tree for the time of a step, where they cannot be mounted.
//!
//! What is at the place is put aside first, and everything is put back in the opposite order when no process of the step is
//! left: the tree then holds still, and is reached by descriptors that were opened before it was anybody else's.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use lithify_linux::tree::{self, Metadata};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::created::remove_created;
use crate::init::target::{self, Spot};
use crate::{Error, MountSource, MountSpec, Process};

/// The device files of every container: the OCI runtime specification, config-linux.md, "Default Devices".
const DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// The links beside them: as above, "Dev symbolic links". They lead nowhere without /proc, and say so to who uses them.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// A folder to put things aside in, which is removed with all that is in it.
pub(super) struct Held {
    parent: OwnedFd,
    name: String,
    folder: OwnedFd,
}

impl Held {
    pub(super) fn make(parent: BorrowedFd<'_>, name: &str) -> io::Result<Held> {
        let parent = rustix::io::fcntl_dupfd_cloexec(parent, 0)?;
        rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        // Tells who removes what killed processes left that somebody is at work here.
        rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockShared)?;
        Ok(Held { parent, name: name.to_owned(), folder })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What cannot be removed now stays; nobody looks at it again.
        let _ = std::fs::remove_dir_all(below(&self.parent, &self.name));
    }
}

/// A path to `name` in a folder that may be unreachable by its own path.
fn below(folder: &OwnedFd, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())
}

/// All that covers something in one tree.
pub(super) struct Covers<'a> {
    root: BorrowedFd<'a>,
    held: Held,
    count: usize,
    list: Vec<Cover>,
    created: Vec<Vec<u8>>,
}

struct Cover {
    target: String,
    /// Below the root, where links have led to.
    path: Vec<u8>,
    parent: OwnedFd,
    name: Vec<u8>,
    /// What was put there, `O_PATH`.
    ours: OwnedFd,
    /// Where that came from, and goes back to; it is thrown away otherwise.
    home: Option<(OwnedFd, String)>,
    /// The name that what was there before has among the things put aside.
    aside: Option<String>,
    /// When the folder had been changed before and after this was put into it.
    modified: [(i64, u32); 2],
}

impl<'a> Covers<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, held: Held) -> Result<Self, Error> {
        Ok(Covers { root, held, count: 0, list: vec![], created: vec![] })
    }

    /// Covers what every step finds covered, and what this one asks for.
    pub(super) fn lay(&mut self, process: &Process, descriptors: &[OwnedFd]) -> Result<(), Error> {
        self.folder("/proc", 0o555, None)?;
        self.folder("/sys", 0o555, None)?;
        self.dev()?;
        process.mounts.iter().try_for_each(|mount| self.mount(mount, descriptors))
    }

    /// Takes everything away again. Returns what was made to put things in, is empty and could not be removed.
    pub(super) fn lift(mut self) -> Result<Vec<Vec<u8>>, Error> {
        let mut first = Ok(());
        while let Some(cover) = self.list.pop() {
            let lifted = self.lift_one(cover);
            first = first.and(lifted);
        }
        first?;
        Ok(remove_created(self.root, &self.created))
    }

    fn mount(&mut self, mount: &MountSpec, descriptors: &[OwnedFd]) -> Result<(), Error> {
        let target = &mount.target;
        match &mount.source {
            MountSource::Tmpfs { mode, .. } => self.folder(target, *mode, None),
            MountSource::Content { bytes, mode, uid, gid } => {
                let name = self.fresh();
                let make = || -> io::Result<()> {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    let mut file =
                        File::from(rustix::fs::openat(&self.held.folder, &name, flags, Mode::RUSR)?);
                    file.write_all(bytes)?;
                    rustix::fs::fchown(&file, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
                    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(*mode))?)
                };
                make().map_err(failed(target))?;
                self.cover(target, &name, None)
            }
            MountSource::Moved { folder, name } => {
                let passed = descriptors.len();
                let missing = || Error::MissingDescriptor { target: target.clone(), index: *folder, passed };
                let folder = descriptors.get(*folder).ok_or_else(missing)?;
                let folder = folder.try_clone().map_err(failed(target))?;
                self.cover(target, name, Some(folder))
            }
            MountSource::Descriptor(_) => Err(failed(target)(Errno::OPNOTSUPP.into())),
        }
    }

    fn fresh(&mut self) -> String {
        self.count += 1;
        self.count.to_string()
    }

    fn folder(&mut self, target: &str, mode: u32, fill: Option<Fill>) -> Result<(), Error> {
        let name = self.fresh();
        let make = || -> io::Result<()> {
            rustix::fs::mkdirat(&self.held.folder, &name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&self.held.folder, &name, flags, Mode::empty())?;
            rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?;
            fill.map_or(Ok(()), |fill| fill(&folder))
        };
        make().map_err(failed(target))?;
        self.cover(target, &name, None)
    }

    /// Real devices where they may be made; else the folder is as empty as the container wants it.
    fn dev(&mut self) -> Result<(), Error> {
        self.folder("/dev", 0o755, Some(fill_dev))
    }

    /// Puts `name`, of the folder `home` or of the things put aside, to where `target` leads.
    fn cover(&mut self, target: &str, name: &str, home: Option<OwnedFd>) -> Result<(), Error> {
        let mut created = vec![];
        let cover = self.try_cover(target, name, home, &mut created);
        // What was made in what is only there for the time of the step goes with it.
        let covered = |path: &Vec<u8>| self.list.iter().any(|cover| is_below(&cover.path, path));
        created.retain(|path| !covered(path));
        self.created.extend(created);
        self.list.push(cover.map_err(failed(target))?);
        Ok(())
    }

    fn try_cover(
        &mut self,
        target: &str,
        name: &str,
        home: Option<OwnedFd>,
        created: &mut Vec<Vec<u8>>,
    ) -> io::Result<Cover> {
        let aside = self.fresh();
        let Spot { parent, name: at, path } = target::locate(self.root, target, created)?;
        let from = home.as_ref().unwrap_or(&self.held.folder);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let ours = rustix::fs::openat(from, name, flags, Mode::empty())?;
        let before = tree::metadata(&parent, b"")?.modified;
        let aside = match rustix::fs::renameat(&parent, &*at, &self.held.folder, &aside) {
            Ok(()) => Some(aside),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        if let Err(error) = rustix::fs::renameat(from, name, &parent, &*at) {
            if let Some(aside) = &aside {
                rustix::fs::renameat(&self.held.folder, aside, &parent, &*at)?;
            }
            return Err(error.into());
        }
        let after = tree::metadata(&parent, b"")?.modified;
        let home = home.map(|folder| (folder, name.to_owned()));
        Ok(Cover {
            target: target.to_owned(),
            path,
            parent,
            name: at,
            ours,
            home,
            aside,
            modified: [before, after],
        })
    }

    fn lift_one(&mut self, cover: Cover) -> Result<(), Error> {
        let thrown = self.fresh();
        let lift = || -> io::Result<Option<&'static str>> {
            let [before, after] = cover.modified;
            let now = tree::metadata(&cover.parent, b"")?.modified;
            let there = present(tree::metadata(&cover.parent, &cover.name))?;
            let ours = tree::metadata(&cover.ours, b"")?;
            let is_ours = there.as_ref().is_some_and(|there| identity(there) == identity(&ours));
            let problem = problem(&ours, is_ours);
            if problem.is_some() && ours.kind == FileType::RegularFile && cover.home.is_none() {
                // It may be a secret, and must not stay in the tree under any name.
                File::options()
                    .write(true)
                    .open(format!("/proc/self/fd/{}", cover.ours.as_raw_fd()))?
                    .set_len(0)?;
            }
            match &cover.home {
                Some((folder, name)) if is_ours => {
                    rustix::fs::renameat(&cover.parent, &*cover.name, folder, name)?;
                    if ours.kind == FileType::Directory {
                        separate(folder, name)?;
                    }
                }
                _ if there.is_some() => {
                    rustix::fs::renameat(&cover.parent, &*cover.name, &self.held.folder, &thrown)?;
                }
                _ => {}
            }
            if let Some(aside) = &cover.aside {
                // The folder may be gone, as the step wanted it.
                present(
                    rustix::fs::renameat(&self.held.folder, aside, &cover.parent, &*cover.name)
                        .map_err(io::Error::from),
                )?;
            }
            set_modified(&cover.parent, if now == after { before } else { now })?;
            Ok(problem)
        };
        match lift().map_err(failed(&cover.target))? {
            None => Ok(()),
            Some(what) => Err(Error::Displaced { target: cover.target.clone(), what }),
        }
    }
}

/// Puts something into a new folder.
type Fill = fn(&OwnedFd) -> io::Result<()>;

fn fill_dev(dev: &OwnedFd) -> io::Result<()> {
    for (name, major, minor) in DEVICES {
        let number = rustix::fs::makedev(*major, *minor);
        match rustix::fs::mknodat(dev, *name, FileType::CharacterDevice, Mode::empty(), number) {
            Ok(()) => rustix::fs::chmodat(dev, *name, Mode::from_raw_mode(0o666), AtFlags::empty())?,
            Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (points_to, name) in DEVICE_LINKS {
        rustix::fs::symlinkat(*points_to, dev, *name)?;
    }
    for name in ["shm", "mqueue", "pts"] {
        rustix::fs::mkdirat(dev, name, Mode::RWXU)?;
        rustix::fs::chmodat(
            dev,
            name,
            Mode::from_raw_mode(if name == "pts" { 0o755 } else { 0o1777 }),
            AtFlags::empty(),
        )?;
    }
    Ok(())
}

/// What a step has done to what was put into its tree, where that cannot be undone.
fn problem(ours: &Metadata, is_ours: bool) -> Option<&'static str> {
    let is_folder = ours.kind == FileType::Directory;
    match (is_ours, ours.links) {
        (true, links) if links > 1 && !is_folder => Some("made a hard link to"),
        (false, links) if links > 0 => Some("moved"),
        _ => None,
    }
}

fn identity(metadata: &Metadata) -> ((u32, u32), u64) {
    (metadata.device, metadata.inode)
}

fn is_below(folder: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
}

fn failed(target: &str) -> impl FnOnce(io::Error) -> Error {
    let target = target.to_owned();
    move |source| Error::Mount { target, source }
}

/// `None` for what is not there.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn set_modified(folder: &OwnedFd, (seconds, nanoseconds): (i64, u32)) -> io::Result<()> {
    let modified = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: modified, last_modification: modified };
    Ok(rustix::fs::utimensat(CWD, format!("/proc/self/fd/{}", folder.as_raw_fd()), &times, AtFlags::empty())?)
}

/// Makes the files in the folder `name` files of their own, where the step has made hard links to them outside, or of something outside
/// here: between two file systems it could not have, and a file of a layer must not change with one of a cache.
fn separate(parent: &OwnedFd, name: &str) -> io::Result<()> {
    let root =
        tree::open_beneath(parent, name.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut linked: HashMap<u64, (u32, Vec<Vec<u8>>)> = HashMap::new();
    tree::walk::<tree::WalkError>(&root, &mut |visit| {
        if visit.metadata.kind == FileType::RegularFile && visit.metadata.links > 1 {
            let file = linked.entry(visit.metadata.inode).or_insert((visit.metadata.links, vec![]));
            file.1.push(visit.path.to_vec());
        }
        Ok(tree::Descend::Yes)
    })?;
    let leads_out = |(links, names): &(u32, Vec<Vec<u8>>)| *links as usize > names.len();
    for path in linked.into_values().filter(leads_out).flat_map(|(_, names)| names) {
        replace_by_copy(root.as_fd(), &path)?;
    }
    Ok(())
}

fn replace_by_copy(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
    const NEW: &str = ".lithify-copy";
    let cut = path.iter().rposition(|byte| *byte == b'/');
    let (folder, name) = cut.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
    let folder = tree::open_beneath(root, folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut from = File::from(tree::open_beneath(&folder, name, OFlags::RDONLY, Mode::empty())?);
    let metadata = tree::metadata(&folder, name)?;
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut to = File::from(rustix::fs::openat(&folder, NEW, flags, Mode::RUSR)?);
    io::copy(&mut from, &mut to)?;
    rustix::fs::fchown(&to, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(metadata.mode))?;
    let modified = Timespec { tv_sec: metadata.modified.0, tv_nsec: metadata.modified.1.into() };
    rustix::fs::futimens(&to, &Timestamps { last_access: modified, last_modification: modified })?;
    Ok(rustix::fs::renameat(&folder, NEW, &folder, name)?)
}
