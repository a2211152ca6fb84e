mod changes;
mod hostile;
mod layers;

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;

use lithify_linux::owner::Owners;
use lithify_linux::tree;
use lithify_oci::layer::{Catalogue, Compression, Layer, LayerWriter, Times, Written};
use lithify_oci::{Content, Digest, Entry, EntryKind, TreePath};
use lithify_testkit::skipped;
use rustix::fs::{Mode, OFlags};

use crate::{ChainId, Copy, MoveOrKeep, Overlay, Snapshots, Workspace, node};

fn path(text: impl AsRef<[u8]>) -> TreePath {
    TreePath::checked(text.as_ref()).unwrap()
}

/// A folder for trees that goes away again.
struct Trees {
    folder: OwnedFd,
    _place: tempfile::TempDir,
}

impl Trees {
    fn new() -> Self {
        // In memory, where there is such a place: the tests make thousands of files.
        let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let folder = rustix::fs::open(
            place.path(),
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        Trees { folder: folder.unwrap(), _place: place }
    }

    fn snapshots(&self, kind: &str) -> Box<dyn Snapshots> {
        match kind {
            "overlay" => Box::new(Overlay::open(self.folder.as_fd(), Owners::Real).unwrap()),
            _ => Box::new(Copy::open(self.folder.as_fd(), Owners::Real).unwrap()),
        }
    }
}

/// The snapshotters that can be tried here.
fn kinds(test: &str) -> Vec<&'static str> {
    if !rustix::process::geteuid().is_root() {
        skipped(test, "changing owners needs root, or a user namespace with an id range");
        return vec![];
    }
    let trees = Trees::new();
    match Overlay::open(trees.folder.as_fd(), Owners::Real).and_then(|overlay| overlay.probe()) {
        Ok(()) => vec!["overlay", "copy"],
        Err(error) => {
            skipped(test, &format!("with overlay: {error}"));
            vec!["copy"]
        }
    }
}

/// A layer with all that is needed to apply it.
struct Made {
    layer: Layer,
    tar: Vec<u8>,
    catalogue: Catalogue,
}

impl Made {
    fn apply(&self, snapshots: &dyn Snapshots, parents: &[ChainId], chain: ChainId) {
        snapshots.apply(parents, chain, &mut &self.tar[..], Some(&self.catalogue)).unwrap();
    }
}

/// Does what the sandbox does for a step that may not make devices: an empty file, which is marked afterwards.
const MKNOD: &str = r#"mknod() { command mknod "$@" 2>/dev/null || { : > "$1"; echo "$@"; }; }"#;

/// Runs a shell script in the workspace and takes the difference.
fn run(workspace: &mut Workspace, script: &str, ignore: &[TreePath]) -> Made {
    let root = workspace.root_mount().unwrap();
    let place = format!("/proc/self/fd/{}", root.as_raw_fd());
    let script = format!("{MKNOD}\nset -e; umask 022; {script}");
    // A shell complains that a detached mount has no path.
    let output = Command::new("/bin/bash").args(["-c", &script]).current_dir(place).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (name, device) = line.split_once(' ').unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&root, name, flags, Mode::empty()).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(file, node::PLACEHOLDER, device.as_bytes(), flags).unwrap();
    }
    difference(workspace, ignore)
}

fn difference(workspace: &mut Workspace, ignore: &[TreePath]) -> Made {
    let mut writer = LayerWriter::new(vec![], Compression::None, Times::default()).unwrap();
    workspace.diff(ignore, &mut writer).unwrap();
    let (tar, Written { layer, catalogue, .. }) = writer.finish().unwrap();
    Made { layer, tar, catalogue: Catalogue::read(catalogue).unwrap() }
}

/// A tree as text: one line for each file, with all that a tree must have in common with another.
fn dump(root: BorrowedFd<'_>) -> Vec<String> {
    let mut lines = vec![];
    let mut names: HashMap<u64, TreePath> = HashMap::new();
    let root = node::open_folder(root, b"").unwrap();
    tree::walk::<io::Error>(&root, &mut |visit| {
        let at = path(visit.path);
        let Some(mut node) = node::read(Owners::Real, visit.directory, visit.name.to_bytes(), &at)? else {
            lines.push(format!("{at} socket"));
            return Ok(tree::Descend::Yes);
        };
        let mut content = vec![];
        node.open()?.read_to_end(&mut content)?;
        let links = (node.entry.kind != EntryKind::Directory && node.metadata.links > 1)
            .then(|| names.entry(node.metadata.inode).or_insert(at).clone());
        let Entry { path, kind, mode, uid, gid, xattrs, .. } = node.entry;
        let digest = Digest::of(content);
        lines.push(format!("{path:?} {kind:?} {mode:o} {uid}:{gid} {xattrs:?} {digest} {links:?}"));
        Ok(tree::Descend::Yes)
    })
    .unwrap();
    lines
}

/// The names in a layer, whiteouts with a minus, links with their target.
fn listing(made: &Made) -> Vec<String> {
    let entries = made.catalogue.entries().unwrap().map(|item| item.unwrap().entry);
    entries
        .map(|entry| match entry.kind {
            EntryKind::Whiteout => format!("-{}", entry.path),
            EntryKind::HardLink { target } => format!("{}={target}", entry.path),
            EntryKind::Directory => format!("{}/", entry.path),
            _ => entry.path.to_string(),
        })
        .collect()
}

/// Makes a base tree by a script and keeps it under `chain`.
fn base(snapshots: &dyn Snapshots, script: &str) -> (Made, ChainId) {
    let mut workspace = snapshots.workspace(&[], MoveOrKeep::Keep).unwrap();
    let made = run(&mut workspace, script, &[]);
    let chain = ChainId::first(made.layer.diff_id);
    workspace.commit(chain).unwrap();
    (made, chain)
}
