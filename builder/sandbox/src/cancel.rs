//! Calling off what runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};

/// A request to stop, shared by all clones; once made it stays. Its descriptor polls as readable from then on.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<OwnedFd>);

impl Cancel {
    /// A request that has not been made.
    ///
    /// # Errors
    /// What `eventfd` says.
    pub fn new() -> io::Result<Cancel> {
        Ok(Cancel(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Makes the request.
    pub fn cancel(&self) {
        // Fails only when the counter is full, and then the request has been made long ago.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Whether it has been made.
    pub fn is_cancelled(&self) -> bool {
        let mut descriptors = [PollFd::new(&*self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut descriptors, Some(&now)), Ok(1))
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
