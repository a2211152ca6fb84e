//! `--output type=local` and `type=tar`: the files of the image rather than the image.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use lithify_cache::Store;
use lithify_engine::{Built, BuiltLayer};
use lithify_files::flatten::Flattened;
use lithify_files::plant::{Planted, Planter};
use lithify_oci::layer::{
    Catalogue, CatalogueEntry, Compiled, InLayer, Mended, TarWriter, Times, decompress,
};
use lithify_oci::{Content, Entry, EntrySink, Timestamp, TreePath};

use crate::render::say;

/// Writes the files into a folder, as the caller's. They have real times unless one was asked for.
pub(super) fn write_folder(
    built: &Built,
    store: &Store,
    folder: &Path,
    times: Option<Times>,
) -> io::Result<()> {
    let mut compiled = HashMap::new();
    let tree = flatten(built, store, &mut compiled)?;
    std::fs::create_dir_all(folder)?;
    let root = std::fs::File::open(folder)?;
    let at = match times {
        Some(Times::At(seconds)) => Some(Timestamp { seconds, nanoseconds: 0 }),
        _ => None,
    };
    let mut sink = FolderSink { planter: Planter::new(root.as_fd())?, at, compiled };
    tree.stream(&mut sink)?;
    sink.planter.finish()
}

/// Writes the files as one archive, in canonical order. Their times are zero unless others were asked for.
pub(super) fn write_archive(
    built: &Built,
    store: &Store,
    writer: &mut dyn Write,
    times: Option<Times>,
) -> io::Result<()> {
    let tree = flatten(built, store, &mut HashMap::new())?;
    let mut archive = TarWriter::new(writer, times.unwrap_or_default());
    tree.stream(&mut archive)?;
    archive.finish()?.flush()
}

/// Compiled Python whose header says, in the layer, another time than in the tree; and that one, in seconds since 1970.
type CompiledTimes = HashMap<TreePath, u32>;

fn flatten(built: &Built, store: &Store, compiled: &mut CompiledTimes) -> io::Result<Flattened> {
    let mut tree = Flattened::new();
    for layer in &built.layers {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("the layer {}: {error}", layer.diff_id));
        add(&mut tree, store, layer, compiled).map_err(named)?;
    }
    Ok(tree)
}

/// Adds a layer, with the real times of its files where it was built here.
fn add(
    tree: &mut Flattened,
    store: &Store,
    layer: &BuiltLayer,
    compiled: &mut CompiledTimes,
) -> io::Result<()> {
    let archive = decompress(store.open_blob(&layer.blob.digest)?)?;
    let catalogue = match layer.base {
        Some(_) => None,
        None => store.layer(&layer.stored)?.and_then(|facts| facts.catalogue),
    };
    let Some(catalogue) = catalogue else { return tree.add(archive, None, store.root()) };
    let mut bytes = vec![];
    store.open_blob(&catalogue)?.read_to_end(&mut bytes)?;
    let catalogue = Catalogue::read(bytes)?;
    let entries = catalogue.entries()?;
    let mut times = entries.map(|item| {
        let CatalogueEntry { entry, compiled: header, .. } = item?;
        match header {
            Some(Compiled { source_seconds, in_layer: InLayer::AsSource }) => {
                compiled.insert(entry.path.clone(), source_seconds)
            }
            _ => compiled.remove(&entry.path),
        };
        Ok((entry.path, entry.modified))
    });
    tree.add(archive, Some(&mut times), store.root())
}

/// Writes files of the caller, and tells of what only root could make.
struct FolderSink {
    planter: Planter,
    at: Option<Timestamp>,
    compiled: CompiledTimes,
}

impl EntrySink for FolderSink {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> io::Result<()> {
        let planted = match self.at {
            Some(modified) => self.planter.plant(&Entry { modified, ..entry.clone() }, content),
            None => match self.compiled.get(&entry.path) {
                Some(&source_seconds) => self.planter.plant(entry, &mut Mended { content, source_seconds }),
                None => self.planter.plant(entry, content),
            },
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", entry.path));
        if planted.map_err(named)? == Planted::LeftOut {
            say(format_args!("warning: {} is a device node, and is left out", entry.path));
        }
        Ok(())
    }
}
