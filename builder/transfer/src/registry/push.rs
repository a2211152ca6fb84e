//! From the store to a registry.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use lithify_oci::{Blobs, Descriptor, Digest, Reference};
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::mpsc;

use super::endpoint::Endpoint;
use super::pull::{content_digest, repository_name};
use super::{Body, Client, Request, scope};
use crate::blob;
use crate::error::Reason;
use crate::http;
use crate::image::{Image, ImageIndex, is_foreign};
use crate::{Error, Progress};

const OCTETS: &str = "application/octet-stream";

/// The size of the pieces that a blob is sent in where the registry takes none whole.
const PIECE_BYTES: u64 = 16 << 20;

/// How long a registry may take to look at a blob that it has got: some move it to another place first.
const DIGESTING: Duration = Duration::from_secs(600);

/// One push: where to, and from what.
struct Push<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    blobs: &'a dyn Blobs,
    sources: &'a [Reference],
    progress: &'a dyn Progress,
    scopes: [String; 1],
}

impl Client {
    /// Pushes an image under the reference's tag, or under its digest where it has no tag. Blobs that the registry has
    /// are not sent; those in a repository of `sources` on the same registry are mounted from there. The manifest
    /// goes last, so nothing incomplete can be pulled. Returns the manifest's digest.
    ///
    /// # Errors
    /// Any of the network's; [`Error::Store`] when a blob is neither there nor here.
    pub async fn push(
        &self,
        reference: &Reference,
        image: &Image,
        blobs: &dyn Blobs,
        sources: &[Reference],
        progress: &dyn Progress,
    ) -> Result<Digest, Error> {
        let endpoint = self.destination(reference).await?;
        let push = self.prepare(&endpoint, reference, blobs, sources, progress);
        push.blobs(std::slice::from_ref(image)).await?;
        push.manifest(&target(reference, image.manifest.digest), &image.manifest, &image.manifest_bytes).await
    }

    /// Pushes the images of an index by digest, then the index under the reference's tag. Returns the index's digest.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub async fn push_index(
        &self,
        reference: &Reference,
        index: ImageIndex<'_>,
        blobs: &dyn Blobs,
        sources: &[Reference],
        progress: &dyn Progress,
    ) -> Result<Digest, Error> {
        let endpoint = self.destination(reference).await?;
        let push = self.prepare(&endpoint, reference, blobs, sources, progress);
        push.blobs(index.images).await?;
        for image in index.images {
            push.manifest(&image.manifest.digest.to_string(), &image.manifest, &image.manifest_bytes).await?;
        }
        push.manifest(&target(reference, index.index.digest), index.index, index.bytes).await
    }

    /// Sends one blob, unless the registry has it.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub(crate) async fn push_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        blobs: &dyn Blobs,
        sources: &[Reference],
    ) -> Result<(), Error> {
        let endpoint = self.destination(reference).await?;
        self.prepare(&endpoint, reference, blobs, sources, &()).blob(blob).await
    }

    /// Makes the reference's tag stand for a manifest whose blobs are all there.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub(crate) async fn push_manifest(
        &self,
        reference: &Reference,
        manifest: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let endpoint = self.destination(reference).await?;
        let push = self.prepare(&endpoint, reference, &crate::depot::Nowhere, &[], &());
        push.manifest(&target(reference, manifest.digest), manifest, bytes).await.map(drop)
    }

    async fn destination(&self, reference: &Reference) -> Result<Endpoint, Error> {
        let mut endpoint = Endpoint::registry(reference)?;
        self.settle(&mut endpoint, &format!("push to {}", repository_name(reference))).await?;
        Ok(endpoint)
    }

    fn prepare<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        reference: &'a Reference,
        blobs: &'a dyn Blobs,
        sources: &'a [Reference],
        progress: &'a dyn Progress,
    ) -> Push<'a> {
        let scopes = [scope(&endpoint.repository, "pull,push")];
        Push { client: self, endpoint, reference, blobs, sources, progress, scopes }
    }
}

fn target(reference: &Reference, digest: Digest) -> String {
    reference.tag().map_or_else(|| digest.to_string(), str::to_owned)
}

impl Push<'_> {
    /// Sends every blob that the images refer to, several at once.
    async fn blobs(&self, images: &[Image]) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let layers = images.iter().flat_map(|image| image.layers.iter().filter(|layer| !is_foreign(layer)));
        let all = layers.chain(images.iter().map(|image| &image.config));
        let blobs: Vec<&Descriptor> = all.filter(|blob| seen.insert(blob.digest)).collect();
        let uploads = futures_util::stream::iter(blobs.into_iter().map(|blob| self.blob(blob)));
        uploads.buffer_unordered(self.client.config.parallel_uploads.max(1)).try_collect::<()>().await
    }

    fn request<'r>(&'r self, method: Method, url: Url, asked: &'r str) -> Request<'r> {
        Request {
            endpoint: self.endpoint,
            method,
            url,
            scopes: &self.scopes,
            asked,
            headers: vec![],
            body: Body::Empty,
        }
    }

    async fn blob(&self, blob: &Descriptor) -> Result<(), Error> {
        let asked = format!("push the blob {} to {}", blob.digest, repository_name(self.reference));
        if self.exists(blob, &asked).await? {
            self.progress.advance(blob.size_bytes);
            return Ok(());
        }
        let mut session = match self.mount(blob, &asked).await? {
            Mount::Done => {
                self.progress.advance(blob.size_bytes);
                return Ok(());
            }
            Mount::Session(url) => Some(url),
            Mount::No => None,
        };
        let patience = &self.client.config.patience;
        let mut by_pieces = false;
        for attempt in 1.. {
            let url = match session.take() {
                Some(url) => url,
                None => self.open_session(&asked).await?,
            };
            let mut sent_bytes = 0;
            let outcome = match by_pieces {
                false => self.upload_whole(blob, url, &asked, &mut sent_bytes).await,
                true => self.upload_pieces(blob, url, &asked, &mut sent_bytes).await,
            };
            let Err(error) = outcome else { return Ok(()) };
            self.progress.rewind(sent_bytes);
            // A proxy on the way may limit the size of requests.
            by_pieces |= matches!(error, Error::Status { status: 413, .. });
            let is_worth_it = by_pieces || http::is_transient(&error);
            match patience.pause(attempt, None).filter(|_| is_worth_it) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
        unreachable!("the loop ends by returning")
    }

    async fn exists(&self, blob: &Descriptor, asked: &str) -> Result<bool, Error> {
        let url = self.endpoint.in_repository(&format!("blobs/{}", blob.digest));
        let request = self.request(Method::HEAD, url, asked);
        let mut response = self.client.send_any(&request).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            // Some registries answer 403 for a blob that nobody linked to the repository; the upload will tell.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            _ => Err(self.client.refusal(&mut response, &request).await),
        }
    }

    /// Asks the registry to take the blob from another of its repositories (distribution specification, "Mounting a
    /// blob from another repository"). A registry that will not opens an upload session instead.
    async fn mount(&self, blob: &Descriptor, asked: &str) -> Result<Mount, Error> {
        let mut session = None;
        let mut seen = BTreeSet::from([self.reference.repository()]);
        for source in self.sources {
            if source.registry() != self.reference.registry() || !seen.insert(source.repository()) {
                continue;
            }
            let scopes = [self.scopes[0].clone(), scope(source.repository(), "pull")];
            let mut url = self.endpoint.in_repository("blobs/uploads/");
            url.query_pairs_mut()
                .append_pair("mount", &blob.digest.to_string())
                .append_pair("from", source.repository());
            let request = Request {
                scopes: &scopes,
                headers: vec![(CONTENT_LENGTH, HeaderValue::from_static("0"))],
                ..self.request(Method::POST, url, asked)
            };
            // A source that we may not read, or a login service that gives no token for two repositories at once, is no
            // reason to fail: the blob is sent.
            let Ok(response) = self.client.send(&request).await else { continue };
            match response.status() {
                StatusCode::CREATED => return Ok(Mount::Done),
                StatusCode::ACCEPTED => session = self.location(&response).ok(),
                _ => {}
            }
        }
        Ok(session.map_or(Mount::No, Mount::Session))
    }

    async fn open_session(&self, asked: &str) -> Result<Url, Error> {
        let mut request = self.request(Method::POST, self.endpoint.in_repository("blobs/uploads/"), asked);
        request.headers.push((CONTENT_LENGTH, HeaderValue::from_static("0")));
        self.location(&self.client.send(&request).await?)
    }

    /// Where to go on with an upload: an address that may be relative.
    fn location(&self, response: &Response) -> Result<Url, Error> {
        let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let url = text.and_then(|text| response.url().join(text).ok());
        url.ok_or_else(|| {
            let what = format!("the answer of {} to a new upload", self.endpoint.host);
            Error::malformed(what, "it names no address to upload to")
        })
    }

    /// Sends the blob in one request; when that breaks, asks how much arrived and sends the rest.
    async fn upload_whole(
        &self,
        blob: &Descriptor,
        url: Url,
        asked: &str,
        sent_bytes: &mut u64,
    ) -> Result<(), Error> {
        let whole =
            self.send_part(Method::PUT, with_digest(&url, blob), blob, 0..blob.size_bytes, asked, sent_bytes);
        let error = match whole.await {
            Ok(response) => return self.finished(&response, blob),
            Err(error) if http::is_transient(&error) => error,
            Err(error) => return Err(error),
        };
        // The session may have survived (distribution specification, "Pushing a blob in chunks").
        let status = self.client.send_any(&self.request(Method::GET, url.clone(), asked)).await;
        let Ok(response) = status else { return Err(error) };
        let arrived =
            arrived_bytes(response.headers()).filter(|_| response.status() == StatusCode::NO_CONTENT);
        let Some(arrived) = arrived.filter(|arrived| (1..=blob.size_bytes).contains(arrived)) else {
            return Err(error);
        };
        let url = self.location(&response).unwrap_or(url);
        self.progress.rewind(sent_bytes.saturating_sub(arrived));
        *sent_bytes = arrived;
        let url = if arrived == blob.size_bytes {
            url
        } else {
            let rest = arrived..blob.size_bytes;
            let patched = self.send_part(Method::PATCH, url, blob, rest, asked, sent_bytes).await?;
            self.location(&patched)?
        };
        self.close(blob, &url, asked).await
    }

    /// Sends the blob in pieces, for registries behind something that limits the size of requests.
    async fn upload_pieces(
        &self,
        blob: &Descriptor,
        mut url: Url,
        asked: &str,
        sent_bytes: &mut u64,
    ) -> Result<(), Error> {
        let mut at = 0;
        while at < blob.size_bytes {
            let end = (at + PIECE_BYTES).min(blob.size_bytes);
            let response = self.send_part(Method::PATCH, url, blob, at..end, asked, sent_bytes).await?;
            url = self.location(&response)?;
            at = end;
        }
        self.close(blob, &url, asked).await
    }

    async fn close(&self, blob: &Descriptor, url: &Url, asked: &str) -> Result<(), Error> {
        let mut request = self.request(Method::PUT, with_digest(url, blob), asked);
        request.headers.push((CONTENT_LENGTH, HeaderValue::from_static("0")));
        let response = self.client.send(&request).await?;
        self.finished(&response, blob)
    }

    /// Streams a part of the blob as the body of one request.
    async fn send_part(
        &self,
        method: Method,
        url: Url,
        blob: &Descriptor,
        range: std::ops::Range<u64>,
        asked: &str,
        sent_bytes: &mut u64,
    ) -> Result<Response, Error> {
        // Opened here so that a missing blob is the store's error and not the network's.
        let missing = Error::reading(&blob.digest);
        self.blobs.open(&blob.digest).map_err(missing)?;
        let (sent, mut counts) = mpsc::unbounded_channel();
        let length = range.end - range.start;
        let make = || match self.blobs.open(&blob.digest) {
            Ok(reader) => {
                let part = io::Read::take(reader, range.end);
                reqwest::Body::wrap_stream(blob::stream(Box::new(part), range.start, sent.clone()))
            }
            Err(error) => {
                reqwest::Body::wrap_stream(futures_util::stream::iter([Err::<bytes::Bytes, _>(error)]))
            }
        };
        let mut request = self.request(method, url, asked);
        request.body = Body::Stream(&make);
        let mut header = |name: HeaderName, value: String| {
            request.headers.extend(HeaderValue::from_str(&value).map(|value| (name, value)));
        };
        header(CONTENT_TYPE, OCTETS.into());
        header(CONTENT_LENGTH, length.to_string());
        if request.method == Method::PATCH && length > 0 {
            header(CONTENT_RANGE, format!("{}-{}", range.start, range.end - 1));
        }
        let sending = self.client.send(&request);
        tokio::pin!(sending);
        let mut taken_bytes = 0;
        let outcome = loop {
            let silence = if taken_bytes < length { self.client.config.patience.silence } else { DIGESTING };
            tokio::select! {
                Some(count) = counts.recv() => {
                    self.progress.advance(count);
                    taken_bytes += count;
                }
                outcome = &mut sending => break outcome,
                () = tokio::time::sleep(silence) => break Err(Error::Unreachable {
                    asked: asked.into(),
                    host: self.endpoint.host.clone(),
                    reason: Reason::Timeout,
                    source: Box::new(io::Error::from(io::ErrorKind::TimedOut)),
                }),
            }
        };
        while let Ok(count) = counts.try_recv() {
            self.progress.advance(count);
            taken_bytes += count;
        }
        // After a new login a body is sent twice.
        if outcome.is_ok() {
            self.progress.rewind(taken_bytes.saturating_sub(length));
            taken_bytes = taken_bytes.min(length);
        }
        *sent_bytes += taken_bytes;
        outcome
    }

    fn finished(&self, response: &Response, blob: &Descriptor) -> Result<(), Error> {
        match content_digest(response.headers()) {
            Some(found) if found != blob.digest => Err(Error::DigestMismatch {
                what: format!("what {} stored of the blob (it calls it {found})", self.endpoint.host),
                expected: blob.digest,
            }),
            _ => Ok(()),
        }
    }

    async fn manifest(&self, target: &str, descriptor: &Descriptor, bytes: &[u8]) -> Result<Digest, Error> {
        let asked = format!("push the manifest {target} to {}", repository_name(self.reference));
        let url = self.endpoint.in_repository(&format!("manifests/{target}"));
        let mut request = self.request(Method::PUT, url, &asked);
        request
            .headers
            .extend(HeaderValue::from_str(&descriptor.media_type).map(|value| (CONTENT_TYPE, value)));
        request.body = Body::Bytes(bytes);
        let response = self.client.send(&request).await?;
        self.finished(&response, descriptor)?;
        Ok(descriptor.digest)
    }
}

/// What came of asking for a mount.
enum Mount {
    /// The blob is there now.
    Done,
    /// It is not, but an upload can begin here.
    Session(Url),
    /// Nothing.
    No,
}

fn with_digest(url: &Url, blob: &Descriptor) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
    url
}

/// How much of an upload has arrived: `Range: 0-N`, with N counted in.
fn arrived_bytes(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?;
    let last: u64 = text.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    last.checked_add(1)
}
