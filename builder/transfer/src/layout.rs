//! OCI image layouts as sources of images (OCI image specification, image-layout.md): folders, archives of them, and
//! what `docker save` wrote before it wrote layouts.
//!
//! Everything here blocks; call it from a thread that may.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use lithify_oci::{Blobs, Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference, media_type};
use serde::Deserialize;

use crate::Error;
use crate::blob;
use crate::image::{self, Document, Image, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES};

/// The annotation that names an image in a layout; a tag, or with some writers a whole reference.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation in which containerd and BuildKit put the whole reference.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

/// The version of the layout, in the file `oci-layout`.
pub(crate) const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// One image, or several under an index, in a layout.
#[derive(Debug)]
pub struct Layout {
    place: Place,
    /// For errors.
    name: String,
    root: Root,
}

/// What was asked for.
#[derive(Debug)]
enum Root {
    /// A manifest or index among the blobs.
    Blob(Descriptor),
    /// All of `index.json`: its entries are the platforms of one image.
    Whole(Index),
    /// An image as old versions of docker saved it, its manifest made up.
    Saved(Box<Image>),
}

/// Where the files are.
#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Archive {
        path: PathBuf,
        members: BTreeMap<String, Member>,
        /// Blobs that have another name than the layout's.
        aliases: BTreeMap<Digest, String>,
    },
}

#[derive(Clone, Debug)]
struct Member {
    offset: u64,
    size_bytes: u64,
    /// Where a link leads.
    target: Option<String>,
}

/// Opens the layout at `path`, a folder or a tar archive, at the image with the `tag` or `digest`. With neither, a
/// layout of one image means that image, one of several means `latest`.
///
/// # Errors
/// [`Error::NotFound`]-like problems are [`Error::Malformed`], with the names that there are.
pub fn open(path: &Path, tag: Option<&str>, digest: Option<Digest>) -> Result<Layout, Error> {
    let name = path.display().to_string();
    let metadata = std::fs::metadata(path).map_err(Error::file("open the image layout", path))?;
    let mut place = if metadata.is_dir() { Place::Folder(path.into()) } else { scan(path)? };
    let root = match place.small("index.json")? {
        Some(bytes) => {
            let index: Index = serde_json::from_slice(&bytes)
                .map_err(|error| Error::malformed(&name, format!("index.json: {error}")))?;
            select(&place, index, tag, digest, &name)?
        }
        None => Root::Saved(Box::new(saved(&mut place, tag, &name)?)),
    };
    Ok(Layout { place, name, root })
}

impl Layout {
    /// The image for `platform`.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] with the platforms there are; [`Error::Malformed`], [`Error::DigestMismatch`].
    pub fn resolve(&self, platform: &Platform) -> Result<Image, Error> {
        let (mut at, mut index) = match &self.root {
            Root::Saved(image) => return Ok(Image::clone(image)),
            Root::Blob(descriptor) => (descriptor.clone(), None),
            Root::Whole(index) => (image::choose(index, platform, &self.name)?.clone(), None),
        };
        for _ in 0..MAX_INDEX_DEPTH {
            let bytes = self.place.manifest(&at, &self.name)?;
            match Document::parse(&bytes, Some(&at.media_type), &self.name)? {
                Document::Manifest(media_type, manifest) => {
                    let mut image = Image { index, ..Image::new(&media_type, *manifest, bytes) };
                    image.manifest.platform = at.platform;
                    return Ok(image);
                }
                Document::Index(media_type, document) => {
                    index.get_or_insert_with(|| Descriptor::new(&media_type, at.digest, bytes.len() as u64));
                    at = image::choose(&document, platform, &self.name)?.clone();
                }
            }
        }
        Err(Error::malformed(&self.name, "indexes stand in indexes without end"))
    }

    /// Copies a blob into the store, verified, unless it is there.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the layout lacks it, [`Error::DigestMismatch`], [`Error::SizeMismatch`].
    pub fn copy_blob(&self, descriptor: &Descriptor, blobs: &dyn Blobs) -> Result<(), Error> {
        let present = blobs.size_bytes(&descriptor.digest).map_err(Error::reading(&descriptor.digest))?;
        if present == Some(descriptor.size_bytes) {
            return Ok(());
        }
        let what = format!("the blob {} of {}", descriptor.digest, self.name);
        if let Root::Saved(image) = &self.root
            && image.manifest.digest == descriptor.digest
        {
            return blob::store(&image.manifest_bytes, descriptor.digest, blobs, &what);
        }
        let reader = self.place.blob(&descriptor.digest)?;
        let reader = reader.ok_or_else(|| missing(&self.name, &descriptor.digest))?;
        blob::copy(reader, descriptor, blobs, &what)
    }
}

fn missing(name: &str, digest: &Digest) -> Error {
    Error::malformed(name, format!("the blob {digest} is missing"))
}

impl Place {
    fn open(&self, member: &str) -> Result<Option<Box<dyn Read + Send>>, Error> {
        match self {
            Place::Folder(root) => {
                let path = root.join(member);
                match File::open(&path) {
                    Ok(file) => Ok(Some(Box::new(file))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(Error::File { doing: "open", path, source }),
                }
            }
            Place::Archive { path, members, .. } => {
                let Some(member) = follow(members, member) else { return Ok(None) };
                let failed = |source| Error::File { doing: "read", path: path.clone(), source };
                let mut file = File::open(path).map_err(failed)?;
                file.seek(SeekFrom::Start(member.offset)).map_err(failed)?;
                Ok(Some(Box::new(file.take(member.size_bytes))))
            }
        }
    }

    fn blob(&self, digest: &Digest) -> Result<Option<Box<dyn Read + Send>>, Error> {
        if let Place::Archive { aliases, .. } = self
            && let Some(alias) = aliases.get(digest)
        {
            return self.open(alias);
        }
        self.open(&format!("blobs/sha256/{}", digest.hex()))
    }

    /// A small file, whole.
    fn small(&self, member: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(reader) = self.open(member)? else { return Ok(None) };
        read_small(reader, member).map(Some)
    }

    fn manifest(&self, descriptor: &Descriptor, name: &str) -> Result<Vec<u8>, Error> {
        let reader = self.blob(&descriptor.digest)?.ok_or_else(|| missing(name, &descriptor.digest))?;
        let bytes = read_small(reader, name)?;
        let what = || format!("the manifest {} of {name}", descriptor.digest);
        if Digest::of(&bytes) != descriptor.digest {
            return Err(Error::DigestMismatch { what: what(), expected: descriptor.digest });
        }
        let (expected_bytes, found_bytes) = (descriptor.size_bytes, bytes.len() as u64);
        if expected_bytes != found_bytes {
            return Err(Error::SizeMismatch { what: what(), expected_bytes, found_bytes });
        }
        Ok(bytes)
    }
}

fn read_small(reader: impl Read, what: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![];
    let read = reader.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::malformed(what, error))?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(Error::malformed(what, "it has more than 4 MiB where a manifest is expected"));
    }
    Ok(bytes)
}

/// Notes where the members of an archive are; none is read.
fn scan(path: &Path) -> Result<Place, Error> {
    let failed = |source| Error::File { doing: "read the archive", path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    let mut magic = [0; 4];
    let is_compressed = (&file).read_exact(&mut magic).is_ok()
        && matches!(
            magic,
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [0xfd, b'7', b'z', b'X'] | [b'B', b'Z', b'h', _]
        );
    if is_compressed {
        return Err(Error::malformed(
            path.display().to_string(),
            "it is compressed; unpack it to a plain tar first",
        ));
    }
    (&file).rewind().map_err(failed)?;
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(failed)? {
        let entry = entry.map_err(|error| {
            Error::malformed(path.display().to_string(), format!("no tar archive: {error}"))
        })?;
        let name = plain(&entry.path().map_err(failed)?);
        let kind = entry.header().entry_type();
        let target = match entry.link_name().map_err(failed)? {
            Some(link) if kind.is_symlink() => {
                let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
                Some(plain(&folder.join(link)))
            }
            Some(link) if kind.is_hard_link() => Some(plain(&link)),
            _ if kind.is_file() => None,
            _ => continue,
        };
        members.insert(name, Member { offset: entry.raw_file_position(), size_bytes: entry.size(), target });
    }
    Ok(Place::Archive { path: path.into(), members, aliases: BTreeMap::new() })
}

/// A member's name without `.` and `..`.
fn plain(path: &Path) -> String {
    let mut parts: Vec<&str> = vec![];
    for component in path.components() {
        match component {
            std::path::Component::Normal(part) => parts.extend(part.to_str()),
            std::path::Component::ParentDir => _ = parts.pop(),
            _ => {}
        }
    }
    parts.join("/")
}

fn follow<'a>(members: &'a BTreeMap<String, Member>, name: &str) -> Option<&'a Member> {
    let mut member = members.get(name)?;
    for _ in 0..8 {
        match &member.target {
            None => return Some(member),
            Some(target) => member = members.get(target)?,
        }
    }
    None
}

fn select(
    place: &Place,
    index: Index,
    tag: Option<&str>,
    digest: Option<Digest>,
    name: &str,
) -> Result<Root, Error> {
    if let Some(digest) = digest {
        if let Some(found) = index.manifests.iter().find(|descriptor| descriptor.digest == digest) {
            return Ok(Root::Blob(found.clone()));
        }
        // One that only an index in the layout refers to.
        let reader = place.blob(&digest)?.ok_or_else(|| missing(name, &digest))?;
        let size_bytes = read_small(reader, name)?.len() as u64;
        return Ok(Root::Blob(Descriptor::new("", digest, size_bytes)));
    }
    let mut names: Vec<&str> = index.manifests.iter().flat_map(tags).collect();
    let named =
        |tag: &str| index.manifests.iter().find(|descriptor| tags(descriptor).any(|name| name == tag));
    let images =
        || index.manifests.iter().filter(|d| !d.annotations.contains_key("vnd.docker.reference.type"));
    let mut alone = images().map(|descriptor| descriptor.digest).collect::<Vec<_>>();
    alone.dedup();
    match tag {
        Some(tag) => {
            if let Some(found) = named(tag) {
                return Ok(Root::Blob(found.clone()));
            }
        }
        None if alone.len() == 1 => return Ok(Root::Blob(index.manifests[0].clone())),
        None => {
            if let Some(found) = named("latest") {
                return Ok(Root::Blob(found.clone()));
            }
            if images().count() > 0 && images().all(|descriptor| descriptor.platform.is_some()) {
                return Ok(Root::Whole(index));
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    let there = if names.is_empty() { "no names".to_owned() } else { names.join(", ") };
    Err(Error::malformed(
        name,
        format!("no image is called {:?}; there are {there}", tag.unwrap_or("latest")),
    ))
}

/// The names that a descriptor can be asked for by.
fn tags(descriptor: &Descriptor) -> impl Iterator<Item = &str> {
    let names = [REF_NAME, IMAGE_NAME].into_iter().filter_map(|key| descriptor.annotations.get(key));
    names.flat_map(|name| {
        let tag = name.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'));
        [Some(name.as_str()), tag].into_iter().flatten()
    })
}

/// Reads the `manifest.json` of `docker save` (moby, image/tarexport). Its layers are plain tars, so their digests are
/// the diffIDs in the configuration, and nothing has to be read to know them.
fn saved(place: &mut Place, tag: Option<&str>, name: &str) -> Result<Image, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        config: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let malformed = |problem: String| Error::malformed(name, problem);
    let bytes = place.small("manifest.json")?.ok_or_else(|| {
        malformed("it has neither index.json nor manifest.json: no image layout, no docker archive".into())
    })?;
    let all: Vec<Saved> =
        serde_json::from_slice(&bytes).map_err(|error| malformed(format!("manifest.json: {error}")))?;
    let is_named = |saved: &&Saved| {
        tag.is_none_or(|tag| {
            let parsed = |name: &String| name.parse::<Reference>().ok();
            saved
                .repo_tags
                .iter()
                .flatten()
                .any(|name| name == tag || parsed(name).is_some_and(|r| r.tag() == Some(tag)))
        })
    };
    let found: Vec<&Saved> = all.iter().filter(is_named).collect();
    let [saved] = found[..] else {
        let names: Vec<&str> =
            all.iter().flat_map(|saved| saved.repo_tags.iter().flatten()).map(String::as_str).collect();
        return Err(malformed(format!("{} of its images fit; it has {}", found.len(), names.join(", "))));
    };
    let config =
        place.small(&saved.config)?.ok_or_else(|| malformed(format!("{} is missing", saved.config)))?;
    let parsed: ImageConfig =
        serde_json::from_slice(&config).map_err(|error| malformed(format!("{}: {error}", saved.config)))?;
    if parsed.rootfs.diff_ids.len() != saved.layers.len() {
        return Err(malformed("manifest.json and the configuration disagree on the number of layers".into()));
    }
    let Place::Archive { members, aliases, .. } = place else {
        return Err(malformed("an unpacked docker archive is not supported; pass the archive itself".into()));
    };
    let config_digest = Digest::of(&config);
    aliases.insert(config_digest, saved.config.clone());
    let mut layers = vec![];
    for (diff_id, layer) in parsed.rootfs.diff_ids.iter().zip(&saved.layers) {
        let member = follow(members, layer).ok_or_else(|| malformed(format!("{layer} is missing")))?;
        aliases.insert(*diff_id, layer.clone());
        layers.push(Descriptor::new(media_type::LAYER, *diff_id, member.size_bytes));
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        config: Descriptor::new(media_type::CONFIG, config_digest, config.len() as u64),
        layers,
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    };
    let bytes = lithify_oci::manifest::canonical_json(&manifest);
    Ok(Image::new(media_type::MANIFEST, manifest, bytes))
}

#[cfg(test)]
mod tests;
