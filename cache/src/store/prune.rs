//! Taking away what is no longer wanted.
//!
//! Whatever holds blobs goes by age or by size, the least recently used first; then every blob goes that nothing holds any
//! more: no image, no record, no resolution of a registry's tag, no download, no process that is at work. Trees and cache
//! mounts go in the same order, by whoever owns them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use lithify_oci::{Descriptor, Digest, Index, Manifest, media_type};

use super::folders::{Folder, FolderKind, Folders};
use super::references::{Counts, Held, Holder};
use super::usage::file_bytes;
use super::{Guard, Store};
use crate::Error;

/// A kind of thing that takes space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Names of images.
    Images,
    /// Cache records, with the layers that they made.
    Records,
    /// Blobs that nothing names.
    Layers,
    /// What registries said of tags, and the base images that only that names.
    Bases,
    /// Files of ADD.
    Downloads,
    /// Cache mounts.
    Mounts,
    /// Unpacked trees.
    Trees,
    /// What is remembered of context files, and the log of builds.
    Notes,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::Images,
        Kind::Records,
        Kind::Layers,
        Kind::Bases,
        Kind::Downloads,
        Kind::Mounts,
        Kind::Trees,
        Kind::Notes,
    ];
}

/// What goes. The default takes only what nothing names, and leftovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunePolicy {
    /// What was not used for this long.
    pub unused_for: Option<Duration>,
    /// So much, the least recently used first, that the store takes no more bytes than this on disk. What is in use stays
    /// even if it takes more.
    pub keep_bytes: Option<u64>,
    /// Of what: all but images, if nothing is said.
    pub kinds: BTreeSet<Kind>,
    /// Whether everything stays, and only what would go is told.
    pub dry_run: bool,
}

impl Default for PrunePolicy {
    fn default() -> Self {
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Images).collect();
        PrunePolicy { unused_for: None, keep_bytes: None, kinds, dry_run: false }
    }
}

/// What went, or would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names of images.
    pub images: Vec<String>,
    /// Cache records.
    pub records: u64,
    /// Blobs.
    pub blobs: u64,
    /// Trees.
    pub trees: u64,
    /// Cache mounts.
    pub mounts: u64,
    /// The bytes on disk that all of it took.
    pub bytes: u64,
}

/// A blob's file.
pub(super) struct BlobFile {
    pub(super) digest: Digest,
    /// What it takes on disk.
    pub(super) disk_bytes: u64,
}

/// What is to go.
#[derive(Default)]
struct Plan {
    holders: Vec<Holder>,
    folders: Vec<Folder>,
    blobs: Vec<(Digest, u64)>,
    files: Vec<(std::path::PathBuf, u64)>,
}

/// One of the things that go one by one.
enum Candidate {
    Holder(Holder),
    Folder(Folder),
    File(std::path::PathBuf, u64),
}

impl Store {
    /// Takes away what `policy` says. Runs beside builds: they wait for it when they look something up, and it leaves
    /// alone what they use.
    ///
    /// # Errors
    /// A store that cannot be read or written; what went until then stays gone, and the store is sound.
    pub fn prune(&self, policy: &PrunePolicy, owner: &dyn Folders) -> Result<Pruned, Error> {
        // To measure trees takes long; nobody has to wait for that.
        let folders = match policy.kinds.contains(&Kind::Mounts) || policy.kinds.contains(&Kind::Trees) {
            true => self.folders(owner)?,
            false => vec![],
        };
        // Files first, then who uses them: whoever adds a blob says so before it appears.
        let files = self.blob_files()?;
        let mut access = self.access_alone()?;
        let in_use = self.0.session.used_by_all()?;
        let mut plan = self.plan(&access, policy, folders, &files, &in_use)?;
        let locks = if plan.folders.is_empty() {
            vec![]
        } else {
            let (unused, locks) = self.unused(&plan.folders, &in_use)?;
            plan.folders = unused;
            locks
        };
        let pruned = plan.summary();
        if policy.dry_run {
            return Ok(pruned);
        }
        self.carry_out(&mut access, &plan, owner)?;
        drop(access);
        if !plan.folders.is_empty() {
            owner.sweep().map_err(Error::at(&self.0.trees))?;
        }
        drop(locks);
        Ok(pruned)
    }

    fn plan(
        &self,
        access: &Guard<'_>,
        policy: &PrunePolicy,
        folders: Vec<Folder>,
        files: &[BlobFile],
        in_use: &HashSet<Digest>,
    ) -> Result<Plan, Error> {
        let holders = self.holders(access)?;
        let sizes: HashMap<Digest, u64> = files.iter().map(|file| (file.digest, file.disk_bytes)).collect();
        let mut counts = Counts::of(&holders, in_use);
        let mut plan = Plan::default();
        if policy.kinds.contains(&Kind::Layers) {
            let unheld = files.iter().filter(|file| counts.get(&file.digest) == 0);
            plan.blobs = unheld.map(|file| (file.digest, file.disk_bytes)).collect();
        }
        let leftover =
            |folder: &&Folder| folder.kind == FolderKind::Leftover && policy.kinds.contains(&Kind::Trees);
        plan.folders = folders.iter().filter(leftover).cloned().collect();
        let (candidates, held_bytes) = self.candidates(access, policy, holders, folders, in_use)?;
        let limit =
            policy.unused_for.map(|age| SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
        let mut total = held_bytes
            + sizes.iter().filter(|(digest, _)| counts.get(digest) > 0).map(|(_, bytes)| bytes).sum::<u64>();
        for (last_used, candidate) in candidates {
            let is_old = limit.is_some_and(|limit| last_used < limit);
            let is_too_much = policy.keep_bytes.is_some_and(|keep| total > keep);
            if !is_old && !is_too_much {
                continue;
            }
            match candidate {
                Candidate::Holder(holder) => {
                    for blob in counts.release(&holder) {
                        let bytes = sizes.get(blob).copied().unwrap_or(0);
                        total -= bytes;
                        if sizes.contains_key(blob) {
                            plan.blobs.push((*blob, bytes));
                        }
                    }
                    plan.holders.push(holder);
                }
                Candidate::Folder(folder) => {
                    total -= folder.disk_bytes;
                    plan.folders.push(folder);
                }
                Candidate::File(path, bytes) => {
                    total -= bytes;
                    plan.files.push((path, bytes));
                }
            }
        }
        Ok(plan)
    }

    /// What may go, the least recently used first; and what trees, mounts and notes take together with the database.
    fn candidates(
        &self,
        access: &Guard<'_>,
        policy: &PrunePolicy,
        holders: Vec<Holder>,
        folders: Vec<Folder>,
        in_use: &HashSet<Digest>,
    ) -> Result<(Vec<(SystemTime, Candidate)>, u64), Error> {
        let mut candidates = vec![];
        for holder in holders {
            let (kind, is_free) = match &holder.what {
                Held::Image(_) => (Kind::Images, true),
                Held::Resolution(..) => (Kind::Bases, true),
                Held::Download(_) => (Kind::Downloads, true),
                Held::Record { key, .. } => (Kind::Records, !in_use.contains(key)),
            };
            if is_free && policy.kinds.contains(&kind) {
                candidates.push((holder.last_used, Candidate::Holder(holder)));
            }
        }
        let mut bytes = file_bytes(access.path());
        for folder in folders.into_iter().filter(|folder| folder.kind != FolderKind::Leftover) {
            bytes += folder.disk_bytes;
            let kind = if folder.kind == FolderKind::Mount { Kind::Mounts } else { Kind::Trees };
            if policy.kinds.contains(&kind) {
                candidates.push((folder.last_used, Candidate::Folder(folder)));
            }
        }
        for (path, size, last_used) in self.notes()? {
            bytes += size;
            if policy.kinds.contains(&Kind::Notes) {
                candidates.push((last_used, Candidate::File(path, size)));
            }
        }
        candidates.sort_by_key(|(last_used, _)| *last_used);
        Ok((candidates, bytes))
    }

    fn carry_out(&self, access: &mut Guard<'_>, plan: &Plan, owner: &dyn Folders) -> Result<(), Error> {
        let names_go = plan.holders.iter().any(|holder| matches!(holder.what, Held::Image(_)));
        access.write_or(|transaction| {
            let failed = |error| Error::database(&self.0.root.join("lithify.db"), error);
            plan.holders.iter().try_for_each(|holder| delete(transaction, &holder.what)).map_err(failed)?;
            if names_go { self.write_view(transaction) } else { Ok(()) }
        })?;
        for (digest, _) in &plan.blobs {
            remove(&self.blob_path(digest))?;
            self.forget_trust(digest);
        }
        access.write(|transaction| {
            let sql = ["DELETE FROM blobs WHERE digest = ?1", "DELETE FROM origins WHERE digest = ?1"];
            for sql in sql {
                let mut delete = transaction.prepare(sql)?;
                plan.blobs
                    .iter()
                    .try_for_each(|(digest, _)| delete.execute([digest.as_bytes()]).map(drop))?;
            }
            Ok(())
        })?;
        plan.files.iter().try_for_each(|(path, _)| remove(path))?;
        owner.discard(&plan.folders).map_err(Error::at(&self.0.trees))?;
        let mounts = plan.folders.iter().filter(|folder| folder.kind == FolderKind::Mount);
        mounts.for_each(|folder| self.forget_mount(&folder.name));
        Ok(())
    }

    /// All files in `blobs/`. Files of other names are someone else's.
    pub(super) fn blob_files(&self) -> Result<Vec<BlobFile>, Error> {
        let folder = self.0.root.join("blobs/sha256");
        let mut files = vec![];
        for entry in fs::read_dir(&folder).map_err(Error::at(&folder))? {
            let entry = entry.map_err(Error::at(&folder))?;
            let name = entry.file_name();
            let Ok(digest) = format!("sha256:{}", name.to_string_lossy()).parse() else { continue };
            // One that was removed meanwhile is no file any more.
            let Ok(metadata) = entry.metadata() else { continue };
            files.push(BlobFile { digest, disk_bytes: metadata.blocks() * 512 });
        }
        Ok(files)
    }

    /// The blobs that a manifest or index names, itself first, as far as they are here.
    pub(super) fn closure(&self, manifest: &Descriptor) -> Result<Vec<Digest>, Error> {
        let mut found = vec![manifest.digest];
        let Ok(bytes) = fs::read(self.blob_path(&manifest.digest)) else { return Ok(found) };
        // Whatever is damaged names nothing; `verify` reports it.
        match manifest.media_type.as_str() {
            media_type::INDEX | media_type::DOCKER_INDEX => {
                let Ok(index) = serde_json::from_slice::<Index>(&bytes) else { return Ok(found) };
                for one in index.manifests.iter().filter(|one| one.digest != manifest.digest) {
                    found.extend(self.closure(one)?);
                }
            }
            _ => {
                let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { return Ok(found) };
                found.push(manifest.config.digest);
                found.extend(manifest.layers.iter().map(|layer| layer.digest));
            }
        }
        Ok(found)
    }
}

impl Plan {
    fn summary(&self) -> Pruned {
        let mut pruned = Pruned { blobs: self.blobs.len() as u64, ..Pruned::default() };
        for holder in &self.holders {
            match &holder.what {
                Held::Image(name) => pruned.images.push(name.clone()),
                Held::Record { .. } => pruned.records += 1,
                Held::Resolution(..) | Held::Download(_) => {}
            }
        }
        let count = |kind| self.folders.iter().filter(|folder| folder.kind == kind).count() as u64;
        (pruned.trees, pruned.mounts) = (count(FolderKind::Tree), count(FolderKind::Mount));
        let folders = self.folders.iter().map(|folder| folder.disk_bytes);
        let files =
            self.blobs.iter().map(|(_, bytes)| *bytes).chain(self.files.iter().map(|(_, bytes)| *bytes));
        pruned.bytes = folders.chain(files).sum();
        pruned
    }
}

fn delete(transaction: &rusqlite::Transaction<'_>, what: &Held) -> rusqlite::Result<()> {
    let rows = match what {
        Held::Image(name) => {
            transaction.prepare_cached("DELETE FROM images WHERE name = ?1")?.execute([name])
        }
        Held::Resolution(reference, platform) => transaction
            .prepare_cached("DELETE FROM resolutions WHERE reference = ?1 AND platform = ?2")?
            .execute([reference, platform]),
        Held::Download(url) => {
            transaction.prepare_cached("DELETE FROM downloads WHERE url = ?1")?.execute([url])
        }
        Held::Record { key, .. } => {
            transaction.prepare_cached("DELETE FROM records WHERE key = ?1")?.execute([key.as_bytes()])
        }
    };
    rows.map(drop)
}

fn remove(path: &std::path::Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::at(path)(error)),
        _ => Ok(()),
    }
}
