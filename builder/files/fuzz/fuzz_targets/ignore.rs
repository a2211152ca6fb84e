//! Ignore files and patterns, against a reference that tries every way there is.
//!
//! The input is an ignore file, and paths behind it, each behind a NUL byte. Beside panics, wrong answers and time this
//! finds walks that stay out of a folder in which something is seen.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lithify_files::glob::Pattern;
use lithify_files::ignore::Ignore;

fuzz_target!(|input: &[u8]| {
    let Ok(input) = std::str::from_utf8(input) else {
        return without_reference(input);
    };
    let mut parts = input.split('\0');
    let file = parts.next().unwrap_or_default();
    let paths: Vec<&str> = parts.filter(|path| is_path(path)).collect();
    let found = Ignore::parse(file.as_bytes());
    if let Some(reference) = reference(file) {
        match (&found, reference) {
            (Ok(found), Ok(rules)) => paths.iter().for_each(|path| compare(found, &rules, path)),
            (Err(_), Err(())) => {}
            (found, reference) => panic!("{file:?}: {found:?}, but by the reference {:?}", reference.is_ok()),
        }
    }
    names(file.lines().next().unwrap_or_default(), &paths);
});

/// Bytes that are no text: only that it ends.
fn without_reference(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0);
    let Ok(found) = Ignore::parse(parts.next().unwrap_or_default()) else { return };
    for path in parts {
        found.is_ignored(path);
        found.may_contain_included(path);
        found.may_match_below(path);
        found.hiding_pattern(path);
    }
}

fn is_path(path: &str) -> bool {
    !path.is_empty() && !path.contains('\n') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

struct Rule {
    brings_back: bool,
    pattern: Vec<char>,
}

/// The rules of an ignore file; `None` where moby's regular expressions do by accident what no one means.
fn reference(file: &str) -> Option<Result<Vec<Rule>, ()>> {
    let mut rules = vec![];
    for line in file.strip_prefix('\u{feff}').unwrap_or(file).split('\n') {
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        let (line, brings_back) = match line.strip_prefix('!') {
            Some(rest) => (rest.trim(), true),
            None => (line, false),
        };
        if line.is_empty() && !brings_back {
            continue;
        }
        if line.is_empty() {
            return Some(Err(()));
        }
        let line = clean(line);
        let line = match line.strip_prefix('/') {
            Some(rest) if line.len() > 1 => rest.to_owned(),
            _ => line,
        };
        // It is read once more with the `!` in front, as a pattern of its own.
        let line = clean(format!("{}{line}", if brings_back { "!" } else { "" }).trim());
        let (line, brings_back) = match line.strip_prefix('!') {
            Some("") => return Some(Err(())),
            Some(rest) => (rest, true),
            None => (line.as_str(), false),
        };
        let pattern: Vec<char> = line.chars().collect();
        match is_understood(&pattern) {
            Understood::Yes => rules.push(Rule { brings_back, pattern }),
            Understood::No => return Some(Err(())),
            Understood::ByAccident => return None,
        }
    }
    Some(Ok(rules))
}

fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = vec![];
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            ("..", None) if path.starts_with('/') => {}
            (part, _) => parts.push(part),
        }
    }
    match (path.starts_with('/'), parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

enum Understood {
    Yes,
    No,
    ByAccident,
}

fn is_understood(pattern: &[char]) -> Understood {
    let mut at = 0;
    let mut backwards = false;
    while at < pattern.len() {
        at = match pattern[at] {
            '\\' if at + 1 == pattern.len() => return Understood::No,
            '\\' if pattern[at + 1].is_ascii_alphanumeric() => return Understood::ByAccident,
            '\\' => at + 2,
            '^' => return Understood::ByAccident,
            '[' => {
                let Some((ranges, _, end)) = class(pattern, at + 1) else { return Understood::No };
                backwards |= ranges.iter().any(|(low, high)| low > high);
                let inside: String = pattern[at + 1..end].iter().collect();
                if inside.contains("[:") || inside.contains('\\') {
                    return Understood::ByAccident;
                }
                end
            }
            _ => at + 1,
        }
    }
    if backwards { Understood::No } else { Understood::Yes }
}

type Class = (Vec<(char, char)>, bool, usize);

/// The class whose `[` stands before `at`: its ranges, whether it is negated, and where it ends.
fn class(pattern: &[char], mut at: usize) -> Option<Class> {
    let negated = pattern.get(at) == Some(&'^');
    at += usize::from(negated);
    let mut ranges = vec![];
    while pattern.get(at) != Some(&']') || ranges.is_empty() {
        let (low, behind) = member(pattern, at)?;
        at = behind;
        let mut high = low;
        if pattern.get(at) == Some(&'-') {
            (high, at) = member(pattern, at + 1)?;
        }
        ranges.push((low, high));
    }
    Some((ranges, negated, at + 1))
}

fn member(pattern: &[char], at: usize) -> Option<(char, usize)> {
    match pattern.get(at)? {
        '-' | ']' => None,
        '\\' => Some((*pattern.get(at + 1)?, at + 2)),
        c => Some((*c, at + 1)),
    }
}

fn compare(found: &Ignore, rules: &[Rule], path: &str) {
    // As a walk from the root asks: what matched a folder matches all in it.
    let mut matched = vec![false; rules.len()];
    let mut hidden = false;
    let mut folders = vec![];
    let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
    for end in ends {
        hidden = false;
        for (rule, matched) in rules.iter().zip(&mut matched) {
            if !*matched && rule.brings_back == hidden {
                *matched = Ways::new(&rule.pattern, &path[..end], true).all();
            }
            if *matched {
                hidden = !rule.brings_back;
            }
        }
        assert_eq!(found.is_ignored(path[..end].as_bytes()), hidden, "{} by {}", &path[..end], shown(rules));
        if end < path.len() {
            folders.push((&path[..end], hidden));
        }
    }
    for (folder, is_hidden) in folders {
        let reached = !is_hidden || hidden || found.may_contain_included(folder.as_bytes());
        assert!(reached, "a walk stays out of {folder} but {path} is seen, by {}", shown(rules));
        let hides = rules.iter().any(|rule| !rule.brings_back && Ways::new(&rule.pattern, path, true).all());
        assert!(
            !hides || found.may_match_below(folder.as_bytes()),
            "{folder} above {path}, {}",
            shown(rules)
        );
    }
    assert_eq!(found.hiding_pattern(path.as_bytes()).is_some(), hidden);
}

fn shown(rules: &[Rule]) -> String {
    let shown = |rule: &Rule| {
        format!("{}{}", if rule.brings_back { "!" } else { "" }, rule.pattern.iter().collect::<String>())
    };
    format!("{:?}", rules.iter().map(shown).collect::<Vec<_>>())
}

/// Patterns of one name, which know no `**`.
fn names(pattern: &str, paths: &[&str]) {
    let chars: Vec<char> = pattern.chars().collect();
    let is_good = is_understood_as_name(&chars).is_some();
    match Pattern::new(pattern.as_bytes()) {
        Ok(found) => {
            assert!(is_good, "{pattern:?} is no pattern");
            for path in paths {
                let expected = Ways::new(&chars, path, false).all();
                assert_eq!(found.matches(path.as_bytes()), expected, "{pattern:?} on {path:?}");
            }
        }
        Err(_) => assert!(!is_good, "{pattern:?} is a pattern"),
    }
}

fn is_understood_as_name(pattern: &[char]) -> Option<()> {
    let mut at = 0;
    while at < pattern.len() {
        at = match pattern[at] {
            '\\' if at + 1 == pattern.len() => return None,
            '\\' => at + 2,
            '[' => class(pattern, at + 1)?.2,
            _ => at + 1,
        }
    }
    Some(())
}

/// Tries every way, and remembers which led nowhere.
struct Ways<'a> {
    pattern: &'a [char],
    path: Vec<char>,
    deep: bool,
    failed: Vec<bool>,
}

impl<'a> Ways<'a> {
    fn new(pattern: &'a [char], path: &str, deep: bool) -> Self {
        let path: Vec<char> = path.chars().collect();
        let failed = vec![false; (pattern.len() + 1) * (path.len() + 1)];
        Ways { pattern, path, deep, failed }
    }

    fn all(&mut self) -> bool {
        let starts = self.deep && self.pattern.starts_with(&['*', '*']);
        let ends = self.deep && self.pattern.ends_with(&['*', '*']);
        let literal = |part: &[char]| !part.iter().any(|c| "*?[]\\".contains(*c));
        // moby compares the ends of such patterns: `**` may then be half a name.
        if starts && literal(&self.pattern[2..]) {
            let end: String = self.pattern[2..].iter().collect();
            let path: String = self.path.iter().collect();
            return path.ends_with(&end) || end.strip_prefix('/') == Some(&path);
        }
        if ends && literal(&self.pattern[..self.pattern.len() - 2]) {
            return self.path.starts_with(&self.pattern[..self.pattern.len() - 2]);
        }
        self.from(0, 0)
    }

    fn from(&mut self, at: usize, on: usize) -> bool {
        let place = at * (self.path.len() + 1) + on;
        if self.failed[place] {
            return false;
        }
        let found = self.tried(at, on);
        self.failed[place] = !found;
        found
    }

    fn tried(&mut self, at: usize, on: usize) -> bool {
        let Some(&c) = self.pattern.get(at) else { return on == self.path.len() };
        let next = self.path.get(on).copied();
        match c {
            '*' if self.deep && self.pattern.get(at + 1) == Some(&'*') => {
                let behind = at + 2 + usize::from(self.pattern.get(at + 2) == Some(&'/'));
                if behind == self.pattern.len() {
                    return true;
                }
                let folders = (on..self.path.len()).filter(|end| self.path[*end] == '/').map(|end| end + 1);
                let starts: Vec<usize> = [on].into_iter().chain(folders).collect();
                starts.into_iter().any(|start| self.from(behind, start))
            }
            '*' => self.from(at + 1, on) || next.is_some_and(|c| c != '/') && self.from(at, on + 1),
            '?' => next.is_some_and(|c| c != '/') && self.from(at + 1, on + 1),
            '[' => {
                let Some((ranges, negated, end)) = class(self.pattern, at + 1) else { return false };
                let Some(c) = next else { return false };
                let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                inside != negated && self.from(end, on + 1)
            }
            '\\' => next == self.pattern.get(at + 1).copied() && self.from(at + 2, on + 1),
            c => next == Some(c) && self.from(at + 1, on + 1),
        }
    }
}
