//! Against Debian's docker-registry.

use std::collections::BTreeMap;
use std::process::Command;

use lithify_oci::manifest::canonical_json;
use lithify_oci::{Descriptor, Digest, Index, Platform, media_type};

use super::{amd64, client, pull_all, reference, with_login};
use crate::error::Reason;
use crate::testing::{Access, Counter, Memory, PASSWORD, Registry, USER, image, noise, skipped};
use crate::{Error, ImageIndex};

#[tokio::test]
async fn a_real_registry_gives_back_what_it_got() {
    let Some(registry) = Registry::start("a_real_registry_gives_back_what_it_got", Access::Password) else {
        return;
    };
    let client = with_login(&registry.host, USER, PASSWORD);
    let blobs = Memory::default();
    let (large, small) = (noise(5 << 20, 1), b"small".to_vec());
    let pushed = image(&blobs, &[&large, &small, b""]);
    let name = reference(&registry.host, "some/app:v1");
    let progress = Counter::default();
    let digest = client.push(&name, &pushed, &blobs, &[], &progress).await.unwrap();
    assert_eq!(digest, pushed.manifest.digest);
    let size = pushed.config.size_bytes + (large.len() + small.len()) as u64;
    assert_eq!(progress.total(), size);

    for name in [name.clone(), reference(&registry.host, &format!("some/app@{digest}"))] {
        let here = Memory::default();
        let pulled = pull_all(&client, &name, &here).await.unwrap();
        assert_eq!(pulled, pushed);
        for blob in pushed.layers.iter().chain([&pushed.config, &pushed.manifest]) {
            assert_eq!(here.get(&blob.digest), blobs.get(&blob.digest));
        }
    }
    // A second push sends nothing, a push beside it mounts.
    let progress = Counter::default();
    client.push(&name, &pushed, &Memory::default(), &[], &progress).await.unwrap();
    assert_eq!(progress.total(), size);
    let other = reference(&registry.host, "other:v1");
    client.push(&other, &pushed, &Memory::default(), std::slice::from_ref(&name), &()).await.unwrap();
    assert_eq!(client.resolve(&other, &amd64(), &Memory::default()).await.unwrap(), pushed);

    let skopeo = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--creds", &format!("{USER}:{PASSWORD}")])
        .arg(format!("docker://{name}"))
        .output();
    match skopeo {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains(&digest.to_string()), "{text}{error}");
        }
        Err(_) => skipped("skopeo reads the pushed image", "skopeo is not installed"),
    }
}

#[tokio::test]
async fn a_real_registry_keeps_several_platforms_under_one_name() {
    let Some(registry) = Registry::start("a_real_registry_keeps_several_platforms", Access::Open) else {
        return;
    };
    let blobs = Memory::default();
    let mut images = vec![];
    for (architecture, layer) in [("amd64", b"one"), ("arm64", b"two")] {
        let mut image = image(&blobs, &[layer]);
        image.manifest.platform = Some(Platform::new("linux", architecture));
        images.push(image);
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.into()),
        manifests: images.iter().map(|image| image.manifest.clone()).collect(),
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    };
    let bytes = canonical_json(&index);
    let descriptor = Descriptor::new(media_type::INDEX, Digest::of(&bytes), bytes.len() as u64);
    let name = reference(&registry.host, "app");
    let whole = ImageIndex { index: &descriptor, bytes: &bytes, images: &images };
    let digest = client().push_index(&name, whole, &blobs, &[], &()).await.unwrap();
    assert_eq!(digest, descriptor.digest);
    let here = Memory::default();
    let arm64 = client().resolve(&name, &Platform::new("linux", "arm64"), &here).await.unwrap();
    assert_eq!((arm64.manifest, arm64.index), (images[1].manifest.clone(), Some(descriptor)));
    let error = client().resolve(&name, &Platform::new("linux", "s390x"), &here).await.unwrap_err();
    let text = format!("{}/app has no image for linux/s390x; it has linux/amd64, linux/arm64", registry.host);
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn a_real_registry_refuses_with_reasons() {
    let Some(registry) = Registry::start("a_real_registry_refuses_with_reasons", Access::Password) else {
        return;
    };
    let host = &registry.host;
    let name = reference(host, "app:v1");
    let (blobs, here) = (Memory::default(), Memory::default());
    let image = image(&blobs, &[b"layer"]);
    let error = client().resolve(&name, &amd64(), &here).await.unwrap_err();
    assert!(matches!(error, Error::NoCredentials { .. }), "{error}");
    assert!(error.to_string().contains(&format!("get the manifest v1 of {host}/app")), "{error}");
    let wrong = with_login(host, USER, "guessed");
    for error in [
        wrong.resolve(&name, &amd64(), &here).await.unwrap_err(),
        wrong.push(&name, &image, &blobs, &[], &()).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::BadCredentials { .. }), "{error}");
        assert!(!format!("{error:?}").contains("guessed"), "{error:?}");
    }
    let right = with_login(host, USER, PASSWORD);
    let error = right.resolve(&name, &amd64(), &here).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { missing: "no such tag", .. }), "{error}");
    let gone = reference(host, "app");
    drop(registry);
    let error = client().resolve(&gone, &amd64(), &here).await.unwrap_err();
    assert!(error.to_string().contains("the connection was refused"), "{error}");
}

/// A certificate that nobody knows: accepted on loopback, where docker accepts it too, but not for downloads; there the
/// system's bundle counts, or the one in SSL_CERT_FILE. That variable can only be set for another process, which this
/// test starts with itself.
#[tokio::test]
async fn certificates() {
    const TEST: &str = "registry::tests::real::certificates";
    let conditions = crate::fetch::Conditions::default();
    if let Ok(url) = std::env::var("LITHIFY_TEST_TLS_URL") {
        crate::fetch::fetch(&url, &conditions, &Memory::default()).await.unwrap();
        return;
    }
    let Some(registry) = Registry::start(TEST, Access::Tls) else { return };
    let blobs = Memory::default();
    let image = image(&blobs, &[b"layer"]);
    let name = reference(&registry.host, "app");
    client().push(&name, &image, &blobs, &[], &()).await.unwrap();
    assert_eq!(pull_all(&client(), &name, &Memory::default()).await.unwrap(), image);
    let url = format!("https://{}/v2/", registry.host);
    let error = crate::fetch::fetch(&url, &conditions, &blobs).await.unwrap_err();
    // A machine without any authorities says so instead.
    let is_distrust = |error: &Error| {
        matches!(error, Error::Unreachable { reason: Reason::Certificate | Reason::NoAuthorities, .. })
    };
    assert!(is_distrust(&error), "{error:?}");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env("SSL_CERT_FILE", registry.authority())
        .env("LITHIFY_TEST_TLS_URL", url)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}
