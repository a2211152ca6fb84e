//! The root tree of a sandbox with all that is mounted in it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_linux::mount::{self, Attributes, Below};
use lithify_linux::owner::Owners;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::target::{self, Kind};
use crate::{Error, Identities, MountSource, MountSpec, Network, Process, Security, policy};

const NO_SETUID_DEVICES: Attributes = Attributes::MOUNT_ATTR_NOSUID.union(Attributes::MOUNT_ATTR_NODEV);
const PLAIN: Attributes = NO_SETUID_DEVICES.union(Attributes::MOUNT_ATTR_NOEXEC);

/// The device files of every container: the OCI runtime specification, config-linux.md, "Default Devices".
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
/// The links beside them: as above, "Dev symbolic links".
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// Makes `root` the root folder of this mount namespace, with everything mounted that the process asks for, and leaves it as
/// the working folder. Returns what was made in the tree only to be mounted on, parents first.
pub(super) fn build(
    process: &Process,
    identities: Identities,
    root: OwnedFd,
    descriptors: Vec<OwnedFd>,
) -> Result<Vec<Vec<u8>>, Error> {
    mount::attach_at(&root, CWD, c"/").map_err(Error::setup("attaching the root tree"))?;
    let mut builder = Builder { process, identities, root, created: vec![], scratch: None };
    builder.proc().map_err(builder.failed("/proc"))?;
    // Before /dev, whose place it takes meanwhile.
    builder.scratch().map_err(builder.failed("/dev"))?;
    builder.masks().map_err(builder.failed("/proc"))?;
    builder.sys().map_err(builder.failed("/sys"))?;
    let contents = builder.contents()?;
    builder.remove_scratch().map_err(builder.failed("/dev"))?;
    builder.dev().map_err(builder.failed("/dev"))?;
    let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
    for (spec, content) in process.mounts.iter().zip(contents) {
        builder.mount(spec, content, &mut descriptors)?;
    }
    mount::pivot_into(&builder.root).map_err(Error::setup("changing the root folder"))?;
    Ok(builder.created)
}

struct Builder<'a> {
    process: &'a Process,
    identities: Identities,
    root: OwnedFd,
    created: Vec<Vec<u8>>,
    /// A file system in memory, out of which single files and folders are bound.
    scratch: Option<OwnedFd>,
}

impl Builder<'_> {
    fn failed(&self, target: &str) -> impl FnOnce(io::Error) -> Error {
        let target = target.to_owned();
        move |source| Error::Mount { target, source }
    }

    fn place(&mut self, path: &str, kind: Kind) -> io::Result<OwnedFd> {
        target::open(self.root.as_fd(), path, kind, &mut self.created)
    }

    fn attach(&mut self, mount: &OwnedFd, path: &str) -> io::Result<()> {
        let place = self.place(path, Kind::Folder)?;
        mount::attach(mount, place)
    }

    fn is_open(&self) -> bool {
        self.process.security == Security::Insecure
    }

    fn proc(&mut self) -> io::Result<()> {
        let proc = mount::filesystem("proc", &[], PLAIN)?;
        self.attach(&proc, "/proc")?;
        if self.is_open() {
            return Ok(());
        }
        for name in policy::READ_ONLY_PROC {
            let Some(part) = present(mount::bind_at(&proc, name, Below::Without))? else { continue };
            mount::restrict(&part, Attributes::MOUNT_ATTR_RDONLY, Below::Without)?;
            mount::attach_at(&part, &proc, name)?;
        }
        for name in policy::MASKED_PROC_FILES {
            if rustix::fs::accessat(&proc, *name, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
                .is_ok()
            {
                mount::attach_at(mount::bind_at(CWD, c"/dev/null", Below::Without)?, &proc, name)?;
            }
        }
        Ok(())
    }

    /// The file system to bind from. It must be attached somewhere to be bound from.
    fn scratch(&mut self) -> io::Result<()> {
        let scratch = mount::filesystem("tmpfs", &[("mode", Some("0755"))], NO_SETUID_DEVICES)?;
        self.attach(&scratch, "/dev")?;
        self.scratch = Some(scratch);
        Ok(())
    }

    fn bind_scratch(&self, name: &CStr) -> io::Result<OwnedFd> {
        let scratch = self.scratch.as_ref().ok_or(Errno::BADF)?;
        mount::bind_at(scratch, name, Below::Without)
    }

    fn remove_scratch(&mut self) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let Some(scratch) = self.scratch.take() else { return Ok(()) };
        let path = format!("/proc/self/fd/{}", scratch.as_raw_fd());
        let path = std::ffi::CString::new(path).map_err(|_| Errno::INVAL)?;
        mount::detach(&path)
    }

    /// Hides folders of /proc behind empty ones; those of /sys are hidden with it.
    fn masks(&mut self) -> io::Result<()> {
        if self.is_open() {
            return Ok(());
        }
        if let Some(scratch) = &self.scratch {
            rustix::fs::mkdirat(scratch, c"empty", Mode::from_raw_mode(0o755))?;
        }
        let proc = self.place("/proc", Kind::Folder)?;
        self.mask_folders(proc.as_fd(), policy::MASKED_PROC_FOLDERS)
    }

    fn mask_folders(&self, parent: BorrowedFd<'_>, names: &[&CStr]) -> io::Result<()> {
        for name in names {
            if rustix::fs::accessat(parent, *name, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
                .is_ok()
            {
                let empty = self.bind_scratch(c"empty")?;
                mount::restrict(&empty, Attributes::MOUNT_ATTR_RDONLY, Below::Without)?;
                mount::attach_at(&empty, parent, name)?;
            }
        }
        Ok(())
    }

    /// A file system of its own where the network namespace is, else the machine's, both read-only.
    fn sys(&mut self) -> io::Result<()> {
        let own = match self.process.network {
            Network::None | Network::Own(_) => mount::filesystem("sysfs", &[], PLAIN).ok(),
            Network::Host => None,
        };
        let sys = match own {
            Some(sys) => sys,
            None => mount::bind_at(CWD, c"/sys", Below::With)?,
        };
        if !self.is_open() {
            mount::restrict(&sys, PLAIN | Attributes::MOUNT_ATTR_RDONLY, Below::With)?;
        }
        self.attach(&sys, "/sys")?;
        if !self.is_open() {
            self.mask_folders(sys.as_fd(), policy::MASKED_SYS_FOLDERS)?;
            let throttles = policy::processor_folders()?;
            let throttles: Vec<&CStr> = throttles.iter().map(AsRef::as_ref).collect();
            self.mask_folders(sys.as_fd(), &throttles)?;
        }
        Ok(())
    }

    fn dev(&mut self) -> io::Result<()> {
        let options = [("mode", Some("0755")), ("size", Some("65536k"))];
        let attributes = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_STRICTATIME;
        let dev = mount::filesystem("tmpfs", &options, attributes)?;
        self.attach(&dev, "/dev")?;
        for name in DEVICES {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let place = rustix::fs::openat(&dev, *name, flags, Mode::from_raw_mode(0o666))?;
            let path = format!("/dev/{name}\0");
            let path = CStr::from_bytes_with_nul(path.as_bytes()).map_err(|_| Errno::INVAL)?;
            mount::attach(mount::bind_at(CWD, path, Below::Without)?, place)?;
        }
        for (points_to, name) in DEVICE_LINKS {
            rustix::fs::symlinkat(*points_to, &dev, *name)?;
        }
        let shm_size = self.process.shm_size_bytes.to_string();
        let shm = [("mode", Some("1777")), ("size", Some(shm_size.as_str()))];
        // Group 5 is tty wherever there are groups; devpts wants it for grantpt(3).
        let pts = [("mode", Some("0620")), ("ptmxmode", Some("0666")), ("gid", Some("5"))];
        let pts = if self.identities == Identities::Real { &pts[..] } else { &pts[..2] };
        let no_exec = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NOEXEC;
        for (name, kind, options, attributes) in [
            (c"pts", "devpts", pts, no_exec),
            (c"shm", "tmpfs", &shm[..], PLAIN),
            (c"mqueue", "mqueue", &[], PLAIN),
        ] {
            rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
            mount::attach_at(mount::filesystem(kind, options, attributes)?, &dev, name)?;
        }
        Ok(())
    }

    /// For each of the process's mounts, a detached mount of its content if it has one.
    fn contents(&self) -> Result<Vec<Option<OwnedFd>>, Error> {
        let make = |(index, spec): (usize, &MountSpec)| match &spec.source {
            MountSource::Content { bytes, mode, uid, gid } => {
                self.content(index, bytes, *mode, (*uid, *gid)).map(Some).map_err(self.failed(&spec.target))
            }
            MountSource::Descriptor(_) | MountSource::Moved { .. } | MountSource::Tmpfs { .. } => Ok(None),
        };
        self.process.mounts.iter().enumerate().map(make).collect()
    }

    fn content(&self, index: usize, bytes: &[u8], mode: u32, (uid, gid): (u32, u32)) -> io::Result<OwnedFd> {
        let scratch = self.scratch.as_ref().ok_or(Errno::BADF)?;
        let name = std::ffi::CString::new(format!("content{index}")).map_err(|_| Errno::INVAL)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(scratch, &name, flags, Mode::from_raw_mode(mode))?;
        if (uid, gid) != (0, 0) {
            self.give(&file, uid, gid)?;
        }
        io::Write::write_all(&mut std::fs::File::from(file), bytes)?;
        self.bind_scratch(&name)
    }

    fn give(&self, file: &OwnedFd, uid: u32, gid: u32) -> rustix::io::Result<()> {
        let owners = if self.identities == Identities::Real { Owners::Real } else { Owners::Recorded };
        match owners.give(file.as_fd(), uid, gid) {
            // Before Linux 6.6, files in memory cannot carry the record; the owner of what is mounted here is in no layer.
            Err(Errno::NOTSUP) if owners == Owners::Recorded => Ok(()),
            other => other,
        }
    }

    fn mount(
        &mut self,
        spec: &MountSpec,
        content: Option<OwnedFd>,
        descriptors: &mut [Option<OwnedFd>],
    ) -> Result<(), Error> {
        let passed = descriptors.len();
        let (mount, kind) = match &spec.source {
            MountSource::Content { .. } => (content.ok_or(io::Error::from(Errno::BADF)), Kind::File),
            MountSource::Tmpfs { size_bytes, mode } => (tmpfs(*size_bytes, *mode), Kind::Folder),
            // It is for a rung without mounts.
            MountSource::Moved { .. } => return Err(self.failed(&spec.target)(Errno::OPNOTSUPP.into())),
            MountSource::Descriptor(index) => {
                let mount = descriptors.get_mut(*index).and_then(Option::take);
                let target = spec.target.clone();
                let mount = mount.ok_or(Error::MissingDescriptor { target, index: *index, passed })?;
                let kind = kind_of(mount.as_fd()).map_err(self.failed(&spec.target))?;
                (Ok(mount), kind)
            }
        };
        let attach = |builder: &mut Self| {
            let mount = mount?;
            if spec.read_only {
                mount::restrict(&mount, Attributes::MOUNT_ATTR_RDONLY, Below::With)?;
            }
            let place = builder.place(&spec.target, kind)?;
            mount::attach(mount, place)
        };
        attach(self).map_err(self.failed(&spec.target))
    }
}

fn tmpfs(size_bytes: Option<u64>, mode: u32) -> io::Result<OwnedFd> {
    let (mode, size) = (format!("{mode:o}"), size_bytes.map(|size| size.to_string()));
    let mut options = vec![("mode", Some(mode.as_str()))];
    if let Some(size) = &size {
        options.push(("size", Some(size)));
    }
    mount::filesystem("tmpfs", &options, NO_SETUID_DEVICES)
}

fn kind_of(file: BorrowedFd<'_>) -> io::Result<Kind> {
    let stat = rustix::fs::fstat(file)?;
    let is_folder = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    Ok(if is_folder { Kind::Folder } else { Kind::File })
}

/// `None` for what is not there.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
