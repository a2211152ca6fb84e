//! .dockerignore, and the lists of `--exclude`: patterns in order, the last one that matches
//! decides, `!` brings back.

#[cfg(test)]
mod tests;

use crate::Error;
use crate::glob::Deep;

/// A list of patterns that hide files.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    deep: Deep,
    brings_back: bool,
    text: String,
}

/// Which patterns match a folder or a folder above it, so that what is in the folder need not ask for it again.
#[derive(Clone, Debug, Default)]
pub struct Matched(Vec<bool>);

impl Ignore {
    /// Reads an ignore file: a UTF-8 mark at the start is dropped, lines that start with `#` are comments, spaces at both
    /// ends and behind a `!` are dropped, leading slashes too.
    ///
    /// # Errors
    /// A pattern that breaks the rules, and a `!` with nothing behind it.
    pub fn parse(file: &[u8]) -> Result<Ignore, Error> {
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let lines = file.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#"));
        Ignore::from_patterns(lines.filter_map(line_pattern))
    }

    /// Takes patterns as `--exclude` has them, one each: spaces at both ends are dropped, `!` brings back.
    ///
    /// # Errors
    /// As [`Ignore::parse`].
    pub fn from_patterns(patterns: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Ignore, Error> {
        let mut rules = vec![];
        for pattern in patterns {
            let pattern = trim(pattern.as_ref());
            if pattern.is_empty() {
                continue;
            }
            let cleaned = clean(pattern);
            let (brings_back, pattern) = match cleaned.strip_prefix(b"!") {
                Some([]) => return Err(Error::LoneNegation),
                Some(rest) => (true, rest),
                None => (false, &cleaned[..]),
            };
            let text = String::from_utf8_lossy(pattern).into_owned();
            let deep =
                Deep::new(pattern).map_err(|source| Error::Pattern { pattern: text.clone(), source })?;
            rules.push(Rule { deep, brings_back, text });
        }
        Ok(Ignore { rules })
    }

    /// Whether there are no patterns at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the path is hidden, by itself or with a folder above it. The empty path is never hidden.
    ///
    /// This is what a walk from the root finds out with [`Ignore::step`], as BuildKit does it. moby's older
    /// `MatchesOrParentMatches` says the same but where one pattern stands twice around a `!`.
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        self.descend(path).0
    }

    /// Whether something below a hidden folder may yet be seen, so that a walk must go in. Folders that are not hidden
    /// need no asking.
    pub fn may_contain_included(&self, folder: &[u8]) -> bool {
        self.may_bring_back(&self.descend(folder).1, folder)
    }

    /// The pattern that hides the path, as it was written.
    pub fn hiding_pattern(&self, path: &[u8]) -> Option<&str> {
        let (hidden, matched) = self.descend(path);
        let last = matched.0.iter().rposition(|matched| *matched)?;
        hidden.then(|| self.rules[last].text.as_str())
    }

    /// What is known of a path when each folder above it has been asked about in turn.
    pub fn descend(&self, path: &[u8]) -> (bool, Matched) {
        let (mut hidden, mut matched) = (false, Matched::default());
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends.chain((!path.is_empty()).then_some(path.len())) {
            let above = std::mem::take(&mut matched);
            hidden = self.step(&above, &path[..end], &mut matched);
        }
        (hidden, matched)
    }

    /// Whether the path is hidden, given what matched the folder that it is in (the default for the root). What matches
    /// the path goes to `matched`.
    pub fn step(&self, above: &Matched, path: &[u8], matched: &mut Matched) -> bool {
        matched.0.clear();
        let mut hidden = false;
        for (at, rule) in self.rules.iter().enumerate() {
            let inherited = above.0.get(at) == Some(&true);
            // A pattern that could change nothing is not asked, and does not count as one that matches: BuildKit's rule.
            let matches = inherited || (rule.brings_back == hidden && rule.deep.matches(path));
            matched.0.push(matches);
            if matches {
                hidden = !rule.brings_back;
            }
        }
        hidden
    }

    /// As [`Ignore::may_contain_included`], given what matches the folder.
    pub fn may_bring_back(&self, matched: &Matched, folder: &[u8]) -> bool {
        // What matched the folder matches all below it: only patterns behind the last such one can still decide.
        let undecided = matched.0.iter().rposition(|matched| *matched).map_or(0, |last| last + 1);
        self.rules[undecided.min(self.rules.len())..]
            .iter()
            .any(|rule| rule.brings_back && rule.deep.may_match_below(folder))
    }

    /// Whether a path below the folder may be hidden by a pattern that has not matched yet; with a list of patterns that
    /// include, as `--parents` has them, whether something below may be included.
    pub fn may_match_below(&self, folder: &[u8]) -> bool {
        self.rules.iter().any(|rule| !rule.brings_back && rule.deep.may_match_below(folder))
    }
}

/// The pattern of one line of an ignore file.
fn line_pattern(line: &[u8]) -> Option<Vec<u8>> {
    let line = trim(line);
    let (mark, pattern) = match line.strip_prefix(b"!") {
        Some(rest) => (&b"!"[..], trim(rest)),
        None => (&b""[..], line),
    };
    if pattern.is_empty() {
        return (!mark.is_empty()).then(|| mark.to_vec());
    }
    let cleaned = clean(pattern);
    let relative = if cleaned.len() > 1 { cleaned.strip_prefix(b"/").unwrap_or(&cleaned) } else { &cleaned };
    Some([mark, relative].concat())
}

/// Without white space at both ends.
fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// Go's `filepath.Clean`: `.` and empty components go, `..` takes the one before it along where there is one.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = vec![];
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}
