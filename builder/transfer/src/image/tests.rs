use lithify_oci::{Descriptor, Digest, Index, Platform, media_type};

use super::{Document, choose};
use crate::Error;

#[test]
fn the_best_platform_is_chosen() {
    let check = |there: &str, wanted: &str, expected: Option<usize>| {
        let descriptor = |text: &str| {
            let mut descriptor = Descriptor::new(media_type::MANIFEST, Digest::of(text), 1);
            let mut parts = text.split('/').map(str::to_owned);
            let (os, architecture) = (parts.next().unwrap(), parts.next());
            descriptor.platform = architecture
                .map(|architecture| Platform { variant: parts.next(), ..Platform::new(&os, &architecture) });
            descriptor
        };
        let manifests: Vec<Descriptor> = there.split(' ').map(descriptor).collect();
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests: manifests.clone(),
            annotations: Default::default(),
            extra: Default::default(),
        };
        let chosen = choose(&index, &wanted.parse().unwrap(), "it").ok().map(|found| found.digest);
        assert_eq!(chosen, expected.map(|at| manifests[at].digest), "{wanted} of {there}");
    };
    check("linux/amd64 linux/arm64", "linux/arm64", Some(1));
    check("linux/amd64 linux/arm64/v8", "linux/arm64", Some(1));
    check("linux/arm/v5 linux/arm/v6 linux/arm/v7", "linux/arm/v7", Some(2));
    check("linux/arm/v5 linux/arm/v6", "linux/arm/v7", Some(1));
    check("linux/arm/v7", "linux/arm/v6", None);
    check("linux/amd64 linux/amd64/v2 linux/amd64/v3", "linux/amd64/v3", Some(2));
    check("linux/amd64 linux/amd64/v2", "linux/amd64/v3", Some(1));
    check("linux/386 linux/amd64", "linux/amd64", Some(1));
    check("linux/386", "linux/amd64", Some(0));
    check("linux/arm/v7", "linux/arm64", Some(0));
    check("windows/amd64", "linux/amd64", None);
    check("linux/s390x unnamed", "linux/amd64", Some(1));
    check("unknown/unknown", "linux/amd64", None);
}

#[test]
fn documents() {
    let check = |json: &str, expected: &str| {
        let found = match Document::parse(json.as_bytes(), None, "it") {
            Ok(Document::Manifest(media_type, _) | Document::Index(media_type, _)) => media_type,
            Err(Error::Malformed { problem, .. }) => problem,
            Err(error) => panic!("{error}"),
        };
        assert!(found.starts_with(expected), "{found}");
    };
    let config = format!(r#""config":{{"mediaType":"x","digest":"{}","size":1}}"#, Digest::of(""));
    check(&format!(r#"{{"schemaVersion":2,{config},"layers":[]}}"#), media_type::MANIFEST);
    check(r#"{"schemaVersion":2,"manifests":[]}"#, media_type::INDEX);
    let docker =
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media_type::DOCKER_INDEX);
    check(&docker, media_type::DOCKER_INDEX);
    check(r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "it is both an index and a manifest");
    check(
        &format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media_type::MANIFEST),
        "unsupported media type",
    );
    check(r#"{"schemaVersion":1}"#, "docker's schema 1 is not supported");
    check(r#"{}"#, "it is no image manifest");
    check(r#"{"schemaVersion":2}"#, "invalid manifest: missing field `config`");
    check("<html>", "invalid JSON");
}
