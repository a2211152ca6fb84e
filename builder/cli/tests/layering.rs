//! Holds the table of rooms in ARCHITECTURE.md: which crate may know which, who touches the world outside, and where
//! `unsafe` may stand. Tests of a crate (dev-dependencies) may know more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The binary may know every room but the tests' own; the table says "everything".
const BINARY: &str = "lithify";
const DEV_ONLY: &str = "lithify-testkit";

/// Libraries that reach outside, and the only crates that may depend on them. The testkit is not shipped and may all.
const DOORS: [(&str, &[&str]); 9] = [
    ("reqwest", &["lithify-transfer"]),
    ("rustls", &["lithify-transfer"]),
    ("tokio", &["lithify-transfer", "lithify-engine", "lithify"]),
    ("clap", &["lithify"]),
    ("indicatif", &["lithify"]),
    // The sandbox needs the numbers of system calls.
    ("libc", &["lithify-linux", "lithify-sandbox"]),
    ("seccompiler", &["lithify-linux"]),
    ("rusqlite", &["lithify-cache"]),
    ("tar", &["lithify-oci", "lithify-transfer"]),
];

/// Rooms without files, network, clock and environment, where their sources are, and what they must not depend on.
const PURE: [(&str, &str); 3] =
    [("lithify-oci", "builder/oci"), ("lithify-graph", "builder/graph"), ("lithify-frontend", "frontend")];
const IMPURE: [&str; 6] = ["rustix", "libc", "tokio", "reqwest", "tempfile", "rusqlite"];

/// The one crate with `unsafe` blocks.
const UNSAFE: &str = "lithify-linux";

struct Package {
    manifest: PathBuf,
    /// What it depends on when it is built, as opposed to when it is tested.
    dependencies: BTreeSet<String>,
}

#[test]
fn rooms_know_only_what_they_may() {
    let (rooms, packages) = (rooms(), packages());
    let mut faults = Vec::new();
    for (name, package) in &packages {
        let Some(allowed) = rooms.get(name) else { continue };
        let known = package.dependencies.iter().filter(|other| packages.contains_key(*other));
        faults.extend(
            known
                .filter(|other| !allowed.contains(*other))
                .map(|other| format!("{name} must not know {other}")),
        );
    }
    none(faults);
}

#[test]
fn every_crate_is_a_room_of_the_table() {
    let (rooms, packages) = (rooms(), packages());
    none(
        packages
            .keys()
            .filter(|name| !rooms.contains_key(*name))
            .map(|name| format!("{name}: no room"))
            .collect(),
    );
    none(
        rooms
            .keys()
            .filter(|name| !packages.contains_key(*name))
            .map(|name| format!("{name} is gone"))
            .collect(),
    );
}

#[test]
fn few_reach_outside() {
    let mut faults = Vec::new();
    for (name, package) in packages().iter().filter(|(name, _)| *name != DEV_ONLY) {
        for (library, owners) in DOORS {
            if package.dependencies.contains(library) && !owners.contains(&name.as_str()) {
                faults.push(format!("{name} must not depend on {library}, only {owners:?} may"));
            }
        }
    }
    none(faults);
}

#[test]
fn pure_rooms_stay_pure() {
    let (packages, mut fences) = (packages(), BTreeSet::new());
    for (name, folder) in PURE {
        let package = &packages[name];
        none(
            IMPURE
                .iter()
                .filter(|it| package.dependencies.contains(**it))
                .map(|it| format!("{name}: {it}"))
                .collect(),
        );
        let path = root().join(folder).join("clippy.toml");
        let fence = std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        for word in ["std::fs::File", "std::fs::read", "std::env::var", "std::process::Command"] {
            assert!(fence.contains(&format!("\"{word}\"")), "{} lets {word} pass", path.display());
        }
        for word in ["std::time::SystemTime", "std::time::Instant"] {
            assert!(fence.contains(&format!("\"{word}\"")), "{} lets {word} pass", path.display());
        }
        fences.insert(fence);
    }
    assert_eq!(fences.len(), 1, "the fences of the pure rooms differ");
}

#[test]
fn unsafe_code_stands_in_one_crate() {
    let workspace = manifest(&root().join("Cargo.toml"));
    assert_eq!(workspace["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for (name, package) in packages() {
        let lints = manifest(&package.manifest)["lints"].clone();
        if name == UNSAFE {
            assert_eq!(lints["clippy"]["undocumented_unsafe_blocks"].as_str(), Some("warn"), "{name}");
            assert_eq!(lints["rust"]["unsafe_op_in_unsafe_fn"].as_str(), Some("deny"), "{name}");
        } else {
            let inherits = lints.get("workspace").and_then(toml::Value::as_bool);
            assert_eq!(inherits, Some(true), "{name} must inherit the workspace's lints");
        }
    }
}

/// Each room of ARCHITECTURE.md's table, by its crate, and the crates that its column "may know" names.
fn rooms() -> BTreeMap<String, BTreeSet<String>> {
    let path = root().join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    let table = text.lines().skip_while(|line| !line.starts_with("| crate |")).skip(2);
    let rows: Vec<Vec<&str>> = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let short = |row: &[&str]| row[0].trim_matches('`').rsplit('/').next().unwrap_or_default().to_owned();
    let crate_of = |short: &str| if short == "cli" { BINARY.to_owned() } else { format!("lithify-{short}") };
    let all: BTreeSet<String> = rows.iter().map(|row| crate_of(&short(row))).collect();
    let may_know = |column: &str| -> BTreeSet<String> {
        if column == "everything" {
            return all.iter().filter(|name| *name != DEV_ONLY).cloned().collect();
        }
        let words = column.split(|c: char| !c.is_ascii_alphanumeric()).map(crate_of);
        words.filter(|name| all.contains(name)).collect()
    };
    rows.iter().map(|row| (crate_of(&short(row)), may_know(row[2]))).collect()
}

fn packages() -> BTreeMap<String, Package> {
    // Set by cargo for tests; a test binary that is run by itself finds cargo in PATH.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata should start");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let built = dependencies.iter().filter(|one| one["kind"] != "dev").map(|one| text(&one["name"]));
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            (text(&package["name"]), Package { manifest, dependencies: built.collect() })
        })
        .collect()
}

fn manifest(path: &Path) -> toml::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    toml::from_str(&text).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[track_caller]
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "against the table of rooms:\n  {}", faults.join("\n  "));
}
