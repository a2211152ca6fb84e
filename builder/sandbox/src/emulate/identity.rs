//! Who a process is: asked for and changed.

use lithify_linux::remote;
use lithify_linux::seccomp::Notification;
use rustix::io::Errno;

use super::credentials::{Change, Credentials, Ids, Kind};
use super::{Reply, Session};

/// As many supplementary groups as the kernel lets a process have (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65_536;
/// The version of capget(2) with 64 capabilities: `_LINUX_CAPABILITY_VERSION_3`.
const VERSION_3: u32 = 0x2008_0522;

impl Session {
    pub(super) fn identity(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let [a, b, c, d, ..] = call.arguments;
        let id = |value: u64| value as u32;
        let who = self.who(call.thread)?;
        match call.call {
            libc::SYS_getuid => return Ok(Reply::Value(who.users.real.into())),
            libc::SYS_geteuid => return Ok(Reply::Value(who.users.effective.into())),
            libc::SYS_getgid => return Ok(Reply::Value(who.groups.real.into())),
            libc::SYS_getegid => return Ok(Reply::Value(who.groups.effective.into())),
            libc::SYS_getresuid => return tell_ids(call, &who.users),
            libc::SYS_getresgid => return tell_ids(call, &who.groups),
            libc::SYS_getgroups => return tell_groups(call, who),
            libc::SYS_capget => return tell_capabilities(call, who),
            libc::SYS_prlimit64 => return tell_no_limit(call, d),
            libc::SYS_getrlimit => return tell_no_limit(call, b),
            libc::SYS_setrlimit => return Ok(Reply::Value(0)),
            _ => {}
        }
        let mut who = who.clone();
        let mut value = 0;
        match call.call {
            libc::SYS_setuid => who.change(Kind::User, Change::One(id(a)))?,
            libc::SYS_setgid => who.change(Kind::Group, Change::One(id(a)))?,
            libc::SYS_setreuid => who.change(Kind::User, Change::Two(id(a), id(b)))?,
            libc::SYS_setregid => who.change(Kind::Group, Change::Two(id(a), id(b)))?,
            libc::SYS_setresuid => who.change(Kind::User, Change::Three(id(a), id(b), id(c)))?,
            libc::SYS_setresgid => who.change(Kind::Group, Change::Three(id(a), id(b), id(c)))?,
            libc::SYS_setfsuid => value = who.change_file_id(Kind::User, id(a)),
            libc::SYS_setfsgid => value = who.change_file_id(Kind::Group, id(a)),
            libc::SYS_setgroups => who.set_groups(read_groups(call)?)?,
            libc::SYS_capset => set_capabilities(call, &mut who)?,
            libc::SYS_prctl => value = control(a as i32, b, c, &mut who)?,
            _ => return Ok(Reply::Continue),
        }
        self.become_other(call.thread, &who)?;
        Ok(Reply::Value(value.into()))
    }
}

fn tell_ids(call: &Notification, ids: &Ids) -> Result<Reply, Errno> {
    for (address, id) in call.arguments.iter().zip([ids.real, ids.effective, ids.saved]) {
        remote::write(call.thread, *address, &id.to_ne_bytes())?;
    }
    Ok(Reply::Value(0))
}

fn tell_groups(call: &Notification, who: &Credentials) -> Result<Reply, Errno> {
    let (room, address) = (call.arguments[0] as i32, call.arguments[1]);
    let count = who.supplementary.len();
    if room != 0 {
        if usize::try_from(room).map_err(|_| Errno::INVAL)? < count {
            return Err(Errno::INVAL);
        }
        let bytes: Vec<u8> = who.supplementary.iter().flat_map(|group| group.to_ne_bytes()).collect();
        if !bytes.is_empty() {
            remote::write(call.thread, address, &bytes)?;
        }
    }
    Ok(Reply::Value(count as i64))
}

fn read_groups(call: &Notification) -> Result<Vec<u32>, Errno> {
    let count = usize::try_from(call.arguments[0] as i32).map_err(|_| Errno::INVAL)?;
    if count > MOST_GROUPS {
        return Err(Errno::INVAL);
    }
    let mut bytes = vec![0; count * 4];
    if count > 0 && remote::read(call.thread, call.arguments[1], &mut bytes)? < bytes.len() {
        return Err(Errno::FAULT);
    }
    let groups =
        bytes.chunks_exact(4).map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    Ok(groups.collect())
}

/// The limit that carries the number of the credentials is none as far as the process can see.
fn tell_no_limit(call: &Notification, address: u64) -> Result<Reply, Errno> {
    if address != 0 {
        remote::write(call.thread, address, &[0xff; 16])?;
    }
    Ok(Reply::Value(0))
}

/// Version and process of a `struct __user_cap_header_struct`.
fn header(call: &Notification) -> Result<(u32, i32), Errno> {
    let mut bytes = [0; 8];
    if remote::read(call.thread, call.arguments[0], &mut bytes)? < 8 {
        return Err(Errno::FAULT);
    }
    let [a, b, c, d, e, f, g, h] = bytes;
    Ok((u32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])))
}

/// capget(2) of the caller itself. Who asks for the version, an old one or another process gets the kernel's answer.
fn tell_capabilities(call: &Notification, who: &Credentials) -> Result<Reply, Errno> {
    let (version, process) = header(call)?;
    let address = call.arguments[1];
    if version != VERSION_3 || process != 0 || address == 0 {
        return Ok(Reply::Continue);
    }
    let sets = [who.sets.effective, who.sets.permitted, who.sets.inheritable];
    let halves = [0, 32].map(|shift| sets.map(|set| (set >> shift) as u32));
    let bytes: Vec<u8> = halves.iter().flatten().flat_map(|half| half.to_ne_bytes()).collect();
    remote::write(call.thread, address, &bytes)?;
    Ok(Reply::Value(0))
}

fn set_capabilities(call: &Notification, who: &mut Credentials) -> Result<(), Errno> {
    let (version, _) = header(call)?;
    if version != VERSION_3 {
        return Err(Errno::INVAL);
    }
    let mut bytes = [0; 24];
    if remote::read(call.thread, call.arguments[1], &mut bytes)? < bytes.len() {
        return Err(Errno::FAULT);
    }
    let half = |at: usize| u64::from(u32::from_ne_bytes(std::array::from_fn(|byte| bytes[at * 4 + byte])));
    let set = |at: usize| half(at) | half(at + 3) << 32;
    who.set_capabilities(set(0), set(1), set(2))
}

/// prctl(2), as far as it is about capabilities.
fn control(option: i32, argument: u64, other: u64, who: &mut Credentials) -> Result<u32, Errno> {
    match option {
        libc::PR_GET_KEEPCAPS => return Ok(who.keeps.into()),
        libc::PR_SET_KEEPCAPS => who.keeps = argument == 1,
        libc::PR_CAP_AMBIENT => return ambient(argument as i32, other, who),
        // PR_SET_SECUREBITS, PR_CAPBSET_DROP: in earnest, they would take from the process what it needs to be emulated.
        _ => {}
    }
    Ok(0)
}

fn ambient(operation: i32, capability: u64, who: &mut Credentials) -> Result<u32, Errno> {
    let bit = 1_u64.checked_shl(capability as u32).ok_or(Errno::INVAL)?;
    match operation {
        libc::PR_CAP_AMBIENT_IS_SET => return Ok((who.sets.ambient & bit != 0).into()),
        libc::PR_CAP_AMBIENT_CLEAR_ALL => who.sets.ambient = 0,
        libc::PR_CAP_AMBIENT_LOWER => who.sets.ambient &= !bit,
        libc::PR_CAP_AMBIENT_RAISE if who.sets.permitted & who.sets.inheritable & bit != 0 => {
            who.sets.ambient |= bit;
        }
        libc::PR_CAP_AMBIENT_RAISE => return Err(Errno::PERM),
        _ => return Err(Errno::INVAL),
    }
    Ok(0)
}
