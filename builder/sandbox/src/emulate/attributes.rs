//! Extended attributes: ours are hidden, and access control lists may name anybody.
//!
//! A list that names ids which do not exist here is set with root in their place: so the kernel derives modes and what is inherited
//! from it. The list itself is recorded, and shown to whoever asks.

use lithify_linux::owner::PREFIX;
use lithify_linux::remote;
use lithify_linux::seccomp::Notification;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::caller::Spot;
use super::{Reply, Session};

/// The longest value of an attribute: `XATTR_SIZE_MAX` in linux/limits.h.
const LONGEST: usize = 64 << 10;

/// Lists as programs name them, and where they are recorded.
const LISTS: [(&[u8], &str); 2] = [
    (b"system.posix_acl_access", "user.lithify.acl.access"),
    (b"system.posix_acl_default", "user.lithify.acl.default"),
];

/// Of an entry of a list, the tags that come with an id: `ACL_USER`, `ACL_GROUP`.
const NAMED: [u16; 2] = [0x02, 0x08];
/// The version before the entries of a list: linux/posix_acl_xattr.h.
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Get,
    Set,
    List,
    Remove,
}

/// How the file is named.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Path,
    /// Of a link, the link itself.
    LinkPath,
    Descriptor,
}

fn decode(call: i64) -> (Action, By) {
    match call {
        libc::SYS_getxattr => (Action::Get, By::Path),
        libc::SYS_lgetxattr => (Action::Get, By::LinkPath),
        libc::SYS_fgetxattr => (Action::Get, By::Descriptor),
        libc::SYS_setxattr => (Action::Set, By::Path),
        libc::SYS_lsetxattr => (Action::Set, By::LinkPath),
        libc::SYS_fsetxattr => (Action::Set, By::Descriptor),
        libc::SYS_listxattr => (Action::List, By::Path),
        libc::SYS_llistxattr => (Action::List, By::LinkPath),
        libc::SYS_flistxattr => (Action::List, By::Descriptor),
        libc::SYS_removexattr => (Action::Remove, By::Path),
        libc::SYS_lremovexattr => (Action::Remove, By::LinkPath),
        _ => (Action::Remove, By::Descriptor),
    }
}

impl Session {
    pub(super) fn attribute(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let (action, by) = decode(call.call);
        let [file, name, value, length, flags, _] = call.arguments;
        let mut text = vec![];
        if action != Action::List {
            let Ok(()) = remote::read_string(call.thread, name, &mut text) else {
                return Ok(Reply::Continue);
            };
            if text.starts_with(PREFIX.as_bytes()) {
                let refusal = if action == Action::Set { Errno::PERM } else { Errno::NODATA };
                return Err(refusal);
            }
        }
        let list = LISTS.iter().find(|(name, _)| *name == text).map(|(_, record)| *record);
        if action != Action::List && list.is_none() {
            return Ok(Reply::Continue);
        }
        let spot = match by {
            By::Descriptor => self.open_spot(call.thread, file),
            _ => match self.spot(call.thread, libc::AT_FDCWD as u64, file, false) {
                Ok(spot) => spot,
                Err(_) => return Ok(Reply::Continue),
            },
        };
        let target = Target { spot, follow: by != By::LinkPath };
        match (action, list) {
            (Action::List, _) => target.names(call, (name, value as usize), &mut self.value),
            (Action::Get, Some(record)) => target.show(call, record, (value, length as usize)),
            (Action::Remove, Some(record)) => {
                target.forget(record);
                Ok(Reply::Continue)
            }
            (Action::Set, Some(record)) => {
                let length = length as usize;
                if length > LONGEST {
                    return Err(Errno::RANGE);
                }
                self.value.resize(length, 0);
                if remote::read(call.thread, value, &mut self.value)? < length {
                    return Err(Errno::FAULT);
                }
                target.set_list(&text, record, &self.value, flags as u32)
            }
            _ => Ok(Reply::Continue),
        }
    }
}

impl Session {
    /// Whether a file has a list that names others.
    pub(super) fn has_list(&self, spot: &Spot, follow: bool) -> bool {
        let (_, record) = LISTS[0];
        let none: &mut [u8] = &mut [];
        if follow {
            rustix::fs::getxattr(spot.path(), record, none).is_ok()
        } else {
            rustix::fs::lgetxattr(spot.path(), record, none).is_ok()
        }
    }
}

struct Target {
    spot: Spot,
    follow: bool,
}

impl Target {
    /// The names of the attributes but for ours.
    fn names(
        &self,
        call: &Notification,
        (to, room): (u64, usize),
        names: &mut Vec<u8>,
    ) -> Result<Reply, Errno> {
        names.resize(LONGEST, 0);
        let path = self.spot.path();
        let listed = if self.follow {
            rustix::fs::listxattr(path, &mut names[..])
        } else {
            rustix::fs::llistxattr(path, &mut names[..])
        };
        let Ok(length) = listed else { return Ok(Reply::Continue) };
        let all = &names[..length];
        let parts = || all.split_inclusive(|byte| *byte == 0);
        if !parts().any(|name| name.starts_with(PREFIX.as_bytes())) {
            return Ok(Reply::Continue);
        }
        let left: Vec<u8> =
            parts().filter(|name| !name.starts_with(PREFIX.as_bytes())).flatten().copied().collect();
        if room > 0 {
            if room < left.len() {
                return Err(Errno::RANGE);
            }
            remote::write(call.thread, to, &left)?;
        }
        Ok(Reply::Value(left.len() as i64))
    }

    fn show(&self, call: &Notification, record: &str, (to, room): (u64, usize)) -> Result<Reply, Errno> {
        let mut value = vec![0; 4096];
        let path = self.spot.path();
        let read = if self.follow {
            rustix::fs::getxattr(path, record, &mut value[..])
        } else {
            rustix::fs::lgetxattr(path, record, &mut value[..])
        };
        let Ok(length) = read else { return Ok(Reply::Continue) };
        if room > 0 {
            if room < length {
                return Err(Errno::RANGE);
            }
            remote::write(call.thread, to, &value[..length])?;
        }
        Ok(Reply::Value(length as i64))
    }

    fn set_list(&self, name: &[u8], record: &str, value: &[u8], flags: u32) -> Result<Reply, Errno> {
        let Some(known) = with_known_ids(value) else {
            self.forget(record);
            return Ok(Reply::Continue);
        };
        let flags = XattrFlags::from_bits_retain(flags);
        self.set(name, &known, flags)?;
        self.set(record.as_bytes(), value, XattrFlags::empty())?;
        Ok(Reply::Value(0))
    }

    fn set(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        let path = self.spot.path();
        if self.follow {
            rustix::fs::setxattr(path, name, value, flags)
        } else {
            rustix::fs::lsetxattr(path, name, value, flags)
        }
    }

    /// Removes a record, if there is one.
    fn forget(&self, record: &str) {
        let path = self.spot.path();
        let _ = if self.follow {
            rustix::fs::removexattr(path, record)
        } else {
            rustix::fs::lremovexattr(path, record)
        };
    }
}

/// The list with root in the place of everybody else; `None` where it names nobody else.
fn with_known_ids(list: &[u8]) -> Option<Vec<u8>> {
    let mut known = list.to_vec();
    let mut changed = false;
    for entry in known.get_mut(HEADER_BYTES..)?.chunks_exact_mut(ENTRY_BYTES) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if NAMED.contains(&tag) && entry[4..] != [0; 4] {
            entry[4..].fill(0);
            changed = true;
        }
    }
    changed.then_some(known)
}
