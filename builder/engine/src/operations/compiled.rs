//! Compiled Python in new layers: where the header of a `.pyc` holds the time that its source has in the tree, it gets the
//! one that the source has in the layer, or Python would compile it anew at every start.
//!
//! Only sources in layers that were built here have another time there than in the tree. So this is a matter of the new
//! layer, its catalogue and the catalogues below, and comes out the same whatever made the layer.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};

use lithify_cache::Store;
use lithify_oci::layer::{
    Catalogue, CatalogueEntry, Compiled, Compression, InLayer, LayerWriter, Limits, Mended, Times, Written,
    decompress, read_tar, source_of,
};
use lithify_oci::{Content, Digest, Entry, EntryKind, EntrySink, TreePath};
use lithify_worker::MadeLayer;

use super::LayerFiles;
use crate::build::Running;
use crate::chain::TreeLayers;
use crate::encode::catalogue_of;
use crate::error::Failure;

impl Running<'_> {
    /// The layer with the headers that it should have, where some are others; `below` is what it stands on.
    pub(super) fn mend_compiled(
        &self,
        below: &TreeLayers,
        files: &LayerFiles,
        made: &MadeLayer,
    ) -> Result<Option<(LayerFiles, MadeLayer)>, Failure> {
        let failed = |source| Failure::Io { doing: "cannot mend compiled Python in a new layer", source };
        let catalogue = read_catalogue(files.catalogue.file()).map_err(failed)?;
        let own = below.diff_ids().iter().filter(|diff_id| self.trees.base_layer(diff_id).is_none());
        let headers = headers_to_mend(self.request.store, &catalogue, own).map_err(failed)?;
        if headers.is_empty() {
            return Ok(None);
        }
        let mended = LayerFiles::create(self.request.store)?;
        let made = rewrite(files, &mended, &catalogue, &headers, made).map_err(failed)?;
        Ok(Some((mended, made)))
    }
}

/// The compiled files whose source has, in a layer that was built here, the time that they say.
fn headers_to_mend<'a>(
    store: &Store,
    new: &Catalogue,
    own: impl DoubleEndedIterator<Item = &'a Digest>,
) -> io::Result<HashMap<TreePath, Compiled>> {
    let mut compiled = HashMap::new();
    // The compiled files of each source that was not met yet.
    let mut wanted: HashMap<TreePath, Vec<(TreePath, Compiled)>> = HashMap::new();
    for item in new.entries()? {
        let CatalogueEntry { entry, compiled, .. } = item?;
        if let Some((compiled, source)) = compiled.zip(source_of(&entry)) {
            wanted.entry(source).or_default().push((entry.path, compiled));
        }
    }
    meet(new, &mut wanted, &mut compiled)?;
    for diff_id in own.rev() {
        if wanted.is_empty() {
            break;
        }
        meet(&catalogue_of(store, diff_id)?.1, &mut wanted, &mut compiled)?;
    }
    Ok(compiled)
}

/// Settles the sources that a layer has something to say of.
fn meet(
    layer: &Catalogue,
    wanted: &mut HashMap<TreePath, Vec<(TreePath, Compiled)>>,
    compiled: &mut HashMap<TreePath, Compiled>,
) -> io::Result<()> {
    let mut gone = vec![];
    for item in layer.entries()? {
        let entry = item?.entry;
        match entry.kind {
            EntryKind::Whiteout => gone.push(entry.path),
            EntryKind::File { .. } | EntryKind::HardLink { .. } => {
                let Some(files) = wanted.remove(&entry.path) else { continue };
                let current =
                    |(_, one): &(TreePath, Compiled)| one.source_seconds == entry.modified.seconds as u32;
                compiled.extend(files.into_iter().filter(current));
            }
            _ => {}
        }
    }
    wanted.retain(|source, _| !gone.iter().any(|path| path.contains(source)));
    Ok(())
}

fn rewrite(
    old: &LayerFiles,
    new: &LayerFiles,
    catalogue: &Catalogue,
    headers: &HashMap<TreePath, Compiled>,
    made: &MadeLayer,
) -> io::Result<MadeLayer> {
    let mut archive = old.blob.file();
    archive.rewind()?;
    let writer = LayerWriter::new(new.blob.file().try_clone()?, Compression::default(), Times::At(0))?;
    let mut mending = Mending { writer, items: catalogue.entries()?, headers };
    read_tar(decompress(archive)?, &mut mending, Limits::default())?;
    let (_, Written { layer, catalogue, has_compiled }) = mending.writer.finish()?;
    io::Write::write_all(&mut new.catalogue.file(), &catalogue)?;
    Ok(MadeLayer {
        diff_id: layer.diff_id,
        blob: layer.blob,
        uncompressed_size_bytes: layer.uncompressed_size_bytes,
        catalogue: Digest::of(&catalogue),
        catalogue_size_bytes: catalogue.len() as u64,
        has_compiled,
        encoding: made.encoding.clone(),
    })
}

struct Mending<'a, I> {
    writer: LayerWriter<File>,
    items: I,
    headers: &'a HashMap<TreePath, Compiled>,
}

impl<I: Iterator<Item = io::Result<CatalogueEntry>>> EntrySink for Mending<'_, I> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let item = self.items.next().transpose()?.filter(|item| item.entry.path == entry.path);
        let mut item = item.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let Some(compiled) = self.headers.get(&entry.path) else { return self.writer.noted(&item, content) };
        item.compiled = Some(Compiled { in_layer: InLayer::AsSource, ..*compiled });
        self.writer.noted(&item, &mut Mended { content, source_seconds: 0 })
    }
}

/// The catalogue of a layer that was just made.
pub(super) fn read_catalogue(mut file: &File) -> io::Result<Catalogue> {
    let mut bytes = vec![];
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Catalogue::read(bytes)
}
