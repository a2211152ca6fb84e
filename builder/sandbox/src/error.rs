//! What can go wrong before a process runs.

use std::fmt;
use std::io;

use lithify_linux::process::SpawnError;

use crate::RungName;
use crate::probe::Probe;

/// Why a process could not be run. A process that ran and failed is no error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine allows no such sandbox.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The sandbox's first process could not be started.
    #[error("cannot start a process in the sandbox")]
    Spawn(#[from] SpawnError),
    /// The folder to run in is not there, is no folder, or may not be entered by the user.
    #[error("cannot enter the working folder {path:?}: {source}")]
    WorkingFolder {
        /// In the root tree.
        path: String,
        /// What `chdir` said.
        source: io::Error,
    },
    /// Something could not be mounted where the step wants it.
    #[error("cannot mount on {target:?}: {source}")]
    Mount {
        /// In the root tree.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// A limit of `--ulimit` that is not known, or more than this user may have.
    #[error("cannot set the limit {name:?}: {source}")]
    Limit {
        /// As in `--ulimit`.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The rung cannot give what the step asks for.
    #[error("{what} cannot be had in the sandbox {rung:?}: {why}")]
    Unsupported {
        /// What the step asks for.
        what: String,
        /// The rung's name.
        rung: &'static str,
        /// What is missing here.
        why: &'static str,
    },
    /// A step has moved, removed or hard-linked what was put into its tree in place of a mount.
    #[error(
        "the step has {what} {target:?}, which is put there only for the time of the step; where mounts can be made this is \
         refused while it runs, in the sandbox \"chroot\" only now"
    )]
    Displaced {
        /// In the root tree.
        target: String,
        /// What it has done.
        what: &'static str,
    },
    /// The program that makes a network of its own for a step is not there.
    #[error(
        "--network={name} needs the program {name:?}, which is in no folder of PATH: install it: apt install {package} (Debian, \
         Ubuntu), dnf install {package} (Fedora), or use --network=host"
    )]
    NoNetworkProgram {
        /// The program's name.
        name: &'static str,
        /// The package that it is in.
        package: &'static str,
    },
    /// That program has failed.
    #[error("cannot make a network for the step with {name}: {source}")]
    Network {
        /// The program's name.
        name: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Setting the sandbox up failed elsewhere.
    #[error("cannot set up the sandbox: {what}: {source}")]
    Setup {
        /// What was being done.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A mount names a descriptor that was not passed.
    #[error("the mount on {target:?} names descriptor {index} of {passed}")]
    MissingDescriptor {
        /// In the root tree.
        target: String,
        /// What it names, from 0.
        index: usize,
        /// How many there are.
        passed: usize,
    },
    /// The sandbox's first process ended without a word.
    #[error("the sandbox's first process ended ({status}) before it could run the command")]
    InitDied {
        /// How.
        status: String,
    },
}

impl Error {
    /// Names what was being done when `source` came up.
    pub(crate) fn setup<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> Error {
        move |source| Error::Setup { what: what.to_owned(), source: source.into() }
    }
}

/// The machine allows no such sandbox: what was tried, and what would help.
#[derive(Debug)]
pub struct Unavailable {
    /// Which sandbox; `auto` for all.
    pub rung: &'static str,
    /// What was tried, the last of which failed.
    pub probes: Vec<Probe>,
}

impl Unavailable {
    /// One thing that was tried and failed.
    pub(crate) fn of(rung: RungName, tried: &str, failure: String, remedies: Vec<String>) -> Unavailable {
        let probe = Probe { tried: tried.to_owned(), failure: Some(failure), remedies };
        Unavailable { rung: rung.as_str(), probes: vec![probe] }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rung {
            "auto" => f.write_str("this machine allows no sandbox that lithify knows")?,
            rung => write!(f, "this machine does not allow the sandbox {rung:?}")?,
        }
        for probe in &self.probes {
            write!(f, "\n  {probe}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unavailable {}
