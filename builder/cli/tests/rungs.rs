//! The ladder of sandboxes: the same image on each rung, and what a rung cannot give refused by name.
//!
//! A container with default settings is imitated: Docker's capabilities, and a filter that refuses what its profile refuses without
//! CAP_SYS_ADMIN. This test program puts itself under it and then becomes lithify ([`in_container`]).

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use lithify_linux::capability::{self, Capabilities};
use lithify_linux::seccomp::{Action, Filter, Rule, When};
use lithify_testkit::{Env, Finished, Image, Running, gone_within, processes_with, skipped};
use rustix::process::Signal;

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
/// The variable with the program to become in the imitated container.
const BECOME: &str = "LITHIFY_TEST_BECOME";
const LIMIT: Duration = Duration::from_secs(60);
/// Docker's default capabilities, as in /proc/<pid>/status.
const DOCKER: u64 = 0xa804_25fb;

/// Not a test by itself: what a test starts to have lithify run in the container.
#[test]
fn in_container() {
    let Some(program) = std::env::var_os(BECOME) else { return };
    let args = std::env::var("LITHIFY_TEST_ARGS").expect("the arguments");
    let args: Vec<String> = serde_json::from_str(&args).expect("JSON");
    let refuse = |call, when, errno: u16| Rule { call, when, action: Action::Fail(errno) };
    // io_uring_setup and the calls of the new mount interface; then pivot_root, mount, umount2, unshare and setns.
    let always = [425, 428, 429, 430, 431, 432, 433, 442].map(|call| refuse(call, When::Always, 1));
    let mut rules = always.to_vec();
    #[cfg(target_arch = "x86_64")]
    let (clone, named) = (56, [155, 165, 166, 272, 308]);
    #[cfg(target_arch = "aarch64")]
    let (clone, named) = (220, [41, 40, 39, 97, 268]);
    rules.extend(named.map(|call| refuse(call, When::Always, 1)));
    rules.push(refuse(clone, When::AnyBit(0, 0x7e02_0000), 1));
    rules.push(refuse(435, When::Always, 38));
    // Without `no_new_privs`, as container engines do it, and so while the capability for it is still there.
    Filter { rules, highest_known: None }.compile().install_alone().expect("a filter");
    let kept = Capabilities::from_bits_retain(DOCKER);
    capability::bound(kept).expect("a bounding set");
    capability::limit(kept).expect("capabilities");
    let error = Command::new(program).args(args).env_remove(BECOME).exec();
    panic!("cannot execute lithify: {error}");
}

/// lithify in the container; `None`, with a word about it, where that cannot be imitated.
fn contained(env: &Env, name: &str, args: &[&str]) -> Option<Command> {
    if !lithify_testkit::is_root() {
        skipped(name, "only root can imitate root of a container");
        return None;
    }
    let itself = std::env::current_exe().expect("this program");
    let mut command = env.program(itself);
    command.args(["--exact", "in_container", "--nocapture", "--test-threads=1"]).env(BECOME, BINARY);
    command.env("LITHIFY_TEST_ARGS", serde_json::to_string(args).expect("JSON"));
    Some(command)
}

fn run(mut command: Command) -> Finished {
    Running::start(&mut command).expect("start").wait(LIMIT)
}

/// Builds `dockerfile` in the container.
fn build_contained(env: &Env, name: &str, dockerfile: &str, flags: &[&str]) -> Option<Finished> {
    let context = env.folder(&[("Dockerfile", dockerfile), ("a", "a\n")]);
    let (context, busybox) = (context.display().to_string(), env.busybox());
    let mut args = vec!["build", "--progress=plain", &busybox];
    args.extend(flags);
    args.push(&context);
    contained(env, name, &args).map(run)
}

/// Everything that works on both rungs: owners, kinds of files, and all mounts that can be had.
const EVERYTHING: &str = "FROM busybox
COPY --chown=7:8 a /a
RUN echo app:x:1000:100::/home/app:/bin/sh >> /etc/passwd && mkdir -p /home/app && chown 1000:100 /home/app \
 && mkdir /d && chown 1000:100 /d && chmod 2750 /d && echo x > /d/f && ln /d/f /d/g
RUN busybox mknod /n c 1 3 && busybox mkfifo /p && cp /bin/busybox /s && chown 1000 /s && chmod 4755 /s && rm -f /etc/group
USER app
RUN busybox id -u > /home/app/id && ! touch /denied && (sleep 4242 & true)
USER 0
RUN --mount=type=secret,id=s,target=/run/secrets/deep/s cat /run/secrets/deep/s > /copied
RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t echo 1 > /c/1 && echo 2 > /t/2 && ln -s x /link
RUN --mount=type=bind,source=a,target=/q/w/b --mount=type=bind,from=busybox,source=bin,target=/bb,rw cp /q/w/b /b && rm /bb/ls
RUN echo 1.2.3.4 x >> /etc/hosts; echo > /dev/mine; mkdir -p /proc/x; touch /dev/shm/x
";

#[test]
fn same_image_on_chroot() {
    let env = Env::new(BINARY);
    let secret = env.fresh("secret");
    std::fs::write(&secret, "hidden\n").expect("written");
    let secret = format!("--secret=id=s,src={}", secret.display());
    let archive = env.fresh("contained.tar");
    let output = format!("--output=type=oci,dest={}", archive.display());
    let flags = [secret.as_str(), &output];
    let name = "same_image_on_chroot";
    let Some(first) = build_contained(&env, name, EVERYTHING, &flags) else { return };
    let first = first.expect_ok();
    assert_eq!(first.log().matches("has the sandbox chroot").count(), 1, "the warning:\n{}", first.log());
    let image = Image::from_archive(&archive).expect("an image");
    assert!(processes_with("4242").is_empty(), "a process was left behind");

    // Once more in the same store, and everything once more from the same base.
    let again = build_contained(&env, name, EVERYTHING, &[&secret, "--no-cache", &output]);
    again.expect("as before").expect_ok();
    assert_eq!(Image::from_archive(&archive).expect("an image").digest, image.digest);

    let other = Env::new(BINARY);
    let context = other.folder(&[("Dockerfile", EVERYTHING), ("a", "a\n")]);
    let range = other.build(&[other.busybox().as_str(), &secret], &context);
    if let Some(difference) = lithify_testkit::diff::explain(&image, &range).expect("read") {
        panic!("chroot and range make different images: {difference}");
    }
}

#[test]
fn chroot_refuses_by_name() {
    let env = Env::new(BINARY);
    let check = |run: &str, flags: &[&str], code: i32, text: &str| {
        let dockerfile = format!("FROM busybox\nRUN {run}\n");
        if let Some(ended) = build_contained(&env, "chroot_refuses_by_name", &dockerfile, flags) {
            ended.expect_failure(code, text);
        }
    };
    check("--network=none true", &[], 1, "--network=none cannot be had in the sandbox");
    check("--mount=type=cache,target=/c,ro true", &[], 1, "--mount=type=cache,readonly cannot be had");
    check(
        "--mount=type=bind,source=a,target=/a echo >> /a",
        &[],
        1,
        "has written to \"/a\", which is mounted read-only",
    );
    check("true", &["--snapshotter=overlay"], 1, "\"overlay\" needs mounts");
    check("true", &["--sandbox=range"], 4, "does not allow the sandbox \"range\"");
    check("true", &["--sandbox=single"], 4, "does not allow the sandbox \"single\"");
    check("mv /etc/hosts /hidden", &[], 1, "the step has moved \"/etc/hosts\"");
    check("ln /etc/resolv.conf /hidden", &[], 1, "made a hard link to \"/etc/resolv.conf\"");
    check("mv /dev /hidden", &[], 1, "the step has moved \"/dev\"");
}

#[test]
fn caches_share_no_file_with_layers() {
    let env = Env::new(BINARY);
    let name = "caches_share_no_file_with_layers";
    let dockerfile = "FROM busybox
RUN --mount=type=cache,target=/c echo one > /c/f && ln /c/f /f && ln /bin/busybox /c/b
RUN --mount=type=cache,target=/c echo two > /c/f && echo broken > /c/b
RUN test \"$(cat /f)\" = one
";
    let Some(ended) = build_contained(&env, name, dockerfile, &[]) else { return };
    ended.expect_ok();
}

#[test]
fn killed_builds_leave_no_process() {
    let env = Env::new(BINARY);
    let context =
        env.folder(&[("Dockerfile", "FROM busybox\nRUN sh -c 'echo started; sleep 4243' 4243 & wait\n")]);
    let (context, busybox) = (context.display().to_string(), env.busybox());
    let args = ["build", "--progress=plain", &busybox, &context];
    let Some(mut command) = contained(&env, "killed_builds_leave_no_process", &args) else { return };
    let mut running = Running::start(&mut command).expect("start");
    running.wait_for_line_where("its output", LIMIT, |line| line.trim_end().ends_with(" started"));
    let left = processes_with("4243");
    assert!(!left.is_empty(), "the step does not run");
    running.signal(Signal::KILL);
    assert!(gone_within(&left, Duration::from_secs(10)), "{left:?} are left");
    // What had not been started yet when they were listed.
    let left = processes_with("4243");
    assert!(gone_within(&left, Duration::from_secs(10)), "{left:?} are left");
}

/// Secrets and what was put aside for a step lie in its tree; the next build removes what a killed one left.
#[test]
fn killed_builds_leave_no_secret() {
    let env = Env::new(BINARY);
    let secret = env.fresh("secret");
    let value = format!("hidden-{}", std::process::id());
    std::fs::write(&secret, &value).expect("written");
    let flag = format!("--secret=id=s,src={}", secret.display());
    let step =
        "RUN --mount=type=secret,id=s --mount=type=bind,source=.,target=/copied echo started; sleep 4245\n";
    let context = env.folder(&[("Dockerfile", format!("FROM busybox\n{step}").as_str())]);
    let (context, busybox) = (context.display().to_string(), env.busybox());
    let args = ["build", "--progress=plain", &busybox, &flag, &context];
    let Some(mut command) = contained(&env, "killed_builds_leave_no_secret", &args) else { return };
    let mut running = Running::start(&mut command).expect("start");
    running.wait_for_line_where("its output", LIMIT, |line| line.trim_end().ends_with(" started"));
    running.signal(Signal::KILL);
    running.wait(LIMIT);
    let left = |what: &str| {
        let found = env.run_program("grep", ["-rl", what, &env.store().display().to_string()]);
        let found = found.log();
        found.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(!left(&value).is_empty(), "there was no secret to begin with");
    build_contained(&env, "killed_builds_leave_no_secret", "FROM busybox\nRUN true\n", &[])
        .expect("as before")
        .expect_ok();
    // The worker removes it beside the build, and may end before; whoever prunes removes all.
    contained(&env, "", &["prune"]).map(run).expect("as before").expect_ok();
    assert_eq!(left(&value), Vec::<String>::new());
}

/// Several at once in one container, where only the store may be written to: nothing of the container changes.
#[test]
fn side_by_side_and_home_stays() {
    let env = Env::new(BINARY);
    std::fs::write(env.home().join("kept"), "as it was").expect("written");
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c --mount=type=bind,source=a,target=/b \
                      echo $HOME > /home-is && rm -rf ~ /c/x && cp /b /c/x && ls / && test ! -e /kept\n";
    let store = env.fresh("store");
    let context = env.folder(&[("Dockerfile", dockerfile), ("a", "a\n")]).display().to_string();
    let (store, busybox) = (store.display().to_string(), env.busybox());
    let args = ["--root", &store, "build", "--progress=plain", "--no-cache", &busybox, &context];
    for _ in 0..2 {
        let start = || {
            Some(Running::start(&mut contained(&env, "side_by_side_and_home_stays", &args)?).expect("start"))
        };
        let (Some(one), Some(other)) = (start(), start()) else { return };
        one.wait(LIMIT).expect_ok();
        other.wait(LIMIT).expect_ok();
    }
    assert_eq!(std::fs::read_to_string(env.home().join("kept")).expect("it is there"), "as it was");
    let found: Vec<_> =
        std::fs::read_dir(env.home()).expect("read").flatten().map(|it| it.file_name()).collect();
    assert_eq!(found, ["kept"]);
}

#[test]
fn doctor_says_what_is_chosen() {
    let env = Env::new(BINARY);
    if lithify_testkit::is_root() {
        let ended = env.run(["doctor"]).expect_ok();
        ended.expect_says("chosen: range").expect_says("overlay: works");
    }
    let Some(command) = contained(&env, "doctor_says_what_is_chosen", &["doctor"]) else { return };
    let ended = run(command).expect_ok().expect_says("range: does not work").expect_says("chosen: chroot");
    ended
        .expect_says("tried: making a user namespace")
        .expect_says("help:")
        .expect_says("overlay: does not work");
}
