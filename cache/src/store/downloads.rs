//! What URLs held when they were last asked, so that a file that is still the same is not sent again.

use std::time::SystemTime;

use lithify_oci::Digest;
use rusqlite::OptionalExtension;

use super::database::{digest_at, size_at};
use super::{Store, nanoseconds};
use crate::Error;

/// A file that was downloaded. Its blob need not be here any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The digest of its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The `ETag` that came with it.
    pub etag: Option<String>,
    /// The `Last-Modified` that came with it.
    pub last_modified: Option<String>,
    /// The same in seconds since 1970.
    pub modified_unix_seconds: Option<u64>,
    /// What the server called it.
    pub file_name: String,
}

impl Store {
    /// What a URL held when it was last asked.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn download(&self, url: &str) -> Result<Option<Download>, Error> {
        let found = self.access()?.read(|connection| {
            let sql = "SELECT digest, size_bytes, etag, last_modified, modified, file_name FROM downloads WHERE url = ?1";
            let mut query = connection.prepare_cached(sql)?;
            let read = |row: &rusqlite::Row<'_>| {
                Ok(Download {
                    digest: digest_at(row, 0)?,
                    size_bytes: size_at(row, 1)?,
                    etag: row.get(2)?,
                    last_modified: row.get(3)?,
                    modified_unix_seconds: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
                    file_name: row.get(5)?,
                })
            };
            query.query_row([Digest::of(url).as_bytes()], read).optional()
        })?;
        if let Some(download) = &found {
            self.note(&download.digest)?;
        }
        Ok(found)
    }

    /// Remembers what a URL holds.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn remember_download(&self, url: &str, download: &Download) -> Result<(), Error> {
        self.note(&download.digest)?;
        let Download { digest, size_bytes, etag, last_modified, modified_unix_seconds, file_name } = download;
        let now = nanoseconds(SystemTime::now());
        self.access()?.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO downloads VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
            transaction
                .execute(
                    sql,
                    (
                        Digest::of(url).as_bytes(),
                        digest.as_bytes(),
                        size_bytes.cast_signed(),
                        etag,
                        last_modified,
                        modified_unix_seconds.map(u64::cast_signed),
                        file_name,
                        now,
                    ),
                )
                .map(drop)
        })
    }

    /// The commit that a git reference stood for when it was last asked; `url` says repository and reference.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn commit(&self, url: &str) -> Result<Option<String>, Error> {
        Ok(self.download(&commit_name(url))?.and_then(|known| known.etag))
    }

    /// Remembers what a git reference stands for.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn remember_commit(&self, url: &str, commit: &str) -> Result<(), Error> {
        if self.commit(url)?.as_deref() == Some(commit) {
            return Ok(());
        }
        // Kept like a download of nothing, whose version is the commit.
        let download = Download {
            digest: Digest::of(""),
            size_bytes: 0,
            etag: Some(commit.to_owned()),
            last_modified: None,
            modified_unix_seconds: None,
            file_name: String::new(),
        };
        self.remember_download(&commit_name(url), &download)
    }
}

/// No URL begins like this.
fn commit_name(url: &str) -> String {
    format!("commit of {url}")
}
