//! What is tried.

mod trees;

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use lithify_sandbox::{Network, Process, Security, Status};

use crate::lab::{self, Answer, Request, shell};

type Test = (&'static str, fn());

pub(crate) const ALL: &[Test] = &[
    ("exit_codes", exit_codes),
    ("working_folder", working_folder),
    ("identity", identity),
    ("environment_and_descriptors", environment_and_descriptors),
    ("capabilities", capabilities),
    ("setuid", setuid),
    ("refused_calls", refused_calls),
    ("masked_paths", masked_paths),
    ("devices", devices),
    ("networks", networks),
    ("mounts", trees::mounts),
    ("mounts_stay_inside", trees::mounts_stay_inside),
    ("mount_points_leave_no_trace", trees::mount_points_leave_no_trace),
    ("recorded_nodes", trees::recorded_nodes),
    ("limits", limits),
    ("background_processes_end", background_processes_end),
    ("timeout_and_cancel", timeout_and_cancel),
    ("killed_worker_leaves_nothing", killed_worker_leaves_nothing),
    ("killed_parent_leaves_nothing", killed_parent_leaves_nothing),
    ("many_layers", trees::many_layers),
    ("side_by_side", side_by_side),
    ("overhead", overhead),
    ("as_plain_user", as_plain_user),
];

fn run(process: Process) -> Option<Answer> {
    lab::run(&Request { process, ..Request::default() })
}

/// Runs `process` and compares its standard output, after which nothing is to be left in the tree.
#[track_caller]
fn check(process: Process, expected: &str) {
    let Some(answer) = run(process) else { return };
    assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), (expected, ""), "{:?}", answer.outcome);
}

fn status(answer: &Answer) -> Status {
    answer.outcome.as_ref().expect("it ran").status
}

fn exit_codes() {
    let check = |args: &[&str], expected: Status, message: &str| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let Some(answer) = run(Process { args, ..shell("") }) else { return };
        assert_eq!((status(&answer), answer.stderr.trim()), (expected, message));
    };
    check(&["true"], Status::Exited(0), "");
    check(&["/bin/sh", "-c", "exit 7"], Status::Exited(7), "");
    check(&["no-such"], Status::Exited(127), r#"exec: "no-such": executable file not found in $PATH"#);
    check(
        &["/no-such"],
        Status::Exited(127),
        r#"exec: "/no-such": stat /no-such: no such file or directory"#,
    );
    check(&["/bin/noexec"], Status::Exited(126), r#"exec: "/bin/noexec": permission denied"#);
    check(&["noexec"], Status::Exited(126), r#"exec: "noexec": permission denied"#);
    check(&["/bin"], Status::Exited(126), r#"exec: "/bin": is a directory"#);
    check(
        &["script"],
        Status::Exited(126),
        "exec /bin/script: exec format error (it is no program for this machine, and has no #! line)",
    );
    check(&[], Status::Exited(127), "exec: there is no command");
    // A first process has no default handlers, so its own signals do nothing, as in any container.
    check(&["sh", "-c", "kill -9 $$; exit 3"], Status::Exited(3), "");
}

fn working_folder() {
    check(Process { cwd: "/home".into(), ..shell("pwd") }, "/home\n");
    let user = Process { uid: 1000, gid: 1000, ..shell("pwd") };
    // Root's right to enter suffices, as with runc.
    check(Process { cwd: "/lost".into(), ..user }, "/lost\n");
    let Some(answer) = run(Process { cwd: "/none".into(), ..shell("pwd") }) else { return };
    assert!(answer.outcome.expect_err("no folder").starts_with("cannot enter the working folder \"/none\""));
}

fn identity() {
    check(shell("id; umask"), "uid=0(root) gid=0\n0022\n");
    let user =
        Process { uid: 1000, gid: 1001, groups: vec![5, 1001, 60000], umask: 0o077, ..shell("id; umask") };
    check(user, "uid=1000(app) gid=1001 groups=5,1001,60000\n0077\n");
    let named =
        Process { hostname: "a-name".into(), ..shell("hostname; cat /proc/sys/kernel/hostname; echo $$") };
    check(named, "a-name\na-name\n1\n");
    // A session of its own, and its own place in every namespace's naming.
    check(shell("cut -d' ' -f4-6 /proc/self/stat; cat /proc/self/cgroup | grep -vc :/$"), "1 1 1\n0\n");
}

fn environment_and_descriptors() {
    let env = vec![("PATH".into(), "/bin".into()), ("A".into(), "b c=d".into()), ("EMPTY".into(), "".into())];
    let args = vec!["env".into()];
    check(Process { args, env, ..Process::default() }, "PATH=/bin\nA=b c=d\nEMPTY=\n");
    let inside = "for fd in $(seq 0 99); do test -e /proc/$$/fd/$fd && echo $fd; done; readlink /proc/self/fd/0; echo out >/dev/stdout";
    check(shell(inside), "0\n1\n2\n/dev/null\nout\n");
    check(Process { uid: 1000, gid: 1000, ..shell("echo out >/dev/stdout") }, "out\n");
    // Default handlers, nothing blocked, no trace of this program.
    check(
        Process {
            args: ["grep", "-E", "^Sig(Blk|Ign)|^NoNewPrivs|^Seccomp:", "/proc/self/status"]
                .map(str::to_owned)
                .to_vec(),
            ..shell("")
        },
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n",
    );
}

fn capabilities() {
    let script = "grep ^Cap /proc/self/status";
    let docker = "00000000a80425fb";
    check(
        shell(script),
        &format!(
            "CapInh:\t{0:016x}\nCapPrm:\t{docker}\nCapEff:\t{docker}\nCapBnd:\t{docker}\nCapAmb:\t{0:016x}\n",
            0
        ),
    );
    check(
        Process { uid: 1000, gid: 1000, ..shell(script) },
        &format!(
            "CapInh:\t{0:016x}\nCapPrm:\t{0:016x}\nCapEff:\t{0:016x}\nCapBnd:\t{docker}\nCapAmb:\t{0:016x}\n",
            0
        ),
    );
    let insecure = shell("mount -t tmpfs tmpfs /tmp && touch /tmp/x && hostname other && hostname");
    check(Process { security: Security::Insecure, ..insecure }, "other\n");
}

fn setuid() {
    let user = Process { uid: 1000, gid: 1000, ..shell("/bin/su nobody-here; /bin/setuid/su nobody-here") };
    let Some(answer) = run(user) else { return };
    let said: Vec<_> = answer.stderr.lines().collect();
    assert_eq!(said, ["su: must be suid to work properly", "su: unknown user nobody-here"]);
    let script =
        "cp /bin/busybox /tmp/mine; chown 7:8 /tmp/mine; chmod 6755 /tmp/mine; stat -c '%a %u:%g' /tmp/mine";
    check(shell(script), "6755 7:8\n");
}

fn refused_calls() {
    let refused = |script: &str| {
        let Some(answer) = run(shell(script)) else { return };
        assert_eq!(status(&answer), Status::Exited(1), "{script}: {answer:?}");
        assert!(
            answer.stderr.contains("not permitted") || answer.stderr.contains("ermission denied"),
            "{script}: {answer:?}"
        );
    };
    refused("mount -t tmpfs tmpfs /tmp");
    refused("mount -o remount,rw /sys");
    refused("unshare -U true");
    refused("unshare -m true");
    refused("hostname other");
    refused("dmesg");
    refused("umount /proc/sys");
}

fn masked_paths() {
    check(
        shell(
            "(head -c1 /proc/kcore; head -c1 /proc/keys; head -c1 /proc/timer_list; ls /proc/acpi /proc/scsi /sys/firmware) 2>/dev/null | grep -v :$ | grep .",
        ),
        "",
    );
    for path in ["/proc/sys/kernel/hostname", "/sys/kernel/mm/transparent_hugepage/enabled"] {
        let Some(answer) = run(shell(&format!("echo x > {path}"))) else { return };
        assert!(answer.stderr.contains("Read-only file system"), "{path}: {answer:?}");
    }
    // Nothing of the host's is mounted, and no path of it is told.
    let Some(answer) = run(shell("cat /proc/self/mountinfo; ls -a /")) else { return };
    assert!(!answer.stdout.contains("/tmp/"), "{}", answer.stdout);
}

fn devices() {
    check(
        shell(
            "cd /dev && ls | grep -v core; head -c2 /dev/zero | wc -c; echo x > /dev/null; readlink /dev/stdin; touch /dev/shm/f; stat -c %a /dev/shm /dev /dev/null",
        ),
        "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n2\n/proc/self/fd/0\n1777\n755\n666\n",
    );
    let small = shell("head -c 2000000 /dev/zero > /dev/shm/f; stat -c %s /dev/shm/f");
    let Some(answer) = run(Process { shm_size_bytes: 1 << 20, ..small }) else { return };
    assert_eq!(answer.stdout, "1048576\n", "{answer:?}");
}

fn networks() {
    let interfaces = "ls /sys/class/net; ip -o addr show lo | grep -c 127.0.0.1";
    check(Process { network: Network::None, ..shell(interfaces) }, "lo\n1\n");
    let host = std::fs::read_dir("/sys/class/net").expect("read").count();
    check(shell("ls /sys/class/net | wc -l"), &format!("{host}\n"));
}

fn limits() {
    let ulimits = vec![("nofile".into(), 100, 200), ("core".into(), 0, 0)];
    check(Process { ulimits, ..shell("ulimit -Sn; ulimit -Hn; ulimit -c") }, "100\n200\n0\n");
    let ulimits = vec![("many".into(), 1, 1)];
    let Some(answer) = run(Process { ulimits, ..shell("") }) else { return };
    assert_eq!(
        answer.outcome.expect_err("no such limit"),
        "cannot set the limit \"many\": there is no such limit"
    );
}

/// Whether a process has this in its command line.
fn is_running(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("read");
    let mut lines = processes.flatten().filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(marker))
}

/// A number of seconds that no other process sleeps.
fn long_time(of: u32) -> String {
    format!("9{of}{}", std::process::id())
}

fn background_processes_end() {
    let time = long_time(1);
    let Some(answer) = run(shell(&format!("sleep {time} & (setsid sleep {time} >/dev/null &) ; echo done")))
    else {
        return;
    };
    assert_eq!((status(&answer), answer.stdout.as_str()), (Status::Exited(0), "done\n"));
    assert!(!is_running(&time));
}

fn timeout_and_cancel() {
    let time = long_time(2);
    let script = format!("echo started; sleep {time} & sleep {time}");
    let timeout = Some(Duration::from_millis(50));
    let Some(answer) = run(Process { timeout, ..shell(&script) }) else { return };
    assert_eq!(status(&answer), Status::TimedOut);
    assert!(!is_running(&time));
    let request = Request { process: shell(&script), cancel_on_output: true, ..Request::default() };
    let Some(answer) = lab::run(&request) else { return };
    assert_eq!((status(&answer), answer.stdout.as_str()), (Status::Cancelled, "started\n"));
    assert!(answer.milliseconds < 1000.0);
    assert!(!is_running(&time));
}

fn killed_worker_leaves_nothing() {
    let Some(map) = lab::id_map() else { return };
    let time = long_time(3);
    let folder = lab::workplace(map);
    let (mut worker, socket) = lab::start_worker(map, folder.path());
    let (read, write) = std::io::pipe().expect("a pipe");
    let request =
        Request { process: shell(&format!("echo .; sleep {time} & sleep {time}")), ..Request::default() };
    let bytes = serde_json::to_vec(&request).expect("JSON");
    lithify_linux::socket::send_with_fds(&socket, &bytes, &[std::os::fd::AsFd::as_fd(&write)]).expect("sent");
    drop(write);
    let mut read = read;
    read.read_exact(&mut [0; 2]).expect("it started");
    assert!(is_running(&time));
    worker.kill();
    worker.wait().expect("waited");
    assert!(!is_running(&time));
    clean(folder);
}

fn killed_parent_leaves_nothing() {
    let Some(map) = lab::id_map() else { return };
    let time = long_time(4);
    let mut parent = Command::new("/proc/self/exe");
    parent.args([lab::PARENT_ARGUMENT, &format!("echo .; sleep {time} & sleep {time}")]);
    let temporary = lab::workplace(map);
    parent.env("TMPDIR", temporary.path());
    let mut parent = parent.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("started");
    let mut out = parent.stdout.take().expect("a pipe");
    out.read_exact(&mut [0; 2]).expect("it started");
    assert!(is_running(&time));
    parent.kill().expect("killed");
    parent.wait().expect("waited");
    // Ends when the last process has that could write.
    out.read_to_end(&mut vec![]).expect("read");
    assert!(!is_running(&time));
    clean(temporary);
}

/// Removes what a killed worker has left, from inside its user namespace.
fn clean(folder: tempfile::TempDir) {
    let Some(map) = lab::id_map() else { return };
    let (mut worker, socket) = lab::start_worker(map, folder.path());
    lab::ask(&socket, &Request { clean: true, ..Request::default() });
    lab::hear(&socket);
    drop(socket);
    worker.wait().expect("waited");
}

fn side_by_side() {
    let process = shell("echo $$; mknod /tmp/x c 1 3; sleep 0; id -u");
    let request = Request { process, times: 5, at_once: 8, ..Request::default() };
    let Some(answer) = lab::run(&request) else { return };
    assert_eq!((status(&answer), answer.stdout.as_str()), (Status::Exited(0), "1\n0\n"), "{answer:?}");
}

/// Not a benchmark, but a guard against what is an order of magnitude off.
fn overhead() {
    let process = Process { args: vec!["true".into()], ..shell("") };
    let request = Request { process, times: 20, ..Request::default() };
    let Some(answer) = lab::run(&request) else { return };
    eprintln!("overhead: {:.2} ms to run `true`, at best", answer.milliseconds);
    assert!(answer.milliseconds < 250.0);
}

/// Everything again as a user without privileges and with a range of ids, whom root makes for it.
fn as_plain_user() {
    if !lithify_testkit::is_root() {
        return;
    }
    let user = match lithify_testkit::PlainUser::with_subids() {
        Ok(user) => user,
        Err(why) => return lithify_testkit::skipped("as_plain_user", &why),
    };
    // Where that user can reach it, and owns it as it would own an installed one.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("sandbox");
    std::fs::copy("/proc/self/exe", &program).expect("copied");
    user.own(folder.path());
    let mut again = Command::new(program);
    user.lend(&mut again);
    again.current_dir("/").env("HOME", "/").stdin(Stdio::null());
    assert!(again.status().expect("started").success());
}
