//! `lithify doctor`

use std::path::Path;

use lithify_cache::Store;
use lithify_sandbox::{Choice, Ladder, Place, Probe, Rung};
use lithify_worker::Snapshotter;

use crate::args::Doctor;
use crate::config::Config;
use crate::exit::{self, Problem};
use crate::inputs;
use crate::sources::store_problem;

pub(super) fn run(arguments: &Doctor, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let choice = inputs::sandbox(arguments.sandbox.or(config.sandbox));
    let ladder = lithify_sandbox::ladder();
    println!("sandboxes, the strongest first; each was tried in a process of its own:");
    ladder.rungs.iter().for_each(show);
    let chosen = match choice {
        Choice::Auto => ladder.chosen(),
        Choice::Only(name) => {
            ladder.rungs.iter().find(|rung| rung.name == name).and_then(|rung| rung.outcome.as_ref().ok())
        }
    };
    let Some(place) = chosen else {
        let asked = match choice {
            Choice::Auto => "no sandbox works here".to_owned(),
            Choice::Only(name) => format!("the sandbox {name} was asked for, and does not work here"),
        };
        let message = format!("{asked}; the lines with \"help\" above say what would change that");
        return Err(Problem::new(exit::SANDBOX, message));
    };
    println!("\nchosen: {}", place.name());
    advise(&ladder, place);
    if let Some(warning) = place.warning() {
        println!("  note: {warning}");
    }
    snapshotters(&config.store_root(root)?, place)
}

fn show(rung: &Rung) {
    match &rung.outcome {
        Ok(Place::Range(map)) => {
            println!("  {}: works, with the ids (inside.outside.count) {}", rung.name, map.key());
        }
        Ok(Place::Single(map) | Place::Pretended(map)) => {
            println!("  {}: works, with the id (inside.outside.count) {}", rung.name, map.key());
        }
        Ok(Place::Chroot) => println!("  {}: works", rung.name),
        Err(unavailable) => {
            println!("  {}: does not work", rung.name);
            unavailable.probes.iter().for_each(show_probe);
        }
    }
}

fn show_probe(probe: &Probe) {
    println!("    tried: {}", probe.tried);
    if let Some(failure) = &probe.failure {
        println!("    got:   {failure}");
    }
    for remedy in &probe.remedies {
        println!("    help:  {remedy}");
    }
}

/// Says what would give the next better rung.
fn advise(ladder: &Ladder, place: &Place) {
    let better = ladder.rungs.iter().take_while(|rung| rung.name != place.name());
    let helped = |rung: &&Rung| {
        rung.outcome.as_ref().is_err_and(|error| error.probes.iter().any(|probe| !probe.remedies.is_empty()))
    };
    if let Some(rung) = better.filter(helped).last()
        && let Err(unavailable) = &rung.outcome
    {
        println!("  for {} instead:", rung.name);
        for remedy in unavailable.probes.iter().flat_map(|probe| &probe.remedies) {
            println!("    {remedy}");
        }
    }
}

/// Tries the snapshotters on the file system that the store is on.
fn snapshotters(root: &Path, place: &Place) -> Result<(), Problem> {
    let store = Store::open(root).map_err(store_problem)?;
    println!("\nsnapshotters for the store {}, the preferred first:", root.display());
    let mut chosen = None;
    for (name, snapshotter) in [("overlay", Snapshotter::Overlay), ("copy", Snapshotter::Copy)] {
        match lithify_engine::probe_snapshotter(store.trees_root(), place, snapshotter) {
            Ok(()) => {
                println!("  {name}: works");
                chosen = chosen.or(Some(name));
            }
            Err(failure) => {
                println!("  {name}: does not work");
                println!("    got:   {}", Problem::caused(exit::STORE, "", &failure).causes.join(": "));
                if name == "overlay" && *place != Place::Chroot {
                    println!(
                        "    help:  keep the store on ext4, xfs, btrfs or tmpfs, not on another overlay: --root DIR, in a container a volume"
                    );
                }
            }
        }
    }
    match chosen {
        Some(name) => {
            println!("chosen: {name}");
            Ok(())
        }
        None => Err(Problem::new(exit::STORE, "no snapshotter works for this store")),
    }
}
