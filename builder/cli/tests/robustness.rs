//! What hostile and clumsy users do: nothing hangs, nothing crashes, nothing stale is kept.

use std::fs;
use std::time::{Duration, Instant};

use lithify_testkit::Env;

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const STEP_FAILED: i32 = 1;
const USAGE: i32 = 2;
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
