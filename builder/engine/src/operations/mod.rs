//! What each kind of step does.
//!
//! A step is first looked up, which costs next to nothing: [`Running::look_up`]. What that does not settle is performed on
//! a thread of its own: contents are hashed and looked up again, and only then something runs.

mod agent;
mod certificates;
mod compiled;
mod copy;
mod directory;
mod exec;
mod files;
mod limits;
mod mounts;
mod output;
mod send;
mod unchanged;

use std::sync::{Arc, Mutex, PoisonError};

use std::time::{Duration, SystemTime};

use lithify_cache::key::{Chain, Key, Keyed, git_key};
use lithify_cache::{LayerBlob, LayerFacts, Missed, NewFile, Record, Store};
use lithify_graph::{Git, Op, StepId, Tree};
use lithify_worker::{FailureKind, MadeLayer, Response, Worker};

use crate::build::Running;
use crate::chain::TreeLayers;
use crate::error::Failure;
use crate::event::Origin;
use crate::log::identity;
use crate::resources::FileSource;

/// How often a step that another process runs is asked for.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// How often a step is tried whose files change while they are copied.
const MOST_CHANGES: u32 = 3;

/// How often a step is tried whose tree others take away. A machine with this many builds at once makes one of them slow, not wrong.
const MOST_LOSSES: u32 = 32;

/// What a step results in.
#[derive(Clone)]
pub(crate) enum Outcome {
    /// A file tree.
    Tree(TreeLayers),
    /// Files outside the store.
    Files(Arc<FileSource>),
    /// A commit, fetched when a step needs its files.
    Commit(Arc<Commit>),
}

/// A commit of a git repository.
pub(crate) struct Commit {
    git: Git,
    commit: String,
    files: Mutex<Option<Arc<FileSource>>>,
}

/// What a step resulted in, and where that came from.
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    pub(crate) origin: Origin,
}

impl<'a> Running<'a> {
    /// Settles a step without reading a file or starting a process; `None` where that is not possible.
    pub(crate) fn look_up(&self, id: StepId) -> Result<Option<Done>, Failure> {
        let step = self.request.graph.step(id);
        let sources = self.request.sources;
        match &step.op {
            Op::Image(image) => {
                let layers = sources.image(image)?.layers;
                self.trees.add_base(image, &layers);
                let tree = TreeLayers::new(layers.into_iter().map(|(diff_id, _)| diff_id));
                Ok(Some(Done { outcome: Outcome::Tree(tree), origin: Origin::Source }))
            }
            Op::Context(context) => {
                let files = sources.context(context)?;
                Ok(Some(Done { outcome: Outcome::Files(files), origin: Origin::Source }))
            }
            Op::Http(_) | Op::Git(_) => Ok(None),
            Op::Exec(exec) if self.reads_files(exec) => Ok(None),
            Op::Exec(exec) => self.cached_exec(id, exec, &mounts::no_contents(exec)),
            Op::MakeDirectory(make) => {
                let below = self.tree(make.base);
                self.cached(id, &directory::key(make, &below).key, &below)
            }
            Op::Copy(copy) => match self.copy_definition_key(step, copy) {
                Some(keyed) => self.cached(id, &keyed.key, &self.tree(copy.base)),
                None => Ok(None),
            },
        }
    }

    /// Does a step that [`Running::look_up`] did not settle.
    pub(crate) fn perform(&self, id: StepId) -> Result<Done, Failure> {
        let step = self.request.graph.step(id);
        match &step.op {
            Op::Exec(exec) => self.run_exec(id, step, exec),
            Op::Copy(copy) => self.run_copy(id, step, copy),
            Op::MakeDirectory(make) => self.run_make_directory(id, make),
            Op::Http(http) => self.fetched(id, || self.request.sources.http(http)),
            Op::Git(git) => self.resolve_git(id, git),
            Op::Image(_) | Op::Context(_) => unreachable!("a look-up settles images and contexts"),
        }
    }

    /// Does `work` again where what it stands on has changed meanwhile: files of a context between the look that made its key and the
    /// copy, or a tree that has become another build's next one.
    fn settled(&self, work: impl Fn() -> Result<Done, Failure>) -> Result<Done, Failure> {
        let (mut changes, mut losses) = (0, 0);
        loop {
            let result = work();
            match &result {
                Err(Failure::Changed { .. }) => changes += 1,
                Err(Failure::Worker(error)) if error.kind() == FailureKind::Missing => {
                    losses += 1;
                    self.trees.forget();
                }
                _ => return result,
            }
            if changes == MOST_CHANGES || losses == MOST_LOSSES || self.request.cancel.is_cancelled() {
                return result;
            }
        }
    }

    fn fetched(
        &self,
        id: StepId,
        fetch: impl FnOnce() -> Result<Arc<FileSource>, crate::SourceError>,
    ) -> Result<Done, Failure> {
        self.emit_start(id, None);
        Ok(Done { outcome: Outcome::Files(fetch()?), origin: Origin::Run })
    }

    /// A repository is asked what the reference means; its files wait until a step that is not cached needs them.
    fn resolve_git(&self, id: StepId, git: &Git) -> Result<Done, Failure> {
        let sources = self.request.sources;
        match sources.git_commit(git)? {
            None => self.fetched(id, || sources.git(git, None)),
            Some(commit) => {
                let commit = Commit { git: git.clone(), commit, files: Mutex::default() };
                Ok(Done { outcome: Outcome::Commit(Arc::new(commit)), origin: Origin::Source })
            }
        }
    }

    /// The files that `from` is, if it is no tree.
    fn files(&self, from: Tree) -> Result<Option<Arc<FileSource>>, Failure> {
        let Tree::Of(step) = from else { return Ok(None) };
        match self.outcome(step) {
            Outcome::Tree(_) => Ok(None),
            Outcome::Files(files) => Ok(Some(files)),
            Outcome::Commit(commit) => {
                let mut files = commit.files.lock().unwrap_or_else(PoisonError::into_inner);
                if files.is_none() {
                    *files = Some(self.request.sources.git(&commit.git, Some(&commit.commit))?);
                }
                Ok(files.clone())
            }
        }
    }

    /// What names the content of `from` without a look at its files; `None` where only they can tell.
    fn identity_of(&self, from: Tree) -> Option<Chain> {
        match from {
            Tree::Scratch => Some(Chain::default()),
            Tree::Of(step) => match self.outcome(step) {
                Outcome::Tree(layers) => Some(Chain(layers.diff_ids().to_vec())),
                Outcome::Commit(commit) => {
                    Some(Chain(vec![*git_key(&commit.git, &commit.commit).key.digest()]))
                }
                Outcome::Files(_) => None,
            },
        }
    }

    /// The result that is recorded under `key`, on top of the tree `below`.
    fn cached(&self, id: StepId, key: &Key, below: &TreeLayers) -> Result<Option<Done>, Failure> {
        if !self.may_reuse(id) {
            return Ok(None);
        }
        let Some(diff_id) = self.recorded(key)? else { return Ok(None) };
        self.log.found(id, key);
        Ok(Some(Done::cached(below.with(diff_id))))
    }

    /// Whether a step's result may come from the cache.
    fn may_reuse(&self, id: StepId) -> bool {
        self.request.settings.no_cache.allows(&self.request.graph.step(id).stage)
    }

    /// The layer that is recorded under `key`, if its blob is still there.
    fn recorded(&self, key: &Key) -> Result<Option<lithify_oci::Digest>, Failure> {
        let store = self.request.store;
        let Some(diff_id) = store.lookup(key)?.and_then(|record| record.layer) else { return Ok(None) };
        Ok(self.trees.blob(&diff_id).is_ok().then_some(diff_id))
    }

    /// Makes a layer by `work`, once for all processes that want it now, and records it under `key`.
    fn make(
        &self,
        id: StepId,
        keyed: &Keyed,
        below: &TreeLayers,
        work: impl FnOnce(&Worker, &LayerFiles) -> Result<MadeLayer, Failure>,
    ) -> Result<Done, Failure> {
        let store = self.request.store;
        let mut lock = store.lock_step(&keyed.key)?;
        if !lock.is_held() {
            self.request.observer.event(crate::Event::Waiting { step: id, process: lock.waiting_for() });
            while !lock.try_now()? {
                if self.request.cancel.is_cancelled() {
                    return Err(Failure::Cancelled);
                }
                std::thread::sleep(LOCK_POLL);
            }
        }
        // Whoever held the lock before may have made it, also where it was free just now.
        if let Some(done) = self.cached(id, &keyed.key, below)? {
            return Ok(done);
        }
        let identity = identity(self.request.graph.step(id));
        let why = match self.may_reuse(id) {
            true => self.log.explain(store, keyed, &identity)?,
            false => Missed::NotAsked,
        };
        self.emit_start(id, why.summary().as_deref());
        self.log.missed(id, keyed, why);
        let worker = self.trees.worker()?;
        let files = LayerFiles::create(store)?;
        let made = work(&worker, &files).map_err(|failure| self.unless_cancelled(failure))?;
        let (files, made) = self.with_mended_headers(&worker, below, files, made)?;
        self.keep(keyed, &identity, files, &made)?;
        let tree = below.with(made.diff_id);
        Ok(Done::ran(tree))
    }

    /// Mends compiled Python in a new layer; the tree that it made gets the name that the mended layer gives it.
    fn with_mended_headers(
        &self,
        worker: &Worker,
        below: &TreeLayers,
        files: LayerFiles,
        made: MadeLayer,
    ) -> Result<(LayerFiles, MadeLayer), Failure> {
        let mended = match made.has_compiled {
            true => self.mend_compiled(below, &files, &made)?,
            false => None,
        };
        let Some((new_files, new)) = mended else { return Ok((files, made)) };
        let (from, to) = (below.with(made.diff_id), below.with(new.diff_id));
        if let (Some(from), Some(to)) = (from.chain().last(), to.chain().last()) {
            worker.call(&lithify_worker::Request::Rename { from: *from, to: *to }, &[])?;
        }
        Ok((new_files, new))
    }

    /// Keeps a new layer and records it under `key`.
    fn keep(
        &self,
        keyed: &Keyed,
        identity: &str,
        files: LayerFiles,
        made: &MadeLayer,
    ) -> Result<(), Failure> {
        let store = self.request.store;
        files.blob.commit_as(made.blob.digest, made.blob.size_bytes)?;
        files.catalogue.commit_as(made.catalogue, made.catalogue_size_bytes)?;
        let facts = LayerFacts {
            size_bytes: made.uncompressed_size_bytes,
            blobs: vec![LayerBlob { codec: made.encoding.clone(), descriptor: made.blob.clone() }],
            catalogue: Some(made.catalogue),
        };
        store.remember_layer(&made.diff_id, &facts)?;
        let record = Record {
            layer: Some(made.diff_id),
            catalogue: Some(made.catalogue),
            finished: SystemTime::now(),
        };
        Ok(store.record(&keyed.key, &record, &keyed.explanation(identity))?)
    }

    /// That the worker is gone is no news after it was killed.
    fn unless_cancelled(&self, failure: Failure) -> Failure {
        if self.request.cancel.is_cancelled() { Failure::Cancelled } else { failure }
    }
}

/// The files that a new layer and its catalogue are written to, by the worker.
struct LayerFiles {
    blob: NewFile,
    catalogue: NewFile,
}

impl LayerFiles {
    fn create(store: &Store) -> Result<Self, Failure> {
        Ok(LayerFiles { blob: store.create_file()?, catalogue: store.create_file()? })
    }
}

/// The layer in an answer to a call that makes one.
fn made(response: Response) -> Result<MadeLayer, Failure> {
    match response {
        Response::Made(layer) => Ok(*layer),
        other => Err(lithify_worker::unexpected(&other).into()),
    }
}
