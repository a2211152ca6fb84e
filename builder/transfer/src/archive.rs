//! Images as archives and folders: OCI image layouts, and what `docker load` reads.
//!
//! The same image gives the same bytes: members are sorted, times are zero, owners are 0. Everything here blocks.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use lithify_oci::manifest::canonical_json;
use lithify_oci::{
    Blobs, Descriptor, Digest, DigestWriter, ImageConfig, Index, Manifest, Reference, media_type,
};

use crate::blob;
use crate::image::{Contents, Image, is_foreign};
use crate::layout::{IMAGE_NAME, OCI_LAYOUT, REF_NAME};
use crate::{Error, Progress};

/// One file to be written.
enum Member<'a> {
    Folder,
    Bytes(Vec<u8>),
    Blob(&'a Descriptor),
}

type Members<'a> = BTreeMap<String, Member<'a>>;

/// Writes an OCI image layout as a tar archive (`type=oci`). Each of `names` is an entry in `index.json`, annotated as
/// BuildKit does; without names, or with digests only, there is one entry.
///
/// # Errors
/// [`Error::Output`], [`Error::Store`], and [`Error::DigestMismatch`] for a blob that was damaged in the store.
pub fn write_oci(
    contents: Contents<'_>,
    names: &[Reference],
    blobs: &dyn Blobs,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut members = layout_members(contents);
    members.insert("index.json".into(), Member::Bytes(canonical_json(&index(contents, names, None))));
    write_tar(&members, blobs, out, progress)
}

/// Writes an OCI image layout into a folder, which is made if need be. Other images in it stay; one of the same name is
/// replaced. `index.json` is replaced last and at once, so a reader never sees half an image.
///
/// # Errors
/// [`Error::File`] where the folder cannot be written or holds something else, and as [`write_oci`].
pub fn write_folder(
    contents: Contents<'_>,
    names: &[Reference],
    blobs: &dyn Blobs,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let blob_folder = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blob_folder).map_err(Error::file("make", &blob_folder))?;
    let index_path = folder.join("index.json");
    let before = match std::fs::read(&index_path) {
        Ok(bytes) => {
            let parsed = serde_json::from_slice(&bytes);
            Some(parsed.map_err(|error| Error::malformed(index_path.display().to_string(), error))?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(Error::File { doing: "read", path: index_path, source }),
    };
    for (name, member) in &layout_members(contents) {
        let path = folder.join(name);
        match member {
            Member::Folder => {}
            Member::Blob(descriptor) if is_complete(&path, descriptor) => {
                progress.advance(descriptor.size_bytes)
            }
            Member::Bytes(bytes) => write_file(&path, &mut bytes.as_slice())?,
            Member::Blob(descriptor) => {
                let mut reader = Verified::open(descriptor, blobs, progress)?;
                let file = stage(&path, &mut reader)?;
                reader.finish(descriptor)?;
                reveal(file, &path)?;
            }
        }
    }
    let index = canonical_json(&index(contents, names, before));
    write_file(&index_path, &mut index.as_slice())
}

/// Writes an archive that `docker load` and `podman load` read (`type=docker`): `manifest.json` in front of an OCI image
/// layout. Layers must be plain tars, as `docker save` writes them; [`uncompress`] makes them so.
///
/// # Errors
/// [`Error::Malformed`] for a compressed layer, and as [`write_oci`].
pub fn write_docker(
    image: &Image,
    names: &[Reference],
    blobs: &dyn Blobs,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<(), Error> {
    if let Some(layer) = image.layers.iter().find(|layer| !is_plain(layer)) {
        let what = format!("the layer {}", layer.digest);
        return Err(Error::malformed(
            what,
            format!("{} does not go into a docker archive", layer.media_type),
        ));
    }
    let path = |descriptor: &Descriptor| format!("blobs/sha256/{}", descriptor.digest.hex());
    let manifest = serde_json::json!([{
        "Config": path(&image.config),
        "RepoTags": names.iter().filter_map(repo_tag).collect::<Vec<_>>(),
        "Layers": image.layers.iter().map(path).collect::<Vec<_>>(),
    }]);
    let contents = Contents::Image(image);
    let mut members = layout_members(contents);
    members.insert("index.json".into(), Member::Bytes(canonical_json(&index(contents, names, None))));
    members.insert("manifest.json".into(), Member::Bytes(canonical_json(&manifest)));
    write_tar(&members, blobs, out, progress)
}

/// The same image with its layers as plain tars, which are put into the store: their digests are the diffIDs, which
/// verifies them.
///
/// # Errors
/// [`Error::DigestMismatch`] for a layer that is not what the configuration says, [`Error::Malformed`], [`Error::Store`].
pub fn uncompress(image: &Image, blobs: &dyn Blobs) -> Result<Image, Error> {
    let name = format!("the configuration {}", image.config.digest);
    let config = blob::load(&image.config.digest, 64 << 20, blobs)?;
    let config = config.ok_or_else(|| Error::malformed(&name, "it is missing or damaged in the store"))?;
    let config: ImageConfig =
        serde_json::from_slice(&config).map_err(|error| Error::malformed(&name, error))?;
    if config.rootfs.diff_ids.len() != image.layers.len() {
        return Err(Error::malformed(&name, "it does not have one diffID for each layer"));
    }
    let mut layers = vec![];
    for (layer, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
        layers.push(plain_layer(layer, diff_id, blobs)?);
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        config: Descriptor { media_type: media_type::CONFIG.into(), ..image.config.clone() },
        layers,
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    };
    let bytes = canonical_json(&manifest);
    let mut plain = Image::new(media_type::MANIFEST, manifest, bytes);
    plain.manifest.platform.clone_from(&image.manifest.platform);
    Ok(plain)
}

fn plain_layer(layer: &Descriptor, diff_id: &Digest, blobs: &dyn Blobs) -> Result<Descriptor, Error> {
    let plain = |size_bytes| Descriptor::new(media_type::LAYER, *diff_id, size_bytes);
    if let Some(size_bytes) = blobs.size_bytes(diff_id).map_err(Error::reading(diff_id))? {
        return Ok(plain(size_bytes));
    }
    let reading = || Error::reading(&layer.digest);
    let mut reader = io::BufReader::with_capacity(128 << 10, blobs.open(&layer.digest).map_err(reading())?);
    let magic = io::BufRead::fill_buf(&mut reader).map_err(reading())?;
    let mut reader: Box<dyn Read> = match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(reader).map_err(reading())?)
        }
        _ => Box::new(reader),
    };
    let mut blob = blobs.create().map_err(Error::writing)?;
    io::copy(&mut reader, &mut blob).map_err(reading())?;
    match blob.commit(Some(diff_id)) {
        Ok((_, size_bytes)) => Ok(plain(size_bytes)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let what = format!("the unpacked layer {}", layer.digest);
            Err(Error::DigestMismatch { what, expected: *diff_id })
        }
        Err(error) => Err(Error::writing(error)),
    }
}

fn is_plain(layer: &Descriptor) -> bool {
    matches!(layer.media_type.as_str(), media_type::LAYER | media_type::DOCKER_LAYER)
}

/// The name that docker shows, always with its tag; a bare digest is no name.
fn repo_tag(name: &Reference) -> Option<String> {
    let tag = name.tag()?;
    let whole = format!("{}/{}", name.registry(), name.repository());
    let short = whole.strip_prefix("docker.io/").unwrap_or(&whole);
    Some(format!("{}:{tag}", short.strip_prefix("library/").filter(|_| short != whole).unwrap_or(short)))
}

/// All but `index.json`.
fn layout_members(contents: Contents<'_>) -> Members<'_> {
    let mut members = Members::new();
    members.insert("blobs/".into(), Member::Folder);
    members.insert("blobs/sha256/".into(), Member::Folder);
    members.insert("oci-layout".into(), Member::Bytes(OCI_LAYOUT.into()));
    let images = match contents {
        Contents::Image(image) => std::slice::from_ref(image),
        Contents::Index(index) => {
            members.insert(blob_name(index.index), Member::Bytes(index.bytes.to_vec()));
            index.images
        }
    };
    for image in images {
        members.insert(blob_name(&image.manifest), Member::Bytes(image.manifest_bytes.clone()));
        for blob in image.layers.iter().filter(|layer| !is_foreign(layer)).chain([&image.config]) {
            members.insert(blob_name(blob), Member::Blob(blob));
        }
    }
    members
}

fn blob_name(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.hex())
}

fn index(contents: Contents<'_>, names: &[Reference], before: Option<Index>) -> Index {
    let root = match contents {
        Contents::Image(image) => &image.manifest,
        Contents::Index(index) => index.index,
    };
    // A bare digest is no name.
    let tagged = names.iter().filter_map(|name| Some((name, name.tag()?)));
    let named = tagged.map(|(name, tag)| {
        let mut descriptor = root.clone();
        let whole = format!("{}/{}:{tag}", name.registry(), name.repository());
        descriptor.annotations.extend([(IMAGE_NAME.into(), whole), (REF_NAME.into(), tag.to_owned())]);
        descriptor
    });
    let mut entries: Vec<Descriptor> = named.collect();
    if entries.is_empty() {
        entries.push(root.clone());
    }
    let name = |descriptor: &Descriptor| {
        let of = |key: &str| descriptor.annotations.get(key).cloned();
        of(IMAGE_NAME).or_else(|| of(REF_NAME))
    };
    let mut index = before.unwrap_or(Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.into()),
        manifests: vec![],
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    });
    index.manifests.retain(|old| {
        let is_same = |new: &Descriptor| match name(new) {
            Some(new) => name(old).as_ref() == Some(&new),
            None => name(old).is_none() && old.digest == new.digest,
        };
        !entries.iter().any(is_same)
    });
    index.manifests.extend(entries);
    index
}

fn write_tar(
    members: &Members<'_>,
    blobs: &dyn Blobs,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let output = |source| Error::Output { source };
    let mut archive = tar::Builder::new(out);
    for (name, member) in members {
        let mut header = tar::Header::new_ustar();
        let (kind, mode, size_bytes) = match member {
            Member::Folder => (tar::EntryType::Directory, 0o755, 0),
            Member::Bytes(bytes) => (tar::EntryType::Regular, 0o444, bytes.len() as u64),
            Member::Blob(descriptor) => (tar::EntryType::Regular, 0o444, descriptor.size_bytes),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size_bytes);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        match member {
            Member::Folder => archive.append_data(&mut header, name, io::empty()).map_err(output)?,
            Member::Bytes(bytes) => {
                archive.append_data(&mut header, name, bytes.as_slice()).map_err(output)?
            }
            Member::Blob(descriptor) => {
                let mut reader = Verified::open(descriptor, blobs, progress)?;
                archive.append_data(&mut header, name, &mut reader).map_err(output)?;
                reader.finish(descriptor)?;
            }
        }
    }
    archive.into_inner().and_then(|out| out.flush()).map_err(output)
}

fn is_complete(path: &Path, descriptor: &Descriptor) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == descriptor.size_bytes)
}

/// Writes a file that appears whole or not at all.
fn write_file(path: &Path, from: &mut dyn Read) -> Result<(), Error> {
    reveal(stage(path, from)?, path)
}

fn stage(path: &Path, from: &mut dyn Read) -> Result<tempfile::NamedTempFile, Error> {
    let failed = || Error::file("write", path);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder).map_err(failed())?;
    io::copy(from, &mut file).map_err(failed())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(failed())?;
    Ok(file)
}

fn reveal(file: tempfile::NamedTempFile, path: &Path) -> Result<(), Error> {
    file.persist(path).map(|_| ()).map_err(|error| Error::file("write", path)(error.error))
}

/// A blob whose content is checked against its descriptor while it is read.
struct Verified<'a> {
    inner: Box<dyn Read + Send>,
    seen: DigestWriter<io::Sink>,
    progress: &'a dyn Progress,
}

impl<'a> Verified<'a> {
    fn open(descriptor: &Descriptor, blobs: &dyn Blobs, progress: &'a dyn Progress) -> Result<Self, Error> {
        let inner = blobs.open(&descriptor.digest).map_err(Error::reading(&descriptor.digest))?;
        Ok(Verified { inner, seen: DigestWriter::new(io::sink()), progress })
    }

    fn finish(self, descriptor: &Descriptor) -> Result<(), Error> {
        let (_, digest, found_bytes) = self.seen.finish();
        let what = format!("the blob {} in the store", descriptor.digest);
        if found_bytes != descriptor.size_bytes {
            return Err(Error::SizeMismatch { what, expected_bytes: descriptor.size_bytes, found_bytes });
        }
        if digest != descriptor.digest {
            return Err(Error::DigestMismatch { what, expected: descriptor.digest });
        }
        Ok(())
    }
}

impl Read for Verified<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.seen.write_all(&buffer[..count])?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
