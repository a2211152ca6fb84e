//! The steps of a build as plain data: what passes between the text of a Dockerfile and its execution.
//!
//! A [`Graph`] says nothing of how a step runs or where results live. Stages are gone: they dissolved into the edges
//! between steps, so independent stages are simply steps that do not need each other.

use lithify_oci::{Digest, History, ImageConfig, Platform};

/// The steps that a target needs, in an order in which each step's inputs come before it, and the image to make of them.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The steps; a [`StepId`] is an index into them.
    pub steps: Vec<Step>,
    /// What is built.
    pub target: Target,
}

impl Graph {
    /// The step with this id.
    pub fn step(&self, id: StepId) -> &Step {
        &self.steps[id.0 as usize]
    }
}

/// Which step, by its place in [`Graph::steps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u32);

/// A file tree that a step starts from or reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tree {
    /// The empty tree (`FROM scratch`).
    Scratch,
    /// The tree that a step results in.
    Of(StepId),
}

/// The image to make.
#[derive(Clone, Debug)]
pub struct Target {
    /// The file tree.
    pub tree: Tree,
    /// The configuration, complete but for `rootfs`, `history` and `created`, which depend on the layers.
    pub config: ImageConfig,
    /// One element for each instruction, those of the base image first.
    pub history: Vec<HistoryItem>,
}

/// One element of the image's history, and the step whose layer it tells of.
#[derive(Clone, Debug)]
pub struct HistoryItem {
    /// The element; `empty_layer` is right for elements of the base image, and for others set from `step` and its result.
    pub history: History,
    /// The step that makes the layer; `None` for instructions that make none, and for the base image's.
    pub step: Option<StepId>,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it does.
    pub op: Op,
    /// The platform that it runs for.
    pub platform: Platform,
    /// How it is shown: `[build 2/5] RUN make`.
    pub title: String,
    /// The name of the stage it came from, for `--no-cache-filter`: its alias, or its number.
    pub stage: String,
    /// Where in the Dockerfile it stands; `None` for what no line asked for (an ONBUILD trigger points at its FROM).
    pub span: Option<Span>,
}

/// A part of the Dockerfile's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Span {
    /// The offset in bytes of its first byte.
    pub start: usize,
    /// The offset in bytes behind its last byte.
    pub end: usize,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Op {
    /// The tree of an image.
    Image(Image),
    /// Files from outside: the build context or a named one. Not a tree to start from; COPY and RUN mounts read it.
    Context(Context),
    /// One file from an HTTP server.
    Http(Http),
    /// A checkout of a git repository.
    Git(Git),
    /// RUN.
    Exec(Exec),
    /// COPY and ADD.
    Copy(Copy),
    /// WORKDIR: makes a folder where there is none.
    MakeDirectory(MakeDirectory),
}

impl Op {
    /// The trees that this step reads, the one it starts from first.
    pub fn inputs(&self) -> Vec<StepId> {
        let mut trees = vec![];
        match self {
            Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => {}
            Op::MakeDirectory(make) => trees.push(make.base),
            Op::Copy(copy) => {
                trees.push(copy.base);
                trees.extend(copy.sources.iter().filter_map(|source| match source {
                    CopySource::Path { from, .. } => Some(*from),
                    CopySource::Inline(_) => None,
                }));
            }
            Op::Exec(exec) => {
                trees.push(exec.base);
                trees.extend(exec.mounts.iter().filter_map(|mount| match &mount.kind {
                    MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => Some(*from),
                    _ => None,
                }));
            }
        }
        let ids = trees.into_iter().filter_map(|tree| match tree {
            Tree::Scratch => None,
            Tree::Of(id) => Some(id),
        });
        ids.collect()
    }
}

/// The tree of an image, whose manifest the caller has found already (see `NeedImages` in the frontend).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// The name as it was looked up, such as `docker.io/library/debian:12` or that of a named context.
    pub name: String,
    /// The digest of the manifest for the platform.
    pub manifest: Digest,
}

/// A folder (or checkout, or archive) that the caller has at hand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// The named context, `None` for the build context.
    pub name: Option<String>,
}

/// One file from an HTTP server: the tree has this one file at its root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http {
    /// `http://` or `https://`.
    pub url: String,
    /// What the content must be.
    pub checksum: Option<Digest>,
}

impl Http {
    /// The name of the file: the last part of the URL's path, decoded; `__unnamed__` where there is none.
    pub fn file_name(&self) -> String {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        let path =
            url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        let decoded = percent_decoded(path);
        let name = decoded.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if matches!(name, "" | "." | "..") { "__unnamed__".to_owned() } else { name.to_owned() }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A checkout of a git repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Git {
    /// The URL with its fragment and query, as it was written.
    pub url: String,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// A commit, whole or its first digits, that the reference must resolve to.
    pub checksum: Option<String>,
}

/// RUN.
#[derive(Clone, Debug)]
pub struct Exec {
    /// The tree that it starts from.
    pub base: Tree,
    /// Program and arguments; a shell form is already wrapped in its shell.
    pub args: Vec<String>,
    /// The environment in order: ENV, ARG in scope, the default PATH. HOME and secrets are added where it runs.
    pub env: Vec<(String, String)>,
    /// Proxy variables that no ARG declares: given to the process, but part of no key.
    pub proxy_env: Vec<(String, String)>,
    /// The folder that it starts in; absolute.
    pub cwd: String,
    /// USER as written, `""` for root.
    pub user: String,
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// A heredoc script that starts with `#!`: shown to the process at `/dev/pipes/<name>`, mode 0755, read-only.
    pub script: Option<InlineFile>,
}

/// A small file whose content stands in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InlineFile {
    /// Its name, one component.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// The network of a RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// What the command line asks for; the host's where it does not.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// How much a RUN may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Security {
    /// Docker's default capabilities and filter.
    #[default]
    Sandbox,
    /// All that the builder itself may do; needs `--allow security.insecure`.
    Insecure,
}

/// `RUN --mount`.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where it appears; absolute. For a secret that is only a variable, and for that only, `None`.
    pub target: Option<String>,
    /// What appears there.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Clone, Debug)]
pub enum MountKind {
    /// A part of another tree. What is written to it is thrown away.
    Bind {
        /// The tree, which may be a context.
        from: Tree,
        /// The path in it.
        source: String,
        /// `rw`
        writable: bool,
    },
    /// A folder that outlives the build and is part of no image.
    Cache {
        /// Which one; already prefixed with BUILDKIT_CACHE_MOUNT_NS.
        id: String,
        /// Who may use it at the same time.
        sharing: CacheSharing,
        /// What a new one holds.
        from: Tree,
        /// The path in `from`.
        source: String,
        /// The mode of the folder when it is made (0 to 0o7777).
        mode: u32,
        /// The owner of the folder when it is made.
        uid: u32,
        /// The group of the folder when it is made.
        gid: u32,
        /// `ro`
        read_only: bool,
    },
    /// A folder in memory.
    Tmpfs {
        /// Its limit in bytes.
        size_bytes: Option<u64>,
    },
    /// A secret, as a file, a variable, or both.
    Secret {
        /// Which one.
        id: String,
        /// The variable that holds it.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Of the file.
        mode: u32,
        /// Of the file.
        uid: u32,
        /// Of the file.
        gid: u32,
    },
    /// The socket of an ssh agent; SSH_AUTH_SOCK points to it.
    Ssh {
        /// Which one.
        id: String,
        /// Whether the step fails without it.
        required: bool,
        /// Of the socket.
        mode: u32,
        /// Of the socket.
        uid: u32,
        /// Of the socket.
        gid: u32,
    },
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheSharing {
    /// Everyone.
    #[default]
    Shared,
    /// Each step its own: a further one gets a new folder.
    Private,
    /// One after the other.
    Locked,
}

/// COPY and ADD.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The tree that it starts from.
    pub base: Tree,
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// Where to; absolute, cleaned, without a trailing slash but for `/`.
    pub dest: String,
    /// Whether `dest` was written as a folder: with a trailing `/` or `/.`, or as `.` or nothing.
    pub dest_is_directory: bool,
    /// `--chown`, expanded but not resolved: names are looked up in the tree.
    pub owner: Option<String>,
    /// `--chmod`, expanded and valid: octal digits or a symbolic list.
    pub mode: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<String>,
}

/// One source of a COPY or ADD.
#[derive(Clone, Debug)]
pub enum CopySource {
    /// Files below a tree, a context, a downloaded file or a checkout.
    Path {
        /// The tree.
        from: Tree,
        /// A path or a pattern, as it was written (after expansion).
        pattern: String,
        /// Whether archives among them are unpacked.
        unpack: Unpack,
    },
    /// A heredoc.
    Inline(InlineFile),
}

/// Whether ADD unpacks archives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unpack {
    /// COPY, `ADD --unpack=false`, and ADD of a URL or repository.
    #[default]
    Never,
    /// ADD of a local file: it is unpacked when its content is an archive, otherwise copied.
    Archives,
}

/// WORKDIR.
#[derive(Clone, Debug)]
pub struct MakeDirectory {
    /// The tree that it starts from.
    pub base: Tree,
    /// The folder; absolute and cleaned. Those above it that are missing are made too.
    pub path: String,
    /// USER as written: who owns what is made, root where it cannot be found.
    pub user: String,
}
