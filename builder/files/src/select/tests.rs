//! Derived from the recorded copy-, ignore-, exclude- and parents- cases.

use std::os::fd::AsFd;

use crate::arrange::Rules;
use crate::testing::{Copy, is_root, tree};

use super::*;

fn from(source: &str) -> Copy<'_> {
    Copy { source, ..Copy::default() }
}

#[test]
fn take_files_and_contents_of_folders() {
    let files = from("f a one\nf sub/b two\nf dir/c three\nf dir/deep/d four\nl dir/l c\nd,700 dir");
    files.gives(&["a"], "/b.txt", "f b.txt one");
    files.gives(&["./a"], "//odd//./path/../d", "d odd\nf odd/d one");
    files.gives(&["a"], "/new/deep/er/c", "d new\nd new/deep\nd new/deep/er\nf new/deep/er/c one");
    files.gives(&["dir"], "/out/", "d out\nf out/c three\nd out/deep\nf out/deep/d four\nl out/l c");
    files.gives(
        &["a", "sub/b", "dir"],
        "/x/",
        "d x\nf x/a one\nf x/b two\nf x/c three\nd x/deep\nf x/deep/d four\nl x/l c",
    );
    for pattern in [
        "dir/deep",
        "dir/deep/",
        "dir/deep/.",
        "./dir/deep",
        "/dir/deep",
        "../../dir/deep",
        "dir/./x/../deep",
    ] {
        files.gives(&[pattern], "/e", "d e\nf e/d four");
    }
    files.gives(&[".", "/"], "/src", "d src\nf src/a one\nd,700 src/dir\nf src/dir/c three\nd src/dir/deep\nf src/dir/deep/d four\nl src/dir/l c\nd src/sub\nf src/sub/b two");
}

#[test]
fn match_wildcards_by_component() {
    let files = from(
        "f a.txt a\nf b.txt b\nf c.md c\nf file1 1\nf filex x\nf file10 10\nf d1/in1/x.c x\nf d1/in1/x.h h\nf d2/in2/y.c y\nf .hidden h",
    );
    files.gives(&["*.txt"], "/s/", "d s\nf s/a.txt a\nf s/b.txt b");
    files.gives(&["file?"], "/s/", "d s\nf s/file1 1\nf s/filex x");
    files.gives(&["file[^0-9]"], "/s/", "d s\nf s/filex x");
    files.gives(&["d*/in?/*.c"], "/s/", "d s\nf s/x.c x\nf s/y.c y");
    files.gives(&["d*"], "/s/", "d s\nd s/in1\nf s/in1/x.c x\nf s/in1/x.h h\nd s/in2\nf s/in2/y.c y");
    files.gives(&["*h*"], "/s/", "d s\nf s/.hidden h");
    files.gives(&["none*"], "/s/", "");
    files.gives(&["a.txt", "none*"], "/s/", "d s\nf s/a.txt a");
    files.fails(&["missing/*.txt"], "/s/", "\"/missing\": not found");
    files.fails(&["[a"], "/s/", "cannot be understood");
    from("f a[b].txt b\nf ab.txt no").gives(&["a[[]b].txt"], "/x", "f x b");
}

#[test]
fn follow_links_of_sources_within_the_root() {
    let links = from(
        "f dir/real r\nl lf dir/real\nl ld dir\nl dir/inner real\nl dir/abs /etc/passwd\nl dir/dangling missing\nl esc ../../dir/real\nl abs /dir\nl chain abs\nl gone nothing\nl loop loop",
    );
    links.gives(&["lf"], "/file", "f file r");
    links.gives(
        &["ld"],
        "/out",
        "d out\nl out/abs /etc/passwd\nl out/dangling missing\nl out/inner real\nf out/real r",
    );
    links.gives(&["lf"], "/both/", "d both\nf both/lf r");
    links.gives(
        &["l[df]"],
        "/w/",
        "d w\nl w/abs /etc/passwd\nl w/dangling missing\nl w/inner real\nf w/lf r\nf w/real r",
    );
    links.gives(&["esc"], "/a", "f a r");
    links.gives(&["chain/real"], "/a", "f a r");
    links.fails(&["gone"], "/a", "not found");
    links.fails(&["loop"], "/a", "too many symbolic links");
    links.fails(&["lf/x"], "/a", "not a folder");
}

#[test]
fn keep_kinds_modes_and_hard_links() {
    if !is_root() {
        return;
    }
    let odd = Copy {
        from_stage: true,
        ..from(
            "d d\nf,4755 d/a s\nh d/b d/a\nd,2711 d/sub\nh d/sub/c d/a\np,640 d/pipe\ns d/sock\nf o x\nh d/o o\nf,0 d/none n",
        )
    };
    odd.gives(&["d"], "/d", "d d\nf,4755 d/a s\nh,4755 d/b d/a\nf,0 d/none n\nf d/o x\np,640 d/pipe\nd,2711 d/sub\nh,4755 d/sub/c d/a");
    odd.gives(&["d/b"], "/f", "f,4755 f s");
    odd.gives(&["d/sock"], "/x/f", "d x");
    odd.gives(&["d/pipe"], "/x/", "d x\np,640 x/pipe");
    let owned = "f f f\nd,750,5:6 d\nf,33:100 d/a a\nd,2750,5:6 d/sub\nf d/sub/b b";
    let stage = Copy { from_stage: true, ..from(owned) };
    stage.gives(&["d"], "/d", "d d\nf,33:100 d/a a\nd,2750,5:6 d/sub\nf d/sub/b b");
    stage.gives(&["/d/a"], "/file", "f,33:100 file a");
    from(owned).gives(&["d"], "/d", "d d\nf d/a a\nd,2750 d/sub\nf d/sub/b b");
}

#[test]
fn hide_what_the_ignore_file_names() {
    let source = "f keep.md k\nf drop.md d\nf src/a.c a\nf src/b.o b\nf src/need.o n\nf docs/x.md x\nf docs/readme/y.md y\nf docs/readme/z.txt z\nd docs/empty";
    let some = Copy {
        ignore: "*\n!keep.md\n!src\nsrc/*.o\n!src/need.o\ndocs/**\n!docs/readme/*.md",
        ..from(source)
    };
    some.gives(
        &["."],
        "/",
        "d docs\nd docs/readme\nf docs/readme/y.md y\nf keep.md k\nd src\nf src/a.c a\nf src/need.o n",
    );
    some.gives(&["docs/readme/y.md"], "/y", "f y y");
    some.gives(&["*.md"], "/m/", "d m\nf m/keep.md k");
    some.fails(&["drop.md"], "/", "\"/drop.md\": not found, because the pattern \"*\"");
    some.fails(&["docs/empty"], "/x", "not found");
    some.fails(&["kepe.md"], "/", "did you mean \"/keep.md\"?");
    let deep = "f c/x.o x\nf c/k k\nf c/m/y.o y\nf c/m/n/z.o z\nf c/a/f f\nf c/m/deep/f f\nf c/deepest/f k";
    let globstar = Copy { ignore: "**/*.o\nc/a/**\nc/**/deep", ..from(deep) };
    globstar.gives(&["c"], "/c", "d c\nd c/a\nd c/deepest\nf c/deepest/f k\nf c/k k\nd c/m\nd c/m/n");
}

#[test]
fn exclude_below_matched_folders_only() {
    let source = "f d/a.txt a\nf d/keep.md k\nf d/sub/c.txt c\nf d/sub/b b\nf d/sub/d d\nf hom1.txt t\nf home/a.txt a\nf home/b b";
    Copy { exclude: &["*.txt", "sub/b"], ..from(source) }.gives(
        &["d"],
        "/d",
        "d d\nf d/keep.md k\nd d/sub\nf d/sub/c.txt c\nf d/sub/d d",
    );
    Copy { exclude: &["*.txt"], ..from(source) }.gives(&["hom*"], "/m/", "d m\nf m/b b\nf m/hom1.txt t");
    Copy { exclude: &["**"], ..from(source) }.gives(&["d"], "/d", "d d");
    Copy { exclude: &["**", "!sub/c.txt"], ..from(source) }.gives(
        &["d"],
        "/d",
        "d d\nd d/sub\nf d/sub/c.txt c",
    );
    Copy { exclude: &["**/sub/**"], ..from(source) }.gives(
        &["d"],
        "/d",
        "d d\nf d/a.txt a\nf d/keep.md k\nd d/sub",
    );
    Copy { exclude: &["sub"], ..from(source) }.gives(&["d"], "/d", "d d\nf d/a.txt a\nf d/keep.md k");
}

#[test]
fn keep_parents() {
    let source = "d,700 a\nd,2711 a/b\nf a/b/f f\nf a/b/not n\nf src/a/x.c x\nf src/a/n/z.c z\nf src/a/n/deep/d.h d\nf src/b/y.c y\nf top.h t";
    let parents = Copy { rules: Rules { parents: true, ..Rules::default() }, ..from(source) };
    parents.gives(&["a/b/f", "top.h"], "/o/", "d o\nd,700 o/a\nd,2711 o/a/b\nf o/a/b/f f\nf o/top.h t");
    parents.gives(
        &["src/*/*.c"],
        "/o/",
        "d o\nd o/src\nd o/src/a\nf o/src/a/x.c x\nd o/src/b\nf o/src/b/y.c y",
    );
    parents.gives(
        &["**/*.h"],
        "/o/",
        "d o\nd o/src\nd o/src/a\nd o/src/a/n\nd o/src/a/n/deep\nf o/src/a/n/deep/d.h d\nf o/top.h t",
    );
    parents.gives(
        &["src/**/deep"],
        "/o/",
        "d o\nd o/src\nd o/src/a\nd o/src/a/n\nd o/src/a/n/deep\nf o/src/a/n/deep/d.h d",
    );
    parents.gives(&["a/./b/f"], "/o/", "d o\nd,2711 o/b\nf o/b/f f");
    parents.gives(&["./a/b/f"], "/o/", "d o\nd,700 o/a\nd,2711 o/a/b\nf o/a/b/f f");
    parents.gives(&["src/*/./*.c"], "/o/", "d o\nf o/x.c x\nf o/y.c y");
    parents.gives(
        &["src/a/n"],
        "/o/",
        "d o\nd o/src\nd o/src/a\nd o/src/a/n\nd o/src/a/n/deep\nf o/src/a/n/deep/d.h d\nf o/src/a/n/z.c z",
    );
    parents.fails(&["a/nope/f"], "/o/", "\"/a/nope/f\": not found");
    let owned = Rules { parents: true, owner: Some((7, 8)), ..Rules::default() };
    Copy { rules: owned, ..from(source) }.gives(
        &["a/b/f"],
        "/o/",
        "d,7:8 o\nd,700,7:8 o/a\nd,2711,7:8 o/a/b\nf,7:8 o/a/b/f f",
    );
}

#[test]
fn never_enter_what_is_hidden() {
    // A folder that nobody may read would fail if it were entered; root may read all, so the walk is asked instead.
    let Some(tree) = tree("f node_modules/a/b/c x\nf src/x y") else { return };
    let ignore = Ignore::parse(b"node_modules\n!other/*\n").unwrap();
    std::fs::remove_dir_all(tree.folder.path().join("node_modules/a")).unwrap();
    std::os::unix::fs::symlink("nowhere", tree.folder.path().join("node_modules/a")).unwrap();
    let options = Options { ignore: Some(&ignore), exclude: None, parents: false, tree: TreeKind::Context };
    let found = select(tree.root.as_fd(), b".", &options).unwrap();
    let paths: Vec<String> = found[0].entries().map(|selected| selected.entry.path.to_string()).collect();
    assert_eq!(paths, ["/src", "/src/x"]);
}

#[test]
fn open_only_files_and_never_through_links() {
    let Some(tree) = tree("f d/f x\nl l d\np p") else { return };
    let open = |path: &str| open_content(tree.root.as_fd(), &TreePath::cleaned(path.as_bytes()));
    assert!(open("d/f").is_ok());
    assert!(open("l/f").is_err());
    assert!(open("p").is_err());
    assert!(open("d").is_err());
}

#[test]
fn take_stand_ins_for_devices_outside_contexts() {
    let Some(tree) = tree("f,666 null \nf full 12") else { return };
    for name in ["null", "full"] {
        let path = tree.folder.path().join(name);
        let set =
            rustix::fs::lsetxattr(&path, crate::NODE_ATTRIBUTE, b"c 1 3", rustix::fs::XattrFlags::empty());
        if set.is_err() {
            return crate::testing::skipped("set attributes");
        }
    }
    let kinds = |kind| {
        let options = Options { ignore: None, exclude: None, parents: false, tree: kind };
        let found = select(tree.root.as_fd(), b"/", &options).unwrap();
        found[0].entries().map(|selected| selected.entry.kind).collect::<Vec<_>>()
    };
    let null = EntryKind::CharDevice(Device { major: 1, minor: 3 });
    assert_eq!(kinds(TreeKind::Image(Owners::Real)), [EntryKind::File { size_bytes: 2 }, null]);
    assert_eq!(
        kinds(TreeKind::Context),
        [EntryKind::File { size_bytes: 2 }, EntryKind::File { size_bytes: 0 }]
    );
}

#[test]
fn carry_capabilities() {
    let Some(tree) = tree("f,755 tool x\nh other tool") else { return };
    let value = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let path = tree.folder.path().join("tool");
    if rustix::fs::lsetxattr(&path, "security.capability", &value, rustix::fs::XattrFlags::empty()).is_err() {
        return crate::testing::skipped("set capabilities");
    }
    let options = Options { ignore: None, exclude: None, parents: false, tree: TreeKind::Context };
    let found = select(tree.root.as_fd(), b"/", &options).unwrap();
    for selected in found[0].entries() {
        assert_eq!(selected.entry.xattrs[&b"security.capability"[..]], value, "{}", selected.entry.path);
    }
}
