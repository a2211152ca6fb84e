//! RUN: prepares the tree and the mounts, runs the process, and makes a layer of what it changed.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use lithify_files::owner::{self, Identity};
use lithify_linux::mount::{self, Below};
use lithify_linux::{socket, tree};
use lithify_oci::TreePath;
use lithify_sandbox::{Cancel, MountSource, MountSpec, Network, Process, Sandbox, Status, Stdio};
use lithify_snapshot::{ChainId, MoveOrKeep, Workspace};
use rustix::fs::{Mode, OFlags};

use crate::layers::LayerFiles;
use crate::protocol::{Failure, RunMount, RunMountKind, RunRequest, RunResult};
use crate::serve::{Call, Context, ids, subfolder};

pub(crate) fn run(
    context: &Context,
    request: &RunRequest,
    call: &mut Call<'_>,
) -> Result<RunResult, Failure> {
    let files = LayerFiles::take(call)?;
    let passed = call.rest();
    let stdio = pipes(call)?;
    let reuse = if request.consume { MoveOrKeep::Move } else { MoveOrKeep::Keep };
    let chain = ids(&request.chain);
    let mut workspace = context.snapshots.workspace(&chain, reuse)?;
    let root = workspace.root_mount()?;
    let identity = identity(&root, &request.user)?;
    let mut mounts =
        Mounts { context, passed, specs: generated(request), descriptors: vec![], extra: vec![] };
    for mount in &request.mounts {
        mounts.add(mount)?;
    }
    let process = process(request, &identity, mounts.specs);
    let cancel = Cancel::new().map_err(|error| Failure::sandbox(&error))?;
    let outcome = context.sandbox.run(&process, root, mounts.descriptors, stdio, &cancel)?;
    match outcome.status {
        Status::Exited(0) => {}
        Status::Exited(code) => return Ok(RunResult::Exited(code)),
        Status::Signaled(signal) => return Ok(RunResult::Signaled(signal)),
        Status::TimedOut => return Ok(RunResult::TimedOut),
        Status::Cancelled => return Ok(RunResult::Signaled(9)),
    }
    let leftovers: Vec<TreePath> =
        outcome.created_mountpoints.iter().map(|path| TreePath::cleaned(path)).collect();
    let made = files.write(|sink| workspace.diff(&leftovers, sink).map_err(Failure::from))?;
    let id = match chain.last() {
        Some(below) => below.then(made.diff_id),
        None => ChainId::first(made.diff_id),
    };
    workspace.commit(id)?;
    Ok(RunResult::Changed(Box::new(made)))
}

/// Makes the pipes for the output, and hands the ends to read from to the main process.
///
/// They are made here, not there: /dev/stdout can be opened in the sandbox only if the pipe belongs to one of its ids.
fn pipes(call: &Call<'_>) -> Result<Stdio, Failure> {
    let make = || -> std::io::Result<Stdio> {
        let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (error, stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        socket::send_with_fds(call.stream, b"o", &[out.as_fd(), error.as_fd()])?;
        Ok(Stdio { stdout, stderr })
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
        network: if request.host_network { Network::Host } else { Network::None },
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
fn generated(request: &RunRequest) -> Vec<MountSpec> {
    let file = |target: &str, text: &str| MountSpec {
        target: target.into(),
        source: MountSource::Content { bytes: text.into(), mode: 0o644, uid: 0, gid: 0 },
        read_only: false,
    };
    vec![file("/etc/hosts", &request.hosts), file("/etc/resolv.conf", &request.resolv_conf)]
}

/// Gathers what the sandbox mounts.
struct Mounts<'a> {
    context: &'a Context,
    passed: Vec<OwnedFd>,
    specs: Vec<MountSpec>,
    descriptors: Vec<OwnedFd>,
    /// Trees that are written to and thrown away; kept until the process has ended.
    extra: Vec<Workspace>,
}

impl Mounts<'_> {
    fn add(&mut self, mount: &RunMount) -> Result<(), Failure> {
        let (source, read_only) = match &mount.kind {
            RunMountKind::Tree { chain, source, writable } => {
                (self.tree(chain, source, *writable)?, !writable)
            }
            RunMountKind::Cache { folder, seed, mode, uid, gid, read_only, fresh } => {
                let folder = self.cache(folder, seed.as_ref(), (*mode, *uid, *gid), *fresh)?;
                (self.descriptor(folder), *read_only)
            }
            RunMountKind::Tmpfs { size_bytes } => {
                (MountSource::Tmpfs { size_bytes: *size_bytes, mode: 0o1777 }, false)
            }
            RunMountKind::File { content, mode, uid, gid } => {
                let source =
                    MountSource::Content { bytes: content.clone(), mode: *mode, uid: *uid, gid: *gid };
                (source, true)
            }
            RunMountKind::Socket { file, .. } => {
                let socket = self.passed.get(*file).map(OwnedFd::try_clone).transpose();
                let socket =
                    socket.ok().flatten().ok_or_else(|| Failure::input("a socket is missing in a call"))?;
                (self.descriptor(socket), false)
            }
        };
        self.specs.push(MountSpec { target: mount.target.clone(), source, read_only });
        Ok(())
    }

    fn descriptor(&mut self, descriptor: OwnedFd) -> MountSource {
        self.descriptors.push(descriptor);
        MountSource::Descriptor(self.descriptors.len() - 1)
    }

    /// A part of another tree: a file or a folder.
    fn tree(&mut self, chain: &crate::Chain, source: &str, writable: bool) -> Result<MountSource, Failure> {
        let chain = ids(chain);
        let root = if writable || chain.is_empty() {
            let workspace = self.context.snapshots.workspace(&chain, MoveOrKeep::Keep)?;
            let root = workspace.root_mount()?;
            self.extra.push(workspace);
            root
        } else {
            self.context.snapshots.view(&chain)?.into_root()
        };
        let inside = tree::open_in_root(&root, source.as_bytes(), OFlags::PATH, Mode::empty());
        let inside = inside.map_err(|error| Failure::input(format!("cannot mount {source}: {error}")))?;
        let mounted = mount::bind(&inside, Below::With).map_err(|error| Failure::sandbox(&error))?;
        Ok(self.descriptor(mounted))
    }

    /// A folder that outlives the build, made and filled if it is not there yet.
    fn cache(
        &mut self,
        name: &str,
        seed: Option<&(crate::Chain, String)>,
        (mode, uid, gid): (u32, u32, u32),
        fresh: bool,
    ) -> Result<OwnedFd, Failure> {
        let failed = |error: std::io::Error| Failure::storage("cannot prepare a cache mount", &error);
        if fresh {
            lithify_snapshot::remove_tree(self.context.cache_mounts.as_fd(), name.as_bytes())
                .map_err(failed)?;
        }
        let exists = rustix::fs::accessat(
            &self.context.cache_mounts,
            name,
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty(),
        );
        if exists.is_err() {
            let folder = subfolder(&self.context.cache_mounts, name).map_err(failed)?;
            if let Some((chain, source)) = seed {
                let view = self.context.snapshots.view(&ids(chain))?;
                let flags = OFlags::DIRECTORY | OFlags::RDONLY;
                let from = tree::open_in_root(view.root(), source.as_bytes(), flags, Mode::empty());
                let from = from.map_err(|error| {
                    Failure::input(format!("cannot fill a cache mount from {source}: {error}"))
                })?;
                lithify_snapshot::copy_tree(from.as_fd(), &folder)?;
            }
            let prepare = || -> std::io::Result<()> {
                use rustix::fs::{Gid, Uid};
                rustix::fs::fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                Ok(rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?)
            };
            prepare().map_err(failed)?;
        }
        let folder = subfolder(&self.context.cache_mounts, name).map_err(failed)?;
        mount::bind(&folder, Below::With).map_err(failed)
    }
}
