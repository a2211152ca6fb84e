//! The same inputs give the same bytes, whatever else differs: cache, folder, store, clock, user, threads, snapshotter.
//! When they do not, the test names the layer, the entry and the field.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use lithify_testkit::{Env, Image, Registry, diff, in_repository, missing_program, run_image, skipped};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");

#[test]
fn hello_is_the_same_everywhere() {
    let env = Env::new(BINARY);
    let context = env.copy_of(&in_repository("examples/hello"));
    let first = env.build::<&str>(&[], &context);
    let same = |what: &str, image: &Image| assert_same(&format!("hello {what}"), &first, image);

    same("from the cache", &env.build::<&str>(&[], &context));
    same("without cache", &env.build(&["--no-cache"], &context));
    same("with one thread", &env.build(&["--no-cache", "--jobs=1"], &context));
    same("with many threads", &env.build(&["--no-cache", "--jobs=16"], &context));
    for snapshotter in ["overlay", "copy"] {
        same(snapshotter, &env.build(&["--no-cache", &format!("--snapshotter={snapshotter}")], &context));
    }

    let elsewhere = env.fresh("another/folder/with a space");
    fs::create_dir_all(&elsewhere).expect("folder");
    let elsewhere = elsewhere.join("context");
    lithify_testkit::copy_tree(&context, &elsewhere);
    make_older(&elsewhere);
    same("from another folder with other times", &env.build::<&str>(&["--no-cache"], &elsewhere));

    let other_store = env.fresh("store");
    let mut command = env.lithify(["--root".as_ref(), other_store.as_os_str(), "build".as_ref()]);
    same("in another store", &env.build_with::<&str>(&mut command, &[], &context));

    same("with another locale, time zone and umask", &in_another_mood(&env, &context));
    match in_another_year(Env::new(BINARY)) {
        Ok(later) => same("in another year", &later.build::<&str>(&[], &context)),
        Err(why) => skipped("hello_is_the_same_everywhere (another clock)", &why),
    }
    match Env::plain(BINARY) {
        Ok(plain) => {
            let context = plain.copy_of(&in_repository("examples/hello"));
            for snapshotter in ["overlay", "copy"] {
                let flag = format!("--snapshotter={snapshotter}");
                same(
                    &format!("as a plain user with {snapshotter}"),
                    &plain.build(&["--no-cache", &flag], &context),
                );
            }
        }
        Err(why) => skipped("hello_is_the_same_everywhere (plain user)", &why),
    }
}

/// A real application, built by root with overlay and many threads; and by a plain user with copy, one thread and another clock, from
/// another folder into another store. What the plain user pushes then runs.
#[test]
fn debian_app_is_the_same_everywhere() {
    let name = "debian_app_is_the_same_everywhere";
    let plain = match (debian_rootfs(), Env::plain(BINARY).and_then(in_another_year)) {
        (Err(why), _) | (_, Err(why)) => return skipped(name, &why),
        (Ok(_), Ok(plain)) => plain,
    };
    let env = Env::new(BINARY);
    let one = build_debian_app(&env, &["--jobs=16", "--snapshotter=overlay"]);
    let other = build_debian_app(&plain, &["--no-cache", "--jobs=1", "--snapshotter=copy"]);
    assert_same("debian-app as a plain user with copy", &one, &other);
    assert_same("debian-app from the cache", &one, &build_debian_app(&env, &[]));
    assert_debian_app_is_as_written(&one);
    push_and_run(&plain, &one);
}

/// What the builds above left in the cache goes to a registry, and from there into a container.
fn push_and_run(env: &Env, built: &Image) {
    let name = "debian_app_is_the_same_everywhere (pushed)";
    let registry = match Registry::open() {
        Ok(registry) => registry,
        Err(why) => return skipped(name, &why),
    };
    let reference = registry.reference("team/debian-app:1");
    let context = env.copy_of(&in_repository("examples/debian-app")).display().to_string();
    let mut args = vec!["build".to_owned(), "--progress=plain".to_owned(), "--push".to_owned()];
    args.extend(["-t".to_owned(), reference.clone()]);
    args.extend(package_index());
    args.push(context);
    env.run(&args).expect_ok().expect_says(&built.digest);
    match run_image(&format!("docker://{reference}"), &[]) {
        Err(why) => skipped(name, &why),
        Ok(ended) => assert_eq!(
            ended.expect_ok().stdout,
            "Hello, world!\nuser app in /opt/app\nidentity 1000 as 0\nstate 2770\n"
        ),
    }
}

/// What apt, useradd and chmod did inside RUN is in the layers.
fn assert_debian_app_is_as_written(image: &Image) {
    let bases = lithify_testkit::describe::Tree::of(image).expect("a readable image");
    let line = |path: &str| bases.get(path).unwrap_or_else(|| panic!("{path} is missing")).to_owned();
    assert!(
        line("/usr/local/bin/identity").starts_with("f 4755 0:0 "),
        "{}",
        line("/usr/local/bin/identity")
    );
    assert!(line("/var/lib/app").starts_with("d 2770 1000:1000"), "{}", line("/var/lib/app"));
    assert!(line("/opt/app/app/__main__.py").starts_with("f 0644 1000:1000 "));
    assert!(line("/opt/venv/bin/python").starts_with("l "));
    assert_eq!(bases.get("/usr/bin/gcc"), None, "the builder stage's compiler is in the final image");
    assert_eq!(bases.get("/etc/resolv.conf").map(|line| &line[..1]).unwrap_or("f"), "f");
    let config = &image.config["config"];
    assert_eq!(config["User"], "app");
    assert_eq!(config["WorkingDir"], "/opt/app");
    assert_eq!(config["Entrypoint"][0], "tini");
}

#[track_caller]
fn assert_same(what: &str, first: &Image, other: &Image) {
    if let Some(difference) = diff::explain(first, other).expect("readable images") {
        panic!("{what} gives other bytes: {difference}");
    }
}

fn in_another_mood(env: &Env, context: &Path) -> Image {
    let mut command = env.program("sh");
    command.args(["-c", r#"umask 077; exec "$@""#, "sh"]).arg(env.binary()).args(["build", "--no-cache"]);
    command.env("TZ", "Pacific/Kiritimati").env("LANG", "tr_TR.UTF-8").env("LC_ALL", "tr_TR.UTF-8");
    env.build_with::<&str>(&mut command, &[], context)
}

/// Lets lithify see a clock that is some years ahead.
fn in_another_year(mut env: Env) -> Result<Env, String> {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    if !Path::new(&library).exists() {
        return Err("libfaketime is not installed (Debian: libfaketime)".to_owned());
    }
    env.set("LD_PRELOAD", &library);
    env.set("FAKETIME", "+1000d");
    Ok(env)
}

/// Gives all files below `folder` times of long ago.
fn make_older(folder: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for entry in fs::read_dir(folder).expect("folder").flatten() {
        let file = fs::File::open(entry.path()).expect("file");
        file.set_modified(time).expect("time");
    }
}

/// The example's folder with its root file system made; it is made once and kept.
fn debian_rootfs() -> Result<PathBuf, String> {
    let folder = in_repository("examples/debian-app");
    if folder.join("rootfs.tar").exists() {
        return Ok(folder);
    }
    if std::env::var_os("LITHIFY_REQUIRE_ALL").is_none() {
        return Err(
            "no examples/debian-app/rootfs.tar; its make-rootfs.sh makes one, over the network".to_owned()
        );
    }
    if let Some(why) = missing_program(&["mmdebstrap"]) {
        return Err(why);
    }
    let output = Command::new(folder.join("make-rootfs.sh")).output().map_err(|err| err.to_string())?;
    if output.status.success() {
        Ok(folder)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn build_debian_app(env: &Env, flags: &[&str]) -> Image {
    let context = env.copy_of(&in_repository("examples/debian-app"));
    let dockerfile = context.join("base.Dockerfile").display().to_string();
    let folder = context.display().to_string();
    env.run(["build", "--progress=plain", "-t", "debian-base", "-f", &dockerfile, &folder]).expect_ok();
    let index = package_index();
    let flags: Vec<&str> = flags.iter().copied().chain(index.as_deref()).collect();
    env.build(&flags, &context)
}

/// Settings of whoever tests, such as a package index of their own; the same for all builds.
fn package_index() -> Option<String> {
    std::env::var("PIP_INDEX_URL").map(|url| format!("--build-arg=PIP_INDEX_URL={url}")).ok()
}
