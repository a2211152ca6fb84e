//! Answers system calls of a step that the kernel would not answer as it does for root of a container.
//!
//! Where there is one id only (the rung `single`), every file and process belongs to it. A step is to notice nothing of that: who
//! owns a file is recorded beside it ([`lithify_linux::owner`]), who a process believes to be is kept here ([`credentials`]), and
//! the calls that ask for either, or change it, are sent here by the system call filter. On every rung, device nodes are made here, which no
//! user namespace may have, and shown as such where the tree holds some.
//!
//! One thread for each step answers one call after the other. It has the step's root folder, so that paths mean to it what they mean to
//! the step, and `/proc` of the worker as its working folder, through which it reaches what a process has open: `PID/cwd`, `PID/fd/N`.
//! What is not about a record is left to the kernel as it is ([`Answer::Continue`]). This emulates, it does not contain: a
//! program that changes a path while it is looked at deceives itself.

mod attributes;
mod caller;
pub(crate) mod calls;
mod create;
pub(crate) mod credentials;
mod execute;
mod files;
mod identity;
mod permission;
mod probe;
mod status;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use lithify_linux::capability::Capabilities;
use lithify_linux::seccomp::{Answer, Listener, Notification};
use lithify_linux::{remote, thread};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::{Process, Security, policy};
use calls::Subject;
pub use create::NODE_ATTRIBUTE;
use credentials::{Credentials, Table};
pub(crate) use probe::{PROBE, probe, probe_main};

/// Who processes in a sandbox are, and whom their files belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Identities {
    /// Whom the kernel says.
    Real,
    /// One id in truth, and any as far as the step can see.
    Emulated,
    /// One id. Calls that would change something are said to have worked.
    Pretended,
}

/// How a call ends, where it does not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// It returns this.
    Value(i64),
    /// The kernel makes it.
    Continue,
    /// It has been answered.
    Done,
}

/// The thread that answers a step's calls.
#[derive(Debug)]
pub(crate) struct Supervisor {
    thread: Option<JoinHandle<()>>,
    nodes: Arc<AtomicUsize>,
}

impl Supervisor {
    /// Answers what comes through `listener` until no process is left under its filter. `root` is the step's root folder.
    pub(crate) fn start(
        listener: Listener,
        root: OwnedFd,
        process: &Process,
        identities: Identities,
    ) -> io::Result<Supervisor> {
        let nodes = Arc::new(AtomicUsize::new(0));
        let bounding = match process.security {
            Security::Sandbox => policy::CAPABILITIES,
            Security::Insecure => Capabilities::all(),
        };
        let who = Credentials::new(process.uid, process.gid, &process.groups, bounding);
        let proc = open_folder("/proc")?;
        let session = Session {
            listener,
            identities,
            table: Table::new(who),
            proc,
            root: Root::of(&root)?,
            // With namespaces of its own, a process may have any root.
            roots_differ: process.security == Security::Insecure,
            pipes: process.has_special,
            nodes: nodes.clone(),
            path: vec![],
            value: vec![],
            first_user: process.uid,
        };
        let thread = std::thread::Builder::new().name("supervisor".into()).spawn(move || {
            let mut session = session;
            // Should it fail, the listener is closed: calls fail with ENOSYS, and the step with them.
            let _ = session.enter(&root).and_then(|()| session.serve());
        })?;
        Ok(Supervisor { thread: Some(thread), nodes })
    }

    /// To be called when the step has ended: how many device nodes were recorded.
    pub(crate) fn finish(mut self) -> usize {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.nodes.load(Ordering::Relaxed)
    }
}

/// Tells one root folder from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Root {
    mount: u64,
    inode: u64,
}

impl Root {
    fn of(folder: impl AsFd) -> Result<Root, Errno> {
        let mask = StatxFlags::INO | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(folder, c"", rustix::fs::AtFlags::EMPTY_PATH, mask)?;
        Ok(Root { mount: stat.stx_mnt_id, inode: stat.stx_ino })
    }
}

/// What the thread knows.
struct Session {
    listener: Listener,
    identities: Identities,
    table: Table,
    /// `/proc` of this process's pid namespace.
    proc: OwnedFd,
    /// The root folder that this thread has at present.
    root: Root,
    /// Whether a process may have another root folder.
    roots_differ: bool,
    /// Whether pipes and sockets may have owners.
    pipes: bool,
    nodes: Arc<AtomicUsize>,
    /// The path of the present call, used again and again.
    path: Vec<u8>,
    value: Vec<u8>,
    /// Who the step's first process is.
    first_user: u32,
}

impl Session {
    /// Gives this thread the step's root folder.
    fn enter(&mut self, root: &OwnedFd) -> io::Result<()> {
        thread::own_folders()?;
        self.change_root(root)?;
        rustix::process::umask(Mode::empty());
        self.listener.wake_on_same_processor();
        Ok(())
    }

    fn change_root(&mut self, root: &OwnedFd) -> Result<(), Errno> {
        rustix::process::fchdir(root)?;
        rustix::process::chroot(c".")?;
        rustix::process::fchdir(&self.proc)?;
        self.root = Root::of(root)?;
        Ok(())
    }

    fn serve(&mut self) -> io::Result<()> {
        while self.wait()? {
            let Some(call) = self.listener.receive()? else { continue };
            let answer = match self.handle(&call) {
                Ok(Reply::Value(value)) => Answer::Value(value),
                Ok(Reply::Continue) => Answer::Continue,
                Ok(Reply::Done) => continue,
                Err(errno) => Answer::Error(errno.raw_os_error()),
            };
            self.listener.answer(&call, answer)?;
        }
        Ok(())
    }

    /// Whether another call comes: false when no process is left. Before Linux 6.11, `receive` alone would wait for ever.
    fn wait(&self) -> io::Result<bool> {
        let mut listener = [PollFd::new(&self.listener, PollFlags::IN)];
        loop {
            match poll(&mut listener, None) {
                Err(Errno::INTR) => {}
                other => {
                    other?;
                    return Ok(listener[0].revents().contains(PollFlags::IN));
                }
            }
        }
    }

    fn handle(&mut self, call: &Notification) -> Result<Reply, Errno> {
        let Some(subject) = calls::subject(call.call) else { return Ok(Reply::Continue) };
        if self.roots_differ && subject.has_path() {
            self.follow_root(call.thread)?;
        }
        match subject {
            Subject::Stat => self.stat(call),
            Subject::Owner => self.change_owner(call),
            Subject::Link => self.read_link(call),
            Subject::Create => self.create(call),
            Subject::Attribute => self.attribute(call),
            Subject::Execute => self.execute(call),
            Subject::Identity => self.identity(call),
            Subject::Mode => self.change_mode(call),
            Subject::Name => self.rename(call),
            Subject::Permission => self.permission(call),
            Subject::Root => {
                if !self.who(call.thread)?.may(Capabilities::SYS_CHROOT) {
                    return Err(Errno::PERM);
                }
                self.roots_differ = true;
                Ok(Reply::Continue)
            }
        }
    }

    /// Takes the root folder that the caller has.
    fn follow_root(&mut self, thread: u32) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, format!("{thread}/root"), flags, Mode::empty())?;
        if Root::of(&root)? != self.root {
            self.change_root(&root)?;
        }
        Ok(())
    }

    /// Who the caller believes to be.
    fn who(&self, thread: u32) -> Result<&Credentials, Errno> {
        Ok(self.table.get(remote::mark(thread)?))
    }

    fn become_other(&mut self, thread: u32, who: &Credentials) -> Result<(), Errno> {
        let mark = self.table.mark(who);
        remote::set_mark(thread, mark)
    }
}

fn open_folder(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
