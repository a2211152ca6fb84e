//! Derived from the recorded copy-, chmod-, chown- and link- cases.

use crate::chmod;
use crate::testing::Copy;

use super::*;

fn from<'a>(source: &'a str, below: &'a str) -> Copy<'a> {
    Copy { source, below, ..Copy::default() }
}

fn with_mode<'a>(source: &'a str, mode: &str) -> Copy<'a> {
    Copy { rules: Rules { mode: Some(chmod::parse(mode).unwrap()), ..Rules::default() }, ..from(source, "") }
}

#[test]
fn later_sources_win() {
    let two = from("f x/f from-x\nf y/f from-y\nf x/only o", "");
    two.gives(&["x/f", "y/f"], "/o/", "d o\nf o/f from-y");
    two.gives(&["y/f", "x/f"], "/o/", "d o\nf o/f from-x");
    two.gives(&["x", "y"], "/o/", "d o\nf o/f from-y\nf o/only o");
    two.gives(&["x/f", "y/f"], "/o", "f o from-y");
    two.gives(&["x", "y/f"], "/o", "d o\nf o/f from-y\nf o/only o");
    two.fails(&["x/f", "y"], "/o", "cannot copy to non-directory \"/o\"");
}

#[test]
fn clashes_between_sources_are_errors() {
    let clash = from("f x/n file\nf y/n/in folder\nl z/n somewhere", "");
    clash.fails(&["x", "y"], "/o/", "cannot copy to non-directory \"/o/n\"");
    clash.fails(&["y", "x"], "/o/", "cannot replace to directory \"/o/n\"");
    clash.fails(&["y", "z"], "/o/", "cannot replace to directory \"/o/n\"");
    clash.fails(&["z", "y"], "/o/", "cannot copy to non-directory \"/o/n\"");
    clash.gives(&["z", "x"], "/o/", "d o\nf o/n file");
}

#[test]
fn a_link_group_outlives_its_first_name() {
    let links = from("f one/a shared\nh one/b one/a\nh one/c one/a\nf two/a new", "");
    links.gives(&["one", "two"], "/o/", "d o\nf o/a new\nf o/b shared\nh o/c o/b");
    links.gives(&["two", "one"], "/o/", "d o\nf o/a shared\nh o/b o/a\nh o/c o/a");
}

#[test]
fn modes_and_owners() {
    let d = "f,600 d/g g\nd,700 d/sub\nf d/sub/h h\nl d/l g\nf f f";
    with_mode(d, "0755").gives(&["d"], "/d", "d d\nf,755 d/g g\nl d/l g\nd d/sub\nf,755 d/sub/h h");
    with_mode(d, "4750").gives(&["f"], "/new/f", "d,750 new\nf,4750 new/f f");
    with_mode(d, "700").gives(&["f"], "/y/", "d,700 y\nf,700 y/f f");
    with_mode(d, "g=u,o=").gives(&["d"], "/d", "d d\nf,660 d/g g\nl d/l g\nd,770 d/sub\nf,660 d/sub/h h");
    let owned = Copy { rules: Rules { owner: Some((12, 34)), ..Rules::default() }, ..from(d, "d have\n") };
    owned.gives(&["d"], "/one/two", "d,12:34 one\nd,12:34 one/two\nf,600,12:34 one/two/g g\nl,12:34 one/two/l g\nd,700,12:34 one/two/sub\nf,12:34 one/two/sub/h h");
    owned.gives(&["f"], "/have/f", "d have\nf,12:34 have/f f");
}

#[test]
fn inline_files() {
    let inline = Copy { inline: &[("one", "hi"), ("two", "ho")], ..from("f f f", "d have") };
    inline.gives(&["f"], "/mix/", "d mix\nf mix/f f\nf mix/one hi\nf mix/two ho");
    inline.gives(&[], "/have", "d have\nf have/one hi\nf have/two ho");
    inline.gives(&[], "/script", "f script ho");
}

#[test]
fn make_work_directories() {
    let made = |dest: &Destination| make_directory(dest, (33, 34), Timestamp::default());
    let new = Destination::in_empty_tree("/new/sub", true).unwrap();
    let lines: Vec<String> =
        made(&new).unwrap().iter().map(|entry| crate::testing::line(entry, "")).collect();
    assert_eq!(lines, ["d,33:34 new", "d,33:34 new/sub"]);
    assert!(made(&Destination::in_empty_tree("/", true).unwrap()).unwrap().is_empty());
    let file = Destination { existing: Some(FileKind::File), ..new };
    assert!(made(&file).is_err());
}
