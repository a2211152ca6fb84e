//! RUN --mount.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use lithify_cache::key::{Chain, MountContent};
use lithify_cache::{CacheMountLock, CacheMountName};
use lithify_graph::{CacheSharing, Exec, Mount, MountKind, Step, Tree};
use lithify_worker::space::CACHE_MOUNTS;
use lithify_worker::{Request, RunMount, RunMountKind, Worker};

use crate::build::Running;
use crate::chain::TreeLayers;
use crate::error::Failure;
use crate::trees::Needed;

/// All that the mounts of one RUN need.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) mounts: Vec<RunMount>,
    pub(super) env: Vec<(String, String)>,
    pub(super) passed: Vec<OwnedFd>,
    /// Held until the process has ended.
    pub(super) locks: Vec<CacheMountLock>,
    wanted: Vec<Wanted>,
}

/// A cache mount whose folder is not taken yet.
struct Wanted {
    id: String,
    details: String,
    sharing: CacheSharing,
    /// Its place among the mounts.
    mount: usize,
}

/// The contents of mounts of which none counts.
pub(super) fn no_contents(exec: &Exec) -> Vec<MountContent> {
    exec.mounts.iter().map(|_| MountContent::Nothing).collect()
}

impl Running<'_> {
    /// Whether a key needs the content of files outside the store.
    pub(super) fn reads_files(&self, exec: &Exec) -> bool {
        exec.mounts
            .iter()
            .any(|mount| matches!(&mount.kind, MountKind::Bind { from, .. } if *from != Tree::Scratch))
    }

    /// What the bind mounts of a RUN show, in order; other mounts are no part of the key.
    pub(super) fn mount_contents(&self, exec: &Exec) -> Result<Vec<MountContent>, Failure> {
        let contents = exec.mounts.iter().map(|mount| match &mount.kind {
            MountKind::Bind { from, source, .. } => match self.files(*from)? {
                Some(files) => Ok(MountContent::Content(self.content_of(&files, source)?)),
                None => Ok(MountContent::Tree(Chain(self.tree(*from).diff_ids().to_vec()))),
            },
            _ => Ok(MountContent::Nothing),
        });
        contents.collect()
    }

    /// Brings everything that the mounts show to where the worker can reach it.
    pub(super) fn prepare_mounts(
        &self,
        worker: &Worker,
        step: &Step,
        exec: &Exec,
        contents: &[MountContent],
        needed: &Needed,
    ) -> Result<Prepared, Failure> {
        let mut prepared = Prepared::default();
        for (mount, content) in exec.mounts.iter().zip(contents) {
            self.prepare_mount(worker, (mount, content), needed, &mut prepared)?;
        }
        self.lock_cache_mounts(worker, step, &mut prepared)?;
        if let Some(script) = &exec.script {
            prepared.mounts.push(RunMount {
                target: format!("/dev/pipes/{}", script.name),
                kind: RunMountKind::File { content: script.content.clone(), mode: 0o755, uid: 0, gid: 0 },
            });
        }
        Ok(prepared)
    }

    fn prepare_mount(
        &self,
        worker: &Worker,
        (mount, content): (&Mount, &MountContent),
        needed: &Needed,
        prepared: &mut Prepared,
    ) -> Result<(), Failure> {
        let kind = match &mount.kind {
            MountKind::Bind { from, source, writable } => {
                let (tree, source) = self.mounted_tree(worker, *from, source, content, needed)?;
                RunMountKind::Tree { chain: tree.chain().to_vec(), source, writable: *writable }
            }
            MountKind::Cache { id, sharing, from, source, mode, uid, gid, read_only } => {
                let seed = match from {
                    Tree::Scratch => None,
                    _ => {
                        let (tree, source) = self.mounted_tree(worker, *from, source, content, needed)?;
                        Some((tree.chain().to_vec(), source))
                    }
                };
                // Another owner or mode asks for another folder, as in BuildKit. Which one is known when it is locked.
                let details = format!("{seed:?}\0{mode:o}\0{uid}\0{gid}");
                let wanted =
                    Wanted { id: id.clone(), details, sharing: *sharing, mount: prepared.mounts.len() };
                if mount.target.is_some() {
                    prepared.wanted.push(wanted);
                }
                RunMountKind::Cache {
                    folder: String::new(),
                    seed,
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    read_only: *read_only,
                }
            }
            MountKind::Tmpfs { size_bytes } => RunMountKind::Tmpfs { size_bytes: *size_bytes },
            MountKind::Secret { id, env, required, mode, uid, gid } => {
                let Some(secret) = self.request.settings.secrets.get(id) else {
                    if *required {
                        let problem =
                            format!("secret {id} not found: pass it with --secret id={id},src=FILE");
                        return Err(Failure::Input(problem));
                    }
                    prepared.env.extend(env.iter().map(|name| (name.clone(), String::new())));
                    return Ok(());
                };
                if let Some(name) = env {
                    let value = String::from_utf8(secret.0.clone()).map_err(|_| {
                        Failure::Input(format!("secret {id} is no text, and cannot be the variable {name}"))
                    })?;
                    prepared.env.push((name.clone(), value));
                }
                RunMountKind::File { content: secret.0.clone(), mode: *mode, uid: *uid, gid: *gid }
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                let Some(socket) = self.request.settings.ssh.get(id) else {
                    if *required {
                        let problem = format!("ssh agent {id} not found: pass one with --ssh {id}");
                        return Err(Failure::Input(problem));
                    }
                    return Ok(());
                };
                let relay = super::agent::relay(socket.clone());
                let relay =
                    relay.map_err(|source| Failure::Io { doing: "cannot reach the ssh agent", source })?;
                prepared.passed.push(relay);
                if let Some(target) = &mount.target {
                    prepared.env.push(("SSH_AUTH_SOCK".into(), target.clone()));
                }
                let file = prepared.passed.len() - 1;
                RunMountKind::Socket { file, mode: *mode, uid: *uid, gid: *gid }
            }
        };
        if let Some(target) = &mount.target {
            prepared.mounts.push(RunMount { target: target.clone(), kind });
        }
        Ok(())
    }

    /// Takes the folders of all cache mounts of a step. All steps take them in one order, so that no two wait for each other.
    fn lock_cache_mounts(
        &self,
        worker: &Worker,
        step: &Step,
        prepared: &mut Prepared,
    ) -> Result<(), Failure> {
        let mut wanted = std::mem::take(&mut prepared.wanted);
        wanted.sort_by(|one, other| (&one.id, &one.details).cmp(&(&other.id, &other.details)));
        let mut last: Option<(String, String, String)> = None;
        for Wanted { id, details, sharing, mount } in wanted {
            let known = last.as_ref().filter(|(one, other, _)| (one, other) == (&id, &details));
            // A step may have one cache at two places.
            let taken = match known {
                Some((.., folder)) => folder.clone(),
                None => {
                    let lock = self.cache_mount(
                        worker,
                        step,
                        &CacheMountName { id: &id, details: &details },
                        sharing,
                    )?;
                    let folder = lock.folder().to_owned();
                    prepared.locks.push(lock);
                    folder
                }
            };
            if let RunMountKind::Cache { folder, .. } = &mut prepared.mounts[mount].kind {
                folder.clone_from(&taken);
            }
            last = Some((id, details, taken));
        }
        Ok(())
    }

    /// Takes a cache mount's folder. The first step of a build without cache finds it empty, as in BuildKit.
    fn cache_mount(
        &self,
        worker: &Worker,
        step: &Step,
        name: &CacheMountName<'_>,
        sharing: CacheSharing,
    ) -> Result<CacheMountLock, Failure> {
        let mut emptied = match self.request.settings.no_cache.allows(&step.stage) {
            true => return self.lock_cache_mount(name, sharing),
            false => self.emptied.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let whole_name = format!("{}\0{}", name.id, name.details);
        // A private folder may be another one than the one before.
        if sharing != CacheSharing::Private && emptied.contains(&whole_name) {
            drop(emptied);
            return self.lock_cache_mount(name, sharing);
        }
        // Nobody else may be at work in it.
        let alone = if sharing == CacheSharing::Shared { CacheSharing::Locked } else { sharing };
        let lock = self.lock_cache_mount(name, alone)?;
        worker.call(&Request::Discard(vec![(CACHE_MOUNTS.to_owned(), lock.folder().to_owned())]), &[])?;
        worker.call(&Request::Sweep, &[])?;
        if sharing == CacheSharing::Shared {
            let failed = |source| Failure::Io { doing: "cannot share a cache mount", source };
            lock.share().map_err(failed)?;
        }
        emptied.insert(whole_name);
        Ok(lock)
    }

    /// Takes a cache mount's folder, and waits for it if it must.
    fn lock_cache_mount(
        &self,
        name: &CacheMountName<'_>,
        sharing: CacheSharing,
    ) -> Result<CacheMountLock, Failure> {
        loop {
            if let Some(lock) = self.request.store.lock_cache_mount(name, sharing)? {
                return Ok(lock);
            }
            if self.request.cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            std::thread::sleep(super::LOCK_POLL);
        }
    }

    /// The tree that a mount shows, and the path in it. Files outside the store become a tree first, which must still
    /// hold what the key says.
    fn mounted_tree(
        &self,
        worker: &Worker,
        from: Tree,
        source: &str,
        keyed: &MountContent,
        needed: &Needed,
    ) -> Result<(TreeLayers, String), Failure> {
        let tree = match self.files(from)? {
            Some(files) => self.tree_of_files(worker, &files, source, keyed)?,
            None => self.tree(from),
        };
        self.trees.ensure(worker, &tree, needed)?;
        Ok((tree, source.to_owned()))
    }
}
