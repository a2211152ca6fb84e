//! What happens during a build, told to whoever watches.

use std::time::Duration;

use lithify_graph::StepId;

/// Takes events, from many threads at once.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step that was not in the cache begins; `why` says what missed, where that is known.
    Started {
        /// Which.
        step: StepId,
        /// What differs from the nearest earlier build of it.
        why: Option<&'a str>,
    },
    /// A step needs nothing done.
    Finished {
        /// Which.
        step: StepId,
        /// Where the result came from.
        origin: Origin,
        /// How long it took.
        took: Duration,
    },
    /// A process wrote something.
    Output {
        /// Which step's process.
        step: StepId,
        /// Where to.
        stream: Stream,
        /// What, cut anywhere.
        bytes: &'a [u8],
    },
    /// A step waits for another process that runs the same one.
    Waiting {
        /// Which.
        step: StepId,
        /// The process's id.
        process: Option<u32>,
    },
    /// Something that the user should know, but that does not stop the build.
    Warning {
        /// What.
        message: &'a str,
    },
}

/// Where a step's result came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The cache.
    Cache,
    /// It was done now.
    Run,
    /// It had nothing to do: a base image or a context, which is read where it is needed.
    Source,
}

/// One of a process's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}
