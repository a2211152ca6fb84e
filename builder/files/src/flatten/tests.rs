use lithify_oci::layer::{TarWriter, Times};

use super::*;

/// `+name`, `+dir/`, `+link->target`, `+name=first` (a hard link), `-name` (a whiteout), `-dir/*` (an opaque folder).
fn layer(text: &str) -> Vec<u8> {
    let (mut bytes, mut tar) = (vec![], TarWriter::new(vec![], Times::Exact));
    for (number, word) in text.split_whitespace().enumerate() {
        let (path, kind) = match word.split_at(1) {
            ("+", rest) => match (rest.split_once("->"), rest.split_once('=')) {
                (Some((path, target)), _) => (path, EntryKind::Symlink { target: target.into() }),
                (_, Some((path, first))) => {
                    (path, EntryKind::HardLink { target: TreePath::cleaned(first.as_bytes()) })
                }
                _ if rest.ends_with('/') => (rest, EntryKind::Directory),
                _ => (rest, EntryKind::File { size_bytes: 3 }),
            },
            (_, rest) => match rest.strip_suffix("/*") {
                Some(path) => {
                    // lithify itself never writes one.
                    let mut header = tar::Header::new_ustar();
                    header.set_path(format!("{path}/.wh..wh..opq")).unwrap();
                    header.set_mode(0o600);
                    header.set_size(0);
                    header.set_cksum();
                    let so_far = std::mem::replace(&mut tar, TarWriter::new(vec![], Times::Exact));
                    bytes.extend(without_end(so_far));
                    bytes.extend_from_slice(header.as_bytes());
                    continue;
                }
                None => (rest, EntryKind::Whiteout),
            },
        };
        put(&mut tar, path, kind, b"abc", number as i64);
    }
    bytes.extend(tar.finish().unwrap());
    bytes
}

fn without_end(tar: TarWriter<Vec<u8>>) -> Vec<u8> {
    let mut bytes = tar.finish().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

fn put(tar: &mut TarWriter<Vec<u8>>, path: &str, kind: EntryKind, mut content: &[u8], seconds: i64) {
    let mode = if kind == EntryKind::Whiteout { 0 } else { 0o644 };
    let modified = Timestamp { seconds, nanoseconds: 0 };
    let path = TreePath::cleaned(path.as_bytes());
    let entry = Entry { path, kind, mode, uid: 1, gid: 2, modified, xattrs: BTreeMap::new() };
    match entry.kind {
        EntryKind::File { .. } => tar.entry(&entry, &mut content).unwrap(),
        _ => tar.entry(&entry, &mut NoContent).unwrap(),
    }
}

struct Seen(Vec<String>);

impl EntrySink for Seen {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let path = String::from_utf8_lossy(entry.path.as_bytes()).into_owned();
        self.0.push(match &entry.kind {
            EntryKind::Directory => format!("{path}/"),
            EntryKind::Symlink { target } => format!("{path}->{}", String::from_utf8_lossy(target)),
            EntryKind::HardLink { target } => {
                format!("{path}={}", String::from_utf8_lossy(target.as_bytes()))
            }
            EntryKind::File { .. } => {
                let mut text = String::new();
                content.open()?.read_to_string(&mut text)?;
                assert_eq!(text, "abc");
                path
            }
            other => format!("{path}:{other:?}"),
        });
        Ok(())
    }
}

fn flatten(layers: &[&str]) -> io::Result<String> {
    let folder = tempfile::tempdir()?;
    let mut tree = Flattened::new();
    for text in layers {
        tree.add(layer(text).as_slice(), None, folder.path())?;
    }
    let mut seen = Seen(vec![]);
    tree.stream(&mut seen)?;
    Ok(seen.0.join(" "))
}

fn check(layers: &[&str], expected: &str) {
    assert_eq!(flatten(layers).unwrap(), expected, "{layers:?}");
}

#[test]
fn layers_add_up() {
    check(&[], "");
    check(&["+b +a"], "a b");
    check(&["+d/ +d/a", "+d/ +d/b"], "d/ d/a d/b");
    check(&["+d/a"], "d/ d/a");
    check(&["+d/ +d/a", "+d"], "d");
    check(&["+d", "+d/ +d/a"], "d/ d/a");
}

#[test]
fn whiteouts_reach_what_is_below_only() {
    check(&["+a +b", "-a"], "b");
    check(&["+d/ +d/a +d/b", "-d"], "");
    check(&["+d/ +d/a", "-d +d/ +d/b"], "d/ d/b");
    check(&["+d/ +d/a", "+d/ +d/b -d"], "d/ d/b");
    check(&["+d/ +d/a", "+d/ -d/* +d/b"], "d/ d/b");
    check(&["+d/ +d/a", "+d/ +d/b -d/*"], "d/ d/b");
    check(&["-nothing +a"], "a");
}

#[test]
fn hard_links_are_one_file() {
    check(&["+b +c=b"], "b c=b");
    check(&["+b +a=b"], "a b=a");
    check(&["+b +c=b", "-b"], "c");
    check(&["+b +c=b", "+b"], "b c");
    check(&["+b", "+c=b"], "b c=b");
}

#[test]
fn links_to_folders_are_followed_inside() {
    check(&["+usr/ +usr/bin/ +bin->usr/bin", "+bin/sh"], "bin->usr/bin usr/ usr/bin/ usr/bin/sh");
    check(&["+etc/ +up->../../etc", "+up/x"], "etc/ etc/x up->../../etc");
    check(&["+e/ +abs->/e", "+abs/x"], "abs->/e e/ e/x");
}

#[test]
fn damaged_layers_are_refused() {
    for layers in [&["+a +a/b"][..], &["+c=b"], &["+a->b +b->a +a/x"]] {
        assert!(flatten(layers).is_err(), "{layers:?}");
    }
}
