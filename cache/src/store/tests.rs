use std::io::{Read, Write};
use std::time::UNIX_EPOCH;

use lithify_oci::{Blobs, Descriptor, Platform, Reference, media_type};

use super::*;
use crate::key::Part;
use crate::{Explanation, Key};

pub(super) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    (folder, store)
}

pub(super) fn put(store: &Store, content: &[u8]) -> Digest {
    let mut new = store.create().unwrap();
    new.write_all(content).unwrap();
    new.commit(None).unwrap().0
}

pub(super) fn key(text: &str) -> Key {
    Key::from_digest(Digest::of(text))
}

pub(super) fn layer(store: &Store, content: &[u8]) -> Digest {
    let blob = put(store, content);
    let descriptor = Descriptor::new(media_type::LAYER, blob, content.len() as u64);
    let blobs = vec![LayerBlob { codec: "plain".into(), descriptor }];
    store
        .remember_layer(&blob, &LayerFacts { size_bytes: content.len() as u64, blobs, catalogue: None })
        .unwrap();
    blob
}

pub(super) fn keep(store: &Store, name: &str, layer: Option<Digest>, parts: &[(&str, &str)]) {
    let parts = parts.iter().map(|(name, value)| Part::new(*name, value.as_bytes())).collect();
    let record = Record { layer, catalogue: None, finished: UNIX_EPOCH + Duration::from_secs(5) };
    store.record(&key(name), &record, &Explanation { step: "step".into(), parts }).unwrap();
}

/// A store as another process sees it, after a reboot of the machine.
fn after_reboot(store: &Store) -> Store {
    let mut inner = Arc::into_inner(Store::open(store.root()).unwrap().0).unwrap();
    inner.boot = [7; 16];
    Store(Arc::new(inner))
}

#[test]
fn a_blob_is_seen_when_it_is_whole() {
    let (_folder, store) = store();
    let digest = Digest::of("content");
    let mut new = store.create().unwrap();
    new.write_all(b"cont").unwrap();
    assert_eq!(store.size_bytes(&digest).unwrap(), None);
    new.write_all(b"ent").unwrap();
    assert_eq!(new.commit(Some(&digest)).unwrap(), (digest, 7));
    let mut text = String::new();
    Blobs::open(&store, &digest).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), store.size_bytes(&digest).unwrap()), ("content", Some(7)));
    assert_eq!(Blobs::open(&store, &Digest::of("other")).err().unwrap().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn what_is_not_committed_leaves_nothing() {
    let (_folder, store) = store();
    let files = |name: &str| fs::read_dir(store.root().join(name)).unwrap().count();
    let mut new = store.create().unwrap();
    new.write_all(b"content").unwrap();
    assert_eq!(files("tmp"), 1);
    let error = new.commit(Some(&Digest::of("other"))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    drop(store.create_file().unwrap());
    let wrong = store.create_file().unwrap().commit_as(Digest::of("x"), 1);
    assert!(matches!(wrong, Err(Error::WrongSize { expected_bytes: 1, found_bytes: 0, .. })));
    assert_eq!((files("tmp"), files("blobs/sha256")), (0, 0));
}

#[test]
fn folders_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, store) = store();
    for name in ["", "blobs", "blobs/sha256", "trees", "tmp"] {
        assert_eq!(store.root().join(name).metadata().unwrap().permissions().mode() & 0o777, 0o700, "{name}");
    }
}

#[test]
fn a_foreign_file_is_verified_and_copied() {
    let (folder, store) = store();
    let path = folder.path().join("file");
    fs::write(&path, "content").unwrap();
    let wrong = store.adopt_blob(&path, &Digest::of("other"), 7);
    assert!(matches!(wrong, Err(Error::Mismatch { .. })));
    store.adopt_blob(&path, &Digest::of("content"), 7).unwrap();
    fs::write(&path, "changed").unwrap();
    assert_eq!(fs::read(store.blob_path(&Digest::of("content"))).unwrap(), b"content");
}

#[test]
fn after_a_power_cut_a_damaged_blob_is_not_used() {
    let (_folder, store) = store();
    let (good, bad) = (put(&store, b"good"), layer(&store, b"bad content"));
    keep(&store, "step", Some(bad), &[]);
    assert!(store.lookup(&key("step")).unwrap().is_some());
    // What a file system may leave of a file that was not synced: the right length, no data.
    fs::write(store.blob_path(&bad), [0; 11]).unwrap();
    let later = after_reboot(&store);
    assert_eq!(later.lookup(&key("step")).unwrap(), None);
    assert_eq!(later.size_bytes(&good).unwrap(), Some(4));
    assert_eq!(later.open_blob(&bad).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    // Written again, it is used again.
    layer(&later, b"bad content");
    assert!(later.lookup(&key("step")).unwrap().is_some());
}

#[test]
fn what_was_checked_once_or_synced_is_not_hashed_again() {
    let (_folder, store) = store();
    let digests = [put(&store, b"checked"), put(&store, b"synced")];
    assert!(after_reboot(&store).size_bytes(&digests[0]).unwrap().is_some());
    store.settle().unwrap();
    // Damage of the same length is then not noticed, which shows that nothing was hashed; `verify` would.
    digests
        .iter()
        .for_each(|digest| fs::write(store.blob_path(digest), &b"xxxxxxx"[..digest_len(digest)]).unwrap());
    for digest in &digests {
        assert!(after_reboot(&store).size_bytes(digest).unwrap().is_some());
    }

    fn digest_len(digest: &Digest) -> usize {
        if *digest == Digest::of("synced") { 6 } else { 7 }
    }
}

#[test]
fn a_blob_that_someone_else_put_there_is_checked() {
    let (_folder, store) = store();
    let (good, bad) = (Digest::of("good"), Digest::of("bad"));
    fs::write(store.blob_path(&good), "good").unwrap();
    fs::write(store.blob_path(&bad), "worse").unwrap();
    assert_eq!(store.size_bytes(&good).unwrap(), Some(4));
    assert_eq!(store.size_bytes(&bad).unwrap(), None);
}

#[test]
fn records_are_found_while_what_they_name_is_here() {
    let (_folder, store) = store();
    assert_eq!(store.lookup(&key("step")).unwrap(), None);
    keep(&store, "empty", None, &[]);
    let found = store.lookup(&key("empty")).unwrap().unwrap();
    assert_eq!((found.layer, found.finished), (None, UNIX_EPOCH + Duration::from_secs(5)));
    let blob = layer(&store, b"layer");
    keep(&store, "step", Some(blob), &[]);
    assert_eq!(store.lookup(&key("step")).unwrap().unwrap().layer, Some(blob));
    keep(&store, "unknown layer", Some(Digest::of("nowhere")), &[]);
    assert_eq!(store.lookup(&key("unknown layer")).unwrap(), None);
    fs::remove_file(store.blob_path(&blob)).unwrap();
    assert_eq!(Store::open(store.root()).unwrap().lookup(&key("step")).unwrap(), None);
    store.forget(&key("empty")).unwrap();
    assert_eq!(store.lookup(&key("empty")).unwrap(), None);
}

#[test]
fn a_record_without_its_catalogue_is_a_miss() {
    let (_folder, store) = store();
    let catalogue = put(&store, b"times");
    let record = Record { layer: None, catalogue: Some(catalogue), finished: UNIX_EPOCH };
    store.record(&key("step"), &record, &Explanation::default()).unwrap();
    assert_eq!(store.lookup(&key("step")).unwrap(), Some(record));
    fs::remove_file(store.blob_path(&catalogue)).unwrap();
    assert_eq!(Store::open(store.root()).unwrap().lookup(&key("step")).unwrap(), None);
}

#[test]
fn a_miss_is_explained_against_the_nearest_run() {
    let (_folder, store) = store();
    let explain = |parts: &[(&str, &str)]| {
        let parts = parts.iter().map(|(name, value)| Part::new(*name, value.as_bytes())).collect();
        let new = Explanation { step: "step".into(), parts };
        Missed::explain(&key("new"), &new, &store.history("step").unwrap()).summary()
    };
    assert_eq!(explain(&[("env A", "1")]), None);
    keep(&store, "far", None, &[("env A", "1"), ("env B", "9"), ("env C", "9")]);
    keep(&store, "near", None, &[("env A", "1"), ("env B", "1"), ("content", "1"), ("file app.txt", "1")]);
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("env A", "2"), ("env B", "1"), ("content", "1"), ("file app.txt", "1")], "env A changed"),
        (&[("env A", "1"), ("env B", "1"), ("content", "2"), ("file app.txt", "2")], "app.txt changed"),
        (&[("env A", "1"), ("env B", "1"), ("content", "2")], "app.txt removed"),
        (&[("env A", "1"), ("env B", "9"), ("env C", "9"), ("env D", "")], "env D added"),
        (&[("env B", "9"), ("env A", "1"), ("env C", "9")], "its parts are in another order"),
        (&[("env A", "7"), ("env E", "1")], "env A changed, env E added, env B removed and 1 more"),
    ];
    for (parts, expected) in cases {
        assert_eq!(explain(parts).as_deref(), Some(*expected));
    }
}

#[test]
fn layers_gather_what_is_learned() {
    let (_folder, store) = store();
    let id = Digest::of("diff");
    let blob = |codec: &str| LayerBlob {
        codec: codec.into(),
        descriptor: Descriptor::new(media_type::LAYER_GZIP, Digest::of(codec), 9),
    };
    let facts = |codec: &str, catalogue| LayerFacts { size_bytes: 7, blobs: vec![blob(codec)], catalogue };
    store.remember_layer(&id, &facts("gzip", Some(Digest::of("times")))).unwrap();
    store.remember_layer(&id, &facts("zstd", None)).unwrap();
    let found = store.layer(&id).unwrap().unwrap();
    assert_eq!(found.blobs, [blob("gzip"), blob("zstd")]);
    assert_eq!((found.size_bytes, found.catalogue), (7, Some(Digest::of("times"))));
    assert_eq!(store.diff_id(&Digest::of("zstd")).unwrap(), Some(id));
    assert_eq!(store.layer(&Digest::of("other")).unwrap(), None);
    let repository: Reference = "localhost:5000/base:tag".parse().unwrap();
    store.remember_origin(&Digest::of("zstd"), &repository).unwrap();
    assert_eq!(store.origins(&Digest::of("zstd")).unwrap(), ["localhost:5000/base"]);
}

#[test]
fn names_stand_for_the_last_image_and_show_in_the_index() {
    let (_folder, store) = store();
    let name: Reference = "hello".parse().unwrap();
    let amd64 = Platform::new("linux", "amd64");
    let put_manifest = |comment: &str| {
        let config = put(&store, br#"{"architecture":"amd64","os":"linux"}"#);
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{config}","size":37}},"layers":[],"annotations":{{"a":"{comment}"}}}}"#,
            media_type::CONFIG
        );
        Descriptor::new(media_type::MANIFEST, put(&store, text.as_bytes()), text.len() as u64)
    };
    let (first, second) = (put_manifest("1"), put_manifest("2"));
    assert_eq!(store.image(&name, &amd64).unwrap(), None);
    store.tag_image(&name, &first).unwrap();
    store.tag_image(&name, &second).unwrap();
    assert_eq!(store.image(&name, &amd64).unwrap().unwrap().manifest, second);
    assert_eq!(store.image(&name, &Platform::new("linux", "arm64")).unwrap(), None);
    let index = fs::read_to_string(store.root().join("index.json")).unwrap();
    assert!(index.contains(&second.digest.to_string()) && !index.contains(&first.digest.to_string()));
    assert!(index.contains(r#""org.opencontainers.image.ref.name":"docker.io/library/hello:latest""#));
    assert_eq!(store.images().unwrap().len(), 1);
    assert!(store.untag_image(&name).unwrap() && !store.untag_image(&name).unwrap());
    assert!(!fs::read_to_string(store.root().join("index.json")).unwrap().contains("hello"));
}

#[test]
fn resolutions_are_kept_by_platform() {
    let (_folder, store) = store();
    let name: Reference = "debian:12".parse().unwrap();
    let manifest = Descriptor::new(media_type::MANIFEST, Digest::of("manifest"), 3);
    let platforms = [Platform::new("linux", "amd64"), Platform::new("linux", "arm64")];
    store.remember_resolution(&name, &platforms[0], &manifest).unwrap();
    let found = store.resolution(&name, &platforms[0]).unwrap().unwrap();
    assert_eq!(found.manifest, manifest);
    assert!(found.resolved_at.elapsed().unwrap() < Duration::from_secs(60));
    assert_eq!(store.resolution(&name, &platforms[1]).unwrap(), None);
}

#[test]
fn a_newer_store_is_refused_and_a_damaged_one_named() {
    let (_folder, store) = store();
    let database = store.root().join("lithify.db");
    let raw = rusqlite::Connection::open(&database).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let error = Store::open(store.root()).err().unwrap();
    assert!(matches!(error, Error::NewerSchema { found: 99, supported: database::SCHEMA, .. }), "{error}");
    let root = store.root().to_owned();
    drop(store);
    ["-wal", "-shm"].iter().for_each(|end| drop(fs::remove_file(format!("{}{end}", database.display()))));
    fs::write(&database, "this is no database at all, not even a short one").unwrap();
    let error = Store::open(&root).err().unwrap();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");
}

#[test]
fn an_unusable_root_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file).err().unwrap();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    let error = Store::open(Path::new("/proc/lithify")).err().unwrap();
    assert!(matches!(error, Error::Unwritable { .. } | Error::Io { .. }), "{error:?}");
    let full = Error::at(Path::new("/somewhere"))(Errno::NOSPC.into());
    assert!(matches!(full, Error::Full { .. }) && full.to_string().contains("lithify prune"), "{full}");
    let denied = Error::at(Path::new("/somewhere"))(Errno::ROFS.into());
    assert!(denied.to_string().contains("LITHIFY_ROOT"), "{denied}");
}

#[test]
fn a_step_is_locked_once_at_a_time() {
    let (_folder, store) = store();
    let first = store.lock_step(&key("step")).unwrap();
    assert!(first.is_held() && first.waiting_for().is_none());
    let mut second = store.lock_step(&key("step")).unwrap();
    assert!(!second.is_held());
    assert_eq!(second.waiting_for(), Some(std::process::id()));
    assert!(store.lock_step(&key("other")).unwrap().is_held());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || second.wait().map(|()| second.is_held()));
        drop(first);
        assert!(waiter.join().unwrap().unwrap());
    });
    assert_eq!(fs::read_dir(store.root().join("locks")).unwrap().count(), 0);
}

fn download(content: Digest) -> Download {
    Download {
        digest: content,
        size_bytes: 3,
        etag: Some("\"1\"".into()),
        last_modified: None,
        modified_unix_seconds: Some(5),
        file_name: "x".into(),
    }
}

#[test]
fn an_older_store_is_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    lay_out(&root).unwrap();
    let raw = rusqlite::Connection::open(root.join("lithify.db")).unwrap();
    raw.execute_batch(include_str!("schema-1.sql")).unwrap();
    raw.execute("INSERT INTO origins VALUES (x'00', 'kept')", ()).unwrap();
    raw.pragma_update(None, "user_version", 1).unwrap();
    drop(raw);
    let store = Store::open(&root).unwrap();
    let known = download(put(&store, b"abc"));
    store.remember_download("http://h/x", &known).unwrap();
    assert_eq!(store.download("http://h/x").unwrap(), Some(known));
    let raw = rusqlite::Connection::open(root.join("lithify.db")).unwrap();
    let kept: String = raw.query_row("SELECT repository FROM origins", (), |row| row.get(0)).unwrap();
    assert_eq!(kept, "kept");
}

#[test]
fn downloads_are_kept_until_they_are_old_or_in_the_way() {
    let check = |policy: PrunePolicy, expected: bool| {
        let (_folder, first) = store();
        let content = put(&first, b"abc");
        first.remember_download("http://user:secret@h/x", &download(content)).unwrap();
        let root = first.root().to_owned();
        drop(first);
        let store = Store::open(&root).unwrap();
        store.prune(&policy, &NoFolders).unwrap();
        assert_eq!(store.blob_path(&content).exists(), expected, "{policy:?}");
        assert_eq!(store.download("http://user:secret@h/x").unwrap().is_some(), expected, "{policy:?}");
        let database = std::fs::read(root.join("lithify.db")).unwrap();
        assert!(!database.windows(6).any(|window| window == b"secret"), "the database holds a password");
    };
    check(PrunePolicy::default(), true);
    check(PrunePolicy { unused_for: Some(Duration::from_secs(3600)), ..PrunePolicy::default() }, true);
    check(PrunePolicy { unused_for: Some(Duration::ZERO), ..PrunePolicy::default() }, false);
    check(PrunePolicy { keep_bytes: Some(0), ..PrunePolicy::default() }, false);
}

#[test]
fn layers_with_other_times_are_remembered() {
    let (_folder, store) = store();
    let (one, other) = (Digest::of("one"), Digest::of("other"));
    assert_eq!(store.retimed(&one, "at 5").unwrap(), None);
    store.remember_retimed(&one, "at 5", &other).unwrap();
    assert_eq!(store.retimed(&one, "at 5").unwrap(), Some(other));
    assert_eq!(store.retimed(&one, "at 6").unwrap(), None);
}
