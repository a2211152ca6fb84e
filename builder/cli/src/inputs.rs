//! From the command line as it is written to what is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lithify_engine::{NoCache, Secret, Settings};
use lithify_frontend::{NamedContext, Options};
use lithify_graph::Network;
use lithify_oci::{Platform, Reference};
use lithify_sandbox::{Choice, RungName, UplinkProgram};

use crate::args;
use crate::config::Config;
use crate::contexts::{self, Source};
use crate::exit::{self, Problem};

/// A wrong value of a flag.
pub(crate) fn wrong(flag: &str, value: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(exit::USAGE, format_args!("{flag} {value}: {why}"))
}

/// The fields of a spec: separated by commas; one in double quotes may hold commas itself.
pub(crate) fn split_commas(spec: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in spec.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().expect("there is always one").push(c),
        }
    }
    fields
}

/// The named contexts.
pub(crate) fn named_contexts(arguments: &[String]) -> Result<BTreeMap<String, Source>, Problem> {
    arguments.iter().map(|argument| contexts::parse_named(argument)).collect()
}

/// What the frontend needs to know.
pub(crate) fn options(
    dockerfile: &args::Dockerfile,
    named: &BTreeMap<String, Source>,
) -> Result<Options, Problem> {
    let kind = |source: &Source| match source {
        Source::Layout { .. } => NamedContext::Layout,
        source if source.is_image() => NamedContext::Image,
        _ => NamedContext::Folder,
    };
    let host = Platform::host();
    let target_platform = match &dockerfile.platform[..] {
        [] => host.clone(),
        [one] => one.parse().map_err(|error| wrong("--platform", one, error))?,
        several => {
            let why = "one image for several platforms cannot be built yet; build them one by one";
            return Err(wrong("--platform", &several.join(","), why));
        }
    };
    let mut given = crate::config::docker_proxies()?;
    given.extend(build_args(&dockerfile.build_arg));
    Ok(Options {
        target: dockerfile.target.clone().filter(|target| !target.is_empty()),
        build_args: given,
        build_platform: host,
        target_platform,
        contexts: named.iter().map(|(name, source)| (name.clone(), kind(source))).collect(),
        ..Options::default()
    })
}

/// `--build-arg NAME` takes the value from the environment, and counts for nothing where there is none.
fn build_args(arguments: &[String]) -> Vec<(String, String)> {
    let mut args: Vec<(String, String)> = vec![];
    // As docker does, so that a release can be dated from outside.
    args.extend(std::env::var("SOURCE_DATE_EPOCH").ok().map(|epoch| ("SOURCE_DATE_EPOCH".to_owned(), epoch)));
    args.extend(arguments.iter().filter_map(|argument| match argument.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(argument).ok().map(|value| (argument.clone(), value)),
    }));
    args
}

/// `--label NAME=VALUE`
pub(crate) fn labels(arguments: &[String]) -> Vec<(String, String)> {
    let pair = |label: &String| match label.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (label.clone(), String::new()),
    };
    arguments.iter().map(pair).collect()
}

/// `--network`
pub(crate) fn network(network: Option<args::Network>) -> Option<Network> {
    network.map(|network| match network {
        args::Network::Default | args::Network::Pasta | args::Network::Slirp4netns => Network::Default,
        args::Network::None => Network::None,
        args::Network::Host => Network::Host,
    })
}

/// The program that `--network` names.
pub(crate) fn uplink(network: Option<args::Network>) -> Option<UplinkProgram> {
    match network? {
        args::Network::Default | args::Network::None | args::Network::Host => None,
        args::Network::Pasta => Some(UplinkProgram::Pasta),
        args::Network::Slirp4netns => Some(UplinkProgram::Slirp4netns),
    }
}

/// `--tag`
pub(crate) fn tags(arguments: &[String]) -> Result<Vec<Reference>, Problem> {
    let parse = |tag: &String| tag.parse().map_err(|error| wrong("--tag", tag, error));
    arguments.iter().map(parse).collect()
}

/// What holds for all steps.
pub(crate) fn settings(build: &args::Build, config: &Config) -> Result<Settings, Problem> {
    let no_cache = match (build.no_cache, &build.no_cache_filter[..]) {
        (true, _) => NoCache::All,
        (false, []) => NoCache::Use,
        (false, stages) => NoCache::Stages(stages.iter().map(|stage| stage.to_lowercase()).collect()),
    };
    let snapshotter = match build.snapshotter.or(config.snapshotter) {
        None | Some(args::Snapshotter::Auto) => None,
        Some(args::Snapshotter::Overlay) => Some(lithify_worker::Snapshotter::Overlay),
        Some(args::Snapshotter::Copy) => Some(lithify_worker::Snapshotter::Copy),
    };
    let known: BTreeSet<&str> = ["network.host", "security.insecure"].into();
    if let Some(unknown) = build.allow.iter().find(|allow| !known.contains(allow.as_str())) {
        return Err(wrong("--allow", unknown, "expected network.host or security.insecure"));
    }
    Ok(Settings {
        jobs: build.jobs.or(config.jobs).map(Into::into),
        no_cache,
        snapshotter,
        sandbox: sandbox(build.sandbox.or(config.sandbox)),
        extra_hosts: build.add_host.iter().map(|host| add_host(host)).collect::<Result<_, _>>()?,
        shm_size_bytes: bytes(&build.shm_size).ok_or_else(|| wrong("--shm-size", &build.shm_size, SIZE))?,
        ulimits: build.ulimit.iter().map(|limit| ulimit(limit)).collect::<Result<_, _>>()?,
        limits: crate::limits::limits(&build.limits)?,
        step_timeout_seconds: build.step_timeout.as_deref().map(timeout).transpose()?,
        secrets: build.secret.iter().map(|secret| self::secret(secret)).collect::<Result<_, _>>()?,
        ssh: build.ssh.iter().map(|ssh| self::ssh(ssh)).collect::<Result<_, _>>()?,
        ca_certificates: build.ca_certificates.as_deref().map(ca_certificates).transpose()?,
        allow_host_network: build.allow.iter().any(|allow| allow == "network.host"),
        allow_insecure: build.allow.iter().any(|allow| allow == "security.insecure"),
        ..Settings::default()
    })
}

/// `--sandbox`
pub(crate) fn sandbox(named: Option<args::Sandbox>) -> Choice {
    match named {
        None | Some(args::Sandbox::Auto) => Choice::Auto,
        Some(args::Sandbox::Range) => Choice::Only(RungName::Range),
        Some(args::Sandbox::Single) => Choice::Only(RungName::Single),
        Some(args::Sandbox::Pretended) => Choice::Only(RungName::Pretended),
        Some(args::Sandbox::Chroot) => Choice::Only(RungName::Chroot),
    }
}

pub(crate) const SIZE: &str = "expected a number of bytes, with k, m or g behind it if need be";

/// `64m` and the like (docker's units: powers of 1024).
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches('b');
    let (number, factor) = match digits.as_bytes().last()? {
        b'k' => (&digits[..digits.len() - 1], 1 << 10),
        b'm' => (&digits[..digits.len() - 1], 1 << 20),
        b'g' => (&digits[..digits.len() - 1], 1 << 30),
        _ => (digits, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// `90s`, `10m`, `2h`, or seconds.
fn timeout(text: &str) -> Result<u64, Problem> {
    let (number, factor) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| wrong("--step-timeout", text, "expected a time such as 90s, 10m or 2h"))
}

/// `HOST:IP` or `HOST=IP`, where the address may be in brackets.
fn add_host(text: &str) -> Result<(String, String), Problem> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = parts.ok_or_else(|| wrong("--add-host", text, "expected HOST:IP"))?;
    let address = if address == "host-gateway" { "127.0.0.1" } else { address.trim_matches(['[', ']']) };
    if name.is_empty() || name.contains(char::is_whitespace) || address.parse::<std::net::IpAddr>().is_err() {
        return Err(wrong("--add-host", text, "expected HOST:IP"));
    }
    Ok((name.to_owned(), address.to_owned()))
}

/// `NAME=SOFT[:HARD]`
fn ulimit(text: &str) -> Result<(String, u64, u64), Problem> {
    let limit = |value: &str| match value {
        "-1" | "unlimited" => Some(u64::MAX),
        value => value.parse().ok(),
    };
    let parse = || {
        let (name, values) = text.split_once('=')?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        Some((name.to_owned(), limit(soft)?, limit(hard)?))
    };
    let parsed = parse().ok_or_else(|| wrong("--ulimit", text, "expected NAME=SOFT[:HARD]"))?;
    if parsed.1 > parsed.2 {
        return Err(wrong("--ulimit", text, "the soft limit is above the hard one"));
    }
    Ok(parsed)
}

/// `id=ID[,src=FILE|env=NAME]`; with neither it is the variable, or else the file, called like the id.
fn secret(text: &str) -> Result<(String, Secret), Problem> {
    let (mut id, mut file, mut variable) = (None, None, None);
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("id", value)) => id = Some(value),
            Some(("src" | "source", value)) => file = Some(value),
            Some(("env", value)) => variable = Some(value),
            Some(("type", "file" | "env")) => {}
            _ => {
                return Err(wrong(
                    "--secret",
                    text,
                    format_args!("{field:?} is not known; expected id, src or env"),
                ));
            }
        }
    }
    let id = id.or_else(|| file.and_then(|file| Path::new(file).file_name()?.to_str()));
    let id = id.ok_or_else(|| wrong("--secret", text, "expected id=ID"))?;
    let of_variable = |name: &str| std::env::var_os(name).map(std::os::unix::ffi::OsStringExt::into_vec);
    let value = match (file, variable) {
        (Some(file), _) => std::fs::read(file).map_err(|error| wrong("--secret", text, error))?,
        (None, Some(name)) => {
            of_variable(name).ok_or_else(|| wrong("--secret", text, format_args!("{name} is not set")))?
        }
        (None, None) => match of_variable(id) {
            Some(value) => value,
            None => std::fs::read(id).map_err(|error| wrong("--secret", text, error))?,
        },
    };
    Ok((id.to_owned(), Secret(value)))
}

/// Where distributions keep what they trust (Go, crypto/x509/root_linux.go).
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
];

/// The certificates that this machine trusts, and those of the file: most programs take one bundle and no second.
fn ca_certificates(file: &Path) -> Result<Vec<u8>, Problem> {
    let failed = |why: &dyn std::fmt::Display| wrong("--ca-certificates", &file.display().to_string(), why);
    let lent = std::fs::read(file).map_err(|error| failed(&error))?;
    if !lent.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
        return Err(failed(&"expected certificates in PEM, which start with -----BEGIN CERTIFICATE-----"));
    }
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let bundles = named.into_iter().chain(SYSTEM_BUNDLES.iter().map(PathBuf::from));
    let mut bundle = bundles.into_iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    if bundle.last().is_some_and(|last| *last != b'\n') {
        bundle.push(b'\n');
    }
    bundle.extend(lent);
    Ok(bundle)
}

/// `default` or `ID[=SOCKET]`; without a socket it is SSH_AUTH_SOCK's.
fn ssh(text: &str) -> Result<(String, PathBuf), Problem> {
    use std::os::unix::fs::FileTypeExt;
    let (id, socket) = text.split_once('=').unwrap_or((text, ""));
    let socket = match socket {
        "" => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from).ok_or_else(|| {
            wrong("--ssh", text, "SSH_AUTH_SOCK is not set: start an agent, or name its socket")
        })?,
        socket => PathBuf::from(socket),
    };
    let metadata = std::fs::metadata(&socket).map_err(|error| wrong("--ssh", text, error))?;
    if !metadata.file_type().is_socket() {
        return Err(wrong(
            "--ssh",
            text,
            "expected the socket of an agent; add key files to one with ssh-add",
        ));
    }
    Ok((id.to_owned(), socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(bytes(text), expected, "{text}");
        check("1", Some(1));
        check("64m", Some(64 << 20));
        check("1GB", Some(1 << 30));
        check("2k", Some(2048));
        check("", None);
        check("m", None);
        check("-1", None);
        check("99999999999g", None);
    }

    #[test]
    fn hosts() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let got = add_host(text).ok();
            assert_eq!(
                got.as_ref().map(|(name, address)| (name.as_str(), address.as_str())),
                expected,
                "{text}"
            );
        };
        check("a:1.2.3.4", Some(("a", "1.2.3.4")));
        check("a=1.2.3.4", Some(("a", "1.2.3.4")));
        check("a:[::1]", Some(("a", "::1")));
        check("a:::1", Some(("a", "::1")));
        check("a", None);
        check(":1.2.3.4", None);
        check("a:b", None);
    }

    #[test]
    fn limits() {
        let check = |text: &str, expected: Option<(&str, u64, u64)>| {
            let got = ulimit(text).ok();
            assert_eq!(
                got.as_ref().map(|(name, soft, hard)| (name.as_str(), *soft, *hard)),
                expected,
                "{text}"
            );
        };
        check("nofile=10", Some(("nofile", 10, 10)));
        check("nofile=10:20", Some(("nofile", 10, 20)));
        check("core=-1", Some(("core", u64::MAX, u64::MAX)));
        check("nofile=20:10", None);
        check("nofile", None);
    }
}
