//! The configuration file, `lithify.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::{Network, Pull, Sandbox, Snapshotter};
use crate::exit::{self, Problem};

/// What `lithify.toml` may say. Unknown keys are errors, so that a misspelt one is not silently without effect.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// `--root`
    pub(crate) root: Option<PathBuf>,
    /// `--pull`
    pub(crate) pull: Option<Pull>,
    /// `--snapshotter`
    pub(crate) snapshotter: Option<Snapshotter>,
    /// `--sandbox`
    pub(crate) sandbox: Option<Sandbox>,
    /// `--network`
    pub(crate) network: Option<Network>,
    /// `--reproducible`
    #[serde(default)]
    pub(crate) reproducible: bool,
    /// `--cache-from`
    #[serde(default)]
    pub(crate) cache_from: Vec<String>,
    /// `--cache-to`
    #[serde(default)]
    pub(crate) cache_to: Vec<String>,
    /// `--lock`
    pub(crate) lock: Option<PathBuf>,
    /// `--offline`
    #[serde(default)]
    pub(crate) offline: bool,
    /// `--jobs`
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    /// What is taken away after a build.
    #[serde(default)]
    pub(crate) prune: Prune,
    /// By host name.
    #[serde(default)]
    pub(crate) registry: BTreeMap<String, Registry>,
}

/// `[prune]`, as the flags of `lithify prune`; applied after each build in which a step ran.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Prune {
    /// `--unused-for`
    pub(crate) unused_for: Option<String>,
    /// `--keep-storage`
    pub(crate) keep_storage: Option<String>,
}

/// `[registry."docker.io"]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Registry {
    /// Asked first, in order: hosts, or URLs where plain http or a path is wanted.
    #[serde(default)]
    pub(crate) mirrors: Vec<String>,
    /// Whether plain http and unknown certificates are accepted.
    #[serde(default)]
    pub(crate) insecure: bool,
}

impl Config {
    /// Reads the file that was named, or the default one if it is there.
    pub(crate) fn read(named: Option<&Path>) -> Result<Config, Problem> {
        let default = config_home().map(|home| home.join("lithify/lithify.toml"));
        let Some(path) = named.map(Path::to_owned).or(default) else { return Ok(Config::default()) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Config::default());
            }
            Err(error) => {
                return Err(Problem::caused(exit::USAGE, format_args!("cannot read {path:?}"), &error));
            }
        };
        toml::from_str(&text)
            .map_err(|error| Problem::new(exit::USAGE, format_args!("{}: {error}", path.display())))
    }

    /// The folder of the store.
    pub(crate) fn store_root(&self, named: Option<&Path>) -> Result<PathBuf, Problem> {
        let default = || data_home().map(|home| home.join("lithify"));
        named.map(Path::to_owned).or_else(|| self.root.clone()).or_else(default).ok_or_else(|| {
            Problem::new(
                exit::USAGE,
                "there is no home folder to keep the store in: set HOME, or use --root DIR",
            )
        })
    }
}

/// docker's configuration file, where there is one.
pub(crate) fn docker_config() -> Option<PathBuf> {
    let folder =
        std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(home()?.join(".docker")));
    folder.map(|folder| folder.join("config.json")).filter(|file| file.exists())
}

/// The proxies of docker's configuration (`proxies.default`), as build arguments.
pub(crate) fn docker_proxies() -> Result<Vec<(String, String)>, Problem> {
    let Some(path) = docker_config() else { return Ok(vec![]) };
    let wrong = |error: &dyn std::error::Error| {
        Problem::caused(
            exit::USAGE,
            format_args!("cannot read docker's configuration {}", path.display()),
            error,
        )
    };
    let text = std::fs::read(&path).map_err(|error| wrong(&error))?;
    let parsed: DockerConfig = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
    let proxies = parsed.proxies.get("default").into_iter();
    let args = proxies.flat_map(|proxies| {
        let named = [
            ("HTTP_PROXY", &proxies.http_proxy),
            ("HTTPS_PROXY", &proxies.https_proxy),
            ("FTP_PROXY", &proxies.ftp_proxy),
            ("NO_PROXY", &proxies.no_proxy),
            ("ALL_PROXY", &proxies.all_proxy),
        ];
        let set = named.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        // Programs look at one or the other.
        set.flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_lowercase(), value)])
    });
    Ok(args.collect())
}

/// What of docker's configuration counts here; credentials are read where they are used.
#[derive(Debug, Default, Deserialize)]
struct DockerConfig {
    #[serde(default)]
    proxies: BTreeMap<String, DockerProxies>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerProxies {
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    ftp_proxy: Option<String>,
    no_proxy: Option<String>,
    all_proxy: Option<String>,
}

/// The home folder, where one is set.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

fn xdg(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    set.or_else(|| Some(home()?.join(below_home)))
}

fn config_home() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config")
}

fn data_home() -> Option<PathBuf> {
    xdg("XDG_DATA_HOME", ".local/share")
}
