//! What can go wrong with files, said so that the user can mend it.

use std::fmt;
use std::io;

use lithify_linux::tree::WalkError;

use crate::glob::BadPattern;

/// A failure to select or to place files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pattern that cannot be understood.
    #[error("the pattern {pattern:?} cannot be understood")]
    Pattern {
        /// As it was written.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: BadPattern,
    },
    /// A line of an ignore file that is only a `!`.
    #[error("a lone \"!\" is no pattern; write what it shall bring back, such as \"!keep.txt\"")]
    LoneNegation,
    /// A source that is not there.
    #[error("{path:?}: not found{hint}")]
    NotFound {
        /// Below the root of the tree, with a leading slash.
        path: String,
        /// Why that may be.
        hint: Hint,
    },
    /// A file or folder that cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Below the root of the tree, with a leading slash.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Symbolic links that lead in a circle.
    #[error("{path:?}: too many symbolic links")]
    LinkLoop {
        /// Below the root of the tree, with a leading slash.
        path: String,
    },
    /// A path that leads through a file that is no folder.
    #[error("{path:?} is not a folder")]
    NotADirectory {
        /// In the image, or below the root of the source.
        path: String,
    },
    /// A file that would take the place of a folder.
    #[error(
        "cannot replace to directory {path:?} with a file: remove the folder first, or copy to another name"
    )]
    ReplacesDirectory {
        /// In the image.
        path: String,
    },
    /// A folder that would take the place of something else.
    #[error("cannot copy to non-directory {path:?}: the source is a folder, what is there is not")]
    ReplacesFile {
        /// In the image.
        path: String,
    },
    /// A `--chmod` that is neither octal digits nor a list of letters.
    #[error(
        "invalid chmod parameter: '{value}'. it should be octal string and between 0 and 07777, or a list such as u=rwX,go=rX"
    )]
    Chmod {
        /// As it was written.
        value: String,
    },
    /// A user that RUN cannot find.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    UnknownUser {
        /// As it was written.
        name: String,
    },
    /// A group that RUN cannot find.
    #[error("unable to find group {name}: no matching entries in group file")]
    UnknownGroup {
        /// As it was written.
        name: String,
    },
    /// A user or group number that no process can have.
    #[error("the id {id} is out of range: it must be between 0 and 2147483647")]
    IdOutOfRange {
        /// As it was written.
        id: String,
    },
    /// An archive that cannot be unpacked.
    #[error("cannot unpack the archive: {what}")]
    Archive {
        /// What is wrong with it.
        what: String,
    },
}

/// What may help with a source that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    None,
    /// An ignore file hides it.
    Ignored {
        /// The pattern that does.
        pattern: String,
    },
    /// Another name is close to it.
    DidYouMean {
        /// The whole path with that name.
        path: String,
    },
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::None => Ok(()),
            Hint::Ignored { pattern } => {
                write!(f, ", because the pattern {pattern:?} of the ignore file hides it")
            }
            Hint::DidYouMean { path } => write!(f, "; did you mean {path:?}?"),
        }
    }
}

impl Error {
    /// A failure to read `path`, which is below the root.
    pub(crate) fn read(path: &[u8], source: impl Into<io::Error>) -> Self {
        Error::Read { path: shown(path), source: source.into() }
    }
}

impl From<WalkError> for Error {
    fn from(error: WalkError) -> Self {
        Error::read(&error.path, error.source)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Read { source, .. } => source.kind(),
            Error::NotFound { .. } => io::ErrorKind::NotFound,
            Error::NotADirectory { .. } | Error::ReplacesFile { .. } => io::ErrorKind::NotADirectory,
            Error::ReplacesDirectory { .. } => io::ErrorKind::IsADirectory,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// A path below a root as errors show it.
pub(crate) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
