//! `--lock FILE`: what tags, URLs and git references stood for, so that a later build takes the same.
//!
//! Where the file exists, the build takes just what it says and asks nobody what a name stands for now; a name that is not in it
//! is an error. Where it does not, the first build that succeeds writes it. What a Dockerfile pins itself, by digest or
//! checksum, needs no line.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lithify_engine::SourceError;
use lithify_oci::{Digest, Platform, Reference};
use serde::{Deserialize, Serialize};

use crate::exit::{self, Problem};
use crate::render::say;

/// The form of the file.
const VERSION: u32 = 1;

/// What the file begins with.
const HEADER: &str = "# What names stood for when this was built (lithify build --lock). Remove the file to look all of them up anew.\n";

/// A lock file, or none.
#[derive(Debug, Default)]
pub(crate) struct Lock {
    path: Option<PathBuf>,
    /// What the file says, where it exists.
    fixed: Option<Names>,
    /// What this build was told.
    seen: Mutex<Names>,
}

/// The content of the file. All names are without passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    version: u32,
    /// Manifests, by name and platform.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    images: BTreeMap<String, BTreeMap<String, Digest>>,
    /// The digests of files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    urls: BTreeMap<String, Digest>,
    /// Commits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    git: BTreeMap<String, String>,
}

impl Lock {
    /// Reads the file, if it is there.
    ///
    /// # Errors
    /// A file that is no lock file of a version that is known.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Problem> {
        let Some(path) = path else { return Ok(Lock::default()) };
        let wrong = |why: &dyn std::fmt::Display| {
            Problem::new(exit::USAGE, format_args!("--lock {}: {why}", path.display()))
        };
        let fixed = match std::fs::read_to_string(path) {
            Ok(text) => Some(toml::from_str::<Names>(&text).map_err(|error| wrong(&error))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(wrong(&error)),
        };
        match &fixed {
            Some(names) if names.version != VERSION => {
                return Err(wrong(&format_args!("it has version {}, and {VERSION} is known", names.version)));
            }
            _ => {}
        }
        Ok(Lock { path: Some(path.to_owned()), fixed, seen: Mutex::default() })
    }

    /// The manifest that an image must have; `None` where nothing is fixed.
    pub(crate) fn image(&self, name: &Reference, platform: &Platform) -> Result<Option<Digest>, Problem> {
        let Some(names) = self.fixed.as_ref().filter(|_| name.digest().is_none()) else { return Ok(None) };
        let found = names.images.get(&name.to_string()).and_then(|one| one.get(&platform.to_string()));
        found.copied().map(Some).ok_or_else(|| {
            Problem::new(exit::SOURCE, self.missing(&format_args!("the image {name} for {platform}")))
        })
    }

    /// The digest that a file must have; `None` where nothing is fixed.
    pub(crate) fn url(&self, url: &str) -> Result<Option<Digest>, SourceError> {
        let Some(names) = &self.fixed else { return Ok(None) };
        let missing = || SourceError { message: self.missing(&url) };
        names.urls.get(url).copied().map(Some).ok_or_else(missing)
    }

    /// The commit that a repository must be at; `None` where nothing is fixed.
    pub(crate) fn git(&self, url: &str) -> Result<Option<String>, SourceError> {
        let Some(names) = &self.fixed else { return Ok(None) };
        let missing = || SourceError { message: self.missing(&url) };
        names.git.get(url).cloned().map(Some).ok_or_else(missing)
    }

    fn missing(&self, what: &dyn std::fmt::Display) -> String {
        let path = self.path.as_deref().unwrap_or(Path::new("")).display();
        format!(
            "{what} is not in the lock file {path}: remove the file, and the next build looks all names up anew"
        )
    }

    /// Where it is fixed, for messages.
    pub(crate) fn name(&self) -> String {
        format!("the lock file {}", self.path.as_deref().unwrap_or(Path::new("")).display())
    }

    /// An image stands for this manifest.
    pub(crate) fn saw_image(&self, name: &Reference, platform: &Platform, manifest: Digest) {
        if name.digest().is_none() {
            let mut seen = self.seen();
            seen.images.entry(name.to_string()).or_default().insert(platform.to_string(), manifest);
        }
    }

    /// A URL stands for this file.
    pub(crate) fn saw_url(&self, url: &str, digest: Digest) {
        self.seen().urls.insert(url.to_owned(), digest);
    }

    /// A repository's reference stands for this commit.
    pub(crate) fn saw_git(&self, url: &str, commit: &str) {
        self.seen().git.insert(url.to_owned(), commit.to_owned());
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Names> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the file, where there is none yet.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn finish(&self) -> Result<(), Problem> {
        let (Some(path), None) = (&self.path, &self.fixed) else { return Ok(()) };
        let names = Names { version: VERSION, ..self.seen().clone() };
        let failed = |error: &dyn std::error::Error| {
            Problem::caused(
                exit::OUTPUT,
                format_args!("cannot write the lock file {}", path.display()),
                error,
            )
        };
        let text = toml::to_string(&names).map_err(|error| failed(&error))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(".lithify-").tempfile_in(folder)?;
            file.write_all(format!("{HEADER}{text}").as_bytes())?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(mode)?;
            file.persist(path).map(drop).map_err(|error| error.error)
        };
        write().map_err(|error| failed(&error))?;
        say(format_args!("lock    {}", path.display()));
        Ok(())
    }
}
