//! Pushing to and pulling from registries: Debian's `docker-registry`, open, with passwords, and behind tokens.

use std::path::Path;
use std::process::Command;

use lithify_testkit::{
    Env, Image, Login, Registry, Request, TokenRegistry, in_repository, missing_program, run_image, skipped,
};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const LOGIN: Login = Login { name: "ada", password: "lovelace-1815" };

/// Unwraps what a test needs, or says that the test is skipped.
macro_rules! needs {
    ($what:expr) => {
        match $what {
            Ok(it) => it,
            Err(why) => return skipped(module_path!(), &why),
        }
    };
}

fn has(program: &str) -> Result<(), String> {
    missing_program(&[program]).map_or(Ok(()), Err)
}

fn hello() -> String {
    in_repository("examples/hello").display().to_string()
}

fn skopeo(args: &[&str]) -> String {
    let output =
        Command::new("skopeo").arg("--insecure-policy").args(args).output().expect("skopeo should start");
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn others_read_what_is_pushed_and_written() {
    needs!(has("skopeo"));
    let registry = needs!(Registry::open());
    let env = Env::new(BINARY);
    let name = registry.reference("team/hello:v1");
    env.run(["build", "--push", "-t", &name, &hello()]).expect_ok();
    let archive = env.fresh("app.tar");
    env.run(["build", &format!("--output=type=oci,dest={}", archive.display()), &hello()]).expect_ok();
    let written = Image::from_archive(&archive).expect("a readable archive");

    let inspected: serde_json::Value =
        serde_json::from_str(&skopeo(&["inspect", "--tls-verify=false", &format!("docker://{name}")]))
            .expect("JSON");
    assert_eq!(
        inspected["Digest"],
        written.digest.as_str(),
        "the registry has another image than the archive"
    );
    for (source, flag) in [
        (format!("docker://{name}"), "--src-tls-verify=false"),
        (format!("oci-archive:{}", archive.display()), "--quiet"),
    ] {
        let layout = env.fresh("layout");
        skopeo(&["copy", flag, &source, &format!("oci:{}:x", layout.display())]);
        let copied = Image::from_layout(&layout).expect("a readable layout");
        copied.validate().expect("a sound image");
        assert_eq!(copied.digest, written.digest, "{source}");
    }
    let ended = needs!(run_image(&format!("docker://{name}"), &[]));
    assert!(ended.expect_ok().stdout.contains("Hello, world!"));
}

#[test]
fn docker_archives_and_layout_folders_are_read_by_others() {
    needs!(has("skopeo"));
    let env = Env::new(BINARY);
    let (docker, folder) = (env.fresh("docker.tar"), env.fresh("layout"));
    let docker_output = format!("--output=type=docker,dest={}", docker.display());
    let folder_output = format!("--output=type=oci,tar=false,dest={}", folder.display());
    env.run(["build", "-t", "hello:docker", &docker_output, &folder_output, &hello()]).expect_ok();
    let copy = env.fresh("copy");
    skopeo(&["copy", &format!("docker-archive:{}", docker.display()), &format!("oci:{}:x", copy.display())]);
    let (one, other) =
        (Image::from_layout(&folder).expect("layout"), Image::from_layout(&copy).expect("copy"));
    one.validate().expect("a sound image");
    assert_eq!(one.diff_ids(), other.diff_ids());
}

/// The store is an OCI layout that others read.
#[test]
fn others_read_the_store() {
    needs!(has("skopeo"));
    let env = Env::new(BINARY);
    env.run(["build", "-t", "hello:store", &hello()]).expect_ok();
    let written = env.build::<&str>(&[], Path::new(&hello()));
    let index = std::fs::read_to_string(env.store().join("index.json")).expect("index.json in the store");
    assert!(index.contains(&written.digest), "{index}");
    assert!(index.contains("hello:store"), "{index}");
}

#[test]
fn from_by_tag_and_by_digest() {
    needs!(has("skopeo"));
    let registry = needs!(Registry::open());
    let base = put_busybox(registry.address(), None);
    for reference in [registry.reference("busybox:1"), registry.reference(&format!("busybox@{base}"))] {
        builds_from(&Env::new(BINARY), &reference);
    }
    let env = Env::new(BINARY);
    let wrong = registry.reference(&format!("busybox@sha256:{}", "0".repeat(64)));
    let context = env.folder(&[("Dockerfile", format!("FROM {wrong}\n").as_str())]).display().to_string();
    let ended = env.run(["build", &context]);
    assert!(ended.ended_in_order() && ended.code != Some(0), "{}", ended.summary());
    ended.expect_says("sha256:0000");
}

#[test]
fn basic_authentication() {
    needs!(has("skopeo"));
    let registry = needs!(Registry::with_login(LOGIN));
    put_busybox(registry.address(), Some(LOGIN));
    let env = Env::new(BINARY);
    env.docker_config(&LOGIN.docker_config(registry.address()));
    builds_from(&env, &registry.reference("busybox:1"));
    env.run(["build", "--push", "-t", &registry.reference("hello"), &hello()]).expect_ok();
}

#[test]
fn tokens_for_those_who_log_in() {
    needs!(has("skopeo"));
    let registry = needs!(TokenRegistry::with_login(LOGIN));
    put_busybox(registry.behind().address(), None);
    let env = Env::new(BINARY);
    env.docker_config(&LOGIN.docker_config(registry.address()));
    builds_from(&env, &registry.reference("busybox:1"));
    let name = registry.reference("team/hello");
    env.run(["build", "--push", "-t", &name, &hello()]).expect_ok();
    let asked = registry.take_requests();
    assert!(
        asked.iter().any(|one| one.path.starts_with("/token") && one.path.contains("scope=")),
        "{asked:?}"
    );

    // Everything is there already: a second push sends no blob again.
    env.run(["build", "--push", "-t", &name, &hello()]).expect_ok();
    let sent: Vec<Request> = registry
        .take_requests()
        .into_iter()
        .filter(|one| matches!(one.method.as_str(), "PATCH" | "POST"))
        .collect();
    assert!(sent.is_empty(), "{sent:?}");
}

#[test]
fn tokens_for_everybody() {
    needs!(has("skopeo"));
    let registry = needs!(TokenRegistry::anonymous());
    put_busybox(registry.behind().address(), None);
    let env = Env::new(BINARY);
    let reference = registry.reference("busybox:1");
    builds_from(&env, &reference);
    assert!(!registry.take_requests().is_empty());

    // `--pull missing` is the default: what the store knows is not asked for again, and `never` never asks.
    for flag in ["--pull=missing", "--pull=never"] {
        builds_from_with(&env, &reference, &[flag]);
        assert_eq!(registry.take_requests(), Vec::new(), "{flag}");
    }
    builds_from_with(&env, &reference, &["--pull=always"]);
    let asked = registry.take_requests();
    assert!(
        asked.iter().any(|one| one.path.contains("/manifests/1")),
        "--pull=always did not ask: {asked:?}"
    );
    assert!(!asked.iter().any(|one| one.method == "GET" && one.path.contains("/blobs/")), "{asked:?}");
}

/// Mirrors are asked in order, before the registry itself; one that cannot be reached is passed over.
#[test]
fn mirrors_named_in_the_configuration() {
    needs!(has("skopeo"));
    let mirror = needs!(TokenRegistry::anonymous());
    put_busybox_as(mirror.behind().address(), "library/busybox:1", None);
    let env = Env::new(BINARY);
    let config = env.fresh("lithify.toml");
    // Port 1 of the loopback interface is as good as never in use.
    let mirrors = format!(r#"["http://127.0.0.1:1", "http://{}"]"#, mirror.address());
    env.write(&config, &format!("[registry.\"docker.io\"]\nmirrors = {mirrors}\n"));
    let context = env.folder(&[("Dockerfile", "FROM busybox:1\nRUN echo hi > /hi\n")]);
    let image = env.build(&["--config", &config.display().to_string()], &context);
    assert_eq!(image.file("/hi").expect("image").as_deref(), Some("hi\n".as_bytes()));
    let asked = mirror.take_requests();
    assert!(asked.iter().any(|one| one.path.contains("/library/busybox/manifests/1")), "{asked:?}");
}

/// What no step reads is not fetched, and a push mounts it from the base's repository.
#[test]
fn base_layers_stay_where_they_are() {
    needs!(has("skopeo"));
    let registry = needs!(TokenRegistry::anonymous());
    put_busybox(registry.behind().address(), None);
    let base = registry.reference("busybox:1");
    let layer = Image::from_layout(&in_repository("testdata/conformance/base/busybox"))
        .expect("the base image")
        .layers[0]
        .digest
        .clone();
    let fetches = |asked: &[Request]| {
        asked.iter().any(|one| one.method == "GET" && one.path.contains(&layer) && one.refused.is_none())
    };
    let env = Env::new(BINARY);
    let linked =
        env.folder(&[("Dockerfile", &format!("FROM {base}\nCOPY --link a /\nENV A=1\n")), ("a", "1\n")]);
    let linked = linked.display().to_string();
    env.run(["build", "-t", "linked", &linked]).expect_ok();
    let asked = registry.take_requests();
    assert!(asked.iter().any(|one| one.path.contains("/manifests/1")), "{asked:?}");
    assert!(!fetches(&asked), "COPY --link needs no layer of the base: {asked:?}");

    let name = registry.reference("team/linked:1");
    env.run(["build", "--push", "-t", &name, &linked]).expect_ok();
    let asked = registry.take_requests();
    assert!(!fetches(&asked), "a push fetched a layer that the registry has: {asked:?}");
    let mounts = asked.iter().any(|one| one.path.contains("mount=") && one.path.contains("from=busybox"));
    assert!(mounts, "the base's layer was not mounted: {asked:?}");
    let pushed = env.fresh("pushed");
    skopeo(&[
        "copy",
        "--src-tls-verify=false",
        &format!("docker://{}/team/linked:1", registry.behind().address()),
        &format!("oci:{}:x", pushed.display()),
    ]);
    let pushed = Image::from_layout(&pushed).expect("a readable layout");
    pushed.validate().expect("a sound image");
    assert_eq!(pushed.layers.len(), 2);
    assert_eq!(pushed.layers[0].digest, layer);

    // With the steps cached, not even a RUN reads the base.
    let context = env.folder(&[("Dockerfile", &format!("FROM {base}\nRUN echo hi > /hi\n"))]);
    let context = context.display().to_string();
    env.run(["build", "-t", "ran", &context]).expect_ok();
    assert!(fetches(&registry.take_requests()), "RUN saw no base");
    let blob = env.store().join("blobs").join(layer.replace(':', "/"));
    std::fs::remove_file(&blob).expect("the base's layer in the store");
    env.run(["build", "-t", "ran", "--pull=always", &context]).expect_ok().expect_says("cached");
    let asked = registry.take_requests();
    assert!(!fetches(&asked), "a cached build fetched a layer: {asked:?}");
}

/// Puts the busybox image at `busybox:1`; says its digest.
fn put_busybox(registry: &str, login: Option<Login>) -> String {
    put_busybox_as(registry, "busybox:1", login)
}

fn put_busybox_as(registry: &str, name: &str, login: Option<Login>) -> String {
    let source = format!("oci:{}:latest", in_repository("testdata/conformance/base/busybox").display());
    let login = login.map(|login| format!("--dest-creds={}:{}", login.name, login.password));
    let target = format!("docker://{registry}/{name}");
    let mut args = vec!["copy", "--quiet", "--dest-tls-verify=false"];
    args.extend(login.as_deref());
    args.extend([source.as_str(), target.as_str()]);
    skopeo(&args);
    let base =
        Image::from_layout(&in_repository("testdata/conformance/base/busybox")).expect("the base image");
    base.digest
}

fn builds_from(env: &Env, reference: &str) {
    builds_from_with(env, reference, &[]);
}

fn builds_from_with(env: &Env, reference: &str, flags: &[&str]) {
    let context = env.folder(&[("Dockerfile", format!("FROM {reference}\nRUN echo hi > /hi\n").as_str())]);
    let image = env.build(flags, &context);
    assert_eq!(image.file("/hi").expect("image").as_deref(), Some("hi\n".as_bytes()));
    assert_eq!(image.layers.len(), 2);
}
