//! The second opinion must be right itself.

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::case::Case;
use crate::describe::Bases;
use crate::{Env, Image, Login, PlainUser, Running, TarReader, TokenRegistry, decoded, diff, in_repository};

/// A ustar header block for tests: name, type flag, link, size, with a right checksum.
fn header(name: &str, kind: u8, link: &str, size: usize) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000001\0");
    put(116, "0000002\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(157, link);
    put(257, "ustar\x0000");
    put(329, "0000010\0");
    put(337, "0000001\0");
    block[156] = kind;
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn member(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, link, content.len());
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|all| rest + all.to_string().len() == *all).expect("a length");
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

#[test]
fn tar_members_with_pax_values_of_any_bytes() {
    let value = b"a\nb=c\n5 x=y\n\0\xff";
    let pax = [record("SCHILY.xattr.user.a", value), record("path", "long/é name".as_bytes())].concat();
    let tar = [
        member("PaxHeaders/x", b'x', "", &pax),
        member("short", b'0', "", b"hello"),
        member("././@LongLink", b'L', "", &[b"y".repeat(300).as_slice(), b"\0"].concat()),
        member("short", b'5', "", b""),
        member("./a/../dev", b'3', "", b""),
    ]
    .concat();
    let mut reader = TarReader::new(tar.as_slice());
    let first = reader.next_member().expect("tar").expect("member");
    assert_eq!(first.path(), "/long/é name");
    assert_eq!(first.pax[b"SCHILY.xattr.user.a".as_slice()], value);
    assert_eq!((first.uid, first.gid, first.mode, first.size_bytes), (1, 2, 0o644, 5));
    let mut content = String::new();
    reader.read_to_string(&mut content).expect("content");
    assert_eq!(content, "hello");
    assert_eq!(reader.next_member().expect("tar").expect("member").path(), format!("/{}", "y".repeat(300)));
    let device = reader.next_member().expect("tar").expect("member");
    assert_eq!((device.path().as_str(), device.device), ("/dev", (8, 1)));
    assert_eq!(reader.next_member().expect("tar"), None);
}

#[test]
fn broken_tar_files_are_refused() {
    let whole = member("name", b'0', "", b"hello");
    let check = |bytes: &[u8], text: &str| {
        let mut reader = TarReader::new(bytes);
        let result = reader.next_member().and_then(|_| reader.next_member());
        let message = result.expect_err("should be refused").to_string();
        assert!(message.contains(text), "{message}");
    };
    check(&whole[..100], "inside a header");
    check(&whole[..600], "inside a member");
    check(&[&whole[..1], b"x", &whole[2..]].concat(), "checksum");
    check(&[header("x", b'x', "", 4), b"9 =\n".to_vec(), vec![0; 508]].concat(), "PAX");
}

/// Makes a layout with one image of these layers, uncompressed but for the last.
fn layout(env: &Env, layers: &[Vec<u8>]) -> Image {
    let folder = env.fresh("layout");
    std::fs::create_dir_all(folder.join("blobs/sha256")).expect("folder");
    let put = |bytes: &[u8]| {
        let (digest, size) = crate::image::sha256(&mut &*bytes).expect("a digest");
        std::fs::write(folder.join("blobs").join(digest.replace(':', "/")), bytes).expect("a blob");
        (digest, size)
    };
    let (mut ids, mut descriptors) = (Vec::new(), Vec::new());
    for (number, layer) in layers.iter().enumerate() {
        let blob = if number + 1 == layers.len() {
            zstd::encode_all(layer.as_slice(), 3).expect("zstd")
        } else {
            layer.clone()
        };
        ids.push(crate::image::sha256(&mut layer.as_slice()).expect("a digest").0);
        let (digest, size) = put(&blob);
        descriptors.push(json!({ "mediaType": "layer", "digest": digest, "size": size }));
    }
    let config =
        json!({ "config": { "User": "", "Cmd": ["x"], "Labels": {} }, "rootfs": { "diff_ids": ids } });
    let (config, size) = put(config.to_string().as_bytes());
    let manifest = json!({ "config": { "digest": config, "size": size }, "layers": descriptors });
    let (manifest, _) = put(manifest.to_string().as_bytes());
    let index = json!({ "manifests": [{ "digest": manifest }] });
    std::fs::write(folder.join("index.json"), index.to_string()).expect("index");
    let image = Image::from_layout(&folder).expect("a readable layout");
    image.validate().expect("a sound image");
    image
}

#[test]
fn images_are_described_with_whiteouts_and_links() {
    let env = Env::new("/bin/true");
    let below = [
        member("d", b'5', "", b""),
        member("d/old", b'0', "", b"1"),
        member("gone", b'0', "", b"1"),
        member("file", b'0', "", b"1"),
        member("link", b'1', "file", b""),
        member("proc", b'5', "", b""),
    ]
    .concat();
    let above = [
        member("d/new", b'0', "", b"2"),
        member("d/.wh..wh..opq", b'0', "", b""),
        member(".wh.gone", b'0', "", b""),
        member("sym", b'2', "to/x", b""),
    ]
    .concat();
    let bases = Bases::read(&in_repository("testdata/conformance/base")).expect("base images");
    let described = bases.describe(&layout(&env, &[below, above])).expect("a readable image");
    let one = "f 0644 1:2 1 6b86b273ff34fce1";
    let wanted = json!({
        "outcome": "ok",
        "config": { "Cmd": ["x"] },
        "tree": {
            "/d": "d 0644 1:2", "/d/new": "f 0644 1:2 1 d4735e3a265e16ee", "/file": one, "/link": one,
            "/proc": "d 0644 1:2", "/sym": "l - 1:2 -> to/x",
        },
        "removed": [],
        "hardlinks": [["/file", "/link"]],
        "layers": 2,
    });
    assert_eq!(described, wanted);
}

#[test]
fn differences_name_layer_entry_and_field() {
    let env = Env::new("/bin/true");
    let check = |one: &[Vec<u8>], other: &[Vec<u8>], text: &str| {
        let difference = diff::explain(&layout(&env, one), &layout(&env, other)).expect("readable images");
        assert!(difference.as_ref().is_some_and(|it| it.contains(text)), "{difference:?} should have {text}");
    };
    let same = member("same", b'0', "", b"1");
    let layer = |last: Vec<u8>| vec![same.clone(), [same.clone(), last].concat()];
    assert_eq!(
        diff::explain(&layout(&env, &layer(vec![])), &layout(&env, &layer(vec![]))).expect("images"),
        None
    );
    check(
        &layer(member("a", b'0', "", b"12345")),
        &layer(member("a", b'0', "", b"12x45")),
        "layer 2: entry /a: field content: byte 2",
    );
    check(
        &layer(member("a", b'0', "", b"1")),
        &layer(member("a", b'0', "", b"12")),
        "layer 2: entry /a: field size: 1 and 2",
    );
    check(
        &layer(member("a", b'2', "x", b"")),
        &layer(member("a", b'2', "y", b"")),
        "entry /a: field link: x and y",
    );
    check(
        &layer(member("a", b'0', "", b"")),
        &layer(member("b", b'0', "", b"")),
        "entry a stands where the other has b",
    );
    check(&layer(member("a", b'0', "", b"")), &layer(vec![]), "entry /a: only in one");
    check(&layer(vec![]), std::slice::from_ref(&same), "layer 1: one tar, compressed in two ways");
}

#[test]
fn cases_are_parsed_as_written() {
    let text = b"A comment: with a colon.\nargs: --build-arg 'A=b c' --label x=\"y \\\" z\"\nargs: -f sub/D $CTX/q\nfails: Some Text \n\
        compare: config, tree\n-- Dockerfile --\nFROM x\n-- no header\n-- a/b --\n\r\n-- empty --\n";
    let case = Case::parse("name", text).expect("a case");
    assert_eq!(case.args, ["--build-arg", "A=b c", "--label", "x=y \" z", "-f", "sub/D", "$CTX/q"]);
    assert_eq!(case.fails.as_deref(), Some("Some Text"));
    assert_eq!(case.compare, ["config", "tree"]);
    let files: Vec<(&str, &[u8])> =
        case.files.iter().map(|(path, text)| (path.as_str(), text.as_slice())).collect();
    assert_eq!(
        files,
        [("Dockerfile", b"FROM x\n-- no header\n".as_slice()), ("a/b", b"\r\n"), ("empty", b"")]
    );
    let flags = case.flags("/ctx".as_ref());
    assert_eq!(flags[4..], ["-f", "/ctx/sub/D", "/ctx/q"]);
    assert!(Case::parse("name", b"args: 'open\n").is_err());

    let got = |tree| json!({ "outcome": "ok", "config": {}, "tree": tree, "removed": [], "hardlinks": [], "layers": 1 });
    assert!(case.differences(&got(json!({})), &got(json!({})), "").is_empty());
    let found = case.differences(&got(json!({ "/a": "x" })), &got(json!({ "/a": "y" })), "");
    assert_eq!(found, [r#"tree /a: want "x", got "y""#]);
    let error = json!({ "outcome": "error" });
    assert!(case.differences(&error, &error, "it said SOME text").is_empty());
    assert_eq!(case.differences(&error, &error, "nothing").len(), 1);
    assert_eq!(case.differences(&error, &got(json!({})), "some text").len(), 1);
}

#[test]
fn every_case_in_the_repository_is_readable() {
    for entry in std::fs::read_dir(in_repository("testdata/conformance/cases")).expect("cases").flatten() {
        if entry.path().extension().is_some_and(|ext| ext == "txtar") {
            let case = Case::read(&entry.path()).expect("a case");
            assert!(!case.files.is_empty(), "{}", case.name);
        }
    }
}

#[test]
fn programs_are_run_with_limits() {
    let start = |script: &str| Running::start(Command::new("sh").args(["-c", script])).expect("sh");
    let ended = start("echo out; echo err >&2; exit 3").wait(Duration::from_secs(60));
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(3), "out\n", "err\n"));
    let ended = start("echo early; exec sleep 600").wait(Duration::from_millis(300));
    assert!(ended.timed_out && ended.code.is_none() && ended.stdout == "early\n", "{}", ended.summary());
    let mut running = start("echo one; echo two; exec sleep 600");
    running.wait_for_line("two", Duration::from_secs(60));
}

#[test]
fn plain_users_have_homes_and_ids_for_a_while() {
    let user = match PlainUser::with_subids() {
        Ok(user) => user,
        Err(why) => return crate::skipped("plain_users_have_homes_and_ids_for_a_while", &why),
    };
    let (name, home) = (user.name().to_owned(), user.home().to_owned());
    let other = PlainUser::without_subids().expect("a second user");
    let has_ids =
        |name: &str| std::fs::read_to_string("/etc/subuid").expect("subuid").contains(&format!("{name}:"));
    assert!(has_ids(&name) && !has_ids(other.name()));
    let env = Env::for_user("/bin/true", other);
    let ended =
        env.run_program("sh", ["-c", "id -u; touch $HOME/x; grep Groups /proc/self/status"]).expect_ok();
    assert_eq!(ended.stdout.lines().next().and_then(|id| id.parse().ok()), env.user().map(PlainUser::uid));
    env.run::<&str>([]).expect_ok();
    drop((user, env));
    assert!(!home.exists() && !has_ids(&name));
}

#[test]
fn registries_ask_for_what_they_should() {
    let name = "registries_ask_for_what_they_should";
    if let Some(why) = crate::missing_program(&["skopeo", "docker-registry"]) {
        return crate::skipped(name, &why);
    }
    let login = Login { name: "ada", password: "lovelace" };
    let registry = TokenRegistry::with_login(login).expect("a registry");
    let source = format!("oci:{}:latest", in_repository("testdata/conformance/base/busybox").display());
    let copy = |password: &str| {
        let output = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--dest-tls-verify=false",
                &format!("--dest-creds=ada:{password}"),
                &source,
            ])
            .arg(format!("docker://{}", registry.reference("a/b:1")))
            .output();
        output.expect("skopeo").status.success()
    };
    assert!(copy("lovelace"));
    assert!(
        registry.take_requests().iter().any(|one| one.path.starts_with("/token") && one.refused == Some(200))
    );
    assert!(!copy("wrong"));
    assert!(
        registry.take_requests().iter().any(|one| one.path.starts_with("/token") && one.refused == Some(401))
    );
}

#[test]
fn codecs_are_found_by_content() {
    let text = b"some text".as_slice();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text).expect("gzip");
    for blob in [text.to_vec(), gzip.finish().expect("gzip"), zstd::encode_all(text, 1).expect("zstd")] {
        let mut found = Vec::new();
        decoded(blob.as_slice()).expect("a codec").read_to_end(&mut found).expect("content");
        assert_eq!(found, text);
    }
}
