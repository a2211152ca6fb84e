//! COPY and ADD.
//!
//! From other trees the worker copies by itself. Files outside the store are read here, with the user's permissions, and
//! sent to the worker as a stream of entries, which it checks against the tree below and makes a layer of.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use lithify_cache::key::{self, Chain, ContentHasher, Keyed, SourceContent};
use lithify_files::archive;
use lithify_files::arrange::{Arrangement, Part, Rules, arrange};
use lithify_files::chmod;
use lithify_files::dest::Destination;
use lithify_files::ignore::Ignore;
use lithify_files::select::Match;
use lithify_graph::{Copy, CopySource, InlineFile, Step, StepId, Tree, Unpack};
use lithify_linux::tree::Metadata;
use lithify_oci::{Digest, Timestamp, TreePath};
use lithify_worker::{CopyRequest, MadeLayer, Request, Response, SelectRules, TreeSource, Worker};

use super::files::{FileDigests, Files, hash_matches};
use super::send::{Unsent, send};
use super::unchanged;
use super::{Done, LayerFiles, Outcome, made};
use crate::build::Running;
use crate::chain::TreeLayers;
use crate::error::Failure;
use crate::resources::FileSource;

/// What one source of a copy from outside the store brings.
enum Selected {
    Files { files: Files, unpack: Unpack },
    Inline(InlineFile),
}

impl Running<'_> {
    /// The key of a copy that reads only trees and commits; `None` where other files outside the store must be looked at.
    pub(super) fn copy_definition_key(&self, step: &Step, copy: &Copy) -> Option<Keyed> {
        let chains = copy.sources.iter().filter_map(|source| match source {
            CopySource::Inline(_) => None,
            CopySource::Path { from, .. } => Some(self.identity_of(*from)),
        });
        let chains: Vec<_> = chains.collect::<Option<_>>()?;
        Some(key::copy_definition_key(copy, &step.platform, &self.base_chain(copy), &chains))
    }

    /// The tree that a copy depends on: none with `--link`.
    fn base_of(&self, copy: &Copy) -> TreeLayers {
        if copy.link { TreeLayers::default() } else { self.tree(copy.base) }
    }

    fn base_chain(&self, copy: &Copy) -> Chain {
        Chain(self.base_of(copy).diff_ids().to_vec())
    }

    pub(super) fn run_copy(&self, id: StepId, step: &Step, copy: &Copy) -> Result<Done, Failure> {
        match self.copy_definition_key(step, copy) {
            Some(key) if self.reads_commits(copy) => self.settled(|| {
                let below = self.tree(copy.base);
                let selected = self.select_sources(copy)?;
                self.make(id, &key, &below, |worker, files| self.place(worker, id, copy, selected, files))
            }),
            Some(key) => self.settled(|| self.copy_from_trees(id, copy, &key)),
            None => self.settled(|| self.copy_from_files(id, step, copy)),
        }
    }

    fn reads_commits(&self, copy: &Copy) -> bool {
        copy.sources.iter().any(|source| match source {
            CopySource::Path { from: Tree::Of(step), .. } => {
                matches!(self.outcome(*step), Outcome::Commit(_))
            }
            _ => false,
        })
    }

    fn copy_from_trees(&self, id: StepId, copy: &Copy, key: &Keyed) -> Result<Done, Failure> {
        let below = self.tree(copy.base);
        self.make(id, key, &below, |worker, files| {
            let base = self.base_of(copy);
            let needed = self.needed_beside(id);
            self.trees.ensure(worker, &base, &needed)?;
            let mut request = CopyRequest {
                below: base.chain().to_vec(),
                sources: vec![],
                inline: vec![],
                select: SelectRules { exclude: copy.exclude.clone(), parents: copy.parents },
                dest: copy.dest.clone(),
                dest_is_directory: copy.dest_is_directory,
                owner: copy.owner.clone(),
                mode: copy.mode.clone(),
            };
            for source in &copy.sources {
                match source {
                    CopySource::Inline(file) => {
                        request.inline.push((file.name.clone(), file.content.clone()))
                    }
                    CopySource::Path { from, pattern, unpack: _ } => {
                        let tree = self.tree(*from);
                        self.trees.ensure(worker, &tree, &needed)?;
                        request
                            .sources
                            .push(TreeSource { chain: tree.chain().to_vec(), pattern: pattern.clone() });
                    }
                }
            }
            made(worker.call(
                &Request::Copy(request),
                &[files.blob.file().as_fd(), files.catalogue.file().as_fd()],
            )?)
        })
    }

    fn copy_from_files(&self, id: StepId, step: &Step, copy: &Copy) -> Result<Done, Failure> {
        let below = self.tree(copy.base);
        let selected = self.select_sources(copy)?;
        let contents: Vec<SourceContent> = selected.iter().filter_map(|one| one.content(copy)).collect();
        let keyed = key::copy_key(copy, &step.platform, &self.base_chain(copy), &contents);
        if let Some(done) = self.cached(id, &keyed.key, &below)? {
            return Ok(done);
        }
        self.make(id, &keyed, &below, |worker, files| self.place(worker, id, copy, selected, files))
    }

    fn select_sources(&self, copy: &Copy) -> Result<Vec<Selected>, Failure> {
        let exclude = match &copy.exclude[..] {
            [] => None,
            patterns => Some(Ignore::from_patterns(patterns.iter().map(String::as_bytes))?),
        };
        let mut selected = vec![];
        for source in &copy.sources {
            selected.push(match source {
                CopySource::Inline(file) => Selected::Inline(file.clone()),
                CopySource::Path { from, pattern, unpack } => {
                    let files = self.files(*from)?.ok_or_else(|| {
                        Failure::Input("one COPY cannot read both a context and a stage".into())
                    })?;
                    let matches = self.select(&files, pattern, exclude.as_ref(), copy.parents)?;
                    let digests = self.file_digests(&files, &matches)?;
                    Selected::Files { files: Files { source: files, matches, digests }, unpack: *unpack }
                }
            });
        }
        Ok(selected)
    }

    /// Sends the files to the worker, which makes a layer of them.
    fn place(
        &self,
        worker: &Worker,
        id: StepId,
        copy: &Copy,
        selected: Vec<Selected>,
        files: &LayerFiles,
    ) -> Result<MadeLayer, Failure> {
        let base = self.base_of(copy);
        self.trees.ensure(worker, &base, &self.needed_beside(id))?;
        let mode = copy.mode.as_deref().map(chmod::parse).transpose()?;
        let mut parts = vec![];
        let mut origins = vec![];
        for one in selected {
            match one {
                Selected::Inline(InlineFile { name, content }) => {
                    parts.push(Part::Inline { name, size_bytes: content.len() as u64 });
                    origins.push(PartContent::Inline(content));
                }
                Selected::Files { files: Files { source, matches, digests }, unpack } => {
                    let digests = Arc::new(digests);
                    for (group, one) in matches.into_iter().enumerate() {
                        let found = Found::new(&source, &digests, group, &one);
                        parts.push(unpacked(&source, one, unpack)?);
                        origins.push(PartContent::Files(found));
                    }
                }
            }
        }
        let (destination, owner) = inspect(worker, &base, copy, &mut parts)?;
        let rules = Rules { owner, mode, parents: copy.parents, made: now() };
        let arrangement = arrange(parts, &destination, &rules)?;
        place_arrangement(worker, &base, &arrangement, &origins, files)
    }

    /// Makes a layer of the files that a RUN mounts, at the path that they have where they come from.
    pub(super) fn place_mounted(
        &self,
        worker: &Worker,
        path: &str,
        Files { source, matches, digests }: Files,
        keyed: &Keyed,
    ) -> Result<Digest, Failure> {
        let files = LayerFiles::create(self.request.store)?;
        let destination = Destination::in_empty_tree(path, matches.iter().any(|one| one.is_directory))?;
        let digests = Arc::new(digests);
        let found = |(group, one)| PartContent::Files(Found::new(&source, &digests, group, one));
        let origins: Vec<_> = matches.iter().enumerate().map(found).collect();
        let parts = matches.into_iter().map(Part::Match).collect();
        let arrangement = arrange(parts, &destination, &Rules { made: now(), ..Rules::default() })?;
        let made = place_arrangement(worker, &TreeLayers::default(), &arrangement, &origins, &files)?;
        self.keep(keyed, path, files, &made)?;
        Ok(made.diff_id)
    }
}

impl Selected {
    fn content(&self, copy: &Copy) -> Option<SourceContent> {
        match self {
            Selected::Inline(_) => None,
            Selected::Files { files: Files { matches, digests, .. }, .. } => {
                Some(hash_matches(ContentHasher::for_copy(copy), matches, digests))
            }
        }
    }
}

/// Where the content of a part is.
pub(super) enum PartContent {
    Inline(Vec<u8>),
    Files(Found),
}

/// A match outside the store, as it was when the step's key was made.
pub(super) struct Found {
    pub(super) source: Arc<FileSource>,
    pub(super) digests: Arc<FileDigests>,
    /// The number of the match in `digests`.
    pub(super) group: usize,
    /// The file that the match is, if it is one.
    pub(super) single: Option<(TreePath, Metadata)>,
}

impl Found {
    pub(super) fn new(
        source: &Arc<FileSource>,
        digests: &Arc<FileDigests>,
        group: usize,
        one: &Match,
    ) -> Self {
        let is_single = !one.is_directory && !one.is_empty();
        let single = is_single.then(|| (one.source(0), one.facts(0).clone()));
        Found { source: source.clone(), digests: digests.clone(), group, single }
    }
}

/// A match, or what is in it if it is an archive and archives are unpacked.
fn unpacked(source: &FileSource, one: Match, unpack: Unpack) -> Result<Part, Failure> {
    if unpack == Unpack::Never || one.is_directory || one.is_empty() {
        return Ok(Part::Match(one));
    }
    let archive = archive::open_match(source.root.as_fd(), &one);
    let archive = archive.map_err(|error| {
        Failure::Input(format!("cannot read {} of the build context as an archive: {error}", one.base))
    })?;
    Ok(archive.map_or(Part::Match(one), Part::Archive))
}

/// Sends the entries with their contents through a pipe, as an archive with exact times, while the worker reads it.
fn place_arrangement(
    worker: &Worker,
    base: &TreeLayers,
    arrangement: &Arrangement,
    origins: &[PartContent],
    files: &LayerFiles,
) -> Result<MadeLayer, Failure> {
    let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| Failure::Io { doing: "cannot make a pipe", source: error.into() })?;
    // A larger pipe means fewer switches between the two processes; where the limit is reached the usual size will do.
    let _ = rustix::pipe::fcntl_setpipe_size(&write_end, 1 << 20);
    let request = Request::Place {
        chain: base.chain().to_vec(),
        conflicts: arrangement.conflicts(),
        hard_links: arrangement
            .hard_links()
            .into_iter()
            .map(|(first, names)| {
                (first.as_bytes().to_vec(), names.iter().map(|name| name.as_bytes().to_vec()).collect())
            })
            .collect(),
    };
    let (sent, response) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(arrangement, origins, File::from(write_end)));
        let passed = [read_end.as_fd(), files.blob.file().as_fd(), files.catalogue.file().as_fd()];
        let response = worker.call(&request, &passed);
        // The sender must not wait for a reader that is gone.
        drop(read_end);
        (sender.join().expect("sending does not panic"), response)
    });
    match (sent, response) {
        // A worker that refuses stops reading; what the sender says of that is no news.
        (Err(Unsent::Pipe(source)), Ok(_)) => {
            Err(Failure::Io { doing: "cannot send the files to copy", source })
        }
        (Err(Unsent::File(failure)), _) => Err(failure),
        (_, response) => {
            let made = made(response?)?;
            unchanged::check(arrangement, origins, files.catalogue.file())?;
            Ok(made)
        }
    }
}

/// Looks up the destination in the tree below; archives among the parts follow the links that they find there.
fn inspect(
    worker: &Worker,
    base: &TreeLayers,
    copy: &Copy,
    parts: &mut [Part],
) -> Result<(Destination, Option<(u32, u32)>), Failure> {
    let folders = parts.iter().filter_map(|part| match part {
        Part::Archive(archive) => Some(archive.folders()),
        _ => None,
    });
    let folders: BTreeSet<Vec<u8>> = folders.flatten().map(|folder| folder.as_bytes().to_vec()).collect();
    let request = Request::Inspect {
        chain: base.chain().to_vec(),
        dest: copy.dest.clone(),
        is_directory: copy.dest_is_directory,
        owner: copy.owner.clone(),
        folders: folders.into_iter().collect(),
    };
    let (destination, owner, links) = match worker.call(&request, &[])? {
        Response::Inspected { destination, owner, links } => (destination, owner, links),
        other => return Err(lithify_worker::unexpected(&other).into()),
    };
    let path = |bytes: &Vec<u8>| TreePath::cleaned(bytes);
    let links: Vec<_> = links.iter().map(|(folder, target)| (path(folder), path(target))).collect();
    for part in parts {
        if let Part::Archive(archive) = part {
            archive.follow(&links).map_err(|error| Failure::Input(error.to_string()))?;
        }
    }
    Ok((destination, owner))
}

/// The time that made folders and heredocs have in the tree; in the layer it is the layer's.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanoseconds: since.subsec_nanos() }
}
