//! One file by HTTP(S).

use lithify_oci::{Blobs, Digest};
use reqwest::header::{
    AUTHORIZATION, CONTENT_DISPOSITION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode, Url};

use crate::blob::Writer;
use crate::credentials::Secret;
use crate::http::{self, Call, Http, Patience, Trust, Watch};
use crate::{Error, Progress};

/// What is known of the file from the last time, and how to be let in.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// The `ETag` that the file had.
    pub etag: Option<String>,
    /// The `Last-Modified` that the file had.
    pub last_modified: Option<String>,
    /// The value of `Authorization`, such as `Bearer …`; not sent on to other hosts.
    pub authorization: Option<Secret>,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The file is the one that the conditions describe.
    NotModified,
    /// The file, which is in the store now.
    File(File),
}

/// A file that was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The digest of its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// To ask with the next time.
    pub etag: Option<String>,
    /// To ask with the next time.
    pub last_modified: Option<String>,
    /// `last_modified` in seconds since 1970.
    pub modified_unix_seconds: Option<u64>,
    /// What the server calls it, else the last part of the URL, else `download` (BuildKit's http source). ADD takes
    /// [`add_file_name`] instead.
    pub file_name: String,
}

/// Downloads files. Making one costs nothing; TLS is set up with the first download.
pub struct Downloads {
    http: Http,
}

/// Downloads one file with everything at its default; see [`Downloads::fetch`].
///
/// # Errors
/// As [`Downloads::fetch`].
pub async fn fetch(url: &str, conditions: &Conditions, blobs: &dyn Blobs) -> Result<Fetched, Error> {
    let user_agent = concat!("lithify/", env!("CARGO_PKG_VERSION"));
    Downloads::new(user_agent, Patience::default()).fetch(url, conditions, blobs, &()).await
}

impl Downloads {
    /// Nothing is connected yet.
    pub fn new(user_agent: &str, patience: Patience) -> Self {
        Downloads { http: Http::new(user_agent, patience) }
    }

    /// Downloads a file into the store, following redirects and the proxies named in the environment. A transfer that
    /// breaks goes on where it stopped if the server can say that the file is still the same, else starts over.
    ///
    /// # Errors
    /// [`Error::Address`] for anything but http and https, [`Error::Unreachable`], [`Error::Status`], [`Error::Store`].
    pub async fn fetch(
        &self,
        url: &str,
        conditions: &Conditions,
        blobs: &dyn Blobs,
        progress: &dyn Progress,
    ) -> Result<Fetched, Error> {
        let parsed = parse(url)?;
        let asked = format!("download {}", shown(&parsed));
        let host = parsed.host_str().unwrap_or_default().to_owned();
        let is_loopback = http::is_loopback(&parsed);
        let call = Call {
            trust: Trust::System,
            is_loopback,
            host: &host,
            asked: &asked,
            attempts: u32::MAX,
            watch: Watch::Client,
        };
        let mut first = HeaderMap::new();
        let mut set = |name: HeaderName, value: Option<&str>| {
            if let Some(mut value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                value.set_sensitive(name == AUTHORIZATION);
                first.insert(name, value);
            }
        };
        set(AUTHORIZATION, conditions.authorization.as_ref().map(Secret::reveal));
        set(IF_NONE_MATCH, conditions.etag.as_deref());
        set(IF_MODIFIED_SINCE, conditions.last_modified.as_deref());
        let mut writer = Writer::create(blobs)?;
        let mut etag: Option<HeaderValue> = None;
        for attempt in 1.. {
            let mut headers = first.clone();
            let resumed = etag.clone().filter(|_| writer.written_bytes > 0);
            if let Some(etag) = &resumed {
                headers.remove(IF_NONE_MATCH);
                headers.remove(IF_MODIFIED_SINCE);
                headers.insert(IF_RANGE, etag.clone());
                headers.extend(
                    HeaderValue::from_str(&format!("bytes={}-", writer.written_bytes)).map(|v| (RANGE, v)),
                );
            }
            let build = |client: &reqwest::Client| client.get(parsed.clone()).headers(headers.clone());
            let mut response = self.http.send(&call, &build).await?;
            match response.status() {
                StatusCode::NOT_MODIFIED if resumed.is_none() => return Ok(Fetched::NotModified),
                StatusCode::PARTIAL_CONTENT
                    if resumed.is_some()
                        && http::range_start(response.headers()) == Some(writer.written_bytes) => {}
                status if status.is_success() && status != StatusCode::PARTIAL_CONTENT => {
                    if writer.written_bytes > 0 {
                        progress.rewind(writer.written_bytes);
                        writer = Writer::create(blobs)?;
                    }
                }
                status => {
                    let detail = http::detail(&mut response).await;
                    return Err(Error::Status { asked, host, status: status.as_u16(), detail });
                }
            }
            etag = response.headers().get(ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/")).cloned();
            let Err(error) = receive(&mut response, &mut writer, progress).await? else {
                return finish(&response, &parsed, writer, &asked).await.map(Fetched::File);
            };
            let error = self.http.unreachable(error, &call);
            match self.http.patience.pause(attempt, None).filter(|_| http::is_transient(&error)) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
        unreachable!("the loop ends by returning")
    }
}

/// The outer error is the store's, the inner the network's.
async fn receive(
    response: &mut Response,
    writer: &mut Writer,
    progress: &dyn Progress,
) -> Result<reqwest::Result<()>, Error> {
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                progress.advance(chunk.len() as u64);
                writer.write(chunk).await?;
            }
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        }
    }
}

async fn finish(response: &Response, url: &Url, writer: Writer, asked: &str) -> Result<File, Error> {
    let (digest, size_bytes) = writer.commit(None, asked).await?;
    let text = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
    let last_modified = text(LAST_MODIFIED);
    let disposition = text(CONTENT_DISPOSITION).and_then(disposition_name);
    Ok(File {
        digest,
        size_bytes,
        etag: text(ETAG).map(str::to_owned),
        last_modified: last_modified.map(str::to_owned),
        modified_unix_seconds: last_modified.and_then(http::http_date),
        file_name: disposition.or_else(|| path_name(url)).unwrap_or_else(|| "download".into()),
    })
}

fn parse(url: &str) -> Result<Url, Error> {
    let problem = |problem: String| Error::Address { url: url.into(), problem };
    let parsed = Url::parse(url).map_err(|error| problem(error.to_string()))?;
    match parsed.scheme() {
        "http" | "https" => Ok(parsed),
        _ => Err(Error::Address { url: shown(&parsed), problem: "expected http:// or https://".into() }),
    }
}

/// The URL without a password.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // A user name without a password is a token more often than not.
    if url.password().is_some() {
        let _ = url.set_password(Some("xxxxx"));
    } else if !url.username().is_empty() {
        let _ = url.set_username("xxxxx");
    }
    url.to_string()
}

/// The name that `ADD URL` gives the file: the last part of the URL's path, `__unnamed__` where there is none.
///
/// # Errors
/// [`Error::Address`] for what is no URL.
pub fn add_file_name(url: &str) -> Result<String, Error> {
    Ok(path_name(&parse(url)?).unwrap_or_else(|| "__unnamed__".into()))
}

/// The last part of the path, percent-decoded; `None` where there is none or it cannot be a file's name.
fn path_name(url: &Url) -> Option<String> {
    let last = url.path().trim_end_matches('/').rsplit('/').next()?;
    safe_name(&percent_decoded(last.as_bytes())?)
}

fn percent_decoded(text: &[u8]) -> Option<String> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = vec![];
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// The base of a name that a server chose; a folder is no name.
fn safe_name(name: &str) -> Option<String> {
    let base = name.rsplit('/').next()?;
    (!matches!(base, "" | "." | "..") && !base.contains('\0')).then(|| base.to_owned())
}

/// `filename` of `Content-Disposition` (RFC 6266), also in its encoded form, which leads.
fn disposition_name(text: &str) -> Option<String> {
    let mut plain = None;
    let mut rest = text.split_once(';')?.1;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, following) = match after.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let (value, following) = after.split_once(';').unwrap_or((after, ""));
                (value.trim().to_owned(), following)
            }
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                let encoded =
                    value.split_once('\'').filter(|(charset, _)| charset.eq_ignore_ascii_case("utf-8"));
                let encoded = encoded.and_then(|(_, rest)| rest.split_once('\'')).map(|(_, text)| text);
                if let Some(name) = encoded.and_then(|text| percent_decoded(text.as_bytes())) {
                    return safe_name(&name);
                }
            }
            "filename" => plain = safe_name(&value),
            _ => {}
        }
        rest = following.trim_start_matches([';', ' ']);
    }
    plain
}

fn quoted_string(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests;
