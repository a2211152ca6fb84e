//! A registry that asks for tokens: a small proxy before a [`Registry`] that also writes down every request.
//!
//! It follows the distribution project's token specification: 401 with `WWW-Authenticate: Bearer realm=…`, then
//! `GET realm?service=…&scope=…` with basic authentication, then the request again with `Authorization: Bearer …`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::registry::respond;
use crate::{Login, Registry};

/// A request as the proxy saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The status that the proxy itself answered with; `None` when the registry answered.
    pub refused: Option<u16>,
}

/// A registry behind a proxy that lets pass only what carries a token.
#[derive(Debug)]
pub struct TokenRegistry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Ends with the last thread that uses it.
    registry: Registry,
    address: String,
    login: Option<Login>,
    requests: Mutex<Vec<Request>>,
}

impl TokenRegistry {
    /// A registry that gives tokens to those who log in, and to nobody else.
    ///
    /// # Errors
    /// Why none can be started.
    pub fn with_login(login: Login) -> Result<Self, String> {
        Self::start(Some(login))
    }

    /// A registry that gives tokens to everybody, as public ones do.
    ///
    /// # Errors
    /// Why none can be started.
    pub fn anonymous() -> Result<Self, String> {
        Self::start(None)
    }

    fn start(login: Option<Login>) -> Result<Self, String> {
        let registry = Registry::open()?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|err| err.to_string())?;
        let address = listener.local_addr().map_err(|err| err.to_string())?.to_string();
        let shared = Arc::new(Shared { registry, address, login, requests: Mutex::default() });
        let weak = Arc::downgrade(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Some(shared) = weak.upgrade() else { return };
                thread::spawn(move || {
                    // A client that hangs up is its own affair.
                    let _ = shared.serve(client);
                });
            }
        });
        Ok(Self { shared })
    }

    /// `127.0.0.1:PORT` of the proxy.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// A reference below this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// The registry behind, which asks for nothing.
    pub fn behind(&self) -> &Registry {
        &self.shared.registry
    }

    /// What was asked for since the last call.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for TokenRegistry {
    fn drop(&mut self) {
        // Wakes the accepting thread, which finds nobody left to serve. A connection that is still open holds the
        // registry until its client goes.
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            let address = shared.address.clone();
            drop(shared);
            let _ = TcpStream::connect(address);
        });
    }
}

/// One request's first line and headers.
struct Head {
    method: String,
    path: String,
    lines: Vec<String>,
}

impl Head {
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let first = lines.first().cloned().unwrap_or_default();
        let mut words = first.split(' ').map(str::to_owned);
        Ok(Some(Self {
            method: words.next().unwrap_or_default(),
            path: words.next().unwrap_or_default(),
            lines: lines.split_off(1.min(lines.len())),
        }))
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        let pairs = self.lines.iter().filter_map(|line| line.split_once(':'));
        pairs.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).next()
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut from_client = BufReader::new(client.try_clone()?);
        let Some(head) = Head::read(&mut from_client)? else { return Ok(()) };
        let refused = self.answer(&head, &mut client)?;
        let request = Request { method: head.method.clone(), path: head.path.clone(), refused };
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        if refused.is_none() {
            self.forward(&head, from_client, &mut client)?;
        }
        client.shutdown(Shutdown::Write)?;
        // Closing while the client still sends would throw away the answer.
        client.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        io::copy(&mut client, &mut io::sink()).map(drop)
    }

    /// Answers what the registry behind must not see; says with which status.
    fn answer(&self, head: &Head, client: &mut TcpStream) -> io::Result<Option<u16>> {
        let token = format!("Bearer {}", self.token());
        if head.path.starts_with("/token") {
            let expected = self.login.map(|login| format!("Basic {}", login.encoded()));
            if expected.is_some() && head.header("authorization") != expected.as_deref() {
                respond(client, "401 Unauthorized", &[], r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)?;
                return Ok(Some(401));
            }
            let body = serde_json::json!({ "token": self.token(), "expires_in": 300 }).to_string();
            respond(client, "200 OK", &[("Content-Type", "application/json")], &body)?;
            return Ok(Some(200));
        }
        if head.header("authorization") == Some(token.as_str()) {
            return Ok(None);
        }
        let challenge = format!(
            r#"Bearer realm="http://{}/token",service="testkit",scope="{}""#,
            self.address,
            scope(&head.path)
        );
        let headers =
            [("WWW-Authenticate", challenge.as_str()), ("Docker-Distribution-Api-Version", "registry/2.0")];
        let body = if head.method == "HEAD" { "" } else { r#"{"errors":[{"code":"UNAUTHORIZED"}]}"# };
        respond(client, "401 Unauthorized", &headers, body)?;
        Ok(Some(401))
    }

    fn token(&self) -> String {
        format!("testkit-{}", self.address.replace(['.', ':'], "-"))
    }

    fn forward(&self, head: &Head, mut body: BufReader<TcpStream>, client: &mut TcpStream) -> io::Result<()> {
        let mut upstream = TcpStream::connect(self.registry.address())?;
        write!(upstream, "{} {} HTTP/1.1\r\nConnection: close\r\n", head.method, head.path)?;
        for line in &head.lines {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if !matches!(name.as_str(), "connection" | "authorization") {
                write!(upstream, "{line}\r\n")?;
            }
        }
        upstream.write_all(b"\r\n")?;
        let mut to_upstream = upstream.try_clone()?;
        let length = head.header("content-length").and_then(|text| text.parse().ok());
        let is_chunked = head.header("transfer-encoding").is_some();
        thread::spawn(move || {
            let most = if is_chunked { u64::MAX } else { length.unwrap_or(0) };
            // The registry may answer, and hang up, before it has read all.
            let _ = io::copy(&mut (&mut body).take(most), &mut to_upstream);
        });
        io::copy(&mut upstream, client).map(drop)
    }
}

/// The scope that a request needs, as registries name it.
fn scope(path: &str) -> String {
    let rest = path.split('?').next().unwrap_or_default().trim_start_matches("/v2/");
    let end =
        ["/manifests/", "/blobs/", "/tags/", "/referrers/"].iter().filter_map(|part| rest.find(part)).min();
    end.map_or_else(String::new, |end| format!("repository:{}:pull,push", &rest[..end]))
}
