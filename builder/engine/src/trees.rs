//! The worker, started when it is first needed, and the trees that it has.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lithify_cache::Store;
use lithify_graph::Image;
use lithify_oci::{Descriptor, Digest};
use lithify_sandbox::{Choice, Place, RungName};
use lithify_worker::{FailureKind, Response, Worker};

use crate::chain::TreeLayers;
use crate::error::Failure;
use crate::resources::{Cancel, SourceError, Sources};
use crate::settings::Settings;

/// What a build knows of layers and trees.
pub(crate) struct Trees<'a> {
    store: &'a Store,
    sources: &'a dyn Sources,
    settings: &'a Settings,
    cancel: &'a Cancel,
    worker: OnceLock<Arc<Worker>>,
    rung: OnceLock<Option<RungName>>,
    starting: Mutex<()>,
    warning: Mutex<Option<&'static str>>,
    /// Layers of base images, by diffID: where their blobs come from.
    bases: Mutex<HashMap<Digest, (Image, Descriptor)>>,
    /// The trees of base images, by chain id: they stay, since other builds start from them.
    base_trees: Mutex<HashSet<Digest>>,
    /// Trees that the worker is known to have, by chain id. Held while one is unpacked, so that two steps do not unpack the same.
    present: Mutex<HashSet<Digest>>,
}

impl<'a> Trees<'a> {
    pub(crate) fn new(
        store: &'a Store,
        sources: &'a dyn Sources,
        settings: &'a Settings,
        cancel: &'a Cancel,
    ) -> Self {
        Trees {
            store,
            sources,
            settings,
            cancel,
            worker: OnceLock::new(),
            rung: OnceLock::new(),
            starting: Mutex::new(()),
            warning: Mutex::default(),
            bases: Mutex::default(),
            base_trees: Mutex::default(),
            present: Mutex::default(),
        }
    }

    /// Remembers where the layers of a base image come from.
    pub(crate) fn add_base(&self, image: &Image, layers: &[(Digest, Descriptor)]) {
        let tree = TreeLayers::new(layers.iter().map(|(diff_id, _)| *diff_id));
        if let Some(chain_id) = tree.chain().last() {
            self.base_trees.lock().unwrap_or_else(PoisonError::into_inner).insert(*chain_id);
        }
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        for (diff_id, blob) in layers {
            bases.entry(*diff_id).or_insert_with(|| (image.clone(), blob.clone()));
        }
    }

    /// The blob of a base image's layer.
    pub(crate) fn base_layer(&self, diff_id: &Digest) -> Option<(Image, Descriptor)> {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner).get(diff_id).cloned()
    }

    /// The worker.
    ///
    /// # Errors
    /// Where the machine does not let one run.
    pub(crate) fn worker(&self) -> Result<Arc<Worker>, Failure> {
        let _one_at_a_time = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        if let Some(worker) = self.worker.get() {
            return Ok(worker.clone());
        }
        let (place, worker) = self.start_worker()?;
        let worker = Arc::new(worker);
        let _ = self.rung.set(Some(place.name()));
        *self.warning.lock().unwrap_or_else(PoisonError::into_inner) = place.warning();
        let doomed = Arc::downgrade(&worker);
        self.cancel.on_cancel(Box::new(move || {
            if let Some(worker) = doomed.upgrade() {
                worker.kill();
            }
        }));
        Ok(self.worker.get_or_init(|| worker).clone())
    }

    /// Starts the worker in the strongest sandbox that may be used.
    fn start_worker(&self) -> Result<(Place, Worker), Failure> {
        let start = |place: &Place| {
            let trees = tree_folder(self.store.trees_root(), place)?;
            Ok::<_, Failure>(Worker::start(place, trees, self.settings.snapshotter)?)
        };
        // The likeliest one is not tried before: where it does not work, starting says so, and then the others are tried.
        if matches!(self.settings.sandbox, Choice::Auto | Choice::Only(RungName::Range))
            && let Ok(map) = lithify_sandbox::id_map()
        {
            let place = Place::Range(map);
            match start(&place) {
                Err(Failure::Worker(lithify_worker::Error::Start(lithify_sandbox::Error::Unavailable(
                    _,
                )))) => {}
                other => return Ok((place, other?)),
            }
        }
        let place = lithify_sandbox::choose(self.settings.sandbox).map_err(Failure::Unavailable)?;
        let worker = start(&place)?;
        Ok((place, worker))
    }

    /// The sandbox that steps run in: the worker's where one has started, else the one that it would have.
    pub(crate) fn rung(&self) -> Option<RungName> {
        let choose = || lithify_sandbox::choose(self.settings.sandbox).ok().map(|place| place.name());
        *self.rung.get_or_init(choose)
    }

    /// What of the worker's sandbox the user should know before something runs in it: said once.
    pub(crate) fn take_warning(&self) -> Option<&'static str> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends the worker, if there is one, and all that it runs.
    pub(crate) fn stop(&self) {
        if let Some(worker) = self.worker.get() {
            worker.kill();
        }
    }

    /// Makes sure that the worker has a tree. Trees on the way to it that are not in `needed` and are no base image's may become it.
    pub(crate) fn ensure(&self, worker: &Worker, tree: &TreeLayers, needed: &Needed) -> Result<(), Failure> {
        let chain = tree.chain();
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let mut there = chain.len();
        while there > 0 && !present.contains(&chain[there - 1]) && !self.has(worker, &chain[..there])? {
            there -= 1;
        }
        for at in there..chain.len() {
            let consume = at > 0 && self.is_spare(&chain[at - 1], needed);
            self.apply(worker, &chain[..=at], &tree.diff_ids()[at], consume)?;
            if consume {
                present.remove(&chain[at - 1]);
            }
        }
        present.extend(chain.last());
        Ok(())
    }

    /// Whether a tree may become the next one.
    pub(crate) fn is_spare(&self, chain_id: &Digest, needed: &Needed) -> bool {
        let bases = self.base_trees.lock().unwrap_or_else(PoisonError::into_inner);
        !needed.0.contains(chain_id) && !bases.contains(chain_id)
    }

    /// The worker may not have this tree any more.
    pub(crate) fn consumed(&self, tree: &TreeLayers) {
        if let Some(chain_id) = tree.chain().last() {
            self.present.lock().unwrap_or_else(PoisonError::into_inner).remove(chain_id);
        }
    }

    /// Some tree is not there any more that was.
    pub(crate) fn forget(&self) {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether the worker has the tree; prune leaves it alone from now on, or has taken it before.
    fn has(&self, worker: &Worker, chain: &[Digest]) -> Result<bool, Failure> {
        let ask = || worker.call(&lithify_worker::Request::Has { chain: chain.to_vec() }, &[]);
        match self.store.use_trees(chain, ask)?? {
            Response::Has(has) => Ok(has),
            other => Err(lithify_worker::unexpected(&other).into()),
        }
    }

    /// The worker has made this tree itself; a prune may have taken it since.
    ///
    /// # Errors
    /// A worker that is gone, and a store that cannot be written.
    pub(crate) fn made(&self, worker: &Worker, tree: &TreeLayers) -> Result<(), Failure> {
        if let Some(chain_id) = tree.chain().last()
            && self.has(worker, tree.chain())?
        {
            self.present.lock().unwrap_or_else(PoisonError::into_inner).insert(*chain_id);
        }
        Ok(())
    }

    fn apply(
        &self,
        worker: &Worker,
        chain: &[Digest],
        diff_id: &Digest,
        consume: bool,
    ) -> Result<(), Failure> {
        let opening = |source| Failure::Io { doing: "cannot open a layer in the store", source };
        let blob = self.blob(diff_id)?;
        let base = self.base_layer(diff_id);
        let mut files = vec![self.store.open_blob(&blob.digest).map_err(opening)?];
        if let Some(catalogue) = self.store.layer(diff_id)?.and_then(|facts| facts.catalogue) {
            files.extend(self.store.open_blob(&catalogue).ok());
        }
        let (chain_id, parents) = chain.split_last().expect("a chain has at least one layer");
        let request = lithify_worker::Request::Apply {
            parents: parents.to_vec(),
            chain: *chain_id,
            catalogue: files.len() > 1,
            claimed: base.is_some().then_some(*diff_id),
            consume,
        };
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        match (worker.call(&request, &files), base) {
            (Ok(Response::Done), _) => Ok(()),
            (Ok(other), _) => Err(lithify_worker::unexpected(&other).into()),
            (Err(error), Some((image, _))) if error.kind() == FailureKind::Input => {
                let message = format!("the layer {} of {} is malformed: {error}", blob.digest, image.name);
                Err(SourceError { message }.into())
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// A blob of the layer that can be opened; a base image's is fetched if need be, one of a remote cache when it is opened.
    pub(crate) fn blob(&self, diff_id: &Digest) -> Result<Descriptor, Failure> {
        if let Some((image, descriptor)) = self.base_layer(diff_id) {
            if self.store.open_blob(&descriptor.digest).is_err() {
                self.sources.fetch_layer(&image, &descriptor)?;
            }
            return Ok(descriptor);
        }
        let facts = self.store.layer(diff_id)?;
        let here = facts.into_iter().flat_map(|facts| facts.blobs).map(|blob| blob.descriptor);
        here.into_iter().find(|blob| self.store.is_available(&blob.digest).unwrap_or(false)).ok_or_else(
            || Failure::Input(format!("the store has lost the layer {diff_id}: build again with --no-cache")),
        )
    }
}

/// The trees that steps will still start from or read, by chain id.
pub(crate) struct Needed(pub(crate) HashSet<Digest>);

/// The folder for the trees of one place; its root owns it. Trees are kept apart because what their files' owners mean is.
pub(crate) fn tree_folder(trees: &std::path::Path, place: &Place) -> Result<OwnedFd, Failure> {
    use rustix::fs::{Gid, Mode, OFlags, Uid};
    let failed =
        |source: std::io::Error| Failure::Io { doing: "cannot make the folder for file trees", source };
    let path = trees.join(place.key());
    std::fs::create_dir_all(&path).map_err(failed)?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let (uid, gid) = place.root_outside();
    let owner = rustix::fs::fstat(&folder).map_err(|error| failed(error.into()))?;
    if (owner.st_uid, owner.st_gid) != (uid, gid) {
        rustix::fs::fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|error| failed(error.into()))?;
    }
    // The setuid programs of images are nobody else's to execute.
    rustix::fs::fchmod(&folder, Mode::RWXU).map_err(|error| failed(error.into()))?;
    Ok(folder)
}

/// Tries whether trees below `trees` can be kept by a snapshotter, as a worker in `place` would.
///
/// # Errors
/// What stands against it.
pub fn probe_snapshotter(
    trees: &std::path::Path,
    place: &Place,
    snapshotter: lithify_worker::Snapshotter,
) -> Result<(), Failure> {
    Worker::start(place, tree_folder(trees, place)?, Some(snapshotter))?;
    Ok(())
}
