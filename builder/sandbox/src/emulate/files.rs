//! Owners and kinds of files, as recorded: asked for and changed.

use lithify_linux::capability::Capabilities;
use lithify_linux::owner::{self, Owner};
use lithify_linux::remote::{self, Disguise, Stat, StatX};
use lithify_linux::seccomp::Notification;
use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::caller::Spot;
use super::create::{NODE_ATTRIBUTE, parse_node};
use super::{Identities, Reply, Session};

/// The longest value of an attribute of ours.
const LONGEST: usize = 64;
/// Who executes the file takes on its group.
const SET_GROUP: u32 = 0o2000;
/// "Leave it as it is", in chown(2).
const SAME: u32 = u32::MAX;

/// One of the calls that ask about a file.
struct Question {
    directory: u64,
    path: u64,
    answer_at: u64,
    flags: i32,
    /// The mask, where it is statx(2).
    mask: Option<u32>,
}

impl Question {
    fn of(call: &Notification) -> Question {
        let [a, b, c, d, e, _] = call.arguments;
        let here = libc::AT_FDCWD as u64;
        let question =
            |directory, path, answer_at, flags| Question { directory, path, answer_at, flags, mask: None };
        match call.call {
            libc::SYS_statx => Question { mask: Some(d as u32), ..question(a, b, e, c as i32) },
            libc::SYS_fstat => question(a, 0, b, libc::AT_EMPTY_PATH),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_stat => question(here, a, b, 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lstat => question(here, a, b, libc::AT_SYMLINK_NOFOLLOW),
            _ => question(a, b, c, d as i32),
        }
    }
}

impl Session {
    pub(super) fn stat(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let question = Question::of(call);
        let may_be_empty = question.flags & libc::AT_EMPTY_PATH != 0;
        // Whatever is wrong, the kernel says it best.
        let Ok(spot) = self.spot(call.thread, question.directory, question.path, may_be_empty) else {
            return Ok(Reply::Continue);
        };
        let follow = spot.is_open || question.flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        if spot.is_open && !may_be_empty && !follow {
            return Ok(Reply::Continue);
        }
        let (spot, disguise) = match self.own_process(call.thread, &spot)? {
            Some((spot, disguise)) => (spot, Some(disguise)),
            None if spot.is_in_proc() => return Ok(Reply::Continue),
            None => {
                if let Some(who) = self.limited(call.thread)? {
                    self.check_way(&who, &spot)?;
                }
                let disguise = self.disguise(&spot, follow);
                (spot, disguise)
            }
        };
        let Some(disguise) = disguise else { return Ok(Reply::Continue) };
        let (path, link) = (spot.path(), if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW });
        if let Some(mask) = question.mask {
            let kept = libc::AT_STATX_SYNC_TYPE | libc::AT_NO_AUTOMOUNT;
            let Ok(mut stat) = StatX::of(path, (question.flags & kept) | link, mask) else {
                return Ok(Reply::Continue);
            };
            stat.disguise(&disguise);
            remote::write(call.thread, question.answer_at, stat.bytes())?;
        } else {
            let Ok(mut stat) = Stat::of(path, follow) else { return Ok(Reply::Continue) };
            stat.disguise(&disguise);
            remote::write(call.thread, question.answer_at, stat.bytes())?;
        }
        Ok(Reply::Value(0))
    }

    /// Files that are about the caller in /proc belong to whoever it is.
    fn own_process(&self, thread: u32, spot: &Spot) -> Result<Option<(Spot, Disguise)>, Errno> {
        if self.identities == Identities::Real || !self.table.has_others() {
            return Ok(None);
        }
        let Some(spot) = spot.in_own_process(thread) else { return Ok(None) };
        let who = self.who(thread)?;
        let (uid, gid) = (who.users.effective, who.groups.effective);
        Ok(Some((spot, Disguise { uid, gid, ..Disguise::default() })))
    }

    /// What is recorded of a file; `None` where nothing is.
    pub(super) fn disguise(&self, spot: &Spot, follow: bool) -> Option<Disguise> {
        if self.identities == Identities::Real {
            let device = self.node(spot, follow)?;
            let stat = Stat::of(spot.path(), follow).ok()?;
            let (uid, gid) = stat.owner();
            return Some(Disguise { uid, gid, size_bytes: None, device: Some(device) });
        }
        if let Some(owner) = attribute(spot, follow) {
            let device = self.node(spot, follow);
            return Some(Disguise { uid: owner.uid, gid: owner.gid, size_bytes: None, device });
        }
        if !follow && let Ok(text) = rustix::fs::readlink(spot.path(), vec![]) {
            let (owner, target) = owner::read_link_text(text.to_bytes());
            let size_bytes = Some(target.len() as u64);
            return (!owner.is_default()).then_some(Disguise {
                uid: owner.uid,
                gid: owner.gid,
                size_bytes,
                device: None,
            });
        }
        // The output is a pipe without a name that the first user may open.
        let may_be_output = spot.is_open && self.first_user != 0;
        if !(self.pipes || may_be_output) {
            return None;
        }
        let stat = Stat::of(spot.path(), follow).ok()?;
        let owner = match FileType::from_raw_mode(stat.mode()) {
            FileType::Fifo if spot.is_open && spot.resolve().is_err() => Owner::new(self.first_user, 0),
            FileType::Fifo | FileType::Socket => pipe_owner(spot)?,
            _ => return None,
        };
        Some(Disguise { uid: owner.uid, gid: owner.gid, size_bytes: None, device: None })
    }

    /// The device that a file stands for.
    fn node(&self, spot: &Spot, follow: bool) -> Option<(u32, u32, u32)> {
        let mut value = [0; LONGEST];
        let read = if follow {
            rustix::fs::getxattr(spot.path(), NODE_ATTRIBUTE, &mut value[..])
        } else {
            rustix::fs::lgetxattr(spot.path(), NODE_ATTRIBUTE, &mut value[..])
        };
        parse_node(&value[..read.ok()?])
    }

    pub(super) fn read_link(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let [a, b, c, d, ..] = call.arguments;
        let (directory, path, buffer, length) =
            if call.call == libc::SYS_readlinkat { (a, b, c, d) } else { (libc::AT_FDCWD as u64, a, b, c) };
        let Ok(spot) = self.spot(call.thread, directory, path, true) else { return Ok(Reply::Continue) };
        if spot.is_in_proc() {
            return Ok(Reply::Continue);
        }
        if let Some(who) = self.limited(call.thread)? {
            self.check_way(&who, &spot)?;
        }
        // Of an open link (O_PATH), what /proc has is the way to it.
        let spot = if spot.is_open { spot.resolve()? } else { spot };
        let Ok(text) = rustix::fs::readlink(spot.path(), vec![]) else { return Ok(Reply::Continue) };
        let (owner, target) = owner::read_link_text(text.to_bytes());
        if owner.is_default() || (length as i32) <= 0 {
            return Ok(Reply::Continue);
        }
        let target = &target[..target.len().min(length as usize)];
        remote::write(call.thread, buffer, target)?;
        Ok(Reply::Value(target.len() as i64))
    }

    pub(super) fn change_owner(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let [a, b, c, d, e, _] = call.arguments;
        let here = libc::AT_FDCWD as u64;
        let nofollow = libc::AT_SYMLINK_NOFOLLOW as u64;
        let (directory, path, uid, gid, flags) = match call.call {
            libc::SYS_fchownat => (a, b, c as u32, d as u32, e),
            libc::SYS_fchown => (a, 0, b as u32, c as u32, libc::AT_EMPTY_PATH as u64),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lchown => (here, a, b as u32, c as u32, nofollow),
            _ => (here, a, b as u32, c as u32, 0),
        };
        let spot = self.spot(call.thread, directory, path, flags & libc::AT_EMPTY_PATH as u64 != 0)?;
        let follow = spot.is_open || flags & nofollow == 0;
        self.give(call.thread, &spot, follow, (uid, gid))
    }

    fn give(
        &mut self,
        thread: u32,
        spot: &Spot,
        follow: bool,
        (uid, gid): (u32, u32),
    ) -> Result<Reply, Errno> {
        let stat = Stat::of(spot.path(), follow)?;
        let kind = FileType::from_raw_mode(stat.mode());
        let now = self.disguise(spot, follow).unwrap_or_default();
        let wanted = |id: u32, now: u32| if id == SAME { now } else { id };
        let new = Owner::new(wanted(uid, now.uid), wanted(gid, now.gid));
        let who = self.who(thread)?;
        let keeps_group = new.gid == now.gid || who.is_in(new.gid);
        let is_own = who.users.file == now.uid && new.uid == now.uid && keeps_group;
        if !(is_own || who.may(Capabilities::CHOWN)) {
            return Err(Errno::PERM);
        }
        // Does what the kernel does beside: takes bits and capabilities off, and notes the time.
        let own = |id: u32| (id != SAME).then_some(0);
        let (uid, gid) = (own(uid).map(rustix::fs::Uid::from_raw), own(gid).map(rustix::fs::Gid::from_raw));
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        match rustix::fs::chownat(CWD, spot.path(), uid, gid, flags) {
            // A pipe or a device of somebody outside.
            Err(Errno::PERM | Errno::INVAL)
                if !matches!(kind, FileType::RegularFile | FileType::Directory) => {}
            other => other?,
        }
        match kind {
            FileType::RegularFile | FileType::Directory => record(spot, follow, new)?,
            FileType::Symlink => rewrite_link(spot, new)?,
            FileType::Fifo | FileType::Socket => {
                record_pipe(spot, new)?;
                self.pipes |= !new.is_default();
            }
            _ => {}
        }
        Ok(Reply::Value(0))
    }

    /// A pipe takes its owner along, whom the folder that it was in knows.
    pub(super) fn rename(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let who = self.limited(call.thread)?;
        if !self.pipes && who.is_none() {
            return Ok(Reply::Continue);
        }
        let [a, b, c, d, e, _] = call.arguments;
        let here = libc::AT_FDCWD as u64;
        let (from, to, flags) = match call.call {
            libc::SYS_renameat2 => ((a, b), (c, d), e as u32),
            libc::SYS_renameat => ((a, b), (c, d), 0),
            _ => ((here, a), (here, b), 0),
        };
        let (Ok(from), Ok(to)) =
            (self.spot(call.thread, from.0, from.1, false), self.spot(call.thread, to.0, to.1, false))
        else {
            return Ok(Reply::Continue);
        };
        if let Some(who) = who {
            self.check_change(&who, &from)?;
            self.check_change(&who, &to)?;
        }
        if !self.pipes {
            return Ok(Reply::Continue);
        }
        let kind = Stat::of(from.path(), false).map(|stat| FileType::from_raw_mode(stat.mode()));
        let is_pipe = matches!(kind, Ok(FileType::Fifo | FileType::Socket));
        let (true, Some(owner)) = (is_pipe, pipe_owner(&from)) else { return Ok(Reply::Continue) };
        let flags = RenameFlags::from_bits_retain(flags);
        rustix::fs::renameat_with(CWD, from.path(), CWD, to.path(), flags)?;
        record_pipe(&to, owner)?;
        record_pipe(&from, Owner::default())?;
        Ok(Reply::Value(0))
    }

    /// Takes the set-group-id bit off where the kernel would: of a file whose group the caller is not in.
    pub(super) fn change_mode(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let refusal = self.permission(call)?;
        if !self.table.has_others() || self.who(call.thread)?.may(Capabilities::FSETID) {
            return Ok(refusal);
        }
        let [a, b, c, d, ..] = call.arguments;
        let (directory, path, mode, flags) = match call.call {
            libc::SYS_fchmod => (a, 0, b, libc::AT_EMPTY_PATH as u64),
            libc::SYS_fchmodat => (a, b, c, 0),
            libc::SYS_fchmodat2 => (a, b, c, d),
            _ => (libc::AT_FDCWD as u64, a, b, 0),
        };
        let Ok(spot) = self.spot(call.thread, directory, path, flags & libc::AT_EMPTY_PATH as u64 != 0)
        else {
            return Ok(Reply::Continue);
        };
        if mode as u32 & SET_GROUP == 0 || flags & libc::AT_SYMLINK_NOFOLLOW as u64 != 0 {
            return Ok(Reply::Continue);
        }
        let group = self.disguise(&spot, true).unwrap_or_default().gid;
        if self.who(call.thread)?.is_in(group) {
            return Ok(Reply::Continue);
        }
        let mode = Mode::from_raw_mode(mode as u32 & 0o5777);
        rustix::fs::chmodat(CWD, spot.path(), mode, AtFlags::empty())?;
        Ok(Reply::Value(0))
    }
}

/// The owner that is recorded of a regular file or folder.
pub(super) fn attribute(spot: &Spot, follow: bool) -> Option<Owner> {
    let mut value = [0; LONGEST];
    let read = if follow {
        rustix::fs::getxattr(spot.path(), owner::ATTRIBUTE, &mut value[..])
    } else {
        rustix::fs::lgetxattr(spot.path(), owner::ATTRIBUTE, &mut value[..])
    };
    Owner::parse(&value[..read.ok()?])
}

/// Records the owner of a regular file or folder. One that stands for a device keeps a record, even of root.
pub(super) fn record(spot: &Spot, follow: bool, new: Owner) -> Result<(), Errno> {
    let path = spot.path();
    if new.is_default() && !has(spot, follow, NODE_ATTRIBUTE) {
        if !has(spot, follow, owner::ATTRIBUTE) {
            return Ok(());
        }
        return if follow {
            rustix::fs::removexattr(path, owner::ATTRIBUTE)
        } else {
            rustix::fs::lremovexattr(path, owner::ATTRIBUTE)
        };
    }
    let value = new.to_value();
    let flags = XattrFlags::empty();
    let set = if follow {
        rustix::fs::setxattr(path, owner::ATTRIBUTE, value.as_bytes(), flags)
    } else {
        rustix::fs::lsetxattr(path, owner::ATTRIBUTE, value.as_bytes(), flags)
    };
    match set {
        // Such as /proc: its files are nobody's to give.
        Err(Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

fn has(spot: &Spot, follow: bool, attribute: &str) -> bool {
    let none: &mut [u8] = &mut [];
    if follow {
        rustix::fs::getxattr(spot.path(), attribute, none).is_ok()
    } else {
        rustix::fs::lgetxattr(spot.path(), attribute, none).is_ok()
    }
}

/// The owner of a pipe or socket, which the folder that it is in knows.
fn pipe_owner(spot: &Spot) -> Option<Owner> {
    let resolved = if spot.is_open { Some(spot.resolve().ok()?) } else { None };
    let (folder, name) = resolved.as_ref().unwrap_or(spot).split()?;
    let mut value = [0; LONGEST];
    let name = owner::attribute_for(name);
    let read = rustix::fs::getxattr(folder.path(), name, &mut value[..]).ok()?;
    Owner::parse(&value[..read])
}

/// Records the owner of a pipe or socket. One without a name has none.
pub(super) fn record_pipe(spot: &Spot, new: Owner) -> Result<(), Errno> {
    let resolved = if spot.is_open { spot.resolve().ok() } else { Some(spot.clone()) };
    let Some(resolved) = resolved else { return Ok(()) };
    let Some((folder, name)) = resolved.split() else { return Ok(()) };
    let attribute = owner::attribute_for(name);
    if !new.is_default() {
        let value = new.to_value();
        return match rustix::fs::setxattr(folder.path(), attribute, value.as_bytes(), XattrFlags::empty()) {
            Err(Errno::NOTSUP | Errno::NOENT) => Ok(()),
            other => other,
        };
    }
    match rustix::fs::removexattr(folder.path(), attribute) {
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Puts a link with another owner in the place of a link: their text cannot be changed.
fn rewrite_link(spot: &Spot, new: Owner) -> Result<(), Errno> {
    let resolved = if spot.is_open { spot.resolve()? } else { spot.clone() };
    let text = rustix::fs::readlink(resolved.path(), vec![])?;
    let (old, target) = owner::read_link_text(text.to_bytes());
    if old == new {
        return Ok(());
    }
    let (folder, _) = resolved.split().ok_or(Errno::INVAL)?;
    // Nobody sees the name: the call that is answered here is the only one at this time.
    let beside = resolved.beside(b".lithify.link").ok_or(Errno::INVAL)?;
    let times = |spot: &Spot| -> Result<Timestamps, Errno> {
        let stat = rustix::fs::lstat(spot.path())?;
        let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
        Ok(Timestamps {
            last_access: time(stat.st_atime as i64, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime as i64, stat.st_mtime_nsec),
        })
    };
    let (times, folder_times) = (times(&resolved)?, times(&folder)?);
    rustix::fs::symlink(owner::link_text(target, new), beside.path())?;
    let replaced =
        rustix::fs::utimensat(CWD, beside.path(), &times, AtFlags::SYMLINK_NOFOLLOW).and_then(|()| {
            rustix::fs::renameat_with(CWD, beside.path(), CWD, resolved.path(), RenameFlags::empty())
        });
    if let Err(error) = replaced {
        rustix::fs::unlink(beside.path())?;
        return Err(error);
    }
    rustix::fs::utimensat(CWD, folder.path(), &folder_times, AtFlags::empty())
}
