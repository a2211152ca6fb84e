//! What a user may do with a file: asked here for all who are not root, since the kernel takes them for that.
//!
//! Folders are looked at by the names in a path; those that only a link leads through are not.

use lithify_linux::capability::Capabilities;
use lithify_linux::remote::Stat;
use lithify_linux::seccomp::Notification;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::caller::Spot;
use super::credentials::Credentials;
use super::{Reply, Session};

pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const SEARCH: u32 = 1;
const STICKY: u32 = 0o1000;

impl Session {
    /// The caller, if there is anything that it may not do.
    pub(super) fn limited(&self, thread: u32) -> Result<Option<Credentials>, Errno> {
        if !self.table.has_others() {
            return Ok(None);
        }
        let who = self.who(thread)?;
        Ok((!who.may(Capabilities::DAC_OVERRIDE)).then(|| who.clone()))
    }

    /// Refuses what the caller may not do with the file itself, or the way to it. What is not there is for the kernel to say.
    pub(super) fn check(
        &self,
        who: &Credentials,
        spot: &Spot,
        follow: bool,
        wants: u32,
    ) -> Result<(), Errno> {
        self.check_way(who, spot)?;
        self.check_file(who, spot, follow, wants)
    }

    fn check_file(&self, who: &Credentials, spot: &Spot, follow: bool, wants: u32) -> Result<(), Errno> {
        let Ok(stat) = Stat::of(spot.path(), follow) else { return Ok(()) };
        let owner = self.disguise(spot, follow).unwrap_or_default();
        if wants & !granted(who, (owner.uid, owner.gid), stat.mode()) == 0 || self.has_list(spot, follow) {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }

    /// Refuses a path through folders that the caller may not search.
    pub(super) fn check_way(&self, who: &Credentials, spot: &Spot) -> Result<(), Errno> {
        if spot.is_in_proc() {
            return Ok(());
        }
        spot.folders().try_for_each(|folder| self.check_file(who, &folder, true, SEARCH))
    }

    /// Refuses to make, remove or rename the file.
    pub(super) fn check_change(&self, who: &Credentials, spot: &Spot) -> Result<(), Errno> {
        self.check_way(who, spot)?;
        let Some((folder, _)) = spot.split() else { return Ok(()) };
        self.check_file(who, &folder, true, WRITE | SEARCH)?;
        let Ok(stat) = Stat::of(folder.path(), true) else { return Ok(()) };
        if stat.mode() & STICKY == 0 || Stat::of(spot.path(), false).is_err() {
            return Ok(());
        }
        let owns =
            |spot: &Spot, follow| self.disguise(spot, follow).unwrap_or_default().uid == who.users.file;
        let may = who.may(Capabilities::FOWNER) || owns(spot, false) || owns(&folder, true);
        if may { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Refuses what only the owner may do.
    pub(super) fn check_owner(&self, who: &Credentials, spot: &Spot, follow: bool) -> Result<(), Errno> {
        self.check_way(who, spot)?;
        let owner = self.disguise(spot, follow).unwrap_or_default();
        let is_there = Stat::of(spot.path(), follow).is_ok();
        let may = !is_there || owner.uid == who.users.file || who.may(Capabilities::FOWNER);
        if may { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Refuses to open the file so, or to make it.
    pub(super) fn check_open(&self, who: &Credentials, spot: &Spot, flags: OFlags) -> Result<(), Errno> {
        let follow = !flags.contains(OFlags::NOFOLLOW);
        if flags.contains(OFlags::PATH) {
            return self.check_way(who, spot);
        }
        if flags.contains(OFlags::TMPFILE) {
            return self.check(who, spot, true, WRITE | SEARCH);
        }
        if flags.contains(OFlags::CREATE) && Stat::of(spot.path(), follow).is_err() {
            return self.check_change(who, spot);
        }
        let mut wants = match flags.bits() & OFlags::RWMODE.bits() {
            mode if mode == OFlags::WRONLY.bits() => WRITE,
            mode if mode == OFlags::RDWR.bits() => READ | WRITE,
            _ => READ,
        };
        if flags.contains(OFlags::TRUNC) {
            wants |= WRITE;
        }
        self.check(who, spot, follow, wants)
    }

    /// Calls that are only refused or left to the kernel.
    pub(super) fn permission(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let Some(mut who) = self.limited(call.thread)? else { return Ok(Reply::Continue) };
        let [a, b, c, d, ..] = call.arguments;
        let here = libc::AT_FDCWD as u64;
        let nofollow = |flags: u64| flags & libc::AT_SYMLINK_NOFOLLOW as u64 != 0;
        let is_empty = |flags: u64| flags & libc::AT_EMPTY_PATH as u64 != 0;
        match call.call {
            libc::SYS_unlinkat => self.refuse_change(&who, call.thread, (a, b)),
            libc::SYS_linkat => self.refuse_change(&who, call.thread, (c, d)),
            libc::SYS_faccessat => self.refuse_access(&mut who, call.thread, (a, b), c, 0),
            libc::SYS_faccessat2 => self.refuse_access(&mut who, call.thread, (a, b), c, d),
            libc::SYS_truncate => self.refuse(&who, call.thread, (here, a), WRITE),
            libc::SYS_chdir => self.refuse(&who, call.thread, (here, a), SEARCH),
            libc::SYS_fchdir => {
                self.check_file(&who, &self.open_spot(call.thread, a), true, SEARCH)?;
                Ok(Reply::Continue)
            }
            libc::SYS_utimensat => {
                let Ok(spot) = self.spot(call.thread, a, b, true) else { return Ok(Reply::Continue) };
                let follow = spot.is_open || !nofollow(d);
                if c == 0 && self.check(&who, &spot, follow, WRITE).is_ok() {
                    return Ok(Reply::Continue);
                }
                let refused = self.check_owner(&who, &spot, follow);
                let errno = if c == 0 { Errno::ACCESS } else { Errno::PERM };
                refused.map(|()| Reply::Continue).map_err(|_| errno)
            }
            libc::SYS_fchmod => self.refuse_mode(&who, call.thread, (a, 0), true),
            libc::SYS_fchmodat => self.refuse_mode(&who, call.thread, (a, b), false),
            libc::SYS_fchmodat2 => self.refuse_mode(&who, call.thread, (a, b), is_empty(d)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink | libc::SYS_rmdir => self.refuse_change(&who, call.thread, (here, a)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_link => self.refuse_change(&who, call.thread, (here, b)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_access => self.refuse_access(&mut who, call.thread, (here, a), b, 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chmod => self.refuse_mode(&who, call.thread, (here, a), false),
            _ => Ok(Reply::Continue),
        }
    }

    fn refuse(
        &mut self,
        who: &Credentials,
        thread: u32,
        (directory, path): (u64, u64),
        wants: u32,
    ) -> Result<Reply, Errno> {
        if let Ok(spot) = self.spot(thread, directory, path, false) {
            self.check(who, &spot, true, wants)?;
        }
        Ok(Reply::Continue)
    }

    fn refuse_change(
        &mut self,
        who: &Credentials,
        thread: u32,
        (directory, path): (u64, u64),
    ) -> Result<Reply, Errno> {
        if let Ok(spot) = self.spot(thread, directory, path, false) {
            self.check_change(who, &spot)?;
        }
        Ok(Reply::Continue)
    }

    /// access(2) asks for the real user, unless told otherwise.
    fn refuse_access(
        &mut self,
        who: &mut Credentials,
        thread: u32,
        (directory, path): (u64, u64),
        wants: u64,
        flags: u64,
    ) -> Result<Reply, Errno> {
        if flags & libc::AT_EACCESS as u64 == 0 {
            (who.users.file, who.groups.file) = (who.users.real, who.groups.real);
        }
        let Ok(spot) = self.spot(thread, directory, path, flags & libc::AT_EMPTY_PATH as u64 != 0) else {
            return Ok(Reply::Continue);
        };
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW as u64 == 0;
        self.check(who, &spot, follow, wants as u32 & 7)?;
        Ok(Reply::Continue)
    }

    fn refuse_mode(
        &mut self,
        who: &Credentials,
        thread: u32,
        (directory, path): (u64, u64),
        may_be_empty: bool,
    ) -> Result<Reply, Errno> {
        if let Ok(spot) = self.spot(thread, directory, path, may_be_empty) {
            self.check_owner(who, &spot, true)?;
        }
        Ok(Reply::Continue)
    }
}

/// Which of [`READ`], [`WRITE`] and [`SEARCH`] the mode of a file grants.
fn granted(who: &Credentials, (uid, gid): (u32, u32), mode: u32) -> u32 {
    let class = if who.users.file == uid {
        6
    } else if who.is_in(gid) {
        3
    } else {
        0
    };
    mode >> class & 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_grant_by_the_first_class_that_fits() {
        let check = |owner: (u32, u32), mode: u32, expected: u32| {
            let who = Credentials::new(7, 8, &[9], Capabilities::empty());
            assert_eq!(granted(&who, owner, mode), expected, "{owner:?} {mode:o}");
        };
        check((7, 8), 0o421, READ);
        check((7, 0), 0o077, 0);
        check((0, 8), 0o721, WRITE);
        check((0, 9), 0o701, 0);
        check((0, 0), 0o701, SEARCH);
    }
}
