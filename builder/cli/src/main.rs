//! The command line of Lithify: arguments, configuration, rendering and exit codes. All logic lives in the libraries.

mod access;
mod args;
mod caches;
mod commands;
mod config;
mod contexts;
mod downloads;
mod exit;
mod inputs;
mod legacy;
mod limits;
mod lock;
mod network;
mod outputs;
mod render;
mod signals;
mod sources;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // The hidden subcommands are this program started again inside namespaces; see `lithify_sandbox`.
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some(lithify_worker::WORKER_COMMAND) => lithify_worker::serve(),
        Some(lithify_sandbox::INIT_ARGUMENT) => lithify_sandbox::init_main(),
        _ => {}
    }
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints to the right stream; `--help` and `--version` are no errors.
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let problem = problem.or_full_store();
            render::problem(&problem);
            problem.code.into()
        }
    }
}
