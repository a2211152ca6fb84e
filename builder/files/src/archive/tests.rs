//! Derived from the recorded add- cases. Archives are written by another library.

use std::io::Write;
use std::os::fd::AsFd;

use lithify_oci::entry::NoContent;

use crate::arrange::{Origin, Part, Rules, arrange};
use crate::dest::{self, Destination};
use crate::place::{FolderBelow, Placer};
use crate::testing::{Lines, line, tree};

use super::*;

/// A tar of lines as in [`crate::testing`], in their order; `+` before a kind is for headers without it.
fn tar_of(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(vec![]);
    for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let (head, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
        let mut attributes = head.split(',');
        let kind = attributes.next().unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_mode(if kind == "d" { 0o755 } else { 0o644 });
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        for attribute in attributes {
            match attribute.split_once(':') {
                Some((uid, gid)) => {
                    (header.set_uid(uid.parse().unwrap()), header.set_gid(gid.parse().unwrap()))
                }
                None => (header.set_mode(u32::from_str_radix(attribute, 8).unwrap()), ()),
            };
        }
        let (kind, data) = match kind {
            "d" => (tar::EntryType::Directory, ""),
            "f" => (tar::EntryType::Regular, rest),
            "l" => (tar::EntryType::Symlink, ""),
            "h" => (tar::EntryType::Link, ""),
            "p" => (tar::EntryType::Fifo, ""),
            _ => panic!("unknown kind in {line:?}"),
        };
        header.set_entry_type(kind);
        match kind {
            tar::EntryType::Symlink | tar::EntryType::Link => {
                builder.append_link(&mut header, name, rest).unwrap();
            }
            _ => {
                header.set_size(data.len() as u64);
                builder.append_data(&mut header, name, data.as_bytes()).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn opened(bytes: &[u8]) -> io::Result<Option<Archive>> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    open(file)
}

fn lines(archive: &Archive) -> Vec<String> {
    let content =
        |item| archive.content(item).map(|content| io::read_to_string(content).unwrap()).unwrap_or_default();
    (0..archive.len()).map(|item| line(archive.entry(item), &content(item))).collect()
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let archive = opened(&tar_of(text)).unwrap().expect("an archive");
    assert_eq!(lines(&archive), expected.lines().map(str::trim).collect::<Vec<_>>(), "{text}");
}

#[test]
fn sort_and_settle() {
    check(
        "f z last\nd,711,5:6 d\nf,640,33:100 d/f hello\nf a first",
        "f a first\nd,711,5:6 d\nf,640,33:100 d/f hello\nf z last",
    );
    check("f a one\nf a two", "f a two");
    check("f d/f x", "f d/f x");
    check("d d\nf d/x x\nf d file", "f d file");
    check("f d file\nd d\nf d/x x", "d d\nf d/x x");
    check("d,700 d\nf d/x x\nd,711 d", "d,711 d\nf d/x x");
    check("d ./\nf ./a x", "f a x");
    check("l l d\nd d\nf l/in x", "d d\nf d/in x\nl l d");
    check("l l /d/e\nf l/in x", "f d/e/in x\nl l /d/e");
    check("l a b\nl b c\nf a/x x", "l a b\nl b c\nf c/x x");
    check("l l ../../..\nf l/in x", "f in x\nl l ../../..");
    check("l lib usr/lib\nd lib\nf lib/x x", "d lib\nf lib/x x");
    check("p,600 p", "p,600 p");
    check("f .wh.x plain", "f .wh.x plain");
}

#[test]
fn order_hard_links_anew() {
    check("f z shared\nh a z\nd d\nh d/m a", "f a shared\nd d\nh d/m a\nh z a");
    check("f a shared\nh b a\nf a new", "f a new\nf b shared");
    check("f a shared\nh b a\nh c b", "f a shared\nh b a\nh c a");
    check("l a target\nh b a", "l a target\nh,777 b a");
}

#[test]
fn refuse_what_cannot_be_unpacked() {
    let table = [
        ("f f x\nf f/x y", "is not a folder"),
        ("h a b\nf b x", "does not come before it"),
        ("d d\nh a d", "hard link to the folder"),
        ("l a b\nl b a\nf a/x x", "too many symbolic links"),
    ];
    for (text, message) in table {
        let error = opened(&tar_of(text)).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    let whole = tar_of("f a 0123456789\nf b 0123456789");
    assert!(opened(&whole[..1024 + 600]).is_err(), "cut off in a header");
}

#[test]
fn know_archives_by_their_content() {
    let plain = tar_of("f f hi");
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(vec![], bzip2::Compression::fast());
    bzip2.write_all(&plain).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(vec![], 1);
    xz.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&*plain, 1).unwrap();
    for bytes in [plain.clone(), gzip.finish().unwrap(), bzip2.finish().unwrap(), xz.finish().unwrap(), zstd]
    {
        assert_eq!(lines(&opened(&bytes).unwrap().expect("an archive")), ["f f hi"]);
    }
    let mut text = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    text.write_all(&b"no archive ".repeat(1000)).unwrap();
    let text = text.finish().unwrap();
    for bytes in [&b""[..], b"this is text", &[0; 10240], b"PK\x03\x04", &text, &text[..20], b"BZh9nonsense"]
    {
        assert!(opened(bytes).unwrap().is_none(), "{:?}", &bytes[..bytes.len().min(12)]);
    }
}

#[test]
fn expand_sparse_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::create(folder.path().join("s")).unwrap();
    file.write_at(b"middle", 300_000).unwrap();
    file.set_len(1_000_000).unwrap();
    std::fs::write(folder.path().join("z"), "after").unwrap();
    for format in ["--format=gnu", "--format=posix"] {
        let made = std::process::Command::new("tar")
            .args(["-S", format, "-C"])
            .arg(folder.path())
            .args(["-cf", "-", "s", "z"])
            .output();
        let Ok(made) = made else {
            return lithify_testkit::skipped("sparse archives", "tar is not installed");
        };
        let archive = opened(&made.stdout).unwrap().unwrap();
        let content = |item| io::read_to_string(archive.content(item).unwrap()).unwrap();
        assert_eq!(content(0).len(), 1_000_000, "{format}");
        assert_eq!(&content(0)[300_000..300_006], "middle", "{format}");
        assert_eq!(content(1), "after", "{format}");
    }
}

/// ADD of archives onto a tree: the lines of the layer.
fn add(archives: &[&str], below: &str, dest: &str, rules: Rules) -> Option<Vec<String>> {
    let below = tree(below)?;
    let destination: Destination = dest::inspect(below.root.as_fd(), dest, dest.ends_with('/')).unwrap();
    let open = |text: &&str| {
        let mut archive = opened(&tar_of(text)).unwrap().unwrap();
        let links = dest::links(below.root.as_fd(), &destination.path, &archive.folders()).unwrap();
        archive.follow(&links).unwrap();
        Part::Archive(archive)
    };
    let arrangement = arrange(archives.iter().map(open).collect(), &destination, &rules).unwrap();
    let (tree_below, mut lines) =
        (FolderBelow::new(below.root.as_fd(), Default::default()), Lines::default());
    let links = arrangement.hard_links();
    let mut placer = Placer::new(&tree_below, arrangement.conflicts(), &mut lines).with_hard_links(links);
    for placed in arrangement.items() {
        let Origin::Archive { part, item } = placed.origin else {
            placer.entry(&placed.entry, &mut NoContent).unwrap();
            continue;
        };
        let Part::Archive(archive) = &arrangement.parts()[part] else { panic!("part {part} is no archive") };
        match archive.content(item) {
            Ok(mut content) => placer.entry(&placed.entry, &mut content).unwrap(),
            Err(_) => placer.entry(&placed.entry, &mut NoContent).unwrap(),
        }
    }
    placer.finish().unwrap();
    Some(lines.0)
}

#[track_caller]
fn adds(archives: &[&str], below: &str, dest: &str, rules: Rules, expected: &str) {
    let Some(got) = add(archives, below, dest, rules) else { return };
    assert_eq!(got, expected.lines().map(str::trim).collect::<Vec<_>>(), "{archives:?} on {below:?}");
}

#[test]
fn add_archives() {
    let plain = Rules::default();
    adds(&["f,644,7:8 p/q/f f"], "", "/x/", plain.clone(), "d x\nd x/p\nd x/p/q\nf,7:8 x/p/q/f f");
    let owned = Rules { owner: Some((21, 22)), ..Rules::default() };
    adds(
        &["d,755,7:8 d\nf,4755,7:8 d/f f\nl,7:8 d/l f"],
        "",
        "/new/x",
        owned,
        "d,21:22 new\nd,21:22 new/x\nd,21:22 new/x/d\nf,4755,21:22 new/x/d/f f\nl,21:22 new/x/d/l f",
    );
    let mode = Rules { mode: Some(crate::chmod::parse("700").unwrap()), ..Rules::default() };
    adds(&["f,640 g g"], "", "/x/", mode, "d x\nf,640 x/g g");
    adds(
        &["f both 1\nf only1 1", "f,600,3:4 both second\nf,644,3:4 only2 2"],
        "",
        "/x",
        plain.clone(),
        "d x\nf,600,3:4 x/both second\nf x/only1 1\nf,3:4 x/only2 2",
    );
    adds(
        &["d,750,7:8 d\nf,644,7:8 d/f new"],
        "f x/d/stay s\nf x/d/f old\nl x/dl d",
        "/x",
        plain.clone(),
        "d x\nd,750,7:8 x/d\nf,7:8 x/d/f new",
    );
    adds(&["f f new"], "d f/in\nd real\nl l /real", "/", plain.clone(), "f f new");
    adds(&["f f f"], "d real/in\nl l /real", "/l/", plain.clone(), "d real\nf real/f f");
    adds(&["f a file", "d a\nf a/x x"], "", "/", plain.clone(), "d a\nf a/x x");
    adds(&["d a\nf a/x x", "f a file"], "", "/", plain, "f a file");
}

#[test]
fn unpack_through_links_that_are_there() {
    let below = "d usr/lib\nl lib usr/lib\nl abs /usr";
    adds(&["f lib/x.so x"], below, "/", Rules::default(), "d usr\nd usr/lib\nf usr/lib/x.so x");
    adds(&["d lib\nf lib/x.so x"], below, "/", Rules::default(), "d lib\nf lib/x.so x");
    adds(&["f abs/share/x x"], below, "/", Rules::default(), "d usr\nd usr/share\nf usr/share/x x");
    // Unpacking sees the destination as its root.
    adds(&["f l/x x"], "l d/l /in\nd in", "/d", Rules::default(), "d d\nd d/in\nf d/in/x x");
}

#[test]
fn open_only_regular_files_of_matches() {
    let Some(tree) = tree("d d\np p") else { return };
    std::fs::write(tree.folder.path().join("a.tar"), tar_of("f f hi")).unwrap();
    let options = crate::select::Options {
        ignore: None,
        exclude: None,
        parents: false,
        tree: crate::select::TreeKind::Context,
    };
    for (path, is_archive) in [("d", false), ("p", false), ("a.tar", true)] {
        let found = crate::select::select(tree.root.as_fd(), path.as_bytes(), &options).unwrap();
        let archive = open_match(tree.root.as_fd(), &found[0]).unwrap();
        assert_eq!(archive.is_some(), is_archive, "{path}");
    }
}
