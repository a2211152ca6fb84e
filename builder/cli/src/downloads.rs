//! Files by HTTP and repositories by git, as folders that are gone when the build is.

use std::time::{Duration, SystemTime};

use lithify_cache::{Download, Store};
use lithify_engine::{FileSource, SourceError};
use lithify_oci::{Blobs, Digest};
use lithify_transfer::fetch::{self, Conditions, Downloads, Fetched, GitOptions, GitUrl};
use tokio::runtime::Runtime;

use crate::access::{Access, shown};
use crate::exit::{self, Problem};
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

/// The commit that a source of ADD stands for now; `None` where only a checkout can tell.
pub(crate) fn git_commit(
    runtime: &Runtime,
    access: &Access,
    url: &str,
    checksum: Option<&str>,
) -> Result<Option<String>, SourceError> {
    let parsed = git_url(url, false)?;
    let resolving = async { fetch::resolve(&parsed, &access.git(url)).await };
    let commit = runtime.block_on(resolving).map_err(git_failed(url))?;
    commit.map(|commit| expect_commit(url, commit, checksum)).transpose()
}

fn expect_commit(url: &str, commit: String, checksum: Option<&str>) -> Result<String, SourceError> {
    match checksum.filter(|expected| !commit.starts_with(*expected)) {
        None => Ok(commit),
        Some(expected) => Err(SourceError {
            message: format!("{} is at commit {commit}, but {expected} was asked for", shown(url)),
        }),
    }
}

/// Checks a repository out. `is_context` allows the short form `github.com/owner/repository`.
pub(crate) fn git(
    runtime: &Runtime,
    access: &Access,
    url: &str,
    is_context: bool,
    keep_git_dir: bool,
    checksum: Option<&str>,
) -> Result<FileSource, SourceError> {
    git_with_date(runtime, access, url, is_context, keep_git_dir, checksum).map(|(source, _)| source)
}

/// The same, and when the commit was made, in seconds since 1970.
pub(crate) fn git_with_date(
    runtime: &Runtime,
    access: &Access,
    url: &str,
    is_context: bool,
    keep_git_dir: bool,
    checksum: Option<&str>,
) -> Result<(FileSource, u64), SourceError> {
    let parsed = git_url(url, is_context)?;
    let (empty, path) = temporary_folder()?;
    let options = GitOptions { keep_git_dir, ..access.git(url) };
    let folder = path.join("checkout");
    let checking_out = fetch::checkout(&parsed, &folder, &options);
    let checkout = runtime.block_on(checking_out).map_err(git_failed(url))?;
    expect_commit(url, checkout.commit, checksum)?;
    let mut source = open_folder(&checkout.folder, Default::default())?;
    source.path = None;
    source.temporary = empty.temporary;
    Ok((source, checkout.committed_unix_seconds))
}

/// Downloads a file into the store, or finds it there: the server is asked only whether it is still the same, and where
/// `checksum` says what it must be, not even that.
pub(crate) fn file(
    runtime: &Runtime,
    access: &Access,
    store: &Store,
    url: &str,
    checksum: Option<Digest>,
) -> Result<Download, SourceError> {
    let failed = |error: &dyn std::error::Error| SourceError {
        message: Problem::caused(exit::SOURCE, format_args!("cannot download {}", shown(url)), error).lines(),
    };
    let unusable = |error| SourceError { message: store_problem(error).lines() };
    let known = store.download(url).map_err(unusable)?;
    let is_here = |known: &Download| matches!(store.blob_size_bytes(&known.digest), Ok(Some(_)));
    let known = known.filter(is_here);
    if let Some(known) = known.as_ref().filter(|known| checksum == Some(known.digest)) {
        return Ok(known.clone());
    }
    let downloads = Downloads::new(concat!("lithify/", env!("CARGO_PKG_VERSION")), Default::default());
    let conditions = Conditions {
        etag: known.as_ref().and_then(|known| known.etag.clone()),
        last_modified: known.as_ref().and_then(|known| known.last_modified.clone()),
        authorization: access.http(url),
    };
    let fetching = downloads.fetch(url, &conditions, store, &());
    let download = match (runtime.block_on(fetching).map_err(|error| failed(&error))?, known) {
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
    match checksum.filter(|expected| *expected != download.digest) {
        None => Ok(download),
        Some(expected) => Err(SourceError {
            message: format!(
                "{} has the digest {}, but --checksum={expected} was asked for",
                shown(url),
                download.digest
            ),
        }),
    }
}

/// Downloads one file for ADD.
pub(crate) fn http(
    runtime: &Runtime,
    access: &Access,
    store: &Store,
    url: &str,
    checksum: Option<Digest>,
    name: Option<&str>,
) -> Result<FileSource, SourceError> {
    let download = file(runtime, access, store, url, checksum)?;
    match name {
        Some(name) => folder_of(store, &download, name),
        None => {
            let name =
                fetch::add_file_name(url).map_err(|error| SourceError { message: error.to_string() })?;
            folder_of(store, &download, &name)
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
