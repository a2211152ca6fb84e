//! The process that holds a build's user namespace.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc;

use lithify_linux::process::{self, Child, Exit, Groups, Namespaces, Program, SpawnError, Stage, spawn_held};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::{Error, IdMap, Place, RungName, probe};

/// The namespaces that a worker has for itself.
pub(crate) const NAMESPACES: Namespaces =
    Namespaces::NEWUSER.union(Namespaces::NEWNS).union(Namespaces::NEWPID);

/// A worker: first process of a pid namespace, so that when it ends, by whatever means, all that it has started ends with it.
/// It dies at once when this process does. Dropping this kills it.
#[derive(Debug)]
pub struct WorkerProcess(Child);

impl WorkerProcess {
    /// Its number in this process's pid namespace.
    pub fn pid(&self) -> Pid {
        self.0.pid()
    }

    /// Its pidfd, which polls as readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.0.pidfd()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What `waitid` says.
    pub fn wait(&mut self) -> io::Result<Exit> {
        self.0.wait()
    }

    /// Kills it, and all that it has started.
    pub fn kill(&self) {
        self.0.kill();
    }
}

/// Starts this binary again as a worker in `place`: but on the rung `chroot` as root of a new user namespace, with mounts and a `/proc`
/// of its own. `args` follow the program's name. Its descriptors are 0 and 1: `/dev/null`, 2: this process's, 3: `socket`; its environment is
/// `env`, its working folder is `folder` as soon as it has called [`arrive`].
///
/// # Errors
/// [`Error::Unavailable`] where the machine does not allow it, which says what would help.
pub fn spawn_worker(
    place: &Place,
    args: &[&OsStr],
    env: &[(OsString, OsString)],
    folder: OwnedFd,
    socket: OwnedFd,
) -> Result<WorkerProcess, Error> {
    let c_string = |bytes: &[u8]| {
        let nul = |_| io::Error::new(io::ErrorKind::InvalidInput, "an argument or variable holds a NUL byte");
        CString::new(bytes).map_err(nul).map_err(Error::setup("starting the worker"))
    };
    let mut c_args = vec![c"lithify".to_owned()];
    for arg in args {
        c_args.push(c_string(arg.as_bytes())?);
    }
    let mut c_env = vec![];
    for (name, value) in env {
        c_env.push(c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat())?);
    }
    let (sender, receiver) = mpsc::channel();
    let place = place.clone();
    // The kernel ties the worker to the thread that starts it, not to the process; so this one stays as long as the worker does.
    let guard = std::thread::Builder::new().name("worker".into()).spawn(move || {
        let child = start(&place, &c_args, &c_env, &folder, &socket);
        drop((socket, folder));
        let pidfd = child.as_ref().ok().and_then(|child| child.pidfd().try_clone_to_owned().ok());
        let _ = sender.send(child);
        if let Some(pidfd) = pidfd {
            await_end(pidfd.as_fd());
        }
    });
    guard.map_err(Error::setup("starting a thread"))?;
    let child = receiver.recv().map_err(|_| io::Error::other("its thread has failed"));
    child.map_err(Error::setup("starting the worker"))?.map(WorkerProcess)
}

/// Makes `folder` the working folder of this thread, and of what it starts.
///
/// A new mount namespace takes the working folder along as one of its own mounts, which no descriptor does: only so can the
/// worker mount what is in a folder that its ids could not reach by a path.
fn enter(folder: &OwnedFd) -> Result<(), Error> {
    // Filters that refuse namespaces mostly refuse this as well.
    lithify_linux::thread::own_folders().map_err(|error| probe::not_unshared(&error))?;
    rustix::process::fchdir(folder).map_err(Error::setup("entering the worker's folder"))
}

/// What a worker does first, on its only thread: takes possession of what [`spawn_worker`] gave it.
///
/// # Errors
/// What cannot be had or given up.
pub fn arrive(rung: RungName) -> Result<(), Error> {
    if rung != RungName::Chroot {
        return Ok(());
    }
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(Error::setup("tying the worker's life to its parent's"))?;
    let folder = lithify_linux::process::inherited_descriptor(FOLDER);
    let entered = folder.and_then(|folder| Ok(rustix::process::fchdir(folder)?));
    entered.map_err(Error::setup("entering the worker's folder"))?;
    crate::chroot::give_up_privilege()
}

/// The descriptor of the folder, where a worker has to enter it itself.
const FOLDER: i32 = 4;

fn start(
    place: &Place,
    args: &[CString],
    env: &[CString],
    folder: &OwnedFd,
    socket: &OwnedFd,
) -> Result<Child, Error> {
    let open = |path: &str, flags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::setup(&format!("opening {path}")))
    };
    let executable = open("/proc/self/exe", OFlags::PATH)?;
    let null = open("/dev/null", OFlags::RDWR)?;
    let stderr = std::io::stderr();
    let program = Program {
        executable: executable.as_fd(),
        args,
        env,
        descriptors: &[null.as_fd(), null.as_fd(), stderr.as_fd(), socket.as_fd(), folder.as_fd()],
    };
    match place {
        Place::Range(map) | Place::Single(map) | Place::Pretended(map) => {
            enter(folder)?;
            let descriptors = &program.descriptors[..4];
            hold_and_release(map, Some(&Program { descriptors, ..program })).map_err(Error::Unavailable)
        }
        Place::Chroot => Ok(process::spawn(&program, Namespaces::empty())?),
    }
}

/// Starts a process in the namespaces, maps its ids and lets it go on.
pub(crate) fn hold_and_release(
    map: &IdMap,
    program: Option<&Program<'_>>,
) -> Result<Child, crate::Unavailable> {
    let held = spawn_held(program, NAMESPACES).map_err(|error| probe::not_started(&error))?;
    map.write(held.pid()).map_err(|error| probe::not_mapped(map, error))?;
    let groups = if map.is_unprivileged() { Groups::Kept } else { Groups::None };
    held.release(groups).map_err(|error: SpawnError| {
        debug_assert_ne!(error.stage, Stage::Namespaces);
        probe::not_started(&error)
    })
}

fn await_end(pidfd: BorrowedFd<'_>) {
    let mut descriptors = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut descriptors, None) {}
}
