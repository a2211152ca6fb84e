//! Who a process believes to be: ids, groups and capabilities, changed by the kernel's rules (credentials(7), capabilities(7)).

use std::collections::HashMap;

use lithify_linux::capability::Capabilities;
use rustix::io::Errno;

/// "Leave it as it is", in setreuid(2) and its like.
const SAME: u32 = u32::MAX;

/// The capabilities that follow the file system user id: `CAP_FS_MASK` in linux/capability.h.
const FILE_CAPABILITIES: Capabilities = Capabilities::CHOWN
    .union(Capabilities::MKNOD)
    .union(Capabilities::DAC_OVERRIDE)
    .union(Capabilities::DAC_READ_SEARCH)
    .union(Capabilities::FOWNER)
    .union(Capabilities::FSETID)
    .union(Capabilities::LINUX_IMMUTABLE)
    .union(Capabilities::MAC_OVERRIDE);

/// The four ids of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    /// The one that files are made with.
    pub(crate) file: u32,
}

impl Ids {
    fn all(id: u32) -> Self {
        Ids { real: id, effective: id, saved: id, file: id }
    }

    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }
}

/// Which ids are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    User,
    Group,
}

/// A change that a process asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// setuid(2), setgid(2).
    One(u32),
    /// setreuid(2), setregid(2).
    Two(u32, u32),
    /// setresuid(2), setresgid(2).
    Three(u32, u32, u32),
}

/// The capability sets of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sets {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Credentials {
    pub(crate) users: Ids,
    pub(crate) groups: Ids,
    pub(crate) supplementary: Vec<u32>,
    pub(crate) sets: Sets,
    /// PR_SET_KEEPCAPS.
    pub(crate) keeps: bool,
    /// What root of this sandbox has.
    bounding: u64,
}

impl Credentials {
    /// A step's first process, with at most the capabilities `bounding`.
    pub(crate) fn new(uid: u32, gid: u32, supplementary: &[u32], bounding: Capabilities) -> Self {
        let bounding = bounding.bits();
        let all = if uid == 0 { bounding } else { 0 };
        Credentials {
            users: Ids::all(uid),
            groups: Ids::all(gid),
            supplementary: supplementary.to_vec(),
            sets: Sets { effective: all, permitted: all, inheritable: 0, ambient: 0 },
            keeps: false,
            bounding,
        }
    }

    /// Whether it may use a capability now.
    pub(crate) fn may(&self, capability: Capabilities) -> bool {
        self.sets.effective & capability.bits() != 0
    }

    pub(crate) fn is_in(&self, group: u32) -> bool {
        self.groups.file == group || self.supplementary.contains(&group)
    }

    /// Changes ids.
    pub(crate) fn change(&mut self, kind: Kind, change: Change) -> Result<(), Errno> {
        let (ids, privilege) = match kind {
            Kind::User => (self.users, Capabilities::SETUID),
            Kind::Group => (self.groups, Capabilities::SETGID),
        };
        let privileged = self.may(privilege);
        let new = changed(ids, change, privileged)?;
        match kind {
            Kind::Group => self.groups = new,
            Kind::User => self.become_user(new),
        }
        Ok(())
    }

    /// setfsuid(2), setfsgid(2): returns the id before, and says nothing of a refusal.
    pub(crate) fn change_file_id(&mut self, kind: Kind, id: u32) -> u32 {
        let (ids, privilege) = match kind {
            Kind::User => (&mut self.users, Capabilities::SETUID),
            Kind::Group => (&mut self.groups, Capabilities::SETGID),
        };
        let before = ids.file;
        let allowed = self.sets.effective & privilege.bits() != 0 || ids.has(id) || id == before;
        if id == SAME || !allowed {
            return before;
        }
        ids.file = id;
        if kind == Kind::User {
            let files = FILE_CAPABILITIES.bits();
            match (before, id) {
                (0, 1..) => self.sets.effective &= !files,
                (1.., 0) => self.sets.effective |= self.sets.permitted & files,
                _ => {}
            }
        }
        before
    }

    /// Capabilities follow users: `cap_emulate_setxuid` in security/commoncap.c.
    fn become_user(&mut self, new: Ids) {
        let old = std::mem::replace(&mut self.users, new);
        let sets = &mut self.sets;
        if old.has(0) && !new.has(0) {
            if !self.keeps {
                (sets.permitted, sets.effective) = (0, 0);
            }
            sets.ambient = 0;
        }
        match (old.effective, new.effective) {
            (0, 1..) => sets.effective = 0,
            (1.., 0) => sets.effective = sets.permitted,
            _ => {}
        }
    }

    /// setgroups(2).
    pub(crate) fn set_groups(&mut self, groups: Vec<u32>) -> Result<(), Errno> {
        if !self.may(Capabilities::SETGID) {
            return Err(Errno::PERM);
        }
        self.supplementary = groups;
        self.supplementary.sort_unstable();
        Ok(())
    }

    /// capset(2): nothing can be gained by it.
    pub(crate) fn set_capabilities(
        &mut self,
        effective: u64,
        permitted: u64,
        inheritable: u64,
    ) -> Result<(), Errno> {
        let may_inherit = if self.may(Capabilities::SETPCAP) { self.bounding } else { self.sets.permitted };
        let is_refused = permitted & !self.sets.permitted != 0
            || effective & !permitted != 0
            || inheritable & !(self.sets.inheritable | may_inherit) != 0;
        if is_refused {
            return Err(Errno::PERM);
        }
        let ambient = self.sets.ambient & permitted & inheritable;
        self.sets = Sets { effective, permitted, inheritable, ambient };
        Ok(())
    }

    /// execve(2) of a file with these bits and owner.
    pub(crate) fn execute(&mut self, set_user: Option<u32>, set_group: Option<u32>) {
        self.users.effective = set_user.unwrap_or(self.users.effective);
        self.groups.effective = set_group.unwrap_or(self.groups.effective);
        for ids in [&mut self.users, &mut self.groups] {
            (ids.saved, ids.file) = (ids.effective, ids.effective);
        }
        let is_root = self.users.real == 0 || self.users.effective == 0;
        if set_user.is_some() || set_group.is_some() {
            self.sets.ambient = 0;
        }
        let inherited = self.sets.inheritable & self.bounding;
        self.sets.permitted = if is_root { self.bounding | inherited } else { self.sets.ambient };
        let root_acts = self.users.effective == 0;
        self.sets.effective = if root_acts { self.sets.permitted } else { self.sets.ambient };
        self.keeps = false;
    }
}

fn changed(ids: Ids, change: Change, privileged: bool) -> Result<Ids, Errno> {
    let check = |id: u32, allowed: bool| if allowed || privileged { Ok(id) } else { Err(Errno::PERM) };
    let choose = |id: u32, now: u32, allowed: bool| if id == SAME { Ok(now) } else { check(id, allowed) };
    let Ids { real, effective, saved, .. } = ids;
    let mut new = ids;
    match change {
        Change::One(SAME) => return Err(Errno::INVAL),
        Change::One(id) if privileged => new = Ids::all(id),
        Change::One(id) => new.effective = check(id, id == real || id == saved)?,
        Change::Two(new_real, new_effective) => {
            new.real = choose(new_real, real, new_real == real || new_real == effective)?;
            new.effective = choose(new_effective, effective, ids.has(new_effective))?;
            if new_real != SAME || (new_effective != SAME && new_effective != real) {
                new.saved = new.effective;
            }
        }
        Change::Three(new_real, new_effective, new_saved) => {
            new.real = choose(new_real, real, ids.has(new_real))?;
            new.effective = choose(new_effective, effective, ids.has(new_effective))?;
            new.saved = choose(new_saved, saved, ids.has(new_saved))?;
        }
    }
    new.file = new.effective;
    Ok(new)
}

/// The credentials that processes of a step have, each known by a number that the process carries along.
#[derive(Debug)]
pub(crate) struct Table {
    known: Vec<Credentials>,
    numbers: HashMap<Credentials, u64>,
}

impl Table {
    /// Processes without a number have these.
    pub(crate) fn new(first: Credentials) -> Self {
        Table { known: vec![first.clone()], numbers: HashMap::from([(first, 0)]) }
    }

    /// Whether somebody is, or was, another than root with all its rights.
    pub(crate) fn has_others(&self) -> bool {
        self.known.len() > 1 || self.known[0].users.real != 0
    }

    pub(crate) fn get(&self, mark: Option<u64>) -> &Credentials {
        let at = mark.and_then(|mark| usize::try_from(mark).ok()).unwrap_or(0);
        self.known.get(at).unwrap_or(&self.known[0])
    }

    /// The number of these; the first have none.
    pub(crate) fn mark(&mut self, credentials: &Credentials) -> Option<u64> {
        if let Some(number) = self.numbers.get(credentials) {
            return Some(*number).filter(|number| *number > 0);
        }
        let number = self.known.len() as u64;
        self.known.push(credentials.clone());
        self.numbers.insert(credentials.clone(), number);
        Some(number)
    }
}

#[cfg(test)]
mod tests;
