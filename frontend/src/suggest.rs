//! "Did you mean": the nearest of some options.

/// The option nearest to `wrong`, if it is at most two edits away; none when `wrong` is itself an option. Of several the
/// first in the alphabet, so that the order of the options does not matter.
pub(crate) fn nearest<'a>(wrong: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const MAX_EDITS: usize = 2;
    let mut best: Option<(usize, &str)> = None;
    for option in options {
        if option == wrong {
            return None;
        }
        let limit = best.map_or(MAX_EDITS, |(distance, _)| distance);
        if wrong.len().abs_diff(option.len()) > limit * 4 {
            continue;
        }
        let distance = edits(wrong, option);
        let is_better = best.is_none_or(|best| (distance, option) < best);
        if distance <= limit && is_better && distance < wrong.chars().count().max(2) {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

/// As [`nearest`], ignoring case.
pub(crate) fn nearest_ignoring_case<'a>(
    wrong: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let options: Vec<&str> = options.into_iter().collect();
    let lower: Vec<String> = options.iter().map(|option| option.to_lowercase()).collect();
    let found = nearest(&wrong, lower.iter().map(String::as_str))?;
    lower.iter().position(|option| option == found).map(|index| options[index])
}

/// Levenshtein's distance. Words longer than any name are not compared.
fn edits(one: &str, other: &str) -> usize {
    const MAX_CHARS: usize = 64;
    let other: Vec<char> = other.chars().take(MAX_CHARS + 1).collect();
    let one: Vec<char> = one.chars().take(MAX_CHARS + 1).collect();
    if one.len() > MAX_CHARS || other.len() > MAX_CHARS {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
