//! What takes space, in blocks that files really have.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lithify_oci::Digest;

use super::folders::{Folder, FolderKind, Folders, KnownMount};
use super::references::{Counts, Held, Holder};
use super::{Store, TaggedImage};
use crate::Error;

/// What the store takes on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All that follows together.
    pub total_bytes: u64,
    /// All blobs.
    pub blobs_bytes: u64,
    /// The blobs that no image names: cache, and what a prune would take.
    pub unnamed_bytes: u64,
    /// The blobs that nothing names: what any prune takes.
    pub unheld_bytes: u64,
    /// The images, by name.
    pub images: Vec<ImageUsage>,
    /// The layers, the largest first.
    pub layers: Vec<LayerUsage>,
    /// The cache records, the last used first.
    pub records: Vec<RecordUsage>,
    /// Files of ADD: how many, and their bytes.
    pub downloads: (u64, u64),
    /// The cache mounts, by id.
    pub mounts: Vec<MountUsage>,
    /// The unpacked trees, the last used first.
    pub trees: Vec<Folder>,
    /// What killed processes left: folders, and files that were being written.
    pub leftovers_bytes: u64,
    /// The index of context files.
    pub contexts_bytes: u64,
    /// The log of builds.
    pub builds_bytes: u64,
    /// The database.
    pub database_bytes: u64,
}

/// What one image takes on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUsage {
    /// Its name and manifest.
    pub image: TaggedImage,
    /// All its blobs that are here.
    pub total_bytes: u64,
    /// Those of them that no other image has.
    pub own_bytes: u64,
}

/// What one layer takes on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// The blob.
    pub blob: Digest,
    /// What it takes.
    pub disk_bytes: u64,
    /// How many images have it.
    pub images: usize,
    /// How many cache records made it.
    pub records: usize,
}

/// What one cache record takes on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordUsage {
    /// Its key.
    pub key: Digest,
    /// The step that it is of: stage and instruction.
    pub step: String,
    /// Its layer, with the real times of the files in it.
    pub total_bytes: u64,
    /// What of that no image and no other record has: what goes with it.
    pub own_bytes: u64,
    /// When a build had it last.
    pub last_used: SystemTime,
}

/// What one cache mount takes on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountUsage {
    /// What the Dockerfile calls it; empty where that is not known.
    pub id: String,
    /// Its folder.
    pub folder: Folder,
}

impl Store {
    /// What takes space; `owner` tells of trees and cache mounts.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn usage(&self, owner: &dyn Folders) -> Result<Usage, Error> {
        let files = self.blob_files()?;
        let sizes: HashMap<Digest, u64> = files.iter().map(|file| (file.digest, file.disk_bytes)).collect();
        let bytes =
            |blobs: &mut dyn Iterator<Item = &Digest>| blobs.filter_map(|blob| sizes.get(blob)).sum::<u64>();
        let (holders, database) = {
            let access = self.access()?;
            (self.holders(&access)?, access.path().to_owned())
        };
        let nobody = HashSet::new();
        let images = || holders.iter().filter(|holder| matches!(holder.what, Held::Image(_)));
        let records = || holders.iter().filter(|holder| matches!(holder.what, Held::Record { .. }));
        let (of_images, of_all) = (Counts::of(images(), &nobody), Counts::of(&holders, &nobody));
        let of_records = Counts::of(records(), &nobody);
        let mut usage = Usage {
            blobs_bytes: sizes.values().sum(),
            unnamed_bytes: bytes(&mut sizes.keys().filter(|blob| of_images.get(blob) == 0)),
            unheld_bytes: bytes(&mut sizes.keys().filter(|blob| of_all.get(blob) == 0)),
            layers: self.layer_usage(&sizes, &of_images, &of_records)?,
            database_bytes: file_bytes(&database),
            ..Usage::default()
        };
        for image in self.images()? {
            let is_it = |holder: &&Holder| holder.what == Held::Image(image.name.clone());
            let Some(holder) = images().find(is_it) else { continue };
            usage.images.push(ImageUsage {
                total_bytes: bytes(&mut holder.blobs.iter()),
                own_bytes: bytes(&mut holder.blobs.iter().filter(|blob| of_images.get(blob) == 1)),
                image,
            });
        }
        for holder in &holders {
            let total_bytes = bytes(&mut holder.blobs.iter());
            match &holder.what {
                Held::Record { key, step, .. } => usage.records.push(RecordUsage {
                    key: *key,
                    step: step.clone(),
                    total_bytes,
                    own_bytes: bytes(&mut holder.blobs.iter().filter(|blob| of_all.get(blob) == 1)),
                    last_used: holder.last_used,
                }),
                Held::Download(_) => {
                    usage.downloads = (usage.downloads.0 + 1, usage.downloads.1 + total_bytes);
                }
                Held::Image(_) | Held::Resolution(..) => {}
            }
        }
        usage.records.sort_by_key(|record| std::cmp::Reverse(record.last_used));
        self.add_folders(&mut usage, owner)?;
        for (path, size, _) in self.notes()? {
            let is_build = path.parent().is_some_and(|parent| parent.ends_with("builds"));
            *(if is_build { &mut usage.builds_bytes } else { &mut usage.contexts_bytes }) += size;
        }
        usage.total_bytes = usage.sum();
        Ok(usage)
    }

    fn layer_usage(
        &self,
        sizes: &HashMap<Digest, u64>,
        of_images: &Counts,
        of_records: &Counts,
    ) -> Result<Vec<LayerUsage>, Error> {
        let known: HashSet<[u8; 32]> = self.access()?.read(|connection| {
            let mut query = connection.prepare("SELECT DISTINCT digest FROM layer_blobs")?;
            query.query_map((), |row| row.get(0))?.collect()
        })?;
        let layers = sizes.iter().filter(|(blob, _)| known.contains(blob.as_bytes()));
        let mut layers: Vec<_> = layers
            .map(|(blob, disk_bytes)| LayerUsage {
                blob: *blob,
                disk_bytes: *disk_bytes,
                images: of_images.get(blob),
                records: of_records.get(blob),
            })
            .collect();
        layers.sort_by_key(|layer| (std::cmp::Reverse(layer.disk_bytes), layer.blob));
        Ok(layers)
    }

    fn add_folders(&self, usage: &mut Usage, owner: &dyn Folders) -> Result<(), Error> {
        let known = self.known_mounts()?;
        for folder in self.folders(owner)? {
            match folder.kind {
                FolderKind::Tree => usage.trees.push(folder),
                FolderKind::Leftover => usage.leftovers_bytes += folder.disk_bytes,
                FolderKind::Mount => {
                    let is_it = |mount: &&KnownMount| mount.folder == folder.name;
                    let id = known.iter().find(is_it).map(|mount| mount.id.clone()).unwrap_or_default();
                    usage.mounts.push(MountUsage { id, folder });
                }
            }
        }
        usage.leftovers_bytes +=
            folder_files(&self.0.root.join("tmp"))?.iter().map(|(_, size, _)| size).sum::<u64>();
        usage.trees.sort_by_key(|tree| std::cmp::Reverse(tree.last_used));
        usage.mounts.sort_by(|one, other| (&one.id, &one.folder.name).cmp(&(&other.id, &other.folder.name)));
        Ok(())
    }

    /// The index of context files and the log of builds: files, bytes on disk, last use.
    pub(super) fn notes(&self) -> Result<Vec<(PathBuf, u64, SystemTime)>, Error> {
        let mut notes = folder_files(&self.0.root.join("contexts"))?;
        notes.extend(folder_files(&self.0.root.join("builds"))?);
        Ok(notes)
    }
}

impl Usage {
    fn sum(&self) -> u64 {
        let trees = self.trees.iter().chain(self.mounts.iter().map(|mount| &mount.folder));
        let folders: u64 = trees.map(|folder| folder.disk_bytes).sum();
        let notes = self.contexts_bytes + self.builds_bytes + self.database_bytes;
        self.blobs_bytes + folders + notes + self.leftovers_bytes
    }
}

/// The files in a folder of the store: bytes on disk, and when each was written last.
fn folder_files(folder: &Path) -> Result<Vec<(PathBuf, u64, SystemTime)>, Error> {
    let entries = fs::read_dir(folder).map_err(Error::at(folder))?;
    let files = entries.flatten().filter_map(|entry| {
        // One that was removed meanwhile is no file any more.
        let metadata = entry.metadata().ok()?;
        Some((entry.path(), metadata.blocks() * 512, metadata.modified().unwrap_or(UNIX_EPOCH)))
    });
    Ok(files.collect())
}

/// What the database takes on disk, with its log and its index of that.
pub(super) fn file_bytes(database: &Path) -> u64 {
    let bytes = |end: &str| {
        let mut path = database.as_os_str().to_owned();
        path.push(end);
        fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
    };
    ["", "-wal", "-shm"].into_iter().map(bytes).sum()
}
