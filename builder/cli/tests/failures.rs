//! What goes wrong is said clearly, with the right exit code, and nothing is lost.

use std::time::{Duration, Instant};

use lithify_testkit::{Env, Login, Registry, gone_within, processes_with, skipped};
use rustix::process::Signal;

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const STEP_FAILED: i32 = 1;
const USAGE: i32 = 2;
/// Every process of a build is gone a second after Ctrl-C; as much again for a busy machine.
const GRACE: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(120);

/// Builds a context of one Dockerfile, which must fail with `code` and say all of `texts`.
fn check(dockerfile: &str, code: i32, texts: &[&str]) {
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", dockerfile), ("there", "1\n")]).display().to_string();
    let mut ended = env.run(["build", "--progress=plain", &env.busybox(), &context]).expect_failure(code, "");
    for text in texts {
        ended = ended.expect_says(text);
    }
}

#[test]
fn a_dockerfile_that_is_not_there() {
    let env = Env::new(BINARY);
    let context = env.folder(&[]).display().to_string();
    env.run(["build", &context]).expect_failure(USAGE, "Dockerfile");
    env.run(["build", &format!("{context}/nowhere")]).expect_failure(USAGE, "nowhere");
    env.run(["build"]).expect_failure(USAGE, "");
    env.run(["build", "--no-such-flag", &context]).expect_failure(USAGE, "--no-such-flag");
}

#[test]
fn mistakes_in_a_dockerfile() {
    check("FROM busybox\n\nRUNN echo hi\n", USAGE, &["Dockerfile:3", "RUNN echo hi", "^^^^", "RUN"]);
    check("FROM busybox\nCOPY --form=x a b\n", USAGE, &["Dockerfile:2", "--form", "^", "from"]);
    check("", USAGE, &["Dockerfile"]);
    check("FROM busybox AS a\nCOPY --from=a /x /y\n", USAGE, &["Dockerfile:2", "circular"]);
}

#[test]
fn all_mistakes_are_said_at_once() {
    check("FROM busybox\nRUNN a\nEXPOSE x/y/z\nWORKDIRR /\n", USAGE, &["Dockerfile:2", "Dockerfile:4"]);
}

#[test]
fn a_source_that_is_not_there() {
    check("FROM busybox\nCOPY there nowhere.txt /x/\n", STEP_FAILED, &["nowhere.txt", "Dockerfile:2"]);
    check("FROM busybox\nCOPY --from=busybox /no/such /x\n", STEP_FAILED, &["/no/such"]);
}

#[test]
fn a_command_that_fails() {
    let command = "echo first-line; echo last-line >&2; exit 37";
    let texts = [command, "37", "first-line", "last-line", "Dockerfile:2"];
    check(&format!("FROM busybox\nRUN {command}\n"), STEP_FAILED, &texts);
    check("FROM busybox\nRUN [\"/no/such/program\"]\n", STEP_FAILED, &["/no/such/program"]);
    // Not the step's first process: as first of its namespace it gets no signal that it does not handle.
    check("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n", STEP_FAILED, &["137"]);
}

/// What was finished before a failure is kept, and a failure is not.
#[test]
fn a_failure_is_not_remembered() {
    let env = Env::new(BINARY);
    let dockerfile = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid | tee /id\nCOPY there /\nRUN ";
    let context = env.folder(&[("Dockerfile", &format!("{dockerfile}false\n")), ("there", "1\n")]);
    let args =
        ["build".to_owned(), "--progress=plain".to_owned(), env.busybox(), context.display().to_string()];
    let first = env.run(&args).expect_failure(STEP_FAILED, "false");
    env.run(&args).expect_failure(STEP_FAILED, "false").expect_says("cached");
    env.write(&context.join("Dockerfile"), &format!("{dockerfile}true\n"));
    let id = env.build(&[env.busybox()], &context).file("/id").expect("image").expect("file");
    let id = String::from_utf8(id).expect("text");
    assert!(first.log().contains(id.trim()), "the step before the failing one ran again");
}

#[test]
fn registries_that_do_not_answer_or_refuse() {
    let login = Login { name: "ada", password: "not-the-password-7" };
    let env = Env::new(BINARY);
    let build_from = |reference: &str| {
        let context =
            env.folder(&[("Dockerfile", format!("FROM {reference}\n").as_str())]).display().to_string();
        let ended = env.run(["build", "--progress=plain", &context]);
        assert!(ended.ended_in_order() && ended.code != Some(0), "{}", ended.summary());
        ended.expect_says(reference)
    };
    // Port 1 of the loopback interface is as good as never in use.
    build_from("127.0.0.1:1/no/image:1").expect_says("refused");
    let registry = match Registry::with_login(Login { name: "ada", password: "lovelace" }) {
        Ok(registry) => registry,
        Err(why) => return skipped("registries_that_do_not_answer_or_refuse", &why),
    };
    let anonymous =
        build_from(&registry.reference("x:1")).expect_says("no credentials").expect_says("docker login");
    env.docker_config(&login.docker_config(registry.address()));
    let wrong = build_from(&registry.reference("x:1")).expect_says("refuses the user name or password");
    for ended in [anonymous, wrong] {
        assert!(
            !ended.log().contains(login.password) && !ended.log().contains(&login.encoded()),
            "a secret is told"
        );
    }
}

#[test]
fn a_store_that_cannot_be_written() {
    let env = Env::new(BINARY);
    let context =
        env.folder(&[("Dockerfile", "FROM scratch\nCOPY there /\n"), ("there", "1\n")]).display().to_string();
    for root in ["/proc/no-store", "/dev/null/store"] {
        let ended = env.run(["--root", root, "build", &context]).expect_says(root);
        assert!(ended.ended_in_order() && ended.code != Some(0), "{}", ended.summary());
    }
}

/// Inside a user namespace that allows no further ones, as hardened machines and some containers are.
#[test]
fn user_namespaces_forbidden() {
    let name = "user_namespaces_forbidden";
    let env = match Env::plain(BINARY) {
        Ok(env) => env,
        Err(why) => return skipped(name, &why),
    };
    let context = env.folder(&[("Dockerfile", "FROM busybox\nRUN true\n")]).display().to_string();
    let script = r#"echo 0 > /proc/sys/user/max_user_namespaces && exec "$@""#;
    let unshare = ["--user", "--map-root-user", "sh", "-c", script, "sh"];
    if env.run_program("unshare", unshare.into_iter().chain(["true"])).code != Some(0) {
        return skipped(name, "a user namespace for the test itself cannot be made");
    }
    let binary = env.binary().display().to_string();
    let busybox = env.busybox();
    let build = [binary.as_str(), "build", "--progress=plain", busybox.as_str(), context.as_str()];
    let ended = env.run_program("unshare", unshare.into_iter().chain(build));
    assert!(ended.ended_in_order() && ended.code != Some(0), "{}", ended.summary());
    // Which probe failed, with what error, and what to do.
    ended.expect_says("user namespace").expect_says("os error 28").expect_says("max_user_namespaces");
}

#[test]
fn interrupted_in_the_middle_of_a_step() {
    for (number, signal) in [(1, Signal::INT), (2, Signal::TERM), (3, Signal::KILL)] {
        let env = Env::new(BINARY);
        let marker = (1_000_000 + std::process::id() * 10 + number).to_string();
        let dockerfile = |last: &str| {
            format!(
                "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid | tee /id\nRUN echo now-sleeping; {last}\n"
            )
        };
        let context = env.folder(&[("Dockerfile", dockerfile(&format!("sleep {marker}; true")).as_str())]);
        let mut build =
            env.start(["build", "--progress=plain", &env.busybox(), &context.display().to_string()]);
        // The command itself is printed too: only the step's output is this word at a line's end.
        wait_for_output(&mut build);
        let inside = wait_for_process(&marker);
        let start = Instant::now();
        if signal == Signal::INT {
            build.signal_group(signal)
        } else {
            build.signal(signal)
        }
        let ended = build.wait(SOON);
        assert!(start.elapsed() < GRACE, "{signal:?}: took {:?}", start.elapsed());
        assert!(gone_within(&inside, GRACE), "{signal:?}: the step's processes still run");
        assert_ne!(ended.code, Some(0), "{signal:?}: {}", ended.summary());
        if signal != Signal::KILL {
            assert!(ended.ended_in_order() || ended.signal.is_some(), "{}", ended.summary());
        }
        env.write(&context.join("Dockerfile"), &dockerfile("true"));
        let id = env.build(&[env.busybox()], &context).file("/id").expect("image").expect("file");
        let id = String::from_utf8(id).expect("text");
        assert!(ended.log().contains(id.trim()), "{signal:?}: a finished step was lost: {}", ended.summary());
    }
}

fn wait_for_output(build: &mut lithify_testkit::Running) {
    build.wait_for_line_where("the step's output", SOON, |line| {
        line.trim_end().ends_with("now-sleeping") && !line.contains("RUN ")
    });
}

/// The step has said that it will sleep; give the shell the moment until it does.
fn wait_for_process(argument: &str) -> Vec<u32> {
    let start = Instant::now();
    loop {
        let found = processes_with(argument);
        if !found.is_empty() {
            return found;
        }
        assert!(start.elapsed() < SOON, "the step's process does not show");
        std::thread::yield_now();
    }
}
