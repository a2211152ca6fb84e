//! Logging in: basic, and tokens (distribution's token and OAuth2 specifications).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::endpoint::Endpoint;
use crate::Error;
use crate::credentials::{Credentials, Login};
use crate::http::{self, Call, Http};

/// How long a token lives when its issuer does not say (token specification, "expires_in").
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// Tokens are renewed this long before they end, so that they last until they arrive.
const MARGIN: Duration = Duration::from_secs(10);

/// The longest token answer in bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// What a host wants to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What is known about hosts, and the tokens in force.
#[derive(Default)]
pub(super) struct Auth {
    hosts: Mutex<HashMap<String, Known>>,
}

#[derive(Default)]
struct Known {
    challenge: Option<Challenge>,
    tokens: HashMap<Vec<String>, Token>,
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

/// What logging in needs.
pub(super) struct Session<'a> {
    pub(super) http: &'a Http,
    pub(super) credentials: &'a Credentials,
    pub(super) endpoint: &'a Endpoint,
}

impl Auth {
    /// The `Authorization` for a request, as far as the host's wishes are known.
    pub(super) async fn header(
        &self,
        session: &Session<'_>,
        scopes: &[String],
        asked: &str,
    ) -> Result<Option<HeaderValue>, Error> {
        // Held while a token is fetched, so that parallel requests share it.
        let mut hosts = self.hosts.lock().await;
        let known = hosts.entry(session.endpoint.host.clone()).or_default();
        match known.challenge.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => session.basic().await,
            Some(bearer) => known.token(session, &bearer, scopes, asked).await,
        }
    }

    /// After a 401: the `Authorization` to try next, `None` when there is nothing left to try.
    pub(super) async fn challenged(
        &self,
        session: &Session<'_>,
        headers: &HeaderMap,
        scopes: &[String],
        used: Option<&HeaderValue>,
        asked: &str,
    ) -> Result<Option<HeaderValue>, Error> {
        let mut hosts = self.hosts.lock().await;
        let known = hosts.entry(session.endpoint.host.clone()).or_default();
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = texts.flat_map(parse).collect();
        let is_bearer = |challenge: &&Challenge| matches!(challenge, Challenge::Bearer { .. });
        let Some(challenge) = challenges.iter().find(is_bearer).or(challenges.first()) else {
            return Ok(None);
        };
        known.challenge = Some(challenge.clone());
        if *challenge == Challenge::Basic {
            let header = session.basic().await?;
            return Ok(header.filter(|header| Some(header) != used));
        }
        // Another request may have renewed the token in the meantime.
        known.tokens.retain(|_, token| Some(&token.header) != used);
        known.token(session, challenge, scopes, asked).await
    }

    /// Whether a token for these scopes was given out: then the login was right.
    pub(super) async fn has_token(&self, endpoint: &Endpoint, scopes: &[String]) -> bool {
        self.hosts.lock().await.get(&endpoint.host).is_some_and(|known| known.tokens.contains_key(scopes))
    }
}

impl Known {
    async fn token(
        &mut self,
        session: &Session<'_>,
        challenge: &Challenge,
        scopes: &[String],
        asked: &str,
    ) -> Result<Option<HeaderValue>, Error> {
        if let Some(token) = self.tokens.get(scopes).filter(|token| token.until > Instant::now()) {
            return Ok(Some(token.header.clone()));
        }
        let Challenge::Bearer { realm, service, scope } = challenge else { return Ok(None) };
        let mut wanted = scopes.to_vec();
        wanted
            .extend(scope.iter().filter(|_| scopes.is_empty()).flat_map(|s| s.split(' ')).map(str::to_owned));
        let token = session.fetch_token(realm, service.as_deref(), &wanted, asked).await?;
        let header = token.header.clone();
        self.tokens.insert(scopes.to_vec(), token);
        Ok(Some(header))
    }
}

impl Session<'_> {
    async fn login(&self) -> Result<Option<Login>, Error> {
        self.credentials.find(&self.endpoint.registry, &self.endpoint.repository).await
    }

    async fn basic(&self) -> Result<Option<HeaderValue>, Error> {
        Ok(match self.login().await? {
            Some(Login::Password { user, password }) => basic_header(&user, password.reveal()),
            Some(Login::IdentityToken(_)) | None => None,
        })
    }

    async fn fetch_token(
        &self,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        asked: &str,
    ) -> Result<Token, Error> {
        let endpoint = self.endpoint;
        let invalid =
            |problem: String| Error::malformed(format!("the login service of {}", endpoint.host), problem);
        let mut url = Url::parse(realm).map_err(|error| invalid(format!("realm {realm:?}: {error}")))?;
        let login = self.login().await?;
        // A password that went to the registry encrypted must not go on in the clear.
        if login.is_some() && url.scheme() != "https" && endpoint.base.scheme() == "https" {
            return Err(invalid(format!("{realm} is not encrypted; no password is sent there")));
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut form = None;
        match &login {
            Some(Login::IdentityToken(token)) => form = Some(refresh_form(token.reveal(), service, scopes)),
            Some(Login::Password { .. }) | None => {
                let mut query = url.query_pairs_mut();
                service.iter().for_each(|service| _ = query.append_pair("service", service));
                scopes.iter().for_each(|scope| _ = query.append_pair("scope", scope));
            }
        }
        let header = match &login {
            Some(Login::Password { user, password }) => basic_header(user, password.reveal()),
            _ => None,
        };
        let build = |client: &reqwest::Client| match (&form, &header) {
            (Some(form), _) => client
                .post(url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.clone()),
            (None, Some(header)) => client.get(url.clone()).header(AUTHORIZATION, header),
            (None, None) => client.get(url.clone()),
        };
        let call = Call { is_loopback: http::is_loopback(&url), host: &host, ..endpoint.call(asked) };
        let mut response = self.http.send(&call, &build).await?;
        let status = response.status().as_u16();
        if status >= 300 {
            let detail = http::detail(&mut response).await;
            let (asked, registry) = (asked.to_owned(), endpoint.registry.clone());
            return Err(match (status, login) {
                (400 | 401 | 403, None) => Error::NoCredentials { asked, registry, detail },
                (400 | 401, Some(_)) => Error::BadCredentials { asked, registry, detail },
                (403, Some(_)) => Error::Denied { asked, registry, detail },
                (429, _) => {
                    let retry_after = http::retry_after(response.headers());
                    Error::RateLimited { asked, registry, retry_after, detail }
                }
                (status, _) => Error::Status { asked, host, status, detail },
            });
        }
        let bytes = http::body(&mut response, MAX_TOKEN_BYTES).await.ok().flatten().unwrap_or_default();
        read_token(&bytes).ok_or_else(|| invalid("its answer holds no token".into()))
    }
}

fn read_token(body: &[u8]) -> Option<Token> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let text = answer.token.filter(|token| !token.is_empty()).or(answer.access_token)?;
    let mut header = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
    header.set_sensitive(true);
    let life =
        answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs).clamp(DEFAULT_LIFE, DEFAULT_LIFE * 600);
    Some(Token { header, until: Instant::now() + (life - MARGIN) })
}

fn basic_header(user: &str, password: &str) -> Option<HeaderValue> {
    let mut header =
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The body of a request for a token by an identity token (OAuth2 specification, "refresh_token").
fn refresh_form(token: &str, service: Option<&str>, scopes: &[String]) -> String {
    let Ok(mut url) = Url::parse("form:/") else { return String::new() };
    url.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .append_pair("service", service.unwrap_or_default())
        .append_pair("client_id", "lithify")
        .append_pair("scope", &scopes.join(" "))
        .append_pair("refresh_token", token);
    url.query().unwrap_or_default().to_owned()
}

/// Reads `WWW-Authenticate` (RFC 9110, 11.6.1): schemes with parameters, several of them separated by commas.
pub(super) fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, HashMap<String, String>)> = vec![];
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t']);
        let end = rest.find([' ', ',', '=', '\t']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = parameter(value.trim_start_matches([' ', '\t']));
                parameters.insert(word.to_ascii_lowercase(), value);
                rest = after;
            }
            (Some(_), None) => break,
            (None, _) => {
                found.push((word.to_ascii_lowercase(), HashMap::new()));
                rest = after;
            }
        }
    }
    found.into_iter().filter_map(|(scheme, parameters)| challenge(&scheme, parameters)).collect()
}

/// A token or a quoted string, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

fn challenge(scheme: &str, mut parameters: HashMap<String, String>) -> Option<Challenge> {
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service"),
            scope: parameters.remove("scope"),
        }),
        _ => None,
    }
}
