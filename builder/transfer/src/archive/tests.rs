use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use lithify_oci::{Descriptor, Platform, Reference, media_type};

use super::{uncompress, write_docker, write_folder, write_oci};
use crate::testing::{Counter, Memory, files, image, noise, skipped};
use crate::{Contents, Error, Image, layout};

fn names(texts: &[&str]) -> Vec<Reference> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn tar_members(bytes: &[u8]) -> Vec<(String, u64, u32)> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        (entry.path().unwrap().display().to_string(), header.mtime().unwrap(), header.mode().unwrap())
    });
    entries.collect()
}

fn member(bytes: &[u8], name: &str) -> String {
    let mut archive = tar::Archive::new(bytes);
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = entries.find(|entry| entry.path().unwrap() == Path::new(name)).unwrap();
    let mut text = String::new();
    entry.read_to_string(&mut text).unwrap();
    text
}

fn skopeo(source: &str) {
    match Command::new("skopeo").args(["inspect", source]).output() {
        Ok(output) => {
            assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Err(_) => skipped("skopeo reads archives", "skopeo is not installed"),
    }
}

/// A layer that is a tar archive, as docker wants them.
fn layer(seed: u64) -> Vec<u8> {
    let mut builder = tar::Builder::new(vec![]);
    let content = noise(10_000, seed);
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, format!("file{seed}"), content.as_slice()).unwrap();
    builder.into_inner().unwrap()
}

fn same_everywhere(opened: &layout::Layout, expected: &Image, blobs: &Memory) {
    let found = opened.resolve(&Platform::new("linux", "amd64")).unwrap();
    assert_eq!(&found, expected);
    let here = Memory::default();
    for blob in found.layers.iter().chain([&found.config, &found.manifest]) {
        opened.copy_blob(blob, &here).unwrap();
        assert_eq!(here.get(&blob.digest), blobs.get(&blob.digest));
    }
}

#[test]
fn an_oci_archive_is_the_same_each_time_and_reads_back() {
    let blobs = Memory::default();
    let image = image(&blobs, &[&layer(1), &layer(2), &layer(1)]);
    let names = names(&["hello", "example.com/team/app:v2"]);
    let progress = Counter::default();
    let write = |progress: &Counter| {
        let mut bytes = vec![];
        write_oci(Contents::Image(&image), &names, &blobs, &mut bytes, progress).unwrap();
        bytes
    };
    let bytes = write(&progress);
    assert_eq!(bytes, write(&Counter::default()));
    let size = image.config.size_bytes + image.layers[0].size_bytes + image.layers[1].size_bytes;
    assert_eq!(progress.total(), size);
    let members = tar_members(&bytes);
    assert!(members.is_sorted() && members.iter().all(|(_, mtime, _)| *mtime == 0), "{members:?}");
    let index = member(&bytes, "index.json");
    for annotation in [
        r#""io.containerd.image.name":"docker.io/library/hello:latest","org.opencontainers.image.ref.name":"latest""#,
        r#""io.containerd.image.name":"example.com/team/app:v2","org.opencontainers.image.ref.name":"v2""#,
    ] {
        assert!(index.contains(annotation), "{index}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.tar");
    std::fs::write(&path, &bytes).unwrap();
    for tag in [None, Some("latest"), Some("v2"), Some("example.com/team/app:v2")] {
        same_everywhere(&layout::open(&path, tag, None).unwrap(), &image, &blobs);
    }
    same_everywhere(&layout::open(&path, None, Some(image.manifest.digest)).unwrap(), &image, &blobs);
    let error = layout::open(&path, Some("v3"), None).unwrap_err().to_string();
    assert!(
        error.contains(r#"no image is called "v3"; there are docker.io/library/hello:latest, "#),
        "{error}"
    );
    skopeo(&format!("oci-archive:{}:latest", path.display()));
}

#[test]
fn a_folder_keeps_other_images_and_replaces_those_of_the_same_name() {
    let blobs = Memory::default();
    let (first, second) = (image(&blobs, &[&layer(1)]), image(&blobs, &[&layer(2)]));
    let folder = tempfile::tempdir().unwrap();
    let write = |image: &Image, name: &str| {
        write_folder(Contents::Image(image), &names(&[name]), &blobs, folder.path(), &()).unwrap();
    };
    write(&first, "app:v1");
    write(&second, "app:v2");
    same_everywhere(&layout::open(folder.path(), Some("v1"), None).unwrap(), &first, &blobs);
    write(&second, "app:v1");
    same_everywhere(&layout::open(folder.path(), Some("v1"), None).unwrap(), &second, &blobs);
    same_everywhere(&layout::open(folder.path(), Some("v2"), None).unwrap(), &second, &blobs);
    assert!(files(folder.path()).iter().all(|file| !file.contains(".new-")));
    skopeo(&format!("oci:{}:v2", folder.path().display()));
}

#[test]
fn damage_in_the_store_is_seen_and_leaves_nothing() {
    let blobs = Memory::default();
    let image = image(&blobs, &[b"the layer"]);
    let layer = image.layers[0].digest;
    blobs.put_under(layer, "the liar!");
    let folder = tempfile::tempdir().unwrap();
    let error = write_folder(Contents::Image(&image), &[], &blobs, folder.path(), &()).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let left = files(folder.path());
    assert!(!left.iter().any(|file| file.contains(&layer.hex()) || file == "index.json"), "{left:?}");
    let error = write_oci(Contents::Image(&image), &[], &blobs, &mut vec![], &()).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    blobs.put_under(layer, "short");
    let error = write_oci(Contents::Image(&image), &[], &blobs, &mut vec![], &()).unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
}

/// The image with its layers compressed one way or the other.
fn compressed(image: &Image, blobs: &Memory) -> Image {
    let mut compressed = image.clone();
    for (at, layer) in compressed.layers.iter_mut().enumerate() {
        let plain = blobs.get(&layer.digest).unwrap();
        let (bytes, kind) = match at % 2 {
            0 => (zstd::encode_all(plain.as_slice(), 3).unwrap(), media_type::LAYER_ZSTD),
            _ => {
                let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
                encoder.write_all(&plain).unwrap();
                (encoder.finish().unwrap(), media_type::LAYER_GZIP)
            }
        };
        *layer = Descriptor::new(kind, blobs.put(bytes.clone()), bytes.len() as u64);
    }
    compressed
}

#[test]
fn a_docker_archive_holds_plain_layers_and_reads_back() {
    let blobs = Memory::default();
    let plain = image(&blobs, &[&layer(1), &layer(2)]);
    let compressed = compressed(&plain, &blobs);
    let error = write_docker(&compressed, &[], &blobs, &mut vec![], &()).unwrap_err().to_string();
    assert!(error.contains("does not go into a docker archive"), "{error}");
    // A store that does not know the plain layers yet.
    let store = Memory::default();
    for blob in compressed.layers.iter().chain([&compressed.config]) {
        store.put(blobs.get(&blob.digest).unwrap());
    }
    let image = uncompress(&compressed, &store).unwrap();
    assert_eq!(image, plain);
    let names = names(&["hello", "example.com/team/app:v2", "team/x"]);
    let mut bytes = vec![];
    write_docker(&image, &names, &store, &mut bytes, &()).unwrap();
    let manifest = member(&bytes, "manifest.json");
    assert!(
        manifest.contains(r#""RepoTags":["hello:latest","example.com/team/app:v2","team/x:latest"]"#),
        "{manifest}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.tar");
    std::fs::write(&path, &bytes).unwrap();
    same_everywhere(&layout::open(&path, Some("v2"), None).unwrap(), &image, &blobs);
    skopeo(&format!("docker-archive:{}", path.display()));
}

#[test]
fn a_layer_that_unpacks_to_something_else_is_refused() {
    let blobs = Memory::default();
    let plain = image(&blobs, &[&layer(1)]);
    let mut liar = compressed(&image(&blobs, &[&layer(2)]), &blobs);
    liar.config = plain.config;
    let store = Memory::default();
    for blob in liar.layers.iter().chain([&liar.config]) {
        store.put(blobs.get(&blob.digest).unwrap());
    }
    let error = uncompress(&liar, &store).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}
