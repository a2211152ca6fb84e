//! Cache records: what a step with a certain key resulted in.

use std::time::SystemTime;

use lithify_oci::Digest;
use rusqlite::{OptionalExtension, Row};

use super::database::{digest_at, maybe_digest_at};
use super::{Store, moment, nanoseconds};
use crate::key::explanation::nearest;
use crate::{Error, Explanation, Key};

/// How many earlier runs of a step an explanation compares with.
const COMPARED: u32 = 16;

/// Marks of use are not renewed more often, so that most builds write none.
const MARK_NS: i64 = 60_000_000_000;

/// The result of a step: the difference that it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The diffID of the layer; `None` where the step changed nothing.
    pub layer: Option<Digest>,
    /// The blob with the real times of the layer's files, which the layer itself does not tell.
    pub catalogue: Option<Digest>,
    /// When the step finished.
    pub finished: SystemTime,
}

impl Store {
    /// The result of the step with this key, where all that it names is here: a blob of the layer and the catalogue; or
    /// else where a remote cache has it.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn lookup(&self, key: &Key) -> Result<Option<Record>, Error> {
        let found = match self.lookup_here(key)? {
            Some(record) => Some(record),
            None => self.lookup_upstream(key)?,
        };
        if let Some(record) = &found {
            self.answered(key, record.layer, false);
        }
        Ok(found)
    }

    fn lookup_here(&self, key: &Key) -> Result<Option<Record>, Error> {
        let access = self.access()?;
        let found = access.read(|connection| {
            let sql = "SELECT layer, catalogue, finished FROM records WHERE key = ?1";
            connection.prepare_cached(sql)?.query_row([key.digest().as_bytes()], record_at).optional()
        })?;
        let Some(record) = found else { return Ok(None) };
        let blobs = match &record.layer {
            Some(layer) => access.read(|connection| super::layers::blobs_of(connection, layer))?,
            None => vec![],
        };
        for digest in [Some(*key.digest()), record.layer, record.catalogue].iter().flatten().chain(&blobs) {
            self.note(digest)?;
        }
        drop(access);
        // In short transactions of their own: what is noted stays.
        let whole = |digest: &Digest| Ok::<_, Error>(self.trusted(digest)?.is_some());
        if let Some(catalogue) = &record.catalogue
            && !whole(catalogue)?
        {
            return Ok(None);
        }
        if record.layer.is_none() {
            return Ok(Some(record));
        }
        for blob in &blobs {
            if whole(blob)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Keeps the result of a step that succeeded. A record that is there already is replaced.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn record(&self, key: &Key, record: &Record, why: &Explanation) -> Result<(), Error> {
        [Some(*key.digest()), record.layer, record.catalogue]
            .iter()
            .flatten()
            .try_for_each(|d| self.note(d))?;
        let parts = why.to_json();
        let now = nanoseconds(SystemTime::now());
        let bytes = |digest: &Option<Digest>| digest.map(|digest| *digest.as_bytes());
        self.access()?.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO records (key, step, layer, catalogue, finished, last_used, why)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let values = (
                key.digest().as_bytes(),
                &why.step,
                bytes(&record.layer),
                bytes(&record.catalogue),
                nanoseconds(record.finished),
                now,
                parts,
            );
            transaction.prepare_cached(sql)?.execute(values).map(drop)
        })?;
        self.answered(key, record.layer, true);
        Ok(())
    }

    /// When the step with this key finished, and what the key was made of.
    ///
    /// # Errors
    /// A failure to read the store.
    pub(crate) fn explanation(&self, key: &Key) -> Result<Option<(SystemTime, Explanation)>, Error> {
        let access = self.access()?;
        let found = access.read(|connection| {
            let sql = "SELECT finished, step, why FROM records WHERE key = ?1";
            let row = |row: &Row| Ok((moment(row.get(0)?), row.get(1)?, row.get(2)?));
            connection.prepare_cached(sql)?.query_row([key.digest().as_bytes()], row).optional()
        })?;
        let invalid =
            |source| Error::InvalidRow { path: access.path().to_owned(), what: "explanation", source };
        let found: Option<(SystemTime, String, String)> = found;
        let parsed = found.map(|(finished, step, why)| {
            Ok((finished, Explanation::from_json(&step, &why).map_err(invalid)?))
        });
        parsed.transpose()
    }

    /// Forgets a record, for one whose content turned out to be unusable.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn forget(&self, key: &Key) -> Result<(), Error> {
        self.access()?.write(|transaction| {
            transaction.execute("DELETE FROM records WHERE key = ?1", [key.digest().as_bytes()]).map(drop)
        })
    }

    /// Why a step with these parts was not found, in a few words: what is different from the most similar of the
    /// last runs of the same step. `None` where the step never ran before.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn explain(&self, step_identity: &str, new: &Explanation) -> Result<Option<String>, Error> {
        let earlier = self.history(step_identity)?;
        Ok(nearest(new, &earlier).map(|(_, difference)| difference.summary()))
    }

    /// What the last runs of a step depended on, the latest first.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn history(&self, step_identity: &str) -> Result<Vec<Explanation>, Error> {
        let access = self.access()?;
        let texts = access.read(|connection| {
            let sql = "SELECT why FROM records WHERE step = ?1 ORDER BY finished DESC LIMIT ?2";
            let mut query = connection.prepare_cached(sql)?;
            query
                .query_map((step_identity, COMPARED), |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<String>>>()
        })?;
        let invalid =
            |source| Error::InvalidRow { path: access.path().to_owned(), what: "explanation", source };
        texts.iter().map(|text| Explanation::from_json(step_identity, text).map_err(invalid)).collect()
    }

    /// Notes in the database that what this handle used was used now; to be called once, at the end of a build.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn mark_used(&self) -> Result<(), Error> {
        let now = nanoseconds(SystemTime::now());
        let used = self.0.session.used();
        let mut access = self.access()?;
        let old = access.read(|connection| {
            let mut query = connection.prepare("SELECT 1 FROM records WHERE key = ?1 AND last_used < ?2")?;
            let mut old = vec![];
            for digest in &used {
                if query.exists((digest.as_bytes(), now - MARK_NS))? {
                    old.push(*digest);
                }
            }
            Ok(old)
        })?;
        if old.is_empty() {
            return Ok(());
        }
        access.write(|transaction| {
            let mut update = transaction.prepare("UPDATE records SET last_used = ?2 WHERE key = ?1")?;
            old.iter().try_for_each(|digest| update.execute((digest.as_bytes(), now)).map(drop))
        })
    }
}

fn record_at(row: &Row) -> rusqlite::Result<Record> {
    let layer = maybe_digest_at(row, 0)?;
    Ok(Record { layer, catalogue: maybe_digest_at(row, 1)?, finished: moment(row.get(2)?) })
}

/// The keys and last uses of all records, the least recently used first.
pub(super) fn by_last_use(connection: &rusqlite::Connection) -> rusqlite::Result<Vec<(Digest, SystemTime)>> {
    let mut query = connection.prepare("SELECT key, last_used FROM records ORDER BY last_used")?;
    query.query_map((), |row| Ok((digest_at(row, 0)?, moment(row.get(1)?))))?.collect()
}
