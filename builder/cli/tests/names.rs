//! What names stand for: `--pull`, `--offline`, `--lock`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lithify_testkit::{Env, Registry, TokenRegistry, missing_program, skipped};

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

fn has(programs: &[&str]) -> Result<(), String> {
    missing_program(programs).map_or(Ok(()), Err)
}

/// A file server on a loopback port, whose files are those of a folder.
struct Files {
    address: String,
    folder: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Files {
    fn serve(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address").to_string();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (root, log) = (folder.to_owned(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &root, &log);
            }
        });
        Files { address, folder: folder.to_owned(), asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("log"))
    }

    fn put(&self, path: &str, text: &str) {
        std::fs::write(self.folder.join(path), text).expect("file");
    }
}

fn answer(mut stream: TcpStream, root: &Path, log: &Mutex<Vec<String>>) {
    let mut request = vec![];
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/").to_owned();
    log.lock().expect("log").push(path.clone());
    let answer = match std::fs::read(root.join(path.trim_start_matches('/'))) {
        Ok(body) => {
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            [head.into_bytes(), body].concat()
        }
        Err(_) => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
    };
    // Who has seen enough goes.
    let _ = stream.write_all(&answer);
}

/// Puts the busybox image, with this label, at `name` of the registry.
fn put_busybox(env: &Env, registry: &Registry, name: &str, label: &str) {
    let context =
        env.folder(&[("Dockerfile", &format!("FROM busybox\nLABEL it={label}\nRUN echo {label} > /it\n"))]);
    let reference = registry.reference(name);
    env.run(["build", "--push", "-t", &reference, &env.busybox(), &context.display().to_string()])
        .expect_ok();
}

fn build(env: &Env, flags: &[&str], context: &Path) -> lithify_testkit::Finished {
    let context = context.display().to_string();
    let mut args = vec!["build", "--progress=plain", "--output=type=cacheonly"];
    args.extend(flags);
    args.push(&context);
    env.run(args)
}

/// `missing` asks for what the store lacks, `always` each time, `never` not at all: neither for a name nor for a layer.
#[test]
fn pull() {
    let registry = needs!(TokenRegistry::anonymous());
    put_busybox(&Env::new(BINARY), registry.behind(), "base:1", "one");
    let base = registry.reference("base:1");
    let env = Env::new(BINARY);
    let linked = env.folder(&[("Dockerfile", &format!("FROM {base}\nCOPY --link Dockerfile /\n"))]);
    let run = env.folder(&[("Dockerfile", &format!("FROM {base}\nRUN cat /it\n"))]);

    build(&env, &["--pull=never"], &linked).expect_failure(3, "--pull=never forbids");
    assert_eq!(registry.take_requests(), []);
    build(&env, &[], &linked).expect_ok();
    assert!(!registry.take_requests().is_empty());
    for flag in ["--pull=missing", "--pull=never"] {
        build(&env, &[flag], &linked).expect_ok();
        assert_eq!(registry.take_requests(), [], "{flag}");
    }
    // The name is known, but a step that runs needs the layers.
    build(&env, &["--pull=never"], &run)
        .expect_failure(3, "--pull=never forbids")
        .expect_says("the layer sha256:");
    assert_eq!(registry.take_requests(), []);
    for flag in ["--pull", "--pull=always"] {
        build(&env, &[flag], &linked).expect_ok();
        assert!(registry.take_requests().iter().any(|one| one.path.contains("/manifests/1")), "{flag}");
    }
    build(&env, &["--pull=missing"], &run).expect_ok();

    // Another image under the same name is seen by `always` only.
    put_busybox(&Env::new(BINARY), registry.behind(), "base:1", "two");
    build(&env, &["--pull=missing"], &run).expect_ok().expect_says("CACHED");
    build(&env, &["--pull=always"], &run).expect_ok().expect_says("two");
    let gone = Env::new(BINARY);
    let nowhere = gone.folder(&[("Dockerfile", "FROM 127.0.0.1:1/x\n")]);
    for flag in ["--pull=missing", "--pull=always"] {
        build(&gone, &[flag], &nowhere).expect_failure(3, "cannot find the base image");
    }
    let mut by_variable = Env::new(BINARY);
    by_variable.set("LITHIFY_PULL", "never");
    build(&by_variable, &[], &linked).expect_failure(3, "--pull=never forbids");
}

#[test]
fn offline() {
    needs!(has(&["git"]));
    let registry = needs!(TokenRegistry::anonymous());
    put_busybox(&Env::new(BINARY), registry.behind(), "base:1", "one");
    let env = Env::new(BINARY);
    let files = Files::serve(&repository(&env));
    files.put("file", "one\n");
    let (base, url, git) = (registry.reference("base:1"), files.url("file"), files.url("r.git"));
    let text = format!("FROM {base}\nADD {url} /file\nADD {git} /r\nRUN cat /it /file /r/file\n");
    let context =
        env.folder(&[("Dockerfile", &text), ("more", &format!("{text}RUN readlink /proc/self/ns/net\n"))]);

    // Nothing is there: what is missing is named, whichever is the first.
    let check = |text: &str, expected: &str| {
        let fresh = Env::new(BINARY);
        let folder = fresh.folder(&[("Dockerfile", text)]);
        build(&fresh, &["--offline"], &folder).expect_failure(3, "--offline forbids").expect_says(expected);
    };
    check(&text, &base);
    check(&format!("FROM scratch\nADD {url} /\n"), &url);
    check(&format!("FROM scratch\nADD {git} /\n"), &git);
    build(&Env::new(BINARY), &["--offline", "-f", "x"], Path::new(&format!("./{git}"))).expect_failure(2, "");
    registry.take_requests();
    assert_eq!(files.take_asked(), Vec::<String>::new());

    // Once everything is there, nobody is asked, and the result is the same.
    build(&env, &[], &context).expect_ok();
    registry.take_requests();
    files.take_asked();
    files.put("file", "two\n");
    let log = build(&env, &["--offline"], &context).expect_ok().log();
    assert_eq!(log.matches("CACHED").count(), 3, "{log}");
    // A step that still has to run does, without a network.
    let more = context.join("more").display().to_string();
    let ours = std::fs::read_link("/proc/self/ns/net").expect("our network").display().to_string();
    let log = build(&env, &["--offline", "-f", &more], &context).expect_ok().expect_says("net:[").log();
    assert!(!log.contains(&ours), "{log}");
    assert_eq!(registry.take_requests(), []);
    assert_eq!(files.take_asked(), Vec::<String>::new());
    let log = build(&env, &["--offline", "-f", &more], &context).expect_ok().log();
    assert_eq!(log.matches("CACHED").count(), 4, "{log}");
    // With a network it is another step, which does not take that result.
    files.put("file", "one\n");
    build(&env, &["-f", &more], &context).expect_ok().expect_says(&ours);

    build(&env, &["--offline", "--pull"], &context).expect_failure(2, "--pull=always");
    build(&env, &["--offline", "--push", "-t", "h.example/x"], &context).expect_failure(2, "push");
    build(&env, &["--offline", "--cache-from=127.0.0.1:1/x"], &context).expect_ok().expect_says("left out");
    let mut by_variable = Env::new(BINARY);
    by_variable.set("LITHIFY_OFFLINE", "1");
    build(&by_variable, &[], &context).expect_failure(3, "--offline forbids");
}

/// The file says what was built, in an order that never changes; with it, later builds take the same whatever has become of
/// the names.
#[test]
fn lock() {
    needs!(has(&["git"]));
    let registry = needs!(TokenRegistry::anonymous());
    put_busybox(&Env::new(BINARY), registry.behind(), "base:1", "one");
    let env = Env::new(BINARY);
    let bare = repository(&env);
    let files = Files::serve(&bare);
    files.put("file", "one\n");
    let (base, url, git) = (registry.reference("base:1"), files.url("file"), files.url("r.git#main"));
    let text = format!("FROM {base}\nADD {url} /file\nADD {git} /r\nRUN cat /it /file /r/file\n");
    let context = env.folder(&[("Dockerfile", &text)]);
    let file = env.fresh("lithify.lock");
    let flag = format!("--lock={}", file.display());
    let first = build(&env, &[&flag], &context).expect_ok().expect_says("lock ");
    let written = std::fs::read_to_string(&file).expect("the lock file");
    for name in [format!("{base}\"]"), url.clone(), git.clone(), "linux/".to_owned()] {
        assert!(written.contains(&name), "{name}: {written}");
    }
    let digest = |log: &str| log.lines().find(|line| line.starts_with("digest")).map(str::to_owned);

    // Everything changes; the file does not, and neither does what it fixes.
    put_busybox(&Env::new(BINARY), registry.behind(), "base:1", "two");
    commit(&env, &bare, "two\n");
    let other = Env::new(BINARY);
    files.put("file", "two\n");
    build(&other, &[&flag], &context).expect_failure(3, "the lock file").expect_says(&url);
    files.put("file", "one\n");
    let second = build(&other, &[&flag], &context).expect_ok();
    assert_eq!(digest(&first.log()), digest(&second.log()), "{}", second.summary());
    assert_eq!(std::fs::read_to_string(&file).expect("the lock file"), written);
    let log = second.log();
    assert!(log.contains(" one") && !log.contains(" two"), "{log}");
    // The same store knows the new one by now, and the lock still says the old one.
    build(&other, &["--pull"], &context).expect_ok().expect_says("two");
    let third = build(&other, &[&flag, "--pull"], &context).expect_ok();
    assert_eq!(digest(&first.log()), digest(&third.log()));
    build(&other, &[&flag, "--offline"], &context).expect_ok();

    // Written anew on another machine it has the same bytes.
    let again = other.fresh("lithify.lock");
    let third = Env::new(BINARY);
    put_busybox(&Env::new(BINARY), registry.behind(), "base:1", "one");
    let (one, two) = (format!("--lock={}", again.display()), other.fresh("two.lock"));
    build(&third, &[&one], &context).expect_ok();
    build(&third, &[&format!("--lock={}", two.display()), "--no-cache"], &context).expect_ok();
    assert_eq!(std::fs::read(&again).expect("one"), std::fs::read(&two).expect("two"));

    let check = |text: &str, code: i32, expected: &str| {
        let folder = env.folder(&[("Dockerfile", text)]);
        build(&env, &[&flag], &folder).expect_failure(code, expected).expect_says("lithify.lock");
    };
    check("FROM 127.0.0.1:1/other\n", 3, "127.0.0.1:1/other:latest");
    check("FROM scratch\nADD http://127.0.0.1:1/other /\n", 3, "not in the lock file");
    check("FROM scratch\nADD http://127.0.0.1:1/other.git /\n", 3, "remove the file");
    env.write(&file, "version = 9\n");
    check("FROM scratch\nCOPY Dockerfile /\n", 2, "version 9");
    env.write(&file, "no lock");
    check("FROM scratch\nCOPY Dockerfile /\n", 2, "--lock");
}

/// A bare repository `r.git` with one commit on `main`, below a folder to serve.
fn repository(env: &Env) -> PathBuf {
    let root = env.fresh("served");
    git(
        env,
        &["init", "--quiet", "--bare", "--initial-branch=main", &root.join("r.git").display().to_string()],
    );
    commit(env, &root, "one\n");
    root
}

fn commit(env: &Env, root: &Path, text: &str) {
    let (bare, work) = (root.join("r.git").display().to_string(), env.fresh("work"));
    let at = work.display().to_string();
    git(env, &["clone", "--quiet", &bare, &at]);
    std::fs::write(work.join("file"), text).expect("file");
    git(env, &["-C", &at, "checkout", "--quiet", "-B", "main"]);
    git(env, &["-C", &at, "add", "file"]);
    let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
    git(env, &[&["-C", &at][..], &who, &["commit", "--quiet", "-m", "a file"]].concat());
    git(env, &["-C", &at, "push", "--quiet", "origin", "main"]);
    git(env, &["-C", &bare, "update-server-info"]);
}

fn git(env: &Env, args: &[&str]) {
    let output = env.program("git").args(args).output().expect("git");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
