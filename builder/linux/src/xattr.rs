//! Extended attributes of files that are not open.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

/// getxattrat(2), since Linux 6.13; the same number on every architecture that lithify knows.
const SYS_GETXATTRAT: libc::c_long = 464;

/// Whether this kernel, or what filters its calls, does not know the call.
static UNKNOWN: AtomicBool = AtomicBool::new(false);

/// `struct xattr_args` in linux/xattr.h.
#[repr(C, align(8))]
struct Arguments {
    value: u64,
    size: u32,
    flags: u32,
}

/// Reads the attribute of the file `name` in `directory`, a symbolic link's own, into `value`; its length in bytes.
///
/// # Errors
/// `ENOSYS` where the kernel has no such call: then the file must be reached by a path. And what the call says.
pub fn get(directory: BorrowedFd<'_>, name: &CStr, attribute: &CStr, value: &mut [u8]) -> io::Result<usize> {
    if UNKNOWN.load(Ordering::Relaxed) {
        return Err(Errno::NOSYS.into());
    }
    let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let arguments = Arguments { value: value.as_mut_ptr() as u64, size, flags: 0 };
    // SAFETY: both names end with NUL; the kernel writes at most `size` bytes to `value`, which is borrowed until then, and
    // reads as many bytes of the arguments as it is told.
    let length = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const arguments,
            size_of::<Arguments>(),
        )
    };
    usize::try_from(length).map_err(|_| {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOSYS) {
            UNKNOWN.store(true, Ordering::Relaxed);
        }
        error
    })
}
