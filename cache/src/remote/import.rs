//! Reading caches: what they know, looked up by key, and their objects, fetched when somebody opens them.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use lithify_oci::{Blobs, Descriptor, Digest, Manifest};

use super::format::{
    Contents, LayerEntry, MAX_CATALOGUE_BYTES, MAX_PACK_BYTES, MAX_RECORDS_BYTES, MAX_WHY_BYTES, MountEntry,
    Object, Place, RECORDS, RecordEntry,
};
use super::memory::Memory;
use super::{Depot, DepotError, inline, verify};
use crate::{Explanation, Key, LayerBlob, LayerFacts, Record, Store};

/// How many packs are kept in memory: objects of one step lie side by side.
const PACKS_KEPT: usize = 4;

/// The caches that a build may take from, in order. They are read when the first key is asked for.
pub struct Imports {
    depots: Vec<Import>,
    warn: Box<dyn Fn(&str) + Send + Sync>,
    caches: OnceLock<Vec<Option<Cache>>>,
    answered: Mutex<Answered>,
    /// Locks of layers that are being fetched.
    fetching: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    /// Whether a cache broke after it had answered.
    failed: AtomicBool,
}

/// One cache to take from.
pub struct Import {
    /// Where it is.
    pub depot: Arc<dyn Depot>,
    /// Ids of the cache mounts that may be taken too.
    pub mounts: Vec<String>,
}

/// What caches have answered in this build.
#[derive(Default)]
struct Answered {
    /// By diffID: the cache, and the keys.
    layers: HashMap<Digest, (usize, Vec<Key>)>,
    /// The diffIDs that blobs and catalogues belong to.
    objects: HashMap<Digest, Digest>,
    /// The diffIDs that the store has checked and vouches for.
    brought: HashSet<Digest>,
}

/// One cache that could be read.
pub(super) struct Cache {
    pub(super) contents: Contents,
    /// Numbers of records.
    keys: HashMap<Digest, usize>,
    /// Numbers of layers, by diffID.
    layers: HashMap<Digest, usize>,
    pub(super) places: HashMap<Digest, (u64, Place)>,
    packs: Mutex<Vec<(Digest, Arc<Vec<u8>>)>>,
    lost: AtomicBool,
}

impl Imports {
    /// Nothing is read yet. `warn` is told once of each cache that cannot be used, and why.
    pub fn new(depots: Vec<Import>, warn: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Imports {
            depots,
            warn: Box::new(warn),
            caches: OnceLock::new(),
            answered: Mutex::default(),
            fetching: Mutex::default(),
            failed: AtomicBool::new(false),
        }
    }

    /// Reads all caches, at the same time.
    fn caches(&self) -> &[Option<Cache>] {
        self.caches.get_or_init(|| {
            std::thread::scope(|scope| {
                let reading: Vec<_> = self
                    .depots
                    .iter()
                    .map(|depot| scope.spawn(move || Cache::read(depot.depot.as_ref())))
                    .collect();
                let read = reading.into_iter().map(|one| one.join().expect("reading does not panic"));
                let usable = self.depots.iter().zip(read).map(|(depot, read)| match read {
                    Ok(Some(cache)) => Some(cache),
                    Ok(None) => {
                        (self.warn)(&format!("the cache {} is not there yet", depot.depot.name()));
                        None
                    }
                    Err(error) => {
                        (self.warn)(&format!("the cache {} is not used: {error}", depot.depot.name()));
                        None
                    }
                });
                usable.collect()
            })
        })
    }

    fn usable(&self) -> impl Iterator<Item = (usize, &Cache)> {
        let caches = self.caches().iter().enumerate();
        caches.filter_map(|(at, cache)| Some((at, cache.as_ref()?))).filter(|(_, cache)| !cache.is_lost())
    }

    fn cache(&self, at: usize) -> Option<&Cache> {
        self.caches().get(at)?.as_ref().filter(|cache| !cache.is_lost())
    }

    /// The first cache's record of a step.
    pub(crate) fn lookup(&self, key: &Key) -> Option<Record> {
        self.usable().find_map(|(at, cache)| {
            let (record, layer) = cache.find(key)?;
            let mut answered = self.answered();
            let (_, keys) = answered.layers.entry(record.layer).or_insert((at, vec![]));
            if !keys.contains(key) {
                keys.push(*key);
            }
            for object in std::iter::once(&layer.blob).chain(&layer.catalogue) {
                answered.objects.insert(object.digest, record.layer);
            }
            Some(Record {
                layer: Some(record.layer),
                catalogue: layer.catalogue.map(|object| object.digest),
                finished: UNIX_EPOCH + Duration::from_nanos(record.finished),
            })
        })
    }

    /// What the cache that answered with this layer says of it. Nobody has checked that.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Option<LayerFacts> {
        let (at, _) = self.answered().layers.get(diff_id).cloned()?;
        let layer = self.cache(at)?.layer(diff_id)?;
        let descriptor = Descriptor::new(&layer.media_type, layer.blob.digest, layer.blob.size_bytes);
        Some(LayerFacts {
            size_bytes: layer.size_bytes.unwrap_or(0),
            blobs: vec![LayerBlob { codec: layer.codec.clone(), descriptor }],
            catalogue: layer.catalogue.map(|object| object.digest),
        })
    }

    /// The layer that answered whose blob or catalogue this is.
    pub(crate) fn layer_of(&self, object: &Digest) -> Option<Digest> {
        self.answered().objects.get(object).copied()
    }

    /// Brings a layer that answered into the store, with its catalogue and the records that it answered for; whether it is
    /// there now. A cache that fails is not asked again in this build.
    pub(crate) fn materialize(&self, store: &Store, diff_id: &Digest) -> bool {
        let lock = {
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            fetching.entry(*diff_id).or_default().clone()
        };
        let _one_at_a_time = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, keys)) = self.answered().layers.get(diff_id).cloned() else { return false };
        if self.answered().brought.contains(diff_id) {
            return true;
        }
        let Some(cache) = self.cache(at) else { return false };
        let Some(layer) = cache.layer(diff_id) else { return false };
        let depot = self.depots[at].depot.as_ref();
        match cache.bring(depot, store, layer, &keys) {
            Ok(()) => {
                self.answered().brought.insert(*diff_id);
                true
            }
            Err(error) => {
                self.give_up(at, &error);
                false
            }
        }
    }

    /// Forgets a cache and all that it answered.
    fn give_up(&self, at: usize, error: &DepotError) {
        let Some(cache) = self.cache(at) else { return };
        if !cache.lost.swap(true, Ordering::SeqCst) {
            (self.warn)(&format!("the cache {} is not used any more: {error}", self.depots[at].depot.name()));
        }
        self.failed.store(true, Ordering::SeqCst);
        let mut answered = self.answered();
        answered.layers.retain(|_, (by, _)| *by != at);
        let Answered { layers, objects, .. } = &mut *answered;
        objects.retain(|_, diff_id| layers.contains_key(diff_id));
    }

    /// Whether a cache broke after it had answered since this was last asked.
    pub(crate) fn take_failed(&self) -> bool {
        self.failed.swap(false, Ordering::SeqCst)
    }

    /// A record that a cache has, as it says it.
    pub(super) fn record(&self, key: &Key) -> Option<RecordEntry> {
        self.usable().find_map(|(_, cache)| Some(cache.find(key)?.0.clone()))
    }

    /// The size of an object of a layer that answered.
    pub(crate) fn size_bytes(&self, object: &Digest) -> Option<u64> {
        let diff_id = self.layer_of(object)?;
        let (at, _) = self.answered().layers.get(&diff_id).cloned()?;
        self.cache(at)?.places.get(object).map(|(size_bytes, _)| *size_bytes)
    }

    /// The bytes of an explanation, for another cache.
    pub(super) fn explanation_bytes(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.usable().find_map(|(at, cache)| {
            let why = cache.contents.records.iter().filter_map(|record| record.why);
            let why = why.into_iter().find(|why| why.digest == *digest)?;
            let memory = Memory::new(MAX_WHY_BYTES);
            cache.object(self.depots[at].depot.as_ref(), &why, &memory).ok()?;
            memory.take(digest).map(|bytes| bytes.to_vec())
        })
    }

    /// The contents of a cache mount, if a cache has them. A cache that fails is warned of and counts as one that has none.
    pub(crate) fn mount(&self, store: &Store, name: &Digest) -> Option<MountEntry> {
        self.usable().find_map(|(at, cache)| {
            let wanted =
                |mount: &&MountEntry| mount.name == *name && self.depots[at].mounts.contains(&mount.id);
            let entry = cache.contents.mounts.iter().find(wanted)?;
            let object = Object { digest: entry.blob, size_bytes: entry.size_bytes };
            match cache.object(self.depots[at].depot.as_ref(), &object, store) {
                Ok(()) => Some(entry.clone()),
                Err(error) => {
                    let (name, id) = (self.depots[at].depot.name(), &entry.id);
                    (self.warn)(&format!("the cache {name} does not give its cache mount {id}: {error}"));
                    None
                }
            }
        })
    }

    fn answered(&self) -> std::sync::MutexGuard<'_, Answered> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    /// Reads manifest and records; `None` where there is no cache yet.
    pub(super) fn read(depot: &dyn Depot) -> Result<Option<Self>, DepotError> {
        let Some(bytes) = depot.manifest()? else { return Ok(None) };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| DepotError::new(format_args!("its manifest cannot be read: {error}")))?;
        let config = &manifest.config;
        if config.size_bytes > MAX_RECORDS_BYTES {
            return Err(DepotError::new(format_args!("its records have {} bytes", config.size_bytes)));
        }
        let memory = Memory::new(MAX_RECORDS_BYTES);
        depot.fetch(config, &memory)?;
        let records =
            memory.take(&config.digest).ok_or_else(|| DepotError::new("its records are missing"))?;
        let contents = match config.media_type.as_str() {
            RECORDS => Contents::parse(&records)?,
            _ => inline::contents(&records, &manifest)?,
        };
        Ok(Some(Cache::new(contents, &manifest)))
    }

    fn new(contents: Contents, manifest: &Manifest) -> Self {
        let places = contents.places(manifest);
        let is_here = |object: &Object| {
            places.get(&object.digest).is_some_and(|(size_bytes, _)| *size_bytes == object.size_bytes)
        };
        let sound = |layer: &LayerEntry| {
            is_here(&layer.blob)
                && layer.catalogue.is_none_or(|catalogue| {
                    is_here(&catalogue) && catalogue.size_bytes <= MAX_CATALOGUE_BYTES
                })
        };
        let layers: HashMap<_, _> = contents
            .layers
            .iter()
            .enumerate()
            .filter(|(_, layer)| sound(layer))
            .map(|(number, layer)| (layer.diff_id, number))
            .collect();
        let keys = contents.records.iter().enumerate();
        let keys = keys.filter(|(_, record)| layers.contains_key(&record.layer));
        let keys = keys.map(|(number, record)| (record.key, number)).collect();
        Cache { contents, keys, layers, places, packs: Mutex::default(), lost: AtomicBool::new(false) }
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    fn find(&self, key: &Key) -> Option<(&RecordEntry, &LayerEntry)> {
        let record = &self.contents.records[*self.keys.get(key.digest())?];
        Some((record, self.layer(&record.layer)?))
    }

    fn layer(&self, diff_id: &Digest) -> Option<&LayerEntry> {
        self.layers.get(diff_id).map(|number| &self.contents.layers[*number])
    }

    /// Fetches a layer with all that belongs to it, checks it, and lets the store vouch for it.
    fn bring(
        &self,
        depot: &dyn Depot,
        store: &Store,
        layer: &LayerEntry,
        keys: &[Key],
    ) -> Result<(), DepotError> {
        let LayerEntry { diff_id, size_bytes, codec, media_type, blob, catalogue } = layer;
        let unusable = |error: &dyn std::fmt::Display| {
            DepotError::new(format_args!("its layer {diff_id} cannot be used: {error}"))
        };
        self.object(depot, blob, store)?;
        let claimed = match catalogue {
            Some(catalogue) => {
                self.object(depot, catalogue, store)?;
                Some(read(store, &catalogue.digest).map_err(|error| unusable(&error))?)
            }
            None => None,
        };
        let opened = store.open_blob(&blob.digest).map_err(|error| unusable(&error))?;
        let (size_bytes, catalogue) =
            verify::layer(opened, diff_id, *size_bytes, claimed).map_err(|error| unusable(&error))?;
        let catalogue = store_bytes(store, &catalogue).map_err(|error| unusable(&error))?;
        let descriptor = Descriptor::new(media_type, blob.digest, blob.size_bytes);
        let facts = LayerFacts {
            size_bytes,
            blobs: vec![LayerBlob { codec: codec.clone(), descriptor }],
            catalogue: Some(catalogue),
        };
        let stored = store.remember_layer(diff_id, &facts).and_then(|()| {
            let found = keys.iter().filter_map(|key| Some((key, self.find(key)?.0)));
            found.into_iter().try_for_each(|(key, record)| {
                let finished = UNIX_EPOCH + Duration::from_nanos(record.finished);
                let kept = Record { layer: Some(*diff_id), catalogue: Some(catalogue), finished };
                store.record(key, &kept, &self.explanation(depot, record))
            })
        });
        stored.map_err(|error| unusable(&error))
    }

    /// What the key was made of; empty where the cache does not say, since it only serves messages.
    fn explanation(&self, depot: &dyn Depot, record: &RecordEntry) -> Explanation {
        let read = || {
            let why = record.why?;
            let memory = Memory::new(MAX_WHY_BYTES);
            self.object(depot, &why, &memory).ok()?;
            let bytes = memory.take(&why.digest)?;
            let mut why = Explanation::from_json(&record.step, std::str::from_utf8(&bytes).ok()?).ok()?;
            // They are shown on terminals.
            let is_harmless = |c: char| c == '\t' || !c.is_control();
            why.parts.iter_mut().for_each(|part| part.name.retain(is_harmless));
            why.step.retain(is_harmless);
            Some(why)
        };
        read().unwrap_or_else(|| Explanation { step: record.step.clone(), parts: vec![] })
    }

    /// Brings an object: by itself, or with the pack that it is in.
    pub(super) fn object(
        &self,
        depot: &dyn Depot,
        object: &Object,
        into: &dyn Blobs,
    ) -> Result<(), DepotError> {
        let unusable = |error: std::io::Error| DepotError::new(error);
        if into.size_bytes(&object.digest).map_err(unusable)? == Some(object.size_bytes) {
            return Ok(());
        }
        let missing = || DepotError::new(format_args!("it does not have {}", object.digest));
        let (size_bytes, place) = self.places.get(&object.digest).ok_or_else(missing)?;
        if *size_bytes != object.size_bytes {
            return Err(missing());
        }
        match place {
            Place::Alone(descriptor) => depot.fetch(descriptor, into),
            Place::Packed { pack, offset } => {
                let bytes = self.pack(depot, *pack)?;
                let end = offset.saturating_add(object.size_bytes);
                let member = usize::try_from(*offset).ok().zip(usize::try_from(end).ok());
                let member = member.and_then(|(from, to)| bytes.get(from..to)).ok_or_else(missing)?;
                let mut new = into.create().map_err(unusable)?;
                new.write_all(member).map_err(unusable)?;
                new.commit(Some(&object.digest)).map_err(unusable).map(drop)
            }
        }
    }

    fn pack(&self, depot: &dyn Depot, number: usize) -> Result<Arc<Vec<u8>>, DepotError> {
        let entry = &self.contents.packs[number];
        // Held while it is fetched: whoever else needs it waits rather than fetching it again.
        let mut kept = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = kept.iter().find(|(digest, _)| *digest == entry.digest) {
            return Ok(bytes.clone());
        }
        let missing = || DepotError::new(format_args!("it does not have {}", entry.digest));
        let Some((_, Place::Alone(descriptor))) = self.places.get(&entry.digest) else {
            return Err(missing());
        };
        let memory = Memory::new(MAX_PACK_BYTES);
        depot.fetch(descriptor, &memory)?;
        let bytes = memory.take(&entry.digest).ok_or_else(missing)?;
        kept.truncate(PACKS_KEPT - 1);
        kept.insert(0, (entry.digest, bytes.clone()));
        Ok(bytes)
    }
}

fn read(store: &Store, digest: &Digest) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![];
    store.open_blob(digest)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Keeps bytes as a blob, where they are not kept yet.
pub(super) fn store_bytes(store: &Store, bytes: &[u8]) -> std::io::Result<Digest> {
    let digest = Digest::of(bytes);
    if store.size_bytes(&digest)?.is_none() {
        let mut blob = store.create()?;
        std::io::Write::write_all(&mut blob, bytes)?;
        blob.commit(Some(&digest))?;
    }
    Ok(digest)
}
