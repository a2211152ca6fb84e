//! What tests need to try `lithify` from outside, as a user would.
//!
//! - [`Env`]: a home, a store and a configuration of their own for each test; [`PlainUser`]: somebody without rights.
//! - [`Registry`] and [`TokenRegistry`]: a real registry on a loopback port, and one that asks for tokens.
//! - [`ObjectStore`]: a real object store on a loopback port.
//! - [`Image`]: reads what was built. It has its own tar and PAX reader on purpose: a second opinion that shares no
//!   code with the codec of `lithify-oci`. [`diff::explain`] names the first difference of two images.
//! - [`case`]: the conformance cases.
//!
//! Nothing here is shipped; helpers panic with a message where a test could do nothing but panic itself.

mod bucket;
pub mod case;
mod container;
pub mod describe;
pub mod diff;
mod env;
mod image;
mod process;
mod registry;
mod tar;
mod token;
mod user;

pub use bucket::ObjectStore;
pub use container::run_image;
pub use env::{Env, copy_tree};
pub use image::{Image, Layer};
pub use process::{Finished, Running, gone_within, processes_with};
pub use registry::{Login, Registry};
pub use tar::{Member, TarReader, decoded};
pub use token::{Request, TokenRegistry};
pub use user::PlainUser;

use std::io::Write;
use std::path::{Path, PathBuf};

/// Says that the test `name` cannot run because of `why`. The line goes past the test harness's capture, so that it
/// is seen even when everything passes.
///
/// # Panics
/// With `LITHIFY_REQUIRE_ALL=1`, where a test that cannot run counts as failed.
pub fn skipped(name: &str, why: &str) {
    if std::env::var_os("LITHIFY_REQUIRE_ALL").is_some_and(|value| value == "1") {
        panic!("{name} must run here (LITHIFY_REQUIRE_ALL=1) but cannot: {why}");
    }
    say(&format!("SKIPPED {name}: {why}"));
}

/// Writes one line to standard error past the test harness's capture.
pub fn say(line: &str) {
    let mut stderr = std::io::stderr().lock();
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(stderr, "{line}");
}

/// A path in the repository.
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Whether the test runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why one of the programs is missing, or `None` when all of them are in `PATH`.
pub fn missing_program(programs: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &&&str| {
        let sbin = [Path::new("/usr/sbin"), Path::new("/sbin")];
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
            || sbin.iter().any(|dir| dir.join(name).is_file())
    };
    let missing: Vec<&str> = programs.iter().filter(|name| !found(name)).copied().collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

#[cfg(test)]
mod tests;
