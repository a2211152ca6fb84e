//! Layers as others make them: in any order, with marks of their own, and with malice.

use std::collections::BTreeMap;

use lithify_oci::entry::{Device, Timestamp};
use lithify_oci::layer::TarWriter;
use lithify_oci::{EntrySink, entry};

use super::*;

fn file(at: &str) -> Entry {
    of_kind(at, EntryKind::File { size_bytes: 0 })
}

fn folder(at: &str) -> Entry {
    of_kind(at, EntryKind::Directory)
}

fn link(at: &str, target: &str) -> Entry {
    of_kind(at, EntryKind::HardLink { target: path(target) })
}

fn symlink(at: &str, target: &str) -> Entry {
    of_kind(at, EntryKind::Symlink { target: target.into() })
}

fn gone(at: &str) -> Entry {
    of_kind(at, EntryKind::Whiteout)
}

fn opaque(at: &str) -> Entry {
    of_kind(at, EntryKind::Opaque)
}

fn of_kind(at: &str, kind: EntryKind) -> Entry {
    let modified = Timestamp { seconds: 9, nanoseconds: 0 };
    Entry { path: path(at), kind, mode: 0o755, uid: 0, gid: 0, modified, xattrs: BTreeMap::new() }
}

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut writer = TarWriter::new(vec![], Times::Exact);
    for entry in entries {
        writer.entry(entry, &mut entry::NoContent).unwrap();
    }
    writer.finish().unwrap()
}

/// Applies a layer to a tree with a folder, a file in it, and links.
fn apply(kind: &str, entries: &[Entry]) -> Result<Vec<String>, crate::Error> {
    let trees = Trees::new();
    let snapshots = trees.snapshots(kind);
    let (_, root) = base(
        &*snapshots,
        "mkdir -p d/e; echo f > d/f; echo g > d/e/g; chmod 711 d; chown 3:4 d; ln -s d sym; ln -s /etc out; echo h > h; touch -d @5 d",
    );
    let chain = root.then(root.digest());
    snapshots.apply(&[root], chain, &mut &tar(entries)[..], None)?;
    let view = snapshots.view(&[root, chain])?;
    let top = node::open_folder(view.root(), b"").unwrap();
    let mut names = vec![];
    tree::walk::<io::Error>(&top, &mut |visit| {
        let mark = match visit.metadata.kind {
            rustix::fs::FileType::Directory => "/",
            rustix::fs::FileType::Symlink => "@",
            _ if visit.metadata.links > 1 => "=",
            _ => "",
        };
        names.push(format!("{}{mark}", String::from_utf8_lossy(visit.path)));
        Ok(tree::Descend::Yes)
    })
    .unwrap();
    let folder = tree::metadata(&top, "d");
    if let Ok(folder) = folder.as_ref()
        && !entries.iter().any(|entry| entry.path == path("d"))
        && folder.kind == rustix::fs::FileType::Directory
        && folder.uid == 3
    {
        assert_eq!((folder.mode, folder.gid, folder.modified.0), (0o711, 4, 5), "{kind} {entries:?}");
    }
    Ok(names)
}

#[test]
fn foreign_layers_are_understood() {
    let check = |kind: &str, entries: &[Entry], expected: &str| {
        let names =
            apply(kind, entries).unwrap_or_else(|error| panic!("{kind} {entries:?}: {error}")).join(" ");
        assert_eq!(names, expected, "{kind} {entries:?}");
    };
    for kind in kinds("foreign_layers_are_understood") {
        let check = |entries: &[Entry], expected: &str| check(kind, entries, expected);
        check(&[], "d/ d/e/ d/e/g d/f h out@ sym@");
        check(&[file("d/x")], "d/ d/e/ d/e/g d/f d/x h out@ sym@");
        check(&[file("n/m/x")], "d/ d/e/ d/e/g d/f h n/ n/m/ n/m/x out@ sym@");
        check(&[gone("d")], "h out@ sym@");
        check(&[gone("d/f"), gone("nowhere/at/all")], "d/ d/e/ d/e/g h out@ sym@");
        check(&[opaque("d"), file("d/x")], "d/ d/x h out@ sym@");
        check(&[file("d/x"), opaque("d")], "d/ d/x h out@ sym@");
        check(&[folder("d"), file("d/e/x"), opaque("d")], "d/ d/e/ d/e/x h out@ sym@");
        check(&[opaque(""), file("x")], "x");
        // A whiteout means what is below, not what comes with it.
        check(&[gone("d"), folder("d"), file("d/x")], "d/ d/x h out@ sym@");
        check(&[folder("d"), file("d/x"), gone("d")], "d/ d/x h out@ sym@");
        check(&[gone("d"), file("d/x")], "d/ d/x h out@ sym@");
        check(&[file("h"), gone("h")], "d/ d/e/ d/e/g d/f h out@ sym@");
        // Kinds replace each other.
        check(&[file("d")], "d h out@ sym@");
        check(&[folder("h"), file("h/x")], "d/ d/e/ d/e/g d/f h/ h/x out@ sym@");
        check(&[folder("sym"), file("sym/x")], "d/ d/e/ d/e/g d/f h out@ sym/ sym/x");
        check(&[file("x"), folder("x"), file("x/y")], "d/ d/e/ d/e/g d/f h out@ sym@ x/ x/y");
        check(&[file("x"), file("x"), symlink("x", "y")], "d/ d/e/ d/e/g d/f h out@ sym@ x@");
        check(&[folder("d"), folder("d")], "d/ d/e/ d/e/g d/f h out@ sym@");
        // Links to what is below.
        check(&[link("x", "h")], "d/ d/e/ d/e/g d/f h= out@ sym@ x=");
        check(&[link("d/x", "d/e/g"), link("y", "d/e/g")], "d/ d/e/ d/e/g= d/f d/x= h out@ sym@ y=");
        check(&[link("x", "sym"), link("x", "sym")], "d/ d/e/ d/e/g d/f h out@ sym@ x@");
        check(&[file("a"), link("h", "a")], "a= d/ d/e/ d/e/g d/f h= out@ sym@");
    }
}

#[test]
fn hostile_layers_are_refused() {
    let check = |kind: &str, entries: &[Entry], expected: &str| {
        let error = apply(kind, entries).map(|names| names.join(" ")).unwrap_err().to_string();
        assert!(error.contains(expected), "{kind} {entries:?}: {error}");
    };
    for kind in kinds("hostile_layers_are_refused") {
        let check = |entries: &[Entry], expected: &str| check(kind, entries, expected);
        check(&[link("x", "out/passwd")], "not there");
        check(&[symlink("a", "b"), symlink("b", "a"), file("a/x")], "too many symbolic links");
        check(&[symlink("s", "h"), file("s/x")], "no folder");
        check(&[link("x", "nowhere")], "not there");
        check(&[gone("h"), link("x", "h")], "not there");
        check(&[link("x", "d")], "folder");
        check(&[link("x", "x")], "link to itself");
        check(&[file("f"), file("f/x")], "no folder");
        check(&[file("h/x")], "no folder");
        check(&[of_kind("x", EntryKind::CharDevice(Device { major: 0, minor: 0 }))], "overlayfs's mark");
    }
}

#[test]
fn marks_of_ours_are_not_taken_from_layers() {
    for kind in kinds("marks_of_ours_are_not_taken_from_layers") {
        let mut tricky = file("x");
        for name in ["user.lithify.node", "user.overlay.opaque", "trusted.overlay.opaque"] {
            tricky.xattrs.insert(name.into(), b"c 1 3".to_vec());
        }
        let mut hiding = folder("d");
        hiding.xattrs.insert(b"user.overlay.opaque".to_vec(), b"y".to_vec());
        let names = apply(kind, &[tricky.clone(), hiding]).unwrap().join(" ");
        assert_eq!(names, "d/ d/e/ d/e/g d/f h out@ sym@ x", "{kind}");
        let trees = Trees::new();
        let snapshots = trees.snapshots(kind);
        let chain = ChainId::first(Digest::of("x"));
        snapshots.apply(&[], chain, &mut &tar(&[tricky])[..], None).unwrap();
        let lines = dump(snapshots.view(&[chain]).unwrap().root());
        assert!(lines[0].contains("File") && lines[0].contains("{}"), "{lines:?}");
    }
}

#[test]
fn a_failed_layer_leaves_no_tree() {
    for kind in kinds("a_failed_layer_leaves_no_tree") {
        let trees = Trees::new();
        let snapshots = trees.snapshots(kind);
        let chain = ChainId::first(Digest::of("x"));
        let mut cut = tar(&[file("a"), file("b")]);
        cut.truncate(600);
        assert!(snapshots.apply(&[], chain, &mut &cut[..], None).is_err());
        assert!(!snapshots.has(&[chain]).unwrap());
        let other = Catalogue::write(&[]).unwrap();
        let error = snapshots.apply(&[], chain, &mut &tar(&[file("a")])[..], Some(&other)).unwrap_err();
        assert!(error.to_string().contains("does not belong"), "{error}");
        snapshots.apply(&[], chain, &mut &tar(&[file("a")])[..], None).unwrap();
        assert!(snapshots.has(&[chain]).unwrap());
    }
}

/// As containerd does: `bin/x` where `bin` is a link to `usr/bin` is `usr/bin/x`, and no link leads out of the tree.
#[test]
fn links_on_the_way_are_followed_inside() {
    let check = |kind: &str, entries: &[Entry], expected: &str| {
        let names = apply(kind, entries).map(|names| names.join(" "));
        assert_eq!(names.ok().as_deref(), Some(expected), "{kind} {entries:?}");
    };
    for kind in kinds("links_on_the_way_are_followed_inside") {
        let check = |entries: &[Entry], expected: &str| check(kind, entries, expected);
        check(&[file("sym/x")], "d/ d/e/ d/e/g d/f d/x h out@ sym@");
        check(&[file("sym/e/x")], "d/ d/e/ d/e/g d/e/x d/f h out@ sym@");
        check(&[folder("sym/n"), file("sym/n/x")], "d/ d/e/ d/e/g d/f d/n/ d/n/x h out@ sym@");
        check(&[file("out/x")], "d/ d/e/ d/e/g d/f etc/ etc/x h out@ sym@");
        check(&[symlink("s", "/etc"), file("s/passwd")], "d/ d/e/ d/e/g d/f etc/ etc/passwd h out@ s@ sym@");
        check(&[symlink("s", "../../.."), file("s/x")], "d/ d/e/ d/e/g d/f h out@ s@ sym@ x");
        check(&[symlink("d/up", "../d/e"), file("d/up/x")], "d/ d/e/ d/e/g d/e/x d/f d/up@ h out@ sym@");
        check(&[gone("sym/f")], "d/ d/e/ d/e/g h out@ sym@");
        check(&[opaque("sym")], "d/ h out@ sym@");
        check(&[symlink("s", "d"), link("x", "s/f")], "d/ d/e/ d/e/g d/f= h out@ s@ sym@ x=");
        check(&[symlink("s", "d"), link("s/x", "h")], "d/ d/e/ d/e/g d/f d/x= h= out@ s@ sym@");
        // A folder of this layer takes the place of the link below.
        check(&[folder("sym"), file("sym/x")], "d/ d/e/ d/e/g d/f h out@ sym/ sym/x");
        check(&[file("sym/x"), folder("sym"), file("sym/y")], "d/ d/e/ d/e/g d/f d/x h out@ sym/ sym/y");
        check(&[gone("sym"), file("sym/x")], "d/ d/e/ d/e/g d/f h out@ sym/ sym/x");
    }
}
