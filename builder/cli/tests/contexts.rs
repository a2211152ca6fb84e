//! Build contexts that are no folders: archives, URLs, repositories; and where the Dockerfile is found.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lithify_testkit::describe::Tree;
use lithify_testkit::{Env, Finished, Image, Running, missing_program, skipped};
use rustix::process::Signal;

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const LIMIT: Duration = Duration::from_secs(120);
const DOCKERFILE: &str = "FROM scratch\nCOPY a /a\n";

/// A file server that counts what it is asked.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves one file under every path. It has the ETag `"1"`, and a date.
    fn start(body: Vec<u8>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address").to_string();
        let requests = Arc::new(Mutex::new(vec![]));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &body, &seen);
            }
        });
        Server { address, requests }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("requests").clone()
    }
}

fn answer(mut stream: TcpStream, body: &[u8], seen: &Mutex<Vec<String>>) {
    let mut request = vec![];
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).to_lowercase();
    let is_known = request.contains("if-none-match: \"1\"");
    let login = request.lines().find_map(|line| line.strip_prefix("authorization: "));
    let login = login.map(|login| format!(" {login}")).unwrap_or_default();
    let what = if is_known { "same?" } else { "send" };
    seen.lock().expect("requests").push(format!("{what}{login}"));
    let headers = "etag: \"1\"\r\nlast-modified: Sun, 09 Sep 2001 01:46:40 GMT\r\nconnection: close\r\n";
    let _ = match is_known {
        true => write!(stream, "HTTP/1.1 304 Not Modified\r\n{headers}\r\n"),
        false => write!(stream, "HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n", body.len())
            .and_then(|()| stream.write_all(body)),
    };
}

/// An archive of `folder`, made by tar.
fn archive(env: &Env, folder: &Path, flags: &[&str]) -> PathBuf {
    let path = env.fresh("context.tar");
    let status =
        Command::new("tar").arg("-C").arg(folder).args(flags).arg("-cf").arg(&path).arg(".").status();
    assert!(status.expect("tar").success());
    path
}

/// Runs a build with a file as standard input, and nothing of it may stay in its folder for temporary files.
fn build_from(env: &Env, input: &Path, flags: &[&str]) -> Finished {
    let temporary = env.fresh("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let mut command = env.program("sh");
    command.args(["-c", r#"input=$1; shift; exec "$@" <"$input""#, "sh"]).arg(input).arg(env.binary());
    command.args(["build", "--progress=plain"]).args(flags).arg("-").env("TMPDIR", &temporary);
    let ended = Running::start(&mut command).expect("start").wait(LIMIT);
    assert_eq!(std::fs::read_dir(&temporary).expect("list").count(), 0, "left in the temporary folder");
    ended
}

fn files_of(archive: &Path) -> String {
    let image = Image::from_archive(archive).expect("image");
    Tree::of(&image).expect("files").paths().collect::<Vec<_>>().join(" ")
}

#[test]
fn archives_on_standard_input() {
    let env = Env::new(BINARY);
    let folder = env.folder(&[("Dockerfile", DOCKERFILE), ("a", "1\n"), (".dockerignore", "a\n")]);
    // A folder that its owner may not write in must go as well.
    env.write(&folder.join("locked/x"), "x");
    let locked = std::os::unix::fs::PermissionsExt::from_mode(0o555);
    std::fs::set_permissions(folder.join("locked"), locked).expect("mode");
    for compression in [&[][..], &["--gzip"], &["--bzip2"], &["--xz"], &["--zstd"]] {
        let out = env.fresh("out.tar");
        let output = format!("--output=type=oci,dest={}", out.display());
        build_from(&env, &archive(&env, &folder, compression), &[&output]).expect_ok();
        assert_eq!(files_of(&out), "/a", "{compression:?}");
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.join("locked"), open).expect("mode");
}

#[test]
fn the_dockerfile_of_an_archive() {
    let env = Env::new(BINARY);
    let folder = env.folder(&[("sub/other", DOCKERFILE), ("a", "1\n")]);
    let input = archive(&env, &folder, &[]);
    build_from(&env, &input, &[]).expect_failure(2, "there is no Dockerfile");
    build_from(&env, &input, &["-f", "sub/other"]).expect_ok();
    let local = env.folder(&[("x", DOCKERFILE)]).join("x");
    build_from(&env, &input, &["-f", local.to_str().expect("text")]).expect_ok();
    build_from(&env, &input, &["-f", "-"]).expect_failure(2, "standard input");
    let text = env.folder(&[("x", "FROM scratch\nLABEL a=b\n")]).join("x");
    build_from(&env, &text, &[]).expect_ok();
    build_from(&env, &text, &["-f", "sub/other"]).expect_failure(2, "standard input");
}

#[test]
fn what_is_no_archive() {
    let env = Env::new(BINARY);
    let folder = env.folder(&[("Dockerfile", DOCKERFILE), ("a", &"text\n".repeat(1000))]);
    let whole = std::fs::read(archive(&env, &folder, &[])).expect("archive");
    let cut = env.fresh("cut.tar");
    std::fs::write(&cut, &whole[..3000]).expect("write");
    build_from(&env, &cut, &[]).expect_failure(3, "cannot be unpacked");
    let packed = env.fresh("x.gz");
    let status = Command::new("sh").args(["-c", r#"echo text | gzip >"$1""#, "sh"]).arg(&packed).status();
    assert!(status.expect("gzip").success());
    build_from(&env, &packed, &[]).expect_failure(3, "no tar archive");
}

/// Links of an archive lead nowhere outside it, be they in its way or named as its Dockerfile.
#[test]
fn hostile_archives() {
    let env = Env::new(BINARY);
    let outside = env.folder(&[("secret", "FROM scratch\nLABEL of=outside\n")]);
    let folder = env.folder(&[("a", "1\n")]);
    std::os::unix::fs::symlink(outside.join("secret"), folder.join("Dockerfile")).expect("link");
    build_from(&env, &archive(&env, &folder, &[]), &[]).expect_failure(2, "there is no Dockerfile");

    let folder = env.folder(&[("Dockerfile", DOCKERFILE), ("a", "1\n")]);
    let name = format!("--transform=s,^./a$,../../../..{}/planted,", outside.display());
    build_from(&env, &archive(&env, &folder, &["--absolute-names", &name]), &[]);
    assert!(!outside.join("planted").exists());
}

#[test]
fn an_interrupted_download_leaves_nothing() {
    let env = Env::new(BINARY);
    let temporary = env.fresh("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let url = format!("http://{}/context.tar", listener.local_addr().expect("address"));
    let mut command = env.lithify(["build", &url]);
    let running = Running::start(command.env("TMPDIR", &temporary)).expect("start");
    // The server accepts, and says nothing.
    let _connection = listener.accept().expect("a connection");
    running.signal(Signal::INT);
    assert_eq!(running.wait(LIMIT).code, Some(130));
    assert_eq!(std::fs::read_dir(&temporary).expect("list").count(), 0);
}

#[test]
fn contexts_on_servers() {
    let env = Env::new(BINARY);
    let folder = env.folder(&[("Dockerfile", DOCKERFILE), ("a", "1\n")]);
    let packed = std::fs::read(archive(&env, &folder, &["--gzip"])).expect("archive");
    let server = Server::start(packed);
    env.run(["build", &server.url("context.tgz")]).expect_ok();
    env.run(["build", &server.url("context.tgz")]).expect_ok();
    assert_eq!(server.requests(), ["send", "same?"], "an unchanged archive is not sent again");
    let text = Server::start(b"FROM scratch\nCOPY context /c\n".to_vec());
    env.run(["build", &text.url("Dockerfile")]).expect_ok();
    env.run(["build", "--check", &text.url("Dockerfile")]).expect_ok();
    // With a password in its address, and with a secret for its host.
    let hidden = env.run(["build", "http://user:hunter2@127.0.0.1:1/x"]);
    assert!(!hidden.expect_failure(3, "127.0.0.1:1").log().contains("hunter2"));
    let token = env.folder(&[("token", "letmein\n")]).join("token");
    let secret = format!("--secret=id=HTTP_AUTH_TOKEN_{},src={}", server.address, token.display());
    env.run(["build", &secret, &server.url("again.tgz")]).expect_ok();
    assert_eq!(server.requests().last().map(String::as_str), Some("send bearer letmein"));
}

#[test]
fn named_contexts_of_all_kinds() {
    let env = Env::new(BINARY);
    let server = Server::start(b"by http\n".to_vec());
    let named = env.folder(&[("kept", "1\n"), ("left", "2\n"), (".dockerignore", "left\n.dockerignore\n")]);
    let context = env.folder(&[(
        "Dockerfile",
        "FROM image AS i\nFROM scratch\nCOPY --from=folder / /folder/\nCOPY --from=web context /web\n\
         COPY --from=image /bin/busybox /b\n",
    )]);
    let busybox = env.busybox().replacen("busybox=", "image=", 1);
    assert!(busybox.contains("image="), "{busybox}");
    let folder = format!("--build-context=folder={}", named.display());
    let web = format!("--build-context=web={}", server.url("x.tar"));
    let image = env.build(&[&folder, &web, &busybox], &context);
    let files = Tree::of(&image).expect("files");
    let base = env.folder(&[("Dockerfile", "FROM folder\nCOPY Dockerfile /\n")]);
    let on_folder = Tree::of(&env.build(&[&folder], &base)).expect("files");
    assert_eq!(on_folder.paths().collect::<Vec<_>>().join(" "), "/Dockerfile /kept");
    assert_eq!(files.paths().collect::<Vec<_>>().join(" "), "/b /folder /folder/kept /web");
}

#[test]
fn repositories() {
    if let Some(why) = missing_program(&["git"]) {
        return skipped("repositories", &why);
    }
    let env = Env::new(BINARY);
    let repository = env.folder(&[("sub/Dockerfile", DOCKERFILE), ("sub/a", "1\n"), ("other", "2\n")]);
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(&repository).args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments);
        assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("git").success());
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    git(&["update-server-info"]);
    let bare = env.fresh("r.git");
    git(&["clone", "-q", "--bare", ".", bare.to_str().expect("text")]);
    let updated = Command::new("git").arg("-C").arg(&bare).args(["update-server-info"]).status();
    assert!(updated.expect("git").success());
    let (server, fetched) = serve_files(bare);
    let url = format!("http://{server}/r.git");
    env.run(["build", &format!("{url}#main:sub")]).expect_ok();
    env.run(["build", &format!("{url}?branch=main&subdir=sub")]).expect_ok();
    env.run(["build", &format!("{url}#none")]).expect_failure(3, "none");
    let context = env.folder(&[("Dockerfile", &format!("FROM scratch\nADD {url} /r\n"))]);
    env.run(["build", &context.display().to_string()]).expect_ok();
    let before = fetched.lock().expect("requests").len();
    env.run(["build", "--progress=plain", &context.display().to_string()]).expect_ok().expect_says("cached");
    let after = fetched.lock().expect("requests")[before..].to_vec();
    assert!(!after.iter().any(|path| path.contains("/objects/")), "a cached checkout was cloned: {after:?}");
}

/// Serves the files of a bare repository (git's dumb protocol).
fn serve_files(bare: PathBuf) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("address").to_string();
    let asked = Arc::new(Mutex::new(vec![]));
    let seen = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = vec![];
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split_whitespace().nth(1).unwrap_or("/").split('?').next().unwrap_or("/");
            seen.lock().expect("requests").push(path.to_owned());
            let file = path.strip_prefix("/r.git/").map(|path| bare.join(path));
            let _ = match file.and_then(|file| std::fs::read(file).ok()) {
                Some(body) => write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                )
                .and_then(|()| stream.write_all(&body)),
                None => {
                    write!(stream, "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                }
            };
        }
    });
    (address, asked)
}

#[test]
fn where_the_dockerfile_is() {
    let env = Env::new(BINARY);
    let of = |files: &[(&str, &str)]| env.folder(files);
    // Podman's names, docker's first.
    env.build::<&str>(&[], &of(&[("Containerfile", DOCKERFILE), ("a", "1\n")]));
    env.build::<&str>(&[], &of(&[("Containerfile", "wrong"), ("Dockerfile", DOCKERFILE), ("a", "1\n")]));
    // Excluded, and still read.
    env.build::<&str>(
        &[],
        &of(&[("Dockerfile", DOCKERFILE), ("a", "1\n"), (".dockerignore", "Dockerfile\n")]),
    );
    // A link, and outside the context.
    let linked = of(&[("real", DOCKERFILE), ("a", "1\n")]);
    std::os::unix::fs::symlink("real", linked.join("Dockerfile")).expect("link");
    env.build::<&str>(&[], &linked);
    let elsewhere = of(&[("x", DOCKERFILE), ("x.dockerignore", "a\n")]).join("x");
    let context = of(&[("a", "1\n")]);
    let ended = env.run(["build", "-f", &elsewhere.display().to_string(), &context.display().to_string()]);
    ended.expect_failure(1, "/a");
    // Ignore files.
    let copy_all = "FROM scratch\nCOPY . /\n";
    for name in [".dockerignore", ".containerignore", "Dockerfile.dockerignore", "Dockerfile.containerignore"]
    {
        let context = of(&[("Dockerfile", copy_all), ("a", "1\n"), ("b", "1\n"), (name, "*\n!b\n")]);
        let image = env.build::<&str>(&[], &context);
        let files = Tree::of(&image).expect("files");
        assert_eq!(files.paths().collect::<Vec<_>>().join(" "), "/b", "{name}");
    }
}

#[test]
fn downloads_are_remembered() {
    let env = Env::new(BINARY);
    let server = Server::start(b"content\n".to_vec());
    let url = server.url("file.txt");
    let context =
        env.folder(&[("Dockerfile", &format!("FROM scratch\nADD {url} a.tar /d/\n")), ("a.tar", "")]);
    let first = env.build::<&str>(&[], &context);
    let second = env.build::<&str>(&[], &context);
    assert_eq!(first.digest, second.digest);
    assert_eq!(server.requests(), ["send", "same?"]);
    let files = Tree::of(&first).expect("files");
    assert!(
        files.get("/d/file.txt").is_some_and(|file| file.contains("600")),
        "{:?}",
        files.get("/d/file.txt")
    );
    let digest = "sha256:434728a410a78f56fc1b5899c3593436e61ab0c731e9072d95e96db290205e53";
    let wrong = digest.replace('e', "f");
    let with = |digest: &str| format!("FROM scratch\nADD --checksum={digest} {url} /d/\n");
    let context = env.folder(&[("Dockerfile", &with(digest)), ("wrong", &with(&wrong))]);
    env.build::<&str>(&[], &context);
    assert_eq!(server.requests().len(), 2, "a file whose digest is known was asked for");
    let wrong = env.run([
        "build",
        "-f",
        &context.join("wrong").display().to_string(),
        &context.display().to_string(),
    ]);
    wrong.expect_failure(3, "--checksum");
}
