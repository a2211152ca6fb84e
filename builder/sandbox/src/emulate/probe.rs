//! Whether system calls can be answered here, found out by answering one.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc;

use lithify_linux::process::{Exit, Program};
use lithify_linux::remote;
use lithify_linux::seccomp::{Action, Answer, Filter, Rule, When};
use rustix::fs::{Mode, OFlags};

use crate::init::INIT_ARGUMENT;
use crate::{IdMap, worker};

/// The second argument of the process that tries it.
pub(crate) const PROBE: &str = "emulate";

/// What the call is answered with. Nobody has this id there.
const ANSWER: u32 = 4711;

/// Tries it in a child with the ids of `map`.
pub(crate) fn probe(map: &IdMap) -> io::Result<()> {
    let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
    let (executable, null) = (open("/proc/self/exe", OFlags::PATH)?, open("/dev/null", OFlags::RDWR)?);
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let descriptors: [BorrowedFd<'_>; 3] = [null.as_fd(); 3];
    let program = Program {
        executable: executable.as_fd(),
        args: &[text("lithify"), text(INIT_ARGUMENT), text(PROBE)],
        env: &[],
        descriptors: &descriptors,
    };
    let started = worker::hold_and_release(map, Some(&program));
    let mut child = started.map_err(|unavailable| io::Error::other(unavailable.to_string()))?;
    match child.wait()? {
        Exit::Exited(0) => Ok(()),
        Exit::Exited(errno) => Err(io::Error::from_raw_os_error(errno)),
        Exit::Signaled(signal) => Err(io::Error::other(format!("it was killed by signal {signal}"))),
    }
}

/// The child: 0, or the errno of what failed, as its exit code.
pub(crate) fn probe_main() -> i32 {
    match answer_one() {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    }
}

fn answer_one() -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    let asking = std::thread::Builder::new().spawn(move || -> io::Result<u32> {
        let rule = Rule { call: libc::SYS_getuid, when: When::Always, action: Action::Notify };
        let installed = Filter { rules: vec![rule], highest_known: None }.compile().install();
        let is_installed = installed.is_ok();
        let _ = sender.send(installed);
        Ok(if is_installed { rustix::process::getuid().as_raw() } else { 0 })
    })?;
    let listener = receiver.recv().map_err(io::Error::other)??;
    let call = listener.receive()?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    let marked = remote::set_mark(call.thread, Some(1));
    listener.answer(&call, Answer::Value(ANSWER.into()))?;
    marked?;
    let answer = asking.join().map_err(|_| io::Error::from_raw_os_error(libc::EIO))??;
    if answer == ANSWER { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOSYS)) }
}
