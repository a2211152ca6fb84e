//! HTTP underneath everything: TLS with the system's authorities, timeouts, retries.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_RANGE, HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};

use crate::Error;
use crate::error::{Detail, Reason};

/// How long to wait for what, and how often to try.
#[derive(Clone, Debug)]
pub struct Patience {
    /// How often one request is tried in all.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause, also where the server asks for a longer one: then the request fails instead.
    pub longest_pause: Duration,
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// How long a server may be silent.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            attempts: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            connect: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// The pause before the next try, `None` when it is time to give up. `attempt` counts from 1.
    pub(crate) fn pause(&self, attempt: u32, retry_after: Option<Duration>) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doubled = self.first_pause.saturating_mul(1 << (attempt - 1).min(16)).min(self.longest_pause);
        let pause = retry_after.unwrap_or_default().max(doubled);
        (pause <= self.longest_pause).then_some(pause)
    }
}

/// Whose certificates are accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Trust {
    /// Those signed by the system's authorities.
    System,
    /// Any: loopback hosts, and those the user called insecure.
    Anyone,
}

/// Who is spoken to, how, and what for.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) trust: Trust,
    /// Whether the host is this machine, which is never asked for through a proxy.
    pub(crate) is_loopback: bool,
    /// For errors.
    pub(crate) host: &'a str,
    /// For errors: `get the manifest latest of localhost:5000/app`.
    pub(crate) asked: &'a str,
    /// How often to try at most.
    pub(crate) attempts: u32,
    /// Who notices that the server is silent.
    pub(crate) watch: Watch,
}

/// Who notices that the server is silent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Watch {
    /// The client, by [`Patience::silence`].
    Client,
    /// The caller: while a long body is sent, a server has nothing to say.
    Caller,
}

/// Whether a URL's host is this machine: `localhost`, 127.0.0.0/8 or ::1.
pub(crate) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A client, and whether it knows any certificate authority.
type Made = (reqwest::Client, bool);

/// The HTTP clients, made when they are first needed: loading the system's authorities takes milliseconds that a
/// cached build must not pay.
pub(crate) struct Http {
    user_agent: String,
    pub(crate) patience: Patience,
    clients: Mutex<BTreeMap<(Trust, bool, Watch), Made>>,
}

impl Http {
    pub(crate) fn new(user_agent: &str, patience: Patience) -> Self {
        Http { user_agent: user_agent.into(), patience, clients: Mutex::default() }
    }

    pub(crate) fn client(&self, call: &Call<'_>) -> Result<reqwest::Client, Error> {
        self.made(call).map(|(client, _)| client)
    }

    fn made(&self, call: &Call<'_>) -> Result<Made, Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (call.trust, call.is_loopback, call.watch);
        if let Some(made) = clients.get(&key) {
            return Ok(made.clone());
        }
        // An error means that another part of the program chose a provider before, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(&self.user_agent)
                .connect_timeout(self.patience.connect)
                .tls_danger_accept_invalid_certs(call.trust == Trust::Anyone);
            let builder = if call.is_loopback { builder.no_proxy() } else { builder };
            match call.watch {
                Watch::Client => builder.read_timeout(self.patience.silence),
                Watch::Caller => builder,
            }
        };
        // A system without any authorities can still speak plain http; https then fails with its own reason.
        let made = match builder().build() {
            Ok(client) => Ok((client, true)),
            Err(_) => builder().tls_certs_only([]).build().map(|client| (client, false)),
        };
        let made = made.map_err(|source| Error::Unreachable {
            asked: call.asked.into(),
            host: call.host.into(),
            reason: Reason::Tls,
            source: source.into(),
        })?;
        clients.insert(key, made.clone());
        Ok(made)
    }

    pub(crate) fn unreachable(&self, error: reqwest::Error, call: &Call<'_>) -> Error {
        let has_authorities = self.made(call).is_ok_and(|(_, has)| has);
        let reason = match reason(&error) {
            Reason::Certificate if !has_authorities => Reason::NoAuthorities,
            reason => reason,
        };
        let (asked, host) = (call.asked.into(), call.host.into());
        // URLs of redirects can carry signatures that are as good as passwords.
        Error::Unreachable { asked, host, reason, source: error.without_url().into() }
    }

    /// Sends a request, again and again while the failure is one that passes. The answer can have any status.
    pub(crate) async fn send(
        &self,
        call: &Call<'_>,
        build: &(dyn Fn(&reqwest::Client) -> RequestBuilder + Sync),
    ) -> Result<Response, Error> {
        let client = self.client(call)?;
        for attempt in 1.. {
            let (pause, outcome) = match build(&client).send().await {
                Ok(response) if passes(response.status()) => {
                    (self.patience.pause(attempt, retry_after(response.headers())), Ok(response))
                }
                Ok(response) => return Ok(response),
                Err(error) => {
                    let error = self.unreachable(error, call);
                    (self.patience.pause(attempt, None).filter(|_| is_transient(&error)), Err(error))
                }
            };
            match pause.filter(|_| attempt < call.attempts) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return outcome,
            }
        }
        unreachable!("the loop ends by returning")
    }
}

/// Whether a status is likely to be another one in a moment.
pub(crate) fn passes(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Whether trying again can help.
pub(crate) fn is_transient(error: &Error) -> bool {
    match error {
        Error::Unreachable { reason, .. } => matches!(reason, Reason::Timeout | Reason::Broken),
        Error::RateLimited { .. } => true,
        Error::Status { status, .. } => StatusCode::from_u16(*status).is_ok_and(passes),
        _ => false,
    }
}

/// Why a request got no answer.
pub(crate) fn reason(error: &reqwest::Error) -> Reason {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    let mut found = None;
    while let Some(cause) = next {
        match cause.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_)) => return Reason::Certificate,
            Some(_) => return Reason::Tls,
            None => {}
        }
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return Reason::Refused,
            Some(io::ErrorKind::TimedOut) => return Reason::Timeout,
            Some(
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe,
            ) => {
                found = Some(Reason::Broken);
            }
            _ => {}
        }
        if cause.to_string().contains("dns error") {
            return Reason::Name;
        }
        // `source` of an I/O error passes over the error that it wraps.
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    if error.is_timeout() { Reason::Timeout } else { found.unwrap_or(Reason::Broken) }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    http_date(text).map(|at| Duration::from_secs(at.saturating_sub(now)))
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7, the preferred form).
pub(crate) fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month_name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == month_name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    if words.next()? != "GMT" || !(1..=31).contains(&day) || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    // Days since 1970-01-01, counting years from March (Hinnant, "days_from_civil").
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    (days * 86_400 + hours * 3_600 + minutes * 60 + seconds).checked_sub(719_468 * 86_400)
}

/// The first byte that an answer to a `Range` request holds.
pub(crate) fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// At most `limit_bytes` of a body; `None` where it is longer.
pub(crate) async fn body(response: &mut Response, limit_bytes: u64) -> reqwest::Result<Option<Vec<u8>>> {
    let mut bytes = vec![];
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() as u64 + chunk.len() as u64 > limit_bytes {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// What the other side says about a refusal: the errors of the distribution specification, or the start of any text.
pub(crate) async fn detail(response: &mut Response) -> Detail {
    let bytes = body(response, 64 << 10).await.ok().flatten().unwrap_or_default();
    Detail(explain(&bytes))
}

pub(crate) fn explain(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) => {
            let lines: Vec<String> = errors
                .iter()
                .map(|error| match (error.code.as_str(), error.message.as_str()) {
                    (code, "") => code.to_owned(),
                    ("", message) => message.to_owned(),
                    (code, message) => format!("{message} ({code})"),
                })
                .collect();
            lines.join(", ")
        }
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let is_page = text.trim_start().starts_with('<');
    if is_page { String::new() } else { text.chars().filter(|c| !c.is_control()).take(300).collect() }
}
