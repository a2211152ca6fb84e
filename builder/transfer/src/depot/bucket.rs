//! A bucket of an object store that speaks Amazon's S3: GET, HEAD and PUT of single objects, with signed addresses
//! (AWS Signature Version 4, "Authenticating Requests: Using Query Parameters").

use std::time::Duration;

use lithify_oci::{Blobs, Descriptor};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode, Url};
use rusty_s3::{Credentials, S3Action, UrlStyle};
use tokio::sync::mpsc;

use crate::blob::{self, Writer};
use crate::http::{self, Call, Http, Patience, Trust, Watch};
use crate::image::MAX_MANIFEST_BYTES;
use crate::{Error, Secret};

/// How long a signed address is valid: longer than any pause between two tries.
const VALID: Duration = Duration::from_secs(3600);

/// What a slow connection brings at least, for the time that an upload may take.
const SLOW_BYTES_PER_SECOND: u64 = 64 << 10;

/// Where the objects are, and who asks for them.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    /// The bucket's name.
    pub bucket: String,
    /// The region that signatures are made for, such as `eu-central-1`.
    pub region: String,
    /// The server, where it is not Amazon's: `http://127.0.0.1:9000`.
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path of addresses, rather than in their host name.
    pub path_style: bool,
    /// The name of the key, the key, and for temporary ones the token that goes with it. `None` signs nothing.
    pub login: Option<(String, Secret, Option<Secret>)>,
    /// What the names of all objects begin with.
    pub blobs_prefix: String,
    /// The whole name of the object that holds the manifest.
    pub manifest: String,
    /// How the program calls itself.
    pub user_agent: String,
}

/// A bucket, and the name of a manifest in it.
pub struct Bucket {
    config: BucketConfig,
    bucket: rusty_s3::Bucket,
    credentials: Option<Credentials>,
    host: String,
    is_loopback: bool,
    http: Http,
}

impl Bucket {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Address`] for an endpoint that is no http address.
    pub fn new(config: BucketConfig) -> Result<Self, Error> {
        let written =
            config.endpoint.clone().unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", config.region));
        let wrong = |problem: String| Error::Address { url: written.clone(), problem };
        let url = Url::parse(&written).map_err(|error| wrong(error.to_string()))?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let is_loopback = http::is_loopback(&url);
        let style = if config.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = rusty_s3::Bucket::new(url, style, config.bucket.clone(), config.region.clone());
        let bucket = bucket.map_err(|error| wrong(error.to_string()))?;
        let credentials = config.login.as_ref().map(|(key, secret, token)| match token {
            Some(token) => Credentials::new_with_token(key, secret.reveal(), token.reveal()),
            None => Credentials::new(key, secret.reveal()),
        });
        let http = Http::new(&config.user_agent, Patience::default());
        Ok(Bucket { config, bucket, credentials, host, is_loopback, http })
    }

    /// The manifest; `None` where there is no such object.
    ///
    /// # Errors
    /// Any of the network's.
    pub async fn manifest(&self) -> Result<Option<Vec<u8>>, Error> {
        let name = &self.config.manifest;
        let asked = format!("get {name} of the bucket {}", self.config.bucket);
        let url = self.bucket.get_object(self.credentials.as_ref(), name).sign(VALID);
        let mut response = self.send(Method::GET, &url, &asked).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.accept(&mut response, &asked).await?;
        let body = http::body(&mut response, MAX_MANIFEST_BYTES).await;
        let body = body.map_err(|error| self.http.unreachable(error, &self.call(&asked)))?;
        body.map(Some).ok_or_else(|| Error::malformed(name, "it has more than 4 MiB"))
    }

    /// Fetches an object, verified.
    ///
    /// # Errors
    /// Any of the network's; [`Error::DigestMismatch`], [`Error::SizeMismatch`].
    pub async fn fetch(&self, object: &Descriptor, into: &dyn Blobs) -> Result<(), Error> {
        let asked = format!("get {} of the bucket {}", object.digest, self.config.bucket);
        let name = self.blob(object);
        let url = self.bucket.get_object(self.credentials.as_ref(), &name).sign(VALID);
        let mut response = self.send(Method::GET, &url, &asked).await?;
        self.accept(&mut response, &asked).await?;
        let mut writer = Writer::create(into)?;
        let what = format!("the object {name} of the bucket {}", self.config.bucket);
        let mismatch = |found_bytes| Error::SizeMismatch {
            what: what.clone(),
            expected_bytes: object.size_bytes,
            found_bytes,
        };
        loop {
            let chunk = response.chunk().await;
            let chunk = chunk.map_err(|error| self.http.unreachable(error, &self.call(&asked)))?;
            let Some(chunk) = chunk else { break };
            let found_bytes = writer.written_bytes + chunk.len() as u64;
            if found_bytes > object.size_bytes {
                return Err(mismatch(found_bytes));
            }
            writer.write(chunk).await?;
        }
        if writer.written_bytes != object.size_bytes {
            return Err(mismatch(writer.written_bytes));
        }
        writer.commit(Some(object.digest), &what).await.map(drop)
    }

    /// Sends an object, unless one of its name and size is there.
    ///
    /// # Errors
    /// Any of the network's.
    pub async fn put(&self, object: &Descriptor, from: &dyn Blobs) -> Result<(), Error> {
        let name = self.blob(object);
        let asked = format!("look for {} in the bucket {}", object.digest, self.config.bucket);
        let url = self.bucket.head_object(self.credentials.as_ref(), &name).sign(VALID);
        let response = self.send(Method::HEAD, &url, &asked).await?;
        let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let length = length.and_then(|text| text.parse::<u64>().ok());
        if response.status().is_success() && length.is_none_or(|length| length == object.size_bytes) {
            return Ok(());
        }
        let asked = format!("put {} into the bucket {}", object.digest, self.config.bucket);
        // Opened here so that a missing blob is the store's error and not the network's.
        from.open(&object.digest).map_err(Error::reading(&object.digest))?;
        let body = || match from.open(&object.digest) {
            Ok(reader) => {
                let (sent, _) = mpsc::unbounded_channel();
                reqwest::Body::wrap_stream(blob::stream(reader, 0, sent))
            }
            Err(error) => {
                reqwest::Body::wrap_stream(futures_util::stream::iter([Err::<bytes::Bytes, _>(error)]))
            }
        };
        self.upload(&name, object.size_bytes, "application/octet-stream", &asked, &body).await
    }

    /// Makes the name stand for this manifest.
    ///
    /// # Errors
    /// Any of the network's.
    pub async fn publish(&self, manifest: &[u8]) -> Result<(), Error> {
        let name = &self.config.manifest;
        let asked = format!("put {name} into the bucket {}", self.config.bucket);
        let body = || reqwest::Body::from(manifest.to_vec());
        let media_type = lithify_oci::media_type::MANIFEST;
        self.upload(name, manifest.len() as u64, media_type, &asked, &body).await
    }

    async fn upload(
        &self,
        name: &str,
        size_bytes: u64,
        media_type: &str,
        asked: &str,
        body: &(dyn Fn() -> reqwest::Body + Sync),
    ) -> Result<(), Error> {
        let url = self.bucket.put_object(self.credentials.as_ref(), name).sign(VALID);
        // The server has nothing to say before it has the whole body.
        let call = Call { watch: Watch::Caller, ..self.call(asked) };
        let build = |client: &reqwest::Client| {
            let request = client.put(url.clone()).header(CONTENT_LENGTH, size_bytes);
            request.header(CONTENT_TYPE, media_type).body(body())
        };
        let longest = self.http.patience.silence + Duration::from_secs(size_bytes / SLOW_BYTES_PER_SECOND);
        let sent = tokio::time::timeout(longest, self.http.send(&call, &build)).await;
        let mut response = sent.map_err(|elapsed| Error::Unreachable {
            asked: asked.into(),
            host: self.host.clone(),
            reason: crate::error::Reason::Timeout,
            source: Box::new(elapsed),
        })??;
        self.accept(&mut response, asked).await
    }

    async fn send(&self, method: Method, url: &Url, asked: &str) -> Result<Response, Error> {
        let build = |client: &reqwest::Client| client.request(method.clone(), url.clone());
        self.http.send(&self.call(asked), &build).await
    }

    async fn accept(&self, response: &mut Response, asked: &str) -> Result<(), Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let detail = http::detail(response).await;
        let (asked, registry) = (asked.to_owned(), self.host.clone());
        Err(match status.as_u16() {
            401 | 403 => Error::Denied { asked, registry, detail },
            404 => Error::NotFound { asked, registry, missing: "no such object", detail },
            status => Error::Status { asked, host: registry, status, detail },
        })
    }

    fn call<'a>(&'a self, asked: &'a str) -> Call<'a> {
        let trust = if self.is_loopback { Trust::Anyone } else { Trust::System };
        let (is_loopback, host) = (self.is_loopback, self.host.as_str());
        Call { trust, is_loopback, host, asked, attempts: u32::MAX, watch: Watch::Client }
    }

    fn blob(&self, object: &Descriptor) -> String {
        format!("{}sha256/{}", self.config.blobs_prefix, object.digest.hex())
    }
}
