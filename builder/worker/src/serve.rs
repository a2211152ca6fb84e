//! The worker's side: takes calls and does each on a thread of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use lithify_linux::owner::Owners;
use lithify_linux::socket;
use lithify_sandbox::{Chroot, Identities, Range, RungName, Sandbox};
use lithify_snapshot::{ChainId, MoveOrKeep, Overlay, Snapshots};

use crate::client::{read_message, write_message};
use crate::protocol::{Answer, Chain, Failure, Request, Response, Snapshotter};

/// The descriptor that the control socket has in the worker.
const CONTROL: i32 = 3;

/// What all calls share.
pub(crate) struct Context {
    pub(crate) snapshots: Arc<dyn Snapshots>,
    /// Who the owners of files in trees are.
    pub(crate) owners: Owners,
    /// The folder for trees.
    pub(crate) trees: OwnedFd,
    /// The folder that cache mounts are kept in.
    pub(crate) cache_mounts: OwnedFd,
    pub(crate) sandbox: Box<dyn Sandbox>,
    pub(crate) mounting: Mounting,
}

/// How files of other trees and cache mounts come into a step's tree.
pub(crate) enum Mounting {
    /// As mounts.
    Mounted,
    /// Moved into it and out of it again; copies that are made for it lie in this folder.
    Moved(OwnedFd),
}

/// One call: the files that came with it, in order, and the socket for the answer.
pub(crate) struct Call<'a> {
    files: std::collections::VecDeque<OwnedFd>,
    pub(crate) stream: &'a UnixStream,
}

impl Call<'_> {
    /// The next of the files.
    pub(crate) fn file(&mut self) -> Result<OwnedFd, Failure> {
        self.files.pop_front().ok_or_else(|| Failure::input("a file is missing in a call to the worker"))
    }

    /// The files that are left.
    pub(crate) fn rest(&mut self) -> Vec<OwnedFd> {
        self.files.drain(..).collect()
    }
}

/// Serves the main process until it is gone. This is the hidden subcommand [`WORKER_COMMAND`](crate::WORKER_COMMAND).
pub fn serve() -> ! {
    lithify_linux::process::reset_signals();
    let Ok(control) = lithify_linux::process::inherited_descriptor(CONTROL) else {
        eprintln!("lithify: this subcommand is the builder's own");
        std::process::exit(2)
    };
    let rung = std::env::args().nth(2).unwrap_or_default().parse::<RungName>();
    let arrived = rung.map_err(|error| error.to_string()).and_then(|rung| {
        lithify_sandbox::arrive(rung).map_err(|error| Failure::from(error).message)?;
        Ok(rung)
    });
    let rung = match arrived {
        Ok(rung) => rung,
        Err(message) => {
            eprintln!("lithify: the worker cannot start: {message}");
            std::process::exit(125)
        }
    };
    let context: Arc<OnceLock<Context>> = Arc::default();
    while let Ok(Some((_, mut files))) = socket::receive_with_fds(&control, 16) {
        if files.is_empty() {
            continue;
        }
        let stream = UnixStream::from(files.remove(0));
        let context = context.clone();
        let thread = std::thread::Builder::new().stack_size(lithify_linux::tree::STACK_BYTES);
        // Where no thread can be had the call's socket closes, and whoever called sees that.
        let _ = thread.spawn(move || answer(rung, &context, stream, files));
    }
    std::process::exit(0)
}

fn answer(rung: RungName, context: &OnceLock<Context>, mut stream: UnixStream, files: Vec<OwnedFd>) {
    // Whoever asked and went away needs no answer.
    let Ok(request) = read_message::<Request>(&mut stream) else { return };
    let answer = {
        let mut call = Call { files: files.into(), stream: &stream };
        dispatch(rung, context, request, &mut call)
    };
    let _ = write_message(&mut stream, &answer);
}

fn dispatch(rung: RungName, context: &OnceLock<Context>, request: Request, call: &mut Call<'_>) -> Answer {
    if let Request::Hello { snapshotter } = request {
        let (made, chosen) = open(rung, snapshotter)?;
        if let Err(again) = context.set(made) {
            drop(again);
        } else if let Some(context) = context.get() {
            // Killed workers leave folders behind. What cannot be removed now is left to the next worker.
            let thread = std::thread::Builder::new().stack_size(lithify_linux::tree::STACK_BYTES);
            // Leftovers that no thread can be had for wait for the next worker.
            if let Ok(trees) = context.trees.try_clone() {
                let _ = thread.spawn(move || crate::space::sweep(trees.as_fd()));
            }
        }
        return Ok(Response::Ready(chosen));
    }
    let context =
        context.get().ok_or_else(|| Failure::input("the worker was called before it was greeted"))?;
    match request {
        Request::Hello { .. } => unreachable!("it is answered above"),
        Request::Rename { from, to } => {
            context.snapshots.rename(ChainId::from(from), ChainId::from(to))?;
            Ok(Response::Done)
        }
        Request::Has { chain } => {
            let has = context.snapshots.has(&ids(&chain));
            if let (Ok(true), Some(top)) = (&has, chain.last()) {
                crate::space::mark_used(context.trees.as_fd(), &top.hex());
            }
            has.map(Response::Has).map_err(|error| Failure::storage("cannot look for a file tree", &error))
        }
        Request::Apply { parents, chain, catalogue, claimed, consume } => {
            let put = if consume { MoveOrKeep::Move } else { MoveOrKeep::Keep };
            crate::layers::apply(context, (&parents, put), &chain, catalogue, claimed, call)
                .map(|()| Response::Done)
        }
        Request::Inspect { chain, dest, is_directory, owner, folders } => {
            let (destination, owner) =
                crate::copy::inspect(context, &chain, &dest, is_directory, owner.as_deref())?;
            let links = crate::copy::links(context, &chain, &destination, &folders)?;
            Ok(Response::Inspected { destination, owner, links })
        }
        Request::Place { chain, conflicts, hard_links } => {
            crate::layers::place(context, &chain, conflicts, &hard_links, call)
                .map(|made| Response::Made(Box::new(made)))
        }
        Request::Copy(request) => {
            crate::copy::copy(context, &request, call).map(|made| Response::Made(Box::new(made)))
        }
        Request::MakeDirectory { chain, path, user } => {
            crate::copy::make_directory(context, &chain, &path, &user, call)
                .map(|made| Response::Made(Box::new(made)))
        }
        Request::Look => {
            let found = crate::space::look(context.trees.as_fd());
            found
                .map(Response::Found)
                .map_err(|error| Failure::storage("cannot look at the file trees", &error))
        }
        Request::Discard(found) => {
            let done = crate::space::discard(context.trees.as_fd(), &found);
            done.map(|()| Response::Done)
                .map_err(|error| Failure::storage("cannot remove a file tree", &error))
        }
        Request::Sweep => {
            let done = crate::space::sweep(context.trees.as_fd());
            done.map(|()| Response::Done)
                .map_err(|error| Failure::storage("cannot remove a file tree", &error))
        }
        Request::Run(request) => crate::run::run(context, &request, call).map(Response::Ran),
    }
}

/// Trees are kept in the folder that the worker was started in.
fn open(rung: RungName, wanted: Option<Snapshotter>) -> Result<(Context, Snapshotter), Failure> {
    let failed = |error: io::Error| Failure::storage("cannot use the folder for file trees", &error);
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let trees =
        rustix::fs::open(".", flags, rustix::fs::Mode::empty()).map_err(|error| failed(error.into()))?;
    let cache_mounts = subfolder(&trees, crate::space::CACHE_MOUNTS).map_err(failed)?;
    let wanted = match (rung, wanted) {
        (RungName::Chroot, Some(Snapshotter::Overlay)) => {
            let message =
                "the snapshotter \"overlay\" needs mounts, which the sandbox \"chroot\" has not: use copy";
            return Err(Failure::input(message));
        }
        (RungName::Chroot, None) => Some(Snapshotter::Copy),
        (_, wanted) => wanted,
    };
    let identities = match rung {
        RungName::Range | RungName::Chroot => Identities::Real,
        RungName::Single => Identities::Emulated,
        RungName::Pretended => Identities::Pretended,
    };
    let owners = if identities == Identities::Real { Owners::Real } else { Owners::Recorded };
    let (snapshots, chosen) = open_snapshots(&trees, owners, wanted)?;
    let (sandbox, mounting): (Box<dyn Sandbox>, _) = if rung == RungName::Chroot {
        let (held, copies) = (subfolder(&trees, "held"), subfolder(&trees, "copies"));
        (Box::new(Chroot::new(held.map_err(failed)?)?), Mounting::Moved(copies.map_err(failed)?))
    } else {
        (Box::new(Range::new(identities)?), Mounting::Mounted)
    };
    Ok((Context { snapshots, owners, trees, cache_mounts, sandbox, mounting }, chosen))
}

/// The snapshotter that was asked for; overlay where it works if none was.
fn open_snapshots(
    trees: &OwnedFd,
    owners: Owners,
    wanted: Option<Snapshotter>,
) -> Result<(Arc<dyn Snapshots>, Snapshotter), Failure> {
    // Overlayfs does not take every file system for its upper folder: not overlayfs itself, nor NFS.
    let overlay = || -> Result<Overlay, Failure> {
        let overlay = Overlay::open(trees.as_fd(), owners)?;
        overlay.probe()?;
        Ok(overlay)
    };
    let copy = || lithify_snapshot::Copy::open(trees.as_fd(), owners).map_err(Failure::from);
    match wanted {
        Some(Snapshotter::Overlay) => Ok((Arc::new(overlay()?), Snapshotter::Overlay)),
        Some(Snapshotter::Copy) => Ok((Arc::new(copy()?), Snapshotter::Copy)),
        None => match overlay() {
            Ok(overlay) => Ok((Arc::new(overlay), Snapshotter::Overlay)),
            Err(_) => Ok((Arc::new(copy()?), Snapshotter::Copy)),
        },
    }
}

/// A folder below `folder`, made if need be.
pub(crate) fn subfolder(folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    match rustix::fs::mkdirat(folder, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

/// Tree names for the snapshotter.
pub(crate) fn ids(chain: &Chain) -> Vec<ChainId> {
    chain.iter().copied().map(ChainId::from).collect()
}
