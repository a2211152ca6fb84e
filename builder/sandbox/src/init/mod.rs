//! The first process of a sandbox, from its start to the execution of the step's command.
//!
//! It is this binary again, single-threaded, in new namespaces whose contents it still has to make. It can read the
//! specification at [`SPEC`] and talks to [`crate::range`] over [`CONTROL`]: one message in, with the descriptors to mount, and
//! those out that are a [`Report`] each. That socket's end without another word means that the command is being executed.

mod execute;
mod root;
pub(crate) mod target;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lithify_linux::{capability, network, process, socket};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use crate::{Error, Identities, Network, Process, Security, Status, chroot, emulate, policy};

/// The argument with which this binary is started as the first process of a sandbox; [`init_main`] is to be called then.
pub const INIT_ARGUMENT: &str = "__init";

/// The longest message to or from the first process. A hundred paths of mount points fit.
pub(crate) const MESSAGE_LIMIT_BYTES: usize = 128 << 10;

/// What the first process says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The system call filter stands. Where it has a listener, that and the root folder come with this: from now on calls may
    /// wait for an answer.
    Filtered {
        /// What was made in the root tree only to mount on, parents first.
        created: Vec<Vec<u8>>,
    },
    /// The command is about to be executed.
    Ready,
    /// It will not be.
    Failed(Failure),
    /// It has ended, and so has all that it started: the keeper's word.
    Ended(Status),
}

/// An [`Error`] on its way through the socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: FailureKind,
    subject: String,
    errno: Option<i32>,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
enum FailureKind {
    WorkingFolder,
    Mount,
    Limit,
    Setup,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (kind, subject, source) = match error {
            Error::WorkingFolder { path, source } => (FailureKind::WorkingFolder, path, source),
            Error::Mount { target, source } => (FailureKind::Mount, target, source),
            Error::Limit { name, source } => (FailureKind::Limit, name, source),
            Error::Setup { what, source } => (FailureKind::Setup, what, source),
            other => (FailureKind::Setup, "starting".into(), io::Error::other(other.to_string())),
        };
        Failure { kind, subject, errno: source.raw_os_error(), message: source.to_string() }
    }
}

impl From<Failure> for Error {
    fn from(Failure { kind, subject, errno, message }: Failure) -> Self {
        let source = errno.map_or_else(|| io::Error::other(message), io::Error::from_raw_os_error);
        match kind {
            FailureKind::WorkingFolder => Error::WorkingFolder { path: subject, source },
            FailureKind::Mount => Error::Mount { target: subject, source },
            FailureKind::Limit => Error::Limit { name: subject, source },
            FailureKind::Setup => Error::Setup { what: subject, source },
        }
    }
}

/// What `main` does when it is started with [`INIT_ARGUMENT`]: becomes the process that [`crate::Sandbox::run`] was asked for.
/// Started by anyone else, it ends with code 125.
pub fn init_main() -> ! {
    process::reset_signals();
    let become_step = match std::env::args().nth(2).as_deref() {
        Some(chroot::KEEPER) => std::process::exit(chroot::keeper::main()),
        Some(emulate::PROBE) => std::process::exit(emulate::probe_main()),
        Some(chroot::PROBE) => std::process::exit(chroot::probe_main()),
        Some(chroot::STEP) => init_in_folder,
        _ => init,
    };
    let code = match inherited() {
        Ok((control, spec)) => match become_step(control.as_fd(), spec) {
            Ok(never) => match never {},
            Err(Stop::Unable(error)) => {
                let report = Report::Failed(error.into());
                // If nobody listens any more, nobody is left to tell.
                let _ = send(control.as_fd(), &report, &[]);
                125
            }
            Err(Stop::NotExecuted { code, message }) => {
                eprintln!("{message}");
                code
            }
        },
        Err(error) => {
            eprintln!("this command is for lithify's own use: {error}");
            125
        }
    };
    std::process::exit(code)
}

/// Why no command was executed.
enum Stop {
    /// The sandbox could not be set up.
    Unable(Error),
    /// It could, but there is no such command.
    NotExecuted { code: i32, message: String },
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Unable(error)
    }
}

/// Takes possession of descriptors 3 and 4, if they are what they should be.
fn inherited() -> io::Result<(OwnedFd, File)> {
    let control = process::inherited_descriptor(CONTROL)?;
    let spec = process::inherited_descriptor(SPEC)?;
    Ok((control, File::from(spec)))
}

/// The descriptor of the socket to the worker.
pub(crate) const CONTROL: i32 = 3;
/// The descriptor of the file with the [`Process`] and the [`Identities`] as JSON.
pub(crate) const SPEC: i32 = 4;

fn send(control: BorrowedFd<'_>, report: &Report, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(report)?;
    socket::send_with_fds(control, &bytes, descriptors)
}

/// Reads what to run, and receives the root folder and what is to be mounted.
fn receive(control: BorrowedFd<'_>, mut spec: File) -> Result<Order, Error> {
    let mut json = vec![];
    spec.read_to_end(&mut json).map_err(Error::setup("reading what to run"))?;
    let (process, identities) = serde_json::from_slice(&json)
        .map_err(|error| Error::setup("reading what to run")(io::Error::from(error)))?;
    let message = socket::receive_with_fds(control, MESSAGE_LIMIT_BYTES);
    let (_, mut descriptors) = message
        .and_then(|message| message.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
        .map_err(Error::setup("receiving the mounts"))?;
    if descriptors.is_empty() {
        return Err(Error::setup("receiving the mounts")(io::Error::from(io::ErrorKind::InvalidData)));
    }
    let root = descriptors.remove(0);
    Ok(Order { process, identities, root, descriptors })
}

/// What to do.
struct Order {
    process: Process,
    identities: Identities,
    root: OwnedFd,
    descriptors: Vec<OwnedFd>,
}

/// The rung `chroot`: a step's process in a folder that is ready for it.
fn init_in_folder(control: BorrowedFd<'_>, spec: File) -> Result<std::convert::Infallible, Stop> {
    let Order { process, identities, root, .. } = receive(control, spec)?;
    let enter = || -> rustix::io::Result<()> {
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(c".")?;
        rustix::process::chdir(c"/")
    };
    enter().map_err(Error::setup("changing the root folder"))?;
    execute::set_limits(&process.ulimits)?;
    let permitted =
        rustix::thread::capabilities(None).map_err(Error::setup("reading the capabilities"))?.permitted;
    become_user(&process, identities, permitted.intersection(policy::CAPABILITIES))?;
    let command = execute::find(&process);
    send(control, &Report::Ready, &[]).map_err(Error::setup("reporting"))?;
    let (code, message) = match command {
        Ok(path) => execute::execute(&path, &process),
        Err(failure) => failure,
    };
    Err(Stop::NotExecuted { code, message })
}

fn init(control: BorrowedFd<'_>, spec: File) -> Result<std::convert::Infallible, Stop> {
    let Order { process, identities, root, descriptors } = receive(control, spec)?;
    rustix::process::umask(rustix::fs::Mode::empty());
    if process.network != Network::Host {
        network::bring_loopback_up().map_err(Error::setup("bringing the loopback interface up"))?;
    }
    let created = root::build(&process, identities, root, descriptors)?;
    rustix::system::sethostname(process.hostname.as_bytes())
        .map_err(Error::setup("setting the host's name"))?;
    execute::set_limits(&process.ulimits)?;

    let kept = match process.security {
        Security::Sandbox => policy::CAPABILITIES,
        Security::Insecure => capability::Capabilities::all(),
    };
    if process.security == Security::Sandbox {
        capability::bound(kept).map_err(Error::setup("limiting the capabilities"))?;
    }

    // Before the right to install it goes, and after the last call that it refuses.
    let filter = policy::filter(process.security, identities, process.has_special).compile();
    let install = || -> io::Result<()> {
        // Afterwards, to open something may wait for an answer.
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, rustix::fs::Mode::empty())?;
        let report = Report::Filtered { created };
        if identities == Identities::Pretended {
            filter.install_alone()?;
            return send(control, &report, &[]);
        }
        send(control, &report, &[filter.install()?.as_fd(), root.as_fd()])
    };
    install().map_err(Error::setup("installing the system call filter"))?;
    become_user(&process, identities, kept)?;
    let command = execute::find(&process);
    send(control, &Report::Ready, &[]).map_err(Error::setup("reporting"))?;
    let (code, message) = match command {
        Ok(path) => execute::execute(&path, &process),
        Err(failure) => failure,
    };
    Err(Stop::NotExecuted { code, message })
}

/// Becomes the process's user, with no more capabilities than it is to have, in its working folder.
fn become_user(
    process: &Process,
    identities: Identities,
    kept: capability::Capabilities,
) -> Result<(), Error> {
    // With root's rights where they suffice, as runc does it; else with the user's.
    let entered = rustix::process::chdir(&process.cwd);

    if identities == Identities::Real {
        take_identity(process)?;
    }
    // Where it only seems to be another, it stays root, whom execution leaves what is in the bounding set.
    if process.uid == 0 && process.security == Security::Sandbox && identities != Identities::Emulated {
        capability::limit(kept).map_err(Error::setup("limiting the capabilities"))?;
    }
    match entered {
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => rustix::process::chdir(&process.cwd),
        other => other,
    }
    .map_err(|error| Error::WorkingFolder { path: process.cwd.clone(), source: error.into() })?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(process.umask));
    Ok(())
}

fn take_identity(process: &Process) -> Result<(), Error> {
    own_output(process.uid);
    let groups: Vec<_> = process.groups.iter().copied().map(rustix::process::Gid::from_raw).collect();
    let identity = || -> rustix::io::Result<()> {
        let uid = rustix::process::Uid::from_raw(process.uid);
        let gid = rustix::process::Gid::from_raw(process.gid);
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    };
    let what = format!("becoming user {} and group {}", process.uid, process.gid);
    identity().map_err(Error::setup(&what))
}

/// Lets the user open `/dev/stdout` and `/dev/stderr`, as runc does. Where the pipe belongs to an id outside, it cannot be.
fn own_output(uid: u32) {
    if uid != 0 {
        let owner = Some(rustix::process::Uid::from_raw(uid));
        let _ = rustix::fs::fchown(rustix::stdio::stdout(), owner, None);
        let _ = rustix::fs::fchown(rustix::stdio::stderr(), owner, None);
    }
}
