//! What a RUN has in its tree beside the tree's own files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use lithify_linux::mount::{self, Below};
use lithify_linux::owner::Owners;
use lithify_linux::tree;
use lithify_sandbox::{MountSource, MountSpec};
use lithify_snapshot::{MoveOrKeep, Workspace};
use rustix::fs::{FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::agent::{Access, Agent};
use crate::protocol::{Failure, RunMount, RunMountKind};
use crate::serve::{Context, Mounting, ids, subfolder};

/// Gathers what the sandbox mounts.
pub(crate) struct Mounts<'a> {
    context: &'a Context,
    passed: Vec<OwnedFd>,
    pub(crate) specs: Vec<MountSpec>,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Trees that are written to and thrown away; kept until the process has ended.
    extra: Vec<Workspace>,
    /// As those, where nothing can be mounted.
    copies: Vec<Copy>,
    /// Held until the process has ended.
    locks: Vec<OwnedFd>,
    agents: Vec<Agent>,
}

/// A folder with a copy, removed when it is dropped.
struct Copy {
    /// Locked, which tells a sweep that somebody is at work there.
    _lock: OwnedFd,
    parent: OwnedFd,
    name: String,
    /// Where nothing may be written: where the step finds it, and all that is in it.
    sealed: Option<(String, Vec<Seen>)>,
}

/// A file of a copy: what of it a step that writes would change.
#[derive(PartialEq, Eq)]
struct Seen {
    path: Vec<u8>,
    metadata: tree::Metadata,
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What cannot be removed now stays; nobody looks at it again.
        let _ = lithify_snapshot::remove_tree(self.parent.as_fd(), self.name.as_bytes());
    }
}

impl<'a> Mounts<'a> {
    /// The mounts `specs`, and none more yet. `passed` are the descriptors that came with the call.
    pub(crate) fn new(context: &'a Context, passed: Vec<OwnedFd>, specs: Vec<MountSpec>) -> Self {
        let (descriptors, extra, copies, locks, agents) = (vec![], vec![], vec![], vec![], vec![]);
        Mounts { context, passed, specs, descriptors, extra, copies, locks, agents }
    }

    /// Where cache mounts are moved, only one step can have one at a time. Locked in one order by all, so that none waits for ever.
    pub(crate) fn lock_caches(&mut self, mounts: &[RunMount]) -> Result<(), Failure> {
        let Mounting::Moved(_) = &self.context.mounting else { return Ok(()) };
        let name = |mount: &RunMount| match &mount.kind {
            RunMountKind::Cache { folder, .. } => Some(folder.clone()),
            _ => None,
        };
        let mut names: Vec<String> = mounts.iter().filter_map(name).collect();
        names.sort();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(unsupported("one cache mounted at two places"));
        }
        for name in names {
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let lock = || -> rustix::io::Result<OwnedFd> {
                let name = format!("{name}.lock");
                let lock = rustix::fs::openat(&self.context.cache_mounts, name, flags, Mode::RUSR)?;
                rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
                Ok(lock)
            };
            let lock = lock();
            self.locks.push(lock.map_err(|error| Failure::storage("cannot lock a cache mount", &error))?);
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, mount: &RunMount) -> Result<(), Failure> {
        let (source, read_only) = match &mount.kind {
            RunMountKind::Tree { chain, source, writable } => {
                (self.tree(chain, source, *writable, &mount.target)?, !writable)
            }
            RunMountKind::Cache { folder, seed, mode, uid, gid, read_only } => {
                self.prepare_cache(folder, seed.as_ref(), (*mode, *uid, *gid))?;
                (self.cache(folder, *read_only)?, *read_only)
            }
            RunMountKind::Tmpfs { size_bytes } => {
                (MountSource::Tmpfs { size_bytes: *size_bytes, mode: 0o1777 }, false)
            }
            RunMountKind::File { content, mode, uid, gid } => {
                let source =
                    MountSource::Content { bytes: content.clone(), mode: *mode, uid: *uid, gid: *gid };
                (source, true)
            }
            RunMountKind::Socket { file, mode, uid, gid } => {
                if let Mounting::Moved(_) = self.context.mounting {
                    return Err(unsupported("--mount=type=ssh"));
                }
                let main = self.passed.get(*file).map(OwnedFd::try_clone).transpose().ok().flatten();
                let main = main.ok_or_else(|| Failure::input("a socket is missing in a call"))?;
                let access = Access { mode: *mode, uid: *uid, gid: *gid };
                let (agent, socket) =
                    Agent::listen(self.context.owners, &self.context.cache_mounts, &access, main).map_err(
                        |error| Failure::storage("cannot make a socket for the ssh agent", &error),
                    )?;
                self.agents.push(agent);
                (self.descriptor(socket), false)
            }
        };
        self.specs.push(MountSpec { target: mount.target.clone(), source, read_only });
        Ok(())
    }

    /// Refuses what a step has done that a read-only mount would have refused it. To be called when it has ended.
    pub(crate) fn check_untouched(&self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::storage("cannot look at a copy", &error);
        for copy in &self.copies {
            let Some((target, before)) = &copy.sealed else { continue };
            let folder = subfolder(&copy.parent, &copy.name).map_err(failed)?;
            if look_at(&folder).map_err(failed)? != *before {
                return Err(Failure::input(format!(
                    "the step has written to {target:?}, which is mounted read-only; the sandbox \"chroot\" finds it out only \
                     now, and gives no image that other sandboxes would not give (rw allows writing, and throws it away)"
                )));
            }
        }
        Ok(())
    }

    fn descriptor(&mut self, descriptor: OwnedFd) -> MountSource {
        self.descriptors.push(descriptor);
        MountSource::Descriptor(self.descriptors.len() - 1)
    }

    fn moved(&mut self, folder: OwnedFd, name: &str) -> MountSource {
        self.descriptors.push(folder);
        MountSource::Moved { folder: self.descriptors.len() - 1, name: name.to_owned() }
    }

    /// A part of another tree: a file or a folder.
    fn tree(
        &mut self,
        chain: &crate::Chain,
        source: &str,
        writable: bool,
        target: &str,
    ) -> Result<MountSource, Failure> {
        let chain = ids(chain);
        let open = |root: &OwnedFd| {
            let inside = tree::open_in_root(root, source.as_bytes(), OFlags::PATH, Mode::empty());
            inside.map_err(|error| Failure::input(format!("cannot mount {source}: {error}")))
        };
        if let Mounting::Moved(copies) = &self.context.mounting {
            let root = self.context.snapshots.view(&chain)?.into_root();
            let mut copy = copy_of(copies, &root, source, &open(&root)?)?;
            let failed = |error: io::Error| Failure::storage("cannot open a copy", &error);
            let folder = subfolder(copies, &copy.name).map_err(failed)?;
            if !writable {
                copy.sealed = Some((target.to_owned(), look_at(&folder).map_err(failed)?));
            }
            self.copies.push(copy);
            return Ok(self.moved(folder, COPY));
        }
        let root = if writable || chain.is_empty() {
            let workspace = self.context.snapshots.workspace(&chain, MoveOrKeep::Keep)?;
            let root = workspace.root_mount()?;
            self.extra.push(workspace);
            root
        } else {
            self.context.snapshots.view(&chain)?.into_root()
        };
        let mounted = mount::bind(&open(&root)?, Below::With).map_err(|error| Failure::sandbox(&error))?;
        Ok(self.descriptor(mounted))
    }

    /// Makes and fills a folder that outlives the build, if it is not there yet.
    fn prepare_cache(
        &self,
        name: &str,
        seed: Option<&(crate::Chain, String)>,
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::storage("cannot prepare a cache mount", &error);
        let exists = rustix::fs::accessat(
            &self.context.cache_mounts,
            name,
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty(),
        );
        if exists.is_ok() {
            return Ok(());
        }
        // It gets its name when it is whole: another process may ask for it at the same time, and this one may be killed.
        let unfinished = unique("tmp.new.");
        let folder = subfolder(&self.context.cache_mounts, &unfinished).map_err(failed)?;
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockShared)
            .map_err(|error| failed(error.into()))?;
        if let Some((chain, source)) = seed {
            let view = self.context.snapshots.view(&ids(chain))?;
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            let from = tree::open_in_root(view.root(), source.as_bytes(), flags, Mode::empty());
            let from = from.map_err(|error| {
                Failure::input(format!("cannot fill a cache mount from {source}: {error}"))
            })?;
            lithify_snapshot::copy_tree(self.context.owners, from.as_fd(), &folder)?;
        }
        let finish = || -> io::Result<()> {
            self.context.owners.give(folder.as_fd(), uid, gid)?;
            rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?;
            let mounts = &self.context.cache_mounts;
            match rustix::fs::renameat_with(mounts, &unfinished, mounts, name, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => lithify_snapshot::remove_tree(mounts.as_fd(), unfinished.as_bytes()),
                other => Ok(other?),
            }
        };
        finish().map_err(failed)
    }

    fn cache(&mut self, name: &str, read_only: bool) -> Result<MountSource, Failure> {
        let failed = |error: io::Error| Failure::storage("cannot open a cache mount", &error);
        if let Mounting::Moved(_) = self.context.mounting {
            if read_only {
                return Err(unsupported("--mount=type=cache,readonly"));
            }
            let folder = self.context.cache_mounts.try_clone().map_err(failed)?;
            return Ok(self.moved(folder, name));
        }
        let folder = subfolder(&self.context.cache_mounts, name).map_err(failed)?;
        Ok(self.descriptor(mount::bind(&folder, Below::With).map_err(failed)?))
    }
}

/// The name of a copy in its folder.
const COPY: &str = "copy";

/// A copy of a file or folder of a tree.
fn copy_of(copies: &OwnedFd, root: &OwnedFd, source: &str, inside: &OwnedFd) -> Result<Copy, Failure> {
    let failed = |error: io::Error| Failure::storage("cannot copy what is to be mounted", &error);
    let name = unique("");
    let folder = subfolder(copies, &name).map_err(failed)?;
    let _lock = folder.try_clone().map_err(failed)?;
    rustix::fs::flock(&_lock, FlockOperation::NonBlockingLockShared).map_err(|error| failed(error.into()))?;
    let copy = Copy { _lock, parent: copies.try_clone().map_err(failed)?, name, sealed: None };
    let metadata = tree::metadata(inside, b"").map_err(failed)?;
    let read = |flags| tree::open_in_root(root, source.as_bytes(), flags, Mode::empty()).map_err(failed);
    match metadata.kind {
        FileType::Directory => {
            let to = subfolder(&folder, COPY).map_err(failed)?;
            let from = read(OFlags::DIRECTORY | OFlags::RDONLY)?;
            lithify_snapshot::copy_tree(Owners::Real, from.as_fd(), &to)?;
        }
        FileType::RegularFile => {
            let mut from = File::from(read(OFlags::RDONLY | OFlags::NONBLOCK)?);
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let to =
                rustix::fs::openat(&folder, COPY, flags, Mode::RUSR).map_err(|error| failed(error.into()))?;
            let mut to = File::from(to);
            io::copy(&mut from, &mut to).map_err(failed)?;
            finish(&to, &metadata).map_err(failed)?;
        }
        _ => return Err(Failure::input(format!("cannot mount {source}: it is no file and no folder"))),
    }
    Ok(copy)
}

/// A name that nothing else has.
fn unique(start: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Another container that has the same store may have a process of this number.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{start}{}.{}.{}.{count}", std::process::id(), now.tv_sec, now.tv_nsec)
}

/// All that is in the folder of a copy. When an inode was changed counts, but not for the copy itself, which is moved.
fn look_at(folder: &OwnedFd) -> io::Result<Vec<Seen>> {
    let mut seen = vec![];
    tree::walk::<tree::WalkError>(folder, &mut |visit| {
        let mut metadata = visit.metadata.clone();
        if visit.path == COPY.as_bytes() {
            metadata.changed = (0, 0);
        }
        seen.push(Seen { path: visit.path.to_vec(), metadata });
        Ok(tree::Descend::Yes)
    })?;
    Ok(seen)
}

fn finish(file: &File, metadata: &tree::Metadata) -> io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.mode))?;
    let modified = Timespec { tv_sec: metadata.modified.0, tv_nsec: metadata.modified.1.into() };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: modified, last_modification: modified })?)
}

fn unsupported(what: &'static str) -> Failure {
    let (rung, why) = (lithify_sandbox::RungName::Chroot.as_str(), "nothing can be mounted");
    lithify_sandbox::Error::Unsupported { what: what.into(), rung, why }.into()
}
