//! Who is meant by `user[:group]`: for `--chown` and WORKDIR, and for RUN. The rules differ.

#[cfg(test)]
mod tests;

use crate::Error;

/// One line of a passwd file.
struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// One line of a group file.
struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// Who a RUN is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// What HOME is where nothing else says so; `/` for users that the passwd file does not know.
    pub home: Vec<u8>,
}

/// The owner that `--chown=SPEC` or a WORKDIR under `USER SPEC` means, given the passwd and group files of the tree.
///
/// A number without a group is the group too; a name brings the group of its passwd line; `root` is 0. Names that
/// cannot be found count as 0, without an error: that is what BuildKit does.
pub fn for_files(spec: &str, passwd: Option<&[u8]>, group: Option<&[u8]>) -> (u32, u32) {
    let (user, group_name) = split(spec);
    let (uid, mut gid) = match number(user) {
        Some(id) => (id, id),
        None if user == "root" => (0, 0),
        None => match users(passwd).find(|line| line.name == user.as_bytes()) {
            Some(line) => (line.uid, line.gid),
            None => (0, 0),
        },
    };
    if let Some(name) = group_name {
        let found = || groups(group).find(|line| line.name == name.as_bytes()).map(|line| line.gid);
        let known = number(name).or_else(|| (name == "root").then_some(0)).or_else(found);
        gid = known.unwrap_or(gid);
    }
    (uid, gid)
}

/// Whether [`for_files`] would look into the passwd or group file.
pub fn needs_files(spec: &str) -> bool {
    let (user, group) = split(spec);
    let named = |name: &str| number(name).is_none() && name != "root";
    named(user) || group.is_some_and(named)
}

/// Who a RUN under `USER SPEC` is; the empty text is root.
///
/// # Errors
/// A name that the files do not have, and a number over 2147483647.
pub fn for_process(spec: &str, passwd: Option<&[u8]>, group: Option<&[u8]>) -> Result<Identity, Error> {
    let (user, group_name) = split(if spec.is_empty() { "0" } else { spec });
    let (user_number, group_number) = (checked_number(user)?, group_name.map_or(Ok(None), checked_number)?);
    let home =
        |uid: u32| users(passwd).find(|line| line.uid == uid).map_or(&b"/"[..], |line| line.home).to_vec();
    if let (Some(uid), Some(gid)) = (user_number, group_number) {
        return Ok(Identity { uid, gid, groups: vec![], home: home(uid) });
    }
    let line = users(passwd).find(|line| match user_number {
        Some(uid) => line.uid == uid,
        None if user.is_empty() => line.uid == 0,
        None => line.name == user.as_bytes(),
    });
    let (uid, mut gid) = match (&line, user_number) {
        (Some(line), _) => (line.uid, line.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) if user.is_empty() => (0, 0),
        (None, None) => return Err(Error::UnknownUser { name: user.to_owned() }),
    };
    let mut supplementary = vec![];
    match group_name.filter(|name| !name.is_empty()) {
        Some(name) => {
            let found = groups(group).find(|line| match group_number {
                Some(gid) => line.gid == gid,
                None => line.name == name.as_bytes(),
            });
            let unknown = || Error::UnknownGroup { name: name.to_owned() };
            gid = found.map(|line| line.gid).or(group_number).ok_or_else(unknown)?;
        }
        None => {
            if let Some(user) = line {
                let member = |group: &Group<'_>| {
                    group.members.split(|byte| *byte == b',').any(|name| name == user.name)
                };
                supplementary = groups(group).filter(member).map(|group| group.gid).collect();
            }
        }
    }
    Ok(Identity { uid, gid, groups: supplementary, home: home(uid) })
}

fn split(spec: &str) -> (&str, Option<&str>) {
    spec.split_once(':').map_or((spec, None), |(user, group)| (user, Some(group)))
}

fn number(text: &str) -> Option<u32> {
    let id: u32 = text.parse().ok()?;
    (id <= i32::MAX as u32).then_some(id)
}

/// As [`number`], but digits that are too many are an error and no name.
fn checked_number(text: &str) -> Result<Option<u32>, Error> {
    match number(text) {
        None if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(Error::IdOutOfRange { id: text.to_owned() })
        }
        id => Ok(id),
    }
}

fn users(passwd: Option<&[u8]>) -> impl Iterator<Item = User<'_>> {
    lines(passwd).map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().unwrap_or_default();
        let (uid, gid) = (id_field(fields.nth(1)), id_field(fields.next()));
        User { name, uid, gid, home: fields.nth(1).filter(|home| !home.is_empty()).unwrap_or(b"/") }
    })
}

fn groups(group: Option<&[u8]>) -> impl Iterator<Item = Group<'_>> {
    lines(group).map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().unwrap_or_default();
        let gid = id_field(fields.nth(1));
        Group { name, gid, members: fields.next().unwrap_or_default() }
    })
}

fn lines(file: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
    let lines = file.unwrap_or_default().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

/// Fields that are no number count as 0, as in moby's reader.
fn id_field(field: Option<&[u8]>) -> u32 {
    field.and_then(|field| std::str::from_utf8(field).ok()).and_then(|field| field.parse().ok()).unwrap_or(0)
}
