//! The rung `chroot`: root without the right to make namespaces, as in a container with default settings.
//!
//! ```text
//! worker ─Chroot::run─▶ keeper: subreaper, waits, and ends whatever is left
//!                          └─▶ init: changes its root folder, becomes the process of the step
//! ```
//! Nothing can be mounted, so what other rungs mount is moved into the tree for the time of the step, what was there being
//! put aside ([`cover`]), and back again. A tree on disk is needed for that: the copy snapshotter's.
//!
//! There is no system call filter: without CAP_SYS_ADMIN it would need `no_new_privs`, which breaks setuid programs. What contains a
//! step is the container around; this rung sees to it that the step starts clean and leaves nothing behind.

mod cover;
pub(crate) mod keeper;

use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lithify_linux::process::{self, Child, Exit, Namespaces, Program};
use lithify_linux::{capability, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::init::{INIT_ARGUMENT, MESSAGE_LIMIT_BYTES, Report};
use crate::range::write_spec;
use crate::{
    Cancel, Error, Identities, MountSource, Network, Outcome, Process, RungName, Sandbox, Security, Status,
    Stdio, policy,
};
use cover::Covers;

/// The second argument of the process that watches over a step.
pub(crate) const KEEPER: &str = "keeper";
/// The second argument of the process that becomes the step's.
pub(crate) const STEP: &str = "chroot";
/// The second argument of the process that tries whether the rung works.
pub(crate) const PROBE: &str = "probe";

/// Runs processes in trees as root of this machine or container, without namespaces.
#[derive(Debug)]
pub struct Chroot {
    executable: OwnedFd,
    null: OwnedFd,
    /// What is put aside during steps lies here, on the file system of the trees.
    held: OwnedFd,
}

impl Chroot {
    /// Readies the sandbox. `held` is a folder on the file system of the trees, to put things aside in.
    ///
    /// # Errors
    /// Where there is no `/dev/null` or `/proc`.
    pub fn new(held: OwnedFd) -> Result<Chroot, Error> {
        let (executable, null) = program().map_err(Error::setup("opening /proc/self/exe and /dev/null"))?;
        Ok(Chroot { executable, null, held })
    }

    fn start(
        &self,
        process: &Process,
        root: BorrowedFd<'_>,
        stdio: &Stdio,
    ) -> Result<(Child, OwnedFd), Error> {
        let spec = write_spec(process, Identities::Real).map_err(Error::setup("writing down what to run"))?;
        let (control, theirs) = socket::pair().map_err(Error::setup("making a socket"))?;
        let program = Program {
            executable: self.executable.as_fd(),
            args: &arguments(KEEPER),
            env: &[],
            descriptors: &[
                self.null.as_fd(),
                stdio.stdout.as_fd(),
                stdio.stderr.as_fd(),
                theirs.as_fd(),
                spec.as_fd(),
            ],
        };
        let child = process::spawn(&program, Namespaces::empty())?;
        // It waits for its root folder, so it starts nothing before it is limited.
        stdio.limit(child.pid())?;
        socket::send_with_fds(&control, b"mounts", &[root])
            .map_err(Error::setup("passing the root folder"))?;
        Ok((child, control))
    }
}

impl Sandbox for Chroot {
    fn run(
        &self,
        process: &Process,
        root: OwnedFd,
        mounts: Vec<OwnedFd>,
        stdio: Stdio,
        cancel: &Cancel,
    ) -> Result<Outcome, Error> {
        check_supported(process)?;
        let deadline = process.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut covers = Covers::new(root.as_fd(), self.hold()?)?;
        let ended = covers.lay(process, &mounts).and_then(|()| {
            let (child, control) = self.start(process, root.as_fd(), &stdio)?;
            drop(stdio);
            watch(child, control, cancel, deadline)
        });
        let lifted = covers.lift();
        let status = ended?;
        let left = lifted?;
        Ok(Outcome { status, created_mountpoints: left, recorded_nodes: 0 })
    }
}

impl Chroot {
    /// A new folder to put things aside in, with its name.
    fn hold(&self) -> Result<cover::Held, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Another container that has the same store may have a process of this number.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let name = format!("{}.{}.{}.{count}", std::process::id(), now.tv_sec, now.tv_nsec);
        let held = cover::Held::make(self.held.as_fd(), &name);
        held.map_err(Error::setup("making a folder to put things aside in"))
    }
}

/// Gives up, in this thread and those that it starts from now on, what Docker's default capabilities do not hold.
pub(crate) fn give_up_privilege() -> Result<(), Error> {
    let permitted =
        rustix::thread::capabilities(None).map_err(Error::setup("reading the capabilities"))?.permitted;
    match capability::bound(policy::CAPABILITIES) {
        // Without CAP_SETPCAP the set stays what the container gives.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {}
        other => other.map_err(Error::setup("limiting the capabilities"))?,
    }
    capability::limit(permitted.intersection(policy::CAPABILITIES))
        .map_err(Error::setup("limiting the capabilities"))
}

/// Refuses by name what cannot be had here.
fn check_supported(process: &Process) -> Result<(), Error> {
    let refuse = |what: &str, why| {
        Err(Error::Unsupported { what: what.to_owned(), rung: RungName::Chroot.as_str(), why })
    };
    match &process.network {
        Network::Host => {}
        Network::None => return refuse("--network=none", "no network namespace can be made"),
        Network::Own(uplink) => {
            let what = format!("--network={}", uplink.program().as_str());
            return refuse(&what, "no network namespace can be made");
        }
    }
    if process.security == Security::Insecure {
        return refuse("--security=insecure", "a step has the rights of the container and no more");
    }
    for mount in &process.mounts {
        if let MountSource::Descriptor(_) = mount.source {
            return refuse(&format!("the mount on {}", mount.target), "nothing can be mounted");
        }
    }
    Ok(())
}

/// This binary and `/dev/null`.
fn program() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let executable = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok((executable, null))
}

fn arguments(role: &str) -> [CString; 3] {
    [
        c"lithify".to_owned(),
        CString::new(INIT_ARGUMENT).unwrap_or_default(),
        CString::new(role).unwrap_or_default(),
    ]
}

/// Waits for the keeper's end, and makes it end everything when it is time to.
fn watch(
    mut keeper: Child,
    control: OwnedFd,
    cancel: &Cancel,
    deadline: Option<Instant>,
) -> Result<Status, Error> {
    let watching = "watching over the process";
    let (mut control, mut called_off) = (Some(control), None);
    let (mut failure, mut ended) = (None, None);
    while let Some(open) = &control {
        match next(open, cancel, deadline).map_err(Error::setup(watching))? {
            Event::Cancel => called_off = Some(Status::Cancelled),
            Event::Deadline => called_off = Some(Status::TimedOut),
            Event::Message => {
                match socket::receive_with_fds(open, MESSAGE_LIMIT_BYTES).map_err(Error::setup(watching))? {
                    None => control = None,
                    Some((bytes, _)) => {
                        let report = serde_json::from_slice(&bytes).map_err(io::Error::from);
                        match report.map_err(Error::setup(watching))? {
                            Report::Filtered { .. } | Report::Ready => {}
                            Report::Failed(error) => failure = Some(Error::from(error)),
                            Report::Ended(status) => ended = Some(status),
                        }
                    }
                }
            }
        }
        if called_off.is_some() {
            // The keeper takes it as the sign to end everything.
            control = None;
        }
    }
    let exit = keeper.wait().map_err(Error::setup(watching))?;
    match (called_off, failure, ended) {
        (Some(status), _, _) => Ok(status),
        (None, Some(failure), _) => Err(failure),
        (None, None, Some(status)) => Ok(status),
        (None, None, None) => Err(Error::InitDied { status: format!("{exit:?}") }),
    }
}

enum Event {
    Message,
    Cancel,
    Deadline,
}

fn next(control: &OwnedFd, cancel: &Cancel, deadline: Option<Instant>) -> io::Result<Event> {
    let mut descriptors = [PollFd::new(cancel, PollFlags::IN), PollFd::new(control, PollFlags::IN)];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut descriptors, left.as_ref()) {
            Err(Errno::INTR) => continue,
            Ok(0) => return Ok(Event::Deadline),
            result => result?,
        };
        let cancelled = !descriptors[0].revents().is_empty();
        return Ok(if cancelled { Event::Cancel } else { Event::Message });
    }
}

/// Tries in a child all that a step needs: `None` when it works, else the capability that is missing and the errno.
pub(crate) fn probe() -> io::Result<Option<(String, i32)>> {
    let (executable, null) = program()?;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let arguments = arguments(PROBE);
    let program = Program {
        executable: executable.as_fd(),
        args: &arguments,
        env: &[],
        descriptors: &[null.as_fd(), write.as_fd(), null.as_fd()],
    };
    let mut child = process::spawn(&program, Namespaces::empty()).map_err(|error| error.source)?;
    drop(write);
    let mut said = String::new();
    std::fs::File::from(read).take(256).read_to_string(&mut said)?;
    let exit = child.wait()?;
    let failed =
        said.trim().split_once(' ').and_then(|(right, errno)| Some((right.to_owned(), errno.parse().ok()?)));
    match (said.trim(), failed, exit) {
        ("works", _, Exit::Exited(0)) => Ok(None),
        (_, Some(failed), _) => Ok(Some(failed)),
        (_, None, exit) => Err(io::Error::other(format!("it ended with {exit:?}"))),
    }
}

/// What the child of [`probe`] does.
pub(crate) fn probe_main() -> i32 {
    let said = match try_rights() {
        Ok(()) => "works".to_owned(),
        Err((right, errno)) => format!("{right} {}", errno.raw_os_error()),
    };
    let written = std::io::stdout().write_all(said.as_bytes());
    i32::from(written.is_err())
}

fn try_rights() -> Result<(), (&'static str, Errno)> {
    use rustix::fs::{Gid, MemfdFlags, Uid};
    let on = |right| move |errno| (right, errno);
    let other = (Uid::from_raw(1), Gid::from_raw(1));
    let file = rustix::fs::memfd_create(c"probe", MemfdFlags::CLOEXEC).map_err(on("CHOWN"))?;
    rustix::fs::fchown(&file, Some(other.0), Some(other.1)).map_err(on("CHOWN"))?;
    rustix::fs::fchmod(&file, Mode::empty()).map_err(on("FOWNER"))?;
    rustix::process::chroot(c"/").map_err(on("SYS_CHROOT"))?;
    rustix::thread::set_thread_groups(&[]).map_err(on("SETGID"))?;
    rustix::thread::set_thread_res_gid(other.1, other.1, other.1).map_err(on("SETGID"))?;
    rustix::thread::set_thread_res_uid(other.0, other.0, other.0).map_err(on("SETUID"))
}
