//! The runtime and the registry client: made when the first byte has to come from afar, and never where nothing may.

use std::sync::{Arc, OnceLock};

use lithify_transfer::Credentials;
use lithify_transfer::registry::{self, Client};

use crate::config::{Config, Registry};
use crate::exit::{self, Problem};

/// The way to the network, shared by all that need it.
pub(crate) struct Connection {
    registries: std::collections::BTreeMap<String, Registry>,
    offline: bool,
    network: OnceLock<Network>,
}

/// What network clients run on, and the one for registries.
pub(crate) struct Network {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) client: Arc<Client>,
}

impl Connection {
    /// Nothing is connected yet; with `offline` nothing will be.
    pub(crate) fn new(config: &Config, offline: bool) -> Arc<Self> {
        Arc::new(Connection { registries: config.registry.clone(), offline, network: OnceLock::new() })
    }

    /// Whether the network may not be touched.
    pub(crate) fn is_offline(&self) -> bool {
        self.offline
    }

    /// The network, which is wanted for `what`: "the base image debian:12 for linux/amd64".
    ///
    /// # Errors
    /// `--offline`, by the name of what is missing; docker's configuration, where it cannot be read.
    pub(crate) fn network(&self, what: &dyn std::fmt::Display) -> Result<&Network, Problem> {
        if self.offline {
            let message = format!("the store does not have {what}, and --offline forbids to fetch it");
            return Err(Problem::new(exit::SOURCE, message));
        }
        if let Some(network) = self.network.get() {
            return Ok(network);
        }
        let network = Network::new(&self.registries)?;
        Ok(self.network.get_or_init(|| network))
    }
}

impl Network {
    fn new(registries: &std::collections::BTreeMap<String, Registry>) -> Result<Self, Problem> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime
            .map_err(|error| Problem::caused(exit::SOURCE, "cannot start the network client", &error))?;
        let credentials = match crate::config::docker_config() {
            None => Credentials::default(),
            Some(file) => Credentials::from_docker_config(&file).map_err(|error| {
                Problem::caused(exit::USAGE, "cannot read docker's configuration", &error)
            })?,
        };
        let mirrors = registries.iter().filter(|(_, registry)| !registry.mirrors.is_empty());
        let insecure = registries.iter().filter(|(_, registry)| registry.insecure);
        let client = Client::new(registry::Config {
            mirrors: mirrors.map(|(host, registry)| (host.clone(), registry.mirrors.clone())).collect(),
            insecure: insecure.map(|(host, _)| host.clone()).collect(),
            credentials,
            ..registry::Config::default()
        });
        Ok(Network { runtime, client: Arc::new(client) })
    }
}
