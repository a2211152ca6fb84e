//! Connects what a RUN says to its ssh agent's socket with the agent.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use lithify_linux::socket;

/// Starts passing on the connections that the worker hands over, until it lets go of the other end, which is returned.
///
/// # Errors
/// A socket or a thread that cannot be had.
pub(super) fn relay(agent: PathBuf) -> io::Result<OwnedFd> {
    let (ours, theirs) = socket::pair()?;
    std::thread::Builder::new().name("ssh agent".into()).spawn(move || {
        while let Ok(Some((_, connections))) = socket::receive_with_fds(&ours, 1) {
            for connection in connections {
                // Without the agent the connection closes, which ssh reports.
                if let Ok(agent) = UnixStream::connect(&agent) {
                    connect(UnixStream::from(connection), agent);
                }
            }
        }
    })?;
    Ok(theirs)
}

/// Copies both ways until both sides have said all.
fn connect(step: UnixStream, agent: UnixStream) {
    for (from, to) in [(&step, &agent), (&agent, &step)] {
        let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
        // Where no thread can be had the connection closes.
        let _ = std::thread::Builder::new().spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
