//! What a single thread can have for itself.

#![allow(unsafe_code)]

use std::io;

/// Gives the calling thread its own root folder, working folder and umask, apart from those of the process.
///
/// # Errors
/// What `unshare(CLONE_FS)` says.
pub fn own_folders() -> io::Result<()> {
    // SAFETY: only the descriptor table is dangerous to take apart, and it stays shared.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?)
}

/// As [`own_folders`], and a copy of the mount namespace, in which the working folder is the same.
///
/// # Errors
/// What `unshare(CLONE_NEWNS)` says.
pub fn own_mounts() -> io::Result<()> {
    // SAFETY: as above.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?)
}

/// Sets as whom the calling thread alone makes and opens files. For any but user 0 the file capabilities go.
///
/// # Errors
/// Where the kernel did not take the ids: they are not mapped, or not this thread's to take.
pub fn act_as(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: changes nothing but this thread's credentials. The answer is the id before; asking with -1 tells the present one.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        (libc::syscall(libc::SYS_setfsuid, -1), libc::syscall(libc::SYS_setfsgid, -1))
    };
    if (now.0 as u32, now.1 as u32) == (uid, gid) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}
