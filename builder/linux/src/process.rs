//! Starting programs in new namespaces, and holding on to them by pidfd.
//!
//! A child that was cloned from a process with threads may do little before it executes another program: no memory may be
//! asked for, no lock taken. So all that a child needs is laid out before in a [`Plan`], and [`child`] only makes system calls.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
pub use rustix::thread::UnshareFlags as Namespaces;

/// The highest number of descriptors that a program is given.
const MAX_DESCRIPTORS: usize = 8;
/// Ample for [`child`], which calls nothing deep.
const STACK_BYTES: usize = 64 << 10;

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
    pub fn release(self) -> Result<Child, SpawnError> {
        let failed = |source: rustix::io::Errno| SpawnError { stage: Stage::Identity, source: source.into() };
        rustix::net::send(&self.gate, &[1], rustix::net::SendFlags::NOSIGNAL).map_err(failed)?;
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

/// The null-terminated lists that `execve` wants.
struct Pointers {
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
}

impl Pointers {
    fn new(program: &Program<'_>) -> Self {
        Pointers { args: pointers(program.args), env: pointers(program.env) }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// What the child reads, all of it made before the clone.
struct Plan {
    executable: Option<RawFd>,
    args: *const *const c_char,
    env: *const *const c_char,
    descriptors: [RawFd; MAX_DESCRIPTORS],
    count: usize,
    gate: Option<Gate>,
    // Where a child that shares memory says why it failed.
    failed_stage: AtomicI32,
    failed_errno: AtomicI32,
}

#[derive(Clone, Copy)]
struct Gate {
    theirs: RawFd,
    ours: RawFd,
    mounts: bool,
    proc: bool,
}

impl Plan {
    fn new(program: Option<(&Program<'_>, &Pointers)>, gate: Option<Gate>) -> Plan {
        let given = program.map_or(&[][..], |(program, _)| program.descriptors);
        assert!(given.len() <= MAX_DESCRIPTORS, "a program gets at most {MAX_DESCRIPTORS} descriptors");
        let mut descriptors = [-1; MAX_DESCRIPTORS];
        for (place, descriptor) in descriptors.iter_mut().zip(given) {
            *place = descriptor.as_raw_fd();
        }
        Plan {
            executable: program.map(|(program, _)| program.executable.as_raw_fd()),
            args: program.map_or(std::ptr::null(), |(_, pointers)| pointers.args.as_ptr()),
            env: program.map_or(std::ptr::null(), |(_, pointers)| pointers.env.as_ptr()),
            descriptors,
            count: given.len(),
            gate,
            failed_stage: AtomicI32::new(0),
            failed_errno: AtomicI32::new(0),
        }
    }

    fn failure(&self) -> Option<SpawnError> {
        match self.failed_stage.load(Ordering::Relaxed) {
            0 => None,
            stage => Some(spawn_error(stage, self.failed_errno.load(Ordering::Relaxed))),
        }
    }
}

fn spawn_error(stage: i32, errno: i32) -> SpawnError {
    let stages = [
        Stage::Namespaces,
        Stage::Identity,
        Stage::DeathSignal,
        Stage::Propagation,
        Stage::Proc,
        Stage::Descriptors,
        Stage::Execute,
    ];
    let stage = stages.into_iter().find(|known| *known as i32 == stage).unwrap_or(Stage::Execute);
    SpawnError { stage, source: io::Error::from_raw_os_error(errno) }
}

/// Clones this thread into [`child`] on a stack of its own.
fn clone(plan: &Plan, flags: c_int) -> Result<Child, SpawnError> {
    let mut stack = Vec::<u8>::with_capacity(STACK_BYTES);
    let top = (stack.as_mut_ptr() as usize + STACK_BYTES) & !15;
    let mut pidfd: c_int = -1;
    let flags = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
    // While the child may share memory, no signal handler of this process may run in it.
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the sets are initialised by the calls that fill them; `plan` and `stack` outlive the child's use of them: a
    // child with CLONE_VM is waited for (CLONE_VFORK), any other has its own copy. `child` keeps to system calls.
    let pid = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let plan = std::ptr::from_ref(plan).cast_mut().cast::<c_void>();
        let pid = libc::clone(child, top as *mut c_void, flags, plan, &mut pidfd);
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        if pid < 0 { Err(error) } else { Ok(pid) }
    };
    let failed = |source| SpawnError { stage: Stage::Namespaces, source };
    let pid = pid.map_err(failed)?;
    // SAFETY: CLONE_PIDFD has stored a new descriptor, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = Pid::from_raw(pid).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    Ok(Child { pid, pidfd, exit: None })
}

/// What the clone does: system calls only.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` passes a plan that lives until this process has executed its program or ended.
    let plan = unsafe { &*plan.cast::<Plan>() };
    let Err((stage, errno)) = prepare(plan) else {
        // SAFETY: ends only this process, and runs no handlers of the parent's.
        unsafe { libc::_exit(0) }
    };
    plan.failed_errno.store(errno, Ordering::Relaxed);
    plan.failed_stage.store(stage as i32, Ordering::Relaxed);
    if let Some(gate) = plan.gate {
        let report = [stage as i32, errno];
        // SAFETY: `report` is eight readable bytes.
        unsafe { libc::send(gate.theirs, report.as_ptr().cast(), 8, libc::MSG_NOSIGNAL) };
    }
    // SAFETY: as above.
    unsafe { libc::_exit(127) }
}

type Failure = (Stage, i32);

fn check(stage: Stage, result: c_long) -> Result<c_int, Failure> {
    if result >= 0 {
        return Ok(result as c_int);
    }
    // SAFETY: errno is this thread's own; a child that shares memory shares it with the thread that waits for it.
    Err((stage, unsafe { *libc::__errno_location() }))
}

fn prepare(plan: &Plan) -> Result<(), Failure> {
    if let Some(gate) = plan.gate {
        pass_gate(gate)?;
    }
    let Some(executable) = plan.executable else { return Ok(()) };
    // SAFETY: only system calls on numbers and on the plan's memory, which is alive (see `child`). Raising the sources above
    // all targets first keeps one from overwriting another; what stays open above is closed at execution.
    unsafe {
        let above = MAX_DESCRIPTORS as c_int;
        let raise = |fd| check(Stage::Descriptors, libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, above).into());
        let executable = raise(executable)?;
        let mut raised = [-1; MAX_DESCRIPTORS];
        for index in 0..plan.count {
            raised[index] = raise(plan.descriptors[index])?;
        }
        for (target, source) in raised.iter().enumerate().take(plan.count) {
            check(Stage::Descriptors, libc::dup2(*source, target as c_int).into())?;
        }
        let closed = libc::syscall(
            libc::SYS_close_range,
            plan.count as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        check(Stage::Descriptors, closed)?;
        libc::setsid();
        let flags = libc::AT_EMPTY_PATH;
        check(
            Stage::Execute,
            libc::syscall(libc::SYS_execveat, executable, c"".as_ptr(), plan.args, plan.env, flags),
        )?;
    }
    Ok(())
}

/// Waits for the ids to be mapped, then takes possession of the new namespaces.
fn pass_gate(gate: Gate) -> Result<(), Failure> {
    // SAFETY: only system calls, on constants and on a byte of this stack frame.
    unsafe {
        libc::close(gate.ours);
        let mut go = 0_u8;
        let received = libc::recv(gate.theirs, (&raw mut go).cast(), 1, 0);
        if received != 1 {
            libc::_exit(127);
        }
        check(Stage::Identity, libc::syscall(libc::SYS_setresgid, 0, 0, 0))?;
        check(Stage::Identity, libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        check(Stage::Identity, libc::syscall(libc::SYS_setresuid, 0, 0, 0))?;
        // After the change of identity, which clears it. The parent may have died before: then the gate is closed.
        check(Stage::DeathSignal, libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into())?;
        let mut parent = libc::pollfd { fd: gate.theirs, events: 0, revents: 0 };
        if libc::poll(&raw mut parent, 1, 0) != 0 {
            libc::_exit(127);
        }
        // This process shares no memory with its parent, so a handler could do no harm.
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        if gate.mounts {
            let flags = libc::MS_REC | libc::MS_PRIVATE;
            let none = std::ptr::null();
            let changed = libc::mount(none, c"/".as_ptr(), none, flags, none.cast());
            check(Stage::Propagation, changed.into())?;
        }
        if gate.proc {
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let name = c"proc".as_ptr();
            let mounted = libc::mount(name, c"/proc".as_ptr(), name, flags, std::ptr::null());
            check(Stage::Proc, mounted.into())?;
        }
    }
    Ok(())
}
