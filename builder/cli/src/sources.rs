//! Answers what the frontend and the engine ask for: base images, contexts, downloads.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lithify_cache::Store;
use lithify_engine::{FileSource, ImageLayers, SourceError, Sources, TemporaryFolder};
use lithify_files::ignore::Ignore;
use lithify_frontend::{ImageRequest, ResolvedImage};
use lithify_graph::{Context, Git, Http};
use lithify_oci::{Blobs, Descriptor, Digest, ImageConfig, Platform, Reference, media_type};
use lithify_transfer::Image;
use lithify_transfer::layout::{self, Layout};

use crate::args::Pull;
use crate::contexts::Source;
use crate::downloads::Outside;
use crate::exit::{self, Problem};
use crate::render::say;

/// Where everything outside the Dockerfile comes from.
pub(crate) struct Provider<'a> {
    store: &'a Store,
    outside: &'a Outside<'a>,
    pull: Pull,
    main: MainContext,
    named: BTreeMap<String, Source>,
    images: Mutex<HashMap<Digest, Known>>,
    folders: Mutex<HashMap<Option<String>, Arc<FileSource>>>,
}

/// The build context, and the .dockerignore that goes with the Dockerfile.
pub(crate) enum MainContext {
    /// Nothing: the Dockerfile came alone.
    Empty,
    /// A folder of this machine.
    Folder { path: PathBuf, ignore: Ignore },
    /// Files that are only there for this build.
    Fetched(Arc<FileSource>),
}

struct Known {
    image: Image,
    config: ImageConfig,
    origin: Origin,
}

enum Origin {
    Store,
    Registry(Reference),
    Layout(Arc<Layout>),
}

impl<'a> Provider<'a> {
    pub(crate) fn new(
        outside: &'a Outside<'a>,
        pull: Pull,
        main: MainContext,
        named: BTreeMap<String, Source>,
    ) -> Self {
        Provider {
            store: outside.store,
            outside,
            pull,
            main,
            named,
            images: Mutex::default(),
            folders: Mutex::default(),
        }
    }

    /// Finds the image that the frontend asks for: its manifest and configuration, but none of its layers.
    pub(crate) fn resolve(&self, request: &ImageRequest) -> Result<ResolvedImage, Problem> {
        let (image, origin) = match request.context.as_ref().map(|name| (name, self.named.get(name))) {
            Some((name, None)) => {
                return Err(Problem::new(exit::USAGE, format_args!("there is no build context {name:?}")));
            }
            Some((_, Some(Source::Scratch))) => return Ok(self.scratch(&request.platform)),
            Some((_, Some(Source::Layout { path, tag, digest }))) => {
                self.image_in_layout(path, tag.as_deref(), *digest, &request.platform)?
            }
            Some((_, Some(Source::Image(reference)))) => self.named_image(reference, &request.platform)?,
            Some((name, Some(_))) => {
                return Err(Problem::new(
                    exit::USAGE,
                    format_args!("the build context {name:?} is no image"),
                ));
            }
            None => {
                let reference = Reference::from_str(&request.name).map_err(|error| {
                    Problem::new(exit::USAGE, format_args!("FROM {}: {error}", request.name))
                })?;
                self.named_image(&reference, &request.platform)?
            }
        };
        let config = self.read_config(&image)?;
        let manifest = image.manifest.digest;
        let known = Known { image, config: config.clone(), origin };
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(manifest, known);
        Ok(ResolvedImage { manifest, config })
    }

    fn scratch(&self, platform: &Platform) -> ResolvedImage {
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        let manifest = Digest::of("scratch");
        let nothing = Descriptor::new("", manifest, 0);
        let image = Image {
            manifest: nothing.clone(),
            manifest_bytes: vec![],
            config: nothing,
            layers: vec![],
            index: None,
        };
        let known = Known { image, config: config.clone(), origin: Origin::Store };
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(manifest, known);
        ResolvedImage { manifest, config }
    }

    fn image_in_layout(
        &self,
        path: &Path,
        tag: Option<&str>,
        digest: Option<Digest>,
        platform: &Platform,
    ) -> Result<(Image, Origin), Problem> {
        let failed = |error: lithify_transfer::Error| {
            Problem::caused(
                exit::SOURCE,
                format_args!("cannot read the OCI layout {}", path.display()),
                &error,
            )
        };
        let layout = layout::open(path, tag, digest).map_err(failed)?;
        let image = layout.resolve(platform).map_err(failed)?;
        if !self.has_blob(&image.config.digest)? {
            layout.copy_blob(&image.config, self.store).map_err(failed)?;
        }
        Ok((image, Origin::Layout(Arc::new(layout))))
    }

    /// An image by its name, or by the digest that the lock file says.
    fn named_image(&self, reference: &Reference, platform: &Platform) -> Result<(Image, Origin), Problem> {
        let fixed = self.outside.lock.image(reference, platform)?;
        let asked = fixed.map(|manifest| reference.with_digest(manifest));
        let found = self.find_image(asked.as_ref().unwrap_or(reference), platform)?;
        self.outside.lock.saw_image(reference, platform, found.0.manifest.digest);
        Ok(found)
    }

    fn find_image(&self, reference: &Reference, platform: &Platform) -> Result<(Image, Origin), Problem> {
        if self.pull != Pull::Always
            && let Some((image, origin)) = self.stored_image(reference, platform)?
        {
            return Ok((image, origin));
        }
        if self.pull == Pull::Never {
            let message = format!(
                "the store has no image {reference} for {platform}, and --pull=never forbids to fetch it"
            );
            return Err(Problem::new(exit::SOURCE, message));
        }
        let network =
            self.outside.connection.network(&format_args!("the image {reference} for {platform}"))?;
        let resolving = network.client.resolve(reference, platform, self.store);
        let image = network.runtime.block_on(resolving).map_err(|error| {
            Problem::caused(exit::SOURCE, format_args!("cannot find the base image {reference}"), &error)
        })?;
        self.store.remember_resolution(reference, platform, &image.manifest).map_err(store_problem)?;
        Ok((image, Origin::Registry(reference.clone())))
    }

    /// An image that was built here, or pulled before.
    fn stored_image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<(Image, Origin)>, Problem> {
        if let Some(stored) = self.store.image(reference, platform).map_err(store_problem)?
            && let Some(image) = self.read_image(&stored.manifest)?
        {
            return Ok(Some((image, Origin::Store)));
        }
        // One that came under another name, or as one platform of several.
        if let Some(digest) = reference.digest()
            && let Some(image) = self.read_image(&Descriptor::new(media_type::MANIFEST, digest, 0))?
        {
            return Ok(Some((image, Origin::Registry(reference.clone()))));
        }
        let Some(known) = self.store.resolution(reference, platform).map_err(store_problem)? else {
            return Ok(None);
        };
        let Some(image) = self.read_image(&known.manifest)? else { return Ok(None) };
        let age = known.resolved_at.elapsed().unwrap_or_default();
        if reference.digest().is_none() && age > Duration::from_secs(24 * 3600) {
            let days = age.as_secs() / (24 * 3600);
            say(format_args!(
                "{} was looked up {days} day(s) ago; --pull asks the registry again",
                reference.familiar()
            ));
        }
        Ok(Some((image, Origin::Registry(reference.clone()))))
    }

    fn has_blob(&self, digest: &Digest) -> Result<bool, Problem> {
        let size = self.store.size_bytes(digest);
        Ok(size.map_err(|error| Problem::caused(exit::STORE, "cannot read the store", &error))?.is_some())
    }

    fn read_blob(&self, digest: &Digest) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![];
        self.store
            .open(digest)?
            .take(lithify_transfer::image::MAX_MANIFEST_BYTES * 4)
            .read_to_end(&mut bytes)?;
        // What another process left behind after a power cut may be damaged.
        if Digest::of(&bytes) != *digest {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!(
                    "the blob {} is damaged: remove it, and it is fetched or made again",
                    self.store.blob_path(digest).display()
                ),
            ));
        }
        Ok(bytes)
    }

    fn read_image(&self, manifest: &Descriptor) -> Result<Option<Image>, Problem> {
        if !self.has_blob(&manifest.digest)? {
            return Ok(None);
        }
        let Ok(bytes) = self.read_blob(&manifest.digest) else { return Ok(None) };
        let Ok(image) = Image::from_manifest(bytes, "the image in the store") else { return Ok(None) };
        Ok(self.has_blob(&image.config.digest)?.then_some(image))
    }

    fn read_config(&self, image: &Image) -> Result<ImageConfig, Problem> {
        let bytes = self.read_blob(&image.config.digest);
        let bytes = bytes
            .map_err(|error| Problem::caused(exit::STORE, "cannot read an image's configuration", &error))?;
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(|error| {
            Problem::caused(
                exit::SOURCE,
                format_args!("the configuration {} is malformed", image.config.digest),
                &error,
            )
        })?;
        let (named, there) = (config.rootfs.diff_ids.len(), image.layers.len());
        if named != there {
            let message = format!(
                "the configuration {} is malformed: it names {named} layers, and the manifest {there}",
                image.config.digest
            );
            return Err(Problem::new(exit::SOURCE, message));
        }
        Ok(config)
    }

    /// Pushes a built image under a name.
    pub(crate) fn push(&self, name: &Reference, image: &Image, bases: &[Reference]) -> Result<(), Problem> {
        let network = self.outside.connection.network(&format_args!("a way to push {name}"))?;
        let pushing = network.client.push(name, image, self.store, bases, &());
        let failed = |error| Problem::caused(exit::OUTPUT, format_args!("cannot push {name}"), &error);
        network.runtime.block_on(pushing).map(|_| ()).map_err(failed)
    }

    /// The repository that a base image was pulled from.
    pub(crate) fn repository_of(&self, image: &lithify_graph::Image) -> Option<Reference> {
        match &self.images.lock().unwrap_or_else(PoisonError::into_inner).get(&image.manifest)?.origin {
            Origin::Registry(reference) => Some(reference.clone()),
            Origin::Store | Origin::Layout(_) => None,
        }
    }

    fn open_context(&self, name: &Option<String>) -> Result<FileSource, SourceError> {
        let failed = |message: String| SourceError { message };
        let source = match name {
            None => match &self.main {
                MainContext::Empty => return empty_folder(),
                MainContext::Folder { path, ignore } => return open_folder(path, ignore.clone()),
                MainContext::Fetched(_) => unreachable!("it is in the table of folders from the start"),
            },
            Some(name) => {
                self.named.get(name).ok_or_else(|| failed(format!("there is no build context {name:?}")))?
            }
        };
        match source {
            Source::Folder(path) => open_folder(path, ignore_in(path)?),
            Source::Git(url) => self.outside.git(url, true, false, None),
            Source::Url(url) => self.outside.http(url, None, Some("context")),
            other => Err(failed(format!("{other:?} is no folder"))),
        }
    }
}

impl Sources for Provider<'_> {
    fn image(&self, image: &lithify_graph::Image) -> Result<ImageLayers, SourceError> {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let known = images.get(&image.manifest);
        let known = known
            .ok_or_else(|| SourceError { message: format!("the image {} was not looked up", image.name) })?;
        let (diff_ids, layers) = (&known.config.rootfs.diff_ids, &known.image.layers);
        Ok(ImageLayers { layers: diff_ids.iter().copied().zip(layers.iter().cloned()).collect() })
    }

    fn fetch_layer(&self, image: &lithify_graph::Image, layer: &Descriptor) -> Result<(), SourceError> {
        let failed = |error: &dyn std::error::Error| SourceError {
            message: Problem::caused(
                exit::SOURCE,
                format_args!("cannot fetch a layer of {}", image.name),
                error,
            )
            .lines(),
        };
        let (reference, layout) = {
            let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            match images.get(&image.manifest).map(|known| &known.origin) {
                Some(Origin::Registry(reference)) => (Some(reference.clone()), None),
                Some(Origin::Layout(layout)) => (None, Some(layout.clone())),
                Some(Origin::Store) | None => (None, None),
            }
        };
        match (reference, layout) {
            (Some(reference), _) => {
                let what = format!("the layer {} of {}", layer.digest, image.name);
                if self.pull == Pull::Never {
                    let message =
                        format!("the store does not have {what}, and --pull=never forbids to fetch it");
                    return Err(SourceError { message });
                }
                let network = self.outside.connection.network(&what);
                let network = network.map_err(|problem| SourceError { message: problem.lines() })?;
                let pulling = network.client.pull_layer(&reference, layer, self.store, &());
                network.runtime.block_on(pulling).map(|_| ()).map_err(|error| failed(&error))
            }
            (None, Some(layout)) => {
                layout.copy_blob(layer, self.store).map(|_| ()).map_err(|error| failed(&error))
            }
            (None, None) => {
                let message = format!(
                    "the store has lost the layer {} of {}: build it again",
                    layer.digest, image.name
                );
                Err(SourceError { message })
            }
        }
    }

    fn context(&self, context: &Context) -> Result<Arc<FileSource>, SourceError> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let (None, MainContext::Fetched(files)) = (&context.name, &self.main) {
            return Ok(files.clone());
        }
        if let Some(folder) = folders.get(&context.name) {
            return Ok(folder.clone());
        }
        let folder = Arc::new(self.open_context(&context.name)?);
        folders.insert(context.name.clone(), folder.clone());
        Ok(folder)
    }

    fn http(&self, http: &Http) -> Result<Arc<FileSource>, SourceError> {
        self.outside.http(&http.url, http.checksum, None).map(Arc::new)
    }

    fn git_commit(&self, git: &Git) -> Result<Option<String>, SourceError> {
        self.outside.git_commit(&git.url, git.checksum.as_deref())
    }

    fn git(&self, git: &Git, commit: Option<&str>) -> Result<Arc<FileSource>, SourceError> {
        let expected = commit.or(git.checksum.as_deref());
        self.outside.git(&git.url, false, git.keep_git_dir, expected).map(Arc::new)
    }
}

pub(crate) fn store_problem(error: lithify_cache::Error) -> Problem {
    Problem::caused(exit::STORE, "cannot use the store", &error)
}

pub(crate) fn open_folder(path: &Path, ignore: Ignore) -> Result<FileSource, SourceError> {
    use rustix::fs::{Mode, OFlags};
    let failed = |error: &dyn std::fmt::Display| SourceError {
        message: format!("cannot read the build context {}: {error}", path.display()),
    };
    let absolute = std::fs::canonicalize(path).map_err(|error| failed(&error))?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&absolute, flags, Mode::empty()).map_err(|error| failed(&error))?;
    let ignore = Some(ignore).filter(|ignore| !ignore.is_empty());
    Ok(FileSource { root, path: Some(absolute), ignore, temporary: None })
}

fn empty_folder() -> Result<FileSource, SourceError> {
    temporary_folder().map(|(source, _)| source)
}

/// A folder that is gone when the build is.
pub(crate) fn temporary_folder() -> Result<(FileSource, PathBuf), SourceError> {
    let failed =
        |error: std::io::Error| SourceError { message: format!("cannot make a temporary folder: {error}") };
    let temporary = TemporaryFolder::create().map_err(failed)?;
    let path = temporary.path().to_owned();
    let mut source = open_folder(&path, Ignore::default())?;
    source.path = None;
    source.temporary = Some(temporary);
    Ok((source, path))
}

/// What docker and podman call ignore files; docker's leads where there are both.
pub(crate) const IGNORE_FILES: [&str; 2] = [".dockerignore", ".containerignore"];

/// The ignore file of a folder.
pub(crate) fn ignore_in(folder: &Path) -> Result<Ignore, SourceError> {
    let file = IGNORE_FILES.iter().map(|name| folder.join(name)).find(|file| file.exists());
    file.map_or(Ok(Ignore::default()), |file| read_ignore(&file))
}

/// Reads an ignore file; none there ignores nothing.
pub(crate) fn read_ignore(path: &Path) -> Result<Ignore, SourceError> {
    match std::fs::read(path) {
        Ok(text) => Ignore::parse(&text)
            .map_err(|error| SourceError { message: format!("{}: {error}", path.display()) }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ignore::default()),
        Err(error) => Err(SourceError { message: format!("cannot read {}: {error}", path.display()) }),
    }
}
