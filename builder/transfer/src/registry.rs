//! Registries (OCI distribution specification 1.1).

use std::collections::{BTreeMap, BTreeSet};

use lithify_oci::Reference;
use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};

use crate::credentials::Credentials;
use crate::error::Detail;
use crate::http::{self, Call, Http, Trust, Watch};
use crate::{Error, error::Reason};

mod auth;
mod endpoint;
mod pull;
mod push;

pub use crate::http::Patience;

use auth::Auth;
use endpoint::{Endpoint, Scheme};

/// How registries are spoken to.
#[derive(Clone, Debug)]
pub struct Config {
    /// For each registry, what is tried before it, in order: hosts, or URLs when the scheme or a path is to be named
    /// (the path goes before the repository's name). Mirrors only serve pulls.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts (with their ports) that may speak plain http or show certificates that nobody signed. Loopback hosts
    /// always may.
    pub insecure: BTreeSet<String>,
    /// Logins.
    pub credentials: Credentials,
    /// How the program calls itself.
    pub user_agent: String,
    /// Timeouts and retries.
    pub patience: Patience,
    /// How many blobs are pushed at once.
    pub parallel_uploads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mirrors: BTreeMap::new(),
            insecure: BTreeSet::new(),
            credentials: Credentials::default(),
            user_agent: concat!("lithify/", env!("CARGO_PKG_VERSION")).into(),
            patience: Patience::default(),
            parallel_uploads: 4,
        }
    }
}

/// Speaks to registries. Making one costs nothing; TLS is set up with the first request.
pub struct Client {
    config: Config,
    http: Http,
    auth: Auth,
    schemes: tokio::sync::Mutex<BTreeMap<String, Scheme>>,
    /// Mirrors that nobody answers at, which need not be tried for each layer.
    dead: tokio::sync::Mutex<BTreeSet<String>>,
}

/// One request to a registry.
struct Request<'a> {
    endpoint: &'a Endpoint,
    method: Method,
    url: Url,
    /// What may be done with which repository: `repository:library/alpine:pull`.
    scopes: &'a [String],
    /// For errors: `get the manifest latest of localhost:5000/app`.
    asked: &'a str,
    headers: Vec<(reqwest::header::HeaderName, HeaderValue)>,
    body: Body<'a>,
}

/// What a request carries.
enum Body<'a> {
    Empty,
    Bytes(&'a [u8]),
    /// Makes a body anew for each attempt. Whoever sends it watches that it gets on.
    Stream(&'a (dyn Fn() -> reqwest::Body + Sync)),
}

impl Client {
    /// A client; nothing is read, nothing connected.
    pub fn new(config: Config) -> Self {
        Client {
            http: Http::new(&config.user_agent, config.patience.clone()),
            auth: Auth::default(),
            schemes: tokio::sync::Mutex::new(BTreeMap::new()),
            dead: tokio::sync::Mutex::new(BTreeSet::new()),
            config,
        }
    }

    /// Sends a request with the login that its host wants. Every status below 400 is returned, every other is an error.
    async fn send(&self, request: &Request<'_>) -> Result<Response, Error> {
        let mut response = self.send_any(request).await?;
        if response.status().as_u16() < 400 {
            return Ok(response);
        }
        Err(self.refusal(&mut response, request).await)
    }

    /// Like [`Client::send`], but every answer other than 401 is returned.
    async fn send_any(&self, request: &Request<'_>) -> Result<Response, Error> {
        let endpoint = request.endpoint;
        // What a registry redirects uploads to is another's; our login is not for them.
        let is_own = request.url.host_str() == endpoint.base.host_str()
            && request.url.port_or_known_default() == endpoint.base.port_or_known_default()
            && request.url.scheme() == endpoint.base.scheme();
        if !is_own {
            return self.send_with(request, None).await;
        }
        let session = auth::Session { http: &self.http, credentials: &self.config.credentials, endpoint };
        let used = self.auth.header(&session, request.scopes, request.asked).await?;
        let response = self.send_with(request, used.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let headers = response.headers().clone();
        match self.auth.challenged(&session, &headers, request.scopes, used.as_ref(), request.asked).await? {
            Some(header) => self.send_with(request, Some(&header)).await,
            None => Ok(response),
        }
    }

    async fn send_with(
        &self,
        request: &Request<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Error> {
        let build = |client: &reqwest::Client| {
            let mut builder = client.request(request.method.clone(), request.url.clone());
            for (name, value) in &request.headers {
                builder = builder.header(name, value);
            }
            if let Some(authorization) = authorization {
                builder = builder.header(reqwest::header::AUTHORIZATION, authorization);
            }
            match &request.body {
                Body::Empty => builder,
                Body::Bytes(bytes) => builder.body(bytes.to_vec()),
                Body::Stream(make) => builder.body(make()),
            }
        };
        let call = request.endpoint.call(request.asked);
        if let Body::Stream(_) = request.body {
            let call = Call { watch: Watch::Caller, ..call };
            let sent = build(&self.http.client(&call)?).send().await;
            return sent.map_err(|error| self.http.unreachable(error, &call));
        }
        self.http.send(&call, &build).await
    }

    /// The error that a refusing answer stands for.
    async fn refusal(&self, response: &mut Response, request: &Request<'_>) -> Error {
        let status = response.status();
        let retry_after = http::retry_after(response.headers());
        let detail = http::detail(response).await;
        let (asked, registry) = (request.asked.to_owned(), request.endpoint.host.clone());
        match status.as_u16() {
            401 => self.unauthorized(request, detail).await,
            403 => Error::Denied { asked, registry, detail },
            404 => {
                let text = detail.0.to_ascii_lowercase();
                let missing = if text.contains("name_unknown") || text.contains("repository name not known") {
                    "no such repository"
                } else if request.url.path().contains("/manifests/sha256:") {
                    "no such digest"
                } else if request.url.path().contains("/manifests/") {
                    "no such tag"
                } else {
                    "no such blob"
                };
                Error::NotFound { asked, registry, missing, detail }
            }
            429 => Error::RateLimited { asked, registry, retry_after, detail },
            status => Error::Status { asked, host: registry, status, detail },
        }
    }

    async fn unauthorized(&self, request: &Request<'_>, detail: Detail) -> Error {
        let (asked, endpoint) = (request.asked.to_owned(), request.endpoint);
        let registry = endpoint.registry.clone();
        let login = self.config.credentials.find(&endpoint.registry, &endpoint.repository).await;
        match login {
            Err(error) => error,
            Ok(None) => Error::NoCredentials { asked, registry, detail },
            Ok(Some(_)) if self.auth.has_token(endpoint, request.scopes).await => {
                Error::Denied { asked, registry, detail }
            }
            Ok(Some(_)) => Error::BadCredentials { asked, registry, detail },
        }
    }

    /// The registry itself, last, and before it its mirrors.
    async fn sources(&self, reference: &Reference) -> Result<Vec<Endpoint>, Error> {
        let mirrors = self.config.mirrors.get(reference.registry());
        let dead = self.dead.lock().await;
        let mut endpoints = vec![];
        for mirror in mirrors.into_iter().flatten() {
            let endpoint = Endpoint::mirror(mirror, reference)?;
            if !dead.contains(&endpoint.host) {
                endpoints.push(endpoint);
            }
        }
        endpoints.push(Endpoint::registry(reference)?);
        Ok(endpoints)
    }

    async fn remember_dead(&self, endpoint: &Endpoint, error: &Error) {
        if let (Some(_), Error::Unreachable { .. }) = (&endpoint.mirror_of, error) {
            self.dead.lock().await.insert(endpoint.host.clone());
        }
    }

    /// Finds out whether the host speaks TLS where it need not, and sets scheme and trust accordingly.
    async fn settle(&self, endpoint: &mut Endpoint, asked: &str) -> Result<(), Error> {
        let lenient = endpoint.is_loopback() || self.config.insecure.contains(&endpoint.host);
        endpoint.trust = if lenient { Trust::Anyone } else { Trust::System };
        if !lenient || endpoint.scheme_was_named {
            return Ok(());
        }
        let mut schemes = self.schemes.lock().await;
        let scheme = match schemes.get(&endpoint.host) {
            Some(scheme) => *scheme,
            None => {
                let client = self.http.client(&endpoint.call(asked))?;
                let found =
                    match client.get(endpoint.api("")).send().await.map_err(|error| http::reason(&error)) {
                        Ok(_) | Err(Reason::Certificate | Reason::NoAuthorities) => Scheme::Https,
                        Err(Reason::Tls | Reason::Broken) => Scheme::Http,
                        // Neither will be spoken; the request itself will say so.
                        Err(Reason::Refused | Reason::Name | Reason::Timeout) => return Ok(()),
                    };
                schemes.insert(endpoint.host.clone(), found);
                found
            }
        };
        endpoint.set_scheme(scheme);
        Ok(())
    }
}

fn accept(types: &[&str]) -> (reqwest::header::HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&types.join(", ")).unwrap_or(HeaderValue::from_static("*/*"));
    (ACCEPT, value)
}

/// The scopes of one repository (distribution's token specification, "Resource Scope Grammar").
fn scope(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}

#[cfg(test)]
mod tests;
