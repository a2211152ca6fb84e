//! What is mounted in the root tree, and what is left in it.

use lithify_sandbox::{MountSource, MountSpec, Process, Status};

use super::{run, status};
use crate::lab::{self, Request, descriptor, shell};

fn tmpfs(target: &str) -> MountSpec {
    MountSpec {
        target: target.into(),
        source: MountSource::Tmpfs { size_bytes: Some(1 << 20), mode: 0o1777 },
        read_only: false,
    }
}

fn content(target: &str, text: &str) -> MountSpec {
    let source = MountSource::Content { bytes: text.into(), mode: 0o644, uid: 0, gid: 0 };
    MountSpec { target: target.into(), source, read_only: false }
}

pub(super) fn mounts() {
    let mounts = vec![
        descriptor("/in/folder", 0, false),
        descriptor("/in/file", 1, true),
        tmpfs("/home"),
        content("/etc/hosts", "127.0.0.1 here\n"),
        tmpfs("/home/below"),
    ];
    let script = "cat /in/file /etc/hosts; echo no 2>/dev/null >/in/file; echo yes >/in/folder/f; echo lost >/home/f; stat -c %a /home; ls /home; echo more >>/etc/hosts";
    let process = Process { mounts, ..shell(script) };
    let outside = vec![("folder".into(), None), ("file".into(), Some("given\n".into()))];
    let Some(answer) = lab::run(&Request { process, outside, ..Request::default() }) else { return };
    assert_eq!(answer.stdout, "given\n127.0.0.1 here\n1777\nbelow\nf\n", "{answer:?}");
    // Only looked into: the folder is as it was.
    assert_eq!(answer.left, [("etc".to_owned(), "755 0:0 ".to_owned())]);
    let outside: Vec<_> = answer.outside.iter().map(|(path, what)| format!("{path} {what}")).collect();
    assert_eq!(outside, ["file 644 0:0 given\n", "folder 755 0:0 ", "folder/f 644 0:0 yes\n"]);
}

pub(super) fn mounts_stay_inside() {
    let check = |links: &[(&str, &str)], target: &str, found: &str| {
        let links = links.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        let process = Process { mounts: vec![content(target, "mounted")], ..shell(&format!("cat {found}")) };
        let Some(answer) = lab::run(&Request { process, links, ..Request::default() }) else { return };
        assert_eq!(answer.stdout, "mounted", "{target}: {answer:?}");
        // What was there before may have been looked into.
        assert!(answer.left.iter().all(|(path, _)| path == "etc" || path == "tmp"), "{target}: {answer:?}");
    };
    check(&[("etc/resolv.conf", "/run/resolve/stub.conf")], "/etc/resolv.conf", "/run/resolve/stub.conf");
    check(&[("etc/resolv.conf", "../run/stub.conf")], "/etc/resolv.conf", "/run/stub.conf");
    check(&[("out", "/../../../../../../tmp")], "/out/lithify-was-here", "/tmp/lithify-was-here");
    check(&[("out", "../../../..")], "/out/etc/lithify", "/etc/lithify");
    check(&[("a", "b"), ("b", "/c/d")], "/a/e/f", "/c/d/e/f");
    check(&[], "/x/../../../y/z", "/y/z");
    assert!(!std::path::Path::new("/tmp/lithify-was-here").exists());

    // A loop, and a link that is none but leads to whatever the kernel says.
    for to in ["loop", "/proc/1/root"] {
        let links = vec![("loop".into(), to.into())];
        let process = Process { mounts: vec![content("/loop/x", "")], ..shell("") };
        let Some(answer) = lab::run(&Request { process, links, ..Request::default() }) else { return };
        let error = answer.outcome.expect_err("a loop");
        assert!(error.starts_with("cannot mount on \"/loop/x\": Too many levels"), "{error}");
    }
}

pub(super) fn mount_points_leave_no_trace() {
    let mounts = vec![
        tmpfs("/new/deep/one"),
        tmpfs("/a/b/c"),
        content("/f/g", ""),
        content("/h", ""),
        descriptor("/i", 0, true),
    ];
    let script = "echo lost > /a/b/c/f && echo kept > /a/b/g; echo lost > /f/g";
    let outside = vec![("folder".into(), None)];
    let process = Process { mounts, ..shell(script) };
    let Some(answer) = lab::run(&Request { process, outside, ..Request::default() }) else { return };
    assert_eq!(answer.outcome.expect("it ran").created_mountpoints, Vec::<Vec<u8>>::new());
    let left: Vec<_> = answer.left.iter().map(|(path, what)| format!("{path} {what}")).collect();
    assert_eq!(left, ["a 755 0:0 ", "a/b 755 0:0 ", "a/b/g 644 0:0 kept\n"]);
}

pub(super) fn recorded_nodes() {
    let script = "
        cd /home && mknod null c 1 3 && mknod -m 640 ../tmp/disk b 8 300 && mknod /home/zero c 0 0 && mknod pipe p
        mkdir sub && ln -s /home/sub /tmp/link && (cd sub && mknod /tmp/link/big c 511 1048575)
        umask 077 && mknod /tmp/masked c 5 1 && chown 1000:1001 /tmp/masked && mknod /tmp/masked c 5 1
        mknod /none/x c 1 3; chmod 4755 null";
    let Some(answer) = run(shell(script)) else { return };
    let said: Vec<_> =
        answer.stderr.lines().map(|line| line.rsplit(": ").next().unwrap_or_default()).collect();
    assert_eq!(said, ["File exists", "No such file or directory"]);
    assert_eq!(answer.outcome.expect("it ran").recorded_nodes, 5);
    let left: Vec<_> = answer.left.iter().map(|(path, what)| format!("{path} {what}")).collect();
    let expected = [
        "home 755 0:0 ",
        "home/null 4755 0:0 c 1 3",
        "home/pipe 644 0:0 ",
        "home/sub 755 0:0 ",
        "home/sub/big 644 0:0 c 511 1048575",
        "home/zero 644 0:0 c 0 0",
        "tmp 1777 0:0 ",
        "tmp/disk 640 0:0 b 8 300",
        "tmp/link 777 0:0 ",
        "tmp/masked 600 1000:1001 c 5 1",
    ];
    assert_eq!(left, expected);
    let Some(answer) = run(Process { uid: 1000, gid: 1000, ..shell("mknod /tmp/x c 1 3") }) else { return };
    assert!(answer.stderr.contains("not permitted"), "{answer:?}");
    assert_eq!(answer.left, []);
}

pub(super) fn many_layers() {
    let check = |layers: usize, old_overlay: bool| {
        let process = shell("echo new > /etc/passwd; rm -r /home; mkdir /home; cat /etc/passwd");
        let request = Request { process, layers, old_overlay, ..Request::default() };
        let Some(answer) = lab::run(&request) else { return };
        assert_eq!(
            (status(&answer), answer.stdout.as_str()),
            (Status::Exited(0), "new\n"),
            "{layers}: {answer:?}"
        );
    };
    check(0, true);
    check(300, true);
    check(0, false);
    check(499, false);
}
