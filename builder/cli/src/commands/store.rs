//! `lithify store`: how the store is kept sound. And what all commands share that show what is in it.

use std::path::Path;
use std::time::Duration;

use lithify_cache::Store;

use crate::args::StoreCommand;
use crate::config::Config;
use crate::exit::{self, Problem};
use crate::render::say;
use crate::sources::store_problem;

pub(super) fn open(config: &Config, root: Option<&Path>) -> Result<Store, Problem> {
    Store::open(&config.store_root(root)?).map_err(store_problem)
}

pub(super) fn run(command: &StoreCommand, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let StoreCommand::Verify { repair } = command;
    let store = open(config, root)?;
    let problems = store.verify().map_err(store_problem)?;
    for problem in &problems {
        say(match problem {
            lithify_cache::Problem::DamagedBlob { digest, found } => {
                format!("damaged: {digest} holds {found}")
            }
            lithify_cache::Problem::MissingBlob { image, digest } => format!("missing: {digest} of {image}"),
            lithify_cache::Problem::Database { message } => format!("the database: {message}"),
        });
    }
    if problems.is_empty() {
        println!("no problems found");
        return Ok(());
    }
    if *repair {
        store.repair(&problems).map_err(store_problem)?;
        println!("removed what was damaged; it will be built or pulled again");
        return Ok(());
    }
    let message = format!(
        "the store has {} problem(s); `lithify store verify --repair` removes what is damaged",
        problems.len()
    );
    Err(Problem::new(exit::STORE, message))
}

pub(super) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) {
    let head = head.map(str::to_owned);
    let widths: Vec<usize> = (0..N)
        .map(|at| rows.iter().chain([&head]).map(|row| row[at].len()).max().unwrap_or_default())
        .collect();
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

pub(super) fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}
