//! Commands: RUN, CMD, ENTRYPOINT and SHELL, in shell form or as JSON arrays.

use lithify_graph::{Network, Security};

use crate::csv;
use crate::diagnostic::Diagnostic;
use crate::instruction::{CommandLine, Run};
use crate::parse::keyword::Arguments;

/// What a text is as JSON.
pub(crate) enum Json {
    /// An array of strings.
    Strings(Vec<String>),
    /// An array of other things.
    OtherArray,
    /// Not an array, or not JSON.
    No,
}

/// Tries a text as a JSON array.
pub(crate) fn json(text: &str) -> Json {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Json::No;
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Json::No };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    });
    strings.collect::<Option<Vec<String>>>().map_or(Json::OtherArray, Json::Strings)
}

/// Reports a JSON array with members that are not strings.
pub(crate) fn not_strings<T>(arguments: &mut Arguments<'_, '_>) -> Option<T> {
    let span = arguments.rest.word().span;
    let message = "when using JSON array syntax, arrays must be comprised of strings only";
    arguments.report(Diagnostic::at(span, message).help("put each element in double quotes"))
}

/// A command in shell or JSON form.
pub(crate) fn command(arguments: &mut Arguments<'_, '_>) -> Option<CommandLine> {
    let (words, json) = match json(arguments.rest.text()) {
        Json::Strings(words) => (words, true),
        Json::OtherArray => return not_strings(arguments),
        Json::No if arguments.rest.is_empty() => (vec![], false),
        Json::No => (vec![arguments.rest.text().to_owned()], false),
    };
    Some(CommandLine { words, json, span: arguments.rest.word().span })
}

/// SHELL: a JSON array that is not empty.
pub(crate) fn shell(arguments: &mut Arguments<'_, '_>) -> Option<Vec<String>> {
    let command = command(arguments)?;
    match (command.words.is_empty(), command.json) {
        (true, _) => arguments.fail("SHELL requires at least one argument"),
        (false, true) => Some(command.words),
        (false, false) => {
            let message =
                format!("SHELL requires the arguments to be in JSON form, not: {}", arguments.rest.text());
            let span = arguments.rest.word().span;
            arguments
                .report(Diagnostic::at(span, message).help("write SHELL [\"executable\", \"parameters\"]"))
        }
    }
}

/// RUN.
pub(crate) fn run(arguments: &mut Arguments<'_, '_>) -> Option<Run> {
    let command = command(arguments)?;
    if command.json && command.words.is_empty() {
        return arguments.fail("RUN requires a command: the JSON array is empty");
    }
    let mounts = arguments.flags.values("mount");
    for mount in &mounts {
        if let Err(problem) = check_from(&mount.text) {
            arguments.problems.push(Diagnostic::at(mount.span, problem));
        }
    }
    let network = match arguments.flags.value("network") {
        None => Network::Default,
        Some(word) => match word.text.as_str() {
            "default" => Network::Default,
            "none" => Network::None,
            "host" => Network::Host,
            other => {
                let diagnostic = Diagnostic::at(word.span, format!("invalid network mode {other:?}"));
                let diagnostic = diagnostic.label("expected default, none or host");
                return arguments.report(diagnostic.suggest(other, ["default", "none", "host"]));
            }
        },
    };
    let security = match arguments.flags.value("security") {
        None => Security::Sandbox,
        Some(word) => match word.text.as_str() {
            "sandbox" => Security::Sandbox,
            "insecure" => Security::Insecure,
            other => {
                let diagnostic = Diagnostic::at(word.span, format!("security {other:?} is not valid"));
                let diagnostic = diagnostic.label("expected sandbox or insecure");
                return arguments.report(diagnostic.suggest(other, ["sandbox", "insecure"]));
            }
        },
    };
    let heredocs = arguments.request.heredocs.to_vec();
    Some(Run { command, heredocs, mounts, network, security })
}

/// `from` of a mount is the only key in which nothing is expanded.
fn check_from(mount: &str) -> Result<(), String> {
    for field in csv::fields(mount)? {
        let Some((key, value)) = field.split_once('=') else { continue };
        let has_variable = value.find('$').is_some_and(|at| at + 1 < value.len());
        if key.eq_ignore_ascii_case("from") && has_variable {
            return Err("'from' doesn't support variable expansion, define alias stage instead".into());
        }
    }
    Ok(())
}
