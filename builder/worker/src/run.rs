//! RUN: prepares the tree and the mounts, runs the process, and makes a layer of what it changed.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use lithify_files::noise;
use lithify_files::owner::{self, Identity};
use lithify_linux::{socket, tree};
use lithify_oci::TreePath;
use lithify_sandbox::{Cancel, MountSource, MountSpec, Process, Status, Stdio};
use lithify_snapshot::{ChainId, MoveOrKeep};
use rustix::fs::{Mode, OFlags};

use crate::layers::LayerFiles;
use crate::mounts::Mounts;
use crate::protocol::{Failure, RunRequest, RunResult};
use crate::serve::{Call, Context, Mounting, ids};

pub(crate) fn run(
    context: &Context,
    request: &RunRequest,
    call: &mut Call<'_>,
) -> Result<RunResult, Failure> {
    let files = LayerFiles::take(call)?;
    let cgroups = (0..request.cgroups).map(|_| call.file()).collect::<Result<_, _>>()?;
    let passed = call.rest();
    let stdio = pipes(call, cgroups)?;
    let reuse = if request.consume { MoveOrKeep::Move } else { MoveOrKeep::Keep };
    let chain = ids(&request.chain);
    let mut workspace = context.snapshots.workspace(&chain, reuse)?;
    let root = workspace.root_mount()?;
    let identity = identity(&root, &request.user)?;
    let noise = request.reproducible.map(|epoch| Ok::<_, Failure>((epoch, noise::look(root.as_fd())?)));
    let noise = noise.transpose()?;
    let mut mounts = Mounts::new(context, passed, generated(request, &context.mounting));
    mounts.lock_caches(&request.mounts)?;
    for mount in &request.mounts {
        mounts.add(mount)?;
    }
    let mut process = process(request, &identity, std::mem::take(&mut mounts.specs));
    process.has_special = workspace.has_special() || makes_devices(request);
    let cancel = Cancel::new().map_err(|error| Failure::sandbox(&error))?;
    let outcome =
        context.sandbox.run(&process, root, std::mem::take(&mut mounts.descriptors), stdio, &cancel)?;
    match outcome.status {
        Status::Exited(0) => {}
        Status::Exited(code) => return Ok(RunResult::Exited(code)),
        Status::Signaled(signal) => return Ok(RunResult::Signaled(signal)),
        Status::TimedOut => return Ok(RunResult::TimedOut),
        Status::Cancelled => return Ok(RunResult::Signaled(9)),
    }
    mounts.check_untouched()?;
    if let Some((epoch_seconds, before)) = noise {
        before.clean(workspace.root_mount()?.as_fd(), epoch_seconds)?;
    }
    let leftovers: Vec<TreePath> =
        outcome.created_mountpoints.iter().map(|path| TreePath::cleaned(path)).collect();
    let made = files.write(|sink| workspace.diff(&leftovers, sink).map_err(Failure::from))?;
    let id = match chain.last() {
        Some(below) => below.then(made.diff_id),
        None => ChainId::first(made.diff_id),
    };
    let made_tree = [&chain[..], &[id]].concat();
    if context.snapshots.has(&made_tree).unwrap_or(false) {
        // Made before (`--no-cache` often makes the same again): removing this one is nothing to wait for.
        let thread = std::thread::Builder::new().stack_size(lithify_linux::tree::STACK_BYTES);
        // Where no thread can be had it is dropped here and now.
        let _ = thread.spawn(move || drop(workspace));
    } else {
        workspace.commit(id)?;
    }
    Ok(RunResult::Changed(Box::new(made)))
}

/// Whether a step says that it makes device nodes: then it is shown them as well. What is made by a program that is not named so is shown from
/// the next step on: to ask for every file costs time, and a filter cannot be added later.
fn makes_devices(request: &RunRequest) -> bool {
    request.args.iter().any(|arg| arg.contains("mknod"))
}

/// Makes the pipes for the output, and hands the ends to read from to the main process.
///
/// They are made here, not there: /dev/stdout can be opened in the sandbox only if the pipe belongs to one of its ids.
fn pipes(call: &Call<'_>, cgroups: Vec<OwnedFd>) -> Result<Stdio, Failure> {
    let make = || -> std::io::Result<Stdio> {
        let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (error, stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        socket::send_with_fds(call.stream, b"o", &[out.as_fd(), error.as_fd()])?;
        Ok(Stdio { stdout, stderr, cgroups })
    };
    make().map_err(|error| Failure::sandbox(&error))
}

fn process(request: &RunRequest, identity: &Identity, mounts: Vec<MountSpec>) -> Process {
    let mut env = request.env.clone();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".into(), String::from_utf8_lossy(&identity.home).into_owned()));
    }
    Process {
        args: request.args.clone(),
        env,
        cwd: request.cwd.clone(),
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
        hostname: request.hostname.clone(),
        network: request.network.clone(),
        security: request.security,
        mounts,
        shm_size_bytes: request.shm_size_bytes,
        ulimits: request.ulimits.clone(),
        timeout: request.timeout_seconds.map(Duration::from_secs),
        ..Process::default()
    }
}

/// Who the process is, by the image's own passwd and group files.
fn identity(root: &OwnedFd, user: &str) -> Result<Identity, Failure> {
    let (passwd, group) = (read_file(root, "etc/passwd")?, read_file(root, "etc/group")?);
    Ok(owner::for_process(user, passwd.as_deref(), group.as_deref())?)
}

/// The largest passwd or group file that is read.
const MAX_ACCOUNTS_BYTES: u64 = 16 << 20;

/// A small file of the tree, `None` where there is none.
pub(crate) fn read_file(root: &impl AsFd, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let failed =
        |error: &std::io::Error| Failure::storage(&format!("cannot read /{path} of the image"), error);
    match tree::open_in_root(root, path.as_bytes(), flags, Mode::empty()) {
        Ok(file) => {
            let mut content = vec![];
            let file = std::fs::File::from(file);
            file.take(MAX_ACCOUNTS_BYTES).read_to_end(&mut content).map_err(|error| failed(&error))?;
            Ok(Some(content))
        }
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(&error)),
    }
}

/// The files that every RUN sees in place of the image's.
fn generated(request: &RunRequest, mounting: &Mounting) -> Vec<MountSpec> {
    let mut hosts = request.hosts.clone();
    if let Mounting::Moved(_) = mounting {
        // A step has the machine's name there, and sudo looks it up.
        let name = rustix::system::uname();
        hosts.push_str(&format!("127.0.0.1\t{}\n", name.nodename().to_string_lossy()));
    }
    let file = |target: &str, text: &str| MountSpec {
        target: target.into(),
        source: MountSource::Content { bytes: text.into(), mode: 0o644, uid: 0, gid: 0 },
        read_only: false,
    };
    vec![file("/etc/hosts", &hosts), file("/etc/resolv.conf", &request.resolv_conf)]
}
