use std::os::fd::AsFd;

use crate::testing::{Tree, tree};

use super::*;

fn check(tree: &Tree, dest: &str, path: &str, existing: Option<FileKind>, missing_ancestors: usize) {
    let got = inspect(tree.root.as_fd(), dest, dest.ends_with('/')).unwrap();
    let path = TreePath::cleaned(path.as_bytes());
    assert_eq!(
        got,
        Destination { path, is_directory: dest.ends_with('/'), existing, missing_ancestors },
        "{dest}"
    );
}

#[test]
fn resolve_links_inside_the_root() {
    let Some(tree) = tree(
        "d real/in\nf f x\nl la /real\nl lr real\nl ld /nowhere/yet\nl lf f\nl up ../../../real/in\nl both la/in",
    ) else {
        return;
    };
    let (folder, file) = (Some(FileKind::Directory), Some(FileKind::File));
    check(&tree, "/", "", folder, 0);
    check(&tree, "/la", "real", folder, 0);
    check(&tree, "/lr/x/y", "real/x/y", None, 1);
    check(&tree, "/ld/", "nowhere/yet", None, 1);
    check(&tree, "/ld/f", "nowhere/yet/f", None, 2);
    check(&tree, "/lf", "f", file, 0);
    check(&tree, "/up/", "real/in", folder, 0);
    check(&tree, "/both/new", "real/in/new", None, 0);
    check(&tree, "/a/b/c/d", "a/b/c/d", None, 3);
    let error = |dest: &str| inspect(tree.root.as_fd(), dest, dest.ends_with('/')).unwrap_err().to_string();
    assert_eq!(error("/f/x"), "\"/f\" is not a folder");
    assert_eq!(error("/lf/"), "\"/f\" is not a folder");
}

#[test]
fn know_the_empty_tree() {
    let got = Destination::in_empty_tree("/a/b/", true).unwrap();
    assert_eq!((got.existing, got.missing_ancestors), (None, 1));
    assert_eq!(Destination::in_empty_tree("/", true).unwrap().existing, Some(FileKind::Directory));
}

#[test]
fn cross_a_border() {
    let there = Destination {
        path: TreePath::cleaned(b"a/\xff"),
        is_directory: true,
        existing: Some(FileKind::Directory),
        missing_ancestors: 0,
    };
    let json = serde_json::to_string(&there).unwrap();
    assert_eq!(serde_json::from_str::<Destination>(&json).unwrap(), there);
    assert!(serde_json::from_str::<Destination>(&json.replace("[97", "[46,46,47,97")).is_err());
}
