//! Which ids the user namespace has, and whose they are outside.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// How many ids an image may expect: 16 bits of them.
const IDS: u32 = 65_536;
/// Where real root's images have their ids when /etc/subuid names no place: above what accounts and other tools take.
const ROOT_START: u32 = 0x7000_0000;

/// Ids that follow one another, inside the user namespace and outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    /// The first, as the namespace sees it.
    pub inside: u32,
    /// The first, as whoever makes the namespace sees it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The user namespace that a build's worker lives in: its ids and whose they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMap {
    /// The users, root first.
    pub uids: Vec<IdRange>,
    /// The groups, root's first.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// A short stable name of the map, fit for a file name: what is on disk in its ids is kept apart from other maps'.
    pub fn key(&self) -> String {
        let mut key = String::new();
        write_ranges(&mut key, &self.uids);
        if self.gids != self.uids {
            key.push_str("-g");
            write_ranges(&mut key, &self.gids);
        }
        key
    }

    /// Who outside the namespace owns what its root owns: user and group.
    pub fn root_outside(&self) -> (u32, u32) {
        let root =
            |ranges: &[IdRange]| ranges.iter().find(|range| range.inside == 0).map_or(0, |r| r.outside);
        (root(&self.uids), root(&self.gids))
    }

    /// The map that this user would get, from the account's entries in /etc/subuid and /etc/subgid; nothing is tried. Root
    /// needs no entry.
    ///
    /// # Errors
    /// A file that cannot be read; [`io::ErrorKind::NotFound`] when it has no entry for this user.
    pub(crate) fn of_this_user() -> io::Result<IdMap> {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let name = account_name(uid);
        let map = |sub: &str, map: &str, own: u32| {
            let given = subordinate(&read_or_empty(sub)?, uid, name.as_deref());
            match (given.is_empty(), uid) {
                (true, 0) => Ok(vec![high_range(&std::fs::read_to_string(map)?)]),
                (true, _) => Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{sub} has no line for {}", name.as_deref().unwrap_or(&uid.to_string())),
                )),
                (false, 0) => Ok(from_inside(0, &given)),
                (false, _) => {
                    let mut ranges = vec![IdRange { inside: 0, outside: own, count: 1 }];
                    ranges.extend(from_inside(1, &given));
                    Ok(ranges)
                }
            }
        };
        Ok(IdMap {
            uids: map("/etc/subuid", "/proc/self/uid_map", uid)?,
            gids: map("/etc/subgid", "/proc/self/gid_map", gid)?,
        })
    }

    /// The map with one id only: this user's, or for root one that owns nothing.
    ///
    /// # Errors
    /// A map of this process that cannot be read.
    pub(crate) fn single() -> io::Result<IdMap> {
        let uid = rustix::process::geteuid().as_raw();
        let one = |map: &str, own: u32| {
            // Who is root decides, not the group, which may be 0 for anybody.
            let outside = if uid == 0 { high_range(&std::fs::read_to_string(map)?).outside } else { own };
            Ok::<_, io::Error>(vec![IdRange { inside: 0, outside, count: 1 }])
        };
        Ok(IdMap {
            uids: one("/proc/self/uid_map", uid)?,
            gids: one("/proc/self/gid_map", rustix::process::getegid().as_raw())?,
        })
    }

    /// Whether the kernel lets this user write the map without a privilege, for which nobody there may change groups.
    pub(crate) fn is_unprivileged(&self) -> bool {
        let is_one = |ranges: &[IdRange]| ranges.len() == 1 && ranges[0].count == 1;
        !rustix::process::geteuid().is_root() && is_one(&self.uids) && is_one(&self.gids)
    }

    /// Gives the user namespace of `process` this map: directly with the privilege for it, else through the setuid helpers.
    pub(crate) fn write(&self, process: Pid) -> Result<(), MapError> {
        if rustix::process::geteuid().is_root() || self.is_unprivileged() {
            if self.is_unprivileged() {
                let path = format!("/proc/{}/setgroups", process.as_raw_pid());
                std::fs::write(&path, "deny").map_err(|source| MapError::Direct { path, source })?;
            }
            let direct = |file: &str, ranges: &[IdRange]| {
                let path = format!("/proc/{}/{file}", process.as_raw_pid());
                std::fs::write(&path, lines(ranges)).map_err(|source| MapError::Direct { path, source })
            };
            direct("uid_map", &self.uids)?;
            return direct("gid_map", &self.gids);
        }
        // Side by side: each takes a millisecond or two.
        let uids = helper("newuidmap", process, &self.uids)?;
        let gids = helper("newgidmap", process, &self.gids)?;
        finish("newuidmap", uids)?;
        finish("newgidmap", gids)
    }
}

/// Why a map could not be written.
#[derive(Debug)]
pub(crate) enum MapError {
    /// The kernel refused it.
    Direct { path: String, source: io::Error },
    /// The helper is not there, or cannot be executed.
    NoHelper { name: &'static str, source: io::Error },
    /// The helper refused it.
    Refused { name: &'static str, message: String },
}

fn helper(name: &'static str, process: Pid, ranges: &[IdRange]) -> Result<Child, MapError> {
    let mut command = Command::new(name);
    command.arg(process.as_raw_pid().to_string());
    for range in ranges {
        command.args([range.inside, range.outside, range.count].map(|number| number.to_string()));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().map_err(|source| MapError::NoHelper { name, source })
}

fn finish(name: &'static str, helper: Child) -> Result<(), MapError> {
    let output = helper.wait_with_output().map_err(|source| MapError::NoHelper { name, source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MapError::Refused { name, message })
}

fn write_ranges(key: &mut String, ranges: &[IdRange]) {
    for (index, IdRange { inside, outside, count }) in ranges.iter().enumerate() {
        let separator = if index == 0 { "" } else { "_" };
        // Writing to a string cannot fail.
        let _ = write!(key, "{separator}{inside}.{outside}.{count}");
    }
}

fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect()
}

fn read_or_empty(path: &str) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// The name of the account in /etc/passwd, which the entries may be kept under.
fn account_name(uid: u32) -> Option<String> {
    let accounts = std::fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges (start and count) that a file in the form of subuid(5) gives to an account, by name or number.
pub(crate) fn subordinate(file: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let of_this_user = |line: &&str| {
        let owner = line.split(':').next();
        owner == Some(number.as_str()) || (name.is_some() && owner == name)
    };
    let range = |line: &str| {
        let mut fields = line.split(':').skip(1).map(|field| field.trim().parse().ok());
        Some((fields.next()??, fields.next()??)).filter(|(_, count)| *count > 0)
    };
    file.lines().filter(of_this_user).filter_map(range).collect()
}

/// Lays ranges out one after another from `inside` on.
fn from_inside(inside: u32, ranges: &[(u32, u32)]) -> Vec<IdRange> {
    let mut next = inside;
    let mut laid_out = vec![];
    for (outside, count) in ranges {
        let count = (*count).min(u32::MAX - next);
        laid_out.push(IdRange { inside: next, outside: *outside, count });
        next += count;
    }
    laid_out
}

/// The ids that root takes for itself, out of those that `map` (in the form of /proc/self/uid_map) says that there are: the
/// default range, or the last ones where this is itself a user namespace without it. Never id 0, which would own the host's files.
pub(crate) fn high_range(map: &str) -> IdRange {
    let extents: Vec<(u32, u32)> = map
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().map(|field| field.parse().ok());
            let (first, _, count) = (fields.next()??, fields.next()??, fields.next()??);
            Some((first, count))
        })
        .collect();
    let holds = |(first, count): &(u32, u32)| {
        *first <= ROOT_START
            && u64::from(*first) + u64::from(*count) >= u64::from(ROOT_START) + u64::from(IDS)
    };
    if extents.is_empty() || extents.iter().any(holds) {
        return IdRange { inside: 0, outside: ROOT_START, count: IDS };
    }
    let (first, available) = extents.iter().copied().max_by_key(|extent| extent.1).unwrap_or((0, 1));
    let count = available.saturating_sub(u32::from(first == 0)).clamp(1, IDS);
    IdRange { inside: 0, outside: first + available - count, count }
}
