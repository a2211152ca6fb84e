//! Waiting for signals that ask the process to end, on a thread of its own instead of in a handler.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

/// SIGINT and SIGTERM, blocked in this thread and those that it starts from now on.
#[derive(Clone, Copy)]
pub struct Termination(libc::sigset_t);

/// Blocks SIGINT and SIGTERM; they then wait for [`Termination::wait`]. To be called before other threads are started.
///
/// # Errors
/// What `pthread_sigmask` says.
pub fn block_termination() -> io::Result<Termination> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set, to which two signals that exist are added.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        set.assume_init()
    };
    // SAFETY: the set is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(Termination(set)),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl Termination {
    /// Waits until one of the signals comes.
    pub fn wait(&self) {
        let mut signal = 0;
        // SAFETY: the set is initialised, and the signal's number has a place to go.
        unsafe { libc::sigwait(&self.0, &mut signal) };
    }
}
