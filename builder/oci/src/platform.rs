//! Platforms (OCI image specification, image-index.md, "platform").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system and processor, such as `linux/arm/v7`; always in the normal form that containerd uses
/// (`x86_64` is `amd64`, `arm64/v8` is `arm64`, `armhf` is `arm/v7`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`, `windows`, ... (GOOS values)
    pub os: String,
    /// `amd64`, `arm64`, `arm`, ... (GOARCH values)
    pub architecture: String,
    /// `v7` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the operating system; only Windows images have one.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// `os/architecture` with no variant.
    pub fn new(os: &str, architecture: &str) -> Self {
        Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: None,
            os_version: None,
            os_features: vec![],
        }
    }

    /// The platform that this program was compiled for.
    pub fn host() -> Self {
        let arch = std::env::consts::ARCH;
        normalize("linux", arch, None)
    }

    /// Whether an image for `self` is what was asked for by `wanted`: variants only count where both name one.
    pub fn satisfies(&self, wanted: &Platform) -> bool {
        let variants_agree = match (&self.variant, &wanted.variant) {
            (Some(have), Some(want)) => have == want,
            _ => true,
        };
        self.os == wanted.os && self.architecture == wanted.architecture && variants_agree
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if let Some(version) = &self.os_version {
            write!(f, "({version})")?;
        }
        write!(f, "/{}", self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// A text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid platform {text:?}: expected os/architecture or os/architecture/variant, such as linux/arm64"
)]
pub struct InvalidPlatform {
    /// What was to be a platform.
    pub text: String,
}

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];
const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x", "wasm", "aarch64", "x86_64", "x86-64", "i386", "armhf", "armel",
];

impl FromStr for Platform {
    type Err = InvalidPlatform;

    /// Parses by containerd's rules: `os`, `architecture`, `os/architecture` or `os/architecture/variant`, where the
    /// system may carry a version, `windows(10.0.17763)`; what is left out is the host's.
    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform { text: text.to_owned() };
        let good = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        let mut parts: Vec<&str> = text.split('/').collect();
        let mut os_version = None;
        if let Some((system, version)) = parts[0].split_once('(') {
            os_version = Some(version.strip_suffix(')').ok_or_else(invalid)?.to_owned());
            parts[0] = system;
        }
        if !parts.iter().all(|part| good(part)) {
            return Err(invalid());
        }
        let host = Platform::host();
        let mut platform = match parts[..] {
            [one] => {
                let lower = one.to_ascii_lowercase();
                if SYSTEMS.contains(&lower.as_str()) || lower == "macos" {
                    normalize(&lower, &host.architecture, host.variant.as_deref())
                } else if ARCHITECTURES.contains(&lower.as_str()) {
                    normalize(&host.os, &lower, None)
                } else {
                    return Err(invalid());
                }
            }
            [os, arch] => normalize(os, arch, None),
            [os, arch, variant] => normalize(os, arch, Some(variant)),
            _ => return Err(invalid()),
        };
        platform.os_version = os_version;
        Ok(platform)
    }
}

fn normalize(os: &str, arch: &str, variant: Option<&str>) -> Platform {
    let os = match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    };
    let arch = arch.to_ascii_lowercase();
    let variant = variant.map(str::to_ascii_lowercase);
    let (architecture, variant) = match (arch.as_str(), variant.as_deref()) {
        ("i386" | "x86" | "386", _) => ("386", None),
        ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", Some(v)) => ("amd64", Some(v)),
        ("aarch64" | "arm64", Some("8" | "v8") | None) => ("arm64", None),
        ("aarch64" | "arm64", Some(v)) => ("arm64", Some(v)),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        (other, v) => (other, v),
    };
    Platform { variant: variant.map(str::to_owned), ..Platform::new(&os, architecture) }
}
