//! Why a build fails.

use lithify_graph::StepId;

/// Why a build fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step failed.
    #[error("{title}")]
    Step {
        /// Which.
        step: StepId,
        /// Its title.
        title: String,
        /// Why.
        #[source]
        failure: Box<Failure>,
    },
    /// The store cannot be used.
    #[error("cannot use the store")]
    Store(#[source] lithify_cache::Error),
    /// The result cannot be put together.
    #[error("cannot put the image together")]
    Assemble(#[source] std::io::Error),
    /// The user stopped it.
    #[error("the build was interrupted")]
    Cancelled,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A process did not end well.
    #[error("{0}")]
    Process(ProcessFailure),
    /// A base image, context or download cannot be had.
    #[error(transparent)]
    Source(#[from] crate::SourceError),
    /// Files cannot be selected or placed.
    #[error("{0}")]
    Files(#[from] lithify_files::Error),
    /// The Dockerfile asks for what cannot be.
    #[error("{0}")]
    Input(String),
    /// The machine does not let steps run.
    #[error("this machine does not let lithify run steps")]
    Unavailable(#[source] lithify_sandbox::Unavailable),
    /// The machine does not let steps have the network that was asked for.
    #[error("{0}")]
    Network(#[source] lithify_sandbox::Error),
    /// A file of a context changed while it was copied, again and again.
    #[error(
        "{path} changed while it was copied: build again when whatever writes it is done, or name it in .dockerignore"
    )]
    Changed {
        /// Where it is in the context.
        path: String,
    },
    /// The worker.
    #[error("{0}")]
    Worker(#[from] lithify_worker::Error),
    /// The store.
    #[error("{0}")]
    Store(#[from] lithify_cache::Error),
    /// A file of the store or a pipe.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The user stopped it, or another step failed.
    #[error("stopped")]
    Cancelled,
}

/// A process that did not end well.
#[derive(Debug)]
pub struct ProcessFailure {
    /// Program and arguments.
    pub args: Vec<String>,
    /// How it ended.
    pub ending: Ending,
    /// The last lines that it wrote.
    pub tail: Vec<String>,
    /// Where something of it was killed because it used more: the limit of its memory.
    pub out_of_memory_bytes: Option<u64>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// Its time was up: so many seconds.
    TimedOut(u64),
}

impl std::fmt::Display for ProcessFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {:?} ", self.args.join(" "))?;
        match self.ending {
            Ending::Signaled(9) if self.out_of_memory_bytes.is_some() => write!(f, "was killed")?,
            Ending::Exited(code) => write!(f, "did not complete successfully: exit code: {code}")?,
            Ending::Signaled(9) => write!(
                f,
                "was killed by signal 9; where nobody killed it, the machine ran out of memory (see dmesg)"
            )?,
            Ending::Signaled(signal) => write!(f, "was killed by signal {signal}")?,
            Ending::TimedOut(seconds) => write!(f, "was ended after {seconds} seconds (--step-timeout)")?,
        }
        match self.out_of_memory_bytes {
            None => Ok(()),
            Some(limit) => write!(f, "; it ran out of the {limit} bytes that --memory allows: allow more"),
        }
    }
}
