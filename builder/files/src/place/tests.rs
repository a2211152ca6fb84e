//! Derived from the recorded copy- and link- cases that come on top of something.

use std::os::fd::AsFd;

use crate::arrange::Rules;
use crate::testing::{Copy, Lines, exists, is_root, tree};

use super::*;

fn on<'a>(source: &'a str, below: &'a str) -> Copy<'a> {
    Copy { source, below, ..Copy::default() }
}

#[test]
fn merge_into_folders() {
    let below = "d,700 d\nf d/f old\nd,711 d/sub\nf d/sub/stay s\nd,1777 t";
    let merge = on("d,750 dir\nf dir/f new\nd,750 dir/sub\nf dir/sub/g g", below);
    merge.gives(&["dir"], "/d", "d,700 d\nf d/f new\nd,750 d/sub\nf d/sub/g g");
    merge.gives(&["dir/f"], "/t", "d,1777 t\nf t/f new");
    merge.gives(&["dir/f"], "/d/sub/deep/x", "d,700 d\nd,711 d/sub\nd d/sub/deep\nf d/sub/deep/x new");
}

#[test]
fn refuse_clashes() {
    on("f dir/f f", "f d x").fails(&["dir"], "/d", "cannot copy to non-directory \"/d\"");
    on("f dir/f f", "d d/f").fails(&["dir"], "/d", "cannot replace to directory \"/d/f\"");
    on("f dir/sub/f f", "f d/sub x").fails(&["dir"], "/d", "cannot copy to non-directory \"/d/sub\"");
    on("f root/lib/f f", "d usr/lib\nl lib usr/lib").fails(
        &["root"],
        "/",
        "cannot copy to non-directory \"/lib\"",
    );
    on("f f f", "f d x").fails(&["f"], "/d/", "\"/d\" is not a folder");
    on("f f f", "d d/f").fails(&["f"], "/d", "cannot replace to directory \"/d/f\"");
}

#[test]
fn write_through_named_links_and_over_nested_ones() {
    let below = "f t1 old\nf t2 old\nl l1 /t1\nl d/f ../t2";
    on("f one through", below).gives(&["one"], "/l1", "f t1 through");
    on("f dir/f replaced", below).gives(&["dir"], "/d", "d d\nf d/f replaced");
    on("f f f", "d real\nl la /real\nl ld /nowhere/yet").gives(
        &["f"],
        "/ld/",
        "d nowhere\nd nowhere/yet\nf nowhere/yet/f f",
    );
    on("f f f", "d real\nl la /real").gives(&["f"], "/la/", "d real\nf real/f f");
}

#[test]
fn drop_what_is_there_already() {
    if !is_root() {
        return;
    }
    let source = "f d/a same\nf d/b other\nd d/e\nl d/l x\np d/p";
    let here = on(source, source);
    here.gives(&["d"], "/d", "");
    on(source, "f d/a same\nf d/b OTHER\nd d/e\nl d/l x\np d/p").gives(&["d"], "/d", "d d\nf d/b other");
    on(source, "f d/a same\nf d/b other\nd,700 d/e\nl d/l y\nf d/p").gives(
        &["d"],
        "/d",
        "d d\nd d/e\nl d/l x\np d/p",
    );
    on(source, "f,600 d/a same\nf d/b other\nd d/e\nl d/l x\np d/p").gives(&["d"], "/d", "d d\nf d/a same");
    on("f d/empty \nf d/x/y/z same", "f d/empty \nf d/x/y/z same").gives(&["d"], "/d", "");
}

#[test]
fn go_on_reading_after_the_first_difference() {
    if !is_root() {
        return;
    }
    let long = |end: &str| format!("f f {}{end}", "0123456789abcdef".repeat(20_000));
    for (new, old) in [("a", "b"), ("", "")] {
        let (new, old) = (long(new), long(old));
        let expected = if new == old { "" } else { &new };
        on(&new, &old).gives(&["f"], "/f", expected);
    }
    let early = format!("f f X{}", "0123456789abcdef".repeat(20_000));
    let below = format!("f f Y{}", "0123456789abcdef".repeat(20_000));
    on(&early, &below).gives(&["f"], "/f", &early);
}

#[test]
fn keep_groups_of_hard_links_whole() {
    if !is_root() {
        return;
    }
    let group = "f d/a s\nh d/b d/a\nh d/c d/a";
    on(group, group).gives(&["d"], "/d", "");
    on(group, "f d/a s\nh d/b d/a").gives(&["d"], "/d", "d d\nf d/a s\nh d/b d/a\nh d/c d/a");
    on(group, "f d/a s\nf d/b s\nf d/c s").gives(&["d"], "/d", "d d\nf d/a s\nh d/b d/a\nh d/c d/a");
}

#[test]
fn mend_hard_links_that_nobody_announced() {
    let Some(below) = tree("f a s") else { return };
    let file = Entry {
        kind: EntryKind::File { size_bytes: 1 },
        mode: 0o644,
        ..implied_folder(&TreePath::cleaned(b"a"))
    };
    let file =
        Entry { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw(), ..file };
    let link = |path: &[u8]| Entry {
        path: TreePath::cleaned(path),
        kind: EntryKind::HardLink { target: file.path.clone() },
        ..file.clone()
    };
    let (folder, mut lines) = (FolderBelow::new(below.root.as_fd(), Default::default()), Lines::default());
    let mut placer = Placer::new(&folder, Conflicts::Refuse, &mut lines);
    placer.entry(&file, &mut &b"s"[..]).unwrap();
    placer.entry(&link(b"b"), &mut lithify_oci::entry::NoContent).unwrap();
    placer.entry(&link(b"c"), &mut lithify_oci::entry::NoContent).unwrap();
    placer.finish().unwrap();
    assert_eq!(lines.0, ["f b s", "h c b"]);
}

#[test]
fn replace_for_archives() {
    let Some(below) = tree("d x/was-folder/in\nf x/was-file f\nd,700 x/keep\nf x/keep/old o") else { return };
    let mine = |entry: Entry| Entry {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        ..entry
    };
    let folder = |path: &str| mine(implied_folder(&TreePath::cleaned(path.as_bytes())));
    let file = |path: &str| Entry { kind: EntryKind::File { size_bytes: 1 }, mode: 0o644, ..folder(path) };
    let (tree_below, mut lines) =
        (FolderBelow::new(below.root.as_fd(), Default::default()), Lines::default());
    let mut placer = Placer::new(&tree_below, Conflicts::Replace, &mut lines);
    for entry in [
        file("x/keep/new"),
        file("x/made/new"),
        folder("x/was-file"),
        file("x/was-file/in"),
        file("x/was-folder"),
    ] {
        placer.entry(&entry, &mut &b"n"[..]).unwrap();
    }
    assert_eq!(
        lines.0,
        [
            "d x",
            "d,700 x/keep",
            "f x/keep/new n",
            "d x/made",
            "f x/made/new n",
            "d x/was-file",
            "f x/was-file/in n",
            "f x/was-folder n"
        ]
    );
    assert!(exists(&below, "x/was-folder/in"), "the tree below is only read");
}

#[test]
fn link_knows_no_tree_below() {
    let link = Copy { link: true, ..on("f f f\nf d/g g", "d,700 p\nl l /real\nd real") };
    link.gives(&["f"], "/p/f", "d p\nf p/f f");
    link.gives(&["f"], "/l/f", "d l\nf l/f f");
    link.gives(&["d"], "/d/", "d d\nf d/g g");
    link.gives(&["f"], "/", "f f f");
}

#[test]
fn parents_leave_owners_of_existing_folders() {
    let rules = Rules { parents: true, ..Rules::default() };
    let parents = Copy { rules, ..on("d,750 home/node\nf home/node/x x", "d,700,33:34 home/node") };
    parents.gives(&["home/node/x"], "/", "d home\nd,750,33:34 home/node\nf home/node/x x");
}
