//! From a registry into the store.

use lithify_oci::{Blobs, Descriptor, Digest, Platform, Reference, media_type};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::endpoint::Endpoint;
use super::{Body, Client, Request, accept, scope};
use crate::blob::{self, Writer};
use crate::http;
use crate::image::{self, Document, Image, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES};
use crate::{Error, Progress};

const MANIFEST_TYPES: &[&str] =
    &[media_type::INDEX, media_type::MANIFEST, media_type::DOCKER_INDEX, media_type::DOCKER_MANIFEST];

/// A configuration above this many bytes is refused; people read it into memory.
const MAX_CONFIG_BYTES: u64 = 64 << 20;

impl Client {
    /// Finds the image that `reference` stands for on `platform`, and stores its manifest, the index it is in, and its
    /// configuration; not its layers. What the store has already is not asked for again; a tag is always asked for.
    ///
    /// # Errors
    /// Any of the network's, and [`Error::NoPlatform`] with the platforms there are.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        blobs: &dyn Blobs,
    ) -> Result<Image, Error> {
        let name = reference.familiar();
        let mut index = None;
        let mut at = reference.clone();
        let mut declared: Option<Descriptor> = None;
        for _ in 0..MAX_INDEX_DEPTH {
            let (bytes, content_type) = self.manifest(&at, declared.as_ref(), blobs).await?;
            let digest = Digest::of(&bytes);
            blob::store(&bytes, digest, blobs, &name)?;
            let declared_type =
                declared.as_ref().map(|descriptor| descriptor.media_type.clone()).or(content_type);
            match Document::parse(&bytes, declared_type.as_deref(), &name)? {
                Document::Manifest(media_type, manifest) => {
                    let mut image = Image { index, ..Image::new(&media_type, *manifest, bytes) };
                    image.manifest.platform = declared.and_then(|descriptor| descriptor.platform);
                    self.config(reference, &image, blobs).await?;
                    return Ok(image);
                }
                Document::Index(media_type, document) => {
                    let chosen = image::choose(&document, platform, &name)?.clone();
                    index.get_or_insert_with(|| Descriptor::new(&media_type, digest, bytes.len() as u64));
                    at = reference.with_digest(chosen.digest);
                    declared = Some(chosen);
                }
            }
        }
        Err(Error::malformed(name, "indexes stand in indexes without end"))
    }

    /// As [`Client::resolve`], but nothing is stored.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub(crate) async fn manifest_for(
        &self,
        reference: &Reference,
        platform: &Platform,
        blobs: &dyn Blobs,
    ) -> Result<Image, Error> {
        let name = reference.familiar();
        let mut at = reference.clone();
        let mut declared: Option<Descriptor> = None;
        for _ in 0..MAX_INDEX_DEPTH {
            let (bytes, content_type) = self.manifest(&at, declared.as_ref(), blobs).await?;
            match Document::parse(&bytes, content_type.as_deref(), &name)? {
                Document::Manifest(media_type, manifest) => {
                    return Ok(Image::new(&media_type, *manifest, bytes));
                }
                Document::Index(_, document) => {
                    let chosen = image::choose(&document, platform, &name)?.clone();
                    at = reference.with_digest(chosen.digest);
                    declared = Some(chosen);
                }
            }
        }
        Err(Error::malformed(name, "indexes stand in indexes without end"))
    }

    async fn config(&self, reference: &Reference, image: &Image, blobs: &dyn Blobs) -> Result<(), Error> {
        if image.config.size_bytes > MAX_CONFIG_BYTES {
            let problem = format!("its configuration has {} bytes", image.config.size_bytes);
            return Err(Error::malformed(reference.familiar(), problem));
        }
        self.pull_layer(reference, &image.config, blobs, &()).await
    }

    /// The bytes of a manifest or index, verified, and the media type that it came with.
    async fn manifest(
        &self,
        reference: &Reference,
        declared: Option<&Descriptor>,
        blobs: &dyn Blobs,
    ) -> Result<(Vec<u8>, Option<String>), Error> {
        if let Some(digest) = reference.digest()
            && let Some(bytes) = blob::load(&digest, MAX_MANIFEST_BYTES, blobs)?
        {
            return Ok((bytes, None));
        }
        let asked = asked_manifest(reference);
        let mut failed = vec![];
        for mut endpoint in self.sources(reference).await? {
            match self.manifest_from(&mut endpoint, reference, declared, blobs, &asked).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    self.remember_dead(&endpoint, &error).await;
                    failed.push((endpoint, error));
                }
            }
        }
        Err(all_failed(failed))
    }

    async fn manifest_from(
        &self,
        endpoint: &mut Endpoint,
        reference: &Reference,
        declared: Option<&Descriptor>,
        blobs: &dyn Blobs,
        asked: &str,
    ) -> Result<(Vec<u8>, Option<String>), Error> {
        self.settle(endpoint, asked).await?;
        let target = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let scopes = [scope(&endpoint.repository, "pull")];
        let mut request = Request {
            endpoint,
            method: Method::HEAD,
            url: endpoint.in_repository(&format!("manifests/{target}")),
            scopes: &scopes,
            asked,
            headers: vec![accept(MANIFEST_TYPES)],
            body: Body::Empty,
        };
        // Asking what a tag stands for is cheap and, on Docker Hub, free; some hosts do not answer it, and none says why.
        if reference.digest().is_none() {
            match self.send(&request).await {
                Ok(response) => {
                    if let Some(digest) = content_digest(response.headers())
                        && let Some(bytes) = blob::load(&digest, MAX_MANIFEST_BYTES, blobs)?
                    {
                        return Ok((bytes, content_type(response.headers())));
                    }
                }
                Err(error @ (Error::Unreachable { .. } | Error::RateLimited { .. })) => return Err(error),
                Err(_) => {}
            }
        }
        request.method = Method::GET;
        let mut response = self.send(&request).await?;
        let body = http::body(&mut response, MAX_MANIFEST_BYTES).await;
        let bytes = body
            .map_err(|error| self.http.unreachable(error, &endpoint.call(asked)))?
            .ok_or_else(|| Error::malformed(reference.familiar(), "its manifest has more than 4 MiB"))?;
        let what = || format!("the manifest {target} of {}", reference.familiar());
        // Where the registry names the digest of a tag, the bytes must have it too.
        let expected = reference.digest().or_else(|| content_digest(response.headers()));
        if let Some(expected) = expected.filter(|expected| *expected != Digest::of(&bytes)) {
            return Err(Error::DigestMismatch { what: what(), expected });
        }
        match declared.map(|descriptor| descriptor.size_bytes) {
            Some(expected_bytes) if expected_bytes != bytes.len() as u64 => {
                Err(Error::SizeMismatch { what: what(), expected_bytes, found_bytes: bytes.len() as u64 })
            }
            _ => Ok((bytes, content_type(response.headers()))),
        }
    }

    /// Fetches a blob into the store, unless it is there. A transfer that breaks goes on where it stopped, at the
    /// next source if need be; digest and size are verified before the blob can be seen.
    ///
    /// # Errors
    /// The registry's last refusal, with those of the mirrors; [`Error::DigestMismatch`], [`Error::SizeMismatch`].
    pub async fn pull_layer(
        &self,
        reference: &Reference,
        layer: &Descriptor,
        blobs: &dyn Blobs,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let present = blobs.size_bytes(&layer.digest).map_err(Error::reading(&layer.digest))?;
        if present == Some(layer.size_bytes) {
            progress.advance(layer.size_bytes);
            return Ok(());
        }
        let asked = format!("get the blob {} of {}", layer.digest, repository_name(reference));
        let what = format!("the blob {} of {}", layer.digest, repository_name(reference));
        let mut failed = vec![];
        let mut partial: Option<Writer> = None;
        for mut endpoint in self.sources(reference).await? {
            let error = loop {
                let mut writer = match partial.take() {
                    Some(writer) => writer,
                    None => Writer::create(blobs)?,
                };
                let inherited_bytes = writer.written_bytes;
                let outcome = match self.blob_from(&mut endpoint, layer, &mut writer, progress, &asked).await
                {
                    Ok(()) => writer.commit(Some(layer.digest), &what).await.map(|_| ()),
                    Err(error) => {
                        partial = Some(writer);
                        Err(error)
                    }
                };
                match outcome {
                    Ok(()) => return Ok(()),
                    // The bytes that another source began with may have been the wrong ones.
                    Err(Error::DigestMismatch { .. }) if inherited_bytes > 0 => {
                        progress.rewind(layer.size_bytes)
                    }
                    Err(error) => break error,
                }
            };
            match error {
                Error::Store { .. } => return Err(error),
                Error::DigestMismatch { .. } => progress.rewind(layer.size_bytes),
                Error::SizeMismatch { .. } => {
                    progress.rewind(partial.take().map_or(0, |writer| writer.written_bytes));
                }
                _ => {}
            }
            self.remember_dead(&endpoint, &error).await;
            failed.push((endpoint, error));
        }
        Err(all_failed(failed))
    }

    /// Fetches what is still missing from one source, trying again as long as it gets anywhere.
    async fn blob_from(
        &self,
        endpoint: &mut Endpoint,
        layer: &Descriptor,
        writer: &mut Writer,
        progress: &dyn Progress,
        asked: &str,
    ) -> Result<(), Error> {
        self.settle(endpoint, asked).await?;
        let scopes = [scope(&endpoint.repository, "pull")];
        let mut attempt = 1;
        while writer.written_bytes < layer.size_bytes {
            let before = writer.written_bytes;
            let mut request = Request {
                endpoint,
                method: Method::GET,
                url: endpoint.in_repository(&format!("blobs/{}", layer.digest)),
                scopes: &scopes,
                asked,
                headers: vec![],
                body: Body::Empty,
            };
            if before > 0 {
                let range = HeaderValue::from_str(&format!("bytes={before}-"));
                request.headers.extend(range.map(|range| (RANGE, range)));
            }
            let response = self.send(&request).await?;
            let Err(error) = self.receive(response, endpoint, layer, writer, progress, asked).await else {
                continue;
            };
            if !http::is_transient(&error) {
                return Err(error);
            }
            attempt = if writer.written_bytes > before { 1 } else { attempt + 1 };
            match self.config.patience.pause(attempt, None) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes one answer's body. Ends early, with an error, when the connection breaks.
    async fn receive(
        &self,
        mut response: Response,
        endpoint: &Endpoint,
        layer: &Descriptor,
        writer: &mut Writer,
        progress: &dyn Progress,
        asked: &str,
    ) -> Result<(), Error> {
        // A server that ignores the range starts over; what we have is skipped.
        let mut skip = match response.status() {
            StatusCode::PARTIAL_CONTENT
                if http::range_start(response.headers()) == Some(writer.written_bytes) =>
            {
                0
            }
            StatusCode::OK => writer.written_bytes,
            status => {
                let problem =
                    format!("it answered {} to a request for bytes {}-", status, writer.written_bytes);
                return Err(Error::malformed(format!("the answer of {}", endpoint.host), problem));
            }
        };
        loop {
            let chunk = response.chunk().await;
            let chunk = chunk.map_err(|error| self.http.unreachable(error, &endpoint.call(asked)))?;
            let Some(mut chunk) = chunk else { break };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let chunk = chunk.split_off(skipped as usize);
            let found_bytes = writer.written_bytes + chunk.len() as u64;
            if found_bytes > layer.size_bytes {
                let what = format!("the blob {} from {}", layer.digest, endpoint.host);
                return Err(Error::SizeMismatch { what, expected_bytes: layer.size_bytes, found_bytes });
            }
            progress.advance(chunk.len() as u64);
            writer.write(chunk).await?;
        }
        if writer.written_bytes < layer.size_bytes {
            let what = format!("the blob {} from {}", layer.digest, endpoint.host);
            let (expected_bytes, found_bytes) = (layer.size_bytes, writer.written_bytes);
            return Err(Error::SizeMismatch { what, expected_bytes, found_bytes });
        }
        Ok(())
    }
}

pub(super) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or(text).trim().to_owned())
}

/// Registry and repository, for errors.
pub(super) fn repository_name(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

fn asked_manifest(reference: &Reference) -> String {
    let target = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    format!("get the manifest {target} of {}", repository_name(reference))
}

/// The registry's own error leads; it comes last.
fn all_failed(mut failed: Vec<(Endpoint, Error)>) -> Error {
    let last = failed.pop().map(|(_, error)| error);
    let mirrors: Vec<String> =
        failed.iter().map(|(at, error)| format!("mirror {}: {error}", at.host)).collect();
    match last {
        Some(last) if mirrors.is_empty() => last,
        Some(last) => Error::Mirrors { mirrors, last: Box::new(last) },
        None => Error::malformed("the list of sources", "it is empty"),
    }
}
