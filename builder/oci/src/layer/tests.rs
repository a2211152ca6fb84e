use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};

use super::compress::ZLIB_RS_VERSION;
use super::*;
use crate::{Content, Device, Digest, Entry, EntryKind, EntrySink, FileDigest, Timestamp, TreePath};

fn path(text: impl AsRef<[u8]>) -> TreePath {
    TreePath::checked(text.as_ref()).unwrap()
}

fn entry(at: impl AsRef<[u8]>, kind: EntryKind) -> Entry {
    let whiteout = matches!(kind, EntryKind::Whiteout | EntryKind::Opaque);
    Entry {
        path: path(at),
        mode: if whiteout { 0 } else { 0o644 },
        uid: 0,
        gid: 0,
        modified: Timestamp::default(),
        xattrs: BTreeMap::new(),
        kind,
    }
}

fn file(at: impl AsRef<[u8]>, content: &[u8]) -> (Entry, Vec<u8>) {
    (entry(at, EntryKind::File { size_bytes: content.len() as u64 }), content.to_vec())
}

fn other(at: impl AsRef<[u8]>, kind: EntryKind) -> (Entry, Vec<u8>) {
    (entry(at, kind), vec![])
}

/// Keeps what it is given.
#[derive(Default)]
struct Kept(Vec<(Entry, Vec<u8>)>);

impl EntrySink for Kept {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let mut bytes = vec![];
        content.open()?.read_to_end(&mut bytes)?;
        self.0.push((entry.clone(), bytes));
        Ok(())
    }
}

fn tar_of(entries: &[(Entry, Vec<u8>)], times: Times) -> io::Result<Vec<u8>> {
    let mut writer = TarWriter::new(vec![], times);
    for (entry, content) in entries {
        writer.entry(entry, &mut &content[..])?;
    }
    writer.finish()
}

fn read_back(tar: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut kept = Kept::default();
    read_tar(tar, &mut kept, Limits::default())?;
    Ok(kept.0)
}

fn all_kinds() -> Vec<(Entry, Vec<u8>)> {
    let long = [b"d".repeat(150), b"/".to_vec(), b"n".repeat(101)].concat();
    let splits = [b"e".repeat(150), b"/".to_vec(), b"n".repeat(99)].concat();
    let mut capable = file("cap", b"#!");
    capable.0.xattrs.insert(b"security.capability".to_vec(), b"\x01\n\0\x02=\n".to_vec());
    capable.0.mode = 0o4755;
    let mut owned = file("owned", b"");
    (owned.0.uid, owned.0.gid) = (2_097_152, u32::MAX);
    let mut early = file("time", b"t");
    early.0.modified = Timestamp { seconds: -2, nanoseconds: 750_000_000 };
    let device = Device { major: 4095, minor: 1_048_575 };
    let mut all = vec![
        other("", EntryKind::Directory),
        other("gone", EntryKind::Whiteout),
        other("block", EntryKind::BlockDevice(device)),
        capable,
        other("char", EntryKind::CharDevice(Device { major: 1, minor: 3 })),
        other("dir", EntryKind::Directory),
        other("dir/gone too", EntryKind::Whiteout),
        file(b"dir/a\nb\xff\xfe", b"odd"),
        other("fifo", EntryKind::Fifo),
        other("hard", EntryKind::HardLink { target: path("dir/a\nb") }),
        file(&long, &[7; 513]),
        owned,
        file(&splits, &[8; 512]),
        other("sym", EntryKind::Symlink { target: b"t".repeat(101) }),
        early,
    ];
    all.sort_by(|(one, _), (other, _)| {
        let side = |entry: &Entry| entry.kind == EntryKind::Whiteout;
        layer_order((&one.path, side(one)), (&other.path, side(other)))
    });
    all
}

#[test]
fn what_is_written_is_read_back() {
    let all = all_kinds();
    assert_eq!(read_back(&tar_of(&all, Times::Exact).unwrap()).unwrap(), all);
    let mut whole = all.clone();
    for (entry, _) in &mut whole {
        entry.modified.nanoseconds = 0;
    }
    assert_eq!(read_back(&tar_of(&all, Times::Preserve).unwrap()).unwrap(), whole);
    for (entry, _) in &mut whole {
        entry.modified.seconds = 77;
    }
    assert_eq!(read_back(&tar_of(&all, Times::At(77)).unwrap()).unwrap(), whole);
}

#[test]
fn other_programs_read_what_is_written() {
    // The `tar` crate splits PAX records at line ends, so no attribute here.
    let all: Vec<_> = all_kinds().into_iter().filter(|(entry, _)| entry.xattrs.is_empty()).collect();
    let bytes = tar_of(&all, Times::default()).unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut seen = 0;
    for (theirs, (ours, content)) in archive.entries().unwrap().zip(&all) {
        let mut theirs = theirs.unwrap();
        let name = theirs.path_bytes().into_owned();
        if !matches!(ours.kind, EntryKind::Whiteout) && !ours.path.is_root() {
            assert_eq!(name.strip_suffix(b"/").unwrap_or(&name), ours.path.as_bytes());
        }
        let mut read = vec![];
        theirs.read_to_end(&mut read).unwrap();
        assert_eq!(&read, content);
        seen += 1;
    }
    assert_eq!(seen, all.len());
}

#[test]
fn the_bytes_of_a_plain_layer_do_not_change() {
    let entries = [
        other("bin", EntryKind::Directory),
        other("bin/old", EntryKind::Whiteout),
        file("bin/sh", b"#!"),
        other("lib", EntryKind::Symlink { target: b"usr/lib".to_vec() }),
    ];
    let bytes = tar_of(&entries, Times::default()).unwrap();
    assert_eq!(bytes.len(), 512 * 7);
    assert_eq!(&bytes[512..525], b"bin/.wh.old\0\0");
    let digest = Digest::of(&bytes).to_string();
    assert_eq!(digest, "sha256:0628a4c833d10d9f0659bd570e54556cbb79b6381b79220f2283490f75604779");
}

#[test]
fn a_layer_refuses_what_it_may_not_hold() {
    let check = |entries: &[(Entry, Vec<u8>)], expected: &str| {
        let error = tar_of(entries, Times::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&[file("b", b""), file("a", b"")], "out of order");
    check(&[file("a", b""), file("a", b"")], "out of order");
    check(&[file("a", b""), other("b", EntryKind::Whiteout)], "out of order");
    check(&[file("a-b", b""), file("a/b", b"")], "out of order");
    check(&[other("a", EntryKind::Opaque)], "opaque");
    check(&[file(".wh.a", b"")], "names that start with .wh.");
    check(&[file("", b"")], "the root is a folder");
    let mut short = file("a", b"12");
    short.1.pop();
    check(&[short], "became shorter");
}

/// A header of any kind, sealed; the caller may have spoilt it before.
fn raw(name: &str, kind: u8, size: usize, spoil: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut header = header::Header::new(kind);
    let mut records = BTreeMap::new();
    header.set_name(name.as_bytes(), &mut records);
    header.set_size(size as u64, &mut records);
    spoil(&mut header.0);
    header.seal();
    header.0.to_vec()
}

fn with_content(mut header: Vec<u8>, content: &[u8]) -> Vec<u8> {
    header.extend_from_slice(content);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

/// A PAX header with these `key=value` records.
fn pax_of(records: &[&str]) -> Vec<u8> {
    let one = |record: &&str| {
        let length = (0..).find(|length: &usize| length.to_string().len() + record.len() + 2 == *length);
        format!("{} {record}\n", length.unwrap())
    };
    pax(&records.iter().map(one).collect::<String>())
}

fn pax(records: &str) -> Vec<u8> {
    with_content(raw("pax", b'x', records.len(), |_| {}), records.as_bytes())
}

#[test]
fn foreign_forms_are_understood() {
    let check = |parts: &[Vec<u8>], expected: &[(Entry, Vec<u8>)]| {
        assert_eq!(read_back(&parts.concat()).unwrap(), expected);
    };
    let link =
        |target: &'static [u8]| move |h: &mut [u8; 512]| h[157..157 + target.len()].copy_from_slice(target);
    let plain = |name: &str| raw(name, b'0', 0, |_| {});
    let nothing = |name: &str| {
        let mut entry = file(name, b"");
        entry.0.mode = 0;
        entry
    };
    let folder = |name: &str| {
        let mut entry = other(name, EntryKind::Directory);
        entry.0.mode = 0;
        entry
    };
    let special = |name: &str, kind| {
        let mut entry = other(name, kind);
        entry.0.mode = 0;
        entry
    };
    check(&[plain("/abs"), plain("./dot")], &[nothing("abs"), nothing("dot")]);
    check(&[raw("old/", 0, 0, |_| {}), raw("new", 0, 0, |_| {})], &[folder("old"), nothing("new")]);
    let long = "l".repeat(300);
    check(
        &[
            with_content(raw("././@LongLink", b'L', 301, |_| {}), format!("{long}\0").as_bytes()),
            plain("cut"),
        ],
        &[nothing(&long)],
    );
    check(
        &[
            with_content(raw("././@LongLink", b'K', 301, |_| {}), format!("{long}\0").as_bytes()),
            raw("sym", b'2', 0, link(b"cut")),
        ],
        &[special("sym", EntryKind::Symlink { target: long.clone().into() })],
    );
    check(
        &[pax_of(&["path=from record"]), plain("cut")],
        &[].into_iter().chain([nothing("from record")]).collect::<Vec<_>>(),
    );
    check(&[pax_of(&["path=x", "path="]), plain("kept")], &[nothing("kept")]);
    check(&[with_content(raw("g", b'g', 14, |_| {}), b"14 comment=ab\n"), plain("git")], &[nothing("git")]);
    check(&[raw("volume", b'V', 0, |_| {}), plain("a")], &[nothing("a")]);
    check(
        &[plain("d/.wh..wh..opq"), plain("d/.wh.x"), plain(".wh..wh.plnk/1.2"), plain(".wh..wh.aufs")],
        &[other("d", EntryKind::Opaque), other("d/x", EntryKind::Whiteout)],
    );
    // Links and folders have no data, whatever their size says.
    check(
        &[raw("hard", b'1', 5, link(b"/../a/./b".strip_prefix(b"/..").unwrap())), plain("after")],
        &[special("hard", EntryKind::HardLink { target: path("a/b") }), nothing("after")],
    );
    let base256 = |h: &mut [u8; 512]| h[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    let mut owned = nothing("big");
    owned.0.uid = 0x7fff_ffff;
    check(&[raw("big", b'0', 0, base256)], &[owned]);
}

#[test]
fn sparse_files_are_expanded() {
    let mut expected = vec![0; 20];
    expected[4..7].copy_from_slice(b"abc");
    expected[10..12].copy_from_slice(b"de");
    let check = |parts: &[Vec<u8>]| {
        let read = read_back(&parts.concat()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].0.path.clone(), &read[0].1), (path("s"), &expected));
        assert_eq!(read[0].0.kind, EntryKind::File { size_bytes: 20 });
    };
    let old = |h: &mut [u8; 512]| {
        let mut number =
            |at: usize, value: u32| h[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
        for (at, value) in [(386, 4), (398, 3), (410, 10), (422, 2), (483, 20)] {
            number(at, value);
        }
    };
    let old_magic = |h: &mut [u8; 512]| {
        h[257..265].copy_from_slice(b"ustar  \0");
        old(h);
    };
    check(&[with_content(raw("s", b'S', 5, old_magic), b"abcde")]);
    check(&[
        pax_of(&[
            "GNU.sparse.major=0",
            "GNU.sparse.minor=1",
            "GNU.sparse.realsize=20",
            "GNU.sparse.map=4,3,10,2",
        ]),
        with_content(raw("s", b'0', 5, |_| {}), b"abcde"),
    ]);
    check(&[
        pax_of(&[
            "GNU.sparse.size=20",
            "GNU.sparse.offset=4",
            "GNU.sparse.numbytes=3",
            "GNU.sparse.offset=10",
            "GNU.sparse.numbytes=2",
        ]),
        with_content(raw("s", b'0', 5, |_| {}), b"abcde"),
    ]);
    let mut map = b"2\n4\n3\n10\n2\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"abcde");
    check(&[
        pax_of(&["GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s", "GNU.sparse.realsize=20"]),
        with_content(raw("GNUSparseFile.0/s", b'0', 517, |_| {}), &map),
    ]);
}

#[test]
fn hostile_archives_are_refused() {
    let check = |parts: &[Vec<u8>], expected: &str| {
        let error = read_back(&parts.concat()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    };
    let plain = |name: &str| raw(name, b'0', 0, |_| {});
    let link =
        |target: &'static [u8]| move |h: &mut [u8; 512]| h[157..157 + target.len()].copy_from_slice(target);
    check(&[plain("../a")], "component ..");
    check(&[plain("a/../../b")], "component ..");
    check(&[raw("a", b'1', 0, link(b"../b"))], "component ..");
    check(&[raw("a", b'1', 0, link(b"/"))], "is the root");
    check(&[raw("a", b'2', 0, |_| {})], "no target");
    check(&[plain(".")], "the root can be nothing but a folder");
    check(&[plain(".wh.")], "names no file");
    check(&[plain("a/.wh...")], "names no file");
    check(&[plain(".wh.a/b")], "below a whiteout");
    check(&[raw("a", b'M', 0, |_| {})], "'M' are not known");
    check(&[raw("a", b'0', 0, |h| h[124] = b'9')], "no octal number");
    check(&[raw("a", b'0', 0, |h| h[124..136].fill(0xff))], "size -1 is out of range");
    check(
        &[raw("a", b'0', 0, |h| h[108..116].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0]))],
        "owner 4294967296",
    );
    check(
        &[{
            let mut spoilt = plain("a");
            spoilt[0] = b'b';
            spoilt
        }],
        "checksum",
    );
    check(&[plain("a")[..100].to_vec()], "cut off");
    check(&[raw("a", b'0', 600, |_| {})], "cut off");
    check(&[raw("a", b'x', 600, |_| {})], "cut off");
    check(&[raw("a", b'x', 2 << 20, |_| {})], "longer than");
    check(&[vec![0; 512], plain("a")], "single block of zeros");
    check(&[pax("9999 path=x\n"), plain("a")], "malformed");
    check(&[pax("3 =\n"), plain("a")], "malformed");
    check(&[pax("-9 path=x\n"), plain("a")], "malformed");
    check(&[pax("10 path=x\n\n"), plain("a")], "malformed");
    check(&[pax_of(&["path=\0\0"]), plain("a")], "NUL");
    check(&[pax_of(&["size=-1"]), plain("a")], "out of range");
    check(&[pax_of(&["mtime=1.2.3"]), plain("a")], "no decimal");
    check(&[pax_of(&["GNU.sparse.major=2"]), plain("a")], "2.0 is not known");
    check(&[pax_of(&["GNU.sparse.size=2", "GNU.sparse.map=0,1,0"]), plain("a")], "not known");
    check(&[pax_of(&["GNU.sparse.size=2", "GNU.sparse.map=1,2"]), plain("a")], "overlap or lie outside");
    let limits = Limits { entries: 1, ..Limits::default() };
    let two = [plain("a"), plain("b")].concat();
    let error = read_tar(&two[..], &mut Kept::default(), limits).unwrap_err().to_string();
    assert!(error.contains("more than 1 entries"), "{error}");
}

#[test]
fn plain_archives_have_no_whiteouts() {
    let mut kept = Kept::default();
    let tar = raw(".wh.a", b'0', 0, |_| {});
    read_archive(&tar[..], &mut kept, Limits::default()).unwrap();
    assert_eq!(kept.0[0].0.path, path(".wh.a"));
}

/// Bytes that compress a little.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"abcdefghijklmnop"[(state >> 28) as usize]
    };
    (0..length).map(|_| next()).collect()
}

const COMPRESSIONS: [Compression; 3] =
    [Compression::None, Compression::Gzip { level: 6 }, Compression::Zstd { level: 3 }];

#[test]
fn threads_do_not_show_in_the_bytes() {
    for compression in COMPRESSIONS {
        for size in [0, 1000, (256 << 10) - 1536, (256 << 10) - 1535, 1 << 20, 20 << 20] {
            let entries = [file("f", &noise(size))];
            let layers = [1, 2, 4].map(|threads| {
                let mut writer =
                    LayerWriter::with_threads(vec![], compression, Times::default(), threads).unwrap();
                writer.entry(&entries[0].0, &mut &entries[0].1[..]).unwrap();
                let (blob, Written { layer, catalogue, .. }) = writer.finish().unwrap();
                assert_eq!(layer.blob.digest, Digest::of(&blob));
                assert_eq!(layer.blob.size_bytes, blob.len() as u64);
                let catalogue = Catalogue::read(catalogue).unwrap();
                let found = catalogue.find(&path("f")).unwrap().unwrap();
                assert_eq!(found.digest, Some(FileDigest::of(&entries[0].1)));
                let mut plain = vec![];
                decompress(&blob[..]).unwrap().read_to_end(&mut plain).unwrap();
                assert_eq!(
                    (Digest::of(&plain), plain.len() as u64),
                    (layer.diff_id, layer.uncompressed_size_bytes)
                );
                assert_eq!(read_back(&plain).unwrap(), entries);
                layer
            });
            assert_eq!(layers[0], layers[1], "{compression:?} {size}");
            assert_eq!(layers[0], layers[2], "{compression:?} {size}");
        }
    }
}

#[test]
fn joined_members_and_frames_are_read() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let check = |joined: &[u8], expected: &[u8]| {
        let mut plain = vec![];
        decompress(Cursor::new(joined)).unwrap().read_to_end(&mut plain).unwrap();
        assert_eq!(plain, expected);
    };
    check(&[gzip(b"one"), gzip(b"two")].concat(), b"onetwo");
    check(&[zstd(b"one"), zstd(b"two")].concat(), b"onetwo");
    let skippable = b"\x50\x2a\x4d\x18\x02\0\0\0..".to_vec();
    check(&[skippable.clone(), zstd(b"one"), skippable].concat(), b"one");
    check(b"", b"");
    check(b"x", b"x");
    let mut plain = vec![];
    assert!(decompress(&gzip(b"cut")[..12]).unwrap().read_to_end(&mut plain).is_err());
    assert!(decompress(&zstd(&noise(5000))[..100]).unwrap().read_to_end(&mut plain).is_err());
}

#[test]
fn a_writer_that_fails_ends_the_layer() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for compression in COMPRESSIONS {
        for size in [100_000, 30 << 20] {
            let mut writer = LayerWriter::new(Full(50_000), compression, Times::default()).unwrap();
            let (entry, content) = file("f", &noise(size));
            let result = writer.entry(&entry, &mut &content[..]).and_then(|()| writer.finish().map(drop));
            let failed = result.err().map(|error| error.kind());
            let expected =
                (size > 100_000 || compression == Compression::None).then_some(io::ErrorKind::StorageFull);
            assert!(failed == expected || size == 100_000, "{compression:?} {size} {failed:?}");
        }
    }
}

#[test]
fn a_catalogue_holds_every_entry() {
    let items: Vec<_> = all_kinds()
        .into_iter()
        .chain([other("z", EntryKind::Opaque)])
        .map(|(entry, content)| CatalogueEntry {
            digest: matches!(entry.kind, EntryKind::File { .. }).then(|| FileDigest::of(content)),
            compiled: None,
            entry,
        })
        .chain([InLayer::AsInTree, InLayer::AsSource].map(|in_layer| CatalogueEntry {
            entry: file("zz", b"content").0,
            digest: Some(FileDigest::of("content")),
            compiled: Some(Compiled { source_seconds: u32::MAX, in_layer }),
        }))
        .collect();
    let catalogue = Catalogue::write(&items).unwrap();
    let read = Catalogue::read(catalogue.as_bytes().to_vec()).unwrap();
    assert_eq!(read.entries().unwrap().collect::<io::Result<Vec<_>>>().unwrap(), items);
    assert_eq!(read.find(&path("fifo")).unwrap().unwrap().entry.kind, EntryKind::Fifo);
    assert_eq!(read.find(&path("nowhere")).unwrap(), None);
    let cut = catalogue.as_bytes()[..catalogue.as_bytes().len() - 9].to_vec();
    assert!(Catalogue::read(cut).unwrap().entries().unwrap().any(|item| item.is_err()));
    assert!(Catalogue::read(b"something else".to_vec()).is_err());
}

#[test]
fn whiteouts_come_first_in_their_folder() {
    let mut all = [
        ("b", false),
        ("a/z", true),
        ("a-", false),
        ("a/b", false),
        ("c", true),
        ("a", false),
        ("a/b/c", true),
    ];
    all.sort_by(|one, other| layer_order((&path(one.0), one.1), (&path(other.0), other.1)));
    let names = all.map(|(name, _)| name);
    assert_eq!(names, ["c", "a", "a/z", "a/b", "a/b/c", "a-", "b"]);
}

#[test]
fn identities_name_the_compressor_that_is_used() {
    assert_eq!(Compression::default().identity(), "zstd-1.5.7-3");
    let lock = include_str!("../../../../Cargo.lock");
    assert!(lock.contains(&format!("name = \"zlib-rs\"\nversion = \"{ZLIB_RS_VERSION}\"")));
    assert!(Compression::Gzip { level: 6 }.identity().ends_with("-6"));
}

#[test]
fn sources_of_compiled_files() {
    let check = |at: &str, expected: Option<&str>| {
        let source = source_of(&file(at, &[0; 16]).0);
        assert_eq!(source, expected.map(path), "{at}");
    };
    check("a/__pycache__/m.cpython-311.pyc", Some("a/m.py"));
    check("__pycache__/m.cpython-311.opt-2.pyc", Some("m.py"));
    check("a/__pycache__/m.pyc", None);
    check("a/__pycache__/.cpython-311.pyc", None);
    check("a/__pycache__/m.n.cpython-311.opt-2.pyc", None);
    check("a/m.cpython-311.pyc", None);
    check("a/__pycache__/m.cpython-311.py", None);
    assert_eq!(source_of(&file("__pycache__/m.x.pyc", &[0; 15]).0), None);
    assert_eq!(source_of(&entry("__pycache__/m.x.pyc", EntryKind::Fifo)), None);
}

#[test]
fn headers_of_compiled_files() {
    let header = |start: &[u8; 8]| [&start[..], &1_700_000_000_u32.to_le_bytes(), &[7, 0, 0, 0]].concat();
    let found = |content: &[u8]| Compiled::of_header(content).map(|compiled| compiled.source_seconds);
    let by_time = header(b"\xa7\x0d\x0d\x0a\0\0\0\0");
    assert_eq!(found(&by_time), Some(1_700_000_000));
    assert_eq!(found(&header(b"\xa7\x0d\x0d\x0a\x01\0\0\0")), None, "by a hash");
    assert_eq!(found(&header(b"\xa7\x0d\x0d\x0d\0\0\0\0")), None, "no magic number");
    assert_eq!(found(&by_time[..15]), None);
    let content = [&by_time[..], b"code"].concat();
    let mut mended = vec![];
    let mut plain = &content[..];
    Mended { content: &mut plain, source_seconds: 5 }.open().unwrap().read_to_end(&mut mended).unwrap();
    assert_eq!(found(&mended), Some(5));
    assert_eq!((&mended[..8], &mended[12..]), (&content[..8], &content[12..]));
}
