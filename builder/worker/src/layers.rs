//! Layers: unpacked into trees, and made of streams of entries.

use std::fs::File;
use std::io::{self, Write};

use lithify_files::place::{Below, Conflicts, EmptyBelow, FolderBelow, HardLinks, Placer};
use lithify_oci::layer::{Catalogue, Compression, LayerWriter, Limits, Times, Written, decompress, read_tar};
use lithify_oci::{Digest, DigestWriter, EntrySink, TreePath};
use lithify_snapshot::{ChainId, MoveOrKeep};

use crate::protocol::{Chain, Failure, MadeLayer};
use crate::serve::{Call, Context, ids};

/// Unpacks a layer's blob on top of the tree `parents`, or a copy of it.
pub(crate) fn apply(
    context: &Context,
    (parents, reuse): (&Chain, MoveOrKeep),
    chain: &Digest,
    has_catalogue: bool,
    claimed: Option<Digest>,
    call: &mut Call<'_>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::storage("cannot read a layer", &error);
    let blob = File::from(call.file()?);
    let catalogue = match has_catalogue {
        false => None,
        true => {
            let mut bytes = vec![];
            io::Read::read_to_end(&mut File::from(call.file()?), &mut bytes).map_err(failed)?;
            Some(Catalogue::read(bytes).map_err(failed)?)
        }
    };
    let plain = decompress(blob).map_err(failed)?;
    let mut plain = Checked { plain, seen: claimed.map(|claimed| (claimed, DigestWriter::new(io::sink()))) };
    let (snapshots, parents, id) = (&context.snapshots, ids(parents), ChainId::from(*chain));
    let applied = match reuse {
        MoveOrKeep::Keep => snapshots.apply(&parents, id, &mut plain, catalogue.as_ref()),
        MoveOrKeep::Move => snapshots.apply_moving(&parents, id, &mut plain, catalogue.as_ref()),
    };
    applied.map_err(|error| match &error {
        lithify_snapshot::Error::Refused { .. } => Failure::input(error),
        lithify_snapshot::Error::Stream(source) if is_malformed(source) => Failure::input(source),
        _ => Failure::from(error),
    })
}

/// Whether it is the layer that is wrong, and not the machine.
fn is_malformed(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// Fails at the end of a stream that does not have the digest which it was to have. The tree is not published then.
struct Checked<R> {
    plain: R,
    seen: Option<(Digest, DigestWriter<io::Sink>)>,
}

impl<R: io::Read> io::Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.plain.read(buffer)?;
        if let Some((_, seen)) = &mut self.seen {
            seen.write_all(&buffer[..got])?;
        }
        if got == 0
            && !buffer.is_empty()
            && let Some((claimed, seen)) = self.seen.take()
        {
            let found = seen.finish().1;
            if found != claimed {
                let message = format!("its content is {found}, and the image's configuration says {claimed}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        Ok(got)
    }
}

/// Makes a layer of entries that the main process sends, checked against the tree below.
pub(crate) fn place(
    context: &Context,
    below: &Chain,
    conflicts: Conflicts,
    hard_links: &[(Vec<u8>, Vec<Vec<u8>>)],
    call: &mut Call<'_>,
) -> Result<MadeLayer, Failure> {
    let archive = File::from(call.file()?);
    let files = LayerFiles::take(call)?;
    let path = |bytes: &Vec<u8>| TreePath::cleaned(bytes);
    let links = hard_links.iter().map(|(first, names)| (path(first), names.iter().map(path).collect()));
    place_below(context, below, conflicts, links.collect(), files, |sink| {
        read_tar(archive, sink, Limits::default()).map_err(placing)
    })
}

/// Makes a layer of what `entries` sends, checked against the tree below.
pub(crate) fn place_below(
    context: &Context,
    below: &Chain,
    conflicts: Conflicts,
    links: HardLinks,
    files: LayerFiles,
    entries: impl FnOnce(&mut dyn EntrySink) -> Result<(), Failure>,
) -> Result<MadeLayer, Failure> {
    let through = |below: &dyn Below, sink: &mut dyn EntrySink| {
        let mut placer = Placer::new(below, conflicts, sink).with_hard_links(links);
        entries(&mut placer)?;
        placer.finish().map_err(placing)
    };
    if below.is_empty() {
        return files.write(|sink| through(&EmptyBelow, sink));
    }
    let view = context.snapshots.view(&ids(below))?;
    files.write(|sink| through(&FolderBelow::new(view.root(), context.owners), sink))
}

/// What stops a placement: kinds that clash are the Dockerfile's problem, all else is the machine's.
pub(crate) fn placing(error: io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<lithify_files::Error>()) {
        Some(clash) => Failure::input(clash),
        None => Failure::storage("cannot make a layer", &error),
    }
}

/// The files that a new layer's blob and catalogue are written to.
pub(crate) struct LayerFiles {
    blob: File,
    catalogue: File,
}

impl LayerFiles {
    pub(crate) fn take(call: &mut Call<'_>) -> Result<Self, Failure> {
        Ok(LayerFiles { blob: File::from(call.file()?), catalogue: File::from(call.file()?) })
    }

    /// Writes the layer that `entries` sends.
    ///
    /// Its times are zero and its compression is always the same: what a build's options ask for is made from it later.
    pub(crate) fn write(
        mut self,
        entries: impl FnOnce(&mut dyn EntrySink) -> Result<(), Failure>,
    ) -> Result<MadeLayer, Failure> {
        let failed = |error: io::Error| Failure::storage("cannot write a layer to the store", &error);
        let compression = Compression::default();
        let mut writer = LayerWriter::new(self.blob, compression, Times::At(0)).map_err(failed)?;
        entries(&mut writer)?;
        let (_, Written { layer, catalogue, has_compiled }) = writer.finish().map_err(failed)?;
        self.catalogue.write_all(&catalogue).map_err(failed)?;
        Ok(MadeLayer {
            diff_id: layer.diff_id,
            blob: layer.blob,
            encoding: compression.identity(),
            uncompressed_size_bytes: layer.uncompressed_size_bytes,
            catalogue: Digest::of(&catalogue),
            catalogue_size_bytes: catalogue.len() as u64,
            has_compiled,
        })
    }
}
