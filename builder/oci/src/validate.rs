//! Recomputes everything that an image says of itself.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;

use crate::layer::{Limits, TarWriter, Times, decompress, read_tar};
use crate::{
    Blobs, Content, Descriptor, Digest, DigestWriter, Entry, EntryKind, EntrySink, ImageConfig, Index,
    Manifest, TreePath, manifest::canonical_json, media_type,
};

/// What an image is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// The specification: digests, sizes, diffIDs, counts, layers that can be read.
    Specification,
    /// As well as that, the byte rules of [`layer`](crate::layer) and canonical JSON.
    Lithify {
        /// How many of the lowest layers come from elsewhere, and need not follow them.
        foreign_layers: usize,
    },
}

/// Something that is not as it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A blob that is not there.
    #[error("the {what} {digest} is missing")]
    Missing {
        /// What it is.
        what: String,
        /// Its digest.
        digest: Digest,
    },
    /// A blob with another size than its descriptor says.
    #[error("the {what} {digest} has {found} bytes, its descriptor says {expected}")]
    Size {
        /// What it is.
        what: String,
        /// Its digest.
        digest: Digest,
        /// The size in bytes that the descriptor says.
        expected: u64,
        /// The size in bytes that it has.
        found: u64,
    },
    /// A blob with another digest than its descriptor says.
    #[error("the {what} {expected} has the digest {found}")]
    Digest {
        /// What it is.
        what: String,
        /// The digest that the descriptor says.
        expected: Digest,
        /// The digest of its bytes.
        found: Digest,
    },
    /// A layer with another diffID than the configuration says.
    #[error("the {what} has the diffID {found}, the configuration says {expected}")]
    DiffId {
        /// Which layer.
        what: String,
        /// The diffID that the configuration says.
        expected: Digest,
        /// The digest of the uncompressed layer.
        found: Digest,
    },
    /// Anything else, in words.
    #[error("the {what} is invalid: {problem}")]
    Invalid {
        /// What it is.
        what: String,
        /// What is wrong.
        problem: String,
    },
}

/// Checks the image, or the index and all images in it, that `root` names. An empty list means that all is well.
///
/// # Errors
/// Failures to read blobs, other than that they are missing or damaged.
pub fn image(blobs: &dyn Blobs, root: &Descriptor, rules: Rules) -> io::Result<Vec<Problem>> {
    let mut check = Check { blobs, rules, problems: vec![] };
    check.root(root)?;
    Ok(check.problems)
}

struct Check<'a> {
    blobs: &'a dyn Blobs,
    rules: Rules,
    problems: Vec<Problem>,
}

/// No document of an image is longer; registries allow 4 MiB for a manifest.
const MAX_DOCUMENT: u64 = 16 << 20;

impl Check<'_> {
    fn root(&mut self, root: &Descriptor) -> io::Result<()> {
        match root.media_type.as_str() {
            media_type::INDEX | media_type::DOCKER_INDEX => {
                let Some(index) = self.document::<Index>("index", root)? else { return Ok(()) };
                index.manifests.iter().try_for_each(|manifest| self.root(manifest))
            }
            _ => self.manifest(root),
        }
    }

    fn manifest(&mut self, descriptor: &Descriptor) -> io::Result<()> {
        let Some(manifest) = self.document::<Manifest>("manifest", descriptor)? else { return Ok(()) };
        if manifest.schema_version != 2 {
            self.invalid("manifest", format!("its schema version is {}, not 2", manifest.schema_version));
        }
        let config = self.document::<ImageConfig>("configuration", &manifest.config)?;
        let diff_ids = config.map(|config| self.config(&config)).unwrap_or_default();
        if diff_ids.len() != manifest.layers.len() {
            let (listed, there) = (diff_ids.len(), manifest.layers.len());
            self.invalid("configuration", format!("it lists {listed} layers, the manifest {there}"));
        }
        for (number, layer) in manifest.layers.iter().enumerate() {
            self.layer(number, layer, diff_ids.get(number))?;
        }
        Ok(())
    }

    fn config(&mut self, config: &ImageConfig) -> Vec<Digest> {
        let diff_ids = &config.rootfs.diff_ids;
        let making = config.history.iter().filter(|step| !step.empty_layer).count();
        if !config.history.is_empty() && making != diff_ids.len() {
            let problem = format!("its history tells of {making} layers, it lists {}", diff_ids.len());
            self.invalid("configuration", problem);
        }
        for (name, value) in [("architecture", &config.architecture), ("os", &config.os)] {
            if value.is_empty() {
                self.invalid("configuration", format!("its {name} is empty"));
            }
        }
        diff_ids.clone()
    }

    fn invalid(&mut self, what: &str, problem: impl Into<String>) {
        self.problems.push(Problem::Invalid { what: what.into(), problem: problem.into() });
    }

    fn open(&mut self, what: &str, descriptor: &Descriptor) -> io::Result<Option<Box<dyn Read + Send>>> {
        match self.blobs.open(&descriptor.digest) {
            Ok(reader) => Ok(Some(reader)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.problems.push(Problem::Missing { what: what.into(), digest: descriptor.digest });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn compare(&mut self, what: &str, descriptor: &Descriptor, found: Digest, size_bytes: u64) {
        let expected = descriptor.digest;
        if size_bytes != descriptor.size_bytes {
            let (stated, what) = (descriptor.size_bytes, what.into());
            self.problems.push(Problem::Size { what, digest: expected, expected: stated, found: size_bytes });
        }
        if found != expected {
            self.problems.push(Problem::Digest { what: what.into(), expected, found });
        }
    }

    fn document<T: DeserializeOwned>(
        &mut self,
        what: &str,
        descriptor: &Descriptor,
    ) -> io::Result<Option<T>> {
        let Some(reader) = self.open(what, descriptor)? else { return Ok(None) };
        let mut bytes = vec![];
        reader.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
        self.compare(what, descriptor, Digest::of(&bytes), bytes.len() as u64);
        let value: serde_json::Value = match serde_json::from_slice(&bytes) {
            Ok(value) => value,
            Err(error) => {
                self.invalid(what, error.to_string());
                return Ok(None);
            }
        };
        if self.rules != Rules::Specification && canonical_json(&value) != bytes {
            self.invalid(what, "it is not canonical JSON");
        }
        match serde_json::from_value(value) {
            Ok(document) => Ok(Some(document)),
            Err(error) => {
                self.invalid(what, error.to_string());
                Ok(None)
            }
        }
    }

    fn layer(&mut self, number: usize, descriptor: &Descriptor, diff_id: Option<&Digest>) -> io::Result<()> {
        let what = format!("layer {number}");
        let Some(blob) = self.open(&what, descriptor)? else { return Ok(()) };
        let mut blob = Hashing::new(blob);
        let read = decompress(&mut blob).and_then(|plain| {
            let mut plain = Hashing::new(plain);
            let ours = matches!(self.rules, Rules::Lithify { foreign_layers } if number >= foreign_layers);
            let problem = if ours { own_layer(&mut plain) } else { foreign_layer(&mut plain) };
            // What follows a problem still counts for the digest.
            io::copy(&mut plain, &mut io::sink())?;
            Ok((plain.finish().0, problem))
        });
        match read {
            Err(error) => self.invalid(&what, error.to_string()),
            Ok((found, problem)) => {
                if let Some(expected) = diff_id.copied().filter(|expected| *expected != found) {
                    self.problems.push(Problem::DiffId { what: what.clone(), expected, found });
                }
                match problem {
                    Err(error) => self.invalid(&what, error.to_string()),
                    Ok(Some(rewritten)) if rewritten != found => {
                        self.invalid(&what, "its headers are not written as they should be");
                    }
                    Ok(_) => {}
                }
            }
        }
        io::copy(&mut blob, &mut io::sink())?;
        let (found, size_bytes) = blob.finish();
        self.compare(&what, descriptor, found, size_bytes);
        Ok(())
    }
}

/// Reads a layer from elsewhere; nothing to compare with.
fn foreign_layer(plain: &mut dyn Read) -> io::Result<Option<Digest>> {
    struct Nobody;
    impl EntrySink for Nobody {
        fn entry(&mut self, _: &Entry, _: &mut dyn Content) -> io::Result<()> {
            Ok(())
        }
    }
    read_tar(plain, &mut Nobody, Limits::default()).map(|()| None)
}

/// Reads one of our layers and writes it again: the digest of what must come out the same.
fn own_layer(plain: &mut dyn Read) -> io::Result<Option<Digest>> {
    let writer = TarWriter::new(DigestWriter::new(io::sink()), Times::Preserve);
    let mut rewrite = Rewrite { writer, folders: HashSet::new(), files: HashSet::new() };
    read_tar(plain, &mut rewrite, Limits::default())?;
    let (_, digest, _) = rewrite.writer.finish()?.finish();
    Ok(Some(digest))
}

struct Rewrite {
    writer: TarWriter<DigestWriter<io::Sink>>,
    folders: HashSet<TreePath>,
    files: HashSet<TreePath>,
}

impl EntrySink for Rewrite {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let path = &entry.path;
        let wrong =
            |problem: &str| Err(io::Error::new(io::ErrorKind::InvalidData, format!("{path} {problem}")));
        if !path.parent().is_none_or(|parent| parent.is_root() || self.folders.contains(&parent)) {
            return wrong("comes without the folder that it is in");
        }
        match &entry.kind {
            EntryKind::Directory => drop(self.folders.insert(path.clone())),
            EntryKind::HardLink { target } if !self.files.contains(target) => {
                return wrong("is a hard link to a file that did not come before it");
            }
            EntryKind::Whiteout | EntryKind::Opaque | EntryKind::HardLink { .. } => {}
            _ => drop(self.files.insert(path.clone())),
        }
        self.writer.entry(entry, content)
    }
}

/// Hashes and counts what is read through it.
struct Hashing<R> {
    inner: R,
    hash: DigestWriter<io::Sink>,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Hashing { inner, hash: DigestWriter::new(io::sink()) }
    }

    fn finish(self) -> (Digest, u64) {
        let (_, digest, size_bytes) = self.hash.finish();
        (digest, size_bytes)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.write_all(&buffer[..got])?;
        Ok(got)
    }
}

#[cfg(test)]
mod tests;
