//! From the clone of a thread to the execution of its program.
//!
//! A child that was cloned from a process with threads may do little before it executes another program: no memory may be
//! asked for, no lock taken. So all that a child needs is laid out before in a [`Plan`], and [`child`] only makes system calls.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::Pid;

use super::{Child, Groups, Program, SpawnError, Stage};

/// The highest number of descriptors that a program is given.
pub(super) const MAX_DESCRIPTORS: usize = 8;
/// Ample for [`child`], which calls nothing deep.
const STACK_BYTES: usize = 64 << 10;

/// The null-terminated lists that `execve` wants.
pub(super) struct Pointers {
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
}

impl Pointers {
    pub(super) fn new(program: &Program<'_>) -> Self {
        Pointers { args: pointers(program.args), env: pointers(program.env) }
    }
}

pub(super) fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// What the child reads, all of it made before the clone.
pub(super) struct Plan {
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
pub(super) struct Gate {
    pub(super) theirs: RawFd,
    pub(super) ours: RawFd,
    pub(super) mounts: bool,
    pub(super) proc: bool,
}

impl Plan {
    pub(super) fn new(program: Option<(&Program<'_>, &Pointers)>, gate: Option<Gate>) -> Plan {
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

    pub(super) fn failure(&self) -> Option<SpawnError> {
        match self.failed_stage.load(Ordering::Relaxed) {
            0 => None,
            stage => Some(spawn_error(stage, self.failed_errno.load(Ordering::Relaxed))),
        }
    }
}

pub(super) fn spawn_error(stage: i32, errno: i32) -> SpawnError {
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
pub(super) fn clone(plan: &Plan, flags: c_int) -> Result<Child, SpawnError> {
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
        for (place, descriptor) in raised.iter_mut().zip(plan.descriptors).take(plan.count) {
            *place = raise(descriptor)?;
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
        if go == Groups::None as u8 {
            check(Stage::Identity, libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        }
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
