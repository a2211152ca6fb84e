//! Every conformance case: the configuration that the graph promises against the one that BuildKit recorded.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{busybox, plan_on};
use crate::{NamedContext, Options, Source};

/// The parts of the configuration that the cases record.
const CONFIG: [&str; 12] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
];

/// Cases that fail when they run, not when they are planned.
const FAIL_LATER: [&str; 24] = [
    "chown-",
    "copy-dir-over-file",
    "copy-file-over-dir",
    "copy-missing-",
    "copy-src-",
    "copy-nested-",
    "copy-wildcard-",
    "error-run-exit",
    "error-user-unknown",
    "ignore-",
    "mount-secret-required",
    "mount-source-missing",
    "parents-missing",
    "run-",
    "heredoc-",
    "add-",
    "exclude-",
    "link-",
    "scratch-",
    "layer-",
    "volume-",
    "workdir-",
    "shell-missing",
    "copy-dest-",
];

struct Case {
    name: String,
    args: Vec<String>,
    fails: Option<String>,
    dockerfile: Vec<u8>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/conformance/cases")
}

#[expect(clippy::disallowed_methods, reason = "the tests read the recorded cases")]
fn cases() -> Vec<Case> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txtar"));
    paths.sort();
    paths.iter().map(|path| read_case(path)).collect()
}

#[expect(clippy::disallowed_methods, reason = "the tests read the recorded cases")]
fn read_case(path: &Path) -> Case {
    let bytes = std::fs::read(path).unwrap();
    let mut case = Case {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        args: vec![],
        fails: None,
        dockerfile: vec![],
    };
    let mut files: Vec<(String, Vec<u8>)> = vec![];
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\r', '\n']);
        if let Some(name) = text.strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --")) {
            files.push((name.to_owned(), vec![]));
        } else if let Some((_, content)) = files.last_mut() {
            content.extend_from_slice(line);
        } else if let Some(args) = text.strip_prefix("args:") {
            case.args.extend(split_args(args));
        } else if let Some(fails) = text.strip_prefix("fails:") {
            case.fails = Some(fails.trim().to_owned());
        }
    }
    let file = |name: &str| files.iter().find(|(known, _)| known == name).map(|(_, content)| content.clone());
    let given = case.args.iter().position(|arg| arg == "-f").map(|at| case.args[at + 1].clone());
    let content =
        given.as_deref().and_then(file).or_else(|| file("Dockerfile")).or_else(|| file("dockerfile"));
    case.dockerfile = content.unwrap_or_default();
    // What the setup scripts of three cases do to the Dockerfile.
    match case.name.as_str() {
        "parse-bom" => drop(case.dockerfile.splice(0..0, *b"\xef\xbb\xbf")),
        "parse-crlf" => {
            let text = String::from_utf8(case.dockerfile).unwrap();
            case.dockerfile = text.replace('\n', "\r\n").into_bytes();
        }
        "parse-no-final-newline" => drop(case.dockerfile.pop()),
        _ => {}
    }
    case
}

fn split_args(text: &str) -> Vec<String> {
    let mut words = vec![];
    let mut word = String::new();
    let mut quoted = false;
    for c in text.trim().chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words
}

fn options(case: &Case) -> Options {
    let mut options = Options::default();
    options.contexts.insert("busybox".into(), NamedContext::Layout);
    let mut args = case.args.iter();
    while let (Some(flag), Some(value)) = (args.next(), args.next()) {
        let pair = || value.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap();
        match flag.as_str() {
            "--build-arg" => options.build_args.push(pair()),
            "--label" => options.labels.push(pair()),
            "--target" => options.target = Some(value.clone()),
            "--build-context" => drop(options.contexts.insert(pair().0, NamedContext::Folder)),
            _ => {}
        }
    }
    options
}

#[expect(clippy::disallowed_methods, reason = "the tests read the recorded results")]
fn check(case: &Case) -> Result<(), String> {
    let source = Source::new("Dockerfile", case.dockerfile.clone());
    let planned = plan_on(&busybox(), &source, &options(case));
    let recorded: Value = {
        let text = std::fs::read_to_string(folder().join(format!("{}.json", case.name))).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    match (planned, &case.fails) {
        (Err(errors), None) => Err(format!("fails: {errors}")),
        (Err(errors), Some(text)) => match errors.to_string().to_lowercase().contains(&text.to_lowercase()) {
            true => Ok(()),
            false => Err(format!("the errors do not say {text:?}: {errors}")),
        },
        (Ok(_), Some(_)) if FAIL_LATER.iter().any(|prefix| case.name.starts_with(prefix)) => Ok(()),
        (Ok((_, _, images)), Some(text)) => {
            // A name that is no stage is asked for as an image, which is not there.
            match images.iter().any(|image| image.context.is_none() && image.name.contains(text)) {
                true => Ok(()),
                false => Err("does not fail".into()),
            }
        }
        (Ok((graph, _, _)), None) => {
            let steps = graph.target.history.iter().filter(|item| item.step.is_some()).count() as u64;
            if recorded["layers"] != steps {
                return Err(format!("layers: want {}, got {steps}", recorded["layers"]));
            }
            let config = serde_json::to_value(&graph.target.config.config).unwrap();
            for key in CONFIG {
                let is_empty = |value: &Value| match value {
                    Value::Array(list) => list.is_empty(),
                    Value::Object(map) => map.is_empty(),
                    Value::String(text) => text.is_empty(),
                    other => other.is_null(),
                };
                let (want, got) = (&recorded["config"][key], &config[key]);
                if want != got && !(is_empty(want) && is_empty(got)) {
                    return Err(format!("{key}: want {want}, got {got}"));
                }
            }
            Ok(())
        }
    }
}

#[test]
fn every_case_has_the_recorded_configuration() {
    let cases = cases();
    assert!(cases.len() > 300, "{} cases in {}", cases.len(), folder().display());
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| check(case).err().map(|problem| format!("{}: {problem}", case.name)))
        .collect();
    assert!(failed.is_empty(), "{} failed\n{}", failed.len(), failed.join("\n"));
}
