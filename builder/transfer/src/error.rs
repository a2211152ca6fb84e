//! What can go wrong, with what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use lithify_oci::Digest;

/// A failed transfer. `asked` says what was wanted of whom: `get the manifest latest of localhost:5000/app`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer at all.
    #[error("cannot {asked}: {reason} ({host})")]
    Unreachable {
        /// What was wanted.
        asked: String,
        /// Host and port that were tried.
        host: String,
        /// Why, and the remedy.
        reason: Reason,
        /// What the network said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// 401, and there was nothing to log in with.
    #[error(
        "cannot {asked}: {registry} wants a login and there are no credentials for it{detail}; \
         run `docker login {registry}` or check that the name is right"
    )]
    NoCredentials {
        /// What was wanted.
        asked: String,
        /// The registry.
        registry: String,
        /// What the registry said, with a colon before it, or nothing.
        detail: Detail,
    },
    /// 401 although there were credentials.
    #[error(
        "cannot {asked}: {registry} refuses the user name or password{detail}; run `docker login {registry}` again"
    )]
    BadCredentials {
        /// What was wanted.
        asked: String,
        /// The registry.
        registry: String,
        /// What the registry said.
        detail: Detail,
    },
    /// 403, or a token that does not reach far enough.
    #[error(
        "cannot {asked}: access denied by {registry}{detail}; ask its owner for the permission, or log in as another user"
    )]
    Denied {
        /// What was wanted.
        asked: String,
        /// The registry.
        registry: String,
        /// What the registry said.
        detail: Detail,
    },
    /// 404.
    #[error("cannot {asked}: {missing} on {registry}{detail}")]
    NotFound {
        /// What was wanted.
        asked: String,
        /// The registry.
        registry: String,
        /// What there is not, such as `no such tag`.
        missing: &'static str,
        /// What the registry said.
        detail: Detail,
    },
    /// 429 for longer than we wait.
    #[error("cannot {asked}: {registry} allows no more requests for now{}{detail}; log in, wait, or use a mirror", wait(.retry_after))]
    RateLimited {
        /// What was wanted.
        asked: String,
        /// The registry.
        registry: String,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
        /// What the registry said.
        detail: Detail,
    },
    /// Any other refusal.
    #[error("cannot {asked}: {host} answered {status}{detail}")]
    Status {
        /// What was wanted.
        asked: String,
        /// Who answered.
        host: String,
        /// The HTTP status code.
        status: u16,
        /// What the registry said.
        detail: Detail,
    },
    /// Mirrors failed, and then the registry itself.
    #[error("{last}; before that failed {}", .mirrors.join(" and "))]
    Mirrors {
        /// Each mirror with its error.
        mirrors: Vec<String>,
        /// The registry's own error.
        #[source]
        last: Box<Error>,
    },
    /// The content is not what its digest says.
    #[error(
        "{what} does not have the digest {expected}: it was changed or damaged on the way; try again, or another source"
    )]
    DigestMismatch {
        /// What was transferred.
        what: String,
        /// The digest that was asked for.
        expected: Digest,
    },
    /// The content is longer or shorter than its descriptor says.
    #[error("{what} has {found_bytes} bytes where its descriptor says {expected_bytes}")]
    SizeMismatch {
        /// What was transferred.
        what: String,
        /// The size in the descriptor.
        expected_bytes: u64,
        /// How many came, at least.
        found_bytes: u64,
    },
    /// No image for the platform.
    #[error("{what} has no image for {wanted}; it has {}", .available.join(", "))]
    NoPlatform {
        /// The reference or path of the index.
        what: String,
        /// The platform that was asked for.
        wanted: String,
        /// Those there are.
        available: Vec<String>,
    },
    /// Something that follows no specification, or one that is not supported.
    #[error("{what} cannot be used: {problem}")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The blob store failed, or has not what should be in it.
    #[error("cannot {doing} the blob store")]
    Store {
        /// `read … from`, `write … to`
        doing: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or folder failed.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was done with it.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The destination of an archive failed.
    #[error("cannot write the archive")]
    Output {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// docker's configuration file cannot be used.
    #[error("credentials in {}: {problem}", path.display())]
    CredentialsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A credential helper failed.
    #[error("credential helper {program} for {registry}: {problem}")]
    CredentialHelper {
        /// The program.
        program: String,
        /// For which registry.
        registry: String,
        /// What happened.
        problem: String,
    },
    /// A text that is no address of a git repository or file.
    #[error("{url:?}: {problem}")]
    Address {
        /// The text, without passwords.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// git failed.
    #[error("cannot {asked}: {problem}")]
    Git {
        /// What was wanted.
        asked: String,
        /// What git said, or why it was not started.
        problem: String,
    },
}

fn wait(retry_after: &Option<Duration>) -> String {
    retry_after.map(|wait| format!(" (for {} s)", wait.as_secs())).unwrap_or_default()
}

/// What the other side said about a refusal, printed with a colon before it; empty where it said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail(pub String);

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// Why nobody answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing listens on the port.
    Refused,
    /// The name is unknown.
    Name,
    /// The certificate is not signed by an authority that the system knows, or not for this host.
    Certificate,
    /// The system knows no certificate authority at all.
    NoAuthorities,
    /// No TLS is spoken there, or none that we know.
    Tls,
    /// No answer in time.
    Timeout,
    /// The connection broke.
    Broken,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Refused => "the connection was refused; is the server running, and is the port right?",
            Reason::Name => "the host name cannot be resolved; check its spelling and the network",
            Reason::Certificate => {
                "its certificate is not trusted; add the authority to the system's bundle or name a bundle in SSL_CERT_FILE"
            }
            Reason::NoAuthorities => {
                "the system has no certificate authorities; install ca-certificates or name a bundle in SSL_CERT_FILE"
            }
            Reason::Tls => "TLS cannot be agreed on; a server that speaks plain http must be listed as insecure",
            Reason::Timeout => "no answer in time; check the network and proxy settings",
            Reason::Broken => "the connection broke",
        })
    }
}

impl Error {
    pub(crate) fn malformed(what: impl Into<String>, problem: impl fmt::Display) -> Self {
        Error::Malformed { what: what.into(), problem: problem.to_string() }
    }

    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::File { doing, path, source }
    }

    pub(crate) fn reading(digest: &Digest) -> impl FnOnce(io::Error) -> Self {
        let doing = format!("read {digest} from");
        move |source| Error::Store { doing, source }
    }

    pub(crate) fn writing(source: io::Error) -> Self {
        Error::Store { doing: "write to".into(), source }
    }
}
