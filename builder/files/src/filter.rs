//! A walk that sees only what the patterns leave: the ignore file of a context, `--exclude`, and what `--parents` includes.
//!
//! A folder that is hidden itself appears as soon as something below it is seen, right before that; one that
//! no pattern hides appears even if all in it is hidden. This is what BuildKit's transfer and its copier do, one after the other.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use lithify_linux::owner::Owners;
use lithify_linux::tree::{self, Descend, Metadata, Visit};
use lithify_oci::TreePath;
use rustix::fs::{FileType, Mode, OFlags};

use crate::Error;
use crate::ignore::{Ignore, Matched};

/// What a walk leaves out.
#[derive(Clone, Copy)]
pub(crate) struct Filters<'a> {
    /// Hides what matches; paths start at the root.
    pub(crate) ignore: Option<&'a Ignore>,
    /// Hides what matches; paths start at the folder that is walked.
    pub(crate) exclude: Option<&'a Ignore>,
    /// Hides what does not match; paths start at the folder that is walked.
    pub(crate) include: Option<&'a Ignore>,
    /// Who the owners of the files are.
    pub(crate) owners: Owners,
}

/// A file that is seen.
pub(crate) struct Seen<'a> {
    /// Below the folder that is walked.
    pub(crate) path: &'a [u8],
    /// What it is.
    pub(crate) metadata: &'a Metadata,
    /// The folder that it is in, and its name there; `None` for folders that appear late.
    pub(crate) place: Option<(BorrowedFd<'a>, &'a CStr)>,
}

/// Calls `see` for everything below the folder `base` that the filters leave, in canonical order.
pub(crate) fn walk(
    root: BorrowedFd<'_>,
    base: &TreePath,
    filters: Filters<'_>,
    see: &mut dyn FnMut(Seen<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let folder = tree::open_beneath(root, base.as_bytes(), flags, Mode::empty())
        .map_err(|error| Error::read(base.as_bytes(), error))?;
    let top = Level {
        ignored: filters.ignore.map(|list| list.descend(base.as_bytes()).1).unwrap_or_default(),
        ..Level::default()
    };
    let mut full = base.as_bytes().to_vec();
    if !full.is_empty() {
        full.push(b'/');
    }
    let prefix_length = full.len();
    let mut walk = Walk { filters, levels: vec![top], full, prefix_length };
    tree::walk(folder.as_fd(), &mut |visit| walk.visit(visit, see)).map_err(|error| match error {
        Error::Read { path, source } if !base.is_root() => {
            Error::Read { path: format!("{base}{path}"), source }
        }
        error => error,
    })
}

struct Walk<'a> {
    filters: Filters<'a>,
    /// The folders that the walk is in; the first is the one that is walked, which the caller has seen.
    levels: Vec<Level>,
    /// The path of the visited file below the root.
    full: Vec<u8>,
    prefix_length: usize,
}

#[derive(Default)]
struct Level {
    path: Vec<u8>,
    ignored: Matched,
    excluded: Matched,
    included: Matched,
    /// Hidden by the patterns of the copy, not by the ignore file.
    is_filtered: bool,
    /// What `see` shall be told once the folder appears.
    unseen: Option<Metadata>,
}

impl Walk<'_> {
    fn visit(
        &mut self,
        visit: Visit<'_>,
        see: &mut dyn FnMut(Seen<'_>) -> Result<(), Error>,
    ) -> Result<Descend, Error> {
        let parent_length = visit.path.len() - visit.name.to_bytes().len();
        while self.levels.len() > 1
            && self.levels.last().is_some_and(|level| level.path.len() >= parent_length.max(1))
        {
            self.levels.pop();
        }
        let mut corrected = None;
        if self.filters.owners != Owners::Real {
            let metadata = corrected.insert(visit.metadata.clone());
            let read = |error| Error::read(&[&self.full[..self.prefix_length], visit.path].concat(), error);
            self.filters.owners.correct(visit.directory, visit.name.to_bytes(), metadata).map_err(read)?;
        }
        let metadata = corrected.as_ref().unwrap_or(visit.metadata);
        self.full.truncate(self.prefix_length);
        self.full.extend_from_slice(visit.path);
        let Some(above) = self.levels.last() else { return Ok(Descend::No) };

        let mut below = Level::default();
        let ask = |list: Option<&Ignore>, above: &Matched, path: &[u8], matched: &mut Matched| {
            list.map(|list| list.step(above, path, matched))
        };
        let is_ignored =
            ask(self.filters.ignore, &above.ignored, &self.full, &mut below.ignored) == Some(true);
        let is_excluded =
            ask(self.filters.exclude, &above.excluded, visit.path, &mut below.excluded) == Some(true);
        let is_included =
            ask(self.filters.include, &above.included, visit.path, &mut below.included) != Some(false);
        below.is_filtered = is_excluded || !is_included;

        if !is_ignored {
            self.see_levels(below.is_filtered, see)?;
        }
        let is_seen = !is_ignored && !below.is_filtered;
        if is_seen {
            let place = Some((visit.directory, visit.name));
            see(Seen { path: visit.path, metadata, place })?;
        }
        if visit.metadata.kind != FileType::Directory {
            return Ok(Descend::No);
        }
        let hopes = |list: Option<&Ignore>, hope: &dyn Fn(&Ignore) -> bool| list.is_some_and(hope);
        let descend = (!is_ignored
            || hopes(self.filters.ignore, &|list| list.may_bring_back(&below.ignored, &self.full)))
            && (!is_excluded
                || hopes(self.filters.exclude, &|list| list.may_bring_back(&below.excluded, visit.path)))
            && (is_included || hopes(self.filters.include, &|list| list.may_match_below(visit.path)));
        if !descend {
            return Ok(Descend::No);
        }
        below.path = visit.path.to_vec();
        below.unseen = (!is_seen).then(|| metadata.clone());
        self.levels.push(below);
        Ok(Descend::Yes)
    }

    /// Something that the ignore file leaves has been met: all folders above it are there. If the copy leaves it out, those
    /// that the copy leaves out too stay unseen, unless they are above one that it takes.
    fn see_levels(
        &mut self,
        is_filtered: bool,
        see: &mut dyn FnMut(Seen<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let wanted = |level: &Level| level.unseen.is_some() && !(is_filtered && level.is_filtered);
        let Some(deepest) = self.levels.iter().rposition(wanted) else { return Ok(()) };
        for level in &mut self.levels[..=deepest] {
            if let Some(metadata) = level.unseen.take() {
                see(Seen { path: &level.path, metadata: &metadata, place: None })?;
            }
        }
        Ok(())
    }
}
