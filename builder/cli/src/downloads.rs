//! Files by HTTP and repositories by git, as folders that are gone when the build is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lithify_cache::{Download, Store};
use lithify_engine::{FileSource, SourceError};
use lithify_oci::{Blobs, Digest};
use lithify_transfer::fetch::{self, Conditions, Downloads, Fetched, GitOptions, GitUrl};

use crate::access::{Access, shown};
use crate::exit::{self, Problem};
use crate::lock::Lock;
use crate::network::{Connection, Network};
use crate::sources::{open_folder, store_problem, temporary_folder};

fn git_failed(url: &str) -> impl Fn(lithify_transfer::Error) -> SourceError {
    move |error| SourceError {
        message: Problem::caused(exit::SOURCE, format_args!("cannot check out {}", shown(url)), &error)
            .lines(),
    }
}

/// `is_context` allows the short form `github.com/owner/repository`.
fn git_url(url: &str, is_context: bool) -> Result<GitUrl, SourceError> {
    let parsed = if is_context { GitUrl::parse_context(url) } else { GitUrl::parse(url) };
    let parsed = parsed.map_err(git_failed(url))?;
    parsed.ok_or_else(|| SourceError { message: format!("{} is no git repository", shown(url)) })
}

fn expect_commit(url: &str, commit: String, checksum: Option<&str>) -> Result<String, SourceError> {
    match checksum.filter(|expected| !commit.starts_with(*expected)) {
        None => Ok(commit),
        Some(expected) => Err(SourceError {
            message: format!("{} is at commit {commit}, but {expected} was asked for", shown(url)),
        }),
    }
}

fn unusable(error: lithify_cache::Error) -> SourceError {
    SourceError { message: store_problem(error).lines() }
}

/// What lies outside this machine, and how it is reached.
pub(crate) struct Outside<'a> {
    pub(crate) store: &'a Store,
    pub(crate) connection: Arc<Connection>,
    pub(crate) access: Access,
    pub(crate) lock: Lock,
}

impl<'a> Outside<'a> {
    pub(crate) fn new(store: &'a Store, connection: Arc<Connection>, access: Access) -> Self {
        Outside { store, connection, access, lock: Lock::default() }
    }

    /// The network, for `what`.
    fn network(&self, what: &dyn std::fmt::Display) -> Result<&Network, SourceError> {
        self.connection.network(what).map_err(|problem| SourceError { message: problem.lines() })
    }

    /// The commit that a source of ADD stands for now; `None` where only a checkout can tell.
    pub(crate) fn git_commit(
        &self,
        url: &str,
        checksum: Option<&str>,
    ) -> Result<Option<String>, SourceError> {
        let parsed = git_url(url, false)?;
        let commit = match (self.lock.git(&shown(url))?, fetch::known_commit(&parsed)) {
            (Some(commit), _) | (None, Some(commit)) => Some(commit),
            (None, None) if self.connection.is_offline() => Some(self.remembered_commit(url)?),
            (None, None) => {
                let network = self.network(&format_args!("the commit of {}", shown(url)))?;
                let resolving = async { fetch::resolve(&parsed, &self.access.git(url)).await };
                network.runtime.block_on(resolving).map_err(git_failed(url))?
            }
        };
        if let Some(commit) = &commit {
            self.saw_commit(url, commit)?;
        }
        commit.map(|commit| expect_commit(url, commit, checksum)).transpose()
    }

    /// The commit that a repository was at when it was last asked.
    fn remembered_commit(&self, url: &str) -> Result<String, SourceError> {
        let known = self.store.commit(url).map_err(unusable)?;
        known.ok_or_else(|| SourceError {
            message: format!(
                "the store does not know the commit of {}, and --offline forbids to ask",
                shown(url)
            ),
        })
    }

    fn saw_commit(&self, url: &str, commit: &str) -> Result<(), SourceError> {
        self.lock.saw_git(&shown(url), commit);
        if self.connection.is_offline() {
            return Ok(());
        }
        self.store.remember_commit(url, commit).map_err(unusable)
    }

    /// Checks a repository out. `is_context` allows the short form `github.com/owner/repository`.
    pub(crate) fn git(
        &self,
        url: &str,
        is_context: bool,
        keep_git_dir: bool,
        checksum: Option<&str>,
    ) -> Result<FileSource, SourceError> {
        self.git_with_date(url, is_context, keep_git_dir, checksum).map(|(source, _)| source)
    }

    /// The same, and when the commit was made, in seconds since 1970.
    pub(crate) fn git_with_date(
        &self,
        url: &str,
        is_context: bool,
        keep_git_dir: bool,
        checksum: Option<&str>,
    ) -> Result<(FileSource, u64), SourceError> {
        let mut parsed = git_url(url, is_context)?;
        if let Some(commit) = self.lock.git(&shown(url))? {
            (parsed.checksum, parsed.fetch_by_commit) = (Some(commit), Some(true));
        }
        let network = self.network(&format_args!("the files of {}", shown(url)))?;
        let (empty, path) = temporary_folder()?;
        let options = GitOptions { keep_git_dir, ..self.access.git(url) };
        let folder = path.join("checkout");
        let checking_out = fetch::checkout(&parsed, &folder, &options);
        let checkout = network.runtime.block_on(checking_out).map_err(git_failed(url))?;
        let commit = expect_commit(url, checkout.commit, checksum)?;
        self.saw_commit(url, &commit)?;
        let mut source = open_folder(&checkout.folder, Default::default())?;
        source.path = None;
        source.temporary = empty.temporary;
        Ok((source, checkout.committed_unix_seconds))
    }

    /// Downloads a file into the store, or finds it there: the server is asked only whether it is still the same, and where
    /// `checksum` says what it must be, not even that.
    pub(crate) fn file(&self, url: &str, checksum: Option<Digest>) -> Result<Download, SourceError> {
        let store = self.store;
        let failed = |error: &dyn std::error::Error| SourceError {
            message: Problem::caused(exit::SOURCE, format_args!("cannot download {}", shown(url)), error)
                .lines(),
        };
        let fixed = match checksum {
            Some(_) => None,
            None => self.lock.url(&shown(url))?,
        };
        let wanted = checksum.or(fixed);
        let known = store.download(url).map_err(unusable)?;
        let is_here = |known: &Download| matches!(store.blob_size_bytes(&known.digest), Ok(Some(_)));
        let known = known.filter(is_here);
        let is_wanted = |known: &&Download| match wanted {
            Some(wanted) => wanted == known.digest,
            None => self.connection.is_offline(),
        };
        if let Some(known) = known.as_ref().filter(is_wanted) {
            self.lock.saw_url(&shown(url), known.digest);
            return Ok(known.clone());
        }
        let network = self.network(&shown(url))?;
        let downloads = Downloads::new(concat!("lithify/", env!("CARGO_PKG_VERSION")), Default::default());
        let conditions = Conditions {
            etag: known.as_ref().and_then(|known| known.etag.clone()),
            last_modified: known.as_ref().and_then(|known| known.last_modified.clone()),
            authorization: self.access.http(url),
        };
        let fetching = downloads.fetch(url, &conditions, store, &());
        let fetched = network.runtime.block_on(fetching).map_err(|error| failed(&error))?;
        let download = match (fetched, known) {
            (Fetched::File(file), _) => Download {
                digest: file.digest,
                size_bytes: file.size_bytes,
                etag: file.etag,
                last_modified: file.last_modified,
                modified_unix_seconds: file.modified_unix_seconds,
                file_name: file.file_name,
            },
            (Fetched::NotModified, Some(known)) => known,
            (Fetched::NotModified, None) => {
                return Err(SourceError { message: format!("{} did not send a file", shown(url)) });
            }
        };
        store.remember_download(url, &download).map_err(unusable)?;
        let Some(wanted) = wanted.filter(|wanted| *wanted != download.digest) else {
            self.lock.saw_url(&shown(url), download.digest);
            return Ok(download);
        };
        let by = if fixed.is_some() { self.lock.name() } else { "--checksum".to_owned() };
        let (shown, digest) = (shown(url), download.digest);
        Err(SourceError { message: format!("{shown} has the digest {digest}, but {by} says {wanted}") })
    }

    /// Downloads one file for ADD.
    pub(crate) fn http(
        &self,
        url: &str,
        checksum: Option<Digest>,
        name: Option<&str>,
    ) -> Result<FileSource, SourceError> {
        let download = self.file(url, checksum)?;
        match name {
            Some(name) => folder_of(self.store, &download, name),
            None => {
                let name =
                    fetch::add_file_name(url).map_err(|error| SourceError { message: error.to_string() })?;
                folder_of(self.store, &download, &name)
            }
        }
    }
}

/// A folder with a downloaded file: of mode 0600, dated as the server says.
pub(crate) fn folder_of(store: &Store, download: &Download, name: &str) -> Result<FileSource, SourceError> {
    let (source, path) = temporary_folder()?;
    let write = || -> std::io::Result<()> {
        let mut copy = std::fs::File::create_new(path.join(name))?;
        std::io::copy(&mut store.open(&download.digest)?, &mut copy)?;
        copy.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let modified = Duration::from_secs(download.modified_unix_seconds.unwrap_or(0));
        copy.set_modified(SystemTime::UNIX_EPOCH + modified)
    };
    let failed = |error| SourceError { message: format!("cannot keep the download {name}: {error}") };
    write().map_err(failed)?;
    Ok(source)
}
