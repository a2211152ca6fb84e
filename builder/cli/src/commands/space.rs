//! `lithify du` and `prune`: what takes space, and how it is had back.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lithify_cache::{Folder, Kind, PrunePolicy, Pruned, Store, Usage};
use lithify_engine::TreeFolders;
use serde_json::{Value, json};

use super::store::{ago, open, table};
use crate::args::{Du, Prune, PruneKind, WhyFormat};
use crate::config::{self, Config};
use crate::exit::Problem;
use crate::inputs::{self, wrong};
use crate::render::{say, size};
use crate::sources::store_problem;

/// What takes space.
pub(super) fn usage(arguments: &Du, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let store = open(config, root)?;
    let folders = TreeFolders::new(&store);
    let usage = store.usage(&folders).map_err(store_problem)?;
    say_closed(&folders);
    if arguments.format == WhyFormat::Json {
        println!("{:#}", to_json(&usage));
        return Ok(());
    }
    if arguments.verbose {
        details(&usage);
    }
    let rows =
        usage.images.iter().map(|one| [one.image.name.clone(), size(one.total_bytes), size(one.own_bytes)]);
    table(["IMAGE", "SIZE", "NOT SHARED"], rows.collect());
    println!();
    let mounts = usage.mounts.iter().map(|mount| mount.folder.disk_bytes).sum();
    let trees = usage.trees.iter().map(|tree| tree.disk_bytes).sum();
    let rows = [
        ("images", usage.images.len() as u64, usage.blobs_bytes - usage.unnamed_bytes),
        (
            "cached steps and bases that no image has",
            usage.records.len() as u64,
            usage.unnamed_bytes - usage.unheld_bytes,
        ),
        ("of it downloads", usage.downloads.0, usage.downloads.1),
        ("layers that nothing needs", 0, usage.unheld_bytes),
        ("cache mounts", usage.mounts.len() as u64, mounts),
        ("file trees", usage.trees.len() as u64, trees),
        ("leftovers", 0, usage.leftovers_bytes),
        ("index of context files", 0, usage.contexts_bytes),
        ("log of builds", 0, usage.builds_bytes),
        ("database", 0, usage.database_bytes),
    ];
    let count = |count| if count == 0 { String::new() } else { format!("{count}") };
    let mut rows: Vec<_> =
        rows.iter().map(|(name, number, bytes)| [(*name).to_owned(), count(*number), size(*bytes)]).collect();
    rows.push(["total".to_owned(), String::new(), size(usage.total_bytes)]);
    table(["KIND", "NUMBER", "ON DISK"], rows);
    Ok(())
}

fn details(usage: &Usage) {
    let when = |time: SystemTime| ago(SystemTime::now().duration_since(time).unwrap_or_default());
    let rows = usage.layers.iter().map(|layer| {
        let shared = format!("{} images, {} steps", layer.images, layer.records);
        [layer.blob.to_string(), size(layer.disk_bytes), shared]
    });
    table(["LAYER", "SIZE", "IN"], rows.collect());
    println!();
    let rows = usage.records.iter().map(|record| {
        let key = record.key.hex()[..12].to_owned();
        [key, record.step.clone(), size(record.total_bytes), size(record.own_bytes), when(record.last_used)]
    });
    table(["CACHED STEP", "OF", "SIZE", "NOT SHARED", "USED"], rows.collect());
    println!();
    let rows = usage.mounts.iter().map(|mount| {
        let folder = &mount.folder;
        let id = if mount.id.is_empty() { "(not known)" } else { &mount.id };
        [id.to_owned(), folder.name[..12].to_owned(), size(folder.disk_bytes), when(folder.last_used)]
    });
    table(["CACHE MOUNT", "FOLDER", "SIZE", "USED"], rows.collect());
    println!();
    let rows = usage.trees.iter().map(|tree| {
        [tree.name[..12].to_owned(), tree.place.clone(), size(tree.disk_bytes), when(tree.last_used)]
    });
    table(["FILE TREE", "KEPT IN", "SIZE", "USED"], rows.collect());
    println!();
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn folder(folder: &Folder) -> Value {
    json!({
        "name": folder.name,
        "place": folder.place,
        "bytes": folder.disk_bytes,
        "last_used": seconds(folder.last_used),
    })
}

fn to_json(usage: &Usage) -> Value {
    let images = usage.images.iter().map(|one| {
        json!({
            "name": one.image.name,
            "digest": one.image.manifest.digest,
            "bytes": one.total_bytes,
            "own_bytes": one.own_bytes,
        })
    });
    let layers = usage.layers.iter().map(|layer| {
        json!({ "digest": layer.blob, "bytes": layer.disk_bytes, "images": layer.images, "records": layer.records })
    });
    let records = usage.records.iter().map(|record| {
        json!({
            "key": record.key,
            "step": record.step,
            "bytes": record.total_bytes,
            "own_bytes": record.own_bytes,
            "last_used": seconds(record.last_used),
        })
    });
    let mounts = usage.mounts.iter().map(|mount| {
        let mut value = folder(&mount.folder);
        value["id"] = mount.id.clone().into();
        value
    });
    json!({
        "total_bytes": usage.total_bytes,
        "blobs_bytes": usage.blobs_bytes,
        "unnamed_bytes": usage.unnamed_bytes,
        "unheld_bytes": usage.unheld_bytes,
        "leftovers_bytes": usage.leftovers_bytes,
        "contexts_bytes": usage.contexts_bytes,
        "builds_bytes": usage.builds_bytes,
        "database_bytes": usage.database_bytes,
        "downloads": { "number": usage.downloads.0, "bytes": usage.downloads.1 },
        "images": images.collect::<Value>(),
        "layers": layers.collect::<Value>(),
        "records": records.collect::<Value>(),
        "mounts": mounts.collect::<Value>(),
        "trees": usage.trees.iter().map(folder).collect::<Value>(),
    })
}

pub(super) fn prune(arguments: &Prune, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let until = arguments.filter.as_deref().map(|filter| {
        filter.strip_prefix("until=").ok_or_else(|| wrong("--filter", filter, "expected until=TIME"))
    });
    let age = match (until.transpose()?, &arguments.unused_for, arguments.all) {
        (_, _, true) => Some(Duration::ZERO),
        (Some(text), ..) => Some(time("--filter", text)?),
        (None, Some(text), _) => Some(time("--unused-for", text)?),
        (None, None, false) => None,
    };
    let mut policy = PrunePolicy {
        unused_for: age,
        keep_bytes: arguments
            .keep_storage
            .as_deref()
            .map(|text| bytes("--keep-storage", text))
            .transpose()?,
        dry_run: arguments.dry_run,
        ..PrunePolicy::default()
    };
    if !arguments.kind.is_empty() {
        policy.kinds = arguments.kind.iter().copied().map(kind).collect();
        // What only a cached step or a name held goes with it.
        if policy
            .kinds
            .iter()
            .any(|kind| matches!(kind, Kind::Images | Kind::Records | Kind::Bases | Kind::Downloads))
        {
            policy.kinds.insert(Kind::Layers);
        }
    }
    let store = open(config, root)?;
    let folders = TreeFolders::new(&store);
    let pruned = store.prune(&policy, &folders).map_err(store_problem)?;
    say_closed(&folders);
    for name in &pruned.images {
        println!("{} {name}", if policy.dry_run { "would remove" } else { "removed" });
    }
    println!("{}", summary(&pruned, policy.dry_run));
    Ok(())
}

fn summary(pruned: &Pruned, dry_run: bool) -> String {
    let (forgot, removed) = if dry_run { ("would forget", "would remove") } else { ("forgot", "removed") };
    format!(
        "{forgot} {} cached steps; {removed} {} blobs, {} file trees and {} cache mounts: {}",
        pruned.records,
        pruned.blobs,
        pruned.trees,
        pruned.mounts,
        size(pruned.bytes)
    )
}

/// Keeps the store within the limits of the configuration. A build is none the worse for a store that is too large.
pub(super) fn keep_small(store: &Store, limits: &PrunePolicy) {
    match store.prune(limits, &TreeFolders::new(store)) {
        Ok(pruned) if pruned.bytes > 0 => say(format_args!("pruned  {}", size(pruned.bytes))),
        Ok(_) => {}
        Err(error) => say(format_args!("warning: cannot prune the store: {error}")),
    }
}

/// What the configuration says; read before a build, so that a mistake in it does not cost one.
pub(super) fn automatic(limits: &config::Prune) -> Result<Option<PrunePolicy>, Problem> {
    if limits.unused_for.is_none() && limits.keep_storage.is_none() {
        return Ok(None);
    }
    Ok(Some(PrunePolicy {
        unused_for: limits.unused_for.as_deref().map(|text| time("prune.unused-for", text)).transpose()?,
        keep_bytes: limits
            .keep_storage
            .as_deref()
            .map(|text| bytes("prune.keep-storage", text))
            .transpose()?,
        ..PrunePolicy::default()
    }))
}

fn say_closed(folders: &TreeFolders<'_>) {
    for (place, why) in folders.closed() {
        say(format_args!("warning: the file trees in trees/{place} are left out: {why}"));
    }
}

fn kind(kind: PruneKind) -> Kind {
    match kind {
        PruneKind::Images => Kind::Images,
        PruneKind::Records => Kind::Records,
        PruneKind::Layers => Kind::Layers,
        PruneKind::Bases => Kind::Bases,
        PruneKind::Downloads => Kind::Downloads,
        PruneKind::Mounts => Kind::Mounts,
        PruneKind::Trees => Kind::Trees,
        PruneKind::Notes => Kind::Notes,
    }
}

fn bytes(flag: &str, text: &str) -> Result<u64, Problem> {
    inputs::bytes(text).ok_or_else(|| wrong(flag, text, inputs::SIZE))
}

/// `90s`, `10m`, `24h`, `7d`.
fn time(flag: &str, text: &str) -> Result<Duration, Problem> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let parsed = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(*unit)?.parse::<u64>().ok()?.checked_mul(*factor));
    let wrong = || wrong(flag, text, "expected a time such as 90s, 10m, 24h or 7d");
    parsed.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(time("--unused-for", text).ok().map(|time| time.as_secs()), expected, "{text}");
        };
        check("90s", Some(90));
        check("7d", Some(604_800));
        check("7", None);
        check("d", None);
    }
}
