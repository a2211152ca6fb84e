//! What comes out: files, archives of files, other times, other compressions, and what is told beside.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use lithify_testkit::describe::Tree;
use lithify_testkit::{Env, Image, TarReader, missing_program, skipped};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");

/// Three layers: what the second takes away and replaces, the third has no more.
const LAYERS: &str = "FROM busybox
COPY one two /d/
RUN rm /d/one && mkdir -p /d/one && echo new > /d/one/file && chmod 4750 /d/two && ln /d/two /d/second && \
    ln -s /etc/passwd /d/link && mkfifo /d/pipe && rm -rf /tmp && chmod 1777 /d
COPY one /d/three
";

fn context(env: &Env) -> std::path::PathBuf {
    env.folder(&[("Dockerfile", LAYERS), ("one", "1\n"), ("two", "2\n")])
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o7777
}

#[test]
fn files_as_the_callers() {
    files_to_a_folder(&Env::new(BINARY));
}

#[test]
fn files_as_a_plain_users() {
    match Env::plain(BINARY) {
        Ok(env) => files_to_a_folder(&env),
        Err(why) => skipped("files_as_a_plain_users", &why),
    }
}

fn files_to_a_folder(env: &Env) {
    let out = env.fresh("out");
    let context = context(env).display().to_string();
    for output in [format!("--output=type=local,dest={}", out.display()), format!("-o{}", out.display())] {
        env.run(["build", &env.busybox(), &output, &context]).expect_ok();
        assert_eq!(fs::read(out.join("d/one/file")).expect("file"), b"new\n");
        assert_eq!(fs::read(out.join("d/three")).expect("file"), b"1\n");
        assert_eq!((mode(&out.join("d")), mode(&out.join("d/two"))), (0o1777, 0o4750));
        let inode = |path: &str| fs::metadata(out.join(path)).expect("file").ino();
        assert_eq!(inode("d/two"), inode("d/second"));
        assert_eq!(fs::read_link(out.join("d/link")).expect("link"), Path::new("/etc/passwd"));
        assert!(fs::symlink_metadata(out.join("d/pipe")).expect("pipe").file_type().is_fifo());
        assert!(!out.join("tmp").exists(), "what a layer takes away is there");
        assert!(out.join("bin/busybox").exists(), "the base is not there");
        let owner = fs::metadata(out.join("d/two")).expect("file").uid();
        assert_eq!(owner, env.user().map_or(rustix::process::getuid().as_raw(), |user| user.uid()));
        // Real times, as make wants them.
        assert!(fs::metadata(out.join("d/one/file")).expect("file").mtime() > 1_600_000_000);
    }
    let epoch = ["--timestamp=1000000000", &env.busybox(), "-o", &out.display().to_string(), &context]
        .map(str::to_owned);
    env.run(std::iter::once("build".to_owned()).chain(epoch)).expect_ok();
    assert_eq!(fs::metadata(out.join("d/one/file")).expect("file").mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(out.join("d")).expect("folder").mtime(), 1_000_000_000);
}

#[test]
fn files_as_one_archive() {
    let env = Env::new(BINARY);
    let context = context(&env).display().to_string();
    let (one, two) = (env.fresh("one.tar"), env.fresh("two.tar"));
    env.run(["build", &env.busybox(), &format!("--output=type=tar,dest={}", one.display()), &context])
        .expect_ok();
    let mut command = env.program("sh");
    command.args(["-c", r#"out=$1; shift; exec "$@" >"$out""#, "sh"]).arg(&two).arg(env.binary());
    command.args(["build", &env.busybox(), "-o", "-", "--quiet", &context]);
    // With --quiet nothing but the archive may be on standard output, and then the id.
    assert!(command.status().expect("lithify").success());
    let archive = fs::read(&one).expect("archive");
    assert!(fs::read(&two).expect("archive").starts_with(&archive), "two builds wrote two archives");
    let mut tar = TarReader::new(archive.as_slice());
    let mut paths = vec![];
    while let Some(member) = tar.next_member().expect("archive") {
        paths.push(member.path());
    }
    assert!(
        paths.iter().any(|path| path == "/d/one/file") && !paths.iter().any(|path| path.contains(".wh."))
    );
    let mut sorted = paths.clone();
    sorted.dedup();
    assert_eq!(sorted.len(), paths.len(), "a path is there twice");
}

#[test]
fn compressions() {
    let env = Env::new(BINARY);
    let context = context(&env);
    let build = |flags: &str| {
        let archive = env.fresh("image.tar");
        let output = format!("--output=type=oci,dest={},{flags}", archive.display());
        env.run(["build", &env.busybox(), &output, &context.display().to_string()]).expect_ok();
        let image = Image::from_archive(&archive).expect("image");
        image.validate().expect("a sound image");
        image
    };
    let types = |image: &Image| -> Vec<String> {
        let kinds = image
            .layers
            .iter()
            .map(|layer| layer.media_type.rsplit(['+', '.']).next().unwrap_or("").to_owned());
        kinds.collect()
    };
    let zstd = build("compression=zstd");
    let base = types(&zstd)[0].clone();
    assert_eq!(types(&zstd)[1..], ["zstd", "zstd", "zstd"]);
    let gzip = build("compression=gzip");
    assert_eq!(types(&gzip), [base.as_str(), "gzip", "gzip", "gzip"]);
    assert_eq!(zstd.diff_ids(), gzip.diff_ids());
    assert_eq!(build("compression=gzip").digest, gzip.digest);
    assert_eq!(
        build("compression=zstd").digest,
        zstd.digest,
        "what was made before shows in what is made now"
    );
    assert_eq!(types(&build("compression=uncompressed"))[1..], ["tar", "tar", "tar"]);
    for name in ["zstd", "gzip"] {
        let forced = build(&format!("compression={name},force-compression=true"));
        assert_eq!(types(&forced), [name; 4]);
        assert_eq!(forced.diff_ids(), zstd.diff_ids());
    }
    // Each output of one build as it wants.
    let (a, b) = (env.fresh("a.tar"), env.fresh("b.tar"));
    let outputs = [
        format!("--output=type=oci,dest={},compression=gzip", a.display()),
        format!("--output=type=oci,dest={}", b.display()),
    ];
    env.run(["build", &env.busybox(), &outputs[0], &outputs[1], &context.display().to_string()]).expect_ok();
    assert_eq!(Image::from_archive(&a).expect("image").digest, gzip.digest);
    assert_eq!(Image::from_archive(&b).expect("image").digest, zstd.digest);
}

#[test]
fn times() {
    let env = Env::new(BINARY);
    let context = context(&env);
    let times = |image: &Image| {
        let mut times = vec![];
        for layer in &image.layers[1..] {
            let mut tar = image.tar(layer).expect("layer");
            while let Some(member) = tar.next_member().expect("layer") {
                times.push(member.mtime.parse::<f64>().expect("a time") as i64);
            }
        }
        times
    };
    let zero = env.build(&[env.busybox()], &context);
    assert!(times(&zero).iter().all(|time| *time == 0));
    let at = env.build(&[&env.busybox(), "--timestamp=1700000000"], &context);
    assert!(times(&at).iter().all(|time| *time == 1_700_000_000));
    assert_eq!(at.config["created"], "2023-11-14T22:13:20Z");
    let dated = |history: &serde_json::Value| history["created"] == "2023-11-14T22:13:20Z";
    assert!(at.config["history"].as_array().expect("history")[1..].iter().all(dated));
    let cached = env.run([
        "build",
        "--progress=plain",
        &env.busybox(),
        "--timestamp=1",
        &context.display().to_string(),
    ]);
    cached.expect_ok().expect_says("cached");
    let mut command = env.lithify(["build", "--progress=plain"]);
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    assert_eq!(env.build_with(&mut command, &[env.busybox()], &context).digest, at.digest);
    env.write(&context.join("dated"), &format!("ARG SOURCE_DATE_EPOCH=1700000000\n{LAYERS}"));
    let dated = format!("--file={}", context.join("dated").display());
    assert_eq!(env.build(&[&env.busybox(), &dated], &context).digest, at.digest);
    let real = env.build(&[&env.busybox(), "--timestamp=preserve"], &context);
    assert!(times(&real).iter().any(|time| *time > 1_600_000_000));
    assert_eq!(env.build(&[&env.busybox(), "--timestamp=preserve"], &context).digest, real.digest);
    assert_eq!(env.build(&[env.busybox()], &context).digest, zero.digest);
    let wrong = env.run(["build", "--timestamp=soon", &context.display().to_string()]);
    wrong.expect_failure(2, "--timestamp");
}

#[test]
fn what_is_told() {
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", "from scratch\nLABEL a=1 b=1\nCOPY Dockerfile /\n")]);
    let (id, metadata) = (env.fresh("id"), env.fresh("metadata"));
    let flags = [format!("--iidfile={}", id.display()), format!("--metadata-file={}", metadata.display())];
    let path = context.display().to_string();
    let ended =
        env.run(["build", "-q", "-t", "a", "--label", "b=2", &flags[0], &flags[1], &path]).expect_ok();
    let told = fs::read_to_string(&id).expect("id");
    assert_eq!((ended.stdout.trim_end(), ended.stderr.as_str()), (told.as_str(), ""));
    let metadata: serde_json::Value =
        serde_json::from_slice(&fs::read(&metadata).expect("metadata")).expect("JSON");
    assert_eq!(metadata["containerimage.config.digest"], told.as_str());
    assert_eq!(metadata["image.name"], "docker.io/library/a:latest");
    let image = env.build(&["--label=b=2"], &context);
    assert_eq!(image.config["config"]["Labels"], serde_json::json!({"a": "1", "b": "2"}));
    assert!(env.run(["images"]).expect_ok().stdout.contains("docker.io/library/a:latest"));
}

#[test]
fn questions() {
    let env = Env::new(BINARY);
    let text =
        "# check=error=true\nARG V=1\nFROM scratch AS first\nFROM scratch AS Second\nCOPY Dockerfile /\n";
    let context =
        env.folder(&[("Dockerfile", text), ("good", "FROM scratch AS a\nARG X=1\nCOPY good /$X\n")]);
    let path = context.display().to_string();
    let good = context.join("good").display().to_string();
    env.run(["build", &path]).expect_failure(2, "StageNameCasing");
    env.run(["build", "--check", &path]).expect_failure(1, "StageNameCasing");
    env.run(["check", &path]).expect_failure(1, "StageNameCasing");
    env.run(["check", "-f", &good, &path]).expect_ok();
    let targets = env.run(["build", "--call=targets,format=json", &path]).expect_ok().stdout;
    let targets: serde_json::Value = serde_json::from_str(&targets).expect("JSON");
    assert_eq!(targets["targets"].as_array().map(Vec::len), Some(2));
    let outline = env.run(["build", "--call=outline,format=json", "-f", &good, &path]).expect_ok().stdout;
    let outline: serde_json::Value = serde_json::from_str(&outline).expect("JSON");
    assert_eq!(outline["args"][0]["name"], "X");
    env.run(["build", "--call=outline", "-f", &good, &path]).expect_ok().expect_says("X");
    env.run(["build", "--call=check,format=json", "-f", &good, &path]).expect_ok();
    env.run(["build", "--call=nothing", &path]).expect_failure(2, "--call");
}

#[test]
fn flags_of_docker() {
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let path = context.display().to_string();
    let ended =
        env.run(["build", "--rm", "--force-rm", "--compress", "-m", "1g", "--cpu-shares=2", "--load", &path]);
    ended.expect_ok().expect_says("--force-rm is ignored").expect_says("--compress is ignored");
    env.run(["build", "--provenance=false", "--sbom=false", "--rm=true", &path]).expect_ok();
    for flag in ["--squash", "--provenance=max", "--device=x", "--annotation=a=b"] {
        let name = flag.split('=').next().unwrap_or(flag);
        env.run(["build", flag, &path]).expect_failure(2, name);
    }
}

#[test]
fn proxies_of_docker() {
    let env = Env::new(BINARY);
    let text = "FROM busybox\nRUN echo \"of-run $HTTPS_PROXY $no_proxy\"\nRUN env > /env\n";
    let context = env.folder(&[("Dockerfile", text)]);
    let before = env.build(&[env.busybox()], &context);
    env.docker_config(r#"{"proxies":{"default":{"httpsProxy":"http://p:1","noProxy":"local"}}}"#);
    assert_eq!(env.build(&[env.busybox()], &context).digest, before.digest, "a proxy is in a key");
    let fresh =
        env.run(["build", "--progress=plain", "--no-cache", &env.busybox(), &context.display().to_string()]);
    fresh.expect_ok().expect_says("of-run http://p:1 local");
}

#[test]
fn certificates_are_lent() {
    let env = Env::new(BINARY);
    let text = "FROM busybox\nRUN tail -n1 \"$SSL_CERT_FILE\"; test -f \"$APT_CONFIG\"; touch /x\n";
    let context = env.folder(&[("Dockerfile", text)]);
    let file = env
        .folder(&[("ca.pem", "-----BEGIN CERTIFICATE-----\nAA==\n-----END OF LENT-----\n")])
        .join("ca.pem");
    let flag = format!("--ca-certificates={}", file.display());
    let path = context.display().to_string();
    env.run(["build", "--progress=plain", &env.busybox(), &flag, &path])
        .expect_ok()
        .expect_says("END OF LENT");
    let image = env.build(&[&env.busybox(), &flag], &context);
    let tree = Tree::of(&image).expect("files");
    assert!(!tree.paths().any(|path| path.contains("ca-certificates")), "the bundle left a trace");
    assert_eq!(env.build(&[env.busybox()], &context).digest, image.digest, "the bundle is in a key");
    let wrong =
        env.run(["build", &format!("--ca-certificates={}", context.join("Dockerfile").display()), &path]);
    wrong.expect_failure(2, "PEM");
}

#[test]
fn the_store_is_looked_after() {
    let env = Env::new(BINARY);
    let context =
        env.folder(&[("Dockerfile", "FROM scratch\nCOPY big /\n"), ("big", &"x\n".repeat(100_000))]);
    env.run(["build", "-t", "kept", &context.display().to_string()]).expect_ok();
    env.run(["du"]).expect_ok().expect_says("docker.io/library/kept:latest").expect_says("total");
    env.run(["store", "verify"]).expect_ok();
    env.run(["prune", "--all"]).expect_ok().expect_says("cached step");
    env.run(["store", "verify"]).expect_ok();
    let blobs = env.store().join("blobs/sha256");
    let blob = fs::read_dir(&blobs).expect("blobs").flatten().next().expect("a blob").path();
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).expect("mode");
    fs::write(&blob, "damaged").expect("write");
    env.run(["store", "verify"]).expect_failure(5, "damaged");
    env.run(["store", "verify", "--repair"]).expect_ok();
    env.run(["build", "-t", "kept", &context.display().to_string()]).expect_ok();
    env.run(["store", "verify"]).expect_ok();
}

#[test]
fn other_tools_read_what_is_written() {
    if let Some(why) = missing_program(&["tar", "gzip"]) {
        return skipped("other_tools_read_what_is_written", &why);
    }
    let env = Env::new(BINARY);
    let archive = env.fresh("files.tar");
    let output = format!("--output=type=tar,dest={}", archive.display());
    env.run(["build", &env.busybox(), &output, &context(&env).display().to_string()]).expect_ok();
    let listed = Command::new("tar").arg("-tvf").arg(&archive).output().expect("tar");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
}
