//! What a hostile RUN tries, and what comes of it. The attempts are programs of testdata/escapes, compiled here.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lithify_testkit::{
    Env, Finished, Running, gone_within, in_repository, is_root, missing_program, processes_with, skipped,
};
use rustix::process::Signal;

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const LIMIT: Duration = Duration::from_secs(120);

/// Whose builds are tried: root's, and a plain user's who owns the binary.
fn environments(test: &str) -> Vec<Env> {
    let plain = Env::plain(BINARY);
    if let Err(why) = &plain {
        skipped(test, why);
    }
    let root = is_root().then(|| Ok(Env::new(BINARY)));
    root.into_iter().chain([plain]).flatten().collect()
}

/// A context with the compiled programs and a Dockerfile; `None`, with a word about it, where they cannot be compiled.
fn context(env: &Env, test: &str, dockerfile: &str) -> Option<String> {
    if let Some(why) = missing_program(&["gcc"]) {
        skipped(test, &format!("{why} (Debian: gcc libc6-dev)"));
        return None;
    }
    let folder = env.folder(&[("Dockerfile", dockerfile)]);
    let compile = |flags: &[&str], source: &str, to: &str| {
        let source = in_repository("testdata/escapes").join(source);
        let status = Command::new("gcc").args(flags).arg("-o").arg(folder.join(to)).arg(source).status();
        assert!(status.expect("gcc").success(), "{to} does not compile");
    };
    compile(&["-O1", "-static"], "escape.c", "escape");
    compile(&["-O1", "-shared", "-fPIC"], "preload.c", "preload.so");
    Some(folder.display().to_string())
}

fn build(env: &Env, context: &str, flags: &[&str]) -> Finished {
    let busybox = env.busybox();
    let args = [&["build", "--progress=plain", &busybox], flags, &[context]].concat();
    env.start(args).wait(LIMIT)
}

/// Runs an attempt, given as the arguments of RUN's JSON form.
fn attempt(env: &Env, test: &str, args: &str, flags: &[&str]) -> Option<Finished> {
    let dockerfile = format!("FROM busybox\nCOPY escape /\nRUN [\"/escape\", {args}]\n");
    let context = context(env, test, &dockerfile)?;
    Some(build(env, &context, flags))
}

#[test]
fn attempts_fail() {
    for env in environments("attempts_fail") {
        let check = |args: &str, expected: &[&str], forbidden: &str| {
            let Some(ended) = attempt(&env, "attempts_fail", args, &[]) else { return };
            let log = ended.expect_ok().log();
            for text in expected {
                assert!(log.contains(text), "{args}: no {text:?}: {log}");
            }
            assert!(!log.contains(forbidden), "{args}: {forbidden:?}: {log}");
        };
        let canary = env.dir().join("canary");
        std::fs::write(&canary, "").expect("written");
        check(&format!("\"climb\", \"{}\"", canary.display()), &["climbed: inside"], "outside");
        check("\"descriptors\"", &["descriptors: counted"], "descriptor ");
        check("\"disks\"", &["disks: tried"], "opened device");
        check("\"others\"", &["others: 0 seen, 0 traced"], "x x");
        let refused = [
            "keyctl",
            "add_key",
            "request_key",
            "bpf",
            "io_uring_setup",
            "perf_event_open",
            "userfaultfd",
            "open_by_handle_at",
            "unshare",
            "setns",
            "mount",
            "fsopen",
            "AF_ALG",
            "AF_VSOCK",
        ];
        let mut expected: Vec<String> =
            refused.iter().map(|call| format!("{call}: Operation not permitted")).collect();
        expected.extend(["clone3", "unknown call"].map(|call| format!("{call}: Function not implemented")));
        if cfg!(target_arch = "x86_64") {
            expected.extend(["32-bit call", "x32 call"].map(|it| format!("{it}: Function not implemented")));
        }
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check("\"calls\"", &expected, ": done");
    }
}

/// Sockets of the machine without a file belong to its network; a step that has another reaches none.
#[test]
fn abstract_sockets() {
    let name = format!("lithify-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("bound");
    for env in environments("abstract_sockets") {
        let args = format!("\"abstract\", \"{name}\"");
        let check = |flags: &[&str], expected: &str| {
            let Some(ended) = attempt(&env, "abstract_sockets", &args, flags) else { return };
            ended.expect_ok().expect_says(expected);
        };
        check(&["--network=none"], "abstract socket: Connection refused");
        check(&["--network=host"], "abstract socket: done");
    }
}

/// The command is a link to the builder's own program, into which the image's libraries bring other code.
#[test]
fn builders_program_cannot_be_written() {
    let test = "builders_program_cannot_be_written";
    for env in environments(test) {
        let dockerfile = "FROM scratch\nCOPY . /\nENV LD_PRELOAD=/preload.so\nRUN [\"/proc/self/exe\"]\n";
        let Some(context) = context(&env, test, dockerfile) else { return };
        // The loader and the libraries that the program needs, as an attacker would have them.
        let listed = Command::new("ldd").arg(env.binary()).output().expect("ldd");
        for word in
            String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|word| word.starts_with('/'))
        {
            let to = PathBuf::from(&context).join(&word[1..]);
            std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
            std::fs::copy(word, to).expect("copied");
        }
        let before = std::fs::read(env.binary()).expect("the binary");
        let log = build(&env, &context, &[]).expect_ok().log();
        // Its owner could do the second where nothing is in the way; the first waits for lithify's end there.
        let refused =
            ["Read-only file system", "Permission denied", "Operation not permitted", "Text file busy"];
        for (what, refused) in
            [("overwrite", &refused[..]), ("chmod", &refused[..3]), ("truncate", &refused[..3])]
        {
            let is_refused = refused.iter().any(|why| log.contains(&format!("{what}: {why}")));
            assert!(is_refused, "{what}: {log}");
        }
        assert!(std::fs::read(env.binary()).expect("the binary") == before, "it was changed");
    }
}

/// Neither variables nor paths of the machine are seen in a step.
#[test]
fn nothing_of_the_machine_shows() {
    for mut env in environments("nothing_of_the_machine_shows") {
        env.set("LITHIFY_TEST_LEAK", "leaked");
        let script = "env; cat /proc/self/mountinfo /proc/mounts /proc/self/environ /proc/self/cgroup; ls -l /proc/self/fd \
             /proc/1/cwd /proc/1/root; cat /proc/1/cmdline; ls /proc; ls /; hostname";
        let dockerfile = format!("FROM busybox\nRUN {script}\n");
        let context = env.folder(&[("Dockerfile", dockerfile.as_str())]).display().to_string();
        let ended = build(&env, &context, &[]).expect_ok();
        let name = env.dir().file_name().expect("a name").to_string_lossy().into_owned();
        let shown: Vec<String> = ended
            .log()
            .lines()
            .filter(|line| line.starts_with("#2 ") && !line.contains("RUN "))
            .map(str::to_owned)
            .collect();
        assert!(shown.len() > 20, "{}", ended.log());
        let mut hidden = vec![name, "leaked".into(), "LITHIFY".into()];
        hidden.extend(env.user().map(|user| user.name().to_owned()));
        for text in hidden {
            assert!(!shown.iter().any(|line| line.contains(&text)), "{text} shows: {}", ended.log());
        }
    }
}

/// What a step does to others: nothing; and lithify goes on.
#[test]
fn processes_are_contained() {
    let test = "processes_are_contained";
    for env in environments(test) {
        let dockerfile = "FROM busybox\nRUN kill -9 -1; kill -9 1; echo survived > /a\nRUN test -s /a\n";
        let context = env.folder(&[("Dockerfile", dockerfile)]).display().to_string();
        build(&env, &context, &[]).expect_ok();

        let flags = ["--ulimit=nproc=100", "--step-timeout=3s"];
        let Some(ended) = attempt(&env, test, "\"bomb\"", &flags) else { return };
        let ended = ended.expect_failure(1, "was ended after 3 seconds");
        let log = ended.log();
        let count = log.split("forked ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        assert!(count.is_some_and(|count: u32| count <= 100), "{log}");
        assert!(processes_with("bomb").is_empty(), "some are left");
        build(&env, &context, &["--no-cache"]).expect_ok();
        env.run(["store", "verify"]).expect_ok();
    }
}

#[test]
fn killed_builds_leave_no_process() {
    for env in environments("killed_builds_leave_no_process") {
        let seconds = format!("98{}", std::process::id());
        let dockerfile =
            format!("FROM busybox\nRUN (setsid sleep {seconds} &) ; echo started; sleep {seconds}\n");
        let context = env.folder(&[("Dockerfile", dockerfile.as_str())]).display().to_string();
        let mut running = env.start(["build", "--progress=plain", &env.busybox(), &context]);
        running.wait_for_line_where("its output", LIMIT, |line| line.trim_end().ends_with(" started"));
        let left = processes_with(&seconds);
        assert!(!left.is_empty(), "the step does not run");
        running.signal(Signal::KILL);
        assert!(gone_within(&left, Duration::from_secs(10)), "{left:?} are left");
    }
}

/// A step swaps folders of a shared cache for links while others have things mounted below them.
#[test]
fn swapped_folders_lead_nowhere() {
    for env in environments("swapped_folders_lead_nowhere") {
        let canary = env.dir().join("tmp/canary");
        std::fs::create_dir(&canary).expect("made");
        let outside = canary.display();
        let mounts: String = (0..12)
            .map(|number| {
                format!(
                    "FROM busybox AS m{number}\nRUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/c/x/y/z{number} \
                     --mount=type=secret,id=s,target=/c/x/s{number} : > /m\n"
                )
            })
            .collect();
        let copies: String = (0..12).map(|number| format!("COPY --from=m{number} /m /m{number}\n")).collect();
        let dockerfile = format!(
            "FROM busybox AS swap\nRUN --mount=type=cache,target=/c for i in $(seq 400); do mkdir -p /c/x/y; mv /c/x /c/o; \
             ln -s {outside} /c/x; rm /c/x; ln -s ../../../../..{outside} /c/x; rm /c/x; ln -s /proc/1/root{outside} /c/x; rm /c/x; \
             mv /c/o /c/x; rm -rf /c/o; done; : > /m\n{mounts}FROM busybox\nCOPY --from=swap /m /m\n{copies}"
        );
        let context = env.folder(&[("Dockerfile", dockerfile.as_str())]);
        let secret = env.fresh("secret");
        env.write(&secret, "hidden");
        let secret = format!("--secret=id=s,src={}", secret.display());
        // Some mounts may be refused for what they find; nothing may be made or changed outside.
        build(&env, &context.display().to_string(), &[&secret, "--no-cache"]);
        let made: Vec<_> = std::fs::read_dir(&canary).expect("read").flatten().map(|it| it.path()).collect();
        assert!(made.is_empty(), "{made:?}");
    }
}

/// A file system that a step fills: the step fails, and the store is as sound as before.
#[test]
fn full_disk() {
    let test = "full_disk";
    if !is_root() {
        return skipped(test, "only root can make a small file system");
    }
    if let Some(why) = missing_program(&["unshare", "mount"]) {
        return skipped(test, &why);
    }
    let env = Env::new(BINARY);
    let folder = |script: &str| {
        let dockerfile = format!("FROM busybox\nRUN {script}\n");
        env.folder(&[("Dockerfile", dockerfile.as_str())]).display().to_string()
    };
    let (bad, good) = (folder("dd if=/dev/zero of=/big bs=64k"), folder("echo small > /small"));
    let store = env.fresh("small");
    std::fs::create_dir(&store).expect("made");
    let script = "mount -t tmpfs -o size=24m,mode=755 tmpfs \"$1\" || exit 9
        \"$0\" --root \"$1\" build --progress=plain \"$2\" \"$3\"; echo bad $?
        \"$0\" --root \"$1\" build --progress=plain \"$2\" \"$4\"; echo good $?
        \"$0\" --root \"$1\" store verify; echo verify $?";
    for snapshotter in ["overlay", "copy"] {
        let mut command = env.program("unshare");
        command.env("LITHIFY_SNAPSHOTTER", snapshotter);
        command.args(["--mount", "sh", "-c", script]).arg(env.binary()).arg(Path::new(&store));
        command.args([&env.busybox(), &bad, &good]);
        let ended = Running::start(&mut command).expect("start").wait(LIMIT).expect_ok();
        for text in ["No space left on device", "bad 1", "good 0", "verify 0"] {
            assert!(ended.summary().contains(text), "{snapshotter}: no {text:?}: {}", ended.summary());
        }
    }
}
