//! Overlay mounts that are attached nowhere.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::Error;

/// The writable side of an overlay; names from the store's folder.
pub(crate) struct Upper {
    pub(crate) diff: String,
    pub(crate) work: String,
}

/// Mounts `lowers`, the highest first, names from `store`. Without an upper the mount is read-only, and there must be two.
pub(crate) fn overlay(
    store: BorrowedFd<'_>,
    lowers: &[String],
    upper: Option<&Upper>,
) -> Result<OwnedFd, Error> {
    let failed = |step| move |error: rustix::io::Errno| Error::Mount { step, source: io::Error::from(error) };
    // The only way to name what may be unreachable by its path; the kernel resolves it once.
    let at = |name: &str| format!("/proc/self/fd/{}/{name}", store.as_raw_fd());
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen"))?;
    let set = |key: &'static str, value: &str| fsconfig_set_string(&context, key, value).map_err(failed(key));
    set("source", "lithify")?;
    for lower in lowers {
        set("lowerdir+", &at(lower))?;
    }
    if let Some(Upper { diff, work }) = upper {
        set("upperdir", &at(diff))?;
        set("workdir", &at(work))?;
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
