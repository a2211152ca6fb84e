//! The process that watches over a step's processes where there is no pid namespace to end them with.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use lithify_linux::process::{self, Exit, Namespaces, Program};
use lithify_linux::socket;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use super::{STEP, arguments};
use crate::init::{CONTROL, Report, SPEC};
use crate::{Error, Status};

/// Starts the step's process and ends with it, or when nobody waits for it any more; all its descendants are ended then.
pub(crate) fn main() -> i32 {
    let (Ok(control), Ok(spec)) =
        (process::inherited_descriptor(CONTROL), process::inherited_descriptor(SPEC))
    else {
        eprintln!("this command is for lithify's own use");
        return 125;
    };
    let report = match keep(control.as_fd(), spec.as_fd()) {
        Ok(Some(status)) => Report::Ended(status),
        Ok(None) => return 0,
        Err(error) => Report::Failed(error.into()),
    };
    // If nobody listens any more, nobody is left to tell.
    let bytes = serde_json::to_vec(&report).unwrap_or_default();
    let _ = socket::send_with_fds(&control, &bytes, &[]);
    0
}

fn keep(control: BorrowedFd<'_>, spec: BorrowedFd<'_>) -> Result<Option<Status>, Error> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Error::setup("becoming the one that orphans go to"))?;
    let (executable, null) =
        super::program().map_err(Error::setup("opening /proc/self/exe and /dev/null"))?;
    let (stdout, stderr) = (rustix::stdio::stdout(), rustix::stdio::stderr());
    let program = Program {
        executable: executable.as_fd(),
        args: &arguments(STEP),
        env: &[],
        descriptors: &[null.as_fd(), stdout, stderr, control, spec],
    };
    let mut child = process::spawn(&program, Namespaces::empty())?;
    // Its end, or the hang-up of who waits for it.
    let hung_up = loop {
        let mut descriptors = [PollFd::new(&child, PollFlags::IN), PollFd::new(&control, PollFlags::empty())];
        match poll(&mut descriptors, None) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(Error::setup("watching over the process")(error)),
            Ok(_) => break descriptors[0].revents().is_empty(),
        }
    };
    let status = if hung_up {
        None
    } else {
        let exit = child.wait().map_err(Error::setup("watching over the process"))?;
        Some(match exit {
            Exit::Exited(code) => Status::Exited(code),
            Exit::Signaled(signal) => Status::Signaled(signal),
        })
    };
    end_descendants();
    Ok(status)
}

/// Kills all processes that come from this one. They are stopped first, so that none can start another meanwhile.
fn end_descendants() {
    loop {
        let mut stopped = HashSet::new();
        loop {
            let news: Vec<Pid> = descendants().into_iter().filter(|pid| stopped.insert(*pid)).collect();
            if news.is_empty() {
                break;
            }
            for pid in news {
                let _ = rustix::process::kill_process(pid, Signal::STOP);
            }
        }
        for pid in &stopped {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        // Every one of them becomes this process's own child when its parent ends.
        while let Ok(_) | Err(Errno::INTR) = rustix::process::wait(WaitOptions::empty()) {}
        if stopped.is_empty() {
            return;
        }
    }
}

/// The living processes that come from this one.
fn descendants() -> Vec<Pid> {
    let processes: Vec<(Pid, i32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            Some((Pid::from_raw(pid)?, parent(&String::from_utf8_lossy(&stat))?))
        })
        .collect();
    let mut known = vec![rustix::process::getpid()];
    let mut at = 0;
    while at < known.len() {
        let above = known[at].as_raw_pid();
        known.extend(processes.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        at += 1;
    }
    known.split_off(1)
}

/// The parent's number in the text of /proc/<pid>/stat; `None` for a process that has ended and only waits to be reaped. The name may
/// hold anything, so the last parenthesis counts.
fn parent(stat: &str) -> Option<i32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

#[cfg(test)]
mod tests {
    #[test]
    fn parents() {
        let check = |stat: &str, expected| assert_eq!(super::parent(stat), expected, "{stat}");
        check("12 (sh) S 7 12 12 0 -1", Some(7));
        check("12 (a) S 1 (x) R 9 1", Some(9));
        check("12 (sh) Z 7 12", None);
        check("", None);
    }
}
