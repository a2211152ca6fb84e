//! The dialect with `**`: .dockerignore, `--exclude` and `--parents`, by the rules of moby's patternmatcher.

use super::{BadPattern, Token, Unit, class, decode, run};

/// A compiled pattern of moby's patternmatcher. `**` stands for any number of folders, none too; the rest is as in
/// [`super::Pattern`].
///
/// What moby does with regular expressions by accident is left out: `\d` is a `d` here, not a digit.
#[derive(Clone, Debug)]
pub struct Deep(How);

/// The four ways to match, the cheap ones first.
#[derive(Clone, Debug)]
enum How {
    /// The path is this.
    Exact(Box<[u8]>),
    /// The path starts with this: a pattern without wildcards but for a `**` at its end.
    Prefix(Box<[u8]>),
    /// The path ends with this: a pattern without wildcards but for a `**` at its start.
    Suffix(Box<[u8]>),
    /// Everything else. What stands before the first wildcard and behind the last one says no to most paths quickly.
    Machine { tokens: Vec<Token>, head: Box<[u8]>, tail: Box<[u8]> },
}

/// What has been seen of a pattern so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Plain,
    OpenEnd,
    OpenStart,
    Wildcards,
}

impl Deep {
    /// Compiles a pattern that is cleaned already: no `.`, no empty and no trailing component.
    ///
    /// # Errors
    /// What [`super::Pattern::new`] refuses, and a range that ends before it starts.
    pub fn new(pattern: &[u8]) -> Result<Self, BadPattern> {
        let (tokens, seen) = compile(&decode(pattern))?;
        Ok(Deep(match seen {
            Seen::Plain => How::Exact(pattern.into()),
            Seen::OpenEnd => How::Prefix(pattern[..pattern.len() - 2].into()),
            Seen::OpenStart => How::Suffix(pattern[2..].into()),
            Seen::Wildcards => {
                let (head, tail) = (literal(tokens.iter(), false), literal(tokens.iter().rev(), true));
                How::Machine { tokens, head, tail }
            }
        }))
    }

    /// Whether the whole path matches; folders above it are not looked at.
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.0 {
            How::Exact(wanted) => path == &**wanted,
            How::Prefix(start) => path.starts_with(start),
            How::Suffix(end) => path.ends_with(end) || end.strip_prefix(b"/") == Some(path),
            How::Machine { tokens, head, tail } => {
                path.starts_with(head)
                    && path.ends_with(tail)
                    && run(tokens, decode(path).into_iter()).last() == Some(&true)
            }
        }
    }

    /// Whether a path below the folder could match. `true` may be wrong, `false` never is.
    pub fn may_match_below(&self, folder: &[u8]) -> bool {
        if folder.is_empty() {
            return true;
        }
        let start = [folder, b"/"].concat();
        match &self.0 {
            How::Exact(wanted) => wanted.starts_with(&start),
            How::Prefix(wanted) => wanted.starts_with(&start) || start.starts_with(wanted),
            How::Suffix(_) => true,
            How::Machine { tokens, .. } => run(tokens, decode(&start).into_iter()).contains(&true),
        }
    }
}

fn compile(units: &[Unit]) -> Result<(Vec<Token>, Seen), BadPattern> {
    let is = |at: usize, wanted: char| units.get(at) == Some(&Unit::from(wanted));
    let mut tokens = Vec::with_capacity(units.len() + 1);
    let (mut seen, mut at) = (Seen::Plain, 0);
    while let Some(&unit) = units.get(at) {
        let first = at == 0;
        at += 1;
        match char::from_u32(unit) {
            Some('*') if is(at, '*') => {
                at += 1;
                at += usize::from(is(at, '/'));
                if at < units.len() {
                    tokens.extend([Token::MaybeFolders, Token::Folders]);
                    seen = Seen::Wildcards;
                } else {
                    tokens.push(Token::Everything);
                    seen = if seen == Seen::Plain { Seen::OpenEnd } else { Seen::Wildcards };
                }
                if first {
                    seen = Seen::OpenStart;
                }
                continue;
            }
            Some('*') => tokens.push(Token::Star),
            Some('?') => tokens.push(Token::One),
            Some('[') => {
                let class = class(units, &mut at)?;
                if matches!(&class, Token::Class { ranges, .. } if ranges.iter().any(|(low, high)| low > high))
                {
                    return Err(BadPattern::Range);
                }
                tokens.push(class);
            }
            Some('\\') => {
                tokens.push(Token::Char(*units.get(at).ok_or(BadPattern::Escape)?));
                at += 1;
            }
            // A literal, but it makes moby take the slow way, in which `**` stands for whole folders only.
            Some(']') => tokens.push(Token::Char(unit)),
            _ => {
                tokens.push(Token::Char(unit));
                continue;
            }
        }
        seen = Seen::Wildcards;
    }
    Ok((tokens, seen))
}

/// The bytes of the characters at one end of a pattern.
fn literal<'a>(tokens: impl Iterator<Item = &'a Token>, reversed: bool) -> Box<[u8]> {
    let characters = tokens.map_while(|token| match token {
        Token::Char(unit) => char::from_u32(*unit),
        _ => None,
    });
    let mut characters: Vec<char> = characters.collect();
    if reversed {
        characters.reverse();
    }
    characters.into_iter().collect::<String>().into_bytes().into()
}
