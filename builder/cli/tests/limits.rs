//! Limits on what a RUN may use, where the machine lets control groups be made.

use lithify_testkit::{Env, skipped};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");

#[test]
fn a_run_that_wants_more_memory_is_told_so() {
    for snapshotter in ["overlay", "copy"] {
        let env = Env::new(BINARY);
        let context = env.folder(&[(
            "Dockerfile",
            "FROM busybox\nRUN x=$(head -c 100m /dev/zero | tr '\\0' x); echo ${#x}\n",
        )]);
        let snapshotter = format!("--snapshotter={snapshotter}");
        let flags = ["build", "--progress=plain", &snapshotter, &env.busybox()].map(str::to_owned);
        let build = |more: &[&str]| {
            let more = more.iter().map(|flag| (*flag).to_owned());
            env.run(flags.iter().cloned().chain(more).chain([context.display().to_string()]))
        };
        let limited = build(&["--memory=32m", "--cpus=1.5"]);
        if limited.log().contains("RUN is not limited in memory and processors") {
            limited.expect_ok().expect_says("systemd-run --user --scope");
            return skipped("a_run_that_wants_more_memory_is_told_so", "no control groups can be made");
        }
        limited.expect_failure(1, "ran out of the 33554432 bytes that --memory allows");
        // The limit is in no key, and a failure is not cached.
        build(&["--memory=1g"]).expect_ok().expect_says("104857600");
        build(&["--memory=32m"]).expect_ok().expect_says("CACHED");
    }
}
