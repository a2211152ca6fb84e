use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use lithify_oci::layer::{Compression, LayerWriter, Times};
use lithify_oci::manifest::canonical_json;
use lithify_oci::{Blobs, Descriptor, Digest, Entry, EntryKind, EntrySink, Manifest, Timestamp, TreePath};

use super::format::{Contents, LayerEntry, Object, PackEntry, RecordEntry, SMALL_BYTES};
use super::*;
use crate::key::Part;
use crate::{Explanation, Key, LayerBlob, LayerFacts, Record, Store};

/// A place in memory that remembers what it was asked for.
#[derive(Default)]
struct Shelf {
    objects: Mutex<HashMap<Digest, Vec<u8>>>,
    manifest: Mutex<Option<Vec<u8>>>,
    asked: Mutex<Vec<String>>,
}

impl Shelf {
    fn objects(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Vec<u8>>> {
        self.objects.lock().unwrap()
    }

    fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn manifest(&self) -> Manifest {
        serde_json::from_slice(self.manifest.lock().unwrap().as_ref().unwrap()).unwrap()
    }

    fn contents(&self) -> Contents {
        Contents::parse(&self.objects()[&self.manifest().config.digest]).unwrap()
    }

    fn put_object(&self, bytes: &[u8]) -> Object {
        let digest = Digest::of(bytes);
        self.objects().insert(digest, bytes.to_vec());
        Object { digest, size_bytes: bytes.len() as u64 }
    }

    /// Rewrites the records, as somebody who may write to the cache can.
    fn poison(&self, change: impl FnOnce(&mut Contents, &mut Manifest)) {
        let (mut contents, mut manifest) = (self.contents(), self.manifest());
        change(&mut contents, &mut manifest);
        let records = self.put_object(&contents.to_bytes());
        manifest.config.digest = records.digest;
        manifest.config.size_bytes = records.size_bytes;
        *self.manifest.lock().unwrap() = Some(canonical_json(&manifest));
    }
}

impl Depot for Shelf {
    fn name(&self) -> String {
        "shelf".into()
    }

    fn manifest(&self) -> Result<Option<Vec<u8>>, DepotError> {
        self.asked.lock().unwrap().push("manifest".into());
        Ok(self.manifest.lock().unwrap().clone())
    }

    fn fetch(&self, object: &Descriptor, into: &dyn Blobs) -> Result<(), DepotError> {
        self.asked.lock().unwrap().push(format!("fetch {}", object.media_type));
        let bytes = self.objects().get(&object.digest).cloned();
        let bytes = bytes.ok_or_else(|| DepotError::new("no such object"))?;
        if bytes.len() as u64 != object.size_bytes {
            return Err(DepotError::new("wrong size"));
        }
        let mut new = into.create().map_err(DepotError::new)?;
        new.write_all(&bytes).map_err(DepotError::new)?;
        new.commit(Some(&object.digest)).map(drop).map_err(DepotError::new)
    }

    fn put(&self, object: &Descriptor, from: &dyn Blobs) -> Result<(), DepotError> {
        if self.objects().contains_key(&object.digest) {
            return Ok(());
        }
        self.asked.lock().unwrap().push(format!("put {}", object.media_type));
        let mut bytes = vec![];
        let read = from.open(&object.digest).and_then(|mut reader| reader.read_to_end(&mut bytes));
        read.map_err(DepotError::new)?;
        self.objects().insert(object.digest, bytes);
        Ok(())
    }

    fn publish(&self, manifest: &[u8]) -> Result<(), DepotError> {
        *self.manifest.lock().unwrap() = Some(manifest.to_vec());
        Ok(())
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    (folder, store)
}

fn key(name: &str) -> Key {
    Key::from_digest(Digest::of(name))
}

/// Bytes that do not compress.
fn noise(name: &str, length: usize) -> Vec<u8> {
    (0..length.div_ceil(32))
        .flat_map(|at| *Digest::of(format!("{name} {at}")).as_bytes())
        .take(length)
        .collect()
}

/// Makes a layer of one file, as a step would, and records it.
fn step(store: &Store, name: &str, length: usize) -> Digest {
    let new = store.create_file().unwrap();
    let file = new.file().try_clone().unwrap();
    let mut writer = LayerWriter::new(file, Compression::default(), Times::At(0)).unwrap();
    let content = noise(name, length);
    let entry = Entry {
        path: TreePath::cleaned(name.as_bytes()),
        kind: EntryKind::File { size_bytes: length as u64 },
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: Timestamp { seconds: 1_700_000_000, nanoseconds: 5 },
        xattrs: BTreeMap::from([(b"user.kept".to_vec(), b"in the catalogue".to_vec())]),
    };
    writer.entry(&entry, &mut content.as_slice()).unwrap();
    let (_, lithify_oci::layer::Written { layer, catalogue, .. }) = writer.finish().unwrap();
    new.commit_as(layer.blob.digest, layer.blob.size_bytes).unwrap();
    let catalogue = import::store_bytes(store, &catalogue).unwrap();
    let facts = LayerFacts {
        size_bytes: layer.uncompressed_size_bytes,
        blobs: vec![LayerBlob { codec: Compression::default().identity(), descriptor: layer.blob }],
        catalogue: Some(catalogue),
    };
    store.remember_layer(&layer.diff_id, &facts).unwrap();
    let record = Record {
        layer: Some(layer.diff_id),
        catalogue: Some(catalogue),
        finished: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    };
    let why = Explanation { step: format!("step {name}"), parts: vec![Part::new("env A", b"1")] };
    store.record(&key(name), &record, &why).unwrap();
    layer.diff_id
}

fn export(store: &Store, shelf: &Shelf, mode: Mode, layers: &[Digest]) {
    Export { depot: shelf, mode, layers, mounts: vec![], kept_mounts: &[] }.run(store).unwrap();
}

/// A store with this cache behind it, and what was warned of.
fn behind(shelf: &Arc<Shelf>) -> (tempfile::TempDir, Store, Arc<Mutex<Vec<String>>>) {
    let (folder, store) = store();
    let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = warnings.clone();
    let import = Import { depot: shelf.clone(), mounts: vec![] };
    store.attach(Imports::new(vec![import], move |warning| told.lock().unwrap().push(warning.into())));
    (folder, store, warnings)
}

fn open(store: &Store, diff_id: &Digest) -> bool {
    let facts = store.layer(diff_id).unwrap();
    facts.is_some_and(|facts| store.open_blob(&facts.blobs[0].descriptor.digest).is_ok())
}

const LARGE: usize = SMALL_BYTES as usize * 2;

#[test]
fn what_one_store_has_another_finds() {
    let (_one, store) = store();
    let small: Vec<Digest> = (0..20).map(|number| step(&store, &format!("s{number}"), 100)).collect();
    let large = step(&store, "large", LARGE);
    let shelf = Arc::new(Shelf::default());
    export(&store, &shelf, Mode::Max, &[]);
    let sent = shelf.take_asked();
    assert_eq!(sent.iter().filter(|asked| asked.starts_with("put")).count(), 3, "{sent:?}");

    let (_other, other, warnings) = behind(&shelf);
    assert_eq!(other.lookup(&key("unknown")).unwrap(), None);
    assert_eq!(other.lookup(&key("large")).unwrap().unwrap().layer, Some(large));
    assert_eq!(other.lookup(&key("s3")).unwrap().unwrap().layer, Some(small[3]));
    assert_eq!(shelf.take_asked(), ["manifest".into(), format!("fetch {}", format::RECORDS)]);

    // One pack for all small layers, and nothing of what nobody looked up.
    assert!(open(&other, &small[3]));
    assert_eq!(shelf.take_asked(), [format!("fetch {}", format::PACK)]);
    assert_eq!(other.lookup(&key("s4")).unwrap().unwrap().layer, Some(small[4]));
    assert!(open(&other, &small[4]));
    assert_eq!(shelf.take_asked(), Vec::<String>::new());
    assert!(open(&other, &large));
    assert_eq!(shelf.take_asked().len(), 1);
    assert!(!other.lost_upstream() && warnings.lock().unwrap().is_empty());
    assert_eq!(other.verify().unwrap(), []);

    // What was fetched is the store's own: real times, explanation and all.
    let again = Store::open(other.root()).unwrap();
    let record = again.lookup(&key("s3")).unwrap().unwrap();
    assert_eq!(record.finished, UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    assert_eq!(again.explanation(&key("s3")).unwrap().unwrap().0.parts.len(), 1);
    assert_eq!(again.lookup(&key("s5")).unwrap(), None);
    let catalogue = again.layer(&small[3]).unwrap().unwrap().catalogue.unwrap();
    assert_eq!(catalogue, store.layer(&small[3]).unwrap().unwrap().catalogue.unwrap());
}

#[test]
fn what_is_there_is_not_sent_again() {
    let (_one, store) = store();
    (0..20).for_each(|number| _ = step(&store, &format!("s{number}"), 2000));
    step(&store, "large", LARGE);
    let shelf = Arc::new(Shelf::default());
    export(&store, &shelf, Mode::Max, &[]);
    let (_other, other, _) = behind(&shelf);
    (0..20).for_each(|number| _ = other.lookup(&key(&format!("s{number}"))).unwrap().unwrap());
    other.lookup(&key("large")).unwrap().unwrap();
    shelf.take_asked();
    let before = shelf.contents();
    export(&other, &shelf, Mode::Max, &[]);
    assert_eq!(shelf.take_asked(), ["manifest".into(), format!("fetch {}", format::RECORDS)]);
    assert_eq!(shelf.contents(), before);

    // One new small layer is one new pack.
    step(&other, "new", 100);
    export(&other, &shelf, Mode::Max, &[]);
    let puts: Vec<_> = shelf.take_asked().into_iter().filter(|asked| asked.starts_with("put")).collect();
    assert_eq!(puts.len(), 2, "{puts:?}");
    assert_eq!(shelf.contents().packs.len(), 2);
}

#[test]
fn a_cache_of_another_place_gets_everything() {
    let (_one, store) = store();
    let (small, large) = (step(&store, "small", 10), step(&store, "large", LARGE));
    let (first, second) = (Arc::new(Shelf::default()), Arc::new(Shelf::default()));
    export(&store, &first, Mode::Max, &[]);
    let (_other, other, _) = behind(&first);
    other.lookup(&key("small")).unwrap().unwrap();
    other.lookup(&key("large")).unwrap().unwrap();
    export(&other, &second, Mode::Max, &[]);
    let (_third, third, warnings) = behind(&second);
    for (name, layer) in [("small", small), ("large", large)] {
        assert_eq!(third.lookup(&key(name)).unwrap().unwrap().layer, Some(layer));
        assert!(open(&third, &layer), "{warnings:?}");
        assert_eq!(third.explanation(&key(name)).unwrap().unwrap().0.parts.len(), 1);
    }
}

#[test]
fn the_smaller_mode_has_the_image_s_layers_only() {
    let (_one, store) = store();
    let (_, own) = (step(&store, "stage", 10), step(&store, "own", 10));
    let shelf = Arc::new(Shelf::default());
    export(&store, &shelf, Mode::Min, &[own]);
    let (_other, other, _) = behind(&shelf);
    assert_eq!(other.lookup(&key("stage")).unwrap(), None);
    assert!(other.lookup(&key("own")).unwrap().is_some());
}

/// What a lie leads to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The cache is not read at all.
    Refused,
    /// The record is left out.
    Unknown,
    /// The cache is given up when the layer is opened.
    GivenUp,
    /// It does not matter.
    Used,
}

fn lie(expected: Outcome, about: &str, change: impl FnOnce(&Shelf, &mut Contents, &mut Manifest)) {
    let (_one, store) = store();
    let diff_id = step(&store, "victim", 1000);
    step(&store, "other", 1000);
    step(&store, "large", LARGE);
    let shelf = Arc::new(Shelf::default());
    export(&store, &shelf, Mode::Max, &[]);
    shelf.poison(|contents, manifest| change(&shelf, contents, manifest));
    let (_other, other, warnings) = behind(&shelf);
    let found = other.lookup(&key("victim")).unwrap();
    let outcome = match found.and_then(|record| record.layer) {
        None if warnings.lock().unwrap().is_empty() => Outcome::Unknown,
        None => Outcome::Refused,
        Some(layer) if open(&other, &layer) => Outcome::Used,
        Some(_) => Outcome::GivenUp,
    };
    assert_eq!(outcome, expected, "{about}: {warnings:?}");
    assert_eq!(other.lost_upstream(), expected == Outcome::GivenUp, "{about}");
    if expected == Outcome::GivenUp {
        // Nothing of it is believed: neither now nor by the next process.
        assert_eq!(other.lookup(&key("victim")).unwrap(), None, "{about}");
        assert_eq!(other.layer(&diff_id).unwrap(), None, "{about}");
        assert_eq!(warnings.lock().unwrap().len(), 1, "{about}");
        let again = Store::open(other.root()).unwrap();
        assert_eq!(again.lookup(&key("victim")).unwrap(), None, "{about}");
    }
    assert_eq!(other.verify().unwrap(), [], "{about}");
}

fn victim(contents: &mut Contents) -> &mut LayerEntry {
    let layer = contents.records.iter().find(|record| record.key == *key("victim").digest()).unwrap().layer;
    contents.layers.iter_mut().find(|entry| entry.diff_id == layer).unwrap()
}

fn other_layer(contents: &Contents) -> LayerEntry {
    let layer = contents.records.iter().find(|record| record.key == *key("other").digest()).unwrap().layer;
    contents.layers.iter().find(|entry| entry.diff_id == layer).unwrap().clone()
}

/// Adds an object that stands by itself.
fn alone(shelf: &Shelf, manifest: &mut Manifest, bytes: &[u8]) -> Object {
    let object = shelf.put_object(bytes);
    manifest.layers.push(Descriptor::new("x", object.digest, object.size_bytes));
    object
}

#[test]
fn lies_about_layers() {
    lie(Outcome::Used, "none", |_, _, _| {});
    lie(Outcome::GivenUp, "another layer's blob", |_, contents, _| {
        victim(contents).blob = other_layer(contents).blob;
    });
    lie(Outcome::GivenUp, "another layer's catalogue", |_, contents, _| {
        victim(contents).catalogue = other_layer(contents).catalogue;
    });
    lie(Outcome::GivenUp, "another size", |_, contents, _| victim(contents).size_bytes = Some(1));
    lie(Outcome::GivenUp, "a huge size", |_, contents, _| victim(contents).size_bytes = Some(u64::MAX));
    lie(Outcome::Used, "no catalogue", |_, contents, _| victim(contents).catalogue = None);
    lie(Outcome::Unknown, "a blob that is not in the manifest", |shelf, contents, _| {
        victim(contents).blob = shelf.put_object(b"foreign");
    });
    lie(Outcome::Unknown, "a blob of another size", |_, contents, _| victim(contents).blob.size_bytes += 1);
    lie(Outcome::Unknown, "a huge catalogue", |_, contents, _| {
        victim(contents).catalogue.as_mut().unwrap().size_bytes = u64::MAX;
    });
    lie(Outcome::Unknown, "a record of a layer that is not there", |_, contents, _| {
        let gone = victim_blob(contents);
        contents.layers.retain(|layer| layer.blob != gone);
    });
    lie(Outcome::GivenUp, "a blob that is no layer", |shelf, contents, manifest| {
        victim(contents).blob = alone(shelf, manifest, b"no layer at all");
    });
    lie(Outcome::GivenUp, "a catalogue that is none", |shelf, contents, manifest| {
        victim(contents).catalogue = Some(alone(shelf, manifest, b"no catalogue"));
    });
    lie(Outcome::GivenUp, "an object that is gone", |shelf, contents, manifest| {
        let object = alone(shelf, manifest, b"soon gone");
        victim(contents).blob = object;
        shelf.objects().remove(&object.digest);
    });
    lie(Outcome::GivenUp, "an object that is cut off", |shelf, contents, manifest| {
        let object = alone(shelf, manifest, b"cut off");
        victim(contents).blob = object;
        shelf.objects().insert(object.digest, b"cut".to_vec());
    });
}

fn victim_blob(contents: &Contents) -> Object {
    victim(&mut contents.clone()).blob
}

#[test]
fn lies_about_packs() {
    lie(Outcome::Unknown, "a pack that is not in the manifest", |shelf, contents, _| {
        contents.packs[0].digest = shelf.put_object(b"foreign pack").digest;
    });
    lie(Outcome::Unknown, "members beyond the end", |_, contents, _| {
        let digest = Digest::of("more");
        contents.packs[0].members.insert(0, Object { digest, size_bytes: u64::MAX - 5 });
    });
    lie(Outcome::Unknown, "a sum that no number holds", |_, contents, _| {
        for name in ["a", "b"] {
            let digest = Digest::of(name);
            contents.packs[0].members.push(Object { digest, size_bytes: u64::MAX / 2 + 1 });
        }
    });
    lie(Outcome::GivenUp, "members in another order", |_, contents, _| contents.packs[0].members.reverse());
    lie(Outcome::Unknown, "a huge pack", |_, contents, manifest| {
        let digest = Digest::of("huge");
        let members = vec![Object { digest: victim_blob(contents).digest, size_bytes: 1 << 40 }];
        manifest.layers.push(Descriptor::new(format::PACK, digest, 1 << 40));
        contents.packs = vec![PackEntry { digest, members }];
    });
}

#[test]
fn lies_about_records() {
    lie(Outcome::Used, "the same key twice", |_, contents, _| {
        let mut again: RecordEntry = contents.records[0].clone();
        again.step = "\u{1b}[31mred".into();
        contents.records.push(again);
    });
    lie(Outcome::Used, "an explanation that is none", |shelf, contents, manifest| {
        let object = alone(shelf, manifest, b"[1, 2]");
        contents.records.iter_mut().for_each(|record| record.why = Some(object));
    });
    lie(Outcome::Used, "an explanation that is not there", |_, contents, _| {
        let object = Object { digest: Digest::of("nowhere"), size_bytes: 5 };
        contents.records.iter_mut().for_each(|record| record.why = Some(object));
    });
}

#[test]
fn caches_that_cannot_be_read() {
    let check = |manifest: &[u8], expected: &str| {
        let shelf = Arc::new(Shelf::default());
        *shelf.manifest.lock().unwrap() = Some(manifest.to_vec());
        let (_folder, store, warnings) = behind(&shelf);
        assert_eq!(store.lookup(&key("x")).unwrap(), None);
        assert_eq!(store.lookup(&key("y")).unwrap(), None);
        let warnings = warnings.lock().unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{warnings:?}");
        assert!(!store.lost_upstream());
    };
    let with_records = |records: Descriptor| canonical_json(&format::manifest(records, vec![]));
    check(b"no JSON", "its manifest cannot be read");
    check(b"{}", "its manifest cannot be read");
    check(&with_records(Descriptor::new(format::RECORDS, Digest::of("x"), 1)), "no such object");
    check(&with_records(Descriptor::new(format::RECORDS, Digest::of("x"), 1 << 40)), "bytes");
    for (records, expected) in [
        ("garbage", "its records cannot be read"),
        (r#"{"version":2}"#, "version 2"),
        (r#"{"version":1,"records":[{"key":"sha256:1"}]}"#, "its records cannot be read"),
    ] {
        let shelf = Arc::new(Shelf::default());
        let object = shelf.put_object(records.as_bytes());
        let records = Descriptor::new(format::RECORDS, object.digest, object.size_bytes);
        *shelf.manifest.lock().unwrap() = Some(with_records(records));
        let (_folder, store, warnings) = behind(&shelf);
        assert_eq!(store.lookup(&key("x")).unwrap(), None);
        assert!(warnings.lock().unwrap()[0].contains(expected), "{warnings:?}");
    }
}

/// A layer's facts are a cache's word only for layers that it answered for.
#[test]
fn a_layer_that_was_not_asked_for_is_not_believed() {
    let (_one, store) = store();
    let diff_id = step(&store, "victim", 1000);
    let shelf = Arc::new(Shelf::default());
    export(&store, &shelf, Mode::Max, &[]);
    let (_other, other, _) = behind(&shelf);
    other.lookup(&key("something else")).unwrap();
    assert_eq!(other.layer(&diff_id).unwrap(), None);
    let blob = store.layer(&diff_id).unwrap().unwrap().blobs[0].descriptor.digest;
    assert!(!other.is_available(&blob).unwrap() && other.open_blob(&blob).is_err());
}

#[test]
fn records_inside_an_image_are_a_function_of_its_keys() {
    let layers: Vec<Digest> = ["1", "2", "base"].map(Digest::of).to_vec();
    let records = |names: &[(&str, &str)]| -> Vec<(Key, Digest)> {
        names.iter().map(|(name, layer)| (key(name), Digest::of(layer))).collect()
    };
    let one = inline::field(&records(&[("a", "1"), ("b", "2"), ("c", "elsewhere")]), &layers, "zstd");
    let other = inline::field(&records(&[("b", "2"), ("a", "1"), ("a", "1")]), &layers, "zstd");
    assert_eq!(one, other);
}
