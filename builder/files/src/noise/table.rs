//! What is noise.

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The file is removed.
    File,
    /// The file is emptied when it holds a machine's id.
    Id,
    /// Dates of today are set to SOURCE_DATE_EPOCH.
    Dates,
}

/// One row of [`TABLE`].
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// Below the root.
    pub folder: &'static str,
    /// Files in it: a name or a pattern (see [`crate::glob::Deep`]).
    pub files: &'static str,
    /// What is done about it.
    pub what: What,
    /// Only where the step has changed this file as well.
    pub only_with: Option<&'static str>,
    /// Why it is noise.
    pub why: &'static str,
}

/// The name and version of [`TABLE`], which enters the key of a RUN: a change of the table changes what steps make.
pub const PROFILE: &str = "1";

const fn file(folder: &'static str, files: &'static str, why: &'static str) -> Noise {
    Noise { folder, files, what: What::File, only_with: None, why }
}

/// Lists that a step fetched are noise when the same step installed from them, but what the step was for when it did not.
const fn after(installed: &'static str, noise: Noise) -> Noise {
    Noise { only_with: Some(installed), ..noise }
}

const DPKG: &str = "var/lib/dpkg/status";
const APK: &str = "lib/apk/db/installed";

/// All that `--reproducible` knows.
pub const TABLE: &[Noise] = &[
    file("var/cache/ldconfig", "aux-cache", "holds inode numbers and times of libraries"),
    file("var/log/apt", "*", "says when packages were installed"),
    file("var/log", "dpkg.log", "says when packages were installed"),
    file("var/log", "alternatives.log", "says when alternatives were chosen"),
    file("var/log", "bootstrap.log", "says when a system was put together"),
    file("var/log", "fontconfig.log", "says when caches of fonts were made"),
    file("var/log", "apk.log", "says when packages were installed"),
    file("var/log", "dnf*.log", "says when packages were installed"),
    file("var/log", "hawkey.log", "says when packages were installed"),
    file("var/log", "yum.log", "says when packages were installed"),
    file("var/cache/apt", "*.bin", "holds times of the lists that it was made of"),
    file("var/cache/apt/archives", "**", "packages that are installed already, and a lock"),
    after(DPKG, file("var/lib/apt/lists", "**", "dated by the mirror each few hours")),
    after(APK, file("var/cache/apk", "**", "dated by the mirror")),
    file("var/cache/dnf", "**", "dated by the mirror"),
    file("var/cache/libdnf5", "**", "dated by the mirror"),
    file("var/cache/yum", "**", "dated by the mirror"),
    file("var/cache/debconf", "*-old", "what the file beside it was before the last package"),
    file("var/cache/fontconfig", "**", "holds times of folders"),
    file("var/cache/man", "**/index.db", "holds times of manual pages"),
    file("root/.cache/pip", "**", "holds times of downloads"),
    file("root/.npm/_logs", "**", "says when npm ran"),
    file("root/.npm/_cacache", "**", "holds times of downloads"),
    file("root/.npm", "_update-notifier-last-checked", "says when npm ran"),
    file("var/lib/dbus", "machine-id", "is random, and each machine makes its own"),
    Noise {
        folder: "etc",
        files: "machine-id",
        what: What::Id,
        only_with: None,
        why: "is random; an empty one makes each machine have its own (machine-id(5))",
    },
    Noise {
        folder: "etc",
        files: "shadow",
        what: What::Dates,
        only_with: None,
        why: "says on which day a password was set",
    },
    Noise {
        folder: "etc",
        files: "shadow-",
        what: What::Dates,
        only_with: None,
        why: "says on which day a password was set",
    },
];
