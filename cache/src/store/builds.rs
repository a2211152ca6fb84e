//! The log of builds: what became of each step of the last builds, and why.
//!
//! One file for each build in `builds/`, named by the build's number. It holds titles, keys and names of what differed, and
//! no values. What is too much goes with the next build, the oldest first.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use lithify_oci::TreePath;
use lithify_oci::layer::{Catalogue, CatalogueEntry};
use serde::{Deserialize, Serialize};

use super::{Missed, Store};
use crate::key::Difference;
use crate::key::explanation::{FILE, nearest};
use crate::{Error, Explanation, Key};

/// How many builds are remembered.
const KEPT: usize = if cfg!(test) { 5 } else { 100 };

/// How many bytes their files may have together.
const KEPT_BYTES: u64 = 16 << 20;

/// What is remembered of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedBuild {
    /// Its number in this store.
    #[serde(default)]
    pub id: u64,
    /// What the user called it: the image's names, or the folder.
    pub name: String,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub finished: SystemTime,
    /// Whether it ended well.
    pub succeeded: bool,
    /// In the order of the graph.
    pub steps: Vec<LoggedStep>,
}

/// What is remembered of a step of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedStep {
    /// As progress shows it.
    pub title: String,
    /// What makes it the same step in two builds.
    pub identity: String,
    /// Its key, where one was made.
    pub key: Option<Key>,
    /// What became of it.
    pub outcome: StepOutcome,
    /// Why it was not in the cache, where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Missed>,
    /// What a step that failed depended on: there is no record of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Explanation>,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    /// It had nothing to do: a base image or a context.
    Source,
    /// Its result was there.
    Cached,
    /// It was done.
    Ran,
    /// It failed, or was stopped because another one did.
    Failed,
    /// It was not begun.
    NotReached,
}

impl Store {
    /// Adds a build to the log and gives it a number, the highest.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn log_build(&self, build: &LoggedBuild) -> Result<u64, Error> {
        let folder = self.builds_folder();
        let text = serde_json::to_vec(build).unwrap_or_default();
        let (mut file, mut path) = self.0.unfinished.create()?;
        file.write_all(&text).map_err(Error::at(&path))?;
        let known = self.logged()?;
        let mut id = known.last().map_or(1, |(id, ..)| id + 1);
        loop {
            let target = folder.join(format!("{id:08}"));
            match path.persist_noclobber(&target) {
                Ok(()) => break,
                // Another build has ended just now.
                Err(failure) if failure.error.kind() == std::io::ErrorKind::AlreadyExists => {
                    path = failure.path;
                    id += 1;
                }
                Err(failure) => return Err(Error::at(&target)(failure.error)),
            }
        }
        self.forget_builds(&known, text.len() as u64);
        Ok(id)
    }

    /// Removes the oldest builds, which leaves room for one more.
    fn forget_builds(&self, known: &[(u64, PathBuf, u64)], new_bytes: u64) {
        let mut bytes = new_bytes;
        for (place, (_, path, size)) in known.iter().rev().enumerate() {
            bytes += size;
            if place + 1 >= KEPT || bytes > KEPT_BYTES {
                // Another process may have been faster, and what stays goes next time.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Numbers, files and sizes in bytes, the oldest first.
    fn logged(&self) -> Result<Vec<(u64, PathBuf, u64)>, Error> {
        let folder = self.builds_folder();
        let entries = fs::read_dir(&folder).map_err(Error::at(&folder))?;
        let known = entries.flatten().filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            Some((id, entry.path(), entry.metadata().ok()?.len()))
        });
        let mut known: Vec<_> = known.collect();
        known.sort();
        Ok(known)
    }

    /// The builds that are remembered, the oldest first. One whose file is damaged is left out.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn builds(&self) -> Result<Vec<LoggedBuild>, Error> {
        let read = |(id, path, _): (u64, PathBuf, u64)| {
            let build: LoggedBuild = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            Some(LoggedBuild { id, ..build })
        };
        Ok(self.logged()?.into_iter().filter_map(read).collect())
    }

    /// How a step of a build differs from the most similar one of another build; `None` where that has no such step, or it
    /// is not known any more what one of them depended on. An empty difference: nothing.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn compare(&self, new: &LoggedStep, with: &LoggedBuild) -> Result<Option<(Key, Difference)>, Error> {
        let same = |step: &&LoggedStep| step.identity == new.identity;
        if let Some(key) = new.key
            && with.steps.iter().filter(same).any(|step| step.key == Some(key))
        {
            return Ok(Some((key, Difference::default())));
        }
        let Some((_, now)) = self.explained(new)? else { return Ok(None) };
        let mut earlier = vec![];
        for step in with.steps.iter().filter(same) {
            earlier.extend(self.explained(step)?);
        }
        let found = nearest(&now, &earlier, |(_, explanation)| explanation);
        Ok(found.map(|((key, _), difference)| (*key, difference)))
    }

    fn explained(&self, step: &LoggedStep) -> Result<Option<(Key, Explanation)>, Error> {
        let Some(key) = step.key else { return Ok(None) };
        if let Some(parts) = &step.parts {
            return Ok(Some((key, parts.clone())));
        }
        Ok(self.explanation(&key)?.map(|(explanation, _)| (key, explanation)))
    }

    /// Names the files that two results differ in, by where they are in the image, in place of the folders that
    /// `difference` names; as it is where the store does not know both results any more.
    ///
    /// # Errors
    /// A failure to read the store.
    pub fn with_files(&self, difference: &Difference, old: &Key, new: &Key) -> Result<Difference, Error> {
        let (Some(old), Some(new)) = (self.catalogue_of(old)?, self.catalogue_of(new)?) else {
            return Ok(difference.clone());
        };
        Ok(compare_catalogues(&old, &new)
            .map_or_else(|| difference.clone(), |files| difference.with_files(files)))
    }

    fn catalogue_of(&self, key: &Key) -> Result<Option<Catalogue>, Error> {
        let Some(digest) = self.lookup(key)?.and_then(|record| record.catalogue) else { return Ok(None) };
        Ok(self.read_blob(&digest)?.and_then(|bytes| Catalogue::read(bytes).ok()))
    }

    fn builds_folder(&self) -> PathBuf {
        self.0.root.join("builds")
    }
}

/// The files in which two catalogues differ, times aside; `None` where one is damaged.
fn compare_catalogues(old: &Catalogue, new: &Catalogue) -> Option<Difference> {
    let (mut old, mut new) = (old.entries().ok()?, new.entries().ok()?);
    let (mut was, mut is) = (old.next().transpose().ok()?, new.next().transpose().ok()?);
    let mut found = Difference::default();
    loop {
        let order = match (&was, &is) {
            (None, None) => return Some(found),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(was), Some(is)) => was.entry.path.cmp(&is.entry.path),
        };
        match (order, &was, &is) {
            (std::cmp::Ordering::Less, Some(was), _) => found.removed.push(file(&was.entry.path)),
            (std::cmp::Ordering::Greater, _, Some(is)) => found.added.push(file(&is.entry.path)),
            (_, Some(was), Some(is)) if facts(was) != facts(is) => found.changed.push(file(&is.entry.path)),
            _ => {}
        }
        if order.is_le() {
            was = old.next().transpose().ok()?;
        }
        if order.is_ge() {
            is = new.next().transpose().ok()?;
        }
    }
}

fn file(path: &TreePath) -> String {
    format!("{FILE}{path}")
}

/// What of an entry counts.
fn facts(one: &CatalogueEntry) -> impl PartialEq + '_ {
    let entry = &one.entry;
    (&entry.kind, [entry.mode, entry.uid, entry.gid], &entry.xattrs, one.digest)
}
