//! The patterns of `${v#p}` and `${v/p/r}`: `*` and `?`, which stop at line ends, and `\` to take them literally.
//!
//! Matching walks the text once with the set of places in the pattern that can be reached, so no pattern is slow.

/// The most steps that matching may take; only patterns and values of many thousand characters reach it.
const MAX_STEPS: usize = 1 << 24;

/// A pattern.
pub(crate) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `*`
    Any,
    /// `?`
    One,
    /// A character.
    Exactly(char),
}

impl Pattern {
    /// Reads a pattern; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = vec![];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => match chars.next() {
                    Some(escaped @ ('}' | '/' | '*' | '?' | '\\')) => Part::Exactly(escaped),
                    Some(other) => return Err(format!("invalid escape '\\{other}'")),
                    None => return Err("invalid escape at the end".into()),
                },
                c => Part::Exactly(c),
            });
        }
        parts.dedup_by(|a, b| *a == Part::Any && *b == Part::Any);
        Ok(Pattern { parts })
    }

    /// `value` without the shortest or longest part in front that matches.
    pub(crate) fn without_prefix(&self, value: &str, longest: bool) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        let end = self.prefix(&chars, longest)?.unwrap_or(0);
        Ok(chars[end..].iter().collect())
    }

    /// `value` without the shortest or longest part at its end that matches.
    pub(crate) fn without_suffix(&self, value: &str, longest: bool) -> Result<String, String> {
        let chars: Vec<char> = value.chars().rev().collect();
        let reversed = Pattern { parts: self.parts.iter().rev().copied().collect() };
        let end = reversed.prefix(&chars, longest)?.unwrap_or(0);
        Ok(chars[end..].iter().rev().collect())
    }

    /// `value` with the first match replaced, the longest at the leftmost place.
    pub(crate) fn replace_first(&self, value: &str, replacement: &str) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        self.check_size(&chars)?;
        let Some((start, end)) = self.find(&chars, 0) else { return Ok(value.to_owned()) };
        let (before, after) = (&chars[..start], &chars[end..]);
        Ok(before.iter().copied().chain(replacement.chars()).chain(after.iter().copied()).collect())
    }

    /// `value` with every match replaced. In the replacement `$0` is the match, as is every other name but empty.
    pub(crate) fn replace_all(
        &self,
        value: &str,
        replacement: &str,
        max_bytes: usize,
    ) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        self.check_size(&chars)?;
        let mut result = String::new();
        let (mut copied, mut from) = (0, 0);
        while let Some((start, end)) = self.find(&chars, from) {
            result.extend(&chars[copied..start]);
            let touches_last = start == end && start == copied && start > 0;
            if !touches_last {
                let matched: String = chars[start..end].iter().collect();
                fill_template(replacement, &matched, &mut result);
            }
            if result.len() > max_bytes {
                return Err(format!("the result is longer than {max_bytes} bytes"));
            }
            copied = end;
            from = end.max(from + usize::from(end == from));
            if from > chars.len() {
                break;
            }
        }
        result.extend(&chars[copied..]);
        Ok(result)
    }

    fn check_size(&self, chars: &[char]) -> Result<(), String> {
        match self.parts.len().saturating_mul(chars.len()) > MAX_STEPS {
            true => Err("the pattern is too long for this value".into()),
            false => Ok(()),
        }
    }

    fn prefix(&self, chars: &[char], longest: bool) -> Result<Option<usize>, String> {
        self.check_size(chars)?;
        let mut places = Places::new(self);
        places.enter(0, 0);
        let mut best = places.accepted().map(|_| 0);
        for (index, c) in chars.iter().enumerate() {
            if best.is_some() && !longest || places.current.is_empty() {
                break;
            }
            places.step(*c);
            if places.accepted().is_some() {
                best = Some(index + 1);
            }
        }
        Ok(best)
    }

    /// The leftmost match that starts at `from` or later, the longest there.
    fn find(&self, chars: &[char], from: usize) -> Option<(usize, usize)> {
        let mut places = Places::new(self);
        let mut best: Option<(usize, usize)> = None;
        for index in from..=chars.len() {
            if best.is_none() {
                places.enter(0, index);
            }
            let accepted = places.accepted().filter(|start| best.is_none_or(|(known, _)| *start <= known));
            best = accepted.map(|start| (start, index)).or(best);
            if let Some((known, _)) = best {
                places.current.retain(|(_, start)| *start <= known);
                if places.current.is_empty() {
                    break;
                }
            }
            if let Some(c) = chars.get(index) {
                places.step(*c);
            }
        }
        best
    }
}

/// The places in a pattern that can be reached, each with the earliest start of a match that reaches it.
struct Places<'a> {
    pattern: &'a Pattern,
    current: Vec<(usize, usize)>,
    /// By place: the round in which it was last entered, and its index in `current` then.
    seen: Vec<(usize, usize)>,
    round: usize,
}

impl<'a> Places<'a> {
    fn new(pattern: &'a Pattern) -> Self {
        Places { pattern, current: vec![], seen: vec![(0, 0); pattern.parts.len() + 1], round: 1 }
    }

    fn enter(&mut self, mut place: usize, start: usize) {
        loop {
            match self.seen[place] {
                (round, index)
                    if round == self.round && self.current.get(index).is_some_and(|it| it.0 == place) =>
                {
                    self.current[index].1 = self.current[index].1.min(start);
                }
                _ => {
                    self.seen[place] = (self.round, self.current.len());
                    self.current.push((place, start));
                }
            }
            if self.pattern.parts.get(place) != Some(&Part::Any) {
                return;
            }
            place += 1;
        }
    }

    fn step(&mut self, c: char) {
        self.round += 1;
        for (place, start) in std::mem::take(&mut self.current) {
            match self.pattern.parts.get(place) {
                Some(Part::Any) if c != '\n' => self.enter(place, start),
                Some(Part::One) if c != '\n' => self.enter(place + 1, start),
                Some(Part::Exactly(wanted)) if *wanted == c => self.enter(place + 1, start),
                _ => {}
            }
        }
    }

    /// The start of a match that ends here.
    fn accepted(&self) -> Option<usize> {
        let end = self.pattern.parts.len();
        self.current.iter().filter(|(place, _)| *place == end).map(|(_, start)| *start).min()
    }
}

/// Go's regexp template, in which there is only the group 0.
fn fill_template(template: &str, matched: &str, result: &mut String) {
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let name_end = |text: &str| text.find(|c| !is_name(c)).unwrap_or(text.len());
        let (name, after) = if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            result.push('$');
            continue;
        } else if let Some(braced) = rest.strip_prefix('{') {
            let end = name_end(braced);
            match braced[end..].strip_prefix('}') {
                Some(after) => (&braced[..end], after),
                None => ("", rest),
            }
        } else {
            let end = name_end(rest);
            (&rest[..end], &rest[end..])
        };
        match name {
            "" => result.push('$'),
            "0" => result.push_str(matched),
            _ => {}
        }
        rest = after;
    }
    result.push_str(rest);
}
