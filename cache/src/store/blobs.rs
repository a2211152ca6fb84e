//! Blobs: files named by the digest of what is in them.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::PoisonError;

use lithify_oci::{Blobs, Digest, DigestWriter, NewBlob};
use rusqlite::OptionalExtension;
use rustix::fs::ioctl_ficlone;
use tempfile::TempPath;

use super::database::size_at;
use super::{Guard, Store};
use crate::Error;

impl Store {
    /// Opens a blob for reading. One that another boot of the machine wrote is hashed first; one of a layer that a remote
    /// cache answered with is fetched.
    ///
    /// # Errors
    /// `NotFound` where it is not here, which includes one that turned out to be damaged and was removed.
    pub fn open_blob(&self, digest: &Digest) -> io::Result<File> {
        self.note(digest)?;
        if self.trusted(digest)?.is_none() && !self.fetch(digest)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        File::open(self.blob_path(digest))
    }

    /// The size in bytes of a blob that is here and can be relied upon.
    ///
    /// # Errors
    /// A failure to look.
    pub fn blob_size_bytes(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        self.note(digest)?;
        self.trusted(digest)
    }

    /// Starts a new file that will become a blob. Nothing of it can be seen until it is committed.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn create_file(&self) -> Result<NewFile, Error> {
        let (file, path) = self.0.unfinished.create()?;
        Ok(NewFile { store: self.clone(), file, path })
    }

    /// Takes a file of someone else as a blob: shares its blocks where the file system can, else copies it. Never by
    /// a hard link, since its owner could still write to it.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where the file is not what `digest` and `size_bytes` say, and failures to read and write.
    pub fn adopt_blob(&self, path: &Path, digest: &Digest, size_bytes: u64) -> Result<(), Error> {
        self.note(digest)?;
        if self.trusted(digest)? == Some(size_bytes) {
            return Ok(());
        }
        let mut source = File::open(path).map_err(Error::at(path))?;
        let mut new = self.create_file()?;
        let (found, found_bytes) = if ioctl_ficlone(&new.file, &source).is_ok() {
            let hashed = new.file.rewind().and_then(|()| hash(&mut new.file));
            hashed.map_err(Error::at(&new.path))?
        } else {
            let mut writer = DigestWriter::new(&mut new.file);
            io::copy(&mut source, &mut writer).map_err(Error::at(&new.path))?;
            let (_, digest, size_bytes) = writer.finish();
            (digest, size_bytes)
        };
        if (found, found_bytes) != (*digest, size_bytes) {
            return Err(Error::Mismatch {
                path: path.to_owned(),
                expected: *digest,
                expected_bytes: size_bytes,
                found,
                found_bytes,
            });
        }
        new.place(*digest, size_bytes)
    }

    /// Notes that something is in use, so that prune leaves it alone while this handle lives.
    pub(super) fn note(&self, digest: &Digest) -> Result<(), Error> {
        self.0.session.note(digest)
    }

    /// The size of a blob that is here and whole.
    pub(super) fn trusted(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let size_bytes = self.remembered(digest);
        if size_bytes.is_some() {
            return Ok(size_bytes);
        }
        let access = self.access()?;
        self.trusted_with(access, digest)
    }

    /// As [`Store::trusted`], for those who have access already.
    pub(super) fn trusted_with(&self, access: Guard<'_>, digest: &Digest) -> Result<Option<u64>, Error> {
        let path = self.blob_path(digest);
        let size_bytes = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::at(&path)(error)),
        };
        let known = access.read(|connection| {
            let mut query =
                connection.prepare_cached("SELECT size_bytes, boot FROM blobs WHERE digest = ?1")?;
            let row = |row: &rusqlite::Row| Ok((size_at(row, 0)?, row.get(1)?));
            query.query_row([digest.as_bytes()], row).optional()
        })?;
        // Hashing may take long, and others want to work.
        drop(access);
        let known: Option<(u64, Option<[u8; 16]>)> = known;
        match known {
            Some((noted, boot)) if noted == size_bytes && boot.is_none_or(|boot| boot == self.0.boot) => {
                self.remember(digest, size_bytes);
                Ok(Some(size_bytes))
            }
            _ => self.check(digest, &path, known.and_then(|(_, boot)| boot)),
        }
    }

    /// Hashes a blob, and removes it where it is damaged. `written`: the boot that wrote it, where that is known.
    fn check(&self, digest: &Digest, path: &Path, written: Option<[u8; 16]>) -> Result<Option<u64>, Error> {
        let mut file = File::open(path).map_err(Error::at(path))?;
        let (found, size_bytes) = hash(&mut file).map_err(Error::at(path))?;
        if found != *digest {
            fs::remove_file(path).map_err(Error::at(path))?;
            return Ok(None);
        }
        // What an earlier boot wrote was read back from the disk just now: no power cut can take it any more.
        let boot = if written.is_some_and(|boot| boot != self.0.boot) { None } else { Some(self.0.boot) };
        self.note_blob(digest, size_bytes, boot)?;
        Ok(Some(size_bytes))
    }

    fn note_blob(&self, digest: &Digest, size_bytes: u64, boot: Option<[u8; 16]>) -> Result<(), Error> {
        self.access()?.write(|transaction| {
            let mut insert =
                transaction.prepare_cached("INSERT OR REPLACE INTO blobs VALUES (?1, ?2, ?3)")?;
            insert.execute((digest.as_bytes(), size_bytes.cast_signed(), boot))
        })?;
        self.remember(digest, size_bytes);
        Ok(())
    }

    /// Blobs that this process checked: in one process nothing is looked up twice. What is noted stays (prune sees the
    /// note), so this cannot become wrong.
    fn remembered(&self, digest: &Digest) -> Option<u64> {
        self.0.trusted.lock().unwrap_or_else(PoisonError::into_inner).get(digest).copied()
    }

    fn remember(&self, digest: &Digest, size_bytes: u64) {
        self.0.trusted.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest, size_bytes);
    }

    pub(super) fn forget_trust(&self, digest: &Digest) {
        self.0.trusted.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    /// Syncs the whole file system and notes that no power cut can take the blobs of this boot any more, so that the
    /// next boot does not hash them. Takes as long as the disk takes; no build waits for it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn settle(&self) -> Result<(), Error> {
        let folder = self.0.root.join("blobs/sha256");
        // Only what was noted before the sync is surely part of it.
        let noted = self.access()?.read(|connection| {
            let mut query = connection.prepare("SELECT digest FROM blobs WHERE boot = ?1")?;
            query.query_map([self.0.boot], |row| row.get(0))?.collect::<rusqlite::Result<Vec<[u8; 32]>>>()
        })?;
        let opened = File::open(&folder).map_err(Error::at(&folder))?;
        rustix::fs::syncfs(opened).map_err(|errno| Error::at(&folder)(errno.into()))?;
        self.access()?.write(|transaction| {
            let mut update = transaction.prepare("UPDATE blobs SET boot = NULL WHERE digest = ?1")?;
            noted.iter().try_for_each(|digest| update.execute([digest]).map(drop))
        })
    }
}

/// Hashes from the current position to the end: digest and size in bytes.
pub(super) fn hash(file: &mut impl Read) -> io::Result<(Digest, u64)> {
    let mut writer = DigestWriter::new(io::sink());
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => writer.write_all(&buffer[..read])?,
        }
    }
    let (_, digest, size_bytes) = writer.finish();
    Ok((digest, size_bytes))
}

/// A file that will become a blob. Dropped before that, it leaves nothing behind.
pub struct NewFile {
    store: Store,
    file: File,
    path: TempPath,
}

impl NewFile {
    /// The file, open for reading and writing; its descriptor may be handed to another process.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes the file visible as the blob `digest`; the content was written and hashed by us, here or in another
    /// process of ours, so only the size is compared. A blob that is there already stays.
    ///
    /// # Errors
    /// [`Error::WrongSize`], and failures to write.
    pub fn commit_as(self, digest: Digest, size_bytes: u64) -> Result<(), Error> {
        let found_bytes = self.file.metadata().map_err(Error::at(&self.path))?.len();
        if found_bytes != size_bytes {
            return Err(Error::WrongSize { digest, expected_bytes: size_bytes, found_bytes });
        }
        self.place(digest, size_bytes)
    }

    /// Makes the file visible as a file of the store that is no blob.
    pub(crate) fn persist_as(self, target: &Path) -> Result<(), Error> {
        self.path.persist(target).map_err(|failure| Error::at(target)(failure.error))
    }

    fn place(self, digest: Digest, size_bytes: u64) -> Result<(), Error> {
        let NewFile { store, file: _held_until_visible, path } = self;
        // First the note, or prune could take the blob between its appearance and its first use.
        store.note(&digest)?;
        let target = store.blob_path(&digest);
        path.persist(&target).map_err(|failure| Error::at(&target)(failure.error))?;
        store.note_blob(&digest, size_bytes, Some(store.0.boot))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| Error::at(&self.path)(error).into())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Blobs for Store {
    fn size_bytes(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(self.blob_size_bytes(digest)?)
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.open_blob(digest)?))
    }

    fn create(&self) -> io::Result<Box<dyn NewBlob>> {
        Ok(Box::new(Hashed(DigestWriter::new(self.create_file()?))))
    }
}

/// A new blob that is hashed as it is written.
struct Hashed(DigestWriter<NewFile>);

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl NewBlob for Hashed {
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> io::Result<(Digest, u64)> {
        let (new, found, found_bytes) = self.0.finish();
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            let error = format!("the content was to be {expected}, but is {found} ({found_bytes} bytes)");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        new.place(found, found_bytes)?;
        Ok((found, found_bytes))
    }
}
