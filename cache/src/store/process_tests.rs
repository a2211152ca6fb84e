//! Tests with real processes: this test binary, started again.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use lithify_oci::{Descriptor, Reference, media_type};

use super::tests::{keep, key, layer, put, store};
use super::*;

/// What a child does, and in which store.
const ROLE: &str = "LITHIFY_CACHE_TEST_ROLE";
const ROOT: &str = "LITHIFY_CACHE_TEST_ROOT";

fn start(role: &str, store: &Store) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "store::process_tests::child", "--nocapture"]);
    let mut child = command.env(ROLE, role).env(ROOT, store.root()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The test harness says a few words of its own.
    (child, lines.filter_map(|line| line.strip_prefix("child: ").map(str::to_owned)))
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Not a test, but what the children of the other tests do.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let store = Store::open(Path::new(&std::env::var(ROOT).unwrap())).unwrap();
    match role.as_str() {
        "half a blob" => {
            use std::io::Write;
            let mut new = store.create_file().unwrap();
            new.write_all(b"half").unwrap();
            println!("\nchild: written");
            std::thread::park();
        }
        "hold a lock" => {
            let _lock = store.lock_step(&key("step")).unwrap();
            println!("\nchild: locked");
            std::thread::park();
        }
        "use a layer" => {
            assert!(store.lookup(&key("used")).unwrap().is_some());
            println!("\nchild: used");
            std::thread::park();
        }
        "build forever" => {
            println!("\nchild: building");
            for round in 0.. {
                build(&store, round);
            }
        }
        "build some" => {
            (0..20).for_each(|round| build(&store, round));
            println!("\nchild: done");
        }
        "fill the disk" => fill(&store),
        other => panic!("unknown role {other}"),
    }
}

/// What a build does to a store, many times.
fn build(store: &Store, round: u32) {
    let name = format!("step {}", round % 10);
    let mut lock = store.lock_step(&key(&name)).unwrap();
    lock.wait().unwrap();
    if store.lookup(&key(&name)).unwrap().is_none() {
        let blob = layer(store, name.repeat(5000).as_bytes());
        keep(store, &name, Some(blob), &[("env A", &name)]);
    }
    // Found or made, it stays while this process lives, whoever prunes.
    let record = store.lookup(&key(&name)).unwrap().expect("what was made just now is found");
    store.open_blob(&record.layer.unwrap()).unwrap();
    assert!(store.blob_path(&record.layer.unwrap()).exists());
    drop(lock);
    let manifest = put(store, name.as_bytes());
    let reference: Reference = format!("image:{}", round % 3).parse().unwrap();
    store.tag_image(&reference, &Descriptor::new(media_type::MANIFEST, manifest, 6)).unwrap();
    store.mark_used().unwrap();
}

#[test]
fn a_killed_writer_leaves_nothing_visible_and_its_leftovers_go() {
    let (_folder, store) = store();
    let files = |name: &str| fs::read_dir(store.root().join(name)).unwrap().count();
    let (child, mut lines) = start("half a blob", &store);
    assert_eq!(lines.next().as_deref(), Some("written"));
    // While it lives, nobody takes its file.
    drop(Store::open(store.root()).unwrap().create_file().unwrap());
    assert_eq!((files("tmp"), files("blobs/sha256")), (1, 0));
    kill(child);
    drop(Store::open(store.root()).unwrap().create_file().unwrap());
    assert_eq!((files("tmp"), files("blobs/sha256")), (0, 0));
}

#[test]
fn a_waiter_takes_over_when_the_owner_dies() {
    let (_folder, store) = store();
    let (child, mut lines) = start("hold a lock", &store);
    assert_eq!(lines.next().as_deref(), Some("locked"));
    let mut lock = store.lock_step(&key("step")).unwrap();
    assert!(!lock.is_held() && !lock.try_now().unwrap());
    assert_eq!(lock.waiting_for(), Some(child.id()));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| lock.wait());
        kill(child);
        waiter.join().unwrap().unwrap();
    });
    assert!(lock.is_held());
}

#[test]
fn prune_leaves_alone_what_another_process_uses() {
    let (_folder, store) = store();
    let (used, unused) = (layer(&store, b"used"), layer(&store, b"unused"));
    keep(&store, "used", Some(used), &[]);
    keep(&store, "unused", Some(unused), &[]);
    let root = store.root().to_owned();
    let (child, mut lines) = start("use a layer", &store);
    assert_eq!(lines.next().as_deref(), Some("used"));
    drop(store);
    let all = PrunePolicy { unused_for: Some(Duration::ZERO), ..PrunePolicy::default() };
    let store = Store::open(&root).unwrap();
    assert_eq!(store.prune(&all, &NoFolders).unwrap().records, 1);
    assert_eq!([used, unused].map(|digest| store.blob_path(&digest).exists()), [true, false]);
    kill(child);
    assert_eq!(store.prune(&all, &NoFolders).unwrap().blobs, 1);
    assert!(!store.blob_path(&used).exists());
}

#[test]
fn many_processes_share_one_new_store() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    builders(&root, 8).into_iter().for_each(succeeds);
    let store = Store::open(&root).unwrap();
    assert_eq!(store.usage(&NoFolders).unwrap().records.len(), 10);
    assert_eq!(store.images().unwrap().len(), 3);
}

/// Processes that build the same few steps at once.
fn builders(root: &Path, count: usize) -> Vec<Child> {
    let start = |_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "store::process_tests::child"]);
        command.env(ROLE, "build some").env(ROOT, root).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    (0..count).map(start).collect()
}

fn succeeds(child: Child) {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn prune_runs_beside_builds() {
    let (_folder, store) = store();
    let mut children = builders(store.root(), 6);
    let all = PrunePolicy { unused_for: Some(Duration::ZERO), keep_bytes: Some(0), ..PrunePolicy::default() };
    let mut pruned = 0;
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        pruned += Store::open(store.root()).unwrap().prune(&all, &NoFolders).unwrap().blobs;
    }
    children.into_iter().for_each(succeeds);
    pruned += Store::open(store.root()).unwrap().prune(&all, &NoFolders).unwrap().blobs;
    assert!(pruned >= 10, "{pruned} blobs of 10 steps");
    assert_eq!(store.usage(&NoFolders).unwrap().records.len(), 0);
    let damaged = |problem: &Problem| !matches!(problem, Problem::MissingBlob { .. });
    assert_eq!(store.verify().unwrap().into_iter().find(damaged), None);
}

/// What a child does on a file system of one megabyte.
fn fill(store: &Store) {
    use std::io::Write;
    let write = |number: u32| -> Result<(), Error> {
        let content = [number.to_be_bytes()].concat().repeat(4000);
        let mut new = store.create_file()?;
        let path = store.root().to_owned();
        new.write_all(&content).map_err(|error| Error::at(&path)(error))?;
        new.commit_as(Digest::of(&content), content.len() as u64)?;
        let record =
            Record { layer: None, catalogue: Some(Digest::of(&content)), finished: SystemTime::now() };
        store.record(&key(&number.to_string()), &record, &crate::Explanation::default())
    };
    let error = (0..1000).find_map(|number| write(number).err()).expect("the disk is full");
    let kind = std::io::Error::from(error).kind();
    assert_eq!(kind, std::io::ErrorKind::StorageFull);
    // Whole is what there is, and what was finished is found.
    assert_eq!(store.verify().unwrap(), []);
    assert!(store.lookup(&key("0")).unwrap().is_some());
}

#[test]
fn a_full_disk_is_named_and_harms_nothing() {
    let name = "a_full_disk_is_named_and_harms_nothing";
    let folder = tempfile::tempdir().unwrap();
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(folder.path()).arg(std::env::current_exe().unwrap());
        command.env(ROLE, "fill the disk").env(ROOT, folder.path().join("store"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let mount = "mount -t tmpfs -o size=1m none \"$1\"";
    let possible =
        unshare(mount).and_then(Child::wait_with_output).is_ok_and(|output| output.status.success());
    if !possible {
        return lithify_testkit::skipped(name, "no user namespace with a mount to be had");
    }
    succeeds(unshare(&format!("{mount} && \"$2\" --exact store::process_tests::child")).unwrap());
}

#[test]
fn killed_at_any_instant_the_store_is_sound() {
    let (_folder, store) = store();
    for round in 0..20 {
        let (child, mut lines) = start("build forever", &store);
        assert_eq!(lines.next().as_deref(), Some("building"));
        // A little work of our own, of a different length each time, in place of a random pause.
        (0..round % 7).for_each(|step| build(&store, step));
        kill(child);
        let damaged = |problem: &Problem| !matches!(problem, Problem::MissingBlob { .. });
        assert_eq!(store.verify().unwrap().into_iter().find(damaged), None);
    }
    let fresh = Store::open(store.root()).unwrap();
    for step in 0..6 {
        assert!(fresh.lookup(&key(&format!("step {step}"))).unwrap().is_some(), "step {step} was finished");
    }
}

#[test]
fn other_tools_read_the_store() {
    let name = "other_tools_read_the_store";
    if Command::new("skopeo").arg("--version").output().is_err() {
        return lithify_testkit::skipped(name, "skopeo is not installed");
    }
    let (_folder, store) = store();
    let blob = put(&store, &[0; 1024]);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{blob}"]}}}}"#
    );
    let config_digest = put(&store, config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{config_digest}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{blob}","size":1024}}]}}"#,
        media_type::MANIFEST,
        media_type::CONFIG,
        config.len(),
        media_type::LAYER,
    );
    let digest = put(&store, manifest.as_bytes());
    let reference: Reference = "hello:1".parse().unwrap();
    store
        .tag_image(&reference, &Descriptor::new(media_type::MANIFEST, digest, manifest.len() as u64))
        .unwrap();
    let location = format!("oci:{}:{reference}", store.root().display());
    let output = Command::new("skopeo").args(["inspect", &location]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&digest.to_string()) && text.contains(&blob.to_string()), "{text}");
}
