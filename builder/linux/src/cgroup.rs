//! Control groups, versions 1 and 2: limits on what processes use together
//! (Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ in the kernel's sources).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

#[cfg(test)]
mod tests;

/// What the processes of a group may use together; `None` sets no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory and swap together, in bytes; `u64::MAX` is unlimited.
    pub memory_and_swap_bytes: Option<u64>,
    /// Microseconds of processor time in each period; and the period, in microseconds.
    pub cpu_quota: Option<(u64, u64)>,
    /// The share of processor time beside other groups: 2 to 262144, where 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// The processors, as a list such as `0-2,4`.
    pub cpus: Option<String>,
    /// The memory nodes, as a list.
    pub memory_nodes: Option<String>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// Memory and swap together where memory is limited: twice the memory unless something else was asked for, as docker has it.
    fn with_swap(&self) -> Option<(u64, u64)> {
        let memory = self.memory_bytes?;
        Some((memory, self.memory_and_swap_bytes.unwrap_or(memory.saturating_mul(2)).max(memory)))
    }

    /// The files to write in a group of version 2, by controller.
    fn unified(&self) -> Vec<Setting> {
        let mut settings = vec![];
        if let Some((memory, both)) = self.with_swap() {
            settings.push(Setting::new("memory", "memory.max", memory));
            let swap = if both == u64::MAX { "max".to_owned() } else { (both - memory).to_string() };
            settings.push(Setting { optional: true, ..Setting::new("memory", "memory.swap.max", swap) });
        }
        if let Some((quota, period)) = self.cpu_quota {
            settings.push(Setting::new("cpu", "cpu.max", format!("{quota} {period}")));
        }
        if let Some(shares) = self.cpu_shares {
            // runc's conversion: 2 to 262144 become 1 to 10000.
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
            settings.push(Setting::new("cpu", "cpu.weight", weight));
        }
        for (file, value) in [("cpuset.cpus", &self.cpus), ("cpuset.mems", &self.memory_nodes)] {
            settings.extend(value.as_ref().map(|value| Setting::new("cpuset", file, value)));
        }
        settings
    }

    /// The same for version 1.
    fn legacy(&self) -> Vec<Setting> {
        let mut settings = vec![];
        if let Some((memory, both)) = self.with_swap() {
            settings.push(Setting::new("memory", "memory.limit_in_bytes", memory));
            if both != u64::MAX {
                let swap = Setting::new("memory", "memory.memsw.limit_in_bytes", both);
                settings.push(Setting { optional: true, ..swap });
            }
        }
        if let Some((quota, period)) = self.cpu_quota {
            settings.push(Setting::new("cpu", "cpu.cfs_period_us", period));
            settings.push(Setting::new("cpu", "cpu.cfs_quota_us", quota));
        }
        settings.extend(self.cpu_shares.map(|shares| Setting::new("cpu", "cpu.shares", shares)));
        for (file, value) in [("cpuset.cpus", &self.cpus), ("cpuset.mems", &self.memory_nodes)] {
            settings.extend(value.as_ref().map(|value| Setting::new("cpuset", file, value)));
        }
        settings
    }
}

struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
    /// Not every kernel has it.
    optional: bool,
}

impl Setting {
    fn new(controller: &'static str, file: &'static str, value: impl ToString) -> Self {
        Setting { controller, file, value: value.to_string(), optional: false }
    }
}

/// Why there is no group with these limits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No place for one.
    #[error("no control group that this user may add to has the controllers {controllers}")]
    NoPlace {
        /// Those that are needed.
        controllers: String,
    },
    /// A value that the kernel does not take.
    #[error("cannot write {value:?} to {path}: {source}", path = path.display())]
    Refused {
        /// The file of the group.
        path: PathBuf,
        /// What was to stand there.
        value: String,
        /// Why not.
        source: io::Error,
    },
}

/// A control group of our own, or one in each hierarchy of version 1. Dropped, it is removed.
#[derive(Debug)]
pub struct Group {
    folders: Vec<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Locked as long as the group is in use.
    _held: OwnedFd,
}

impl Group {
    /// Makes a group with these limits, below that of this process or, where that one must not have any, in the nearest group
    /// above that this user may add to. Removes what killed processes left there.
    ///
    /// # Errors
    /// [`Error`]: the machine does not let this user, or a limit makes no sense to the kernel.
    pub fn make(limits: &Limits) -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let unified = limits.unified();
        let needed = controllers(&unified);
        if let Some(parent) = unified_parent(&mounts, &own, &needed) {
            return Group::below([(parent, unified)]);
        }
        let no_place = || Error::NoPlace { controllers: needed.join(", ") };
        let mut parents = vec![];
        let mut legacy = limits.legacy();
        for controller in &needed {
            let place = hierarchy(&mounts, &own, Some(controller)).ok_or_else(no_place)?;
            if !may_write(&place.group.join("cgroup.procs")) {
                return Err(no_place());
            }
            let settings = legacy.extract_if(.., |setting| setting.controller == *controller).collect();
            parents.push((place.group, settings));
        }
        Group::below(parents)
    }

    fn below(parents: impl IntoIterator<Item = (PathBuf, Vec<Setting>)>) -> Result<Self, Error> {
        let mut group = Group { folders: vec![] };
        for (parent, settings) in parents {
            sweep(&parent);
            let folder = Folder::make(&parent)?;
            let path = folder.path.clone();
            group.folders.push(folder);
            if settings.iter().any(|setting| setting.controller == "cpuset") {
                inherit_processors(&parent, &path);
            }
            for Setting { file, value, optional, .. } in settings {
                match fs::write(path.join(file), &value) {
                    Err(source) if !optional => {
                        return Err(Error::Refused { path: path.join(file), value, source });
                    }
                    _ => {}
                }
            }
        }
        Ok(group)
    }

    /// For each hierarchy, the file that a process's number is to be written to.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn members(&self) -> io::Result<Vec<OwnedFd>> {
        let open =
            |folder: &Folder| fs::OpenOptions::new().write(true).open(folder.path.join("cgroup.procs"));
        self.folders.iter().map(|folder| open(folder).map(OwnedFd::from)).collect()
    }

    /// How often a process of it was killed because the memory was used up.
    pub fn out_of_memory_kills(&self) -> u64 {
        let count = |folder: &Folder| {
            let files = ["memory.events", "memory.oom_control"]
                .map(|name| fs::read_to_string(folder.path.join(name)));
            let text = files.into_iter().flatten().next()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
        };
        self.folders.iter().filter_map(count).sum()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            // Processes that were killed leave a moment later. What stays is swept by the next build.
            for _ in 0..200 {
                match fs::remove_dir(&folder.path) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    _ => break,
                }
            }
        }
    }
}

const PREFIX: &str = "lithify-";

impl Folder {
    fn make(parent: &Path) -> Result<Self, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PREFIX}{}-{count}", std::process::id()));
            let refused = |source| Error::Refused { path: path.clone(), value: String::new(), source };
            match fs::create_dir(&path) {
                // Left by a process that had this number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(refused)?,
            }
            let held = hold(&path, FlockOperation::NonBlockingLockShared).map_err(refused)?;
            // A sweep may have been faster than the lock.
            if path.exists() {
                return Ok(Folder { path, _held: held });
            }
        }
    }
}

fn hold(path: &Path, how: FlockOperation) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    flock(folder.as_fd(), how)?;
    Ok(folder)
}

/// Removes groups that nobody holds.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && hold(&entry.path(), FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            // One that still has processes stays.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// In version 1 a new group has no processors and no memory, and takes no process.
fn inherit_processors(parent: &Path, group: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read_to_string(parent.join(file))
            && !value.trim().is_empty()
        {
            // What is missing then is said when the limit is written, or a process moved in.
            let _ = fs::write(group.join(file), value.trim());
        }
    }
}

fn controllers(settings: &[Setting]) -> Vec<&'static str> {
    let mut names: Vec<_> = settings.iter().map(|setting| setting.controller).collect();
    names.dedup();
    names
}

/// Where a hierarchy is mounted, and the group of this process in it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    mount: PathBuf,
    group: PathBuf,
}

/// The hierarchy of a controller of version 1, or that of version 2. `mounts` is /proc/self/mountinfo, `own` /proc/self/cgroup.
fn hierarchy(mounts: &str, own: &str, controller: Option<&str>) -> Option<Place> {
    let has = |list: &str| controller.is_some_and(|name| list.split(',').any(|one| one == name));
    let group = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = if controller.is_some() { has(names) } else { number == "0" };
        is_it.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let (place, kind): (Vec<_>, Vec<_>) = (place.split(' ').collect(), kind.split(' ').collect());
        let is_it = match controller {
            Some(_) => *kind.first()? == "cgroup" && has(kind.get(2)?),
            None => *kind.first()? == "cgroup2",
        };
        let (root, mount) = (place.get(3)?, Path::new(place.get(4)?));
        let below = Path::new(group).strip_prefix(root).ok();
        is_it.then(|| Place { mount: mount.into(), group: mount.join(below.unwrap_or(Path::new(""))) })
    })
}

/// The nearest group of version 2, from that of this process upwards, in which one with these controllers can be made.
fn unified_parent(mounts: &str, own: &str, needed: &[&str]) -> Option<PathBuf> {
    let place = hierarchy(mounts, own, None)?;
    let within = |group: &&Path| group.starts_with(&place.mount);
    let fits = |group: &&Path| {
        let has = |file: &str| {
            let list = fs::read_to_string(group.join(file)).unwrap_or_default();
            needed.iter().all(|name| list.split_whitespace().any(|one| one == *name))
        };
        if !has("cgroup.controllers") || !may_write(&group.join("cgroup.procs")) {
            return false;
        }
        if !has("cgroup.subtree_control") {
            // Refused where the group has processes itself.
            let wanted: Vec<_> = needed.iter().map(|name| format!("+{name}")).collect();
            let _ = fs::write(group.join("cgroup.subtree_control"), wanted.join(" "));
        }
        has("cgroup.subtree_control")
    };
    place.group.ancestors().take_while(within).find(fits).map(Path::to_path_buf)
}

fn may_write(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}
