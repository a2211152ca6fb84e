//! What is tried.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use lithify_sandbox::{MountSource, MountSpec, Network, Process, Security, Status};

use crate::lab::{self, Answer, Request, descriptor, shell};

type Test = (&'static str, fn());

pub(crate) const ALL: &[Test] = &[("exit_codes", exit_codes), ("as_plain_user", as_plain_user)];

fn run(process: Process) -> Option<Answer> {
    lab::run(&Request { process, ..Request::default() })
}

/// Runs `process` and compares its standard output, after which nothing is to be left in the tree.
#[track_caller]
fn check(process: Process, expected: &str) {
    let Some(answer) = run(process) else { return };
    assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), (expected, ""), "{:?}", answer.outcome);
}

fn status(answer: &Answer) -> Status {
    answer.outcome.as_ref().expect("it ran").status
}

fn exit_codes() {
    let check = |args: &[&str], expected: Status, message: &str| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let Some(answer) = run(Process { args, ..shell("") }) else { return };
        assert_eq!((status(&answer), answer.stderr.trim()), (expected, message));
    };
    check(&["true"], Status::Exited(0), "");
    check(&["sh", "-c", "exit 7"], Status::Exited(7), "");
}

/// Everything again as a user without privileges and with a range of ids, whom root makes for it.
fn as_plain_user() {
    const NAME: &str = "lithify-test";
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let number = |flag: &str| -> Option<u32> {
        let output = Command::new("id").args([flag, NAME]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    if number("-u").is_none() {
        let _ = Command::new("useradd").args(["-m", NAME]).status();
    }
    let (Some(uid), Some(gid)) = (number("-u"), number("-g")) else {
        assert_ne!(std::env::var("LITHIFY_REQUIRE_ALL").as_deref(), Ok("1"), "useradd is needed");
        eprintln!("SKIPPED as_plain_user: there is no useradd to make the user {NAME} with");
        return;
    };
    // Where that user can reach it, and owns it as it would own an installed one.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("sandbox");
    std::fs::copy("/proc/self/exe", &program).expect("copied");
    for path in [folder.path(), &program] {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown");
    }
    let mut again = Command::new(program);
    again.uid(uid).gid(gid).current_dir("/").env("HOME", "/").stdin(Stdio::null());
    assert!(again.status().expect("started").success());
}
