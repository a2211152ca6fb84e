//! Many layers.

use lithify_oci::EntrySink;
use lithify_oci::entry::{NoContent, Timestamp};
use lithify_oci::layer::TarWriter;

use super::*;

/// A layer with one symbolic link; each second one also hides that of ten layers before.
fn layer(number: usize) -> Vec<u8> {
    let modified = Timestamp { seconds: 9, nanoseconds: 0 };
    let entry = |number: usize, kind| Entry {
        path: path(format!("f{number:04}")),
        kind,
        mode: 0o777,
        uid: 0,
        gid: 0,
        modified,
        xattrs: Default::default(),
    };
    let mut writer = TarWriter::new(vec![], Times::Exact);
    if hides(number) {
        writer.entry(&entry(number - 10, EntryKind::Whiteout), &mut NoContent).unwrap();
    }
    writer.entry(&entry(number, EntryKind::Symlink { target: "x".into() }), &mut NoContent).unwrap();
    writer.finish().unwrap()
}

fn hides(number: usize) -> bool {
    number >= 10 && number.is_multiple_of(2)
}

#[test]
fn more_layers_than_an_overlay_takes() {
    let test = "more_layers_than_an_overlay_takes";
    if !kinds(test).contains(&"overlay") {
        return skipped(test, "overlayfs does not work here");
    }
    let trees = Trees::new();
    let overlay = Overlay::open(trees.folder.as_fd(), Owners::Real).unwrap();
    let mut chain: Vec<ChainId> = vec![];
    let mut check = |layers: usize| {
        while chain.len() < layers {
            let id = ChainId::from(Digest::of(chain.len().to_string()));
            overlay.apply(&chain, id, &mut layer(chain.len()).as_slice(), None).unwrap();
            chain.push(id);
        }
        let view = overlay.view(&chain).unwrap();
        let shown = |root: BorrowedFd<'_>, number: usize| {
            tree::metadata(root, format!("f{number:04}").as_bytes()).is_ok()
        };
        for number in 0..layers {
            let hidden = number + 10 < layers && hides(number + 10);
            assert_eq!(shown(view.root(), number), !hidden, "layer {number} of {layers}");
        }
        let workspace = overlay.workspace(&chain, MoveOrKeep::Keep).unwrap();
        let root = workspace.root_mount().unwrap();
        // Of the lowest layers and of the highest.
        for number in [3, layers - 1] {
            rustix::fs::unlinkat(&root, format!("f{number:04}"), rustix::fs::AtFlags::empty()).unwrap();
            assert!(!shown(root.as_fd(), number));
        }
    };
    check(200);
    check(500);
    check(501);
    check(620);
    let many = vec![chain[0]; 1000];
    let refused = overlay.view(&many).err().expect("too many").to_string();
    assert!(refused.contains("--snapshotter=copy"), "{refused}");
}
