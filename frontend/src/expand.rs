//! Variables and quotes in words, as a shell treats them: `$v`, `${v:-w}`, `"..."`, `'...'`, escapes.

mod modifiers;

/// The longest result in bytes. No process could be given more (MAX_ARG_STRLEN is 128 KiB), and a few dozen lines that
/// each double a variable would otherwise fill any memory.
const MAX_RESULT_BYTES: usize = 1 << 20;

/// The deepest nesting of `${a:-${b:-...}}`.
const MAX_DEPTH: usize = 100;

/// Where values of variables come from.
pub(crate) trait Lookup {
    /// The value, `None` when the variable is not set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variable is set.
pub(crate) struct NoVariables;

impl Lookup for NoVariables {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// What happens to quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quotes {
    /// They group, and are not part of the result.
    Remove,
    /// They group, and stay in the result.
    Keep,
    /// They are characters like any other (heredoc bodies).
    Ordinary,
}

/// How words are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexer {
    /// `\` or a backtick.
    pub(crate) escape: char,
    /// What happens to quotes.
    pub(crate) quotes: Quotes,
    /// Whether escape characters stay in the result.
    pub(crate) keep_escapes: bool,
    /// Whether a variable that is not set stays as written instead of being empty.
    pub(crate) keep_unset: bool,
}

/// The result.
#[derive(Debug, Default)]
pub(crate) struct Expanded {
    /// The whole text.
    pub(crate) text: String,
    /// The text split at white space that is neither quoted nor escaped.
    pub(crate) words: Vec<String>,
    /// Variables used that are set.
    pub(crate) matched: Vec<String>,
    /// Variables used that are not set.
    pub(crate) unmatched: Vec<String>,
}

/// What is wrong with a word, and the bytes of it that are to blame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExpandError {
    pub(crate) message: String,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Whether a variable's value, and not only the text, is to blame.
    pub(crate) needs_value: bool,
}

impl Lexer {
    /// For instructions: quotes and escapes are processed, unset variables are empty.
    pub(crate) fn new(escape: char) -> Self {
        Lexer { escape, quotes: Quotes::Remove, keep_escapes: false, keep_unset: false }
    }

    /// For the bodies of COPY heredocs: quotes stay, and the escape character is always a backslash.
    pub(crate) fn heredoc_body() -> Self {
        Lexer { quotes: Quotes::Ordinary, ..Lexer::new('\\') }
    }

    /// For showing a command: everything but the values of set variables stays.
    pub(crate) fn title(escape: char) -> Self {
        Lexer { quotes: Quotes::Keep, keep_unset: true, ..Lexer::new(escape) }
    }

    /// Expands `text`.
    pub(crate) fn expand(&self, text: &str, env: &dyn Lookup) -> Result<Expanded, ExpandError> {
        let mut run = Run { lexer: self, env, text, at: 0, depth: 0, out: Expanded::default() };
        let piece = run.until(None, self.keep_escapes)?;
        run.out.words = piece.words();
        run.out.text = piece.text;
        Ok(run.out)
    }

    /// Expands `text`, of which only the result counts.
    pub(crate) fn text(&self, text: &str, env: &dyn Lookup) -> Result<String, ExpandError> {
        self.expand(text, env).map(|expanded| expanded.text)
    }
}

/// Text with the places where it may be split.
#[derive(Default)]
struct Piece {
    text: String,
    /// Ranges of `text` that separate words.
    gaps: Vec<(usize, usize)>,
}

impl Piece {
    fn plain(&mut self, c: char) {
        if c.is_whitespace() {
            self.gaps.push((self.text.len(), self.text.len() + c.len_utf8()));
        }
        self.text.push(c);
    }

    fn words(&self) -> Vec<String> {
        let mut words = vec![];
        let mut start = 0;
        for (from, to) in self.gaps.iter().copied().chain([(self.text.len(), self.text.len())]) {
            if from > start {
                words.push(self.text[start..from].to_owned());
            }
            start = to;
        }
        words
    }
}

struct Run<'a> {
    lexer: &'a Lexer,
    env: &'a dyn Lookup,
    text: &'a str,
    at: usize,
    depth: usize,
    out: Expanded,
}

impl Run<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn error<T>(&self, start: usize, message: impl Into<String>) -> Result<T, ExpandError> {
        Err(ExpandError { message: message.into(), start, end: self.at.max(start), needs_value: false })
    }

    /// Reads to the end, or to `stop`, which is consumed.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<Piece, ExpandError> {
        let start = self.at;
        let mut piece = Piece::default();
        while let Some(c) = self.peek() {
            if piece.text.len() > MAX_RESULT_BYTES {
                return self.error(start, format!("the value is longer than {MAX_RESULT_BYTES} bytes"));
            }
            if Some(c) == stop {
                self.next();
                return Ok(piece);
            }
            match c {
                '\'' if self.lexer.quotes != Quotes::Ordinary => piece.text += &self.single_quoted()?,
                '"' if self.lexer.quotes != Quotes::Ordinary => {
                    piece.text += &self.double_quoted(keep_escapes)?
                }
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| piece.plain(c));
                }
                '<' => self.less_than(&mut piece),
                c if c == self.lexer.escape => {
                    self.next();
                    if keep_escapes {
                        piece.text.push(c);
                    }
                    piece.text.extend(self.next());
                }
                c => {
                    self.next();
                    piece.plain(c);
                }
            }
        }
        match stop {
            None => Ok(piece),
            Some(stop) => self.error(
                start.saturating_sub(1),
                format!("unexpected end of statement while looking for matching {stop}"),
            ),
        }
    }

    /// `<<` and the white space behind it belong to one word, which may be the start of a heredoc.
    fn less_than(&mut self, piece: &mut Piece) {
        self.next();
        piece.text.push('<');
        if self.peek() == Some('<') {
            self.next();
            piece.text.push('<');
            while let Some(c @ (' ' | '\t' | '\r')) = self.peek() {
                self.next();
                piece.text.push(c);
            }
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let body = &self.text[start + 1..];
        let Some(length) = body.find('\'') else {
            self.at = self.text.len();
            return self.error(start, "unexpected end of statement while looking for matching single-quote");
        };
        self.at = start + length + 2;
        Ok(match self.lexer.quotes {
            Quotes::Keep => self.text[start..self.at].to_owned(),
            _ => body[..length].to_owned(),
        })
    }

    fn double_quoted(&mut self, keep_escapes: bool) -> Result<String, ExpandError> {
        let start = self.at;
        let keep_quotes = self.lexer.quotes == Quotes::Keep;
        let mut result = String::new();
        result.extend(self.next().filter(|_| keep_quotes));
        loop {
            match self.peek() {
                None => {
                    return self
                        .error(start, "unexpected end of statement while looking for matching double-quote");
                }
                Some('"') => {
                    result.extend(self.next().filter(|_| keep_quotes));
                    return Ok(result);
                }
                Some('$') => result += &self.dollar()?,
                Some(c) if c == self.lexer.escape => {
                    self.next();
                    match self.peek() {
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == self.lexer.escape => {
                            if keep_escapes {
                                result.push(c);
                            }
                            result.extend(self.next());
                        }
                        // BuildKit doubles it where escapes stay, so that a pattern takes it literally.
                        Some(_) if keep_escapes => result.extend([c, c]),
                        Some(_) => result.push(c),
                        None => {}
                    }
                }
                Some(c) => {
                    self.next();
                    result.push(c);
                }
            }
        }
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name).map(str::to_owned);
        let list = if value.is_some() { &mut self.out.matched } else { &mut self.out.unmatched };
        if !list.iter().any(|known| known == name) {
            list.push(name.to_owned());
        }
        value
    }

    /// `$` and what follows it.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        if self.peek() == Some('{') {
            self.next();
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return self.error(start, "substitutions are nested too deeply");
            }
            let value = self.braced(start)?;
            self.depth -= 1;
            return Ok(value);
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(match self.lookup(&name) {
            None if self.lexer.keep_unset => format!("${name}"),
            value => value.unwrap_or_default(),
        })
    }

    /// What follows `${`.
    fn braced(&mut self, start: usize) -> Result<String, ExpandError> {
        match self.peek() {
            None => return self.error(start, "syntax error: missing '}'"),
            Some('{' | '}' | ':') => {
                self.next();
                return self.error(start, "syntax error: bad substitution");
            }
            Some(_) => {}
        }
        let name = self.name();
        let Some(modifier) = self.next() else { return self.error(start, "syntax error: missing '}'") };
        match modifier {
            '}' => Ok(match self.lookup(&name) {
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            ':' => match self.next() {
                Some(c @ ('-' | '+' | '?')) => self.conditional(start, &name, c, true),
                Some(c) => self.error(start, format!("unsupported modifier (:{c}) in substitution")),
                None => self.error(start, "syntax error: missing '}'"),
            },
            '-' | '+' | '?' => self.conditional(start, &name, modifier, false),
            '#' | '%' => self.trim(start, &name, modifier),
            '/' => self.replace(start, &name),
            other => self.error(start, format!("unsupported modifier ({other}) in substitution")),
        }
    }

    /// A name: letters, digits and underscores; or only digits; or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let rest = &self.text[self.at..];
        let is_word = |c: char| c.is_alphabetic() || c.is_numeric() || c == '_';
        let length = match rest.chars().next() {
            Some(c) if c.is_numeric() => rest.find(|c: char| !c.is_numeric()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(1),
            _ => rest.find(|c: char| !is_word(c)),
        };
        let name = &rest[..length.unwrap_or(rest.len())];
        self.at += name.len();
        name.to_owned()
    }
}
