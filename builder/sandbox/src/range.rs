//! The rungs `range` and `single`: processes in the user namespace of a worker.

use std::ffi::CString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use lithify_linux::mount::{self, Attributes, Below};
use lithify_linux::process::{self, Child, Exit, Namespaces, Program};
use lithify_linux::seccomp::Listener;
use lithify_linux::socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::created::remove_created;
use crate::emulate::Supervisor;
use crate::init::{INIT_ARGUMENT, MESSAGE_LIMIT_BYTES, Report};
use crate::uplink::Link;
use crate::{Cancel, Error, Identities, Network, Outcome, Process, Sandbox, Status, Stdio};

/// Runs processes as children of this one, which must be root of its user namespace and have its mounts to itself: a worker
/// started by [`spawn_worker`](crate::spawn_worker). Any number at a time.
#[derive(Debug)]
pub struct Range {
    /// This binary, safe from being written to.
    executable: OwnedFd,
    null: OwnedFd,
    args: Vec<CString>,
    identities: Identities,
}

impl Range {
    /// Readies the sandbox, in a namespace with a range of ids ([`Identities::Real`]) or with one.
    ///
    /// # Errors
    /// Where this process cannot make mounts, or has no `/dev/null`.
    pub fn new(identities: Identities) -> Result<Range, Error> {
        let setup = Error::setup("opening the program for the sandbox's first process");
        let executable = protected_executable().map_err(setup)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::setup("opening /dev/null"))?;
        let args = vec![c"lithify".to_owned(), CString::new(INIT_ARGUMENT).unwrap_or_default()];
        Ok(Range { executable, null, args, identities })
    }

    /// Starts the first process of a sandbox, with all that it has to know waiting for it.
    fn start(
        &self,
        process: &Process,
        root: BorrowedFd<'_>,
        mounts: Vec<OwnedFd>,
        stdio: Stdio,
        cancel: &Cancel,
    ) -> Result<Running, Error> {
        let spec = write_spec(process, self.identities).map_err(Error::setup("writing down what to run"))?;
        let (control, theirs) = socket::pair().map_err(Error::setup("making a socket"))?;
        let mounts = mounts.into_iter().map(detached).collect::<io::Result<Vec<_>>>();
        let mounts = mounts.map_err(Error::setup("copying a mount"))?;
        let passed: Vec<_> = [root].into_iter().chain(mounts.iter().map(AsFd::as_fd)).collect();
        let program = Program {
            executable: self.executable.as_fd(),
            args: &self.args,
            env: &[],
            // CONTROL and SPEC of `init` are the last two.
            descriptors: &[
                self.null.as_fd(),
                stdio.stdout.as_fd(),
                stdio.stderr.as_fd(),
                theirs.as_fd(),
                spec.as_fd(),
            ],
        };
        let mut namespaces = Namespaces::NEWNS
            | Namespaces::NEWPID
            | Namespaces::NEWIPC
            | Namespaces::NEWUTS
            | Namespaces::NEWCGROUP;
        if process.network != Network::Host {
            namespaces |= Namespaces::NEWNET;
        }
        let child = process::spawn(&program, namespaces)?;
        let link = match &process.network {
            Network::Own(uplink) => Some(Link::start(uplink, child.pid(), cancel)?),
            Network::Host | Network::None => None,
        };
        // It waits for this, and so for its network and its limits.
        stdio.limit(child.pid())?;
        socket::send_with_fds(&control, b"mounts", &passed).map_err(Error::setup("passing the mounts"))?;
        Ok(Running {
            child,
            link,
            control: Some(control),
            process: process.clone(),
            identities: self.identities,
            supervisor: None,
            is_ready: false,
            created: vec![],
            failure: None,
        })
    }
}

impl Sandbox for Range {
    fn run(
        &self,
        process: &Process,
        root: OwnedFd,
        mounts: Vec<OwnedFd>,
        stdio: Stdio,
        cancel: &Cancel,
    ) -> Result<Outcome, Error> {
        let deadline = process.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut running = self.start(process, root.as_fd(), mounts, stdio, cancel)?;
        let ended = running.watch(cancel, deadline).map_err(Error::setup("watching over the process"))?;
        let left = remove_created(root.as_fd(), &running.created);
        if let Some(failure) = running.failure {
            return Err(failure);
        }
        if let (Ended::Itself(_), Some(link)) = (&ended, running.link) {
            link.end()?;
        }
        let recorded_nodes = running.supervisor.take().map_or(0, Supervisor::finish);
        let status = match (ended, running.is_ready) {
            (Ended::Itself(Exit::Exited(code)), true) => Status::Exited(code),
            (Ended::Itself(Exit::Signaled(signal)), true) => Status::Signaled(signal),
            (Ended::Itself(exit), false) => return Err(Error::InitDied { status: format!("{exit:?}") }),
            (Ended::TimedOut, _) => Status::TimedOut,
            (Ended::Cancelled, _) => Status::Cancelled,
        };
        Ok(Outcome { status, created_mountpoints: left, recorded_nodes })
    }
}

/// This binary, such that root of this namespace cannot write to it: a step can reach it through `/proc/self/exe` when its command
/// is a link to that, as in CVE-2019-5736.
fn protected_executable() -> io::Result<OwnedFd> {
    const THIS: &str = "/proc/self/exe";
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let this = open(Path::new(THIS))?;
    if rustix::fs::access(THIS, rustix::fs::Access::WRITE_OK).is_err() {
        return Ok(this);
    }
    // It belongs to the user whom root stands for. The file that is executed is not in this mount namespace, so the way to it
    // is by name.
    let path = std::fs::read_link(THIS)?;
    let found = open(&path)?;
    let (expected, stat) = (rustix::fs::fstat(&this)?, rustix::fs::fstat(&found)?);
    if (expected.st_dev, expected.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(io::Error::other(format!("{} was replaced while it runs", path.display())));
    }
    let read_only = mount::bind(found, Below::Without)?;
    mount::restrict(&read_only, Attributes::MOUNT_ATTR_RDONLY, Below::Without)?;
    Ok(read_only)
}

/// The specification as a file in memory, of any length.
pub(crate) fn write_spec(process: &Process, identities: Identities) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(c"lithify", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    file.write_all(&serde_json::to_vec(&(process, identities))?)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// What can be attached in another mount namespace: a copy, or `file` itself where it is detached already.
fn detached(file: OwnedFd) -> io::Result<OwnedFd> {
    match mount::bind(&file, Below::With) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(file),
        other => other,
    }
}

/// How a process's time in the sandbox was over.
enum Ended {
    Itself(Exit),
    TimedOut,
    Cancelled,
}

/// A sandbox whose first process has been started.
struct Running {
    child: Child,
    /// What gives it a network of its own.
    link: Option<Link>,
    /// Until the first process has executed the command.
    control: Option<OwnedFd>,
    process: Process,
    identities: Identities,
    /// As soon as there is a filter.
    supervisor: Option<Supervisor>,
    /// Whether the command has been executed.
    is_ready: bool,
    created: Vec<Vec<u8>>,
    failure: Option<Error>,
}

impl Running {
    /// Waits for the end, and serves the process until then.
    fn watch(&mut self, cancel: &Cancel, deadline: Option<Instant>) -> io::Result<Ended> {
        loop {
            let event = self.next_event(cancel, deadline)?;
            match event {
                Event::Message => self.hear()?,
                Event::End => {
                    // What it said last may not have been heard yet.
                    while self.control.is_some() {
                        self.hear()?;
                    }
                    return Ok(Ended::Itself(self.child.wait()?));
                }
                Event::Cancel | Event::Deadline => {
                    self.child.kill();
                    self.child.wait()?;
                    while self.control.is_some() {
                        self.hear()?;
                    }
                    self.failure = None;
                    let cancelled = matches!(event, Event::Cancel);
                    return Ok(if cancelled { Ended::Cancelled } else { Ended::TimedOut });
                }
            }
        }
    }

    fn next_event(&self, cancel: &Cancel, deadline: Option<Instant>) -> io::Result<Event> {
        let mut descriptors =
            vec![PollFd::new(&self.child, PollFlags::IN), PollFd::new(cancel, PollFlags::IN)];
        let mut events = vec![Event::End, Event::Cancel];
        if let Some(control) = &self.control {
            descriptors.push(PollFd::new(control, PollFlags::IN));
            events.push(Event::Message);
        }
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
            for (descriptor, event) in descriptors.iter().zip(&events) {
                if !descriptor.revents().is_empty() {
                    return Ok(*event);
                }
            }
        }
    }

    /// Takes the first process's word, or its silence.
    fn hear(&mut self) -> io::Result<()> {
        let Some(control) = &self.control else { return Ok(()) };
        let Some((bytes, descriptors)) = socket::receive_with_fds(control, MESSAGE_LIMIT_BYTES)? else {
            self.control = None;
            return Ok(());
        };
        match serde_json::from_slice(&bytes)? {
            Report::Filtered { created } => {
                self.created = created;
                if let Ok([listener, root]) = <[OwnedFd; 2]>::try_from(descriptors) {
                    let listener = Listener::from(listener);
                    let started = Supervisor::start(listener, root, &self.process, self.identities);
                    self.supervisor = Some(started?);
                }
            }
            Report::Ready => self.is_ready = true,
            Report::Failed(failure) => self.failure = Some(failure.into()),
            Report::Ended(_) => {}
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    End,
    Cancel,
    Message,
    Deadline,
}
