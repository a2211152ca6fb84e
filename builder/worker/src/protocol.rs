//! What the build's main process asks of the worker, and what it answers.
//!
//! Each call has a stream socket of its own, on which one request goes in and one answer comes back, both as JSON behind
//! their length. The socket itself, and the files that the request speaks of, are passed over the control socket.

use lithify_files::dest::Destination;
use lithify_files::place::Conflicts;
use lithify_oci::{Descriptor, Digest};
use lithify_sandbox::{Network, Security};
use serde::{Deserialize, Serialize};

/// The tree that is made of these layers, the lowest first: one OCI ChainID for each (config.md, "Layer ChainID").
pub type Chain = Vec<Digest>;

/// How trees are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Snapshotter {
    /// The kernel's overlay file system.
    Overlay,
    /// Whole copies.
    Copy,
}

/// One call. The comment of each names the files that go with it, in order.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first call. Files: none. `None` takes overlay where it works.
    Hello {
        /// What was asked for.
        snapshotter: Option<Snapshotter>,
    },
    /// Whether a tree is there.
    Has {
        /// Which.
        chain: Chain,
    },
    /// Gives a tree that was just made another name; one that has that name already stays. Does nothing where there is none.
    Rename {
        /// The name that it has.
        from: Digest,
        /// The name that it gets.
        to: Digest,
    },
    /// Unpacks a layer. Files: its blob; its catalogue where there is one.
    Apply {
        /// The tree below.
        parents: Chain,
        /// The tree that results.
        chain: Digest,
        /// Whether there is a catalogue.
        catalogue: bool,
        /// The digest that the plain archive must have, where nobody has made sure of it: a base image may claim
        /// another one's, and the tree would be taken for that one's.
        claimed: Option<Digest>,
        /// Whether the tree below is needed by nobody else, and may become the new one.
        consume: bool,
    },
    /// Looks up the destination of a COPY.
    Inspect {
        /// The tree.
        chain: Chain,
        /// Absolute.
        dest: String,
        /// Whether it was written as a folder.
        is_directory: bool,
        /// `--chown`
        owner: Option<String>,
        /// Folders that archives have files in, below the destination.
        folders: Vec<Vec<u8>>,
    },
    /// Makes a layer of entries that come in as an archive, in canonical order with exact times. Files: the archive
    /// (a pipe), the new blob, the new catalogue.
    Place {
        /// The tree below.
        chain: Chain,
        /// What happens where kinds clash.
        conflicts: Conflicts,
        /// The groups of hard links that will come: the first name, and the others.
        hard_links: Vec<(Vec<u8>, Vec<Vec<u8>>)>,
    },
    /// Makes a layer by copying from other trees. Files: the new blob, the new catalogue.
    Copy(CopyRequest),
    /// What the folder for trees holds. Files: none.
    Look,
    /// Puts folders out of reach: each by its folder and its name. Files: none.
    Discard(Vec<(String, String)>),
    /// Removes what was discarded, and what killed processes left. Files: none.
    Sweep,
    /// Makes a layer with one folder. Files: the new blob, the new catalogue.
    MakeDirectory {
        /// The tree below.
        chain: Chain,
        /// Absolute and cleaned.
        path: String,
        /// Who owns what is made: USER as written.
        user: String,
    },
    /// Runs a process. Files: its standard output, its standard error, the new blob, the new catalogue.
    Run(Box<RunRequest>),
}

/// A part of a tree to copy from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TreeSource {
    /// The tree.
    pub chain: Chain,
    /// A path or pattern in it.
    pub pattern: String,
}

/// What of the sources is taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SelectRules {
    /// `--exclude`
    pub exclude: Vec<String>,
    /// `--parents`
    pub parents: bool,
}

/// COPY --from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CopyRequest {
    /// The tree below.
    pub below: Chain,
    /// In order.
    pub sources: Vec<TreeSource>,
    /// Heredocs: name and content.
    pub inline: Vec<(String, Vec<u8>)>,
    /// What of the sources is taken.
    pub select: SelectRules,
    /// Absolute.
    pub dest: String,
    /// Whether `dest` was written as a folder.
    pub dest_is_directory: bool,
    /// `--chown`
    pub owner: Option<String>,
    /// `--chmod`
    pub mode: Option<String>,
}

/// RUN.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRequest {
    /// The tree that it starts from.
    pub chain: Chain,
    /// Program and arguments.
    pub args: Vec<String>,
    /// In order. HOME is added from the passwd file where it is not set.
    pub env: Vec<(String, String)>,
    /// Absolute.
    pub cwd: String,
    /// USER as written.
    pub user: String,
    /// What it sees as its name.
    pub hostname: String,
    /// Its network.
    pub network: Network,
    /// How much it may do.
    pub security: Security,
    /// Content of /etc/hosts.
    pub hosts: String,
    /// Content of /etc/resolv.conf.
    pub resolv_conf: String,
    /// In order.
    pub mounts: Vec<RunMount>,
    /// The size of /dev/shm.
    pub shm_size_bytes: u64,
    /// Name, soft and hard limit.
    pub ulimits: Vec<(String, u64, u64)>,
    /// How many control groups it is in: for each, the first of the further files has one open to write its number to.
    pub cgroups: usize,
    /// Seconds after which the step is ended.
    pub timeout_seconds: Option<u64>,
    /// `--reproducible`: noise is taken out of the tree afterwards; SOURCE_DATE_EPOCH as the process has it.
    pub reproducible: Option<i64>,
    /// Whether the tree that it starts from is needed by no other step.
    pub consume: bool,
}

/// What a RUN sees at a path beside its tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunMount {
    /// Absolute.
    pub target: String,
    /// What is there.
    pub kind: RunMountKind,
}

/// See [`RunMount`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RunMountKind {
    /// A part of another tree; what is written is thrown away.
    Tree {
        /// Which tree; empty for an empty folder.
        chain: Chain,
        /// The path in it.
        source: String,
        /// Whether it can be written to.
        writable: bool,
    },
    /// A folder that outlives the build.
    Cache {
        /// The folder's name below the worker's cache mounts.
        folder: String,
        /// What a new one holds.
        seed: Option<(Chain, String)>,
        /// Of a new one.
        mode: u32,
        /// Of a new one.
        uid: u32,
        /// Of a new one.
        gid: u32,
        /// Whether it can be written to.
        read_only: bool,
    },
    /// A folder in memory.
    Tmpfs {
        /// Its limit.
        size_bytes: Option<u64>,
    },
    /// A small file in memory.
    File {
        /// What it holds.
        content: Vec<u8>,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The socket of an ssh agent: connections to it go to the main process, through a socket passed with the call.
    Socket {
        /// Its place among the further files of the call.
        file: usize,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// What was asked, or why it cannot be.
pub type Answer = Result<Response, Failure>;

/// The answer to each kind of [`Request`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    /// To `Hello`: what is used.
    Ready(Snapshotter),
    /// To `Has`.
    Has(bool),
    /// To `Apply`, `Discard` and `Sweep`.
    Done,
    /// To `Look`.
    Found(Vec<crate::space::Found>),
    /// To `Inspect`.
    Inspected {
        /// Where the destination leads.
        destination: Destination,
        /// `--chown`, as numbers.
        owner: Option<(u32, u32)>,
        /// Those of `folders` that links lead elsewhere, and where to.
        links: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// To `Place`, `Copy` and `MakeDirectory`. A step that changes nothing makes an empty layer, as BuildKit does.
    Made(Box<MadeLayer>),
    /// To `Run`.
    Ran(RunResult),
}

/// A new layer, whose blob and catalogue stand in the files that were passed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MadeLayer {
    /// The digest of the tar archive.
    pub diff_id: Digest,
    /// The compressed blob.
    pub blob: Descriptor,
    /// The compressor, its version and level.
    pub encoding: String,
    /// The length of the tar archive.
    pub uncompressed_size_bytes: u64,
    /// The digest of the catalogue.
    pub catalogue: Digest,
    /// The length of the catalogue.
    pub catalogue_size_bytes: u64,
    /// Whether it holds compiled Python whose header says a time.
    pub has_compiled: bool,
}

/// How a RUN ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RunResult {
    /// Well.
    Changed(Box<MadeLayer>),
    /// With another exit code than 0.
    Exited(i32),
    /// By a signal.
    Signaled(i32),
    /// By the time limit.
    TimedOut,
}

/// Why a call failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of problem.
    pub kind: FailureKind,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// What kind of problem a call had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The Dockerfile asks for what cannot be: a missing source, kinds that clash, an unknown user.
    Input,
    /// The sandbox cannot do what is needed.
    Sandbox,
    /// Trees cannot be read or written.
    Storage,
    /// A tree that was there has become another build's next one, or was pruned: to be made again.
    Missing,
}
