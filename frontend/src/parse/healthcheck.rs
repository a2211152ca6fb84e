//! HEALTHCHECK.

use lithify_oci::Healthcheck;

use crate::diagnostic::Diagnostic;
use crate::parse::command;
use crate::parse::duration;
use crate::parse::keyword::Arguments;

/// HEALTHCHECK: `NONE`, or `CMD` and a command.
pub(crate) fn healthcheck(arguments: &mut Arguments<'_, '_>) -> Option<Healthcheck> {
    if arguments.rest.is_empty() {
        return arguments.fail("HEALTHCHECK requires at least one argument");
    }
    let text = arguments.rest.text();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (kind, rest) = (arguments.rest.part(0, end), arguments.rest.part(end, text.len()).trim());
    match kind.text().to_ascii_uppercase().as_str() {
        "NONE" if rest.is_empty() => {
            Some(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() })
        }
        "NONE" => arguments.report(Diagnostic::at(rest.word().span, "HEALTHCHECK NONE takes no arguments")),
        "CMD" => {
            arguments.rest = rest;
            let command = command::command(arguments)?;
            if command.words.is_empty() {
                return arguments.fail("Missing command after HEALTHCHECK CMD");
            }
            let form = if command.json { "CMD" } else { "CMD-SHELL" };
            Some(Healthcheck {
                test: [form.to_owned()].into_iter().chain(command.words).collect(),
                interval_ns: interval(arguments, "interval")?,
                timeout_ns: interval(arguments, "timeout")?,
                start_period_ns: interval(arguments, "start-period")?,
                start_interval_ns: interval(arguments, "start-interval")?,
                retries: retries(arguments)?,
            })
        }
        other => {
            let message = format!("Unknown type {other:?} in HEALTHCHECK (try CMD)");
            arguments.report(Diagnostic::at(kind.word().span, message).label("expected CMD or NONE"))
        }
    }
}

/// A duration in nanoseconds; 0, which means the default, when the flag is not given.
fn interval(arguments: &mut Arguments<'_, '_>, flag: &str) -> Option<i64> {
    const MIN_NS: i64 = 1_000_000;
    let Some(word) = arguments.flags.value(flag).filter(|word| !word.text.is_empty()) else { return Some(0) };
    match duration::parse(&word.text) {
        Some(ns) if ns == 0 || ns >= MIN_NS => Some(ns),
        Some(_) => {
            arguments.report(Diagnostic::at(word.span, format!("Interval {flag:?} cannot be less than 1ms")))
        }
        None => {
            let message = format!("invalid duration {:?} for --{flag}", word.text);
            arguments.report(Diagnostic::at(word.span, message).label("expected a duration such as 1m30s"))
        }
    }
}

fn retries(arguments: &mut Arguments<'_, '_>) -> Option<i64> {
    let Some(word) = arguments.flags.value("retries").filter(|word| !word.text.is_empty()) else {
        return Some(0);
    };
    match word.text.parse::<i32>() {
        Ok(retries) if retries < 0 => {
            arguments.report(Diagnostic::at(word.span, format!("--retries cannot be negative ({retries})")))
        }
        Ok(retries) => Some(i64::from(retries)),
        Err(_) => {
            let message = format!("invalid number {:?} for --retries", word.text);
            arguments.report(Diagnostic::at(word.span, message).label("expected a whole number"))
        }
    }
}
