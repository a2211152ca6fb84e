//! Writing a cache: what a build asked for and made, in few and large objects.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use lithify_oci::manifest::canonical_json;
use lithify_oci::{Blobs, Descriptor, Digest, NewBlob};

use super::format::{
    Contents, LayerEntry, MOUNT, MountEntry, OBJECT, Object, PACK, PACK_BYTES, PackEntry, RECORDS,
    RecordEntry, SMALL_BYTES, manifest,
};
use super::import::Cache;
use super::memory::Memory;
use super::{Depot, DepotError};
use crate::{Error, Key, LayerFacts, Store};

/// How many objects are sent at once.
const PARALLEL: usize = 4;

/// Which steps' results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those whose layers are in the image.
    #[default]
    Min,
    /// All.
    Max,
}

/// A cache to be written at the end of a build.
pub struct Export<'a> {
    /// Where to.
    pub depot: &'a dyn Depot,
    /// Which steps.
    pub mode: Mode,
    /// The layers of the image, by diffID as the steps made them.
    pub layers: &'a [Digest],
    /// Contents of cache mounts that were archived for this; their blobs are in the store.
    pub mounts: Vec<MountEntry>,
    /// Ids of cache mounts whose contents stay as they are where `mounts` has no newer ones.
    pub kept_mounts: &'a [String],
}

/// Sends large layers while the build is going on: each that is recorded, until `recorded` ends. A failure is no news yet:
/// the export at the end meets it again.
pub fn send_early(depot: &dyn Depot, store: &Store, recorded: &Receiver<Digest>) {
    for diff_id in recorded {
        let Ok(Some(facts)) = store.layer(&diff_id) else { continue };
        let Some(blob) = facts.blobs.first().filter(|blob| blob.descriptor.size_bytes > SMALL_BYTES) else {
            continue;
        };
        if depot.put(&blob.descriptor, store).is_err() {
            return;
        }
    }
}

impl Export<'_> {
    /// Writes the cache: all that this handle of the store looked up with success or recorded. Objects that are there
    /// are not sent again. What stood under the name before is replaced.
    ///
    /// # Errors
    /// A place that does not take it, and failures of the store.
    pub fn run(self, store: &Store) -> Result<(), DepotError> {
        let previous = Cache::read(self.depot).ok().flatten();
        let mut content = Content { store, memory: Memory::new(u64::MAX) };
        let mut contents = Contents::new();
        let mut wanted = Wanted::default();
        for (key, diff_id) in self.chosen(store) {
            let failed = |error: Error| DepotError::new(error);
            let Some(facts) = store.layer(&diff_id).map_err(failed)? else { continue };
            let Some(layer) = content.layer(diff_id, &facts).map_err(failed)? else { continue };
            let Some(record) = content.record(&key, diff_id).map_err(failed)? else { continue };
            wanted.add(&layer.media_type, layer.blob);
            layer.catalogue.iter().chain(&record.why).for_each(|object| wanted.add(OBJECT, *object));
            if !contents.layers.iter().any(|known| known.diff_id == diff_id) {
                contents.layers.push(layer);
            }
            contents.records.push(record);
        }
        contents.mounts = self.mounts(&previous);
        for mount in &contents.mounts {
            wanted.alone.push(Descriptor::new(MOUNT, mount.blob, mount.size_bytes));
        }
        let mut objects = wanted.alone;
        let (packs, sizes) = self.packs(&mut content, wanted.small, previous.as_ref())?;
        contents.packs = packs;
        objects.extend(sizes);
        let records = contents.to_bytes();
        let size_bytes = records.len() as u64;
        let records = Descriptor::new(RECORDS, content.memory.put(records), size_bytes);
        self.send(&content, objects.iter().chain([&records]))?;
        self.depot.publish(&canonical_json(&manifest(records, objects)))
    }

    /// The records to write: each key once.
    fn chosen(&self, store: &Store) -> Vec<(Key, Digest)> {
        let mut seen = HashSet::new();
        let is_wanted = |layer: &Digest| self.mode == Mode::Max || self.layers.contains(layer);
        let chosen = store.answers().into_iter().filter(|(key, layer)| is_wanted(layer) && seen.insert(*key));
        chosen.collect()
    }

    /// New contents of cache mounts, and those that stay.
    fn mounts(&self, previous: &Option<Cache>) -> Vec<MountEntry> {
        let mut mounts = self.mounts.clone();
        let kept = previous.iter().flat_map(|previous| &previous.contents.mounts);
        for mount in kept.filter(|mount| self.kept_mounts.contains(&mount.id)) {
            if !mounts.iter().any(|new| new.name == mount.name) {
                mounts.push(mount.clone());
            }
        }
        mounts.sort_by(|one, other| (&one.id, one.name).cmp(&(&other.id, other.name)));
        mounts
    }

    /// Packs that hold the small objects: those that are there already as far as most of them is still wanted, and new ones.
    fn packs(
        &self,
        content: &mut Content<'_>,
        small: Vec<Object>,
        previous: Option<&Cache>,
    ) -> Result<(Vec<PackEntry>, Vec<Descriptor>), DepotError> {
        let mut missing: HashSet<Digest> = small.iter().map(|object| object.digest).collect();
        let mut packs = vec![];
        let mut descriptors = vec![];
        let nothing = Memory::new(0);
        for pack in previous.iter().flat_map(|previous| &previous.contents.packs) {
            let Some(size_bytes) = pack.size_bytes() else { continue };
            let used = pack.members.iter().filter(|member| missing.contains(&member.digest));
            let used_bytes: u64 = used.map(|member| member.size_bytes).sum();
            let descriptor = Descriptor::new(PACK, pack.digest, size_bytes);
            if used_bytes * 2 >= size_bytes && used_bytes > 0 && self.depot.put(&descriptor, &nothing).is_ok()
            {
                pack.members.iter().for_each(|member| _ = missing.remove(&member.digest));
                packs.push(pack.clone());
                descriptors.push(descriptor);
            }
        }
        let mut open = vec![];
        let mut members = vec![];
        let rest = small.iter().filter(|object| missing.contains(&object.digest));
        let mut rest = rest.peekable();
        while let Some(object) = rest.next() {
            let failed =
                |error| DepotError::new(format_args!("the store does not give {}: {error}", object.digest));
            content.open(&object.digest).and_then(|mut from| from.read_to_end(&mut open)).map_err(failed)?;
            members.push(*object);
            if open.len() as u64 >= PACK_BYTES || rest.peek().is_none() {
                let size_bytes = open.len() as u64;
                let digest = content.memory.put(std::mem::take(&mut open));
                packs.push(PackEntry { digest, members: std::mem::take(&mut members) });
                descriptors.push(Descriptor::new(PACK, digest, size_bytes));
            }
        }
        Ok((packs, descriptors))
    }

    /// Sends objects, a few at once.
    fn send<'o>(
        &self,
        content: &Content<'_>,
        objects: impl Iterator<Item = &'o Descriptor>,
    ) -> Result<(), DepotError> {
        let objects: Vec<&Descriptor> = objects.collect();
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(objects.len()) {
                scope.spawn(|| {
                    while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed))
                        && !stopped.load(Ordering::Relaxed)
                    {
                        if let Err(error) = self.depot.put(object, content) {
                            stopped.store(true, Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                });
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// The objects that a cache needs, each once.
#[derive(Default)]
struct Wanted {
    seen: BTreeSet<Digest>,
    alone: Vec<Descriptor>,
    small: Vec<Object>,
}

impl Wanted {
    fn add(&mut self, media_type: &str, object: Object) {
        if !self.seen.insert(object.digest) {
            return;
        }
        match object.size_bytes <= SMALL_BYTES {
            true => self.small.push(object),
            false => self.alone.push(Descriptor::new(media_type, object.digest, object.size_bytes)),
        }
    }
}

/// What can be sent: blobs of the store, and what was made for this cache.
struct Content<'a> {
    store: &'a Store,
    memory: Memory,
}

impl Content<'_> {
    /// A layer as the cache says it; `None` where it is neither here nor to be had.
    fn layer(&self, diff_id: Digest, facts: &LayerFacts) -> Result<Option<LayerEntry>, Error> {
        let mut found = None;
        for blob in &facts.blobs {
            if found.is_none() && self.store.is_available(&blob.descriptor.digest)? {
                found = Some(blob);
            }
        }
        let Some(blob) = found else { return Ok(None) };
        let catalogue = match &facts.catalogue {
            Some(digest) => self.store.available_size_bytes(digest)?,
            None => None,
        };
        Ok(Some(LayerEntry {
            diff_id,
            size_bytes: Some(facts.size_bytes).filter(|size| *size > 0),
            codec: blob.codec.clone(),
            media_type: blob.descriptor.media_type.clone(),
            blob: Object { digest: blob.descriptor.digest, size_bytes: blob.descriptor.size_bytes },
            catalogue: facts
                .catalogue
                .zip(catalogue)
                .map(|(digest, size_bytes)| Object { digest, size_bytes }),
        }))
    }

    /// A record as the cache says it.
    fn record(&self, key: &Key, layer: Digest) -> Result<Option<RecordEntry>, Error> {
        let Some((why, finished)) = self.store.explanation(key)? else {
            return Ok(self.store.upstream().and_then(|imports| imports.record(key)));
        };
        let bytes = why.to_json().into_bytes();
        let size_bytes = bytes.len() as u64;
        let object = Object { digest: self.memory.put(bytes), size_bytes };
        let finished = finished.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        Ok(Some(RecordEntry { key: *key.digest(), step: why.step, layer, why: Some(object), finished }))
    }
}

impl Blobs for Content<'_> {
    fn size_bytes(&self, digest: &Digest) -> io::Result<Option<u64>> {
        match self.memory.size_bytes(digest)? {
            Some(size) => Ok(Some(size)),
            None => self.store.size_bytes(digest),
        }
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        match self.memory.size_bytes(digest)? {
            Some(_) => self.memory.open(digest),
            None => match self.store.upstream().and_then(|imports| imports.explanation_bytes(digest)) {
                Some(bytes) => Ok(Box::new(io::Cursor::new(bytes))),
                None => Blobs::open(self.store, digest),
            },
        }
    }

    fn create(&self) -> io::Result<Box<dyn NewBlob>> {
        self.store.create()
    }
}
