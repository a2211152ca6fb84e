//! The socket of an ssh agent, as a RUN sees it.
//!
//! The agent's own socket cannot be mounted: it belongs to the user, and stands in a mount namespace that is not the worker's. So
//! the worker listens on a socket of its own and hands each connection to the main process, which may connect to the agent.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};

use lithify_linux::mount::{self, Below};
use lithify_linux::owner::Owners;
use lithify_linux::socket;
use rustix::fs::{AtFlags, Mode, OFlags};

/// A socket that passes connections on, as long as this lives.
pub(crate) struct Agent {
    listener: UnixListener,
    folder: OwnedFd,
    name: String,
}

/// Who may use the socket.
pub(crate) struct Access {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Agent {
    /// Listens on a socket that is made in `folder`; connections go to `main`. Returns the socket as a detached mount too.
    ///
    /// # Errors
    /// A socket that cannot be made or mounted, and a thread that cannot be started.
    pub(crate) fn listen(
        owners: Owners,
        folder: &OwnedFd,
        access: &Access,
        main: OwnedFd,
    ) -> io::Result<(Agent, OwnedFd)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("agent.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Left by a process that had this number in another namespace.
        let _ = rustix::fs::unlinkat(folder, &name, AtFlags::empty());
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?;
        // What is recorded of it stays with the folder, out of sight: it is mounted alone, and any user may connect.
        owners.give_at(folder.as_fd(), name.as_bytes(), access.uid, access.gid)?;
        rustix::fs::chmodat(folder, &name, Mode::from_raw_mode(access.mode), AtFlags::empty())?;
        let file = rustix::fs::openat(folder, &name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mounted = mount::bind(&file, Below::With)?;
        let folder = folder.try_clone()?;
        let accepting = listener.try_clone()?;
        std::thread::Builder::new().spawn(move || {
            while let Ok((connection, _)) = accepting.accept() {
                if socket::send_with_fds(&main, b"a", &[connection.as_fd()]).is_err() {
                    return;
                }
            }
        })?;
        Ok((Agent { listener, folder, name }, mounted))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Not before: what is mounted must have a name.
        let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}
