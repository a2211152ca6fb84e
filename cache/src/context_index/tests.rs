use std::time::Instant;

use super::*;

const NOW: i64 = 1_700_000_000;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    (folder, store)
}

fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
    Timestamp { seconds, nanoseconds }
}

fn facts() -> FileFacts {
    let old = at(NOW - 1000, 123);
    FileFacts { inode: 5, device: 6, size_bytes: 7, modified: old, changed: old }
}

fn load(store: &Store, root: &str) -> ContextIndex {
    ContextIndex::load_at(store, Path::new(root), at(NOW, 0)).unwrap()
}

fn remember(store: &Store, files: &[(&[u8], FileFacts)]) {
    let mut index = load(store, "/context");
    files.iter().for_each(|(path, facts)| index.insert(path, facts, &FileDigest::of(path)));
    index.save().unwrap();
}

#[test]
fn what_did_not_change_is_remembered() {
    let (_folder, store) = store();
    remember(&store, &[(b"b/\xff", facts()), (b"a", facts()), (b"", facts())]);
    remember(&store, &[(b"c", facts())]);
    let index = load(&store, "/context");
    for path in [&b"b/\xff"[..], b"a", b"", b"c"] {
        assert_eq!(index.digest(path, &facts()), Some(FileDigest::of(path)), "{path:?}");
    }
    assert_eq!(index.digest(b"d", &facts()), None);
    assert_eq!(load(&store, "/other").digest(b"a", &facts()), None);
}

#[test]
fn any_changed_fact_means_reading_again() {
    let (_folder, store) = store();
    remember(&store, &[(b"a", facts())]);
    let index = load(&store, "/context");
    type Change = (&'static str, fn(&mut FileFacts));
    let cases: [Change; 7] = [
        ("replaced by rename", |f| f.inode += 1),
        ("another file system", |f| f.device += 1),
        ("size", |f| f.size_bytes += 1),
        ("modified", |f| f.modified.seconds += 1),
        ("modified within the second", |f| f.modified.nanoseconds += 1),
        ("time set back by touch", |f| f.changed.nanoseconds += 1),
        ("clock set back", |f| f.changed.seconds -= 1),
    ];
    for (name, change) in cases {
        let mut changed = facts();
        change(&mut changed);
        assert_eq!(index.digest(b"a", &changed), None, "{name}");
    }
}

#[test]
fn what_changed_just_before_it_was_read_is_not_remembered() {
    let (_folder, store) = store();
    let fine = 900_000_000;
    let cases = [
        ("old", at(NOW - 10, 0), at(NOW - 10, 1), true),
        ("a moment ago", at(NOW - 10, 1), at(NOW - 1, fine + 1), false),
        ("a little longer ago", at(NOW - 10, 1), at(NOW - 1, fine - 1), true),
        ("modified a moment ago", at(NOW - 1, fine + 1), at(NOW - 10, 1), false),
        ("in whole seconds, a second ago", at(NOW - 10, 0), at(NOW - 1, 0), false),
        ("in whole seconds, longer ago", at(NOW - 10, 0), at(NOW - 3, 0), true),
        ("in the future, for a clock set back", at(NOW - 10, 1), at(NOW + 100, 1), false),
    ];
    for (name, modified, changed, remembered) in cases {
        let facts = FileFacts { modified, changed, ..facts() };
        remember(&store, &[(name.as_bytes(), facts)]);
        assert_eq!(load(&store, "/context").digest(name.as_bytes(), &facts).is_some(), remembered, "{name}");
    }
}

#[test]
fn a_damaged_index_is_empty() {
    let (_folder, store) = store();
    remember(&store, &[(b"a", facts()), (b"b", facts())]);
    let file = load(&store, "/context").file;
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    let mut newer = whole.clone();
    newer[22] = b'3';
    for damaged in [&[][..], b"x", &whole[..40], &whole[..whole.len() - 1], &flipped, &newer] {
        fs::write(&file, damaged).unwrap();
        assert_eq!(load(&store, "/context").digest(b"a", &facts()), None);
    }
    fs::write(&file, &whole).unwrap();
    assert!(load(&store, "/context").digest(b"a", &facts()).is_some());
}

#[test]
fn files_that_are_gone_are_forgotten_in_time() {
    let (_folder, store) = store();
    let old: Vec<_> = (0..10).map(|number| format!("old/{number}").into_bytes()).collect();
    remember(&store, &old.iter().map(|path| (path.as_slice(), facts())).collect::<Vec<_>>());
    remember(&store, &[(b"new", facts())]);
    let index = load(&store, "/context");
    assert_eq!(index.paths.len(), 1);
}

#[test]
fn a_hundred_thousand_files_load_at_once() {
    let (_folder, store) = store();
    let paths: Vec<_> =
        (0..100_000).map(|number| format!("src/{:03}/{number:06}", number / 200).into_bytes()).collect();
    remember(&store, &paths.iter().map(|path| (path.as_slice(), facts())).collect::<Vec<_>>());
    let start = Instant::now();
    let index = load(&store, "/context");
    let loaded = start.elapsed();
    assert!(paths.iter().all(|path| index.digest(path, &facts()).is_some()));
    eprintln!("loaded in {loaded:?}, and asked in {:?}", start.elapsed() - loaded);
}
