//! The subcommands, one file each.

mod build;
mod call;
mod check;
mod deliver;
mod dockerfile;
mod doctor;
mod epoch;
mod files;
mod images;
mod remote;
mod space;
mod store;
mod why;

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
        Command::Why(arguments) => why::run(&arguments, &config, root),
        Command::Images => images::list(&config, root),
        Command::Rmi(arguments) => images::remove(&arguments, &config, root),
        Command::Save(arguments) => images::save(&arguments, &config, root),
        Command::Du(arguments) => space::usage(&arguments, &config, root),
        Command::Prune(arguments) => space::prune(&arguments, &config, root),
        Command::Store(command) => store::run(&command, &config, root),
        Command::Doctor(arguments) => doctor::run(&arguments, &config, root),
    }
}
