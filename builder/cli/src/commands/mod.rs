//! The subcommands, one file each.

mod build;
mod check;
mod dockerfile;
mod doctor;
mod remote;

use crate::args::{Cli, Command};
use crate::config::Config;
use crate::exit::Problem;

/// Does what the command line asks for.
pub(crate) fn run(cli: Cli) -> Result<(), Problem> {
    let config = Config::read(cli.config.as_deref())?;
    match cli.command {
        Command::Build(arguments) if arguments.check => {
            check::run(&arguments.dockerfile, crate::args::CheckFormat::Text, &config, cli.root.as_deref())
        }
        Command::Build(arguments) => build::run(&arguments, &config, cli.root.as_deref()),
        Command::Doctor(arguments) => doctor::run(&arguments, &config, cli.root.as_deref()),
        Command::Check(arguments) => {
            check::run(&arguments.dockerfile, arguments.format, &config, cli.root.as_deref())
        }
    }
}
