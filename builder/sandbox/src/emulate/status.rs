//! `/proc/self/status` of who is not root.

use std::io::Write as _;
use std::os::fd::AsFd;

use lithify_linux::seccomp::Notification;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use super::credentials::{Credentials, Ids};
use super::{Reply, Session};

impl Session {
    /// Opens a copy that says of ids and capabilities what the caller believes.
    pub(super) fn open_status(
        &self,
        call: &Notification,
        flags: OFlags,
        who: &Credentials,
    ) -> Result<Reply, Errno> {
        let read = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, format!("{}/status", call.thread), read, Mode::empty())?;
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let status = std::io::read_to_string(std::fs::File::from(file)).map_err(failed)?;
        let mut copy = std::fs::File::from(rustix::fs::memfd_create(c"status", MemfdFlags::CLOEXEC)?);
        copy.write_all(rewrite(&status, who).as_bytes()).map_err(failed)?;
        std::io::Seek::rewind(&mut copy).map_err(failed)?;
        self.listener.answer_with(call, copy.as_fd(), flags.contains(OFlags::CLOEXEC)).map_err(failed)?;
        Ok(Reply::Done)
    }
}

fn rewrite(status: &str, who: &Credentials) -> String {
    let ids = |ids: &Ids| format!("{}\t{}\t{}\t{}", ids.real, ids.effective, ids.saved, ids.file);
    let set = |set: u64| format!("{set:016x}");
    let line = |line: &str| {
        let (name, value) = line.split_once(":\t").unwrap_or((line, ""));
        let value = match name {
            "Uid" => ids(&who.users),
            "Gid" => ids(&who.groups),
            "Groups" => who.supplementary.iter().map(|group| format!("{group} ")).collect(),
            "CapInh" => set(who.sets.inheritable),
            "CapPrm" => set(who.sets.permitted),
            "CapEff" => set(who.sets.effective),
            "CapAmb" => set(who.sets.ambient),
            _ => value.to_owned(),
        };
        format!("{name}:\t{value}\n")
    };
    status.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use lithify_linux::capability::Capabilities;

    use super::*;

    #[test]
    fn ids_and_capabilities_are_told_as_believed() {
        let who = Credentials::new(7, 8, &[9, 10], Capabilities::CHOWN);
        let real = "Name:\tsh\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t65534 \nCapEff:\t00000000a80425fb\nThreads:\t1\n";
        let told = "Name:\tsh\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t9 10 \nCapEff:\t0000000000000000\nThreads:\t1\n";
        assert_eq!(rewrite(real, &who), told);
    }
}
