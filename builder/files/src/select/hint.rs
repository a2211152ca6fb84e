//! Why a source may be missing: an ignore file hides it, or its name is mistyped.

use std::os::fd::{AsFd, BorrowedFd};

use lithify_linux::tree;
use lithify_oci::TreePath;
use rustix::fs::{Mode, OFlags};

use crate::error::{Hint, shown};
use crate::ignore::Ignore;
use crate::resolve::resolve;

/// How many names of a folder are looked at for one that is close.
const MAX_NAMES: usize = 10_000;

pub(super) fn find(root: BorrowedFd<'_>, path: &TreePath, ignore: Option<&Ignore>) -> Hint {
    let everything = |_: &[u8], _: bool| true;
    if let Some(ignore) = ignore
        && let Ok(resolved) = resolve(root, path.as_bytes(), &everything)
        && resolved.metadata.is_some()
        && let Some(pattern) = ignore.hiding_pattern(resolved.path.as_bytes())
    {
        return Hint::Ignored { pattern: pattern.to_owned() };
    }
    close_name(root, path, ignore)
        .map_or(Hint::None, |path| Hint::DidYouMean { path: shown(path.as_bytes()) })
}

/// The path with its first missing component mended.
fn close_name(root: BorrowedFd<'_>, path: &TreePath, ignore: Option<&Ignore>) -> Option<TreePath> {
    let mut folder = TreePath::root();
    for component in path.components() {
        let next = folder.join(component);
        let resolved = resolve(root, next.as_bytes(), &|_, _| true).ok()?;
        if resolved.metadata.is_some() {
            folder = resolved.path;
            continue;
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let directory = tree::open_beneath(root, folder.as_bytes(), flags, Mode::empty()).ok()?;
        let names = tree::names(directory.as_fd()).ok()?;
        let seen =
            |name: &&[u8]| ignore.is_none_or(|ignore| !ignore.is_ignored(folder.join(name).as_bytes()));
        let names = names.iter().map(|name| name.to_bytes()).take(MAX_NAMES).filter(seen);
        let close = names.filter_map(|name| Some((distance(component, name)?, name))).min()?;
        return Some(folder.join(close.1));
    }
    None
}

/// How many letters differ, case aside; `None` if it is more than a third of them.
fn distance(wanted: &[u8], name: &[u8]) -> Option<usize> {
    let limit = (wanted.len() / 3).clamp(1, 3);
    if wanted.len().abs_diff(name.len()) > limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (at, left) in wanted.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, right) in name.iter().enumerate() {
            let change = diagonal + usize::from(!left.eq_ignore_ascii_case(right));
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().filter(|distance| *distance <= limit && *distance < wanted.len())
}
