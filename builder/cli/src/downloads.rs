//! Files by HTTP and repositories by git, as folders that are gone when the build is.

use std::time::{Duration, SystemTime};

use lithify_cache::Store;
use lithify_engine::{FileSource, SourceError};
use lithify_oci::{Blobs, Digest};
use lithify_transfer::fetch::{self, Conditions, Downloads, Fetched, GitOptions, GitUrl};
use tokio::runtime::Runtime;

use crate::exit::{self, Problem};
use crate::sources::{open_folder, temporary_folder};

/// Checks a repository out. `is_context` allows the short form `github.com/owner/repository`.
pub(crate) fn git(
    runtime: &Runtime,
    url: &str,
    is_context: bool,
    keep_git_dir: bool,
    checksum: Option<&str>,
) -> Result<FileSource, SourceError> {
    let failed = |error: lithify_transfer::Error| SourceError {
        message: Problem::caused(exit::SOURCE, format_args!("cannot check out {url}"), &error).lines(),
    };
    let parsed = if is_context { GitUrl::parse_context(url) } else { GitUrl::parse(url) };
    let parsed = parsed.map_err(failed)?;
    let parsed = parsed.ok_or_else(|| SourceError { message: format!("{url} is no git repository") })?;
    let (empty, path) = temporary_folder()?;
    let options = GitOptions { keep_git_dir, ..GitOptions::default() };
    let checkout =
        runtime.block_on(fetch::checkout(&parsed, &path.join("checkout"), &options)).map_err(failed)?;
    if let Some(expected) = checksum.filter(|expected| !checkout.commit.starts_with(*expected)) {
        let message =
            format!("{url} is at commit {}, but --checksum={expected} was asked for", checkout.commit);
        return Err(SourceError { message });
    }
    let mut source = open_folder(&checkout.folder, Default::default())?;
    source.path = None;
    source.temporary = empty.temporary;
    Ok(source)
}

/// Downloads one file. It is called `name`, or as ADD calls it.
pub(crate) fn http(
    runtime: &Runtime,
    store: &Store,
    url: &str,
    checksum: Option<Digest>,
    name: Option<&str>,
) -> Result<FileSource, SourceError> {
    let failed = |error: &dyn std::error::Error| SourceError {
        message: Problem::caused(exit::SOURCE, format_args!("cannot download {url}"), error).lines(),
    };
    let downloads = Downloads::new(concat!("lithify/", env!("CARGO_PKG_VERSION")), Default::default());
    let conditions = Conditions::default();
    let fetching = downloads.fetch(url, &conditions, store, &());
    let file = match runtime.block_on(fetching).map_err(|error| failed(&error))? {
        Fetched::File(file) => file,
        Fetched::NotModified => return Err(SourceError { message: format!("{url} did not send a file") }),
    };
    if let Some(expected) = checksum.filter(|expected| *expected != file.digest) {
        let message =
            format!("{url} has the digest {}, but --checksum={expected} was asked for", file.digest);
        return Err(SourceError { message });
    }
    let name = match name {
        Some(name) => name.to_owned(),
        None => fetch::add_file_name(url).map_err(|error| failed(&error))?,
    };
    let (source, path) = temporary_folder()?;
    let write = || -> std::io::Result<()> {
        let path = path.join(&name);
        let mut copy = std::fs::File::create_new(&path)?;
        std::io::copy(&mut store.open(&file.digest)?, &mut copy)?;
        copy.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let modified = Duration::from_secs(file.modified_unix_seconds.unwrap_or(0));
        copy.set_modified(SystemTime::UNIX_EPOCH + modified)
    };
    write().map_err(|error| failed(&error))?;
    Ok(source)
}
