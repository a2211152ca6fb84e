//! Processes in the sandbox, tried for real: as whoever runs the tests and, when that is root, again as a plain user.
//!
//! This binary is also the worker and the first process of each sandbox, hence its own `main`. Its arguments and output are those
//! of other tests: names to run, `--exact`, `--list`.

mod cases;
mod lab;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use lithify_sandbox::INIT_ARGUMENT;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(INIT_ARGUMENT) => lithify_sandbox::init_main(),
        Some(lab::WORKER_ARGUMENT) => lab::worker(&args[1]),
        Some(lab::PARENT_ARGUMENT) => lab::parent(&args[1]),
        _ => run_tests(&args),
    }
}

fn run_tests(args: &[String]) -> ExitCode {
    let is_set = |flag: &str| args.iter().any(|arg| arg == flag);
    // Values of options that take one are no names of tests.
    let names: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-') && *arg != "terse").collect();
    let chosen = |name: &str| {
        names.is_empty()
            || names.iter().any(|n| if is_set("--exact") { *n == name } else { name.contains(*n) })
    };
    let tests: Vec<_> = cases::ALL.iter().filter(|(name, _)| chosen(name) && !is_set("--ignored")).collect();
    let mut out = std::io::stdout();
    if is_set("--list") {
        for (name, _) in tests {
            let _ = writeln!(out, "{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(out, "\nrunning {} tests", tests.len());
    let mut failed = vec![];
    for (name, test) in &tests {
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        let _ = writeln!(out, "test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    let (passed, failed) = (tests.len() - failed.len(), failed.len());
    let out_of = cases::ALL.len() - tests.len();
    let _ = writeln!(
        out,
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out_of} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
