//! A worker that makes a small root tree, runs a process in it and tells what came of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use lithify_linux::{mount, process, socket, tree};
use lithify_sandbox::{
    Cancel, IdMap, Identities, MountSource, MountSpec, NODE_ATTRIBUTE, Outcome, Place, Process, Range,
    Sandbox, Status, Stdio, WorkerProcess, probe_range, spawn_worker,
};
use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

pub(crate) const WORKER_ARGUMENT: &str = "__worker";
pub(crate) const PARENT_ARGUMENT: &str = "__parent";

/// An [`Answer`] to a request to run nothing.
const NOTHING: &str = r#"{"outcome":{"Err":"nothing was run"},"stdout":"","stderr":"","left":[],"outside":[],"milliseconds":0}"#;
const LIMIT_BYTES: usize = 1 << 20;
const APPLETS: &[&str] = &[
    "sh", "cat", "ls", "id", "env", "echo", "sleep", "ip", "mknod", "chmod", "chown", "hostname", "stat",
    "test", "readlink", "mkdir", "touch", "mount", "grep", "head", "true", "kill", "rm", "ln", "unshare",
    "seq", "tail", "dmesg", "cp", "wc", "cut", "umount", "setsid", "su",
];

/// What the worker is to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) process: Process,
    /// Symbolic links to have in the root tree: from, to.
    pub(crate) links: Vec<(String, String)>,
    /// Files beside the root tree, with their contents, that the mounts' descriptors stand for; a folder where there is none.
    pub(crate) outside: Vec<(String, Option<String>)>,
    /// How many times to run it; the duration is the shortest.
    pub(crate) times: usize,
    /// How many are to run at a time, all alike; the answer is one of theirs, a bad one if there is one.
    pub(crate) at_once: usize,
    /// Cancel once something has been written to standard output.
    pub(crate) cancel_on_output: bool,
    /// Run nothing, only remove what is in the worker's folder.
    pub(crate) clean: bool,
    /// Mount the overlay as on older kernels.
    pub(crate) old_overlay: bool,
    /// Make the overlay's lower layer out of so many folders.
    pub(crate) layers: usize,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) outcome: Result<Outcome, String>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// What the process left in the upper folder: path and what it is.
    pub(crate) left: Vec<(String, String)>,
    /// The files beside the root tree.
    pub(crate) outside: Vec<(String, String)>,
    pub(crate) milliseconds: f64,
}

/// A process that runs `script` in the root tree's shell.
pub(crate) fn shell(script: &str) -> Process {
    Process {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/bin".into())],
        ..Process::default()
    }
}

pub(crate) fn descriptor(target: &str, index: usize, read_only: bool) -> MountSpec {
    MountSpec { target: target.into(), source: MountSource::Descriptor(index), read_only }
}

/// The ids to work with; `None`, with a word about it, where there can be none.
pub(crate) fn id_map() -> Option<&'static IdMap> {
    static MAP: OnceLock<Option<IdMap>> = OnceLock::new();
    MAP.get_or_init(|| match probe_range() {
        Ok(map) => Some(map),
        Err(unavailable) => {
            lithify_testkit::skipped("sandbox", &unavailable.to_string());
            None
        }
    })
    .as_ref()
}

/// A temporary folder that belongs to root of the user namespace.
pub(crate) fn workplace(map: &IdMap) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = map.root_outside();
        std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("chown");
    }
    folder
}

pub(crate) fn start_worker(map: &IdMap, folder: &Path) -> (WorkerProcess, OwnedFd) {
    let (ours, theirs) = socket::pair().expect("a socket");
    let args = [OsStr::new(WORKER_ARGUMENT), folder.as_os_str()];
    let env = [("LEAK".into(), "from the worker".into())];
    let start = File::open(folder).expect("the folder").into();
    (spawn_worker(&Place::Range(map.clone()), &args, &env, start, theirs).expect("a worker"), ours)
}

/// Has a worker of its own do it.
pub(crate) fn run(request: &Request) -> Option<Answer> {
    let map = id_map()?;
    let folder = workplace(map);
    let (mut worker, socket) = start_worker(map, folder.path());
    ask(&socket, request);
    let answer = hear(&socket);
    drop(socket);
    assert_eq!(worker.wait().expect("waited"), process::Exit::Exited(0));
    Some(answer)
}

pub(crate) fn ask(socket: &OwnedFd, request: &Request) {
    socket::send_with_fds(socket, &serde_json::to_vec(request).expect("JSON"), &[]).expect("sent");
}

pub(crate) fn hear(socket: &OwnedFd) -> Answer {
    let (bytes, _) = socket::receive_with_fds(socket, LIMIT_BYTES).expect("received").expect("an answer");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The process between the tests and a worker that is to be killed: starts a worker, which runs a shell script with this process's
/// standard output, and waits.
pub(crate) fn parent(script: &str) -> ExitCode {
    let map = id_map().expect("ids");
    let folder = workplace(map);
    let (mut worker, socket) = start_worker(map, folder.path());
    let request = Request { process: shell(script), ..Request::default() };
    let bytes = serde_json::to_vec(&request).expect("JSON");
    socket::send_with_fds(&socket, &bytes, &[rustix::stdio::stdout()]).expect("sent");
    worker.wait().expect("waited");
    ExitCode::FAILURE
}

pub(crate) fn worker(folder: &str) -> ExitCode {
    let control = process::inherited_descriptor(3).expect("the socket");
    let sandbox = Range::new(Identities::Real).expect("a sandbox");
    let folder = PathBuf::from(folder);
    while let Some((bytes, passed)) = socket::receive_with_fds(&control, LIMIT_BYTES).expect("received") {
        let request: Request = serde_json::from_slice(&bytes).expect("JSON");
        if request.clean {
            clean(&folder);
            socket::send_with_fds(&control, NOTHING.as_bytes(), &[]).expect("sent");
            continue;
        }
        let stdout = passed.first().map(AsFd::as_fd);
        let answer = match request.at_once {
            0 | 1 => run_often(&sandbox, &request, &folder, stdout),
            many => std::thread::scope(|scope| {
                let (sandbox, request, folder) = (&sandbox, &request, &folder);
                let run = move |index: usize| {
                    let folder = folder.join(index.to_string());
                    fs::create_dir(&folder).expect("a folder");
                    run_often(sandbox, request, &folder, None)
                };
                let threads: Vec<_> = (0..many).map(|index| scope.spawn(move || run(index))).collect();
                let answers = threads.into_iter().map(|thread| thread.join().expect("an answer"));
                let status = |answer: &Answer| {
                    answer.outcome.as_ref().map_or(-1, |outcome| match outcome.status {
                        Status::Exited(code) => -code.abs(),
                        _ => -1,
                    })
                };
                answers.min_by_key(status).expect("at least two")
            }),
        };
        socket::send_with_fds(&control, &serde_json::to_vec(&answer).expect("JSON"), &[]).expect("sent");
    }
    ExitCode::SUCCESS
}

/// Runs it as often as asked for, each time in a new tree.
fn run_often(sandbox: &Range, request: &Request, folder: &Path, stdout: Option<BorrowedFd<'_>>) -> Answer {
    let mut answer = run_here(sandbox, request, folder, stdout);
    for _ in 1..request.times {
        let best = answer.milliseconds;
        answer = run_here(sandbox, request, folder, stdout);
        answer.milliseconds = answer.milliseconds.min(best);
    }
    answer
}

fn clean(folder: &Path) {
    for entry in fs::read_dir(folder).expect("read") {
        fs::remove_dir_all(entry.expect("read").path()).expect("removed");
    }
}

fn run_here(sandbox: &Range, request: &Request, folder: &Path, stdout: Option<BorrowedFd<'_>>) -> Answer {
    make_tree(folder, request);
    let at = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .expect("opened");
    let mut lowers: Vec<PathBuf> =
        (0..request.layers).map(|index| PathBuf::from(format!("layer{index}"))).collect();
    lowers.push("base".into());
    let lowers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
    let overlay = if request.old_overlay { mount::overlay_by_options } else { mount::overlay };
    let upper = Some((Path::new("upper"), Path::new("work")));
    let root = overlay(&lowers, upper, at.as_fd()).expect("an overlay");
    let mounts = request.outside.iter().map(|(name, _)| {
        rustix::fs::open(folder.join("outside").join(name), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .expect("opened")
    });
    let (out_read, mut out_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let (err_read, err_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    if let Some(stdout) = stdout {
        out_write = stdout.try_clone_to_owned().expect("a copy");
    }
    let cancel = Cancel::new().expect("an eventfd");
    let cancel_on_output = request.cancel_on_output.then(|| cancel.clone());
    let out = std::thread::spawn(move || read_all(out_read, cancel_on_output));
    let err = std::thread::spawn(move || read_all(err_read, None));
    let mounts: Vec<OwnedFd> = mounts.collect();
    let started = Instant::now();
    let stdio = Stdio { stdout: out_write, stderr: err_write, cgroups: vec![] };
    let outcome = sandbox.run(&request.process, root, mounts, stdio, &cancel);
    let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
    let answer = Answer {
        outcome: outcome.map_err(|error| error.to_string()),
        stdout: out.join().expect("read"),
        stderr: err.join().expect("read"),
        left: list(&folder.join("upper")),
        outside: list(&folder.join("outside")),
        milliseconds,
    };
    clean(folder);
    answer
}

fn read_all(pipe: OwnedFd, cancel: Option<Cancel>) -> String {
    let mut file = File::from(pipe);
    let mut text = vec![];
    if let Some(cancel) = cancel {
        let mut byte = [0];
        file.read_exact(&mut byte).expect("read");
        text.push(byte[0]);
        cancel.cancel();
    }
    file.read_to_end(&mut text).expect("read");
    String::from_utf8_lossy(&text).into_owned()
}

fn make_tree(folder: &Path, request: &Request) {
    let base = folder.join("base");
    for path in ["bin", "etc", "dev", "proc", "sys", "tmp", "home", "lost"] {
        fs::create_dir_all(base.join(path)).expect("a folder");
    }
    for path in ["upper", "work", "outside"] {
        fs::create_dir_all(folder.join(path)).expect("a folder");
    }
    for index in 0..request.layers {
        fs::create_dir_all(folder.join(format!("layer{index}"))).expect("a folder");
    }
    fs::copy("/bin/busybox", base.join("bin/busybox")).expect("busybox, of Debian's package busybox-static");
    for applet in APPLETS {
        symlink("busybox", base.join("bin").join(applet)).expect("a link");
    }
    fs::write(base.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n")
        .expect("written");
    fs::write(base.join("bin/script"), "no #! line").expect("written");
    fs::write(base.join("bin/noexec"), "").expect("written");
    fs::create_dir(base.join("bin/setuid")).expect("a folder");
    fs::copy("/bin/busybox", base.join("bin/setuid/su")).expect("copied");
    for (path, mode) in [
        ("bin/script", 0o755),
        ("bin/noexec", 0o644),
        ("bin/setuid/su", 0o4755),
        ("tmp", 0o1777),
        ("lost", 0o700),
    ] {
        fs::set_permissions(base.join(path), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    for (from, to) in &request.links {
        let from = base.join(from);
        fs::create_dir_all(from.parent().expect("a parent")).expect("a folder");
        symlink(to, from).expect("a link");
    }
    for (name, content) in &request.outside {
        let path = folder.join("outside").join(name);
        match content {
            Some(content) => fs::write(path, content).expect("written"),
            None => fs::create_dir(path).expect("a folder"),
        }
    }
}

/// What is below a folder: mode, owner, and content or what it stands for.
fn list(folder: &Path) -> Vec<(String, String)> {
    let root = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .expect("opened");
    let mut listed = vec![];
    tree::walk::<tree::WalkError>(&root, &mut |visit| {
        let metadata = visit.metadata;
        let path = String::from_utf8_lossy(visit.path).into_owned();
        let mut node = [0; 64];
        let full = folder.join(&path);
        let what = match rustix::fs::lgetxattr(&full, NODE_ATTRIBUTE, &mut node) {
            Ok(length) => String::from_utf8_lossy(&node[..length]).into_owned(),
            Err(_) if metadata.kind == FileType::RegularFile => fs::read_to_string(&full).unwrap_or_default(),
            Err(_) => String::new(),
        };
        listed.push((path, format!("{:o} {}:{} {what}", metadata.mode, metadata.uid, metadata.gid)));
        Ok(tree::Descend::Yes)
    })
    .expect("walked");
    listed
}
