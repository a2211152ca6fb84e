//! Caches of other machines: two stores, one cache. What one built, the other finds, with the same digest.

use std::path::{Path, PathBuf};

use lithify_testkit::{Env, Image, Registry, skipped};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");

/// Unwraps what a test needs, or says that the test is skipped.
macro_rules! needs {
    ($what:expr) => {
        match $what {
            Ok(it) => it,
            Err(why) => return skipped(module_path!(), &why),
        }
    };
}

/// Steps of all kinds. What they make is random, so that only a cache can make it twice; one layer is too large for a pack.
const DOCKERFILE: &str = "\
FROM busybox AS tools
RUN head -c 900000 /dev/urandom > /large; head -c 9 /dev/urandom > /small
FROM busybox
COPY --from=tools /large /small /tools/
WORKDIR /srv
COPY file .
RUN cat /proc/sys/kernel/random/uuid > /id
ARG LAST=none
RUN echo $LAST; stat -c '%n %Y' /srv/file /tools/small /id > /times
";

fn context(env: &Env) -> PathBuf {
    env.folder(&[("Dockerfile", DOCKERFILE), ("file", "content\n")])
}

/// Builds into an archive; gives the image and what was said.
fn build(env: &Env, flags: &[&str], context: &Path) -> (Image, String) {
    let archive = env.fresh("image");
    let output = format!("--output=type=oci,dest={}", archive.display());
    let mut args = vec!["build", "--progress=plain"];
    let busybox = env.busybox();
    args.extend([busybox.as_str(), output.as_str()]);
    args.extend(flags);
    let context = context.display().to_string();
    args.push(&context);
    let ended = env.run(args).expect_ok();
    let image = Image::from_archive(&archive).expect("a readable image");
    image.validate().expect("a sound image");
    (image, ended.log())
}

/// Builds and writes nothing; gives what was said.
fn build_to_nowhere(env: &Env, flags: &[&str], context: &Path) -> String {
    let busybox = env.busybox();
    let context = context.display().to_string();
    let mut args = vec!["build", "--progress=plain", "--output=type=cacheonly", &busybox];
    args.extend(flags);
    args.push(&context);
    env.run(args).expect_ok().log()
}

/// How many steps ran, and how many were cached.
fn counts(log: &str) -> (usize, usize) {
    (log.matches(" DONE ").count(), log.matches(" CACHED").count())
}

fn blobs(env: &Env) -> usize {
    std::fs::read_dir(env.store().join("blobs/sha256")).expect("the store's blobs").count()
}

/// Two stores, one cache: everything is found, the image is the same, and what runs on top sees real times.
fn share(to: &str, from: &str) -> (Env, Env) {
    let (one, other) = (Env::new(BINARY), Env::new(BINARY));
    share_between(&one, &other, to, from);
    (one, other)
}

fn share_between(one: &Env, other: &Env, to: &str, from: &str) {
    let (made, log) = build(one, &[to], &context(one));
    assert_eq!(counts(&log), (6, 0), "{log}");
    assert!(!log.contains("warning: the cache"), "{log}");
    let context = context(other);
    let log = build_to_nowhere(other, &[from], &context);
    assert_eq!(counts(&log), (0, 6), "{log}");
    let before = blobs(other);
    assert!(before <= 3, "{before} blobs of a build that needed no layer");
    let (found, log) = build(other, &[from], &context);
    assert_eq!(counts(&log), (0, 6), "{log}");
    assert_eq!(found.digest, made.digest);
    assert!(!log.contains("warning"), "{log}");
    other.run(["store", "verify"]).expect_ok();

    // A step that runs on top of what was fetched sees when it was really made.
    let (next, log) = build(other, &[from, "--build-arg=LAST=other"], &context);
    assert_eq!(counts(&log), (1, 5), "{log}");
    let text = |image: &Image| {
        let times = image.file("/times").expect("image").expect("/times");
        String::from_utf8(times).expect("text")
    };
    let is_real = |line: &str| line.split(' ').nth(1).is_some_and(|time| time.len() >= 10);
    let (first, second) = (text(&made), text(&next));
    assert!(second.lines().filter(|line| !line.contains("/srv")).all(is_real), "{second}");
    let of = |text: &str, name: &str| text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    assert_eq!(of(&first, "/id"), of(&second, "/id"));
    assert_eq!(of(&first, "/tools/small"), of(&second, "/tools/small"));
}

#[test]
fn a_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let (to, from) = (
        format!("--cache-to=type=local,dest={},mode=max", folder.path().display()),
        format!("--cache-from=type=local,src={}", folder.path().display()),
    );
    let (one, _other) = share(&to, &from);

    // Other tools read it, and what nobody needs any more is gone.
    let blobs = || std::fs::read_dir(folder.path().join("blobs/sha256")).expect("blobs").count();
    let before = blobs();
    build_to_nowhere(&one, &[&to, "--no-cache"], &context(&one));
    assert_eq!(blobs(), before, "blobs of the former cache stay");
}

#[test]
fn a_registry() {
    let registry = needs!(Registry::open());
    let name = registry.reference("team/app:cache");
    share(
        &format!("--cache-to=type=registry,ref={name},mode=max"),
        &format!("--cache-from=type=registry,ref={name}"),
    );
}
