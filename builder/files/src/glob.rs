//! Patterns for names: Go's `filepath.Match` ([`Pattern`]), and moby's dialect with `**` ([`Deep`]).
//!
//! Both are one small machine over Unicode characters. Bytes that are no UTF-8 count as one character each, which
//! equals nothing but itself.

mod deep;
#[cfg(test)]
mod tests;

pub use deep::Deep;

/// A pattern that breaks the rules of `filepath.Match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// A `[` without its `]`, or with nothing in it, or with a bare `-`.
    #[error(
        "a character class that does not end or that holds a bare '-' or nothing; write [[] for a literal '['"
    )]
    Class,
    /// A `\` at the end.
    #[error("nothing follows the last backslash")]
    Escape,
    /// A range such as `[z-a]`.
    #[error("a range that ends before it starts")]
    Range,
}

/// One character of a text: a Unicode scalar value, or 0x110000 plus a byte that is no UTF-8.
pub(crate) type Unit = u32;

/// A step of the machine. What a step may leave out is followed by the next one without reading anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// This character.
    Char(Unit),
    /// Any one character but `/`.
    One,
    /// Any characters but `/`, or none.
    Star,
    /// One character in the ranges, or one outside of all of them.
    Class { negated: bool, ranges: Vec<(Unit, Unit)> },
    /// Enters `Folders`, or leaves it out.
    MaybeFolders,
    /// Any characters, the last of which is a `/`.
    Folders,
    /// Any characters, or none.
    Everything,
}

/// A compiled pattern of Go's `filepath.Match`: `*` and `?` stay within one component, `[a-z]` and `[^a-z]` are classes,
/// `\` escapes.
#[derive(Clone, Debug)]
pub struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// A class that does not end, an empty one, or a backslash at the end.
    pub fn new(pattern: &[u8]) -> Result<Self, BadPattern> {
        let units = decode(pattern);
        let mut tokens = Vec::with_capacity(units.len());
        let mut at = 0;
        while let Some(&unit) = units.get(at) {
            at += 1;
            match char::from_u32(unit) {
                Some('*') => tokens.push(Token::Star),
                Some('?') => tokens.push(Token::One),
                Some('[') => tokens.push(class(&units, &mut at)?),
                Some('\\') => {
                    tokens.push(Token::Char(*units.get(at).ok_or(BadPattern::Escape)?));
                    at += 1;
                }
                _ => tokens.push(Token::Char(unit)),
            }
        }
        Ok(Pattern { tokens })
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        run(&self.tokens, decode(name).into_iter()).last() == Some(&true)
    }
}

/// Whether `pattern` has a `*`, `?` or `[` that no backslash escapes, so that it is more than a name.
pub fn has_wildcards(pattern: &[u8]) -> bool {
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Reads a class whose `[` ends before `at`, and moves `at` behind its `]`.
fn class(units: &[Unit], at: &mut usize) -> Result<Token, BadPattern> {
    let is = |at: usize, wanted: char| units.get(at) == Some(&Unit::from(wanted));
    let negated = is(*at, '^');
    *at += usize::from(negated);
    let mut ranges = vec![];
    loop {
        if is(*at, ']') && !ranges.is_empty() {
            *at += 1;
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_member(units, at)?;
        let mut high = low;
        if is(*at, '-') {
            *at += 1;
            high = class_member(units, at)?;
        }
        ranges.push((low, high));
    }
}

fn class_member(units: &[Unit], at: &mut usize) -> Result<Unit, BadPattern> {
    let mut unit = *units.get(*at).ok_or(BadPattern::Class)?;
    match char::from_u32(unit) {
        Some('-' | ']') | None => return Err(BadPattern::Class),
        Some('\\') => {
            *at += 1;
            unit = *units.get(*at).ok_or(BadPattern::Class)?;
        }
        Some(_) => {}
    }
    *at += 1;
    Ok(unit)
}

/// The characters of a text.
pub(crate) fn decode(text: &[u8]) -> Vec<Unit> {
    let mut units = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        units.extend(chunk.valid().chars().map(Unit::from));
        units.extend(chunk.invalid().iter().map(|byte| 0x11_0000 + Unit::from(*byte)));
    }
    units
}

/// Feeds a text to the machine. In the answer, `[n]` says whether the text has led to the point before token `n`; the last
/// element whether it is a match. All are false as soon as nothing can match any more.
pub(crate) fn run(tokens: &[Token], text: impl Iterator<Item = Unit>) -> Vec<bool> {
    let mut now = vec![false; tokens.len() + 1];
    let mut next = now.clone();
    now[0] = true;
    skip(tokens, &mut now);
    for unit in text {
        next.fill(false);
        let mut alive = false;
        for (at, token) in tokens.iter().enumerate().filter(|(at, _)| now[*at]) {
            alive |= advance(token, unit, at, &mut next);
        }
        std::mem::swap(&mut now, &mut next);
        if !alive {
            now.fill(false);
            return now;
        }
        skip(tokens, &mut now);
    }
    now
}

/// Marks where one character leads from the token at `at`; says whether it leads anywhere.
fn advance(token: &Token, unit: Unit, at: usize, next: &mut [bool]) -> bool {
    let slash = unit == Unit::from('/');
    match token {
        Token::Char(wanted) => next[at + 1] |= unit == *wanted,
        Token::One => next[at + 1] |= !slash,
        Token::Star => next[at] |= !slash,
        Token::Class { negated, ranges } => {
            let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&unit));
            next[at + 1] |= inside != *negated;
        }
        Token::MaybeFolders => {}
        Token::Folders => {
            next[at] = true;
            next[at + 1] |= slash;
        }
        Token::Everything => next[at] = true,
    }
    next[at] || next[at + 1]
}

/// Follows what may be left out. These ways only lead forward, so one pass is enough.
fn skip(tokens: &[Token], now: &mut [bool]) {
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Star | Token::Everything if now[at] => now[at + 1] = true,
            Token::MaybeFolders if now[at] => {
                now[at + 1] = true;
                now[at + 2] = true;
            }
            _ => {}
        }
    }
}
