//! Device nodes, which the kernel makes in no user namespace: recorded as placeholders.
//!
//! The system call filter sends each mknod of a device here. In its place an empty file is made as the caller would make it,
//! with [`NODE_ATTRIBUTE`] saying what it stands for. That moves with the file, and lives and dies with it. A 0/0 character
//! device is recorded as well: the kernel would make it, and overlayfs would take it for a whiteout.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use lithify_linux::seccomp::{Listener, Notification};
use lithify_linux::thread;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

/// The extended attribute of an empty regular file that stands for a device node: `c MAJOR MINOR` or `b MAJOR MINOR`. Mode and
/// owner are the file's own.
pub const NODE_ATTRIBUTE: &str = "user.lithify.node";

/// CAP_MKNOD's number, as a bit of the capability sets in /proc/<pid>/status.
const MKNOD: u64 = 1 << 27;
const PATH_MAX: usize = 4096;
/// The smallest page: a string is read up to the borders of pages, behind which nothing may be mapped.
const PAGE: u64 = 4096;

/// Answers the call that waits, if one does. Says whether a node was recorded.
pub(crate) fn answer(listener: &Listener) -> io::Result<bool> {
    let Some(notification) = listener.receive()? else { return Ok(false) };
    let result = record(listener, &notification);
    listener.answer(&notification, result.map_err(Errno::raw_os_error))?;
    Ok(result.is_ok())
}

/// What is made, where and by whom.
struct Request {
    path: Vec<u8>,
    root: OwnedFd,
    /// What a relative path starts from.
    start: OwnedFd,
    mode: u32,
    node: String,
    caller: Caller,
}

fn record(listener: &Listener, notification: &Notification) -> Result<(), Errno> {
    let request = read(notification)?;
    if request.caller.capabilities & MKNOD == 0 {
        return Err(Errno::PERM);
    }
    // All of the above was read by the thread's number, which may have passed to another by now.
    if !listener.is_waiting(notification) {
        return Err(Errno::SRCH);
    }
    std::thread::scope(|scope| {
        let maker = std::thread::Builder::new().spawn_scoped(scope, || make(&request));
        let maker = maker.map_err(|_| Errno::AGAIN)?;
        maker.join().unwrap_or(Err(Errno::IO))
    })
}

fn read(notification: &Notification) -> Result<Request, Errno> {
    let [first, second, third, fourth, ..] = notification.arguments;
    let (folder, path, mode, device) = if notification.call == libc::SYS_mknodat {
        (first as i32, second, third, fourth)
    } else {
        (libc::AT_FDCWD, first, second, third)
    };
    let process = format!("/proc/{}", notification.thread);
    let open = |name: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(format!("{process}/{name}"), flags, Mode::empty())
    };
    let path = read_string(&process, path)?;
    let start = if folder == libc::AT_FDCWD || path.starts_with(b"/") {
        open("cwd")?
    } else {
        open(&format!("fd/{folder}"))
            .map_err(|error| if error == Errno::NOENT { Errno::BADF } else { error })?
    };
    let kind = if mode as u32 & libc::S_IFMT == libc::S_IFBLK { 'b' } else { 'c' };
    // The kernel's 32-bit encoding of a device number, new_decode_dev.
    let device = device as u32;
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    Ok(Request {
        path,
        root: open("root")?,
        start,
        mode: mode as u32 & 0o7777,
        node: format!("{kind} {major} {minor}"),
        caller: Caller::read(&process)?,
    })
}

/// Makes the placeholder, on a thread of its own that sees paths as the caller does.
fn make(request: &Request) -> Result<(), Errno> {
    let unshared = thread::own_folders();
    unshared.map_err(|_| Errno::PERM)?;
    rustix::process::fchdir(&request.root)?;
    rustix::process::chroot(c".")?;
    rustix::process::fchdir(&request.start)?;
    rustix::process::umask(Mode::from_raw_mode(request.caller.umask));
    thread::act_as(request.caller.uid, request.caller.gid).map_err(|_| Errno::PERM)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, request.path.as_slice(), flags, Mode::from_raw_mode(request.mode))?;
    thread::act_as(0, 0).map_err(|_| Errno::PERM)?;
    match rustix::fs::fsetxattr(&file, NODE_ATTRIBUTE, request.node.as_bytes(), XattrFlags::CREATE) {
        Ok(()) => Ok(()),
        // Where nothing can be recorded, it is refused as the kernel would have done.
        Err(_) => {
            rustix::fs::unlinkat(CWD, request.path.as_slice(), rustix::fs::AtFlags::empty())?;
            Err(Errno::PERM)
        }
    }
}

/// As whom a thread makes files.
#[derive(Debug, PartialEq, Eq)]
struct Caller {
    uid: u32,
    gid: u32,
    umask: u32,
    capabilities: u64,
}

impl Caller {
    fn read(process: &str) -> Result<Caller, Errno> {
        let status = std::fs::read_to_string(format!("{process}/status")).map_err(|_| Errno::SRCH)?;
        Caller::parse(&status).ok_or(Errno::SRCH)
    }

    /// Reads proc_pid_status(5): of the four ids, the last is the one that files are made with.
    fn parse(status: &str) -> Option<Caller> {
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

/// The string at an address of another process.
fn read_string(process: &str, address: u64) -> Result<Vec<u8>, Errno> {
    let memory = File::open(format!("{process}/mem")).map_err(|_| Errno::SRCH)?;
    let mut string = vec![];
    let mut at = address;
    while string.len() < PATH_MAX {
        let mut buffer = [0; PAGE as usize];
        let length = (PAGE - at % PAGE) as usize;
        let length = memory.read_at(&mut buffer[..length], at).map_err(|_| Errno::FAULT)?;
        if length == 0 {
            return Err(Errno::FAULT);
        }
        if let Some(end) = buffer[..length].iter().position(|byte| *byte == 0) {
            string.extend_from_slice(&buffer[..end]);
            return if string.is_empty() { Err(Errno::NOENT) } else { Ok(string) };
        }
        string.extend_from_slice(&buffer[..length]);
        at += length as u64;
    }
    Err(Errno::NAMETOOLONG)
}
