//! `lithify images`, `du`, `prune` and `store verify`: what is in the store, and how it is kept small and sound.

use std::path::Path;
use std::time::{Duration, SystemTime};

use lithify_cache::{PrunePolicy, Store};

use crate::args::{Prune, StoreCommand};
use crate::config::Config;
use crate::exit::{self, Problem};
use crate::inputs::{self, wrong};
use crate::render::{self, say};
use crate::sources::store_problem;

pub(super) fn open(config: &Config, root: Option<&Path>) -> Result<Store, Problem> {
    Store::open(&config.store_root(root)?).map_err(store_problem)
}

/// Names, digests and ages, one image a line.
pub(super) fn images(config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let images = open(config, root)?.images().map_err(store_problem)?;
    let rows = images.iter().map(|image| {
        let age = SystemTime::now().duration_since(image.tagged_at).unwrap_or_default();
        [image.name.clone(), image.manifest.digest.to_string(), ago(age)]
    });
    table(["NAME", "DIGEST", "TAGGED"], rows.collect());
    Ok(())
}

/// What takes space.
pub(super) fn usage(config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let usage = open(config, root)?.usage().map_err(store_problem)?;
    let rows = usage
        .images
        .iter()
        .map(|one| [one.image.name.clone(), render::size(one.total_bytes), render::size(one.own_bytes)]);
    table(["IMAGE", "SIZE", "NOT SHARED"], rows.collect());
    println!("total       {}", render::size(usage.total_bytes));
    println!("of no image {} ({} cached steps)", render::size(usage.unnamed_bytes), usage.records);
    Ok(())
}

pub(super) fn prune(arguments: &Prune, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let unused_for = match (&arguments.unused_for, arguments.all) {
        (_, true) => Some(Duration::ZERO),
        (None, false) => None,
        (Some(text), false) => Some(time(text)?),
    };
    let keep = arguments
        .keep
        .as_deref()
        .map(|text| inputs::bytes(text).ok_or_else(|| wrong("--keep", text, inputs::SIZE)));
    let policy = PrunePolicy { unused_for, keep_bytes: keep.transpose()? };
    let pruned = open(config, root)?.prune(&policy).map_err(store_problem)?;
    println!(
        "forgot {} cached steps; removed {} blobs, {}",
        pruned.records,
        pruned.blobs,
        render::size(pruned.bytes)
    );
    Ok(())
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

/// `90s`, `10m`, `24h`, `7d`.
fn time(text: &str) -> Result<Duration, Problem> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let parsed = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(*unit)?.parse::<u64>().ok()?.checked_mul(*factor));
    let wrong = || wrong("--unused-for", text, "expected a time such as 90s, 10m, 24h or 7d");
    parsed.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(time(text).ok().map(|time| time.as_secs()), expected, "{text}");
        };
        check("90s", Some(90));
        check("7d", Some(604_800));
        check("7", None);
        check("d", None);
    }
}
