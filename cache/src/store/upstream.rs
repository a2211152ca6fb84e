//! Caches of other machines behind the store: what is not here is looked up there, and fetched when it is opened.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use lithify_oci::Digest;

use super::Store;
use crate::remote::Imports;
use crate::{Error, Key, LayerFacts, MountEntry, Record};

/// How many layers are fetched at once.
const PARALLEL: usize = 4;

impl Store {
    /// Puts caches behind all handles of this store in this process. Only the first call has an effect.
    pub fn attach(&self, imports: Imports) {
        let _ = self.0.upstream.set(imports);
    }

    /// The caches behind this store.
    pub(crate) fn upstream(&self) -> Option<&Imports> {
        self.0.upstream.get()
    }

    /// Whether a cache broke after it had answered, since this was last asked. What was built on its answers may be
    /// missing: build again, and it is not asked any more.
    pub fn lost_upstream(&self) -> bool {
        self.upstream().is_some_and(Imports::take_failed)
    }

    /// The keys that were looked up with success or recorded by this process, with their layers, in that order.
    pub fn answers(&self) -> Vec<(Key, Digest)> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).seen.clone()
    }

    /// From now on, each layer that is recorded. Ends with [`Store::stop_watching`].
    pub fn watch_records(&self) -> Receiver<Digest> {
        let (sender, receiver) = channel();
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).watchers.push(sender);
        receiver
    }

    /// Ends what [`Store::watch_records`] began.
    pub fn stop_watching(&self) {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).watchers.clear();
    }

    /// Notes that a key has been answered with `layer`.
    pub(super) fn answered(&self, key: &Key, layer: Option<Digest>, is_new: bool) {
        let Some(layer) = layer else { return };
        let mut answers = self.0.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.seen.push((*key, layer));
        if is_new {
            answers.watchers.retain(|watcher| watcher.send(layer).is_ok());
        }
    }

    /// What the caches behind the store know of a key. A layer that is here already is recorded at once; others when they
    /// are fetched.
    pub(super) fn lookup_upstream(&self, key: &Key) -> Result<Option<Record>, Error> {
        let Some(imports) = self.upstream() else { return Ok(None) };
        let Some(record) = imports.lookup(key) else { return Ok(None) };
        if let Some(layer) = &record.layer {
            let here = self.local_layer(layer)?;
            let blobs = here.iter().flat_map(|facts| &facts.blobs);
            for blob in blobs {
                if self.trusted(&blob.descriptor.digest)?.is_some() && imports.materialize(self, layer) {
                    break;
                }
            }
        }
        Ok(Some(record))
    }

    /// What a cache that answered in this build says of a layer that is not here.
    pub(super) fn upstream_layer(&self, diff_id: &Digest) -> Option<LayerFacts> {
        self.upstream()?.layer(diff_id)
    }

    /// Fetches what a blob belongs to, where a cache answered with that; whether it is here now.
    pub(super) fn fetch(&self, digest: &Digest) -> Result<bool, Error> {
        let Some(imports) = self.upstream() else { return Ok(false) };
        let Some(diff_id) = imports.layer_of(digest) else { return Ok(false) };
        Ok(imports.materialize(self, &diff_id) && self.trusted(digest)?.is_some())
    }

    /// Whether a blob is here, or can be fetched when it is opened.
    ///
    /// # Errors
    /// A failure to look.
    pub fn is_available(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.available_size_bytes(digest)?.is_some())
    }

    /// The size in bytes of a blob that is here or can be fetched.
    pub(crate) fn available_size_bytes(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        self.note(digest)?;
        match self.trusted(digest)? {
            Some(size_bytes) => Ok(Some(size_bytes)),
            None => Ok(self.upstream().and_then(|imports| imports.size_bytes(digest))),
        }
    }

    /// Fetches blobs that are not here, several at once; whether all are here now.
    ///
    /// # Errors
    /// A failure to look.
    pub fn fetch_all(&self, digests: &[Digest]) -> Result<bool, Error> {
        let mut missing = vec![];
        for digest in digests {
            if self.blob_size_bytes(digest)?.is_none() {
                missing.push(digest);
            }
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<bool, Error> {
            let mut all = true;
            while let Some(digest) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                all &= self.fetch(digest)?;
            }
            Ok(all)
        };
        std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..PARALLEL.min(missing.len())).map(|_| scope.spawn(work)).collect();
            let mut all = work()?;
            for helper in helpers {
                all &= helper.join().expect("fetching does not panic")?;
            }
            Ok(all)
        })
    }

    /// The contents that a cache has for a cache mount; their blob is in the store then.
    pub fn upstream_mount(&self, name: &str) -> Option<MountEntry> {
        self.upstream()?.mount(self, &Digest::of(name))
    }
}
