//! Where a caller's paths lead, and its memory.

use std::ffi::CStr;
use std::io::Write as _;

use lithify_linux::remote;
use rustix::io::Errno;

use super::Session;

/// A file that a call names, as this thread finds it.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// From the working folder of this thread, `/proc` of the worker, or from the caller's root folder.
    path: Vec<u8>,
    /// How much of it only leads to where the caller's path starts.
    start: usize,
    /// Whether the path is a descriptor's, or a working folder's, in /proc: a link, which leads to the very file.
    pub(super) is_open: bool,
}

impl Spot {
    /// The path, for a system call.
    pub(super) fn path(&self) -> &CStr {
        // It was made with a NUL at its end; one in the middle would end it.
        CStr::from_bytes_until_nul(&self.path).unwrap_or_default()
    }

    fn bytes(&self) -> &[u8] {
        self.path().to_bytes()
    }

    /// A file made beside, and so on: any path that starts where this one does.
    pub(super) fn other(&self, path: &[u8]) -> Spot {
        Spot { path: [path, b"\0"].concat(), start: self.start.min(path.len()), is_open: false }
    }

    /// The folder that it is in and its name there; `None` where that cannot be told from the path.
    pub(super) fn split(&self) -> Option<(Spot, &[u8])> {
        let path = self.bytes();
        let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
        let path = &path[..end];
        let name_at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let (folder, name) = (&path[..name_at], &path[name_at..]);
        let is_plain = !self.is_open && !folder.is_empty() && name != b"." && name != b"..";
        is_plain.then(|| (self.other(&[folder, b"."].concat()), name))
    }

    /// The folders that the path names on the way to the file.
    pub(super) fn folders(&self) -> impl Iterator<Item = Spot> + '_ {
        let path = self.bytes();
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let slashes =
            (self.start..end).filter(move |at| path[*at] == b'/' && (*at == 0 || path[*at - 1] != b'/'));
        slashes.map(|at| self.other(&path[..at.max(1)]))
    }

    /// The path with another name for the file.
    pub(super) fn beside(&self, name: &[u8]) -> Option<Spot> {
        let (folder, _) = self.split()?;
        Some(self.other(&[folder.bytes(), b"/", name].concat()))
    }

    /// Whether it lies in /proc, by the looks of it: what that shows depends on who asks.
    pub(super) fn is_in_proc(&self) -> bool {
        self.path.starts_with(b"/proc/") || self.path.starts_with(b"//")
    }

    /// Where it is where the caller's process lies in /proc, if it is in that.
    pub(super) fn in_own_process(&self, thread: u32) -> Option<Spot> {
        let rest = [&b"/proc/self"[..], b"/proc/thread-self"]
            .iter()
            .find_map(|own| self.bytes().strip_prefix(*own))?;
        (rest.is_empty() || rest.starts_with(b"/"))
            .then(|| self.other(&[thread.to_string().as_bytes(), rest].concat()))
    }

    /// Whether it is what /proc says of the caller's own state.
    pub(super) fn is_own_status(&self) -> bool {
        [&b"/proc/self/status"[..], b"/proc/thread-self/status"].contains(&self.bytes())
    }

    /// Where the file is that is open, by its own name.
    pub(super) fn resolve(&self) -> Result<Spot, Errno> {
        let path = rustix::fs::readlink(self.path(), vec![])?;
        if path.to_bytes().starts_with(b"/") { Ok(self.other(path.to_bytes())) } else { Err(Errno::NOENT) }
    }
}

impl Session {
    /// Where the path at `address` leads, from the folder `directory`; `may_be_empty` where an empty one means that descriptor
    /// itself, and an address of 0 is an empty path.
    pub(super) fn spot(
        &mut self,
        thread: u32,
        directory: u64,
        address: u64,
        may_be_empty: bool,
    ) -> Result<Spot, Errno> {
        let text = &mut self.path;
        text.clear();
        if address != 0 {
            remote::read_string(thread, address, text)?;
        } else if !may_be_empty {
            return Err(Errno::FAULT);
        }
        if text.is_empty() && !may_be_empty {
            return Err(Errno::NOENT);
        }
        let mut path = Vec::with_capacity(text.len() + 32);
        let is_open = text.is_empty() || (text.starts_with(b"/") && own_file(text, thread, &mut path));
        // Writing to memory cannot fail.
        if text.is_empty() || !text.starts_with(b"/") {
            let _ = match directory as i32 {
                libc::AT_FDCWD => write!(path, "{thread}/cwd"),
                number => write!(path, "{thread}/fd/{number}"),
            };
        }
        let start = path.len();
        if !text.is_empty() && path.is_empty() {
            path.extend_from_slice(text);
        } else if !text.is_empty() && !text.starts_with(b"/") {
            path.push(b'/');
            path.extend_from_slice(text);
        }
        path.push(0);
        Ok(Spot { path, start, is_open })
    }

    /// A descriptor of the caller.
    pub(super) fn open_spot(&self, thread: u32, number: u64) -> Spot {
        let path = format!("{thread}/fd/{}\0", number as i32).into_bytes();
        Spot { start: path.len() - 1, path, is_open: true }
    }
}

/// Names under which a process finds its own files, whatever its number: writes where they are. True where it is a descriptor.
fn own_file(text: &[u8], thread: u32, path: &mut Vec<u8>) -> bool {
    let number = match text {
        b"/dev/stdin" => Some(&b"0"[..]),
        b"/dev/stdout" => Some(&b"1"[..]),
        b"/dev/stderr" => Some(&b"2"[..]),
        _ => [&b"/dev/fd/"[..], b"/proc/self/fd/", b"/proc/thread-self/fd/"]
            .iter()
            .find_map(|prefix| text.strip_prefix(*prefix))
            .filter(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit)),
    };
    let Some(number) = number else { return false };
    let _ = write!(path, "{thread}/fd/");
    path.extend_from_slice(number);
    true
}
