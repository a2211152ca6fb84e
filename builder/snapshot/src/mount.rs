//! Overlay mounts that are attached nowhere.
//!
//! Linux 6.7 takes the lower folders one by one (`lowerdir+`). Older kernels only take them in one text of less than a page, so
//! they get short names: symbolic links in a temporary folder. There the mount is attached for a moment, and cloned.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree,
    unmount,
};

use crate::Error;
use crate::store::Store;

/// The writable side of an overlay; names from the store's folder.
pub(crate) struct Upper {
    pub(crate) diff: String,
    pub(crate) work: String,
}

/// Mounts `lowers`, the highest first, names from the store's folder. Without an upper the mount is read-only, and there
/// must be two.
///
/// Of more folders than an overlay takes, the lowest are put together in one of their own, which is the lowest of the other: nothing
/// is below them that they would have to hide. The kernel stacks no third.
pub(crate) fn overlay(store: &Store, lowers: &[String], upper: Option<&Upper>) -> Result<OwnedFd, Error> {
    if lowers.len() <= MOST_LOWERS {
        return plain(store, lowers, upper);
    }
    let (above, lowest) = lowers.split_at(MOST_LOWERS - 1);
    if lowest.len() > MOST_LOWERS {
        let step =
            "mount: overlay takes 999 layers; the snapshotter copy takes any number (--snapshotter=copy)";
        return Err(failed(step)(Errno::TOOBIG));
    }
    let place = store.temporary()?;
    place.make("point")?;
    let lowest = plain(store, lowest, None)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&lowest, "", place.folder(), "point", flags).map_err(failed("move_mount"))?;
    let lowers: Vec<String> = above.iter().cloned().chain([place.relative("point")]).collect();
    let mounted = plain(store, &lowers, upper);
    unmount(at(place.folder(), "point"), UnmountFlags::DETACH).map_err(failed("umount"))?;
    mounted
}

/// As many folders as the kernel stacks: `OVL_MAX_STACK` in fs/overlayfs.
const MOST_LOWERS: usize = 500;

fn plain(store: &Store, lowers: &[String], upper: Option<&Upper>) -> Result<OwnedFd, Error> {
    match detached(store, lowers, upper) {
        // The kernel does not know the option; before 6.5 it says so only in the end.
        Err(Error::Mount { step: "lowerdir+" | "fsconfig", source })
            if source.kind() == io::ErrorKind::InvalidInput =>
        {
            by_text(store, lowers, upper)
        }
        other => other,
    }
}

fn failed(step: &'static str) -> impl FnOnce(Errno) -> Error {
    move |error| Error::Mount { step, source: error.into() }
}

/// The only way to name what may be unreachable by its path; the kernel resolves it once.
fn at(folder: BorrowedFd<'_>, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())
}

fn detached(store: &Store, lowers: &[String], upper: Option<&Upper>) -> Result<OwnedFd, Error> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen"))?;
    let set = |key: &'static str, value: &str| fsconfig_set_string(&context, key, value).map_err(failed(key));
    set("source", "lithify")?;
    for lower in lowers {
        set("lowerdir+", &at(store.folder(), lower))?;
    }
    if let Some(Upper { diff, work }) = upper {
        set("upperdir", &at(store.folder(), diff))?;
        set("workdir", &at(store.folder(), work))?;
        // What is lost in a crash was never made visible.
        fsconfig_set_flag(&context, "volatile").map_err(failed("volatile"))?;
    }
    // Without it, a user namespace fails later, when a folder is made where one was removed.
    fsconfig_set_flag(&context, "userxattr").map_err(failed("userxattr"))?;
    fsconfig_create(&context).map_err(failed("fsconfig"))?;
    let flags = match upper {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(failed("fsmount"))
}

/// The text that mount(2) takes must fit into a page with its NUL; what is longer would be cut off silently.
const MOST_TEXT: usize = 4095;

pub(crate) fn by_text(store: &Store, lowers: &[String], upper: Option<&Upper>) -> Result<OwnedFd, Error> {
    let place = store.temporary()?;
    let links = place.make("links")?;
    let short = |number: usize, name: &str| -> Result<String, Error> {
        let link = number.to_string();
        rustix::fs::symlinkat(format!("../../{name}"), &links, &link).map_err(failed("symlink"))?;
        Ok(at(links.as_fd(), &link))
    };
    let names: Result<Vec<_>, Error> =
        lowers.iter().enumerate().map(|(number, lower)| short(number, lower)).collect();
    let mut text = format!("userxattr,lowerdir={}", names?.join(":"));
    if let Some(Upper { diff, work }) = upper {
        let (diff, work) = (short(lowers.len(), diff)?, short(lowers.len() + 1, work)?);
        text += &format!(",upperdir={diff},workdir={work},volatile");
    }
    if text.len() > MOST_TEXT {
        return Err(failed("mount: too many layers for this kernel; Linux 6.7 takes 500")(Errno::TOOBIG));
    }
    let point = place.make("point")?;
    let flags = if upper.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
    let text = CString::new(text).map_err(|_| failed("mount")(Errno::INVAL))?;
    mount("lithify", at(point.as_fd(), ""), "overlay", flags, text.as_c_str()).map_err(failed("mount"))?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let cloned = open_tree(place.folder(), "point", clone).map_err(failed("open_tree"));
    let detached = unmount(at(place.folder(), "point"), UnmountFlags::DETACH).map_err(failed("umount"));
    detached.and(cloned)
}
