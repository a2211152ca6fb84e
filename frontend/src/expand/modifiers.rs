//! What may stand behind a name in `${...}`.

use crate::expand::{ExpandError, MAX_RESULT_BYTES, Run};
use crate::pattern::Pattern;

impl Run<'_> {
    fn word(&mut self, start: usize, stop: char, keep_escapes: bool) -> Result<String, ExpandError> {
        match self.until(Some(stop), keep_escapes) {
            Ok(piece) => Ok(piece.text),
            Err(_) if self.at >= self.text.len() => {
                self.error(start, format!("syntax error: missing '{stop}'"))
            }
            Err(error) => Err(error),
        }
    }

    /// `${v-w}`, `${v+w}`, `${v?w}`, and with `:` those for which an empty value is no value.
    pub(super) fn conditional(
        &mut self,
        start: usize,
        name: &str,
        c: char,
        empty_is_unset: bool,
    ) -> Result<String, ExpandError> {
        let word = self.word(start, '}', false)?;
        let value = self.lookup(name);
        if value.is_none() && self.lexer.keep_unset {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{c}{word}}}"));
        }
        let is_set = value.as_deref().is_some_and(|value| !(empty_is_unset && value.is_empty()));
        match (c, is_set) {
            ('-', false) => Ok(word),
            ('+', true) => Ok(word),
            ('+', false) => Ok(String::new()),
            ('?', false) => {
                let default =
                    if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                let text = if word.is_empty() { default } else { &word };
                let error = self.error(start, format!("{name}: {text}"));
                error.map_err(|error| ExpandError { needs_value: true, ..error })
            }
            _ => Ok(value.unwrap_or_default()),
        }
    }

    /// `${v#p}`, `${v##p}`, `${v%p}`, `${v%%p}`.
    pub(super) fn trim(&mut self, start: usize, name: &str, c: char) -> Result<String, ExpandError> {
        let word = self.word(start, '}', true)?;
        let value = match self.lookup(name) {
            None if self.lexer.keep_unset => return Ok(format!("${{{name}{c}{word}}}")),
            value => value.unwrap_or_default(),
        };
        let (pattern, longest) = match word.strip_prefix(c) {
            Some(pattern) => (pattern, true),
            None => (word.as_str(), false),
        };
        let parsed = Pattern::parse(pattern).and_then(|parsed| match c {
            '#' => parsed.without_prefix(&value, longest),
            _ => parsed.without_suffix(&value, longest),
        });
        parsed.or_else(|problem| {
            self.error(start, format!("invalid pattern ({pattern}) in substitution: {problem}"))
        })
    }

    /// `${v/p/r}` and `${v//p/r}`.
    pub(super) fn replace(&mut self, start: usize, name: &str) -> Result<String, ExpandError> {
        let every = self.peek() == Some('/');
        if every {
            self.next();
        }
        let pattern = self.word(start, '/', true)?;
        let replacement = self.word(start, '}', true)?;
        // A pattern may match nothing, too: what is not set can become something.
        let value = match self.lookup(name) {
            None if self.lexer.keep_unset => return Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            value => value.unwrap_or_default(),
        };
        let parsed = Pattern::parse(&pattern).and_then(|parsed| match every {
            true => parsed.replace_all(&value, &replacement, MAX_RESULT_BYTES),
            false => parsed.replace_first(&value, &replacement),
        });
        parsed.or_else(|problem| {
            self.error(start, format!("invalid pattern ({pattern}) in substitution: {problem}"))
        })
    }
}
