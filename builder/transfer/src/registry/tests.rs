//! Against a server that misbehaves on purpose; [`real`] has those against a real registry.

use std::time::Duration;

use lithify_oci::{Descriptor, Digest, Platform, Reference, media_type};

use super::auth::{Challenge, parse};
use super::{Client, Config, Patience};
use crate::credentials::{Credentials, Login, Secret};
use crate::error::Reason;
use crate::testing::{Answer, Asked, Counter, Memory, Server, image, noise};
use crate::{Error, Image};

mod real;

fn impatient() -> Config {
    let patience = Patience { first_pause: Duration::from_millis(1), attempts: 3, ..Patience::default() };
    Config { patience, ..Config::default() }
}

fn client() -> Client {
    Client::new(impatient())
}

fn with_login(host: &str, user: &str, password: &str) -> Client {
    let login = Login::Password { user: user.into(), password: Secret::new(password) };
    Client::new(Config { credentials: Credentials::default().with_login(host, login), ..impatient() })
}

fn reference(host: &str, rest: &str) -> Reference {
    format!("{host}/{rest}").parse().unwrap()
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64")
}

async fn pull_all(client: &Client, from: &Reference, into: &Memory) -> Result<Image, Error> {
    let image = client.resolve(from, &amd64(), into).await?;
    for layer in &image.layers {
        client.pull_layer(from, layer, into, &()).await?;
    }
    Ok(image)
}

/// A registry that holds one image, before its misbehaviour.
fn serve(asked: &Asked, image: &Image, blobs: &Memory) -> Answer {
    let path = asked.path.split('?').next().unwrap_or_default();
    if path.contains("/manifests/") {
        return Answer::new(200, image.manifest_bytes.clone())
            .with("content-type", &image.manifest.media_type)
            .with("docker-content-digest", image.manifest.digest);
    }
    let digest = path.rsplit('/').next().and_then(|name| name.parse().ok());
    match digest.and_then(|digest: Digest| blobs.get(&digest)) {
        Some(bytes) => ranged(asked, &bytes),
        None => Answer::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#),
    }
}

fn ranged(asked: &Asked, bytes: &[u8]) -> Answer {
    let start = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    match start.and_then(|start| start.parse::<usize>().ok()) {
        Some(start) => Answer::new(206, &bytes[start..])
            .with("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
        None => Answer::new(200, bytes),
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_and_renewed_when_refused() {
    let blobs = Memory::default();
    let image = image(&blobs, &[b"first", b"second"]);
    let (kept, held) = (image.clone(), blobs.clone());
    let server = Server::start(move |asked, before| {
        if asked.path.starts_with("/token") {
            assert_eq!(asked.header("authorization"), Some("Basic dTpw"));
            return Answer::new(200, format!(r#"{{"token":"t{before}","expires_in":300}}"#));
        }
        let host = asked.header("host").unwrap_or_default();
        // The first token is withdrawn before the second layer.
        let is_second = asked.path.ends_with(&kept.layers[1].digest.to_string());
        match asked.header("authorization") {
            Some("Bearer t0") if !is_second => serve(asked, &kept, &held),
            Some("Bearer t1") => serve(asked, &kept, &held),
            _ => Answer::new(401, "").with(
                "www-authenticate",
                format!(r#"Bearer realm="http://{host}/token",service="shop",scope="repository:app:pull""#),
            ),
        }
    });
    let client = with_login(&server.host, "u", "p");
    let here = Memory::default();
    pull_all(&client, &reference(&server.host, "app"), &here).await.unwrap();
    let lines = server.lines();
    let tokens: Vec<&String> = lines.iter().filter(|line| line.contains("/token")).collect();
    assert_eq!(tokens, ["GET /token?service=shop&scope=repository%3Aapp%3Apull"; 2]);
}

#[tokio::test]
async fn an_identity_token_is_posted() {
    let blobs = Memory::default();
    let image = image(&blobs, &[]);
    let server = Server::start(move |asked, _| {
        if asked.path == "/token" {
            let form = String::from_utf8_lossy(&asked.body);
            assert_eq!(
                form,
                "grant_type=refresh_token&service=shop&client_id=lithify&scope=repository%3Aapp%3Apull&refresh_token=long+lived"
            );
            return Answer::new(200, r#"{"access_token":"short"}"#);
        }
        let host = asked.header("host").unwrap_or_default();
        match asked.header("authorization") {
            Some("Bearer short") => serve(asked, &image, &blobs),
            _ => Answer::new(401, "")
                .with("www-authenticate", format!(r#"Bearer realm="http://{host}/token",service="shop""#)),
        }
    });
    let login = Login::IdentityToken(Secret::new("long lived"));
    let credentials = Credentials::default().with_login(&server.host, login);
    let client = Client::new(Config { credentials, ..impatient() });
    client.resolve(&reference(&server.host, "app"), &amd64(), &Memory::default()).await.unwrap();
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let blobs = Memory::default();
    let layer = noise(1 << 20, 7);
    let image = image(&blobs, &[&layer]);
    let (kept, held) = (image.clone(), blobs.clone());
    let server = Server::start(move |asked, before| {
        let is_layer = asked.path.ends_with(&kept.layers[0].digest.to_string());
        match before {
            _ if !is_layer => serve(asked, &kept, &held),
            0 => serve(asked, &kept, &held).cut_after(300_000),
            1 => Answer::new(503, "busy"),
            2 => serve(asked, &kept, &held).cut_after(300_000),
            _ => serve(asked, &kept, &held),
        }
    });
    let here = Memory::default();
    let name = reference(&server.host, "app");
    let progress = Counter::default();
    client().pull_layer(&name, &image.layers[0], &here, &progress).await.unwrap();
    assert_eq!(here.get(&image.layers[0].digest), Some(layer));
    assert_eq!(progress.total(), 1 << 20);
    let ranges: Vec<bool> = server
        .asked()
        .iter()
        .filter(|asked| asked.path.contains("/blobs/"))
        .map(|asked| asked.header("range").is_some())
        .collect();
    assert_eq!(ranges, [false, true, true, true]);
}

#[tokio::test]
async fn a_server_without_ranges_starts_over_and_bytes_are_skipped() {
    let blobs = Memory::default();
    let layer = noise(1 << 20, 8);
    let digest = blobs.put(layer.clone());
    let body = layer.clone();
    let server = Server::start(move |_, before| match before {
        0 => Answer::new(200, body.clone()).cut_after(400_000),
        _ => Answer::new(200, body.clone()),
    });
    let here = Memory::default();
    let descriptor = Descriptor::new(media_type::LAYER, digest, 1 << 20);
    client().pull_layer(&reference(&server.host, "app"), &descriptor, &here, &()).await.unwrap();
    assert_eq!(here.get(&digest), Some(layer));
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let blobs = Memory::default();
    let image = image(&blobs, &[]);
    let server = Server::start(move |asked, before| match before {
        0 => Answer::new(429, "").with("retry-after", 0),
        1 => Answer::new(500, ""),
        _ => serve(asked, &image, &blobs),
    });
    client().resolve(&reference(&server.host, "app"), &amd64(), &Memory::default()).await.unwrap();
}

#[tokio::test]
async fn what_does_not_pass_is_told() {
    let check = async |answer: fn() -> Answer, expected: &str| {
        let server = Server::start(move |_, _| answer());
        let name = reference(&server.host, "app");
        let error = client().resolve(&name, &amd64(), &Memory::default()).await.unwrap_err().to_string();
        let expected = expected.replace("HOST", &server.host);
        assert_eq!(error, format!("cannot get the manifest latest of {}/app: {expected}", server.host));
    };
    check(
        || Answer::new(429, "slow down").with("retry-after", 900),
        "HOST allows no more requests for now (for 900 s); log in, wait, or use a mirror",
    )
    .await;
    check(|| Answer::new(502, "<html>nonsense</html>"), "HOST answered 502").await;
    check(
        || Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
        "no such tag on HOST: manifest unknown (MANIFEST_UNKNOWN)",
    )
    .await;
    check(
        || Answer::new(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}"#),
        "no such repository on HOST: repository name not known (NAME_UNKNOWN)",
    )
    .await;
    check(
        || Answer::new(403, ""),
        "access denied by HOST; ask its owner for the permission, or log in as another user",
    )
    .await;
    check(
        || Answer::new(401, ""),
        "HOST wants a login and there are no credentials for it; run `docker login HOST` or check that the name is right",
    )
    .await;
}

#[tokio::test]
async fn silence_is_noticed() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    let server = Server::start(move |_, _| {
        let _ = ended.lock().unwrap().recv();
        Answer::new(200, "")
    });
    let patience = Patience { silence: Duration::from_millis(50), ..impatient().patience };
    let client = Client::new(Config { patience, ..Config::default() });
    let name = reference(&server.host, "app");
    let error = client.resolve(&name, &amd64(), &Memory::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { reason: Reason::Timeout, .. }), "{error}");
    drop(end);
}

#[tokio::test]
async fn wrong_content_never_becomes_visible() {
    let blobs = Memory::default();
    let image = image(&blobs, &[b"the layer"]);
    let (kept, held) = (image.clone(), blobs.clone());
    let server = Server::start(move |asked, _| match asked.path.rsplit('/').next() {
        Some(name) if name == kept.layers[0].digest.to_string() => Answer::new(200, "the liar!"),
        Some(name) if name == kept.config.digest.to_string() => Answer::new(200, "short"),
        _ => serve(asked, &kept, &held),
    });
    let here = Memory::default();
    let name = reference(&server.host, "app");
    let error = client().pull_layer(&name, &image.layers[0], &here, &()).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let error = client().pull_layer(&name, &image.config, &here, &()).await.unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
    let other = name.with_digest(Digest::of("something else"));
    let error = client().resolve(&other, &amd64(), &here).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    assert_eq!(here.get(&image.layers[0].digest), None);
}

#[tokio::test]
async fn mirrors_come_first_and_failing_ones_are_passed_over() {
    let blobs = Memory::default();
    let layer = noise(500_000, 3);
    let image = image(&blobs, &[&layer]);
    let serving = || {
        let (kept, held) = (image.clone(), blobs.clone());
        move |asked: &Asked, _| serve(asked, &kept, &held)
    };
    let origin = Server::start(serving());
    let good = Server::start(serving());
    let broken = Server::start(|_, _| Answer::new(500, ""));
    let (kept, held) = (image.clone(), blobs.clone());
    let liar = Server::start(move |asked, _| match asked.path.contains("/blobs/") {
        true => Answer::new(200, noise(500_000, 4)).cut_after(if asked.header("range").is_some() {
            0
        } else {
            250_000
        }),
        false => serve(asked, &kept, &held),
    });
    let with = |mirrors: &[&str]| {
        let mirrors = mirrors.iter().map(|mirror| mirror.to_string()).collect();
        Client::new(Config { mirrors: [(origin.host.clone(), mirrors)].into(), ..impatient() })
    };
    let name = reference(&origin.host, "app");
    let prefixed = format!("http://{}/v2/cache", good.host);
    pull_all(&with(&[&broken.host, &prefixed]), &name, &Memory::default()).await.unwrap();
    assert_eq!(origin.lines(), [""; 0]);
    let line = format!("HEAD /v2/cache/app/manifests/latest?ns={}", origin.host.replace(':', "%3A"));
    assert_eq!(good.lines()[0], line);
    // A mirror that begins a layer with other bytes, and breaks: the registry's own are taken in the end.
    let here = Memory::default();
    pull_all(&with(&[&liar.host]), &name, &here).await.unwrap();
    assert_eq!(here.get(&image.layers[0].digest), Some(layer));
    // A mirror that nobody answers at is tried once.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let client = with(&[&gone]);
    pull_all(&client, &name, &Memory::default()).await.unwrap();
    assert!(client.dead.lock().await.contains(&gone));
    let nowhere = reference(&broken.host, "app");
    let client = Client::new(Config {
        mirrors: [(broken.host.clone(), vec![broken.host.clone()])].into(),
        ..impatient()
    });
    let error = client.resolve(&nowhere, &amd64(), &Memory::default()).await.unwrap_err().to_string();
    assert!(error.contains("; before that failed mirror "), "{error}");
}

#[tokio::test]
async fn a_login_stays_with_its_host() {
    let blobs = Memory::default();
    let image = image(&blobs, &[b"layer"]);
    let (kept, held) = (image.clone(), blobs.clone());
    let elsewhere = Server::start(move |asked, _| match asked.method.as_str() {
        "GET" => serve(asked, &kept, &held),
        _ => Answer::new(201, ""),
    });
    let other = elsewhere.host.clone();
    let server = Server::start(move |asked, _| {
        let away = format!("http://{other}{}", asked.path);
        match (asked.header("authorization"), asked.method.as_str()) {
            (None, _) => Answer::new(401, "").with("www-authenticate", "Basic realm=\"x\""),
            (_, "GET") => Answer::new(307, "").with("location", away),
            (_, "HEAD") => Answer::new(404, ""),
            (_, "POST") => Answer::new(202, "").with("location", away),
            _ => Answer::new(201, ""),
        }
    });
    let client = with_login(&server.host, "u", "p");
    let name = reference(&server.host, "app");
    client.pull_layer(&name, &image.layers[0], &Memory::default(), &()).await.unwrap();
    client.push(&name, &image, &blobs, &[], &()).await.unwrap();
    let asked = elsewhere.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:?}");
}

#[tokio::test]
async fn an_unmounted_blob_goes_into_the_session_that_was_opened() {
    let blobs = Memory::default();
    let image = image(&blobs, &[b"layer"]);
    let server = Server::start(|asked, _| match asked.method.as_str() {
        "HEAD" => Answer::new(404, ""),
        "POST" if asked.path.contains("mount=") => Answer::new(202, "").with("location", "/upload/mounted"),
        "POST" => Answer::new(202, "").with("location", "/upload/fresh?state=1"),
        _ => Answer::new(201, ""),
    });
    let name = reference(&server.host, "app");
    let base = reference(&server.host, "base");
    client().push(&name, &image, &blobs, &[base], &()).await.unwrap();
    let lines = server.lines();
    let puts: Vec<&String> = lines.iter().filter(|line| line.starts_with("PUT /upload")).collect();
    assert!(
        puts.len() == 2 && puts.iter().all(|line| line.starts_with("PUT /upload/mounted?digest=")),
        "{puts:?}"
    );
    assert_eq!(lines.last().unwrap(), "PUT /v2/app/manifests/latest");
}

#[tokio::test]
async fn an_upload_is_resumed_or_sent_in_pieces() {
    let blobs = Memory::default();
    let layer = noise(100_000, 5);
    let digest = blobs.put(layer.clone());
    let image = image(&blobs, &[&layer]);
    let check = async |refusal: u16, expected: &[&str]| {
        let server = Server::start(move |asked, before| match (asked.method.as_str(), asked.path.as_str()) {
            ("HEAD", path) if path.ends_with(&digest.to_string()) => Answer::new(404, ""),
            ("HEAD", _) => Answer::new(200, ""),
            ("POST", _) => Answer::new(202, "").with("location", "/up"),
            ("PUT", path) if path.starts_with("/up?") && before == 0 => Answer::new(refusal, ""),
            ("GET", "/up") => Answer::new(204, "").with("range", "0-39999").with("location", "/up"),
            ("PATCH", _) => Answer::new(202, "").with("location", "/up"),
            _ => Answer::new(201, ""),
        });
        let progress = Counter::default();
        let name = reference(&server.host, "app");
        client().push(&name, &image, &blobs, &[], &progress).await.unwrap();
        let asked = server.asked();
        let sent = asked.iter().filter(|asked| asked.path.starts_with("/up") && asked.method != "GET");
        let sent: Vec<String> = sent
            .map(|asked| {
                let range = asked.header("content-range").unwrap_or("-");
                format!("{} {range} {}", asked.method, asked.body.len())
            })
            .collect();
        assert_eq!(sent, expected);
        assert_eq!(progress.total(), 100_000 + image.config.size_bytes);
        let patch = asked.iter().find(|asked| asked.method == "PATCH").unwrap();
        assert_eq!(patch.body, layer[100_000 - patch.body.len()..]);
    };
    check(500, &["PUT - 100000", "PATCH 40000-99999 60000", "PUT - 0"]).await;
    check(413, &["PUT - 100000", "PATCH 0-99999 100000", "PUT - 0"]).await;
}

#[test]
fn challenges() {
    let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
        realm: realm.into(),
        service: service.map(str::to_owned),
        scope: scope.map(str::to_owned),
    };
    let check = |text: &str, expected: &[Challenge]| assert_eq!(parse(text), expected, "{text}");
    check("", &[]);
    check("Basic", &[Challenge::Basic]);
    check(r#"Basic realm="a, b""#, &[Challenge::Basic]);
    check(r#"BASIC realm=x"#, &[Challenge::Basic]);
    check("Negotiate", &[]);
    check("Bearer", &[]);
    check(r#"Bearer realm="https://a/t""#, &[bearer("https://a/t", None, None)]);
    check(
        r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push""#,
        &[bearer("https://a/t", Some("s"), Some("repository:a/b:pull,push"))],
    );
    check(r#"bearer Realm = "https://a/t" , service=s"#, &[bearer("https://a/t", Some("s"), None)]);
    check(
        r#"Bearer realm="https://a/\"q\"", error="invalid_token", Basic realm="r""#,
        &[bearer("https://a/\"q\"", None, None), Challenge::Basic],
    );
    check(r#"Negotiate abc==, Bearer realm="x""#, &[bearer("x", None, None)]);
    check(r#"Bearer realm="unended"#, &[bearer("unended", None, None)]);
    check("=,=,\"", &[]);
}

#[test]
fn pauses() {
    let patience = Patience { attempts: 4, ..Patience::default() };
    let check = |attempt, retry_after: Option<u64>, expected: Option<u64>| {
        let pause = patience.pause(attempt, retry_after.map(Duration::from_secs));
        assert_eq!(pause, expected.map(Duration::from_millis), "{attempt} {retry_after:?}");
    };
    check(1, None, Some(500));
    check(2, None, Some(1_000));
    check(3, None, Some(2_000));
    check(4, None, None);
    check(1, Some(0), Some(500));
    check(1, Some(30), Some(30_000));
    check(1, Some(61), None);
}
