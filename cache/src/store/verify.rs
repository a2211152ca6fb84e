//! Checking the whole store.

use std::fs::{self, File};

use lithify_oci::Digest;

use super::blobs::hash;
use super::{Store, images, layers};
use crate::Error;

/// Something that is wrong with the store. None of it can end in a wrong image: what is damaged is found when it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A blob is not what its name says.
    DamagedBlob {
        /// Its name.
        digest: Digest,
        /// What it is.
        found: Digest,
    },
    /// An image names a blob that is not here. Layers of pulled images may be missing on purpose, so this tells of
    /// manifests and configurations only.
    MissingBlob {
        /// The image.
        image: String,
        /// The blob.
        digest: Digest,
    },
    /// The database is inconsistent in itself.
    Database {
        /// What SQLite says.
        message: String,
    },
}

impl Store {
    /// Reads every blob, and checks the database and what images name. It repairs nothing: [`Store::repair`] does.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn verify(&self) -> Result<Vec<Problem>, Error> {
        let mut problems = vec![];
        for file in self.blob_files()? {
            let path = self.blob_path(&file.digest);
            let mut opened = match File::open(&path) {
                Ok(opened) => opened,
                // A prune beside this took it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::at(&path)(error)),
            };
            let (found, _) = hash(&mut opened).map_err(Error::at(&path))?;
            if found != file.digest {
                problems.push(Problem::DamagedBlob { digest: file.digest, found });
            }
        }
        problems.extend(self.verify_database()?);
        for image in self.images()? {
            let missing = self.missing_of(&image.manifest.digest)?;
            problems.extend(missing.map(|digest| Problem::MissingBlob { image: image.name, digest }));
        }
        Ok(problems)
    }

    fn verify_database(&self) -> Result<Vec<Problem>, Error> {
        let access = self.access()?;
        let messages = access.read(|connection| {
            let mut query = connection.prepare("PRAGMA integrity_check")?;
            query.query_map((), |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        })?;
        for (_, text, _) in access.read(images::all_images)? {
            layers::descriptor(&access, &text)?;
        }
        let bad = messages.into_iter().filter(|message| message != "ok");
        Ok(bad.map(|message| Problem::Database { message }).collect())
    }

    /// The manifest, or the configuration that it names, where it is not here.
    fn missing_of(&self, manifest: &Digest) -> Result<Option<Digest>, Error> {
        let path = self.blob_path(manifest);
        let Ok(bytes) = fs::read(&path) else { return Ok(Some(*manifest)) };
        // An index has no configuration, and a damaged manifest is reported as a damaged blob.
        let Ok(parsed) = serde_json::from_slice::<lithify_oci::Manifest>(&bytes) else { return Ok(None) };
        Ok(Some(parsed.config.digest).filter(|digest| !self.blob_path(digest).exists()))
    }

    /// Removes the damaged blobs that [`Store::verify`] found, and writes `index.json` anew. What needs them is then
    /// built or pulled again.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn repair(&self, problems: &[Problem]) -> Result<(), Error> {
        let mut access = self.access_alone()?;
        for problem in problems {
            let Problem::DamagedBlob { digest, .. } = problem else { continue };
            let path = self.blob_path(digest);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::at(&path)(error));
                }
                _ => {}
            }
            access.write(|transaction| {
                transaction.execute("DELETE FROM blobs WHERE digest = ?1", [digest.as_bytes()])
            })?;
            self.forget_trust(digest);
        }
        access.write_or(|transaction| self.write_view(transaction))
    }
}
