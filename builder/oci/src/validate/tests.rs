use std::collections::HashMap;

use super::*;
use crate::layer::{Compression, LayerWriter};
use crate::{History, NewBlob, Platform, Timestamp, image as assembly};

#[derive(Default)]
struct Memory(HashMap<Digest, Vec<u8>>);

impl Blobs for Memory {
    fn size_bytes(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(self.0.get(digest).map(|bytes| bytes.len() as u64))
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.0.get(digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(bytes.clone())))
    }

    fn create(&self) -> io::Result<Box<dyn NewBlob>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    let (path, modified) = (TreePath::checked(path.as_bytes()).unwrap(), Timestamp::default());
    Entry { path, kind, mode: 0o755, uid: 0, gid: 0, modified, xattrs: Default::default() }
}

/// An image of one layer, compressed, and all that is stored of it.
fn image_of(entries: &[Entry], compression: Compression) -> (Memory, Descriptor) {
    let mut writer = LayerWriter::new(vec![], compression, Times::At(5)).unwrap();
    for entry in entries {
        writer.entry(entry, &mut crate::entry::NoContent).unwrap();
    }
    let (blob, written) = writer.finish().unwrap();
    let layer = written.layer;
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        history: vec![History::default(), History { empty_layer: true, ..History::default() }],
        ..ImageConfig::default()
    };
    let image = assembly::assemble(config, [(layer.diff_id, layer.blob.clone())]);
    assert_eq!(image.manifest.descriptor.platform, Some(Platform::new("linux", "amd64")));
    let index = assembly::index(vec![image.manifest.descriptor.clone()]);
    let mut memory = Memory::default();
    memory.0.insert(layer.blob.digest, blob);
    for document in [image.config, image.manifest, index.clone()] {
        memory.0.insert(document.descriptor.digest, document.bytes);
    }
    (memory, index.descriptor)
}

fn sound() -> [Entry; 4] {
    let target = TreePath::checked(b"d/f").unwrap();
    [
        entry("gone", EntryKind::Whiteout),
        entry("d", EntryKind::Directory),
        entry("d/f", EntryKind::File { size_bytes: 0 }),
        entry("d/g", EntryKind::HardLink { target }),
    ]
}

const OURS: Rules = Rules::Lithify { foreign_layers: 0 };

#[test]
fn a_sound_image_has_no_problems() {
    for compression in [Compression::None, Compression::Gzip { level: 6 }, Compression::default()] {
        let (memory, root) = image_of(&sound(), compression);
        for rules in [OURS, Rules::Specification] {
            assert_eq!(image(&memory, &root, rules).unwrap(), [], "{compression:?}");
        }
    }
}

#[test]
fn every_spoilt_blob_is_found() {
    let (memory, root) = image_of(&sound(), Compression::default());
    for digest in memory.0.keys() {
        let mut spoilt = Memory(memory.0.clone());
        spoilt.0.get_mut(digest).unwrap().push(b' ');
        let problems = image(&spoilt, &root, OURS).unwrap();
        let has = |wanted: fn(&Problem) -> bool| problems.iter().any(wanted);
        assert!(has(|problem| matches!(problem, Problem::Digest { .. })), "{problems:?}");
        assert!(has(|problem| matches!(problem, Problem::Size { .. })), "{problems:?}");
        spoilt.0.remove(digest);
        let problems = image(&spoilt, &root, OURS).unwrap();
        assert!(matches!(problems[0], Problem::Missing { .. }), "{problems:?}");
    }
}

#[test]
fn our_layers_follow_our_rules() {
    let check = |entries: &[Entry], expected: &str| {
        let (memory, root) = image_of(entries, Compression::None);
        assert_eq!(image(&memory, &root, Rules::Specification).unwrap(), []);
        assert_eq!(image(&memory, &root, Rules::Lithify { foreign_layers: 1 }).unwrap(), []);
        let problems = image(&memory, &root, OURS).unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].to_string().contains(expected), "{problems:?}");
    };
    check(&[entry("d/f", EntryKind::Fifo)], "without the folder");
    let target = TreePath::checked(b"a").unwrap();
    check(&[entry("b", EntryKind::HardLink { target })], "did not come before");
}

#[test]
fn a_wrong_diff_id_is_found() {
    let (memory, root) = image_of(&sound(), Compression::default());
    let index: Index = serde_json::from_slice(&memory.0[&root.digest]).unwrap();
    let manifest: Manifest = serde_json::from_slice(&memory.0[&index.manifests[0].digest]).unwrap();
    let config: ImageConfig = serde_json::from_slice(&memory.0[&manifest.config.digest]).unwrap();
    let wrong = assembly::assemble(config, [(Digest::of("other"), manifest.layers[0].clone())]);
    let mut memory = memory;
    let root = wrong.manifest.descriptor.clone();
    for document in [wrong.config, wrong.manifest] {
        memory.0.insert(document.descriptor.digest, document.bytes);
    }
    let problems = image(&memory, &root, OURS).unwrap();
    assert!(matches!(problems[..], [Problem::DiffId { .. }]), "{problems:?}");
}
