//! Entries to a layer, a layer to a tree, and the difference of two trees. The trees need root, or root of a user namespace.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use divan::Bencher;
use divan::counter::BytesCount;
use lithify_oci::layer::{Compression, LayerWriter, Times, Written, decompress};
use lithify_oci::{Digest, Entry, EntryKind, EntrySink, Timestamp, TreePath};
use lithify_snapshot::{ChainId, Copy, MoveOrKeep, Overlay, Snapshots};
use tempfile::TempDir;

fn main() {
    divan::main();
}

const FILES: usize = 2000;
const FILE_BYTES: usize = 4096;

fn write(compression: Compression, files: usize, content: &[u8]) -> (Vec<u8>, Written) {
    let mut writer = LayerWriter::new(vec![], compression, Times::At(0)).expect("a writer");
    for at in 0..files {
        let entry = Entry {
            path: TreePath::cleaned(format!("data/{at:06}").as_bytes()),
            kind: EntryKind::File { size_bytes: content.len() as u64 },
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: Timestamp::default(),
            xattrs: Default::default(),
        };
        writer.entry(&entry, &mut &*content).expect("an entry");
    }
    writer.finish().expect("a layer")
}

/// Bytes with some order in them, as programs have.
fn content(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let words = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 % 32
    });
    words.take(length).collect()
}

#[divan::bench(args = [Compression::None, Compression::Gzip { level: 6 }, Compression::Zstd { level: 3 }])]
fn large_files_to_a_layer(bencher: Bencher<'_, '_>, compression: Compression) {
    let content = content(8 << 20);
    bencher.counter(BytesCount::new(content.len())).bench_local(|| write(compression, 1, &content));
}

#[divan::bench]
fn small_files_to_a_layer(bencher: Bencher<'_, '_>) {
    let content = content(FILE_BYTES);
    bencher.bench_local(|| write(Compression::default(), FILES, &content));
}

struct Trees {
    snapshots: Box<dyn Snapshots>,
    _folder: TempDir,
}

/// `None` where such trees cannot be had here.
fn trees(kind: &str) -> Option<Trees> {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
    let place = OwnedFd::from(std::fs::File::open(folder.path()).expect("the folder"));
    let snapshots: Box<dyn Snapshots> = match kind {
        "copy" => Box::new(Copy::open(place.as_fd(), Default::default()).ok()?),
        _ => {
            let overlay = Overlay::open(place.as_fd(), Default::default()).ok()?;
            overlay.probe().ok()?;
            Box::new(overlay)
        }
    };
    Some(Trees { snapshots, _folder: folder })
}

fn plain_layer() -> Vec<u8> {
    let (blob, _) = write(Compression::None, FILES, &content(FILE_BYTES));
    let mut plain = vec![];
    decompress(&blob[..]).expect("a blob").read_to_end(&mut plain).expect("a layer");
    plain
}

#[divan::bench(args = ["overlay", "copy"])]
fn a_layer_to_a_tree(bencher: Bencher<'_, '_>, kind: &str) {
    let Some(trees) = trees(kind).filter(|_| rustix::process::geteuid().is_root()) else {
        return eprintln!("SKIPPED a_layer_to_a_tree: {kind} does not work here");
    };
    let layer = plain_layer();
    let id = ChainId::from(Digest::of(&layer));
    bencher.with_inputs(|| trees.snapshots.remove(id).expect("no tree")).bench_local_values(|()| {
        trees.snapshots.apply(&[], id, &mut &layer[..], None).expect("a tree");
    });
}

#[divan::bench(args = ["overlay", "copy"])]
fn a_difference_of_one_file(bencher: Bencher<'_, '_>, kind: &str) {
    let Some(trees) = trees(kind).filter(|_| rustix::process::geteuid().is_root()) else {
        return eprintln!("SKIPPED a_difference_of_one_file: {kind} does not work here");
    };
    let layer = plain_layer();
    let id = ChainId::from(Digest::of(&layer));
    trees.snapshots.apply(&[], id, &mut &layer[..], None).expect("a tree");
    let mut workspace = trees.snapshots.workspace(&[id], MoveOrKeep::Keep).expect("a workspace");
    let root = workspace.root_mount().expect("its root");
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::APPEND;
    let file = rustix::fs::openat(&root, "data/000007", flags, rustix::fs::Mode::empty()).expect("a file");
    std::fs::File::from(file).write_all(b"more").expect("written");
    bencher.bench_local(|| {
        let mut writer = LayerWriter::new(vec![], Compression::None, Times::At(0)).expect("a writer");
        workspace.diff(&[], &mut writer).expect("a difference");
        writer.finish().expect("a layer")
    });
}
