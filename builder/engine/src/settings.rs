//! What the user asked for beside the Dockerfile.

use std::collections::{BTreeMap, BTreeSet};

use lithify_linux::cgroup::Limits;
use lithify_worker::Snapshotter;

/// docker's `--shm-size` where nobody says anything.
pub(crate) const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// What holds for all steps of a build.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many steps may run at the same time; `None` sets no limit.
    pub jobs: Option<usize>,
    /// What must not come from the cache.
    pub no_cache: NoCache,
    /// How trees are kept; `None` takes overlay where it works.
    pub snapshotter: Option<Snapshotter>,
    /// Which sandbox steps run in.
    pub sandbox: lithify_sandbox::Choice,
    /// `--network=pasta` and the like: what RUN has instead of the host's network; `None` is the host's.
    pub uplink: Option<lithify_sandbox::UplinkProgram>,
    /// What a RUN sees as its machine's name.
    pub hostname: String,
    /// `--add-host`: names and addresses.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`
    pub shm_size_bytes: u64,
    /// `--ulimit`: name, soft and hard limit.
    pub ulimits: Vec<(String, u64, u64)>,
    /// How many files a RUN may have open, soft and hard, where `--ulimit` does not say and it is not as many as this process. It
    /// enters no key.
    pub open_files: Option<(u64, u64)>,
    /// `--memory`, `--cpus` and the like, of each RUN. They enter no key.
    pub limits: Limits,
    /// `--step-timeout`
    pub step_timeout_seconds: Option<u64>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// `--ssh`, by id: sockets of agents.
    pub ssh: BTreeMap<String, std::path::PathBuf>,
    /// `--ca-certificates`: a bundle in PEM, which takes the place of the image's own. It enters no key.
    pub ca_certificates: Option<Vec<u8>>,
    /// `--reproducible`: what SOURCE_DATE_EPOCH is where the Dockerfile does not say, in seconds since 1970.
    pub reproducible: Option<i64>,
    /// `--offline`: a RUN that is not cached has loopback only.
    pub offline: bool,
    /// `--allow network.host`, which counts where `uplink` keeps RUN from the host's network.
    pub allow_host_network: bool,
    /// `--cache-to type=inline`: whether the image says which keys its layers answer.
    pub inline_cache: bool,
    /// `--allow security.insecure`
    pub allow_insecure: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            jobs: None,
            no_cache: NoCache::Use,
            snapshotter: None,
            sandbox: lithify_sandbox::Choice::Auto,
            uplink: None,
            hostname: "buildkitsandbox".into(),
            extra_hosts: vec![],
            shm_size_bytes: DEFAULT_SHM_BYTES,
            ulimits: vec![],
            open_files: None,
            limits: Limits::default(),
            step_timeout_seconds: None,
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            ca_certificates: None,
            reproducible: None,
            offline: false,
            allow_host_network: false,
            inline_cache: false,
            allow_insecure: false,
        }
    }
}

/// What must not come from the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCache {
    /// Everything may.
    Use,
    /// Nothing may.
    All,
    /// The steps of these stages may not.
    Stages(BTreeSet<String>),
}

impl NoCache {
    /// Whether a step of this stage may come from the cache.
    pub fn allows(&self, stage: &str) -> bool {
        match self {
            NoCache::Use => true,
            NoCache::All => false,
            NoCache::Stages(stages) => !stages.contains(&stage.to_lowercase()),
        }
    }
}

/// A secret's value. Shown to nobody: its `Debug` form is blank.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
