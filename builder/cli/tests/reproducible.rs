//! `--reproducible`: a RUN that leaves dates, logs and random ids makes the same layer each time, under both snapshotters.

use lithify_testkit::{Env, describe, in_repository};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");

/// Each build of this leaves something else behind, in files that are noise and, without the variable, in one that is not.
const DOCKERFILE: &str = "FROM busybox\n\
    RUN mkdir -p /var/log/apt /var/cache/ldconfig /var/lib/dpkg /var/lib/apt/lists/partial /etc /var/lib/dbus \
     && now() { cat /proc/sys/kernel/random/uuid; } \
     && now > /var/log/dpkg.log && now > /var/log/apt/history.log && now > /var/cache/ldconfig/aux-cache \
     && now > /var/lib/apt/lists/release && echo package > /var/lib/dpkg/status \
     && now | tr -d - > /etc/machine-id && now > /var/lib/dbus/machine-id \
     && echo \"app:!:$(($(date +%s) / 86400)):0:99999:7:::\" > /etc/shadow \
     && echo \"${SOURCE_DATE_EPOCH:-$(now)}\" > /built\n\
    RUN rm /built && echo more >> /var/log/mine.log\n";

#[test]
fn noise_is_taken_out_and_only_noise() {
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", DOCKERFILE)]);
    let build = |flags: &[&str]| {
        let mut all = vec![env.busybox()];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        env.build(&all, &context)
    };
    let first = build(&["--reproducible"]);
    for flags in [
        &["--reproducible", "--no-cache", "--snapshotter=overlay"][..],
        &["--reproducible", "--no-cache", "--snapshotter=copy"],
        &["--reproducible"],
    ] {
        assert_eq!(build(flags).digest, first.digest, "{flags:?}");
    }
    let tree = describe::Tree::of(&first).expect("a readable image");
    for gone in [
        "/var/log/dpkg.log",
        "/var/log/apt/history.log",
        "/var/cache/ldconfig/aux-cache",
        "/var/lib/apt/lists/release",
    ] {
        assert_eq!(tree.get(gone), None, "{gone}");
    }
    for stays in [
        "/var/log/mine.log",
        "/var/lib/dpkg/status",
        "/etc/machine-id",
        "/etc/shadow",
        "/var/lib/apt/lists/partial",
    ] {
        assert!(tree.get(stays).is_some(), "{stays} is missing");
    }

    let plain = build(&[]);
    assert_ne!(plain.digest, first.digest, "the cache gave a build without --reproducible one with it");
    let tree = describe::Tree::of(&plain).expect("a readable image");
    assert!(tree.get("/var/log/dpkg.log").is_some(), "without the flag nothing is taken out");
}

#[test]
fn the_readme_lists_what_is_taken_out() {
    let readme = std::fs::read_to_string(in_repository("README.md")).expect("README.md");
    for noise in lithify_files::noise::TABLE {
        let row = format!("| `/{}/{}` | {} |", noise.folder, noise.files, noise.why);
        assert!(readme.contains(&row), "README.md does not say: {row}");
    }
}
