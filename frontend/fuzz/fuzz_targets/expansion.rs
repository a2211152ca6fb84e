//! Variables and quotes: what a label becomes, against a reference that knows the answer because it made the text.
//!
//! The reference writes a word piece by piece and notes what each piece is worth. Patterns go through the `regex` crate, by
//! the rules that BuildKit turns them into regular expressions with. Every second input is a text as it comes, for panics
//! and time.

#![no_main]

use std::collections::HashMap;

use arbitrary::{Arbitrary as _, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use lithify_frontend::{Options, Plan, Source, plan};

const NAMES: [&str; 4] = ["A", "B_2", "c", "É"];

/// The characters of values.
const VALUE: [char; 16] = ['a', 'b', 'x', '*', '?', '/', '\\', '\n', '.', '$', '0', '{', '}', 'é', ' ', '['];

/// Characters that mean nothing outside of patterns.
const PLAIN: [char; 20] =
    ['a', 'b', 'x', '*', '?', '/', '.', '}', '{', 'é', '[', ']', '(', '+', '#', '%', ':', '=', '<', '-'];

/// Longer values are not compared.
const MAX_BYTES: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Unstructured::new(input);
    let _ = match bool::arbitrary(&mut bytes) {
        Ok(true) => as_it_comes(bytes),
        _ => against_the_reference(&mut bytes),
    };
});

fn as_it_comes(mut bytes: Unstructured<'_>) -> Result<()> {
    let values = values(&mut bytes)?;
    let text = String::from_utf8_lossy(bytes.take_rest()).replace(['\n', '\r'], " ");
    for text in [
        format!("FROM scratch\n{}LABEL r={text}\n", declarations(&values)),
        format!("FROM scratch\n{}ENV r=\"{text}\"\n", declarations(&values)),
        format!("FROM scratch\n{}EXPOSE {text}\n", declarations(&values)),
        format!("FROM scratch\n{}COPY <<EOF /x\n{text}\nEOF\n", declarations(&values)),
    ] {
        label(text, &values);
    }
    Ok(())
}

fn against_the_reference(bytes: &mut Unstructured<'_>) -> Result<()> {
    let values = values(bytes)?;
    let escape = if u8::arbitrary(bytes)? < 200 { '\\' } else { '`' };
    let mut writer = Writer { values: &values, escape, bytes };
    let Some(word) = writer.word(Place { stop: None, quoted: false, raw: false }, 0)? else { return Ok(()) };
    let text = format!("# escape={escape}\nFROM scratch\n{}LABEL r={}\n", declarations(&values), word.text);
    if text.lines().any(|line| line.len() > 60_000) {
        return Ok(());
    }
    let found = label(text.clone(), &values);
    assert_eq!(found, word.value, "\n{text}with {values:?}");
    Ok(())
}

type Values = Vec<(&'static str, String)>;

fn values(bytes: &mut Unstructured<'_>) -> Result<Values> {
    let mut values = vec![];
    for name in NAMES {
        if bytes.arbitrary()? {
            let length = bytes.int_in_range(0..=6)?;
            let value: Result<String> = (0..length).map(|_| bytes.choose(&VALUE).copied()).collect();
            values.push((name, value?));
        }
    }
    Ok(values)
}

fn declarations(values: &Values) -> String {
    values.iter().map(|(name, _)| format!("ARG {name}\n")).collect()
}

/// What the label is worth, `None` for an error.
fn label(text: String, values: &Values) -> Option<String> {
    let options = Options {
        build_args: values.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
        ..Options::default()
    };
    match plan(&Source::new("Dockerfile", text), &options, &HashMap::new()) {
        Ok(Plan::Graph { graph, .. }) => graph.target.config.config.labels.get("r").cloned(),
        _ => None,
    }
}

/// A text and what it is worth, `None` for an error.
struct Worth {
    text: String,
    value: Option<String>,
}

/// Where a piece stands.
#[derive(Clone, Copy)]
struct Place {
    /// What would end the word.
    stop: Option<char>,
    /// Between double quotes.
    quoted: bool,
    /// Escape characters stay: in patterns.
    raw: bool,
}

struct Writer<'a, 'b> {
    values: &'a Values,
    escape: char,
    bytes: &'a mut Unstructured<'b>,
}

impl Writer<'_, '_> {
    /// Pieces one after the other; `None` when the reference does not know the answer.
    fn word(&mut self, place: Place, depth: usize) -> Result<Option<Worth>> {
        let (mut text, mut value) = (String::new(), Some(String::new()));
        for _ in 0..self.bytes.int_in_range(0..=6)? {
            let Some(piece) = self.piece(place, depth)? else { return Ok(None) };
            text += &piece.text;
            value = value.zip(piece.value).map(|(before, piece)| before + &piece);
        }
        // Long values meet limits, which the reference does not have.
        Ok((value.as_ref().is_none_or(|value| value.len() <= MAX_BYTES)).then_some(Worth { text, value }))
    }

    fn piece(&mut self, place: Place, depth: usize) -> Result<Option<Worth>> {
        let choice = self.bytes.int_in_range(0..=if depth < 6 { 11 } else { 4 })?;
        Ok(match choice {
            0..=2 => {
                let c = *self.bytes.choose(&PLAIN)?;
                let c = if place.stop == Some(c) && !place.quoted { 'a' } else { c };
                Some(Worth { text: c.into(), value: Some(c.into()) })
            }
            3 => Some(self.escaped(place)?),
            4 => Some(Worth { text: "$.".into(), value: Some("$.".into()) }),
            5 => {
                let name = *self.bytes.choose(&NAMES)?;
                let value = self.value(name).unwrap_or_default() + ".";
                Some(Worth { text: format!("${name}."), value: Some(value) })
            }
            6 if !place.quoted => {
                let inner: Result<String> = (0..self.bytes.int_in_range(0..=4)?)
                    .map(|_| Ok(*self.bytes.choose(&['a', '"', '$', '\\', '}', '*', '/', '.'])?))
                    .collect();
                let inner = inner?;
                Some(Worth { text: format!("'{inner}'"), value: Some(inner) })
            }
            7 if !place.quoted => {
                let inner = self.word(Place { quoted: true, ..place }, depth + 1)?;
                inner.map(|inner| Worth { text: format!("\"{}\"", inner.text), value: inner.value })
            }
            _ => self.braced(depth)?,
        })
    }

    fn escaped(&mut self, place: Place) -> Result<Worth> {
        let all = ['a', '*', '?', '/', '}', '"', '\'', '$', '\\', '`', 'é'];
        let c = *self.bytes.choose(&all)?;
        let escape = self.escape;
        let is_escapable = !place.quoted || matches!(c, '"' | '$') || c == escape;
        let value = match (is_escapable, place.raw) {
            (true, true) => format!("{escape}{c}"),
            (true, false) => c.to_string(),
            // BuildKit's accident: it is doubled where escapes stay.
            (false, true) => format!("{escape}{escape}{c}"),
            (false, false) => format!("{escape}{c}"),
        };
        Ok(Worth { text: format!("{escape}{c}"), value: Some(value) })
    }

    fn value(&self, name: &str) -> Option<String> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    fn braced(&mut self, depth: usize) -> Result<Option<Worth>> {
        let name = *self.bytes.choose(&NAMES)?;
        let value = self.value(name);
        let modifier =
            *self.bytes.choose(&["", ":-", "-", ":+", "+", ":?", "?", "#", "##", "%", "%%", "/", "//"])?;
        let inner = |stop, raw| Place { stop: Some(stop), quoted: false, raw };
        if modifier.is_empty() {
            return Ok(Some(Worth { text: format!("${{{name}}}"), value: Some(value.unwrap_or_default()) }));
        }
        if modifier.starts_with('/') {
            let Some(pattern) = self.word(inner('/', true), depth + 1)? else { return Ok(None) };
            let Some(replacement) = self.word(inner('}', true), depth + 1)? else { return Ok(None) };
            // A slash in front would make it the other modifier.
            if modifier == "/" && (pattern.text.is_empty() || pattern.text.starts_with('/')) {
                return Ok(None);
            }
            let text = format!("${{{name}{modifier}{}/{}}}", pattern.text, replacement.text);
            let (Some(pattern), Some(replacement)) = (pattern.value, replacement.value) else {
                return Ok(Some(Worth { text, value: None }));
            };
            let value = value.unwrap_or_default();
            if pattern.len() + replacement.len() > MAX_BYTES {
                return Ok(None);
            }
            let value = match expression(&pattern, ".*") {
                Err(()) => None,
                Ok(found) if modifier == "/" => Some(match found.find(&value) {
                    Some(at) => format!("{}{replacement}{}", &value[..at.start()], &value[at.end()..]),
                    None => value.clone(),
                }),
                // Names in templates may hold any letter in Go, and what is no name between braces is none.
                Ok(_) if !is_simple_template(&replacement) => return Ok(None),
                Ok(found) => Some(found.replace_all(&value, replacement.as_str()).into_owned()),
            };
            return Ok(Some(Worth { text, value }));
        }
        let trims = modifier.starts_with(['#', '%']);
        let Some(word) = self.word(inner('}', trims), depth + 1)? else { return Ok(None) };
        let text = format!("${{{name}{modifier}{}}}", word.text);
        let Some(word) = word.value else { return Ok(Some(Worth { text, value: None })) };
        let set = value.clone().filter(|value| !(modifier.starts_with(':') && value.is_empty()));
        let value = match modifier {
            ":-" | "-" => Some(set.unwrap_or(word)),
            ":+" | "+" => Some(set.map_or(String::new(), |_| word)),
            ":?" | "?" => set,
            _ => {
                let sign = &modifier[..1];
                // What the word is worth may be the second sign.
                let (longest, pattern) = match word.strip_prefix(sign) {
                    _ if modifier.len() == 2 => (true, word.as_str()),
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                let value = value.unwrap_or_default();
                match sign {
                    "#" => without_prefix(pattern, &value, longest),
                    _ if ends_in_escape(pattern) => return Ok(None),
                    _ => {
                        without_prefix(&reversed(pattern), &value.chars().rev().collect::<String>(), longest)
                            .map(|value| value.chars().rev().collect())
                    }
                }
            }
        };
        Ok(Some(Worth { text, value }))
    }
}

fn without_prefix(pattern: &str, value: &str, longest: bool) -> Option<String> {
    let stars = if longest { ".*" } else { ".*?" };
    let anchored = expression(pattern, stars).ok()?;
    let anchored = regex::Regex::new(&format!("^(?:{})", anchored.as_str())).expect("an expression");
    Some(anchored.find(value).map_or(value, |found| &value[found.end()..]).to_owned())
}

/// The regular expression that a pattern means.
fn expression(pattern: &str, stars: &str) -> std::result::Result<regex::Regex, ()> {
    let mut expression = String::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => expression += stars,
            '?' => expression.push('.'),
            '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
            '\\' => match chars.next() {
                Some(c @ ('*' | '?' | '\\')) => expression += &regex::escape(&c.to_string()),
                _ => return Err(()),
            },
            c => expression += &regex::escape(&c.to_string()),
        }
    }
    Ok(regex::Regex::new(&expression).expect("an expression"))
}

fn is_simple_template(text: &str) -> bool {
    let mut braces = text.split("${").skip(1);
    let is_name = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        end > 0 && rest[end..].starts_with('}')
    };
    // A number with a zero in front is a name to Go.
    let has_odd_number = ["$0", "${0"].iter().any(|zero| {
        text.match_indices(zero)
            .any(|(at, _)| text[at + zero.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    });
    !has_odd_number && braces.all(is_name) && (text.is_ascii() || !text.contains('$'))
}

fn ends_in_escape(pattern: &str) -> bool {
    pattern.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

/// The pattern from its end, escapes in front of what they escape.
fn reversed(pattern: &str) -> String {
    let mut pieces = vec![];
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' { chars.next() } else { None };
        pieces.push([Some(c), escaped]);
    }
    pieces.into_iter().rev().flatten().flatten().collect()
}
