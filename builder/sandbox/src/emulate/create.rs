//! Files that a step makes: device nodes as placeholders, and whatever does not belong to root.
//!
//! A device becomes an empty file, made as the caller would make it, with [`NODE_ATTRIBUTE`] saying what it stands for. That moves with
//! the file, and lives and dies with it. A 0/0 character device is recorded as well: the kernel would make it, and overlayfs
//! would take it for a whiteout.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use lithify_linux::capability::Capabilities;
use lithify_linux::owner::{self, Owner};
use lithify_linux::remote::{self, Stat};
use lithify_linux::seccomp::Notification;
use lithify_linux::thread;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::caller::Spot;
use super::{Identities, Reply, Session, files};

/// The extended attribute of an empty regular file that stands for a device node: `c MAJOR MINOR` or `b MAJOR MINOR`. Mode and
/// owner are the file's own.
pub const NODE_ATTRIBUTE: &str = "user.lithify.node";

/// Of a folder: what is made in it belongs to its group.
const SET_GROUP: u32 = 0o2000;

/// `c MAJOR MINOR` or `b MAJOR MINOR`: the kind of file, and the numbers.
pub(super) fn parse_node(value: &[u8]) -> Option<(u32, u32, u32)> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let kind = match words.next()? {
        "c" => libc::S_IFCHR,
        "b" => libc::S_IFBLK,
        _ => return None,
    };
    Some((kind, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// A file to be made.
struct Request {
    directory: u64,
    path: u64,
    mode: u32,
    what: What,
}

/// What is made.
#[derive(Clone, Copy)]
enum What {
    /// And opened, with these flags.
    File(OFlags),
    Folder,
    /// To the target at this address.
    Link(u64),
    /// A pipe, socket or device with this number.
    Node(u32),
}

impl Request {
    /// Whether something may be made: some files are only opened.
    fn makes(&self) -> bool {
        match self.what {
            What::File(flags) => flags.contains(OFlags::CREATE) || flags.contains(OFlags::TMPFILE),
            _ => true,
        }
    }

    fn of(call: &Notification) -> Result<Option<Request>, Errno> {
        let [a, b, c, d, ..] = call.arguments;
        let here = libc::AT_FDCWD as u64;
        let request = |directory, path, mode, what| Request { directory, path, mode: mode as u32, what };
        let file = |flags| What::File(OFlags::from_bits_retain(flags as u32));
        Ok(Some(match call.call {
            libc::SYS_openat => request(a, b, d, file(c)),
            libc::SYS_openat2 => match open_how(call.thread, c, d)? {
                Some((flags, mode)) => request(a, b, mode, file(flags)),
                None => return Ok(None),
            },
            libc::SYS_mkdirat => request(a, b, c, What::Folder),
            libc::SYS_symlinkat => request(b, c, 0, What::Link(a)),
            libc::SYS_mknodat => request(a, b, c, What::Node(d as u32)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => request(here, a, c, file(b)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => {
                request(here, a, b, What::File(OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC))
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => request(here, a, b, What::Folder),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_symlink => request(here, b, 0, What::Link(a)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mknod => request(here, a, b, What::Node(c as u32)),
            _ => return Ok(None),
        }))
    }
}

/// Flags and mode of a `struct open_how`, where the path is an ordinary one.
fn open_how(thread: u32, address: u64, length: u64) -> Result<Option<(u64, u64)>, Errno> {
    let mut how = [0; 24];
    if length < 24 || remote::read(thread, address, &mut how)? < 24 {
        return Ok(None);
    }
    let [flags, mode, resolve] =
        std::array::from_fn(|at| u64::from_ne_bytes(std::array::from_fn(|byte| how[at * 8 + byte])));
    Ok((resolve == 0).then_some((flags, mode)))
}

impl Session {
    pub(super) fn create(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let Some(request) = Request::of(call)? else { return Ok(Reply::Continue) };
        let kind = FileType::from_raw_mode(request.mode);
        if let (What::Node(device), FileType::CharacterDevice | FileType::BlockDevice) = (request.what, kind)
        {
            let spot = self.spot(call.thread, request.directory, request.path, false)?;
            return self.make_device(call, &spot, request.mode, device);
        }
        let who = self.limited(call.thread)?;
        if who.is_none() && !request.makes() {
            return Ok(Reply::Continue);
        }
        let Ok(spot) = self.spot(call.thread, request.directory, request.path, false) else {
            return Ok(Reply::Continue);
        };
        if let Some(who) = who {
            match request.what {
                What::File(flags) if spot.is_own_status() => return self.open_status(call, flags, &who),
                What::File(flags) => self.check_open(&who, &spot, flags)?,
                _ => self.check_change(&who, &spot)?,
            }
        }
        if !request.makes() {
            return Ok(Reply::Continue);
        }
        let Some(owner) = self.new_owner(call.thread, &spot, &request)? else { return Ok(Reply::Continue) };
        match request.what {
            What::File(flags) => self.make_file(call, &spot, flags, request.mode, owner),
            What::Folder => {
                let mode = Mode::from_raw_mode(request.mode & 0o7777);
                under_umask(call.thread, || rustix::fs::mkdir(spot.path(), mode))?;
                files::record(&spot, false, owner)?;
                Ok(Reply::Value(0))
            }
            What::Link(target) => {
                let mut text = vec![];
                remote::read_string(call.thread, target, &mut text)?;
                rustix::fs::symlink(owner::link_text(&text, owner), spot.path())?;
                Ok(Reply::Value(0))
            }
            What::Node(_) => {
                let mode = Mode::from_raw_mode(request.mode & 0o7777);
                under_umask(call.thread, || rustix::fs::mknodat(CWD, spot.path(), kind, mode, 0))?;
                files::record_pipe(&spot, owner)?;
                self.pipes |= !owner.is_default();
                Ok(Reply::Value(0))
            }
        }
    }

    /// Whom a new file belongs to, where that is not what the kernel gives it: root.
    fn new_owner(&self, thread: u32, spot: &Spot, request: &Request) -> Result<Option<Owner>, Errno> {
        let who = self.who(thread)?;
        let mut owner = Owner::new(who.users.file, who.groups.file);
        let folder = match request.what {
            What::File(flags) if flags.contains(OFlags::TMPFILE) => Some(spot.clone()),
            _ => spot.split().map(|(folder, _)| folder),
        };
        // What makes no sense is the kernel's to refuse.
        let Some(folder) = folder else { return Ok(None) };
        if let Some(of_folder) = files::attribute(&folder, true)
            && of_folder.gid != owner.gid
            && Stat::of(folder.path(), true)?.mode() & SET_GROUP != 0
        {
            owner.gid = of_folder.gid;
        }
        // A pipe may have had its name before, and another owner.
        let is_node = matches!(request.what, What::Node(_));
        Ok((is_node || !owner.is_default()).then_some(owner))
    }

    /// Makes and opens a file, unless there is one.
    fn make_file(
        &mut self,
        call: &Notification,
        spot: &Spot,
        flags: OFlags,
        mode: u32,
        owner: Owner,
    ) -> Result<Reply, Errno> {
        let close_on_exec = flags.contains(OFlags::CLOEXEC);
        let exclusive =
            if flags.contains(OFlags::TMPFILE) { OFlags::empty() } else { OFlags::EXCL | OFlags::NOFOLLOW };
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let opened = under_umask(call.thread, || {
            rustix::fs::openat(CWD, spot.path(), flags | exclusive | OFlags::CLOEXEC, mode)
        });
        let file = match opened {
            Ok(file) => file,
            // Also a link that leads nowhere yet: what is made at its end belongs to root.
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => return Ok(Reply::Continue),
            Err(errno) => return Err(errno),
        };
        let set =
            rustix::fs::fsetxattr(&file, owner::ATTRIBUTE, owner.to_value().as_bytes(), XattrFlags::empty());
        match set {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
        match self.listener.answer_with(call, file.as_fd(), close_on_exec) {
            Ok(()) => Ok(Reply::Done),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    fn make_device(
        &mut self,
        call: &Notification,
        spot: &Spot,
        mode: u32,
        device: u32,
    ) -> Result<Reply, Errno> {
        let is_block = FileType::from_raw_mode(mode) == FileType::BlockDevice;
        // The kernel's 32-bit encoding of a device number, new_decode_dev.
        let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
        let node = format!("{} {major} {minor}", if is_block { 'b' } else { 'c' });
        let caller = Caller::read(call.thread)?;
        let owner = if self.identities == Identities::Real {
            if caller.capabilities & Capabilities::MKNOD.bits() == 0 {
                return Err(Errno::PERM);
            }
            None
        } else {
            let who = self.who(call.thread)?;
            if !who.may(Capabilities::MKNOD) {
                return Err(Errno::PERM);
            }
            let request = Request { directory: 0, path: 0, mode, what: What::Node(0) };
            self.new_owner(call.thread, spot, &request)?
        };
        // All of the above was read by the thread's number, which may have passed to another by now.
        if !self.listener.is_waiting(call) {
            return Err(Errno::SRCH);
        }
        let acting = self.identities == Identities::Real;
        if acting {
            thread::act_as(caller.uid, caller.gid).map_err(|_| Errno::PERM)?;
        }
        let made = make_placeholder(spot, mode, caller.umask);
        if acting {
            thread::act_as(0, 0).map_err(|_| Errno::PERM)?;
        }
        let set = |name: &str, value: &[u8]| {
            made.as_ref().map_err(|errno| *errno).and_then(|file| {
                rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()).map_err(|_| Errno::PERM)
            })
        };
        let recorded = set(NODE_ATTRIBUTE, node.as_bytes()).and_then(|()| match owner {
            Some(owner) => set(owner::ATTRIBUTE, owner.to_value().as_bytes()),
            None => Ok(()),
        });
        if let (Err(errno), Ok(_)) = (recorded, &made) {
            // Where nothing can be recorded, it is refused as the kernel would have done.
            rustix::fs::unlinkat(CWD, spot.path(), AtFlags::empty())?;
            return Err(errno);
        }
        recorded?;
        self.nodes.fetch_add(1, Ordering::Relaxed);
        Ok(Reply::Value(0))
    }
}

fn make_placeholder(spot: &Spot, mode: u32, umask: u32) -> Result<OwnedFd, Errno> {
    rustix::process::umask(Mode::from_raw_mode(umask));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let made = rustix::fs::openat(CWD, spot.path(), flags, Mode::from_raw_mode(mode & 0o7777));
    rustix::process::umask(Mode::empty());
    made
}

/// Makes something with the caller's umask.
fn under_umask<T>(thread: u32, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    rustix::process::umask(Mode::from_raw_mode(Caller::read(thread)?.umask));
    let made = make();
    rustix::process::umask(Mode::empty());
    made
}

/// As whom the kernel sees a thread make files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
    pub(crate) capabilities: u64,
}

impl Caller {
    fn read(thread: u32) -> Result<Caller, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, format!("{thread}/status"), flags, Mode::empty())?;
        // What is wanted comes early, and all of it is shorter.
        let mut status = [0; 4096];
        let length = rustix::io::read(&file, &mut status)?;
        Caller::parse(&String::from_utf8_lossy(&status[..length])).ok_or(Errno::SRCH)
    }

    /// Reads proc_pid_status(5): of the four ids, the last is the one that files are made with.
    pub(crate) fn parse(status: &str) -> Option<Caller> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let last = |name: &str| field(name)?.split_whitespace().nth(3)?.parse().ok();
        Some(Caller {
            uid: last("Uid:")?,
            gid: last("Gid:")?,
            umask: u32::from_str_radix(field("Umask:")?, 8).ok()?,
            capabilities: u64::from_str_radix(field("CapEff:")?, 16).ok()?,
        })
    }
}
