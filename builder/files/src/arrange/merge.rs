//! Several sources into one list: the later one wins, and what it may not replace is an error.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{Arrangement, Part, Place};
use crate::Error;
use crate::error::shown;

/// Sorts the files of all parts canonically and leaves one for each path.
pub(super) fn merge(arrangement: &Arrangement, mut order: Vec<Place>) -> Result<Vec<Place>, Error> {
    // Stable: files of one path stay in the order of their parts. Each part is sorted already, which makes this a merge.
    order.sort_by(|left, right| canonical(arrangement.relative(*left), arrangement.relative(*right)));
    let mut merged = Vec::with_capacity(order.len());
    let mut above: Vec<Above<'_>> = vec![];
    for same in order.chunk_by(|left, right| arrangement.relative(*left) == arrangement.relative(*right)) {
        let path = arrangement.relative(same[0]);
        above.retain(|folder| is_below(path, folder.path));
        let mut winner: Option<Place> = None;
        let mut floor = above.iter().map(|folder| folder.floor).max().unwrap_or(0);
        for place in same.iter().copied() {
            if place.part < floor || blocked(arrangement, &above, place)? {
                continue;
            }
            if let Some(old) = winner
                && arrangement.is_directory(old) != arrangement.is_directory(place)
            {
                replace(arrangement, place)?;
                floor = place.part;
            }
            winner = Some(place);
        }
        let Some(winner) = winner else { continue };
        let is_directory = arrangement.is_directory(winner);
        if !is_directory || floor > 0 {
            above.push(Above { path, floor, blocker: (!is_directory).then_some(winner.part) });
        }
        merged.push(winner);
    }
    Ok(merged)
}

/// Something on the way to what comes next.
struct Above<'a> {
    path: &'a [u8],
    /// Files of parts before this one are gone below here.
    floor: u32,
    /// The part that put something here that is no folder.
    blocker: Option<u32>,
}

/// Whether a file of an earlier part is gone because an archive put a file in place of a folder above it.
fn blocked(arrangement: &Arrangement, above: &[Above<'_>], place: Place) -> Result<bool, Error> {
    let Some((path, blocker)) = above.iter().find_map(|above| Some((above.path, above.blocker?))) else {
        return Ok(false);
    };
    let path = || shown(arrangement.destination.join(path).as_bytes());
    match blocker.cmp(&place.part) {
        Ordering::Greater if is_archive(arrangement, blocker) => Ok(true),
        Ordering::Greater => Err(Error::ReplacesDirectory { path: path() }),
        Ordering::Equal | Ordering::Less => Err(Error::NotADirectory { path: path() }),
    }
}

/// A folder takes the place of a file or the other way round: archives may, copies may not.
fn replace(arrangement: &Arrangement, place: Place) -> Result<(), Error> {
    if is_archive(arrangement, place.part) {
        return Ok(());
    }
    let path = shown(arrangement.path(place).as_bytes());
    match arrangement.is_directory(place) {
        true => Err(Error::ReplacesFile { path }),
        false => Err(Error::ReplacesDirectory { path }),
    }
}

fn is_archive(arrangement: &Arrangement, part: u32) -> bool {
    matches!(arrangement.parts[part as usize], Part::Archive(_))
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// The order of [`lithify_oci::TreePath`], on bytes.
pub(crate) fn canonical(left: &[u8], right: &[u8]) -> Ordering {
    let differs = left.iter().zip(right).position(|(left, right)| left != right);
    match differs {
        None => left.len().cmp(&right.len()),
        Some(at) if left[at] == b'/' => Ordering::Less,
        Some(at) if right[at] == b'/' => Ordering::Greater,
        Some(at) => left[at].cmp(&right[at]),
    }
}

/// For each group of hard links that lost its first name: the first of the names that are left.
pub(super) fn promote(arrangement: &Arrangement, order: &[Place]) -> HashMap<Place, u32> {
    let links = order.iter().filter_map(|place| Some((*place, arrangement.first_name(*place)?)));
    let mut promoted: HashMap<Place, u32> = HashMap::new();
    for (place, first) in links {
        promoted.entry(first).or_insert(place.item);
    }
    if !promoted.is_empty() {
        for place in order {
            promoted.remove(place);
        }
    }
    promoted
}
