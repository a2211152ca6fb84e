use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use lithify_oci::entry::NoContent;

use super::*;

fn entry(path: &str, kind: EntryKind, mode: u32) -> Entry {
    Entry {
        path: TreePath::cleaned(path.as_bytes()),
        kind,
        mode,
        uid: 1234,
        gid: 1234,
        modified: Timestamp { seconds: 1_000_000_000, nanoseconds: 5 },
        xattrs: Default::default(),
    }
}

fn plant(folder: &Path, entries: &[(Entry, &str)]) -> Vec<Planted> {
    let root = fs::File::open(folder).unwrap();
    let mut planter = Planter::new(root.as_fd()).unwrap();
    let planted = entries.iter().map(|(entry, content)| match entry.kind {
        EntryKind::File { .. } => planter.plant(entry, &mut content.as_bytes()).unwrap(),
        _ => planter.plant(entry, &mut NoContent).unwrap(),
    });
    let planted = planted.collect();
    planter.finish().unwrap();
    planted
}

fn file(path: &str, content: &'static str, mode: u32) -> (Entry, &'static str) {
    (entry(path, EntryKind::File { size_bytes: content.len() as u64 }, mode), content)
}

#[test]
fn modes_times_and_links_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let device = lithify_oci::Device { major: 1, minor: 3 };
    let planted = plant(
        folder.path(),
        &[
            (entry("a", EntryKind::Directory, 0o550), ""),
            file("a/x", "one", 0o4755),
            (entry("a/y", EntryKind::HardLink { target: TreePath::cleaned(b"a/x") }, 0o4755), ""),
            (entry("a/z", EntryKind::Symlink { target: b"/etc/passwd".to_vec() }, 0o777), ""),
            (entry("null", EntryKind::CharDevice(device), 0o666), ""),
            file("b/c/d", "two", 0o600),
        ],
    );
    assert_eq!(planted.iter().filter(|one| **one == Planted::LeftOut).count(), 1);
    let metadata = |path: &str| fs::symlink_metadata(folder.path().join(path)).unwrap();
    assert_eq!(metadata("a/x").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(metadata("a").permissions().mode() & 0o7777, 0o550);
    assert_eq!(
        (metadata("a").mtime(), metadata("a/x").mtime(), metadata("a/z").mtime()),
        (1_000_000_000, 1_000_000_000, 1_000_000_000)
    );
    assert_eq!(metadata("a/x").ino(), metadata("a/y").ino());
    assert_eq!(metadata("a/x").uid(), rustix::process::getuid().as_raw());
    assert_eq!(fs::read_link(folder.path().join("a/z")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read(folder.path().join("b/c/d")).unwrap(), b"two");
    assert!(!folder.path().join("null").exists());
    fs::set_permissions(folder.path().join("a"), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn links_that_are_there_are_replaced_and_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(outside.path(), folder.path().join("a")).unwrap();
    fs::write(outside.path().join("kept"), "old").unwrap();
    symlink(outside.path().join("kept"), folder.path().join("f")).unwrap();
    fs::create_dir_all(folder.path().join("d/e")).unwrap();
    plant(folder.path(), &[file("a/kept", "new", 0o644), file("f", "new", 0o644), file("d", "new", 0o644)]);
    assert_eq!(fs::read(outside.path().join("kept")).unwrap(), b"old");
    for path in ["a/kept", "f", "d"] {
        assert_eq!(fs::read(folder.path().join(path)).unwrap(), b"new", "{path}");
    }
}
