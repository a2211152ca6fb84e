//! What can go wrong with the store, and what to do about it. Messages do not repeat their cause: print the whole chain.

use std::io;
use std::path::{Path, PathBuf};

use lithify_oci::Digest;
use rusqlite::ErrorCode;
use rustix::io::Errno;

/// How the message of [`Error::Full`] begins: by this it is known where it comes as a part of another error's text.
pub const FULL: &str = "no space left for the store";

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store may not be written (permissions, or a read-only file system).
    #[error(
        "the store cannot be written: {path}; choose another place with --root DIR or LITHIFY_ROOT",
        path = path.display()
    )]
    Unwritable {
        /// What was to be written.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file system is full, or the quota is used up.
    #[error(
        "{FULL}: {path}; free some with `lithify prune`, or choose another place with \
         --root DIR or LITHIFY_ROOT",
        path = path.display()
    )]
    Full {
        /// What was to be written.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Any other failure of a file operation.
    #[error("the store's file {path} cannot be used", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The database is damaged.
    #[error(
        "the store's database is damaged: {path}; move it away (with its -wal and -shm files): the blobs stay, \
         what was cached is built again",
        path = path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The database was written by a newer lithify.
    #[error(
        "the store {path} has schema {found}, and this lithify knows schemas up to {supported}: use the newer lithify \
         that wrote it, or another store with --root DIR or LITHIFY_ROOT",
        path = path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this program knows.
        supported: u32,
    },
    /// Any other failure of the database.
    #[error("the store's database failed: {path}", path = path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A value in the database has a form that this program never writes.
    #[error("the store's database {path} holds an invalid {what}", path = path.display())]
    InvalidRow {
        /// The database.
        path: PathBuf,
        /// What the value is.
        what: &'static str,
        /// How it is invalid.
        source: serde_json::Error,
    },
    /// Content is not what its digest or size promised.
    #[error("{path} was to be {expected} ({expected_bytes} bytes), but is {found} ({found_bytes} bytes)", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The digest it was to have.
        expected: Digest,
        /// The size in bytes it was to have.
        expected_bytes: u64,
        /// The digest it has.
        found: Digest,
        /// The size in bytes it has.
        found_bytes: u64,
    },
    /// A new blob has another size than announced; its content was not looked at.
    #[error("blob {digest} was to have {expected_bytes} bytes, but {found_bytes} were written")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// The size in bytes it was to have.
        expected_bytes: u64,
        /// The size in bytes it has.
        found_bytes: u64,
    },
    /// A manifest or index in the store cannot be read as one.
    #[error("blob {digest} is no image manifest or index")]
    InvalidManifest {
        /// The blob.
        digest: Digest,
        /// How it is invalid.
        source: serde_json::Error,
    },
}

impl Error {
    /// Tells what `source` means for `path`, to be used as `.map_err(Error::at(path))`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| {
            let path = path.to_owned();
            match source.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOSPC | Errno::DQUOT) => Error::Full { path, source },
                Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Error::Unwritable { path, source },
                _ => Error::Io { path, source },
            }
        }
    }

    /// Tells what a failure of SQLite means for the database at `path`.
    pub(crate) fn database(path: &Path, source: rusqlite::Error) -> Error {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Error::Full { path, source: Errno::NOSPC.into() },
            // SQLite does not always say what the kernel said: not when it cannot enlarge the files beside the database.
            Some(ErrorCode::SystemIoFailure) if is_full(&path) => {
                Error::Full { path, source: Errno::NOSPC.into() }
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Error::Unwritable { path, source: io::Error::other(source) }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Corrupt { path, source },
            _ => Error::Database { path, source },
        }
    }
}

/// Whether the file system has no more room than the files beside a database take.
fn is_full(path: &Path) -> bool {
    const ROOM_BYTES: u64 = 64 << 10;
    let folder = path.parent().unwrap_or(path);
    rustix::fs::statvfs(folder).is_ok_and(|all| all.f_bavail * all.f_frsize < ROOM_BYTES)
}

/// For the [`lithify_oci::Blobs`] interface, which speaks of `io::Error` alone.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Unwritable { source, .. } | Error::Full { source, .. } | Error::Io { source, .. } => {
                source.kind()
            }
            Error::Mismatch { .. } | Error::WrongSize { .. } | Error::InvalidManifest { .. } => {
                io::ErrorKind::InvalidData
            }
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
