//! Reading an image from an OCI archive or layout.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::tar::{TarReader, decoded};

/// One image: its manifest and configuration, and where its layers are.
#[derive(Debug)]
pub struct Image {
    /// The digest of the manifest, recomputed from its bytes.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The configuration.
    pub config: Value,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    place: Place,
}

/// A layer as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the blob.
    pub digest: String,
    /// The media type.
    pub media_type: String,
    /// The blob's size in bytes.
    pub size_bytes: u64,
}

#[derive(Debug)]
enum Place {
    /// An uncompressed tar file, with where in it each member's content is.
    Archive {
        path: PathBuf,
        members: BTreeMap<String, (u64, u64)>,
    },
    Layout(PathBuf),
}

impl Image {
    /// The first image of an OCI archive (a tar file of an OCI layout).
    ///
    /// # Errors
    /// When the file is no such archive, or a blob does not have the digest that it is named by.
    pub fn from_archive(path: &Path) -> io::Result<Self> {
        let mut archive = TarReader::new(BufReader::new(File::open(path)?));
        let mut members = BTreeMap::new();
        while let Some(member) = archive.next_member()? {
            if member.is_file() {
                members.insert(member.path(), (archive.position(), member.size_bytes));
            }
        }
        Self::open(Place::Archive { path: path.to_owned(), members })
    }

    /// The first image of an OCI layout.
    ///
    /// # Errors
    /// As for [`Self::from_archive`].
    pub fn from_layout(path: &Path) -> io::Result<Self> {
        Self::open(Place::Layout(path.to_owned()))
    }

    fn open(place: Place) -> io::Result<Self> {
        let mut manifest = json(&place.read("/index.json")?)?;
        let mut digest = String::new();
        while let Some(all) = manifest["manifests"].as_array() {
            let wanted = all.iter().find(|one| one["platform"]["os"] != "unknown");
            digest = text(&wanted.ok_or_else(|| bad("an index without images".into()))?["digest"])?;
            manifest = json(&place.blob_bytes(&digest)?)?;
        }
        let config = json(&place.blob_bytes(&text(&manifest["config"]["digest"])?)?)?;
        let mut layers = Vec::new();
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            layers.push(Layer {
                digest: text(&layer["digest"])?,
                media_type: text(&layer["mediaType"])?,
                size_bytes: layer["size"].as_u64().ok_or_else(|| bad("a layer without size".into()))?,
            });
        }
        Ok(Self { digest, manifest, config, layers, place })
    }

    /// The layers' diffIDs as the configuration lists them.
    pub fn diff_ids(&self) -> Vec<String> {
        let ids = self.config["rootfs"]["diff_ids"].as_array();
        ids.into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect()
    }

    /// A blob's bytes as a stream.
    ///
    /// # Errors
    /// When the image does not hold it.
    pub fn blob(&self, digest: &str) -> io::Result<Box<dyn Read>> {
        self.place.open(&blob_path(digest)).map(|(reader, _)| reader)
    }

    /// A layer's tar members.
    ///
    /// # Errors
    /// When the blob is missing or its codec does not start.
    pub fn tar(&self, layer: &Layer) -> io::Result<TarReader<Box<dyn Read>>> {
        Ok(TarReader::new(decoded(self.blob(&layer.digest)?)?))
    }

    /// The content of a file of the image, the topmost layer that has it deciding; `None` when there is none.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn file(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        for layer in self.layers.iter().rev() {
            let mut tar = self.tar(layer)?;
            while let Some(member) = tar.next_member()? {
                if member.path() == path && member.is_file() {
                    let mut bytes = Vec::new();
                    tar.read_to_end(&mut bytes)?;
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(None)
    }

    /// Recomputes every digest, size and diffID.
    ///
    /// # Errors
    /// With the first thing that does not hold.
    pub fn validate(&self) -> io::Result<()> {
        let ids = self.diff_ids();
        if ids.len() != self.layers.len() {
            return Err(bad(format!("{} layers but {} diffIDs", self.layers.len(), ids.len())));
        }
        for (layer, id) in self.layers.iter().zip(ids) {
            let (digest, size) = sha256(&mut self.blob(&layer.digest)?)?;
            if (digest.as_str(), size) != (layer.digest.as_str(), layer.size_bytes) {
                return Err(bad(format!("layer {} is {digest} with {size} bytes", layer.digest)));
            }
            let (diff_id, _) = sha256(&mut decoded(self.blob(&layer.digest)?)?)?;
            if diff_id != id {
                return Err(bad(format!("layer {digest} has diffID {diff_id}, the configuration says {id}")));
            }
        }
        Ok(())
    }
}

impl Place {
    fn open(&self, path: &str) -> io::Result<(Box<dyn Read>, u64)> {
        match self {
            Self::Archive { path: archive, members } => {
                let missing =
                    || io::Error::new(io::ErrorKind::NotFound, format!("{path} is not in the archive"));
                let (offset, size) = *members.get(path).ok_or_else(missing)?;
                let mut file = File::open(archive)?;
                file.seek(SeekFrom::Start(offset))?;
                Ok((Box::new(file.take(size)), size))
            }
            Self::Layout(folder) => {
                let path = folder.join(path.trim_start_matches('/'));
                let file = File::open(&path)
                    .map_err(|err| io::Error::new(err.kind(), format!("{}: {err}", path.display())))?;
                let size = file.metadata()?.len();
                Ok((Box::new(file), size))
            }
        }
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(path)?.0.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A small blob, whole and verified.
    fn blob_bytes(&self, digest: &str) -> io::Result<Vec<u8>> {
        let bytes = self.read(&blob_path(digest))?;
        let (found, _) = sha256(&mut bytes.as_slice())?;
        if found == digest { Ok(bytes) } else { Err(bad(format!("blob {digest} is {found}"))) }
    }
}

/// The digest (`sha256:…`) and length in bytes of a stream.
pub(crate) fn sha256(reader: &mut dyn Read) -> io::Result<(String, u64)> {
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 64 << 10]);
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            count => {
                hash.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((format!("sha256:{hex}"), length))
}

fn blob_path(digest: &str) -> String {
    format!("/blobs/{}", digest.replace(':', "/"))
}

fn json(bytes: &[u8]) -> io::Result<Value> {
    serde_json::from_slice(bytes).map_err(io::Error::from)
}

fn text(value: &Value) -> io::Result<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| bad(format!("expected text, found {value}")))
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
