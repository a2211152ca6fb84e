//! The main process's side: starts the worker and calls it.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use lithify_linux::socket;
use lithify_sandbox::{Place, WorkerProcess};

use crate::protocol::{Answer, Failure, FailureKind, Request, Response, RunRequest, RunResult, Snapshotter};

/// The name of the hidden subcommand that is the worker.
pub const WORKER_COMMAND: &str = "__worker";

/// A running worker. Ends, with all that it started, when this is dropped.
pub struct Worker {
    control: OwnedFd,
    process: WorkerProcess,
    snapshotter: Snapshotter,
}

/// What can go wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker could not be started.
    #[error("cannot start the worker that runs steps")]
    Start(#[source] lithify_sandbox::Error),
    /// The worker is gone.
    #[error(
        "the worker that runs steps ended unexpectedly; where nobody killed it, the machine ran out of memory (see dmesg)"
    )]
    Gone(#[source] io::Error),
    /// The worker says no.
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl Error {
    /// What kind of problem it is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Error::Failed(failure) => failure.kind,
            Error::Start(_) | Error::Gone(_) => FailureKind::Sandbox,
        }
    }
}

impl Worker {
    /// Starts the worker in `place`; `trees` is the folder that it keeps trees in, which that place's root owns.
    ///
    /// # Errors
    /// [`Error::Start`] where namespaces or id maps are refused.
    pub fn start(place: &Place, trees: OwnedFd, snapshotter: Option<Snapshotter>) -> Result<Worker, Error> {
        let (control, theirs) = socket::pair().map_err(Error::Gone)?;
        let args = [OsStr::new(WORKER_COMMAND), OsStr::new(place.name().as_str())];
        let process =
            lithify_sandbox::spawn_worker(place, &args, &[], trees, theirs).map_err(Error::Start)?;
        let mut worker = Worker { control, process, snapshotter: Snapshotter::Copy };
        match worker.call(&Request::Hello { snapshotter }, &[])? {
            Response::Ready(chosen) => worker.snapshotter = chosen,
            other => return Err(unexpected(&other)),
        }
        Ok(worker)
    }

    /// How the worker keeps trees.
    pub fn snapshotter(&self) -> Snapshotter {
        self.snapshotter
    }

    /// Ends the worker and everything that it runs, at once.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Asks, and waits for the answer. May be called by many threads at once.
    ///
    /// # Errors
    /// [`Error::Failed`] with the worker's reason, [`Error::Gone`] where it ended.
    pub fn call(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Response, Error> {
        let mut stream = self.send(request, files).map_err(Error::Gone)?;
        let answer: Answer = read_message(&mut stream).map_err(Error::Gone)?;
        answer.map_err(Error::Failed)
    }

    /// As [`Worker::call`] for a RUN; `output` is called with the ends of the process's standard output and error to read from.
    ///
    /// # Errors
    /// As [`Worker::call`].
    pub fn run(
        &self,
        request: RunRequest,
        files: &[BorrowedFd<'_>],
        output: impl FnOnce(OwnedFd, OwnedFd),
    ) -> Result<RunResult, Error> {
        let mut stream = self.send(&Request::Run(Box::new(request)), files).map_err(Error::Gone)?;
        let pipes = socket::receive_with_fds(&stream, 1).map_err(Error::Gone)?;
        // A worker that cannot prepare the RUN sends no pipes, and says so in its answer.
        if let Some((_, pipes)) = pipes
            && let Ok([out, error]) = <[OwnedFd; 2]>::try_from(pipes)
        {
            output(out, error);
        }
        match read_message::<Answer>(&mut stream).map_err(Error::Gone)?.map_err(Error::Failed)? {
            Response::Ran(result) => Ok(result),
            other => Err(unexpected(&other)),
        }
    }

    fn send(&self, request: &Request, files: &[BorrowedFd<'_>]) -> io::Result<UnixStream> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut passed = vec![theirs.as_fd()];
        passed.extend_from_slice(files);
        socket::send_with_fds(&self.control, b"call", &passed)?;
        write_message(&mut ours, request)?;
        Ok(ours)
    }
}

/// An answer of another kind than was asked for.
pub fn unexpected(response: &Response) -> Error {
    Error::Gone(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {response:?}")))
}

/// Writes a message behind its length.
pub(crate) fn write_message(stream: &mut UnixStream, message: &impl serde::Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let mut framed = (json.len() as u64).to_le_bytes().to_vec();
    framed.extend_from_slice(&json);
    stream.write_all(&framed)
}

/// Reads what [`write_message`] wrote.
pub(crate) fn read_message<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let mut json = vec![];
    stream.take(u64::from_le_bytes(length)).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}
