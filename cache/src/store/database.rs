//! The database: opening, schema, transactions.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lithify_oci::Digest;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// The schema that this program writes, kept in `user_version`. A change appends a migration and raises it.
pub(super) const SCHEMA: u32 = 2;

/// How long a writer waits for another process. Transactions are short; whoever holds the lock longer is stuck.
const BUSY: Duration = Duration::from_secs(30);

/// Pages in the write-ahead log after which it is written back, which is the only time that SQLite syncs. Small,
/// since the first process that opens a database reads the whole log.
const LOG_PAGES: u32 = 200;

/// `MIGRATIONS[n]` takes schema n to n + 1.
const MIGRATIONS: [&str; SCHEMA as usize] = [include_str!("schema-1.sql"), include_str!("schema-2.sql")];

/// The connection of this process.
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
}

impl Database {
    /// Opens a database that is there and has today's schema; `None` where there is none or an older one.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Error> {
        let connection = match connect(path, OpenFlags::empty()) {
            Ok(connection) => connection,
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen) => {
                return match path.try_exists() {
                    Ok(false) => Ok(None),
                    Ok(true) => {
                        let opened = File::options().read(true).write(true).open(path);
                        opened.map_err(Error::at(path))?;
                        Err(Error::database(path, error))
                    }
                    Err(error) => Err(Error::at(path)(error)),
                };
            }
            Err(error) => return Err(Error::database(path, error)),
        };
        let database = Database { connection, path: path.to_owned() };
        Ok((database.version()? == SCHEMA).then_some(database))
    }

    /// Makes the database, or migrates an older one; one process at a time.
    pub(super) fn create(path: &Path, lock: &Path) -> Result<Self, Error> {
        let file = File::options().create(true).append(true).open(lock).map_err(Error::at(lock))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|errno| Error::at(lock)(errno.into()))?;
        let failed = |error| Error::database(path, error);
        let connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE).map_err(failed)?;
        let mut database = Database { connection, path: path.to_owned() };
        database.connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        let from = database.version()?;
        database.write(|transaction| {
            for migration in &MIGRATIONS[from as usize..] {
                transaction.execute_batch(migration)?;
            }
            transaction.pragma_update(None, "user_version", SCHEMA)
        })?;
        Ok(database)
    }

    /// The schema's version.
    fn version(&self) -> Result<u32, Error> {
        let read = self.connection.query_row("PRAGMA user_version", (), |row| row.get(0));
        let found: u32 = read.map_err(|error| self.failed(error))?;
        if found > SCHEMA {
            return Err(Error::NewerSchema { path: self.path.clone(), found, supported: SCHEMA });
        }
        Ok(found)
    }

    /// For reading.
    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        query(&self.connection).map_err(|error| self.failed(error))
    }

    /// For writing: all of it or nothing, one process at a time.
    pub(super) fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let path = self.path.clone();
        self.write_or(|transaction| work(transaction).map_err(|error| Error::database(&path, error)))
    }

    /// As [`Database::write`], for work that can also fail by itself; then nothing is written.
    pub(super) fn write_or<T>(
        &mut self,
        work: impl FnOnce(&Transaction) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let path = &self.path;
        let failed = |error| Error::database(path, error);
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(failed)?;
        // Dropping a transaction rolls it back.
        let result = work(&transaction)?;
        transaction.commit().map_err(failed)?;
        Ok(result)
    }

    /// Tells what a failure of SQLite means here.
    pub(super) fn failed(&self, error: rusqlite::Error) -> Error {
        Error::database(&self.path, error)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn connect(path: &Path, create: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    // Otherwise the last process to leave writes the log back and syncs, at the end of every build.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(&format!(
        "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = {LOG_PAGES}; PRAGMA foreign_keys = OFF;"
    ))?;
    Ok(connection)
}

/// A column that holds a digest.
pub(super) fn digest_at(row: &rusqlite::Row, column: usize) -> rusqlite::Result<Digest> {
    row.get(column).map(Digest::from_bytes)
}

/// A column that holds a digest or NULL.
pub(super) fn maybe_digest_at(row: &rusqlite::Row, column: usize) -> rusqlite::Result<Option<Digest>> {
    Ok(row.get::<_, Option<[u8; 32]>>(column)?.map(Digest::from_bytes))
}

/// A column that holds a size in bytes; SQLite's numbers are signed.
pub(super) fn size_at(row: &rusqlite::Row, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(i64::cast_unsigned)
}
