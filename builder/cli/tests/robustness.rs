//! What hostile and clumsy users do: nothing hangs, nothing crashes, nothing stale is kept.

use std::fs;
use std::time::{Duration, Instant};

use lithify_oci::Digest;
use lithify_testkit::Env;

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const STEP_FAILED: i32 = 1;
const USAGE: i32 = 2;
const SOURCE: i32 = 3;
const OUTPUT: i32 = 6;

/// Once read again and again from its start: a hundred megabytes took minutes and as much memory.
#[test]
fn a_line_that_does_not_end() {
    let env = Env::new(BINARY);
    let context =
        env.folder(&[("Dockerfile", "FROM busybox\nRUN head -c 100000000 /dev/zero | tr '\\0' x\n")]);
    let start = Instant::now();
    env.build(&[env.busybox()], &context);
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
}

/// Once a stack overflow.
#[test]
fn folders_nested_too_deep() {
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", "FROM scratch\nCOPY deep /\n"), ("deep/file", "1\n")]);
    nest(&context.join("deep"), 5000);
    let context = context.display().to_string();
    env.run(["build", "--progress=plain", &context]).expect_failure(STEP_FAILED, "File name too long");
}

/// A walk has one descriptor open for each level; the soft limit of most machines is 1024. RUN keeps that one.
#[test]
fn folders_nested_deeper_than_the_soft_limit_of_open_files() {
    let env = Env::new(BINARY);
    let dockerfile =
        "FROM busybox\nCOPY deep /\nRUN test $(ulimit -n) = 200 && rm /first && touch /d/d/new\n";
    let context = env.folder(&[("Dockerfile", dockerfile), ("deep/first", "1\n")]);
    nest(&context.join("deep"), 1000);
    for snapshotter in ["overlay", "copy"] {
        let store = env.fresh("store");
        let line = format!(
            "ulimit -S -n 200; exec {BINARY} --root {} build --progress=plain --snapshotter={snapshotter} {} {}",
            store.display(),
            env.busybox(),
            context.display()
        );
        env.run_program("sh", ["-c", &line]).expect_ok();
    }
}

/// Makes folders deeper than any path can name, from the innermost on.
fn nest(folder: &std::path::Path, depth: usize) {
    let inner = folder.join("d");
    for _ in 0..depth {
        let outer = folder.join("next");
        fs::create_dir(&outer).expect("folder");
        if inner.exists() {
            fs::rename(&inner, outer.join("d")).expect("move");
        }
        fs::rename(&outer, &inner).expect("move");
    }
}

#[test]
fn folders_in_the_place_of_files() {
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile/file", "FROM scratch\n")]).display().to_string();
    env.run(["build", &context]).expect_failure(USAGE, "Dockerfile is a folder");
    let context = env.folder(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]).display().to_string();
    let build = |dest: &str| env.run(["build", "--output", &format!("type=oci,dest={dest}"), &context]);
    build(&context).expect_failure(OUTPUT, &context);
    build("/no/such/folder/app.tar").expect_failure(OUTPUT, "/no/such/folder/app.tar");
}

/// Someone frees space with `rm -r`.
#[test]
fn folders_of_the_store_that_were_removed() {
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", "FROM busybox\nCOPY a /\nRUN cat a\n"), ("a", "1\n")]);
    let root = env.folder(&[]).join("store");
    let (root_text, context) = (root.display().to_string(), context.display().to_string());
    let build = || {
        let busybox = env.busybox();
        let ended = env.run(["--root", &root_text, "build", "--progress=plain", &busybox, &context]);
        assert_eq!(ended.code, Some(0), "{}", ended.summary());
    };
    build();
    for names in [&["blobs"][..], &["trees"], &["tmp", "use", "locks", "contexts"]] {
        names.iter().for_each(|name| fs::remove_dir_all(root.join(name)).expect("folder"));
        build();
    }
}

/// A base image that claims the diffID of another's layer: its tree would be taken for that one's in every later build.
#[test]
fn a_base_that_lies_about_its_layers() {
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]).display().to_string();
    let layout = env.folder(&[]).join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let ended = env.run(["build", "--output", &output, &context]);
    assert_eq!(ended.code, Some(0), "{}", ended.summary());
    let read = |path: &str| fs::read_to_string(layout.join(path)).expect("a text file");
    let blob = |text: &str| {
        let digest = Digest::of(text);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), text).expect("a blob");
        digest.hex()
    };
    let value = |text: &str, before: &str| -> String {
        let (_, after) = text.split_once(before).expect("the member");
        let (_, after) = after.split_once("sha256:").expect("a digest");
        after[..64].to_owned()
    };
    let index = read("index.json");
    let old_manifest = value(&index, "\"manifests\"");
    let manifest = read(&format!("blobs/sha256/{old_manifest}"));
    let old_config = value(&manifest, "\"config\"");
    let config = read(&format!("blobs/sha256/{old_config}"));
    let new_config = blob(&config.replace(&value(&config, "\"diff_ids\""), &Digest::of("another's").hex()));
    let new_manifest = blob(&manifest.replace(&old_config, &new_config));
    fs::write(layout.join("index.json"), index.replace(&old_manifest, &new_manifest)).expect("index");
    let context = env.folder(&[("Dockerfile", "FROM liar\nCOPY Dockerfile /\n")]).display().to_string();
    let liar = format!("--build-context=liar=oci-layout://{}", layout.display());
    env.run(["build", "--progress=plain", &liar, &context]).expect_failure(SOURCE, "malformed");
}
