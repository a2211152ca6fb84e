//! What the result of a step depends on.
//!
//! A [`Key`] is a SHA-256 over named parts, each with its length before it, so no two lists of parts read the same. The
//! kind of step and the version of this table come first. Where a row below changes its meaning, `VERSION` goes up.
//!
//! | value | key | why |
//! |---|---|---|
//! | **every step** | | |
//! | `Step::title`, `stage`, `span` | none | they say nothing about the result |
//! | `Step::platform` | exec | programs see it; for COPY only the system counts, WORKDIR runs nothing |
//! | `base` (of Exec, MakeDirectory, Copy without `--link`) | by its diffIDs | content, not history: a changed step that made the same layer changes nothing after it |
//! | `base` of `COPY --link` without `--chmod` | none | its layer says the same on any base |
//! | `base` of `COPY --link --chmod` | by its diffIDs | BuildKit makes a plain copy of it |
//! | **Exec** | | |
//! | `args`, `env` (in order), `cwd`, `user` | exec | the process sees them; a user's name is looked up in the base |
//! | `proxy_env` | none | a way to the network, not an input; one that an ARG declares is in `env` |
//! | `network`, `security` | exec | as they are in effect: `Default` is what the command line says, the host's where it says nothing |
//! | `script` | exec | name and content |
//! | bind mount: `target`, `writable`, content | exec | the content of the selected part only, or the chain and path where it was not hashed |
//! | bind mount: `source`, `from` | none | the content says what they select (with a chain: `source` counts) |
//! | cache mount: `target`, `mode`, `uid`, `gid`, `read_only` | exec | the process sees them |
//! | cache mount: `id`, `sharing`, `from`, `source`, and all that is in it | none | a cache may speed a step up, never decide its result |
//! | tmpfs mount: `target`, `size_bytes` | exec | the process sees them |
//! | secret mount: `target`, `id`, `env`, `required`, `mode`, `uid`, `gid` | exec | how it is asked for |
//! | secret mount: its value | none | a secret leaves no trace, not even a hash; rotating one rebuilds nothing |
//! | ssh mount: `target`, `id`, `required`, `mode`, `uid`, `gid` | exec | as a secret; the agent and its keys do not count |
//! | [`RunSettings`]: host name, names of `--add-host`, ulimits, size of /dev/shm | exec | the process sees them |
//! | addresses of `--add-host` | none | as BuildKit: where a host is found does not say what it serves |
//! | [`RunSettings`]: SOURCE_DATE_EPOCH, `--reproducible` | exec | they enter the environment and clean the result |
//! | the sandbox, if it is not the full one | exec | without a pid namespace or /proc a process may see something else; `COPY` and `WORKDIR` do not |
//! | memory and CPU limits, time limit, lent CA certificates, progress | none | they decide whether and how fast a step ends, not what it makes |
//! | **Copy** | | |
//! | `sources`: what they select | copy | paths below the destination, kind, mode, owner, link target, device, `security.capability`, content; see [`ContentHasher`] |
//! | times, other xattrs, inode numbers | none | they are not in the layer |
//! | the pattern, `exclude`, the name of a copied folder, the tree it is from | none | what they select is what counts |
//! | an inline file (heredoc): name and content | copy | |
//! | `dest`, `dest_is_directory` | copy | |
//! | `owner` | copy | and the selected files' own owners no longer count |
//! | `mode` | copy | octal digits by value; the selected files' own modes then no longer count, with a symbolic list they do |
//! | `link`, `parents`, each source's `unpack` | copy | |
//! | **Copy, by definition** ([`copy_definition_key`]) | | before the sources' trees are at hand: finds the result without looking into them |
//! | all of Copy's rows; in place of content: pattern, `exclude` and the chains of the sources, for a repository its own key | definition | |
//! | **MakeDirectory** | | |
//! | `path`, `user` | directory | |
//! | **Files that a RUN mounts from a context**: path and content | files | the tree that is made of them; the RUN's own key has the content too |
//! | **Http**: the file's URL and its content | http | found by asking the server or by `checksum`, which therefore does not count itself |
//! | **Git**: `url`, `keep_git_dir`, the commit | git | `checksum` only checks |
//! | **Image** | none | its diffIDs are the chain of whoever starts from it |
//! | `Image::name`, `manifest` | none | the same layers under another name are the same base |
//! | **Context** | none | those who read it hash what they select |
//!
//! What is *not* seen, and is therefore the author's affair: what a RUN fetches from a network, the time, the machine.

mod content;
mod copy;
mod encoding;
mod exec;
pub(crate) mod explanation;

#[cfg(test)]
mod tests;

use lithify_graph::{Git, Http, MakeDirectory};
use lithify_oci::Digest;

pub use content::{ContentDigest, ContentHasher, Matched, SourceContent};
pub use copy::{copy_definition_key, copy_key};
pub use exec::{MountContent, RunSettings, Ulimit, exec_key};
pub use explanation::{Difference, Explanation, Part};

use encoding::Encoder;

/// The version of the table above and of the encoding.
const VERSION: u32 = 2;

/// Identifies the result of a step by what the step depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Key(Digest);

impl Key {
    /// The digest over all parts.
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// Takes a key that another process or a remote cache wrote down.
    pub fn from_digest(digest: Digest) -> Self {
        Key(digest)
    }
}

/// A key, and the parts that it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The key.
    pub key: Key,
    /// What it was made of, for explanations.
    pub parts: Vec<Part>,
}

impl Keyed {
    /// What is kept with the record. `step_identity` says which steps are "the same step" in two builds, such as the
    /// Dockerfile's path, the stage and the instruction's place in it.
    pub fn explanation(&self, step_identity: &str) -> Explanation {
        Explanation { step: step_identity.to_owned(), parts: self.parts.clone() }
    }
}

/// The layers of a tree by diffID, the lowest first. Two trees with the same chain are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chain(pub Vec<Digest>);

impl Chain {
    /// The chain with one more layer on top.
    pub fn with(&self, diff_id: Digest) -> Chain {
        Chain([&self.0[..], &[diff_id]].concat())
    }

    /// The chainID (OCI image specification, config.md, "Layer ChainID"); `None` for the empty tree.
    pub fn id(&self) -> Option<Digest> {
        self.0.iter().copied().reduce(|below, layer| Digest::of(format!("{below} {layer}")))
    }
}

/// The key of a WORKDIR.
pub fn make_directory_key(make: &MakeDirectory, base: &Chain) -> Keyed {
    let MakeDirectory { base: _, path, user } = make;
    let mut encoder = Encoder::new("directory");
    encoder.chain("base layer", base);
    encoder.text("path", path);
    encoder.text("user", user);
    encoder.finish()
}

/// The key of a tree that is made of files outside the store, at the path that they have there, for a RUN to mount.
pub fn files_key(path: &str, content: &SourceContent) -> Keyed {
    let mut encoder = Encoder::new("files");
    encoder.text("path", path);
    encoder.part("content", content.digest().digest().as_bytes());
    encoder.finish()
}

/// The key of a downloaded file, known once its content is.
pub fn http_key(http: &Http, content: &Digest) -> Keyed {
    let Http { url, checksum: _ } = http;
    let mut encoder = Encoder::new("http");
    encoder.text("URL", url);
    encoder.part("content", content.as_bytes());
    encoder.finish()
}

/// The key of a checkout, known once the reference is resolved to `commit`, a whole object id.
pub fn git_key(git: &Git, commit: &str) -> Keyed {
    let Git { url, keep_git_dir, checksum: _ } = git;
    let mut encoder = Encoder::new("git");
    encoder.text("URL", url);
    encoder.flag("keep-git-dir", *keep_git_dir);
    encoder.text("commit", &commit.to_ascii_lowercase());
    encoder.finish()
}
