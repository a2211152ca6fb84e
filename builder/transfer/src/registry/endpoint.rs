//! Where the repositories of a registry are reached.

use lithify_oci::Reference;
use reqwest::Url;

use crate::Error;
use crate::http::{self, Call, Trust, Watch};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// One repository at one host: the registry's own, or a mirror's.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// Scheme, host and port, with the path `/`.
    pub(super) base: Url,
    /// Host and port as the user wrote them.
    pub(super) host: String,
    /// What logins are looked up by: as `host`, but Docker Hub is `docker.io`.
    pub(super) registry: String,
    /// The repository as this host calls it.
    pub(super) repository: String,
    /// The registry that a mirror stands for; some mirrors serve many and want to be told.
    pub(super) mirror_of: Option<String>,
    pub(super) scheme_was_named: bool,
    pub(super) trust: Trust,
}

impl Endpoint {
    pub(super) fn registry(reference: &Reference) -> Result<Self, Error> {
        let registry = reference.registry();
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        Ok(Endpoint {
            base: base(&format!("https://{host}"), host)?,
            host: host.into(),
            registry: registry.into(),
            repository: reference.repository().into(),
            mirror_of: None,
            scheme_was_named: false,
            trust: Trust::System,
        })
    }

    pub(super) fn mirror(mirror: &str, reference: &Reference) -> Result<Self, Error> {
        let (scheme, rest) = mirror.split_once("://").unwrap_or(("", mirror));
        let (host, path) =
            rest.trim_end_matches('/').split_once('/').unwrap_or((rest.trim_end_matches('/'), ""));
        // Some write the API's own prefix as part of the address.
        let prefix = match path {
            "v2" => "",
            path => path.strip_prefix("v2/").unwrap_or(path),
        };
        let repository = match prefix {
            "" => reference.repository().to_owned(),
            prefix => format!("{prefix}/{}", reference.repository()),
        };
        Ok(Endpoint {
            base: base(&format!("{}://{host}", if scheme.is_empty() { "https" } else { scheme }), mirror)?,
            host: host.into(),
            registry: host.into(),
            repository,
            mirror_of: Some(reference.registry().into()),
            scheme_was_named: !scheme.is_empty(),
            trust: Trust::System,
        })
    }

    /// A call to this host.
    pub(super) fn call<'a>(&'a self, asked: &'a str) -> Call<'a> {
        // There is somebody else to ask when a mirror is slow.
        let attempts = if self.mirror_of.is_some() { 2 } else { u32::MAX };
        let (trust, is_loopback) = (self.trust, self.is_loopback());
        Call { trust, is_loopback, host: &self.host, asked, attempts, watch: Watch::Client }
    }

    pub(super) fn is_loopback(&self) -> bool {
        http::is_loopback(&self.base)
    }

    pub(super) fn set_scheme(&mut self, scheme: Scheme) {
        let name = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        // Both schemes are "special" ones, between which changing is always allowed.
        let _ = self.base.set_scheme(name);
    }

    /// An address of the API: `/v2/` and `path`.
    pub(super) fn api(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{path}"));
        if let Some(registry) = &self.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        url
    }

    /// An address in the repository: `manifests/latest`.
    pub(super) fn in_repository(&self, path: &str) -> Url {
        self.api(&format!("{}/{path}", self.repository))
    }
}

fn base(url: &str, written: &str) -> Result<Url, Error> {
    let problem = |problem: &str| Error::Address { url: written.into(), problem: problem.into() };
    let url = Url::parse(url).map_err(|error| problem(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(problem("expected http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Address {
            url: "mirror".into(),
            problem: "logins belong in docker's configuration".into(),
        });
    }
    Ok(url)
}
