//! The keys of COPY and ADD.

use lithify_graph::{Copy, CopySource, InlineFile, Unpack};
use lithify_oci::Platform;

use super::encoding::{Encoder, Fields};
use super::{Chain, Keyed, SourceContent};

/// The key of a COPY or ADD whose sources were hashed. `sources` has one element for each
/// [`CopySource::Path`] of `copy.sources`, in order; inline files count by their content.
///
/// # Panics
/// If it has more or fewer: such a key would find stale results.
pub fn copy_key(copy: &Copy, platform: &Platform, base: &Chain, sources: &[SourceContent]) -> Keyed {
    let mut encoder = Encoder::new("copy");
    common_parts(&mut encoder, copy, platform, base);
    let mut selected = sources.iter();
    for source in &copy.sources {
        match source {
            CopySource::Inline(file) => inline_part(&mut encoder, file),
            CopySource::Path { unpack, .. } => {
                encoder.flag("--unpack", *unpack == Unpack::Archives);
                let content = selected.next().expect("one content for each source");
                encoder.part("content", content.digest().digest().as_bytes());
                encoder.details(content.details().iter().cloned());
            }
        }
    }
    assert!(selected.next().is_none(), "one content for each source");
    encoder.finish()
}

/// The key of a COPY by what it was told to do, for sources whose trees need not be at hand: it finds a result
/// without a look into them. `sources` has one chain for each [`CopySource::Path`] of `copy.sources`, in order. Not
/// for contexts, which have no chain.
///
/// # Panics
/// If there are more or fewer chains.
pub fn copy_definition_key(copy: &Copy, platform: &Platform, base: &Chain, sources: &[Chain]) -> Keyed {
    let mut encoder = Encoder::new("copy definition");
    common_parts(&mut encoder, copy, platform, base);
    let mut chains = sources.iter();
    for source in &copy.sources {
        match source {
            CopySource::Inline(file) => inline_part(&mut encoder, file),
            CopySource::Path { from: _, pattern, unpack } => {
                encoder.flag("--unpack", *unpack == Unpack::Archives);
                encoder.text("source", pattern);
                encoder.chain("source layer", chains.next().expect("one chain for each source"));
            }
        }
    }
    assert!(chains.next().is_none(), "one chain for each source");
    for pattern in &copy.exclude {
        encoder.text("--exclude", pattern);
    }
    encoder.finish()
}

fn common_parts(encoder: &mut Encoder, copy: &Copy, platform: &Platform, base: &Chain) {
    let Copy { base: _, sources: _, dest, dest_is_directory, owner, mode, link, parents, exclude: _ } = copy;
    encoder.text("system", &platform.os);
    // BuildKit copies onto the base after all where --chmod is given.
    if !link || mode.is_some() {
        encoder.chain("base layer", base);
    }
    encoder.part("destination", &Fields::default().text(dest).number(u8::from(*dest_is_directory)).done());
    encoder.part("--chown", &Fields::default().maybe(owner.as_deref()).done());
    let mode = mode.as_deref().map(|mode| octal(mode).map_or(mode.to_owned(), |bits| format!("{bits:o}")));
    encoder.part("--chmod", &Fields::default().maybe(mode.as_deref()).done());
    encoder.flag("--link", *link);
    encoder.flag("--parents", *parents);
}

fn inline_part(encoder: &mut Encoder, file: &InlineFile) {
    let InlineFile { name, content } = file;
    encoder.part(format!("heredoc {name}"), content);
}

/// The bits of `--chmod` where it is written in octal digits.
pub(super) fn octal(mode: &str) -> Option<u32> {
    let digits = !mode.is_empty() && mode.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    digits.then(|| u32::from_str_radix(mode, 8).ok())?
}
