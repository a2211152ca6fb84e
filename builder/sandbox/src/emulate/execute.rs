//! Programs that run as the user or group that owns them.

use lithify_linux::remote::Stat;
use lithify_linux::seccomp::Notification;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::caller::Spot;
use super::permission::SEARCH;
use super::{Reply, Session, files};

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
/// Executable for the group: without it, the set-group-id bit means something else.
const GROUP_EXECUTES: u32 = 0o010;

impl Session {
    /// The kernel executes the program; here the caller becomes whom it is then.
    pub(super) fn execute(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let [a, b, _, _, e, _] = call.arguments;
        let (directory, path, flags) = match call.call {
            libc::SYS_execveat => (a, b, e),
            _ => (libc::AT_FDCWD as u64, a, 0),
        };
        // Where it cannot be executed, the kernel says so, and the caller stays who it is.
        let may_be_empty = flags & libc::AT_EMPTY_PATH as u64 != 0;
        let Ok(spot) = self.spot(call.thread, directory, path, may_be_empty) else {
            return Ok(Reply::Continue);
        };
        if let Some(who) = self.limited(call.thread)? {
            self.check(&who, &spot, true, SEARCH)?;
        }
        let Ok(stat) = Stat::of(spot.path(), true) else { return Ok(Reply::Continue) };
        let executes = rustix::fs::accessat(CWD, spot.path(), Access::EXEC_OK, AtFlags::EACCESS);
        if FileType::from_raw_mode(stat.mode()) != FileType::RegularFile || executes.is_err() {
            return Ok(Reply::Continue);
        }
        let mode = stat.mode();
        let (mut user, mut group) = (None, None);
        if mode & (SET_USER | SET_GROUP) != 0 && !is_script(&spot) {
            let owner = files::attribute(&spot, true).unwrap_or_default();
            user = (mode & SET_USER != 0).then_some(owner.uid);
            group = (mode & SET_GROUP != 0 && mode & GROUP_EXECUTES != 0).then_some(owner.gid);
        }
        let who = self.who(call.thread)?;
        let mut new = who.clone();
        new.execute(user, group);
        if new != *who {
            self.become_other(call.thread, &new)?;
        }
        Ok(Reply::Continue)
    }
}

/// Whether an interpreter runs it, for whom the bits do not count.
fn is_script(spot: &Spot) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(CWD, spot.path(), flags, Mode::empty()) else { return false };
    let mut start = [0; 2];
    matches!(rustix::io::read(&file, &mut start), Ok(2)) && start == *b"#!"
}
