use super::*;

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\n# none\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    www-data:x:33:33:www:/var/www:/bin/false\napp:x:501:20:a:/srv/app:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nodd:x\n";
const GROUP: &[u8] =
    b"root:x:0:\ndaemon:x:1:\nadm:x:4:app,www-data\nusers:x:100:app\nwww-data:x:33:\ncrew:x:777:\n";

fn files(spec: &str, expected: (u32, u32)) {
    assert_eq!(for_files(spec, Some(PASSWD), Some(GROUP)), expected, "{spec}");
}

#[test]
fn own_files() {
    files("12", (12, 12));
    files("12:34", (12, 34));
    files("0:34", (0, 34));
    files("root", (0, 0));
    files("www-data", (33, 33));
    files("www-data:adm", (33, 4));
    files("33:adm", (33, 4));
    files("nobody:0", (65534, 0));
    files("app", (501, 20));
    files("app:crew", (501, 777));
    files("app:nosuch", (501, 20));
    files("app:", (501, 20));
    files("ghost", (0, 0));
    files("ghost:crew", (0, 777));
    files(":crew", (0, 777));
    files("5:root", (5, 0));
    files("odd", (0, 0));
    assert_eq!(for_files("app:crew", None, None), (0, 0));
    assert_eq!(for_files("7:8", None, None), (7, 8));
}

#[test]
fn know_what_needs_no_files() {
    for (spec, expected) in
        [("1", false), ("1:2", false), ("root", false), ("root:root", false), ("app", true), ("1:adm", true)]
    {
        assert_eq!(needs_files(spec), expected, "{spec}");
    }
}

fn process(spec: &str, expected: (u32, u32, &[u32], &str)) {
    let got = for_process(spec, Some(PASSWD), Some(GROUP)).unwrap();
    let (uid, gid, groups, home) = expected;
    assert_eq!(got, Identity { uid, gid, groups: groups.to_vec(), home: home.into() }, "{spec}");
}

#[test]
fn run_processes() {
    process("", (0, 0, &[], "/root"));
    process("root", (0, 0, &[], "/root"));
    process("www-data", (33, 33, &[4], "/var/www"));
    process("33", (33, 33, &[4], "/var/www"));
    process("daemon:users", (1, 100, &[], "/usr/sbin"));
    process("1234", (1234, 0, &[], "/"));
    process("5:www-data", (5, 33, &[], "/"));
    process("33:100", (33, 100, &[], "/var/www"));
    process("app", (501, 20, &[4, 100], "/srv/app"));
    process("app:999", (501, 999, &[], "/srv/app"));
    process("app:", (501, 20, &[4, 100], "/srv/app"));
    let bare = for_process("", None, None).unwrap();
    assert_eq!(bare, Identity { uid: 0, gid: 0, groups: vec![], home: b"/".to_vec() });
}

#[test]
fn refuse_processes_of_nobody() {
    for (spec, message) in [
        ("ghost", "unable to find user ghost"),
        ("root:ghosts", "unable to find group ghosts"),
        ("4294967295", "out of range"),
        ("1:99999999999", "out of range"),
    ] {
        let error = for_process(spec, Some(PASSWD), Some(GROUP)).unwrap_err().to_string();
        assert!(error.contains(message), "{spec}: {error}");
    }
}
