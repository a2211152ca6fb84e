//! SOURCE_DATE_EPOCH: finding the date that it stands for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::UNIX_EPOCH;

use lithify_frontend::Epoch;

use crate::contexts::{self, Source};
use crate::downloads::Outside;
use crate::exit::{self, Problem};

/// Seconds since 1970; `None` for what has no date, such as a folder of this machine.
pub(super) fn resolve(
    epoch: Epoch,
    main: &str,
    named: &BTreeMap<String, Source>,
    outside: &Outside<'_>,
) -> Result<Option<i64>, Problem> {
    let git = |url: &str, is_context: bool, checksum: Option<&str>| {
        let fetched = outside.git_with_date(url, is_context, false, checksum);
        let (_, seconds) = fetched.map_err(|error| Problem::new(exit::SOURCE, error.message))?;
        Ok(i64::try_from(seconds).ok())
    };
    let of = |source: &Source| match source {
        Source::Git(url) => git(url, true, None),
        Source::Url(url) => http(url, None, outside),
        _ => Ok(None),
    };
    match epoch {
        Epoch::Seconds(seconds) => Ok(Some(seconds)),
        Epoch::Context => of(&contexts::parse_main(main)),
        Epoch::Named(name) => named.get(&name).map_or(Ok(None), of),
        Epoch::Git { url, checksum } => git(&url, false, checksum.as_deref()),
        Epoch::Http { url, checksum } => http(&url, checksum.as_deref(), outside),
    }
}

/// What the server says, or else the newest file of the archive that it is.
fn http(url: &str, checksum: Option<&str>, outside: &Outside<'_>) -> Result<Option<i64>, Problem> {
    let checksum = checksum.map(str::parse).transpose();
    let checksum = checksum
        .map_err(|error| Problem::caused(exit::USAGE, "SOURCE_DATE_EPOCH: the checksum is none", &error))?;
    let file = outside.file(url, checksum).map_err(|error| Problem::new(exit::SOURCE, error.message))?;
    if let Some(seconds) = file.modified_unix_seconds {
        return Ok(i64::try_from(seconds).ok());
    }
    let opened = outside
        .store
        .open_blob(&file.digest)
        .map_err(|error| Problem::caused(exit::STORE, format_args!("cannot read what {url} sent"), &error))?;
    let Some((_unpacked, path)) = super::remote::unpacked_at(&opened, url)? else { return Ok(None) };
    let newest = newest(&path);
    newest.map_err(|error| {
        Problem::caused(exit::SOURCE, format_args!("cannot read the files of {url}"), &error)
    })
}

fn newest(folder: &Path) -> std::io::Result<Option<i64>> {
    let mut newest = None;
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.is_file() {
                let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                newest = newest.max(i64::try_from(since.as_secs()).ok());
            }
        }
    }
    Ok(newest)
}
