//! What takes space.

use std::collections::{HashMap, HashSet};

use super::{Store, TaggedImage};
use crate::Error;

/// What the store's blobs take on disk. Trees are not in it: whoever unpacks them accounts for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All blobs together.
    pub total_bytes: u64,
    /// The blobs that no image names: cache, and what a prune would take.
    pub unnamed_bytes: u64,
    /// The images, by name.
    pub images: Vec<ImageUsage>,
    /// How many cache records there are.
    pub records: u64,
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

impl Store {
    /// What takes space, in blocks that files really have.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn usage(&self) -> Result<Usage, Error> {
        let files = self.blob_files()?;
        let sizes: HashMap<_, _> = files.iter().map(|file| (file.digest, file.disk_bytes)).collect();
        let mut closures = vec![];
        for image in self.images()? {
            let blobs: HashSet<_> = self.closure(&image.manifest)?.into_iter().collect();
            closures.push((image, blobs));
        }
        let mut owners: HashMap<_, usize> = HashMap::new();
        closures
            .iter()
            .flat_map(|(_, blobs)| blobs)
            .for_each(|digest| *owners.entry(*digest).or_default() += 1);
        let images = closures.into_iter().map(|(image, blobs)| {
            let bytes = |keep: &dyn Fn(usize) -> bool| {
                blobs
                    .iter()
                    .filter(|digest| keep(owners[digest]))
                    .filter_map(|digest| sizes.get(digest))
                    .sum()
            };
            ImageUsage { image, total_bytes: bytes(&|_| true), own_bytes: bytes(&|count| count == 1) }
        });
        let images = images.collect();
        let unnamed = files.iter().filter(|file| !owners.contains_key(&file.digest));
        let sql = "SELECT count(*) FROM records";
        Ok(Usage {
            total_bytes: sizes.values().sum(),
            unnamed_bytes: unnamed.map(|file| file.disk_bytes).sum(),
            images,
            records: self
                .access()?
                .read(|connection| connection.query_row(sql, (), |row| super::database::size_at(row, 0)))?,
        })
    }
}
