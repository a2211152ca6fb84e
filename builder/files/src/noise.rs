//! What `--reproducible` takes out of a tree after a RUN: traces of when and where programs ran, which nobody wants in an image
//! and which would make each build's layer another one.
//!
//! [`TABLE`] says all of it. Only what the step made or changed is touched, so a step that leaves a file of [`TABLE`] alone leaves
//! it in the image. Symbolic links and folders stay.

mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::SystemTime;

use lithify_linux::tree::{self, Descend, Visit, WalkError, walk};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::glob::Deep;

pub use table::{Noise, PROFILE, TABLE, What};

/// What the files of [`TABLE`] were before a step.
pub struct Before {
    seen: HashMap<Vec<u8>, Mark>,
    shadow: HashMap<&'static str, Vec<u8>>,
    today: u64,
}

/// By what a changed file is known. Copying a file up to an overlay keeps all of these.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    kind: FileType,
    size_bytes: u64,
    modified: (i64, u32),
}

/// A file that could not be looked at, changed or removed.
#[derive(Debug, thiserror::Error)]
#[error("--reproducible cannot {action} /{path}: {source}", path = String::from_utf8_lossy(path))]
pub struct Error {
    action: &'static str,
    path: Vec<u8>,
    source: io::Error,
}

fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_vec();
    move |source| Error { action, path, source }
}

/// Looks at a tree before a step runs in it.
///
/// # Errors
/// A folder that cannot be read.
pub fn look(root: BorrowedFd<'_>) -> Result<Before, Error> {
    let mut before = Before { seen: HashMap::new(), shadow: HashMap::new(), today: today() };
    for noise in TABLE {
        for (path, mark) in found(root, noise)? {
            before.seen.insert(path, mark);
        }
        if noise.what == What::Dates {
            let content = read(root, noise.folder, noise.files)?;
            before.shadow.insert(noise.files, content.map(|(_, content)| content).unwrap_or_default());
        }
    }
    for condition in TABLE.iter().filter_map(|noise| noise.only_with) {
        if let Some(mark) = mark(root, condition) {
            before.seen.insert(condition.into(), mark);
        }
    }
    Ok(before)
}

impl Before {
    /// Takes out what the step has left. `epoch_seconds` is the SOURCE_DATE_EPOCH that it ran with. No process may work in the tree
    /// any more.
    ///
    /// # Errors
    /// A file that cannot be read, written or removed.
    pub fn clean(&self, root: BorrowedFd<'_>, epoch_seconds: i64) -> Result<(), Error> {
        for noise in TABLE {
            if noise.only_with.is_some_and(|path| !self.changed(path, mark(root, path))) {
                continue;
            }
            for (path, mark) in found(root, noise)? {
                if mark.kind == FileType::RegularFile && self.changed(&path, Some(mark)) {
                    self.take_out(root, noise, &path, epoch_seconds)?;
                }
            }
        }
        Ok(())
    }

    fn changed(&self, path: impl AsRef<[u8]>, now: Option<Mark>) -> bool {
        self.seen.get(path.as_ref()).copied() != now
    }

    fn take_out(
        &self,
        root: BorrowedFd<'_>,
        noise: &Noise,
        path: &[u8],
        epoch_seconds: i64,
    ) -> Result<(), Error> {
        match noise.what {
            What::File => {
                let (parent, name) = split(path);
                let folder = open(root, parent, OFlags::PATH | OFlags::DIRECTORY);
                let removed = folder.and_then(|folder| {
                    let name = std::ffi::CString::new(name)?;
                    Ok(rustix::fs::unlinkat(folder, name.as_c_str(), AtFlags::empty())?)
                });
                removed.map_err(failed("remove", path))
            }
            What::Id => rewrite(root, noise, |content| is_machine_id(content).then(Vec::new)),
            What::Dates => {
                let before = self.shadow.get(noise.files).map_or(&[][..], Vec::as_slice);
                rewrite(root, noise, |content| {
                    Some(undated(before, content, self.today..=today(), epoch_seconds))
                })
            }
        }
    }
}

/// Today as shadow(5) has it: days since 1970.
fn today() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs() / 86_400)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    tree::open_beneath(root, path, flags | OFlags::NOFOLLOW, Mode::empty())
}

fn mark(root: BorrowedFd<'_>, path: &str) -> Option<Mark> {
    let file = open(root, path.as_bytes(), OFlags::PATH).ok()?;
    tree::metadata(file, b"").ok().map(|metadata| Mark::of(&metadata))
}

impl Mark {
    fn of(metadata: &tree::Metadata) -> Mark {
        Mark { kind: metadata.kind, size_bytes: metadata.size_bytes, modified: metadata.modified }
    }
}

/// The files that a row of the table means: paths below the root. Where its folder is not there, or is a link, there are none.
fn found(root: BorrowedFd<'_>, noise: &Noise) -> Result<Vec<(Vec<u8>, Mark)>, Error> {
    let folder = match open(root, noise.folder.as_bytes(), OFlags::DIRECTORY | OFlags::RDONLY) {
        Ok(folder) => folder,
        Err(error) if is_absent(&error) => return Ok(vec![]),
        Err(error) => return Err(failed("look into", noise.folder.as_bytes())(error)),
    };
    let full = |path: &[u8]| [noise.folder.as_bytes(), b"/", path].concat();
    if !noise.files.contains('*') {
        let metadata = tree::metadata(&folder, noise.files.as_bytes());
        let path = full(noise.files.as_bytes());
        return match metadata {
            Ok(metadata) => Ok(vec![(path, Mark::of(&metadata))]),
            Err(error) if is_absent(&error) => Ok(vec![]),
            Err(error) => Err(failed("look at", &path)(error)),
        };
    }
    let pattern = Deep::new(noise.files.as_bytes())
        .map_err(|error| failed("read its own table at", noise.folder.as_bytes())(io::Error::other(error)))?;
    let deep = noise.files.contains("**");
    let mut files = vec![];
    let walked = walk::<WalkError>(&folder, &mut |visit: Visit<'_>| {
        if visit.metadata.kind != FileType::Directory && pattern.matches(visit.path) {
            files.push((full(visit.path), Mark::of(visit.metadata)));
        }
        Ok(if deep { Descend::Yes } else { Descend::No })
    });
    walked.map_err(|error| failed("look into", &full(&error.path))(error.source))?;
    Ok(files)
}

fn is_absent(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    let absent = [rustix::io::Errno::NOENT, rustix::io::Errno::NOTDIR, rustix::io::Errno::LOOP];
    absent.iter().any(|absent| errno == Some(absent.raw_os_error()))
}

/// The largest file that is read: a shadow file with a line for each of a million accounts.
const MAX_BYTES: u64 = 64 << 20;

/// A file to read and write, and its content; `None` where there is no regular file.
fn read(root: BorrowedFd<'_>, folder: &str, name: &str) -> Result<Option<(File, Vec<u8>)>, Error> {
    let path = format!("{folder}/{name}");
    let regular = |path: &str| mark(root, path).is_some_and(|mark| mark.kind == FileType::RegularFile);
    if !regular(&path) {
        return Ok(None);
    }
    let mut content = vec![];
    let file = open(root, path.as_bytes(), OFlags::RDWR | OFlags::NONBLOCK).map(File::from);
    let file = file.and_then(|file| (&file).take(MAX_BYTES).read_to_end(&mut content).map(|_| file));
    Ok(Some((file.map_err(failed("read", path.as_bytes()))?, content)))
}

/// Writes what `change` makes of the content, into the same file, which so keeps its owner and mode.
fn rewrite(
    root: BorrowedFd<'_>,
    noise: &Noise,
    change: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), Error> {
    let Some((mut file, content)) = read(root, noise.folder, noise.files)? else { return Ok(()) };
    let Some(new) = change(&content).filter(|new| *new != content) else { return Ok(()) };
    let mut write = || {
        file.rewind()?;
        file.set_len(0)?;
        file.write_all(&new)
    };
    write().map_err(failed("write", format!("{}/{}", noise.folder, noise.files).as_bytes()))
}

/// machine-id(5): 32 hexadecimal digits and a newline.
fn is_machine_id(content: &[u8]) -> bool {
    let id = content.strip_suffix(b"\n").unwrap_or(content);
    id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit)
}

/// A shadow file in which passwords that were changed by the step on one of `days` bear the date of `epoch_seconds`, as shadow's own
/// programs write it: no date for 0, which would mean that the password must be changed at once (shadow(5)).
fn undated(
    before: &[u8],
    content: &[u8],
    days: std::ops::RangeInclusive<u64>,
    epoch_seconds: i64,
) -> Vec<u8> {
    let old: std::collections::HashSet<&[u8]> = before.split(|byte| *byte == b'\n').collect();
    let date = match epoch_seconds / 86_400 {
        ..=0 => String::new(),
        day => day.to_string(),
    };
    let lines = content.split(|byte| *byte == b'\n').map(|line| {
        let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let changed = fields.get(2).and_then(|field| std::str::from_utf8(field).ok()?.parse().ok());
        if !old.contains(line) && changed.is_some_and(|day| days.contains(&day)) {
            fields[2] = date.as_bytes();
        }
        fields.join(&b':')
    });
    lines.collect::<Vec<_>>().join(&b'\n')
}
