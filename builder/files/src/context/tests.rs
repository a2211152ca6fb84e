use std::os::fd::AsFd;

use crate::testing::{Lines, tree};

use super::*;

#[test]
fn stream_what_is_left() {
    let Some(tree) = tree("f a.x a\nf b b\nf d/c.x c\nl l b\nf,600 n/deep/f f") else { return };
    let ignore = Ignore::parse(b"*.x\n").unwrap();
    let scanned = scan(tree.root.as_fd(), &ignore).unwrap();
    let (mut lines, mut heard) = (Lines::default(), 0);
    stream(tree.root.as_fd(), &scanned, &mut |_, facts| heard += usize::from(facts.inode > 0), &mut lines)
        .unwrap();
    assert_eq!(lines.0, ["f b b", "d d", "f d/c.x c", "l l b", "d n", "d n/deep", "f,600 n/deep/f f"]);
    assert_eq!(heard, lines.0.len());
}
