//! Cache records: what a step with a certain key resulted in.

use std::time::SystemTime;

use lithify_oci::Digest;
use rusqlite::{OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use super::database::{digest_at, maybe_digest_at};
use super::{Store, moment, nanoseconds};
use crate::key::Difference;
use crate::key::explanation::nearest;
use crate::{Error, Explanation, Key};

/// How many earlier runs of a step an explanation compares with.
const COMPARED: u32 = 64;

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

    /// Forgets a record, for one whose content turned out to be unusable.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn forget(&self, key: &Key) -> Result<(), Error> {
        self.access()?.write(|transaction| {
            transaction.execute("DELETE FROM records WHERE key = ?1", [key.digest().as_bytes()]).map(drop)
        })
    }

    /// The last runs of a step, the latest first, to compare new ones with.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn history(&self, step_identity: &str) -> Result<Vec<Past>, Error> {
        let access = self.access()?;
        let rows = access.read(|connection| {
            let sql =
                "SELECT key, finished, why FROM records WHERE step = ?1 ORDER BY finished DESC LIMIT ?2";
            let mut query = connection.prepare_cached(sql)?;
            let row = |row: &Row| Ok((digest_at(row, 0)?, moment(row.get(1)?), row.get(2)?));
            query.query_map((step_identity, COMPARED), row)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let rows: Vec<(Digest, SystemTime, String)> = rows;
        let past = |(key, finished, text): (Digest, SystemTime, String)| {
            let explanation = explanation(&access, step_identity, &text)?;
            Ok(Past { key: Key::from_digest(key), finished, explanation })
        };
        rows.into_iter().map(past).collect()
    }

    /// What the step with this key depended on, and when it finished; `None` where there is no such record any more.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn explanation(&self, key: &Key) -> Result<Option<(Explanation, SystemTime)>, Error> {
        let access = self.access()?;
        let row = access.read(|connection| {
            let sql = "SELECT step, why, finished FROM records WHERE key = ?1";
            let row = |row: &Row| Ok((row.get(0)?, row.get(1)?, moment(row.get(2)?)));
            connection.prepare_cached(sql)?.query_row([key.digest().as_bytes()], row).optional()
        })?;
        let Some((step, text, finished)): Option<(String, String, _)> = row else { return Ok(None) };
        Ok(Some((explanation(&access, &step, &text)?, finished)))
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

/// An earlier run of a step.
#[derive(Clone, Debug)]
pub struct Past {
    key: Key,
    finished: SystemTime,
    explanation: Explanation,
}

/// Why a step's result was not in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missed {
    /// No step of this stage with this instruction is known.
    First,
    /// It was not looked for (`--no-cache`).
    NotAsked,
    /// The same step is known, but what it made is gone or damaged.
    Lost {
        /// When it finished.
        finished: SystemTime,
    },
    /// It differs from all earlier ones; least from this.
    Differs {
        /// Which.
        against: Key,
        /// When that one finished.
        finished: SystemTime,
        /// How.
        difference: Difference,
    },
}

impl Missed {
    /// Why a step with this key and these parts was not found, where it ran before like this: against the most similar run.
    pub fn explain(key: &Key, new: &Explanation, earlier: &[Past]) -> Missed {
        if let Some(same) = earlier.iter().find(|past| past.key == *key) {
            return Missed::Lost { finished: same.finished };
        }
        match nearest(new, earlier, |past| &past.explanation) {
            None => Missed::First,
            Some((past, difference)) => Missed::Differs {
                against: past.key,
                finished: past.finished,
                difference: difference.bounded(),
            },
        }
    }

    /// In a few words; `None` where there is nothing to compare with.
    pub fn summary(&self) -> Option<String> {
        match self {
            Missed::First | Missed::NotAsked => None,
            Missed::Lost { .. } => Some("its earlier result is gone from the store".to_owned()),
            Missed::Differs { difference, .. } => Some(difference.summary()),
        }
    }
}

fn explanation(access: &super::Database, step: &str, text: &str) -> Result<Explanation, Error> {
    let invalid = |source| Error::InvalidRow { path: access.path().to_owned(), what: "explanation", source };
    Explanation::from_json(step, text).map_err(invalid)
}

fn record_at(row: &Row) -> rusqlite::Result<Record> {
    let layer = maybe_digest_at(row, 0)?;
    Ok(Record { layer, catalogue: maybe_digest_at(row, 1)?, finished: moment(row.get(2)?) })
}
