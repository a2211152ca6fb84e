//! The subcommands, one file each.

mod build;
mod call;
mod check;
mod dockerfile;
mod doctor;
mod epoch;
mod files;
mod remote;
mod store;

use crate::args::{Cli, Command};
use crate::config::Config;
use crate::exit::Problem;

/// Does what the command line asks for.
pub(crate) fn run(cli: Cli) -> Result<(), Problem> {
    let config = Config::read(cli.config.as_deref())?;
    let root = cli.root.as_deref();
    match cli.command {
        Command::Build(arguments) => call::run(&arguments, &config, root),
        Command::Check(arguments) => check::run(&arguments.dockerfile, arguments.format, &config, root),
        Command::Images => store::images(&config, root),
        Command::Du => store::usage(&config, root),
        Command::Prune(arguments) => store::prune(&arguments, &config, root),
        Command::Store(command) => store::run(&command, &config, root),
        Command::Doctor(arguments) => doctor::run(&arguments, &config, root),
    }
}
