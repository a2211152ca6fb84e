//! The command line as it is written; `inputs` makes of it what is meant.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::legacy::Legacy;
use crate::limits::LimitFlags;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a step failed, or check found something
  2    the command line or the Dockerfile is wrong
  3    a base image, context or download cannot be had
  4    this machine does not let lithify run steps
  5    the store cannot be read or written
  6    the image was built, but could not be written or pushed
  130  interrupted";

/// Turns a Dockerfile and a folder into an OCI image: one binary, no daemon, no root.
#[derive(Debug, Parser)]
#[command(name = "lithify", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    /// Where images and the build cache are kept [default: $XDG_DATA_HOME/lithify]
    #[arg(long, global = true, env = "LITHIFY_ROOT", value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// The configuration file [default: $XDG_CONFIG_HOME/lithify/lithify.toml]
    #[arg(long, global = true, env = "LITHIFY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image
    Build(Box<Build>),
    /// Look for problems in a Dockerfile without building it
    Check(Box<Check>),
    /// Say why steps of a build did not come from the cache: which file, variable or line differs
    Why(Why),
    /// List the images of the store
    Images,
    /// Take names of images away; what no other image and no cached step needs goes with the next prune
    Rmi(Rmi),
    /// Write an image of the store to a file
    Save(Save),
    /// Show what takes space in the store
    Du(Du),
    /// Take away what is no longer wanted: what no image and no cached step needs, and what the flags say
    Prune(Prune),
    /// Look after the store
    #[command(subcommand)]
    Store(StoreCommand),
    /// Say which sandboxes work on this machine, and what would give a better one
    Doctor(Doctor),
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// What steps would run in
    #[arg(long, value_name = "HOW", env = "LITHIFY_SANDBOX")]
    pub(crate) sandbox: Option<Sandbox>,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// A step: its number, as progress shows it, or a part of its line [default: all that were not cached]
    #[arg(value_name = "STEP")]
    pub(crate) step: Option<String>,
    /// The build that is asked about [default: the last]
    #[arg(long, value_name = "BUILD")]
    pub(crate) build: Option<u64>,
    /// Another build to compare it with [default: for each step the most similar earlier run]
    #[arg(long, value_name = "BUILD")]
    pub(crate) against: Option<u64>,
    /// List the builds that the store remembers
    #[arg(long, conflicts_with_all = ["step", "build", "against"])]
    pub(crate) list: bool,
    /// How it is shown
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: WhyFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhyFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// The names
    #[arg(value_name = "NAME[:TAG]", required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// The image
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: String,
    /// The file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// As an OCI archive, or as docker save writes it
    #[arg(long, value_name = "FORMAT", default_value = "oci")]
    pub(crate) format: SaveFormat,
    /// Of an image for several platforms, the one to take [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    Oci,
    Docker,
}

#[derive(Debug, Args)]
pub(crate) struct Du {
    /// List layers, cached steps, cache mounts and file trees one by one
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// How it is shown; json lists everything
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: WhyFormat,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Take away what was not used for this long, such as 90s, 10m, 24h or 7d
    #[arg(long, alias = "older-than", value_name = "TIME")]
    pub(crate) unused_for: Option<String>,
    /// As docker says it: until=TIME is --unused-for TIME
    #[arg(long, value_name = "until=TIME", conflicts_with = "unused_for")]
    pub(crate) filter: Option<String>,
    /// Take away the least recently used until the store takes no more than this on disk, such as 10g
    #[arg(long, alias = "keep", value_name = "SIZE")]
    pub(crate) keep_storage: Option<String>,
    /// Take away all that is not in use
    #[arg(short, long, conflicts_with_all = ["unused_for", "filter", "keep_storage"])]
    pub(crate) all: bool,
    /// Of what [default: all but images]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub(crate) kind: Vec<PruneKind>,
    /// Take nothing away, and say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PruneKind {
    /// Names of images
    Images,
    /// Cached steps, and the layers that they made
    Records,
    /// Layers and other blobs that nothing needs
    Layers,
    /// Base images
    Bases,
    /// Files of ADD
    Downloads,
    /// What RUN --mount=type=cache keeps
    Mounts,
    /// Unpacked file trees
    Trees,
    /// What is remembered of context files, and the log of builds
    Notes,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read everything in the store and say what is damaged
    Verify {
        /// Remove what is damaged, so that it is built or pulled again
        #[arg(long)]
        repair: bool,
    },
}

/// Which Dockerfile, and what its variables are.
#[derive(Debug, Args)]
pub(crate) struct Dockerfile {
    /// The build context: a folder, a git or http URL, or - for a Dockerfile or archive on standard input
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub(crate) context: String,
    /// The Dockerfile, or - for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// A further context: a folder, docker-image://REF, oci-layout://DIR[:TAG][@DIGEST], a git or http URL
    #[arg(long, value_name = "NAME=SOURCE")]
    pub(crate) build_context: Vec<String>,
    /// The platform to build for [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    #[command(flatten)]
    pub(crate) dockerfile: Dockerfile,
    /// A name for the image
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// Add a label to the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Where the result goes: type=image,name=N | type=oci,dest=FILE | type=docker,dest=FILE | type=registry,name=N |
    /// type=local,dest=DIR | type=tar,dest=FILE | type=cacheonly; - or type=tar alone is standard output; a bare path is
    /// type=local. With images compression=zstd|gzip|uncompressed, compression-level=N, force-compression=true
    #[arg(short, long, value_name = "SPEC")]
    pub(crate) output: Vec<String>,
    /// The time that files, configuration and history have in the image, or preserve for real ones [default: SOURCE_DATE_EPOCH, else 0]
    #[arg(long, value_name = "SECONDS|preserve", env = "LITHIFY_TIMESTAMP")]
    pub(crate) timestamp: Option<String>,
    /// Help RUN to make the same files at any time: set SOURCE_DATE_EPOCH, and take logs, caches, machine ids and dates of passwords out of
    /// its layers (README.md lists them)
    #[arg(long, env = "LITHIFY_REPRODUCIBLE", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) reproducible: bool,
    /// Push the image to its registry: short for --output type=registry
    #[arg(long)]
    pub(crate) push: bool,
    /// Take nothing from the cache
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Take nothing from the cache for these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// A cache of another machine to take from, several times: type=registry,ref=REF | type=local,src=DIR |
    /// type=s3,bucket=B,region=R; REF alone is type=registry
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_from: Vec<String>,
    /// Where the cache is written for other machines, several times: type=registry,ref=REF | type=local,dest=DIR |
    /// type=s3,bucket=B,region=R | type=inline; with mode=min (the image's own steps) or mode=max (all)
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_to: Vec<String>,
    /// Take images, URLs and git references as this file fixes them; where it does not exist, write what they stand for
    #[arg(long, value_name = "FILE", env = "LITHIFY_LOCK")]
    pub(crate) lock: Option<PathBuf>,
    /// Touch no network: what the store lacks is an error, and RUN has loopback only
    #[arg(long, env = "LITHIFY_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) offline: bool,
    /// When to ask the registry for base images
    #[arg(long, value_name = "WHEN", env = "LITHIFY_PULL", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pub(crate) pull: Option<Pull>,
    /// How progress is shown
    #[arg(long, value_name = "HOW", env = "LITHIFY_PROGRESS", default_value = "auto")]
    pub(crate) progress: Progress,
    /// Print the image's id and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write the image's id, the digest of its configuration, to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write digests and names of the result to a JSON file
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// A secret for RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=FILE|env=NAME]")]
    pub(crate) secret: Vec<String>,
    /// An ssh agent for RUN --mount=type=ssh
    #[arg(long, value_name = "default|ID[=SOCKET]")]
    pub(crate) ssh: Vec<String>,
    /// The network of RUN
    #[arg(long, value_name = "NETWORK", env = "LITHIFY_NETWORK")]
    pub(crate) network: Option<Network>,
    /// A line for /etc/hosts in RUN
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    /// The size of /dev/shm in RUN
    #[arg(long, value_name = "SIZE", default_value = "64m")]
    pub(crate) shm_size: String,
    /// A resource limit for RUN
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
    /// Allow RUN --security=insecure, or RUN --network=host where --network says another one: security.insecure, network.host
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,
    /// End a RUN after this time, such as 90s, 10m or 2h
    #[arg(long, value_name = "TIME", env = "LITHIFY_STEP_TIMEOUT")]
    pub(crate) step_timeout: Option<String>,
    /// How many steps may run at the same time [default: no limit]
    #[arg(long, value_name = "N", env = "LITHIFY_JOBS")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    /// How file trees are kept
    #[arg(long, value_name = "HOW", env = "LITHIFY_SNAPSHOTTER")]
    pub(crate) snapshotter: Option<Snapshotter>,
    /// What steps run in; `lithify doctor` says what works here
    #[arg(long, value_name = "HOW", env = "LITHIFY_SANDBOX")]
    pub(crate) sandbox: Option<Sandbox>,
    /// Certificates of authorities that RUN is to trust besides its usual ones, without a trace in the image
    #[arg(long, value_name = "FILE", env = "LITHIFY_CA_CERTIFICATES")]
    pub(crate) ca_certificates: Option<PathBuf>,
    /// Look for problems in the Dockerfile without building it: short for --call check
    #[arg(long)]
    pub(crate) check: bool,
    /// What to do: build, check, outline (which arguments the target takes) or targets
    #[arg(long, value_name = "WHAT[,format=FORMAT]", default_value = "build")]
    pub(crate) call: String,
    #[command(flatten)]
    pub(crate) legacy: Legacy,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) dockerfile: Dockerfile,
    /// How findings are shown
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: CheckFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    Text,
    Json,
    Sarif,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pull {
    /// When the store does not have them
    Missing,
    /// Each time
    Always,
    /// Not at all
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// tty on a terminal, else plain
    Auto,
    /// Lines
    Plain,
    /// Lines that change
    Tty,
    /// One JSON object per line
    #[value(alias = "rawjson")]
    Json,
    /// Nothing
    #[value(alias = "none")]
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Network {
    /// The machine's
    Default,
    /// Loopback only
    None,
    /// The machine's
    Host,
    /// One of its own, joined to the machine's by pasta (package passt); the machine's loopback is out of reach
    Pasta,
    /// One of its own, joined by slirp4netns
    Slirp4netns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sandbox {
    /// The first of these that works
    Auto,
    /// A user namespace with a range of ids
    Range,
    /// A user namespace with one id, and all others emulated
    Single,
    /// As root in a container that may make no namespaces
    Chroot,
    /// A user namespace with one id, where who owns a file is lost
    Pretended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Snapshotter {
    /// overlay where it works, else copy
    Auto,
    /// The kernel's overlay file system
    Overlay,
    /// Whole copies
    Copy,
}
