//! Instructions whose arguments are words: FROM, ARG, ENV, LABEL, EXPOSE, VOLUME, USER and the like.

use crate::diagnostic::Diagnostic;
use crate::instruction::{ArgDefinition, From, Pair, description};
use crate::parse::command::{self, Json};
use crate::parse::keyword::Arguments;
use crate::source::Word;
use crate::words::Rest;

/// FROM: `image` or `image AS name`.
pub(crate) fn from(arguments: &mut Arguments<'_, '_>) -> Option<From> {
    let platform = arguments.flags.value("platform");
    let words = arguments.rest.split_plain();
    match &words[..] {
        [image] => {
            Some(From { image: image.clone(), as_keyword: None, name: None, written_name: None, platform })
        }
        [image, keyword, name] if keyword.text.eq_ignore_ascii_case("AS") => {
            let lower = name.text.to_lowercase();
            if !is_stage_name(&lower) {
                let message = format!(
                    "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
                    name.text
                );
                let expected = "expected a letter, then letters, digits and - _ .";
                return arguments.report(Diagnostic::at(name.span, message).label(expected));
            }
            Some(From {
                image: image.clone(),
                as_keyword: Some(keyword.clone()),
                written_name: Some(name.text.clone()),
                name: Some(Word { text: lower, span: name.span }),
                platform,
            })
        }
        [_, keyword, _] => {
            let message = "FROM requires either one or three arguments";
            arguments.report(Diagnostic::at(keyword.span, message).label("expected AS"))
        }
        _ => arguments.fail("FROM requires either one or three arguments: `image` or `image AS name`"),
    }
}

fn is_stage_name(name: &str) -> bool {
    let rest =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(rest)
}

/// ARG: `name` or `name=default`, any number.
pub(crate) fn arg(arguments: &mut Arguments<'_, '_>) -> Option<Vec<ArgDefinition>> {
    let words = arguments.rest.split_quoted(arguments.request.escape);
    if words.is_empty() {
        return arguments.fail("ARG requires at least one argument");
    }
    let mut definitions = vec![];
    for word in words {
        let (name, value) = match word.text.find('=') {
            Some(0) => return arguments.report(Diagnostic::at(word.span, "ARG names can not be blank")),
            Some(at) => {
                let (name, value) = split_word(&word, at);
                (name, Some(value))
            }
            None => (word, None),
        };
        let description = description(arguments.request.comments, &name.text).map(str::to_owned);
        definitions.push(ArgDefinition { name, value, description });
    }
    Some(definitions)
}

/// Splits at the `=` that stands at `at`.
fn split_word(word: &Word, at: usize) -> (Word, Word) {
    let (key, value) = (word.text[..at].to_owned(), word.text[at + 1..].to_owned());
    let (mut key_span, mut value_span) = (word.span, word.span);
    if word.span.end - word.span.start == word.text.len() {
        key_span.end = key_span.start + at;
        value_span.start += at + 1;
    }
    (Word { text: key, span: key_span }, Word { text: value, span: value_span })
}

/// ENV and LABEL: `key=value`, any number, or the old form `key value`.
pub(crate) fn pairs(arguments: &mut Arguments<'_, '_>, keyword: &str) -> Option<Vec<Pair>> {
    let words = arguments.rest.split_quoted(arguments.request.escape);
    let Some(first) = words.first() else {
        return arguments.fail(format!("{keyword} requires at least one argument"));
    };
    if !first.text.contains('=') {
        return legacy_pair(arguments, keyword).map(|pair| vec![pair]);
    }
    let mut pairs = vec![];
    for word in &words {
        let Some(at) = word.text.find('=') else {
            let message =
                format!("Syntax error - can't find = in {:?}. Must be of the form: name=value", word.text);
            return arguments.report(Diagnostic::at(word.span, message).label("expected name=value"));
        };
        let (key, value) = split_word(word, at);
        if key.text.is_empty() {
            return arguments.report(Diagnostic::at(word.span, format!("{keyword} names can not be blank")));
        }
        pairs.push(Pair { key, value, legacy: false });
    }
    Some(pairs)
}

fn legacy_pair(arguments: &mut Arguments<'_, '_>, keyword: &str) -> Option<Pair> {
    let (key, value): (Rest<'_>, Rest<'_>) = arguments.rest.split_first();
    if value.is_empty() {
        return arguments.fail(format!("{keyword} must have two arguments"));
    }
    Some(Pair { key: key.word(), value: value.word(), legacy: true })
}

/// EXPOSE.
pub(crate) fn expose(arguments: &mut Arguments<'_, '_>) -> Option<Vec<Word>> {
    let mut words = arguments.rest.split_plain();
    if words.is_empty() {
        return arguments.fail("EXPOSE requires at least one argument");
    }
    words.sort_by(|a, b| a.text.cmp(&b.text));
    Some(words)
}

/// VOLUME: a JSON array, or words.
pub(crate) fn volume(arguments: &mut Arguments<'_, '_>) -> Option<Vec<Word>> {
    let words = list(arguments)?;
    if words.is_empty() {
        return arguments.fail("VOLUME requires at least one argument");
    }
    let mut volumes = vec![];
    for word in words {
        let text = word.text.trim().to_owned();
        if text.is_empty() {
            return arguments
                .report(Diagnostic::at(word.span, "VOLUME specified can not be an empty string"));
        }
        volumes.push(Word { text, ..word });
    }
    Some(volumes)
}

/// The rest of the line as one argument.
pub(crate) fn one(arguments: &mut Arguments<'_, '_>, keyword: &str) -> Option<Word> {
    match arguments.rest.is_empty() {
        true => arguments.fail(format!("{keyword} requires exactly one argument")),
        false => Some(arguments.rest.word()),
    }
}

/// A JSON array of strings, or words without quotes.
pub(crate) fn list(arguments: &mut Arguments<'_, '_>) -> Option<Vec<Word>> {
    match command::json(arguments.rest.text()) {
        Json::Strings(strings) => {
            let span = arguments.rest.word().span;
            Some(strings.into_iter().map(|text| Word { text, span }).collect())
        }
        Json::OtherArray => command::not_strings(arguments),
        Json::No => Some(arguments.rest.split_plain()),
    }
}
