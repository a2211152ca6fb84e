//! Caches of other machines: two stores, one cache. What one built, the other finds, with the same digest.

use std::path::{Path, PathBuf};

use lithify_testkit::{Env, Image, Login, ObjectStore, Registry, Request, TokenRegistry, skipped};

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

#[test]
fn an_object_store() {
    let bucket = needs!(ObjectStore::start());
    let (endpoint, name) = (bucket.endpoint(), ObjectStore::BUCKET);
    let spec =
        format!("type=s3,bucket={name},region=us-east-1,endpoint_url={endpoint},prefix=team/,name=app");
    let login = ",access_key_id=key,secret_access_key=secret";
    share(&format!("--cache-to={spec}{login},mode=max"), &format!("--cache-from={spec}{login}"));
    let listed = bucket.request("GET", &format!("/{name}?list-type=2")).expect("a list");
    assert!(listed.contains("<Key>team/manifests/app</Key>"), "{listed}");
    assert!(listed.contains("<Key>team/blobs/sha256/"), "{listed}");

    // AWS's own variables say as much.
    let mut env = Env::new(BINARY);
    for (variable, value) in [
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
        ("AWS_BUCKET", name),
    ] {
        env.set(variable, value);
    }
    let context = context(&env);
    let log = build_to_nowhere(&env, &["--cache-from=type=s3,prefix=team/,name=app"], &context);
    assert_eq!(counts(&log), (0, 6), "{log}");
    let log = build_to_nowhere(&env, &["--cache-from=type=s3,name=nothing"], &context);
    assert!(log.contains("is not there yet"), "{log}");
}

/// The image itself says which keys its layers answer; its digest says nothing of who built it. Other stages are not in it, and
/// run: what they make is the same, so the rest is found.
#[test]
fn inside_the_image() {
    let registry = needs!(Registry::open());
    let name = registry.reference("team/app:1");
    let (one, other) = (Env::new(BINARY), Env::new(BINARY));
    let text = "FROM busybox AS tools\nRUN echo tool > /tool; echo more > /more\nFROM busybox\nCOPY --from=tools /tool /\n\
                RUN cat /proc/sys/kernel/random/uuid > /id\n";
    let folder = |env: &Env| env.folder(&[("Dockerfile", text)]);
    let push = format!("--output=type=registry,name={name}");
    let (made, log) = build(&one, &["--cache-to=type=inline", &push], &folder(&one));
    assert_eq!(counts(&log), (3, 0), "{log}");
    let from = format!("--cache-from=type=registry,ref={name}");
    let (found, log) = build(&other, &["--cache-to=type=inline", &from], &folder(&other));
    assert_eq!(counts(&log), (1, 2), "{log}");
    assert_eq!(found.digest, made.digest);
}

/// With one stage, nothing has to run at all.
#[test]
fn inside_an_image_of_one_stage() {
    let registry = needs!(Registry::open());
    let name = registry.reference("team/app:1");
    let text = "FROM busybox\nCOPY file /\nRUN cat /proc/sys/kernel/random/uuid > /id\n";
    let (one, other) = (Env::new(BINARY), Env::new(BINARY));
    let folder = |env: &Env| env.folder(&[("Dockerfile", text), ("file", "content\n")]);
    let push = format!("--output=type=registry,name={name}");
    let (made, _) = build(&one, &["--cache-to=type=inline", &push], &folder(&one));
    let from = format!("--cache-from={name}");
    let (found, log) = build(&other, &["--cache-to=type=inline", &from], &folder(&other));
    assert_eq!(counts(&log), (0, 2), "{log}");
    assert_eq!(found.digest, made.digest);
    // An image that is built on it does not claim its records, and an image without records is no cache.
    let base = folder(&other).join("Dockerfile");
    other.write(&base, &format!("FROM {name}\nRUN echo hi > /hi\n"));
    let (above, _) = build(&other, &[], base.parent().expect("a folder"));
    assert!(!above.config.to_string().contains("vnd.lithify.cache"), "{}", above.config);
    let plain = registry.reference("team/plain:1");
    build(&one, &[&format!("--output=type=registry,name={plain}")], &folder(&one));
    let log =
        build_to_nowhere(&other, &[&format!("--cache-from={plain}"), "--build-arg=X=1"], &folder(&other));
    assert!(!log.contains("warning"), "what is here is not looked up elsewhere: {log}");
    let fresh = Env::new(BINARY);
    let log = build_to_nowhere(&fresh, &[&format!("--cache-from={plain}")], &folder(&fresh));
    assert!(log.contains("an image without cache records"), "{log}");
    one.run(["build", "--cache-to=type=inline", "--timestamp=5", &folder(&one).display().to_string()])
        .expect_failure(2, "type=inline");
}

/// Where everything is found and the registry has the layers, none is fetched, and the second machine pushes the same image.
#[test]
fn a_push_of_what_was_found_fetches_no_layer() {
    let registry = needs!(TokenRegistry::anonymous());
    let (one, other) = (Env::new(BINARY), Env::new(BINARY));
    let cache = registry.reference("team/cache:main");
    let push = |name: &str| format!("--output=type=registry,name={}", registry.reference(name));
    let to = format!("--cache-to=type=registry,ref={cache},mode=max");
    let run = |env: &Env, flags: &[&str]| {
        let (busybox, context) = (env.busybox(), context(env).display().to_string());
        let mut args = vec!["build", "--progress=plain", &busybox];
        args.extend(flags);
        args.push(&context);
        env.run(args).expect_ok().log()
    };
    let digest = |log: &str| log.lines().find(|line| line.starts_with("digest")).map(str::to_owned);
    let first = run(&one, &[&to, &push("team/app:1")]);
    registry.take_requests();
    let second = run(&other, &[&format!("--cache-from={cache}"), &push("team/app:2"), &to]);
    assert_eq!(counts(&second), (0, 6), "{second}");
    assert_eq!(digest(&first), digest(&second));
    let asked = registry.take_requests();
    let done = |method: &str| -> Vec<Request> {
        let one =
            |one: &&Request| one.method == method && one.refused.is_none() && one.path.contains("/blobs/");
        asked.iter().filter(one).cloned().collect()
    };
    // The records, and nothing else; the image's configuration was there, so only manifests were sent.
    assert_eq!(done("GET").len(), 2, "{asked:#?}");
    assert!(done("PATCH").is_empty() && done("PUT").is_empty(), "{asked:#?}");

    // Whoever pulls the second image gets all of it, and in another repository the layers are mounted.
    run(&other, &[&format!("--cache-from={cache}"), &push("elsewhere/app:1")]);
    let asked = registry.take_requests();
    assert!(
        asked.iter().any(|one| one.path.contains("mount=") && one.path.contains("from=team%2Fcache")),
        "{asked:#?}"
    );
    let third = Env::new(BINARY);
    let base = third
        .folder(&[("Dockerfile", &format!("FROM {}\nRUN cat /id\n", registry.reference("elsewhere/app:1")))]);
    build(&third, &[], &base);
}

/// The first cache that answers is taken; all are written.
#[test]
fn several_caches_at_once() {
    let registry = needs!(Registry::open());
    let folder = tempfile::tempdir().expect("folder");
    let (one, other) = (Env::new(BINARY), Env::new(BINARY));
    let name = registry.reference("cache");
    let to_folder = format!("--cache-to=type=local,dest={},tag=app,mode=max", folder.path().display());
    let to_registry = format!("--cache-to=type=registry,ref={name},mode=max");
    build(&one, &[&to_folder, &to_registry], &context(&one));
    let from_folder = format!("--cache-from=type=local,src={},tag=app", folder.path().display());
    let refused = "--cache-from=127.0.0.1:1/nobody";
    let log =
        build_to_nowhere(&other, &[refused, &from_folder, &format!("--cache-from={name}")], &context(&other));
    assert_eq!(counts(&log), (0, 6), "{log}");
    assert!(log.contains("warning: the cache type=registry,ref=127.0.0.1:1/nobody"), "{log}");

    // By the configuration, and by variables.
    let mut third = Env::new(BINARY);
    let config = third.fresh("lithify.toml");
    third.write(&config, &format!("cache-from = [\"{name}\"]\n"));
    let context = context(&third);
    let log = build_to_nowhere(&third, &["--config", &config.display().to_string()], &context);
    assert_eq!(counts(&log), (0, 6), "{log}");
    third.set("LITHIFY_CACHE_FROM", &format!("127.0.0.1:1/nobody {name}"));
    let log = build_to_nowhere(&third, &[], &context);
    assert_eq!(counts(&log), (0, 6), "{log}");
}

/// Whatever is wrong with a cache is a warning that names it, and the build is as it would be without.
#[test]
fn broken_caches() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("cache");
    let one = Env::new(BINARY);
    build(&one, &[&format!("--cache-to=type=local,dest={},mode=max", path.display())], &context(&one));
    let from = format!("--cache-from=type=local,src={}", path.display());
    let blobs = path.join("blobs/sha256");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&blobs).expect("blobs").map(|entry| entry.expect("entry").path()).collect();
    files.push(path.join("index.json"));
    let (files_there, mut warnings) = (files.len(), 0);
    for file in files {
        let sound = std::fs::read(&file).expect("a file of the cache");
        let mut flipped = sound.clone();
        flipped[sound.len() / 2] ^= 0x55;
        for broken in [None, Some(&sound[..sound.len() / 2]), Some(&flipped[..]), Some(&b"garbage"[..])] {
            match broken {
                None => std::fs::remove_file(&file).expect("to remove"),
                Some(bytes) => std::fs::write(&file, bytes).expect("to write"),
            }
            let env = Env::new(BINARY);
            let (_, log) = build(&env, &[&from], &context(&env));
            let is_warned = log.contains("warning: the cache type=local");
            assert!(is_warned || counts(&log) == (0, 6), "{}: {log}", file.display());
            warnings += usize::from(is_warned);
            env.run(["store", "verify"]).expect_ok();
            std::fs::write(&file, &sound).expect("to write");
        }
    }
    // The large layer of the other stage is never looked at.
    assert_eq!((files_there, warnings), (6, 20));
    let env = Env::new(BINARY);
    let (_, log) = build(&env, &[&from], &context(&env));
    assert_eq!(counts(&log), (0, 6), "{log}");
}

#[test]
fn caches_that_cannot_be_reached() {
    let env = Env::new(BINARY);
    let context = context(&env);
    let check = |from: &str, expected: &str| {
        let flag = if from.contains("dest=") { "--cache-to" } else { "--cache-from" };
        let log = build_to_nowhere(&env, &["--no-cache", &format!("{flag}={from}")], &context);
        let is_named = |line: &&str| line.starts_with("warning: the cache type=") && line.contains(expected);
        assert!(flag == "--cache-from" || log.lines().any(|line| is_named(&line)), "{from}: {log}");
        let fresh = Env::new(BINARY);
        let log = build_to_nowhere(&fresh, &[&format!("{flag}={from}")], &context);
        assert!(log.lines().any(|line| is_named(&line)), "{from}: {log}");
        assert_eq!(counts(&log), (6, 0), "{from}: {log}");
    };
    check("type=registry,ref=127.0.0.1:1/x", "refused");
    check("type=local,src=/nonexistent/folder", "not there yet");
    check("type=local,dest=/proc/cache", "not written");
    let s3 =
        "type=s3,bucket=b,region=r,endpoint_url=http://127.0.0.1:1,access_key_id=a,secret_access_key=s3cr3t";
    check(s3, "refused");
    let registry = needs!(Registry::with_login(Login { name: "ada", password: "lovelace-1815" }));
    check(&format!("type=registry,ref={}", registry.reference("x")), "wants a login");
    let open = needs!(Registry::open());
    check(&format!("type=registry,ref={}", open.reference("nothing")), "not there yet");
    let log = build_to_nowhere(&env, &["--cache-to=type=registry,ref=127.0.0.1:1/x"], &context);
    assert!(log.contains("warning: the cache type=registry,ref=127.0.0.1:1/x is not written"), "{log}");
}

#[test]
fn wrong_flags() {
    let env = Env::new(BINARY);
    let context = context(&env).display().to_string();
    let check = |flag: &str, expected: &str| {
        let ended = env.run(["build", flag, &context]);
        assert!(!ended.log().contains("s3cr3t"), "{}", ended.summary());
        ended.expect_failure(2, expected);
    };
    check("--cache-to=type=gha,mode=max", "GitHub");
    check("--cache-from=type=azblob,name=x", "azurecr.io");
    check("--cache-from=type=nothing", "nothing is not known");
    check("--cache-from=type=inline", "type=registry,ref=IMAGE");
    check("--cache-to=type=registry,ref=a/b,compresion=zstd", "compresion is not known");
    check("--cache-to=type=local,src=x", "src is not known");
    check("--cache-to=type=local", "dest=");
    check("--cache-to=type=registry", "ref=");
    check("--cache-to=type=registry,ref=UPPER", "UPPER");
    check("--cache-to=type=registry,ref=a/b,mode=most", "mode=min or mode=max");
    check("--cache-to=type=registry,ref=a/b,ignore-error=false", "always true");
    check("--cache-to=type=s3,region=r,secret_access_key=s3cr3t,bucket=b", "access_key_id");
    check("--cache-from=type=s3,bucket=b,region=r,endpoint_url=ftp://h,use_path_style=true", "ftp://h");
}
