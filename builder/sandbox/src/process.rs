//! What to run, and what came of it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::{Cancel, Error, Uplink};

/// A way of running processes apart from the machine.
pub trait Sandbox: Send + Sync {
    /// Runs `process` with the detached mount `root` as its root folder and waits for its end, and that of all it started.
    /// `mounts` are what [`MountSource::Descriptor`] counts: detached mounts, or open files and folders of this process's
    /// mount namespace. What was made in the tree only to be mounted on is removed again where it is still empty.
    ///
    /// When `cancel` is requested, or the process's time is up, everything in the sandbox is killed.
    ///
    /// # Errors
    /// Only what kept the process from running; the tree may then hold some of what was made to mount on.
    fn run(
        &self,
        process: &Process,
        root: OwnedFd,
        mounts: Vec<OwnedFd>,
        stdio: Stdio,
        cancel: &Cancel,
    ) -> Result<Outcome, Error>;
}

/// A process to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The command and its arguments. A command without a slash is looked up in the `PATH` of `env`.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working folder, absolute in the root tree, where it must exist.
    pub cwd: String,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// The host's name.
    pub hostname: String,
    /// The network.
    pub network: Network,
    /// What the process may do.
    pub security: Security,
    /// Whether the root tree may hold files that stand for device nodes, or pipes whose owner is recorded, which are then shown as such.
    pub has_special: bool,
    /// What is mounted beside `/proc`, `/sys` and `/dev`, in this order.
    pub mounts: Vec<MountSpec>,
    /// How much `/dev/shm` holds. Docker's default is 64 MiB.
    pub shm_size_bytes: u64,
    /// Limits by their names in `--ulimit` (`nofile` …): soft and hard; -1 (all bits set) is unlimited.
    pub ulimits: Vec<(String, u64, u64)>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// The umask; 0o022 is usual.
    pub umask: u32,
}

impl Default for Process {
    /// Nothing to run, as root in `/` on the host's network, with Docker's default limits.
    fn default() -> Self {
        Process {
            args: vec![],
            env: vec![],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: vec![],
            hostname: "buildkitsandbox".into(),
            network: Network::Host,
            security: Security::Sandbox,
            has_special: false,
            mounts: vec![],
            shm_size_bytes: 64 << 20,
            ulimits: vec![],
            timeout: None,
            umask: 0o022,
        }
    }
}

/// The network of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The machine's.
    #[default]
    Host,
    /// Only the loopback interface, which is up.
    None,
    /// A network of its own, joined to the machine's by a program.
    Own(Uplink),
}

/// What a process may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// What Docker's defaults allow.
    #[default]
    Sandbox,
    /// Whatever root of the user namespace may do (`RUN --security=insecure`).
    Insecure,
}

/// Something to mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Where: absolute in the root tree. Symbolic links are followed inside it; what is missing is made.
    pub target: String,
    /// What.
    pub source: MountSource,
    /// Whether it cannot be written to.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// One of the descriptors passed beside the process, counted from 0: a detached mount, or a file or folder.
    Descriptor(usize),
    /// A file or folder that may be moved into the tree for the time of the step, on the file system of the tree: what the rung
    /// `chroot`, where nothing can be mounted, has instead of descriptors.
    Moved {
        /// One of the descriptors passed beside the process, counted from 0: the folder that it is in.
        folder: usize,
        /// Its name there, where it is again afterwards.
        name: String,
    },
    /// An empty folder in memory, owned by root.
    Tmpfs {
        /// How much it holds; half of the machine's memory if not said.
        size_bytes: Option<u64>,
        /// The folder's permissions.
        mode: u32,
    },
    /// A file with this content, such as a generated `/etc/hosts` or a secret.
    Content {
        /// What it holds.
        bytes: Vec<u8>,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// What a process gets from outside: where its output goes, and the control groups that limit it. Standard input is `/dev/null`. Pipes are best made by the process that calls [`Sandbox::run`]: only
/// then are they owned by an id of its namespace, and `/dev/stdout` can be opened in the sandbox.
#[derive(Debug)]
pub struct Stdio {
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error, where it is also said why a command could not be executed.
    pub stderr: OwnedFd,
    /// The `cgroup.procs` of the control groups that the process is to be in, open for writing.
    pub cgroups: Vec<OwnedFd>,
}

impl Stdio {
    /// Puts the process `child`, which must not have started anything yet, into the control groups.
    pub(crate) fn limit(&self, child: Pid) -> Result<(), Error> {
        let number = child.as_raw_nonzero().to_string();
        let written =
            self.cgroups.iter().try_for_each(|group| rustix::io::write(group, number.as_bytes()).map(drop));
        written.map_err(Error::setup(
            "moving the step into its control group; without --memory and the --cpu flags there is none",
        ))
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By itself. 127: the command was not found, 126: it cannot be executed; standard error says more.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It was killed when its time was up.
    TimedOut,
    /// It was killed because that was asked for.
    Cancelled,
}

/// What came of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Paths in the root tree that were made only to mount on, are still empty and could not be removed: the difference must
    /// leave them out. Mostly none.
    pub created_mountpoints: Vec<Vec<u8>>,
    /// How many device nodes were recorded as placeholders with [`NODE_ATTRIBUTE`](crate::NODE_ATTRIBUTE).
    pub recorded_nodes: usize,
}
