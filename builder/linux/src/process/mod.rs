//! Starting programs in new namespaces, and holding on to them by pidfd.
//!
#![allow(unsafe_code)]

mod clone;

use std::ffi::{CString, c_int};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
pub use rustix::thread::UnshareFlags as Namespaces;

use clone::{Gate, MAX_DESCRIPTORS, Plan, Pointers, clone, pointers, spawn_error};

/// A program to start.
pub struct Program<'a> {
    /// The file to execute; the descriptor may be `O_PATH`.
    pub executable: BorrowedFd<'a>,
    /// The arguments, the program's own name first.
    pub args: &'a [CString],
    /// The whole environment, each as `NAME=value`.
    pub env: &'a [CString],
    /// What the program's descriptors 0, 1, 2 … are; it gets no others. At most eight.
    pub descriptors: &'a [BorrowedFd<'a>],
}

/// How far a child came before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Making the process and its namespaces.
    Namespaces = 1,
    /// Becoming user and group 0 of the new user namespace.
    Identity,
    /// Asking to be killed with the parent.
    DeathSignal,
    /// Taking the mounts of the new mount namespace out of the old one's reach.
    Propagation,
    /// Mounting the new pid namespace's `/proc`.
    Proc,
    /// Laying out the descriptors.
    Descriptors,
    /// Executing the program.
    Execute,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Namespaces => "making the namespaces",
            Stage::Identity => "becoming root of the user namespace",
            Stage::DeathSignal => "tying its life to its parent's",
            Stage::Propagation => "making its mounts private",
            Stage::Proc => "mounting /proc",
            Stage::Descriptors => "laying out its descriptors",
            Stage::Execute => "executing the program",
        })
    }
}

/// A process that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("starting a process failed at {stage}")]
pub struct SpawnError {
    /// How far it came.
    pub stage: Stage,
    /// What the kernel said.
    pub source: io::Error,
}

/// Starts `program` in `namespaces` of its own, as leader of a new session. Returns when the program is executed, so this
/// thread is held up for that long; no memory is copied. The program starts with all signals blocked, and calls
/// [`reset_signals`] first.
///
/// # Errors
/// Where the child failed, up to and with `execveat`.
pub fn spawn(program: &Program<'_>, namespaces: Namespaces) -> Result<Child, SpawnError> {
    let pointers = Pointers::new(program);
    let plan = Plan::new(Some((program, &pointers)), None);
    let child = clone(&plan, namespaces.bits() as c_int | libc::CLONE_VM | libc::CLONE_VFORK)?;
    match plan.failure() {
        Some(failure) => Err(failure),
        None => Ok(child),
    }
}

/// Clones a process into a user namespace (and the other `namespaces`) that has no ids mapped yet, and holds it there until
/// [`Held::release`]. Then it becomes user 0 of that namespace, dies with the calling *thread*, has its mounts to itself, a
/// `/proc` of its own if its namespaces hold pid and mount namespaces, and executes `program`; without one it ends at once.
///
/// # Errors
/// What `clone` says.
pub fn spawn_held(program: Option<&Program<'_>>, namespaces: Namespaces) -> Result<Held, SpawnError> {
    let failed = |source: io::Error| SpawnError { stage: Stage::Namespaces, source };
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| failed(error.into()))?;
    // Out of the way of what the program is given.
    let above = MAX_DESCRIPTORS as RawFd;
    let theirs = rustix::io::fcntl_dupfd_cloexec(&theirs, above).map_err(|error| failed(error.into()))?;
    let pointers = program.map(Pointers::new);
    let with_pointers = program.zip(pointers.as_ref());
    let gate = Gate {
        theirs: theirs.as_raw_fd(),
        ours: ours.as_raw_fd(),
        mounts: namespaces.contains(Namespaces::NEWNS),
        proc: namespaces.contains(Namespaces::NEWNS | Namespaces::NEWPID),
    };
    let plan = Plan::new(with_pointers, Some(gate));
    let child = clone(&plan, namespaces.bits() as c_int)?;
    Ok(Held { child, gate: ours })
}

/// What becomes of the supplementary groups of a process in a new user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Groups {
    /// It is in none any more.
    None = 1,
    /// It stays in those, which are nobody's there: the kernel lets nobody change groups where a map was written without
    /// privilege (user_namespaces(7)).
    Kept,
}

/// A process that waits for its ids to be mapped. Dropping it kills it.
pub struct Held {
    child: Child,
    gate: OwnedFd,
}

impl Held {
    /// Its number, whose `/proc/<pid>/uid_map` is to be written.
    pub fn pid(&self) -> Pid {
        self.child.pid
    }

    /// Lets it go on, and waits until it has executed its program, or ended where it has none.
    ///
    /// # Errors
    /// Where the child failed, up to and with `execveat`.
    pub fn release(self, groups: Groups) -> Result<Child, SpawnError> {
        let failed = |source: rustix::io::Errno| SpawnError { stage: Stage::Identity, source: source.into() };
        rustix::net::send(&self.gate, &[groups as u8], rustix::net::SendFlags::NOSIGNAL).map_err(failed)?;
        let mut report = [0_u8; 8];
        let length = loop {
            match rustix::net::recv(&self.gate, &mut report, rustix::net::RecvFlags::empty()) {
                Ok((length, _)) => break length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(failed(error)),
            }
        };
        if length < 8 {
            return Ok(self.child);
        }
        let [a, b, c, d, e, f, g, h] = report;
        Err(spawn_error(i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])))
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

/// A child process. Dropping it kills it, and with it everything in a pid namespace that it is the first process of.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    exit: Option<Exit>,
}

impl Child {
    /// Its number in this process's pid namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its pidfd, which polls as readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills it with SIGKILL; nothing happens if it has ended.
    pub fn kill(&self) {
        // The only error is that there is no such process any more.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What `waitid` says.
    pub fn wait(&mut self) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) | Ok(None) => continue,
                Err(error) => return Err(error.into()),
                Ok(Some(status)) => {
                    let exit = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Exit::Exited(code),
                        (None, signal) => Exit::Signaled(signal.unwrap_or(libc::SIGKILL)),
                    };
                    self.exit = Some(exit);
                    return Ok(exit);
                }
            }
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.kill();
            let _ = self.wait();
        }
    }
}

/// Takes possession of a descriptor that this process was started with, and that nothing in it has touched yet. It is closed
/// when another program is executed.
///
/// # Errors
/// `EBADF` when there is no such descriptor.
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl says whether the number stands for an open descriptor before it is owned.
    unsafe {
        if libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(number))
    }
}

/// Sets every signal's handler to the default and unblocks it, as a program expects that is started afresh.
pub fn reset_signals() {
    // The kernel's `struct sigaction`: handler, flags, restorer, mask. Not through libc, which keeps two signals for itself and
    // may have inherited that they are ignored.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        let mask_bytes = 8;
        // SAFETY: the kernel reads one `struct sigaction` with the handler SIG_DFL, and refuses SIGKILL and SIGSTOP.
        unsafe {
            let none = std::ptr::null::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, mask_bytes)
        };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before it is used; the old mask is not asked for.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Replaces this process's program by the file at `path`. Returns only when that fails.
///
/// # Errors
/// What `execve` says.
pub fn execute(path: &std::ffi::CStr, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both lists end with a null pointer and the strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Lets this process, and those that it starts, have as many files open as the hard limit allows. Gives the soft and the hard
/// limit that there were, where the soft one was lower; `u64::MAX` is unlimited.
pub fn raise_open_files() -> Option<(u64, u64)> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    if number(before.current) >= number(before.maximum) {
        return None;
    }
    setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum }).ok()?;
    Some((number(before.current), number(before.maximum)))
}
