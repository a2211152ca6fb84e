//! COPY --from, WORKDIR, and what the main process must know of a tree to place files in it.

use std::io::{self, Read};
use std::os::fd::AsFd;

use lithify_files::arrange::{self, Arrangement, Origin, Part, Rules, arrange};
use lithify_files::dest::{self, Destination};
use lithify_files::ignore::Ignore;
use lithify_files::place::{Conflicts, HardLinks};
use lithify_files::select::{self, Options, TreeKind, open_content};
use lithify_files::{chmod, owner};
use lithify_oci::{Content, EntrySink, Timestamp, TreePath};

use crate::layers::{LayerFiles, place_below, placing};
use crate::protocol::{Chain, CopyRequest, Failure, MadeLayer};
use crate::run::read_file;
use crate::serve::{Call, Context, ids};

/// Where `dest` leads in a tree, and which numbers `owner` has there.
pub(crate) fn inspect(
    context: &Context,
    chain: &Chain,
    dest: &str,
    is_directory: bool,
    owner: Option<&str>,
) -> Result<(Destination, Option<(u32, u32)>), Failure> {
    if chain.is_empty() {
        let destination = Destination::in_empty_tree(dest, is_directory)?;
        return Ok((destination, owner.map(|owner| owner::for_files(owner, None, None))));
    }
    let view = context.snapshots.view(&ids(chain))?;
    let destination = dest::inspect(view.root(), dest, is_directory)?;
    let owner = owner.map(|owner| owner_in(&view.root(), owner)).transpose()?;
    Ok((destination, owner))
}

/// Folders that links lead elsewhere, each with where to.
type Links = Vec<(Vec<u8>, Vec<u8>)>;

/// Those of `folders`, below the destination, that links lead elsewhere, and where to.
pub(crate) fn links(
    context: &Context,
    chain: &Chain,
    destination: &Destination,
    folders: &[Vec<u8>],
) -> Result<Links, Failure> {
    if chain.is_empty() || folders.is_empty() {
        return Ok(vec![]);
    }
    let view = context.snapshots.view(&ids(chain))?;
    let folders: Vec<TreePath> = folders.iter().map(|folder| TreePath::cleaned(folder)).collect();
    let links = dest::links(view.root(), &destination.path, &folders)?;
    let bytes = |path: TreePath| path.as_bytes().to_vec();
    Ok(links.into_iter().map(|(folder, target)| (bytes(folder), bytes(target))).collect())
}

fn owner_in(root: &impl AsFd, spec: &str) -> Result<(u32, u32), Failure> {
    if !owner::needs_files(spec) {
        return Ok(owner::for_files(spec, None, None));
    }
    let (passwd, group) = (read_file(root, "etc/passwd")?, read_file(root, "etc/group")?);
    Ok(owner::for_files(spec, passwd.as_deref(), group.as_deref()))
}

/// Makes a layer by copying from other trees.
pub(crate) fn copy(
    context: &Context,
    request: &CopyRequest,
    call: &mut Call<'_>,
) -> Result<MadeLayer, Failure> {
    let files = LayerFiles::take(call)?;
    let is_directory = request.dest_is_directory;
    let (destination, owner) =
        inspect(context, &request.below, &request.dest, is_directory, request.owner.as_deref())?;
    let exclude = match &request.select.exclude[..] {
        [] => None,
        patterns => Some(Ignore::from_patterns(patterns.iter().map(String::as_bytes))?),
    };
    let options = Options {
        ignore: None,
        exclude: exclude.as_ref(),
        parents: request.select.parents,
        tree: TreeKind::Image(context.owners),
    };
    let mut parts = vec![];
    let mut contents = vec![];
    let mut views = vec![];
    for source in &request.sources {
        views.push(context.snapshots.view(&ids(&source.chain))?);
    }
    for (view, source) in views.iter().zip(&request.sources) {
        for one in select::select(view.root(), source.pattern.as_bytes(), &options)? {
            parts.push(Part::Match(one));
            contents.push(PartContent::Tree(view.root()));
        }
    }
    for (name, content) in &request.inline {
        parts.push(Part::Inline { name: name.clone(), size_bytes: content.len() as u64 });
        contents.push(PartContent::Inline(content));
    }
    let mode = request.mode.as_deref().map(chmod::parse).transpose()?;
    let rules = Rules { owner, mode, parents: request.select.parents, made: now() };
    let arrangement = arrange(parts, &destination, &rules)?;
    let (conflicts, links) = (arrangement.conflicts(), arrangement.hard_links());
    place_below(context, &request.below, conflicts, links, files, |sink| {
        send(&arrangement, &contents, sink).map_err(placing)
    })
}

/// Where the content of a part is.
enum PartContent<'a> {
    Inline(&'a [u8]),
    Tree(std::os::fd::BorrowedFd<'a>),
}

fn send(arrangement: &Arrangement, contents: &[PartContent<'_>], sink: &mut dyn EntrySink) -> io::Result<()> {
    for placed in arrangement.items() {
        sink.entry(&placed.entry, &mut PlacedContent { contents, origin: &placed.origin })?;
    }
    Ok(())
}

/// The content of one entry, opened only if it is needed.
struct PlacedContent<'a> {
    contents: &'a [PartContent<'a>],
    origin: &'a Origin,
}

impl Content for PlacedContent<'_> {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        let (part, source) = match self.origin {
            Origin::Made | Origin::Archive { .. } => return Ok(Box::new(io::empty())),
            Origin::Inline { part } => (*part, None),
            Origin::Selected { part, source, .. } => (*part, Some(source)),
        };
        match (&self.contents[part], source) {
            (PartContent::Inline(content), _) => Ok(Box::new(*content)),
            (PartContent::Tree(root), Some(source)) => Ok(Box::new(open_content(*root, source)?)),
            (PartContent::Tree(_), None) => Ok(Box::new(io::empty())),
        }
    }
}

/// Makes a layer with one folder, and those above it that are missing.
pub(crate) fn make_directory(
    context: &Context,
    chain: &Chain,
    path: &str,
    user: &str,
    call: &mut Call<'_>,
) -> Result<MadeLayer, Failure> {
    let files = LayerFiles::take(call)?;
    let owner = if user.is_empty() { None } else { Some(user) };
    let (destination, owner) = inspect(context, chain, path, true, owner)?;
    let folders = arrange::make_directory(&destination, owner.unwrap_or((0, 0)), now())?;
    place_below(context, chain, Conflicts::Refuse, HardLinks::new(), files, |sink| {
        let mut nothing = lithify_oci::entry::NoContent;
        folders.iter().try_for_each(|folder| sink.entry(folder, &mut nothing)).map_err(placing)
    })
}

/// The time that made folders and heredocs have in the tree; in the layer it is the layer's.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanoseconds: since.subsec_nanos() }
}
