//! The key of a RUN.

use lithify_graph::{Exec, Mount, MountKind, Network, Security};
use lithify_oci::Platform;

use super::encoding::{Encoder, Fields};
use super::explanation::lines;
use super::{Chain, Keyed, SourceContent};

/// What a mount shows, as far as it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountContent {
    /// Nothing that counts: of all mounts but bind mounts.
    Nothing,
    /// The content of the selected part of a bind mount.
    Content(SourceContent),
    /// The tree that a bind mount selects from: right without a look into it, but misses where only the rest changed.
    Tree(Chain),
}

/// What the command line and the configuration say about every RUN. What is not here enters no key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSettings {
    /// The host name that the process sees.
    pub hostname: String,
    /// The names given by `--add-host`, without their addresses.
    pub extra_hosts: Vec<String>,
    /// `--ulimit`
    pub ulimits: Vec<Ulimit>,
    /// `--shm-size`; `None` for the default.
    pub shm_size_bytes: Option<u64>,
    /// What [`Network::Default`] means.
    pub network: Network,
    /// SOURCE_DATE_EPOCH in the environment of the process, where `--reproducible` puts it there.
    pub source_date_epoch: Option<i64>,
    /// The sandbox, where it is one in which a process may see something else than in the full one; `None` for that.
    pub sandbox: Option<String>,
    /// The name and version of the table by which `--reproducible` removes noise; `None` without it.
    pub reproducible: Option<String>,
}

/// A limit of a process (setrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// `nofile` and the like.
    pub name: String,
    /// The limit that counts.
    pub soft: u64,
    /// The limit up to which the process may raise it.
    pub hard: u64,
}

/// The key of a RUN. `mounts` has one element for each of `exec.mounts`.
///
/// # Panics
/// If it has not, or if one for a bind mount is [`MountContent::Nothing`]: such a key would find stale results.
pub fn exec_key(
    exec: &Exec,
    platform: &Platform,
    base: &Chain,
    mounts: &[MountContent],
    settings: &RunSettings,
) -> Keyed {
    assert_eq!(exec.mounts.len(), mounts.len(), "one content for each mount");
    let Exec { base: _, args, env, proxy_env: _, cwd, user, mounts: _, network, security, script } = exec;
    let mut encoder = Encoder::new("exec");
    platform_part(&mut encoder, platform);
    encoder.chain("base layer", base);
    let command = args.iter().fold(Fields::default(), |fields, arg| fields.text(arg));
    encoder.part("command", &command.done());
    encoder.details(lines(args.iter().map(String::as_str)));
    for (name, value) in env {
        encoder.text(format!("env {name}"), value);
    }
    encoder.text("working directory", cwd);
    encoder.text("user", user);
    encoder.flag("network", effective(*network, settings.network) == Network::None);
    encoder.flag("security", *security == Security::Insecure);
    if let Some(script) = script {
        let fields = Fields::default().text(&script.name).bytes(&script.content);
        encoder.part("script", &fields.done());
        encoder.details(lines([String::from_utf8_lossy(&script.content).as_ref()]));
    }
    for (mount, content) in exec.mounts.iter().zip(mounts) {
        mount_part(&mut encoder, mount, content);
    }
    settings_parts(&mut encoder, settings);
    encoder.finish()
}

/// The network that the process gets; the host's where nobody says anything.
fn effective(network: Network, default: Network) -> Network {
    match (network, default) {
        (Network::Default, Network::Default) => Network::Host,
        (Network::Default, default) => default,
        (network, _) => network,
    }
}

pub(super) fn platform_part(encoder: &mut Encoder, platform: &Platform) {
    let Platform { os, architecture, variant, os_version, os_features } = platform;
    let fields =
        Fields::default().text(os).text(architecture).maybe(variant.as_deref()).maybe(os_version.as_deref());
    let fields = os_features.iter().fold(fields, |fields, feature| fields.text(feature));
    encoder.part("platform", &fields.done());
}

fn mount_part(encoder: &mut Encoder, mount: &Mount, content: &MountContent) {
    let target = mount.target.as_deref();
    let fields = Fields::default().maybe(target);
    let (kind, fields) = match &mount.kind {
        MountKind::Bind { from: _, source, writable } => {
            let fields = fields.number(u8::from(*writable));
            let fields = match content {
                MountContent::Nothing => panic!("a bind mount always shows something"),
                MountContent::Content(content) => {
                    fields.number(1).bytes(content.digest().digest().as_bytes())
                }
                MountContent::Tree(chain) => chain
                    .0
                    .iter()
                    .fold(fields.number(2).text(source), |fields, layer| fields.bytes(layer.as_bytes())),
            };
            ("bind", fields)
        }
        MountKind::Cache { id: _, sharing: _, from: _, source: _, mode, uid, gid, read_only } => {
            ("cache", fields.number(*mode).number(*uid).number(*gid).number(u8::from(*read_only)))
        }
        MountKind::Tmpfs { size_bytes } => ("tmpfs", fields.number(size_bytes.map_or(-1, i128::from))),
        MountKind::Secret { id, env, required, mode, uid, gid } => {
            let fields = fields.text(id).maybe(env.as_deref()).number(u8::from(*required));
            ("secret", fields.number(*mode).number(*uid).number(*gid))
        }
        MountKind::Ssh { id, required, mode, uid, gid } => {
            ("ssh", fields.text(id).number(u8::from(*required)).number(*mode).number(*uid).number(*gid))
        }
    };
    encoder.part(format!("{kind} mount {}", target.unwrap_or("without a file")), &fields.done());
    if let MountContent::Content(content) = content {
        encoder.details(content.details().iter().cloned());
    }
}

fn settings_parts(encoder: &mut Encoder, settings: &RunSettings) {
    let RunSettings {
        hostname,
        extra_hosts,
        ulimits,
        shm_size_bytes,
        network: _,
        source_date_epoch,
        sandbox,
        reproducible,
    } = settings;
    encoder.text("host name", hostname);
    for host in extra_hosts {
        encoder.text("added host", host);
    }
    for Ulimit { name, soft, hard } in ulimits {
        encoder.part(format!("ulimit {name}"), &Fields::default().number(*soft).number(*hard).done());
    }
    if let Some(size_bytes) = shm_size_bytes {
        encoder.part("size of /dev/shm", &size_bytes.to_be_bytes());
    }
    if let Some(seconds) = source_date_epoch {
        encoder.part("SOURCE_DATE_EPOCH", &seconds.to_be_bytes());
    }
    if let Some(sandbox) = sandbox {
        encoder.text("sandbox", sandbox);
    }
    if let Some(profile) = reproducible {
        encoder.text("--reproducible", profile);
    }
}
