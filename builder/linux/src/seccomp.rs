//! System call filters, and the notifications that they send.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Allow,
    /// It fails with this errno.
    Fail(u16),
    /// Whoever holds the [`Listener`] answers it.
    Notify,
}

impl Action {
    pub(crate) fn value(self) -> u32 {
        match self {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Fail(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
        }
    }
}

/// When a rule holds, beside the number of the call. Of an argument, the lower 32 bits are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// When this argument has one of the bits of the mask.
    AnyBit(u8, u32),
    /// When this argument, under the mask, is one of the values.
    OneOf(u8, u32, Vec<u32>),
    /// When this argument is none of the values.
    NoneOf(u8, Vec<u32>),
}

/// What becomes of one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The number of the call on this architecture.
    pub call: i64,
    /// When the rule holds; otherwise the call is made.
    pub when: When,
    /// What becomes of it then.
    pub action: Action,
}

/// A filter: what it names is treated as its rules say, other calls are made; those of foreign ABIs (32 bits, x32) and those
/// above the highest known number do not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The rules, at most one for a call.
    pub rules: Vec<Rule>,
    /// The highest number of a call that the author of the rules knew of, if newer ones are not to exist.
    pub highest_known: Option<i64>,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the sandbox's system call filter knows x86_64 and aarch64 only");

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: u8) -> u32 {
    let low = if cfg!(target_endian = "little") { 0 } else { 4 };
    16 + index as u32 * 8 + low
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JUMP_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;

const fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

impl Filter {
    /// The filter as a program for the kernel.
    pub fn compile(&self) -> Program {
        let absent = step(RETURN, Action::Fail(libc::ENOSYS as u16).value());
        let mut code =
            vec![step(LOAD, ARCH), jump(JUMP_EQUAL, ARCHITECTURE, 1, 0), absent, step(LOAD, NUMBER)];
        if let Some(highest) = self.highest_known {
            // x32 calls have bit 30 set, so they are above it as well.
            code.extend([jump(JUMP_GREATER, highest as u32, 0, 1), absent]);
        } else if cfg!(target_arch = "x86_64") {
            code.extend([jump(JUMP_SET, 0x4000_0000, 0, 1), absent]);
        }
        for rule in &self.rules {
            let body = rule.body();
            code.push(jump(JUMP_EQUAL, rule.call as u32, 0, body.len() as u8));
            code.extend(body);
        }
        code.push(step(RETURN, Action::Allow.value()));
        Program(code)
    }
}

impl Rule {
    /// What follows when the number is the rule's: always ends with a return.
    fn body(&self) -> Vec<libc::sock_filter> {
        let act = step(RETURN, self.action.value());
        let allow = step(RETURN, Action::Allow.value());
        match &self.when {
            When::Always => vec![act],
            When::AnyBit(index, mask) => {
                vec![step(LOAD, argument(*index)), jump(JUMP_SET, *mask, 0, 1), act, allow]
            }
            When::OneOf(index, mask, values) => {
                let mut code = vec![step(LOAD, argument(*index)), step(AND, *mask)];
                code.extend(values.iter().flat_map(|value| [jump(JUMP_EQUAL, *value, 0, 1), act]));
                code.push(allow);
                code
            }
            When::NoneOf(index, values) => {
                let mut code = vec![step(LOAD, argument(*index))];
                code.extend(values.iter().flat_map(|value| [jump(JUMP_EQUAL, *value, 0, 1), allow]));
                code.push(act);
                code
            }
        }
    }
}

/// A compiled filter.
#[derive(Clone, Debug)]
pub struct Program(Vec<libc::sock_filter>);

impl Program {
    /// Its instructions; the kernel takes 4096.
    pub fn code(&self) -> &[libc::sock_filter] {
        &self.0
    }

    /// Puts this thread and all that it will start under the filter, and returns the listener. Without `no_new_privs`, so
    /// CAP_SYS_ADMIN in this user namespace is needed.
    ///
    /// # Errors
    /// What `seccomp` says: `EBUSY` where a filter with a listener is above already.
    pub fn install(&self) -> io::Result<Listener> {
        let listen = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        let descriptor = match self.set(listen | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
            // Before Linux 5.19.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.set(listen)?,
            other => other?,
        };
        // SAFETY: with NEW_LISTENER the answer is a new descriptor, which nobody else owns.
        Ok(Listener(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// As [`install`](Program::install), without a listener: no rule may say [`Action::Notify`].
    ///
    /// # Errors
    /// What `seccomp` says.
    pub fn install_alone(&self) -> io::Result<()> {
        self.set(0).map(|_| ())
    }

    fn set(&self, flags: libc::c_ulong) -> io::Result<RawFd> {
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel reads the program, whose length is right, and copies it.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
    }
}

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    id: u64,
    /// The thread that makes it, as numbered in the pid namespace of who received this.
    pub thread: u32,
    /// The number of the call.
    pub call: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What a call is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It returns this.
    Value(i64),
    /// It fails with this errno.
    Error(i32),
    /// It is made as if nobody had been asked.
    Continue,
}

/// The kernel's `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    new: u32,
    new_flags: u32,
}

/// `SECCOMP_IOCTL_NOTIF_ADDFD`: `_IOW('!', 3, struct seccomp_notif_addfd)`.
const ADD_FD: libc::Ioctl = 0x4018_2103;
/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`: `_IOW('!', 4, __u64)`.
const SET_FLAGS: libc::Ioctl = 0x4008_2104;
/// `SECCOMP_ADDFD_FLAG_SEND`, since Linux 5.14.
const SEND: u32 = 1 << 1;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, since Linux 6.6.
const SYNC_WAKE_UP: u64 = 1;

/// Receives the calls that a filter says [`Action::Notify`] to. When it is closed, they fail with ENOSYS. Polls as readable
/// when there is one, and as hung up when no process is left under the filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// The call that waits longest. `None` when it has been given up since the descriptor was readable.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn receive(&self) -> io::Result<Option<Notification>> {
        // SAFETY: zeros are a value for every field, and what the kernel wants to find there.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the ioctl writes one `seccomp_notif`, whose size its number holds.
        match unsafe { self.call(libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut request) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(Some(Notification {
                id: request.id,
                thread: request.pid,
                call: request.data.nr.into(),
                arguments: request.data.args,
            })),
        }
    }

    /// Whether the call still waits, and so its thread's number still means that thread.
    pub fn is_waiting(&self, notification: &Notification) -> bool {
        let mut id = notification.id;
        // SAFETY: the ioctl reads one u64.
        unsafe { self.call(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw mut id) }.is_ok()
    }

    /// Answers the call.
    ///
    /// # Errors
    /// What the ioctl says; a caller that is gone is none.
    pub fn answer(&self, notification: &Notification, answer: Answer) -> io::Result<()> {
        let (val, error, flags) = match answer {
            Answer::Value(value) => (value, 0, 0),
            Answer::Error(errno) => (0, -errno, 0),
            Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        };
        let mut response = libc::seccomp_notif_resp { id: notification.id, val, error, flags };
        // SAFETY: the ioctl reads one `seccomp_notif_resp`, whose size its number holds.
        match unsafe { self.call(libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Answers the call with a new descriptor of its process, for what `file` is open on.
    ///
    /// # Errors
    /// What the ioctl says, `EMFILE` where the process may have no more descriptors; then the call waits on.
    pub fn answer_with(
        &self,
        notification: &Notification,
        file: BorrowedFd<'_>,
        close_on_exec: bool,
    ) -> io::Result<()> {
        let new_flags = if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 };
        let source = file.as_raw_fd() as u32;
        let mut request = AddFd { id: notification.id, flags: SEND, source, new: 0, new_flags };
        // SAFETY: the ioctl reads one `seccomp_notif_addfd`, which `AddFd` is.
        unsafe { self.call(ADD_FD, &raw mut request) }
    }

    /// Asks the kernel to hand the processor over when a call is sent here, and to the caller when it is answered: it is one thing after
    /// the other anyway. Kernels before 6.6 do not know this, and it makes no other difference.
    pub fn wake_on_same_processor(&self) {
        // By value, not by address, whatever the number says.
        // SAFETY: the kernel takes the argument for a number.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
    }

    /// # Safety
    /// `argument` must be what `request` reads and writes.
    unsafe fn call<T>(&self, request: libc::Ioctl, argument: *mut T) -> io::Result<()> {
        loop {
            // SAFETY: passed on to the caller.
            if unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) } >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Listener {
    fn from(descriptor: OwnedFd) -> Self {
        Listener(descriptor)
    }
}
