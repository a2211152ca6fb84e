//! `examples/hello`: what a newcomer tries first, as root and as a plain user; and what a second build must not do.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;

use lithify_testkit::{Env, Image, in_repository, run_image, skipped};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");

/// Each build of it gives another image, unless the cache is used.
const UNIQUE: &str = "cat /proc/sys/kernel/random/uuid";

#[test]
fn hello_builds() {
    first_command(&Env::new(BINARY));
}

#[test]
fn hello_builds_without_rights() {
    match Env::plain(BINARY) {
        Ok(env) => first_command(&env),
        Err(why) => skipped("hello_builds_without_rights", &why),
    }
}

/// README's first command: what it prints, and that the store then holds what was printed.
fn first_command(env: &Env) {
    let context = env.copy_of(&in_repository("examples/hello"));
    let build = |extra: &str| {
        let mut command = env.lithify(["build", "--progress=plain", "-t", "hello"]);
        command.args((!extra.is_empty()).then_some(extra)).arg(&context);
        lithify_testkit::Running::start(&mut command)
            .expect("start")
            .wait(std::time::Duration::from_secs(300))
    };
    let first = build("").expect_ok().expect_says("RUN").expect_says("hello");
    let metadata = env.fresh("metadata.json");
    let second = build(&format!("--metadata-file={}", metadata.display())).expect_ok().expect_says("cached");
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&metadata).expect("metadata")).expect("JSON");
    let digest = written["containerimage.digest"].as_str().expect("containerimage.digest");
    for log in [first.log(), second.log()] {
        assert!(log.contains(digest), "does not print {digest}:\n{log}");
        assert!(log.to_lowercase().contains("mb") || log.contains("MiB"), "does not print the size:\n{log}");
    }
    assert_eq!(
        env.build::<&str>(&[], &context).digest,
        digest,
        "the archive holds another image than the store"
    );
}

#[test]
fn hello_runs() {
    let env = Env::new(BINARY);
    let archive = env.fresh("hello.tar");
    let output = format!("--output=type=oci,dest={}", archive.display());
    env.run(["build", &output, &in_repository("examples/hello").display().to_string()]).expect_ok();
    match run_image(&format!("oci-archive:{}", archive.display()), &[]) {
        Err(why) => skipped("hello_runs", &why),
        Ok(ended) => {
            let wanted = "Hello, Dockerfile!\nHello, reader!\nHello, world!\n3 greeted\n";
            assert_eq!(ended.expect_ok().stdout, wanted);
        }
    }
}

#[test]
fn second_build_runs_and_unpacks_nothing() {
    let env = Env::new(BINARY);
    let context = env.folder(&[
        ("Dockerfile", &format!("FROM busybox\nCOPY a /a\nRUN {UNIQUE} > /one\nRUN {UNIQUE} > /two\n")),
        ("a", "1\n"),
    ]);
    let first = env.build(&[env.busybox()], &context);
    let before = paths_below(&env.store());
    let second = env.build(&[env.busybox()], &context);
    assert_eq!(first.digest, second.digest, "a step ran again");
    let after = paths_below(&env.store());
    let new: Vec<&String> = after.difference(&before).collect();
    // The base image alone has some three hundred files; an index may write a file or two of its own.
    assert!(new.len() < 10, "a cached build unpacked something: {new:?}");
    assert_ne!(
        first.digest,
        env.build(&["--no-cache", &env.busybox()], &context).digest,
        "--no-cache used the cache"
    );
}

#[test]
fn a_change_reruns_only_what_depends_on_it() {
    let env = Env::new(BINARY);
    let dockerfile = format!(
        "FROM busybox AS left\nCOPY a /a\nRUN {UNIQUE} > /left\n\
         FROM busybox AS right\nCOPY b /b\nRUN {UNIQUE} > /right\n\
         FROM busybox\nRUN {UNIQUE} > /base\nCOPY --from=left /left /left\nCOPY --from=right /right /right\n"
    );
    let context =
        env.folder(&[("Dockerfile", dockerfile.as_str()), ("a", "1\n"), ("b", "1\n"), ("other", "1\n")]);
    let ids = |image: &Image| {
        ["/base", "/left", "/right"].map(|path| image.file(path).expect("image").expect("file"))
    };
    let first = ids(&env.build(&[env.busybox()], &context));
    env.write(&context.join("other"), "2\n");
    assert_eq!(
        first,
        ids(&env.build(&[env.busybox()], &context)),
        "a file that nobody copies changed something"
    );
    env.write(&context.join("b"), "2\n");
    let second = ids(&env.build(&[env.busybox()], &context));
    assert_eq!(first[..2], second[..2], "steps ran again that do not depend on the changed file");
    assert_ne!(first[2], second[2], "a stale result");
    env.write(&context.join("b"), "1\n");
    assert_eq!(first, ids(&env.build(&[env.busybox()], &context)), "what was built before is forgotten");
}

/// Two stages that end only if both run at the same time: one waits for the other's call.
#[test]
fn independent_stages_run_side_by_side() {
    let env = Env::new(BINARY);
    // The port is free when the test starts; the steps see the host's network.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
    let dockerfile = |seconds: u32| {
        format!(
            "FROM busybox AS one\nRUN echo met | timeout {seconds} nc -l -p {port} && echo done > /one\n\
             FROM busybox AS two\nRUN for i in $(seq {seconds}0); do nc 127.0.0.1 {port} < /dev/null > /two && exit 0; \
             sleep 0.1; done; exit 1\n\
             FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
        )
    };
    let context = env.folder(&[("Dockerfile", dockerfile(60).as_str())]);
    let met = env.build(&[env.busybox()], &context).file("/two").expect("image").expect("file");
    assert_eq!(met, b"met\n");
    env.write(&context.join("Dockerfile"), &dockerfile(3));
    let context = context.display().to_string();
    let alone = env.run(["build", "--progress=plain", "--no-cache", "--jobs=1", &env.busybox(), &context]);
    assert_eq!(alone.code, Some(1), "--jobs=1 ran two steps at once: {}", alone.summary());
}

fn paths_below(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable store").flatten() {
            found.insert(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found
}
