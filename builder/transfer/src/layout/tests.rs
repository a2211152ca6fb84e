use lithify_oci::manifest::canonical_json;
use lithify_oci::{Descriptor, Digest, Index, Platform, media_type};

use super::open;
use crate::testing::{Memory, image};
use crate::{Contents, Error, archive};

fn amd64() -> Platform {
    Platform::new("linux", "amd64")
}

/// As docker wrote it before version 25: layers in folders, a repeated one as a link.
#[test]
fn an_old_docker_archive() {
    let blobs = Memory::default();
    let expected = image(&blobs, &[b"one", b"two", b"one"]);
    let config = blobs.get(&expected.config.digest).unwrap();
    let manifest = br#"[{"Config":"c.json","RepoTags":["app:v1"],"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}]"#;
    let mut builder = tar::Builder::new(vec![]);
    for (name, bytes) in [
        ("a/layer.tar", b"one".as_slice()),
        ("b/layer.tar", b"two"),
        ("c.json", &config),
        ("manifest.json", manifest),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "c/layer.tar", "../a/layer.tar").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved.tar");
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    for tag in [None, Some("v1"), Some("app:v1")] {
        let layout = open(&path, tag, None).unwrap();
        let found = layout.resolve(&amd64()).unwrap();
        assert_eq!(found, expected);
        let here = Memory::default();
        for blob in found.layers.iter().chain([&found.config, &found.manifest]) {
            layout.copy_blob(blob, &here).unwrap();
            assert_eq!(here.get(&blob.digest), blobs.get(&blob.digest));
        }
    }
    let error = open(&path, Some("v2"), None).unwrap_err().to_string();
    assert!(error.ends_with("0 of its images fit; it has app:v1"), "{error}");
}

#[test]
fn what_is_damaged_is_refused() {
    let blobs = Memory::default();
    let image = image(&blobs, &[b"the layer"]);
    let folder = tempfile::tempdir().unwrap();
    let blob = |digest: &Digest| folder.path().join("blobs/sha256").join(digest.hex());
    archive::write_folder(Contents::Image(&image), &[], &blobs, folder.path(), &()).unwrap();
    let here = Memory::default();
    let layout = open(folder.path(), None, None).unwrap();
    std::fs::write(blob(&image.layers[0].digest), "the liar!").unwrap();
    let error = layout.copy_blob(&image.layers[0], &here).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    std::fs::write(blob(&image.config.digest), "short").unwrap();
    let error = layout.copy_blob(&image.config, &here).unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
    std::fs::remove_file(blob(&image.layers[0].digest)).unwrap();
    let error = layout.copy_blob(&image.layers[0], &here).unwrap_err().to_string();
    assert!(error.ends_with("is missing"), "{error}");
    std::fs::write(blob(&image.manifest.digest), "{}").unwrap();
    let error = layout.resolve(&amd64()).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    std::fs::write(folder.path().join("index.json"), "nonsense").unwrap();
    let error = open(folder.path(), None, None).unwrap_err().to_string();
    assert!(error.contains("index.json"), "{error}");
    std::fs::write(folder.path().join("no.tar"), "nonsense").unwrap();
    assert!(open(&folder.path().join("no.tar"), None, None).is_err());
    std::fs::write(folder.path().join("no.tar"), zstd::encode_all(b"tar".as_slice(), 1).unwrap()).unwrap();
    let error = open(&folder.path().join("no.tar"), None, None).unwrap_err().to_string();
    assert!(error.contains("it is compressed"), "{error}");
    assert!(open(&folder.path().join("nothing"), None, None).is_err());
    let empty = tempfile::tempdir().unwrap();
    let error = open(empty.path(), None, None).unwrap_err().to_string();
    assert!(error.contains("neither index.json nor manifest.json"), "{error}");
}

/// `index.json` that is itself the list of platforms, and one that refers to an index.
#[test]
fn platforms_at_the_top_or_one_below() {
    let blobs = Memory::default();
    let mut manifests = vec![];
    let images = [("amd64", b"one"), ("arm64", b"two")].map(|(architecture, layer)| {
        let mut image = image(&blobs, &[layer]);
        image.manifest.platform = Some(Platform::new("linux", architecture));
        manifests.push(image.manifest.clone());
        image
    });
    let index = |manifests: Vec<Descriptor>| {
        canonical_json(&Index {
            schema_version: 2,
            media_type: Some(media_type::INDEX.into()),
            manifests,
            annotations: Default::default(),
            extra: Default::default(),
        })
    };
    let inner = index(manifests.clone());
    let descriptor = Descriptor::new(media_type::INDEX, Digest::of(&inner), inner.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let whole = crate::ImageIndex { index: &descriptor, bytes: &inner, images: &images };
    archive::write_folder(Contents::Index(whole), &[], &blobs, folder.path(), &()).unwrap();
    let arm64 = Platform::new("linux", "arm64");
    let found = open(folder.path(), None, None).unwrap().resolve(&arm64).unwrap();
    assert_eq!((&found.manifest, found.index), (&images[1].manifest, Some(descriptor)));
    std::fs::write(folder.path().join("index.json"), index(manifests)).unwrap();
    let layout = open(folder.path(), None, None).unwrap();
    assert_eq!(layout.resolve(&arm64).unwrap(), images[1]);
    let error = layout.resolve(&Platform::new("linux", "s390x")).unwrap_err();
    assert!(
        matches!(error, Error::NoPlatform { available, .. } if available == ["linux/amd64", "linux/arm64"])
    );
}
