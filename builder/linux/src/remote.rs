//! Another process, as whoever answers its system calls sees it: its memory, and a number that it carries along.

#![allow(unsafe_code)]

use std::io;

use rustix::io::Errno;

/// The longest path that the kernel takes (PATH_MAX in linux/limits.h), with the NUL at its end.
const PATH_MAX: usize = 4096;
/// The smallest page: a string is read up to the borders of pages, behind which nothing may be mapped.
const PAGE: u64 = 4096;

/// Reads as much as there is of a thread's memory, up to the buffer's length.
///
/// # Errors
/// `EFAULT` where nothing is mapped, and what else `process_vm_readv` says.
pub fn read(thread: u32, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: the kernel writes to the buffer only, and checks the other process's addresses itself.
    let length =
        unsafe { libc::process_vm_readv(thread as i32, &raw const local, 1, &raw const remote, 1, 0) };
    if length < 0 { Err(last_errno()) } else { Ok(length as usize) }
}

/// Writes all of `bytes` to a thread's memory.
///
/// # Errors
/// `EFAULT` where it cannot be written to, and what else `process_vm_writev` says.
pub fn write(thread: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the kernel reads from `bytes` only, and checks the other process's addresses itself.
    let length =
        unsafe { libc::process_vm_writev(thread as i32, &raw const local, 1, &raw const remote, 1, 0) };
    match length {
        -1 => Err(last_errno()),
        length if length as usize == bytes.len() => Ok(()),
        _ => Err(Errno::FAULT),
    }
}

/// Appends the NUL-terminated string at `address` to `into`, without the NUL.
///
/// # Errors
/// As [`read`]; `ENAMETOOLONG` for what is no path.
pub fn read_string(thread: u32, address: u64, into: &mut Vec<u8>) -> Result<(), Errno> {
    let start = into.len();
    let mut at = address;
    while into.len() - start < PATH_MAX {
        let filled = into.len();
        let length = (PAGE - at % PAGE) as usize;
        into.resize(filled + length, 0);
        let got = read(thread, at, &mut into[filled..])?;
        into.truncate(filled + got);
        if let Some(end) = into[filled..].iter().position(|byte| *byte == 0) {
            into.truncate(filled + end);
            return Ok(());
        }
        if got == 0 {
            return Err(Errno::FAULT);
        }
        at += got as u64;
    }
    Err(Errno::NAMETOOLONG)
}

/// The number that a process carries along: it passes to its children and stays over `execve`. `None` where it has none. It is the soft
/// limit of the time that a process may run with a real-time policy, which those in a sandbox may not take anyway.
///
/// # Errors
/// What `prlimit` says.
pub fn mark(thread: u32) -> Result<Option<u64>, Errno> {
    let limit = limit(thread)?;
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

/// Gives a process such a number, or takes it away.
///
/// # Errors
/// What `prlimit` says.
pub fn set_mark(thread: u32, mark: Option<u64>) -> Result<(), Errno> {
    let mut limit = limit(thread)?;
    limit.rlim_cur = mark.unwrap_or(limit.rlim_max);
    // SAFETY: the kernel reads one rlimit.
    let set =
        unsafe { libc::prlimit(thread as i32, libc::RLIMIT_RTTIME, &raw const limit, std::ptr::null_mut()) };
    if set < 0 { Err(last_errno()) } else { Ok(()) }
}

fn limit(thread: u32) -> Result<libc::rlimit, Errno> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit.
    let got = unsafe { libc::prlimit(thread as i32, libc::RLIMIT_RTTIME, std::ptr::null(), &raw mut limit) };
    if got < 0 { Err(last_errno()) } else { Ok(limit) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The kernel's `struct stat`, as a process gets it.
#[derive(Clone, Copy)]
pub struct Stat(libc::stat);

/// The kernel's `struct statx`, as a process gets it.
#[derive(Clone, Copy)]
pub struct StatX(libc::statx);

/// What of a file is to be told otherwise than it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disguise {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The length of a symbolic link's target.
    pub size_bytes: Option<u64>,
    /// What kind of device it is (`S_IFCHR`, `S_IFBLK`), and its numbers.
    pub device: Option<(u32, u32, u32)>,
}

impl Stat {
    /// What the kernel says of the file at `path`.
    ///
    /// # Errors
    /// What `newfstatat` says.
    pub fn of(path: &std::ffi::CStr, follow: bool) -> Result<Stat, Errno> {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
        let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        // SAFETY: the path ends with a NUL, and the kernel fills the struct.
        unsafe {
            match libc::fstatat(libc::AT_FDCWD, path.as_ptr(), stat.as_mut_ptr(), flags) {
                0 => Ok(Stat(stat.assume_init())),
                _ => Err(last_errno()),
            }
        }
    }

    /// The kind of file and its mode.
    pub fn mode(&self) -> u32 {
        self.0.st_mode
    }

    /// The user and the group.
    pub fn owner(&self) -> (u32, u32) {
        (self.0.st_uid, self.0.st_gid)
    }

    /// Its length.
    pub fn size_bytes(&self) -> u64 {
        self.0.st_size as u64
    }

    /// Tells otherwise.
    pub fn disguise(&mut self, disguise: &Disguise) {
        (self.0.st_uid, self.0.st_gid) = (disguise.uid, disguise.gid);
        if let Some(size) = disguise.size_bytes {
            self.0.st_size = size as i64;
        }
        if let Some((kind, major, minor)) = disguise.device {
            self.0.st_mode = (self.0.st_mode & 0o7777) | kind;
            self.0.st_rdev = rustix::fs::makedev(major, minor);
        }
    }

    /// The bytes that the kernel would write.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the struct was zeroed, so all its bytes are initialised.
        unsafe { std::slice::from_raw_parts((&raw const self.0).cast(), size_of::<libc::stat>()) }
    }
}

impl StatX {
    /// What the kernel says of the file at `path`; `flags` and `mask` as for `statx`.
    ///
    /// # Errors
    /// What `statx` says.
    pub fn of(path: &std::ffi::CStr, flags: i32, mask: u32) -> Result<StatX, Errno> {
        let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: the path ends with a NUL, and the kernel fills the struct.
        unsafe {
            match libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, stat.as_mut_ptr()) {
                0 => Ok(StatX(stat.assume_init())),
                _ => Err(last_errno()),
            }
        }
    }

    /// Tells otherwise.
    pub fn disguise(&mut self, disguise: &Disguise) {
        (self.0.stx_uid, self.0.stx_gid) = (disguise.uid, disguise.gid);
        if let Some(size) = disguise.size_bytes {
            self.0.stx_size = size;
        }
        if let Some((kind, major, minor)) = disguise.device {
            self.0.stx_mode = (self.0.stx_mode & 0o7777) | kind as u16;
            (self.0.stx_rdev_major, self.0.stx_rdev_minor) = (major, minor);
        }
    }

    /// The bytes that the kernel would write.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the struct was zeroed, so all its bytes are initialised.
        unsafe { std::slice::from_raw_parts((&raw const self.0).cast(), size_of::<libc::statx>()) }
    }
}
