//! `--ca-certificates`: a bundle lent to RUN.
//!
//! It is a file in /dev, which is the sandbox's own and no part of the image, and programs are told of it by the variables that
//! they look at. A mount over the image's own bundle would stand in the way of packages that write it, and would have to be
//! made at a dozen paths. What ignores these variables (Java) does not trust the bundle. Like the addresses of hosts it says
//! where something is found and not what it is, so it enters no key.

use lithify_worker::{RunMount, RunMountKind};

use crate::settings::Settings;

const BUNDLE: &str = "/dev/ca-certificates.pem";
const APT: &str = "/dev/ca-certificates.apt";

/// OpenSSL and Go, curl, Python's requests and pip, git, Node.js, cargo, the AWS tools, Nix.
const VARIABLES: [&str; 9] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
];

/// The bundle, and a configuration of apt, which knows no variable for it.
pub(super) fn mounts(settings: &Settings) -> Vec<RunMount> {
    let file = |target: &str, content: Vec<u8>| RunMount {
        target: target.to_owned(),
        kind: RunMountKind::File { content, mode: 0o444, uid: 0, gid: 0 },
    };
    let Some(bundle) = &settings.ca_certificates else { return vec![] };
    let apt = format!("Acquire::https::CAInfo \"{BUNDLE}\";\n");
    vec![file(BUNDLE, bundle.clone()), file(APT, apt.into_bytes())]
}

/// Tells programs of the bundle; what the Dockerfile sets itself stays.
pub(super) fn add_variables(settings: &Settings, env: &mut Vec<(String, String)>) {
    if settings.ca_certificates.is_none() {
        return;
    }
    let lent = VARIABLES.iter().map(|name| (*name, BUNDLE)).chain([("APT_CONFIG", APT)]);
    for (name, value) in lent {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    }
}
