//! Mounts as descriptors: made detached, attached where they are wanted, gone when nobody holds them.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

pub use rustix::mount::MountAttrFlags as Attributes;

/// How much of what is mounted below comes along with a bind mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// Nothing. Refused (`EINVAL`) where a more privileged namespace has mounted something below.
    Without,
    /// Everything.
    With,
}

/// The layers that the kernel stacks: 500, see `ovl_mount_dir_check` in Linux's fs/overlayfs/params.c.
pub const MAX_LOWERS: usize = 500;

/// Mounts an overlay of `lowers`, **lowest first**, with `upper` and its `work` folder on top where they are given, and returns
/// it detached: it serves as a folder's descriptor and for [`attach`], and is gone when its last holder is. Relative paths are
/// below `at`. Always with `userxattr`, as a user namespace wants it; with an upper also `volatile`: nothing is synced.
///
/// # Errors
/// What the kernel says: `EINVAL` also stands for a file system that cannot be an upper, such as another overlay.
pub fn overlay(lowers: &[&Path], upper: Option<(&Path, &Path)>, at: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if lowers.is_empty() || lowers.len() > MAX_LOWERS {
        let text = format!("an overlay of {} layers: it takes 1 to {MAX_LOWERS}", lowers.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    match overlay_by_parameters(lowers, upper, at) {
        // Linux before 6.5 knows no `lowerdir+`.
        Err(Errno::INVAL | Errno::NOSYS) if !knows_lowerdir_plus() => overlay_by_options(lowers, upper, at),
        other => Ok(other?),
    }
}

fn overlay_by_parameters(
    lowers: &[&Path],
    upper: Option<(&Path, &Path)>,
    at: BorrowedFd<'_>,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, path: &Path| {
        // The link leads straight to the folder: what is above it need not be open to this user, and no path of the host's
        // shows in the mount's options. An absolute path replaces it.
        let base = format!("/proc/self/fd/{}", at.as_raw_fd());
        fsconfig_set_string(&context, key, Path::new(&base).join(path).as_path())
    };
    fsconfig_set_string(&context, "source", "overlay")?;
    for lower in lowers.iter().rev() {
        set("lowerdir+", lower)?;
    }
    if let Some((upper, work)) = upper {
        set("upperdir", upper)?;
        set("workdir", work)?;
        fsconfig_set_flag(&context, "volatile")?;
    }
    fsconfig_set_flag(&context, "userxattr")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, Attributes::empty())
}

fn knows_lowerdir_plus() -> bool {
    let known = || -> rustix::io::Result<()> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "lowerdir+", "/")
    };
    known().is_ok()
}

/// As [`overlay`], by `mount(2)`, for Linux before 6.5. Its options fit on a page: so paths are relative to `at`, where a thread of
/// its own goes to, in a mount namespace of its own, so that the mount is seen nowhere while it has a place.
///
/// # Errors
/// As for [`overlay`]; [`io::ErrorKind::InvalidInput`] when the paths are longer than a page.
pub fn overlay_by_options(
    lowers: &[&Path],
    upper: Option<(&Path, &Path)>,
    at: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let mut options = b"userxattr,lowerdir=".to_vec();
    for (index, lower) in lowers.iter().rev().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        push_escaped(&mut options, lower);
    }
    if let Some((upper, work)) = upper {
        options.extend_from_slice(b",volatile,upperdir=");
        push_escaped(&mut options, upper);
        options.extend_from_slice(b",workdir=");
        push_escaped(&mut options, work);
    }
    // The kernel cuts off what is longer, without a word.
    if options.len() >= 4096 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the paths of {} layers do not fit into one mount; Linux 6.5 takes more", lowers.len()),
        ));
    }
    let options = CString::new(options).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let place = lowers[lowers.len() - 1];
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            crate::thread::own_folders()?;
            rustix::process::fchdir(at)?;
            crate::thread::own_mounts()?;
            rustix::mount::mount("overlay", place, "overlay", MountFlags::empty(), options.as_c_str())?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Ok(rustix::mount::open_tree(rustix::fs::CWD, place, flags)?)
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread has failed")))
    })
}

fn push_escaped(options: &mut Vec<u8>, path: &Path) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b':' | b',') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

/// Mounts the file system `kind` with `options` (`name` and value), and returns it detached.
///
/// # Errors
/// What the kernel says.
pub fn filesystem(
    kind: &str,
    options: &[(&str, Option<&str>)],
    attributes: Attributes,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, *name, *value)?,
            None => fsconfig_set_flag(&context, *name)?,
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached copy of the mount tree at the open file or folder, which must be in this mount namespace; a mount that is
/// detached itself can be copied since Linux 6.15.
///
/// # Errors
/// `EINVAL` as said above, and what else `open_tree` says.
pub fn bind(what: impl AsFd, below: Below) -> io::Result<OwnedFd> {
    bind_at(what, c"", below)
}

/// As [`bind`], for the file or folder `name` in the folder `what`. A symbolic link is followed.
///
/// # Errors
/// As for [`bind`].
pub fn bind_at(what: impl AsFd, name: &CStr, below: Below) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let flags = match below {
        Below::With => flags | OpenTreeFlags::AT_RECURSIVE,
        Below::Without => flags,
    };
    Ok(rustix::mount::open_tree(what, name, flags)?)
}

/// Attaches a detached mount over an open file or folder.
///
/// # Errors
/// What `move_mount` says.
pub fn attach(mount: impl AsFd, over: impl AsFd) -> io::Result<()> {
    attach_at(mount, over, c"")
}

/// As [`attach`], over the file or folder `name` in the folder `over`. A symbolic link is not followed.
///
/// # Errors
/// What `move_mount` says.
pub fn attach_at(mount: impl AsFd, over: impl AsFd, name: &CStr) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", over, name, flags)?)
}

/// Adds `attributes` (such as read-only) to a mount and, [`Below::With`], to all that is mounted below it.
///
/// # Errors
/// What `mount_setattr` says (Linux 5.12).
pub fn restrict(mount: impl AsFd, attributes: Attributes, below: Below) -> io::Result<()> {
    let request =
        libc::mount_attr { attr_set: attributes.bits().into(), attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = match below {
        Below::With => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
        Below::Without => libc::AT_EMPTY_PATH,
    };
    // SAFETY: the kernel reads the empty path and one `mount_attr` of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the mount at `path` away at once; what is still open in it works on.
///
/// # Errors
/// What `umount2` says.
pub fn detach(path: &CStr) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH)?)
}

/// Makes the folder `root`, where something must be mounted, the root and working folder of this process and its mount
/// namespace; what was there before is gone.
///
/// # Errors
/// What `pivot_root` says.
pub fn pivot_into(root: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // The old root ends up mounted over the new one, see pivot_root(2) under "pivot_root(".", ".")".
    rustix::process::pivot_root(c".", c".")?;
    detach(c".")?;
    Ok(rustix::process::chdir(c"/")?)
}
