//! Texts and answers of every kind through all that the crate does: parsing, linting, planning, outlines, rendering.
//!
//! The input is a recorded case as in `testdata/conformance/cases`: `args:` lines, then files behind `-- name --` lines.
//! `Dockerfile` is the text; `image.json`, if there is one, is the configuration of every image that the text asks for.
//! Beside panics and time this finds text that is skipped silently, places outside of the file, graphs whose steps need
//! later ones, and plans that differ when made twice.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use lithify_frontend::{
    Check, Dockerfile, NamedContext, Options, Plan, PlanOutline, ResolvedImage, Source, lint, outline, parse,
    plan, render, targets,
};
use lithify_graph::Span;
use lithify_oci::{Digest, ImageConfig, Platform};

/// The configuration of images when the input has none.
const SCRATCH: &str = r#"{
    "architecture": "amd64", "os": "linux", "config": { "Env": ["PATH=/bin", "A=b"], "OnBuild": ["RUN a $A"] },
    "rootfs": { "type": "layers", "diff_ids": [] }
}"#;

fuzz_target!(|input: &[u8]| {
    let case = read_case(input);
    let source = Source::new("Dockerfile", case.dockerfile);
    let (dockerfile, errors) = parse(&source);
    nothing_is_skipped(&source, &dockerfile);
    for error in &errors {
        inside(&source, error.span);
        render(&source, error, true);
    }
    let mut images = HashMap::new();
    let first = planned(&source, &case.options, &case.image, &mut images);
    let again = planned(&source, &case.options, &case.image, &mut images.clone());
    assert_eq!(first, again, "two plans of one text differ");
    assert!(errors.is_empty() || first.is_err(), "a text with errors was planned");
    if let Check::Report(report) = lint(&source, &case.options, &images) {
        for warning in &report.warnings {
            inside(&source, Some(warning.span));
            assert!(warning.lines.0 <= warning.lines.1, "{warning:?}");
        }
        report.to_json();
        report.to_sarif("0");
    }
    if let Ok(PlanOutline::Outline(outline)) = outline(&source, &case.options, &images) {
        outline.to_json();
        outline.to_text();
    }
    if let Ok(targets) = targets(&source) {
        targets.to_json();
        targets.to_text();
    }
});

/// Plans to the end, and checks what comes out; the answer is something to compare.
fn planned(
    source: &Source,
    options: &Options,
    image: &ImageConfig,
    images: &mut HashMap<lithify_frontend::ImageRequest, ResolvedImage>,
) -> Result<String, String> {
    loop {
        match plan(source, options, images) {
            Err(errors) => {
                assert!(!errors.0.is_empty(), "it failed without an error");
                for error in &errors.0 {
                    inside(source, error.span);
                    render(source, error, false);
                }
                return Err(errors.to_string());
            }
            Ok(Plan::NeedImages(missing)) => {
                assert!(!missing.is_empty(), "no image is missing, yet there is no plan");
                for request in missing {
                    let manifest = Digest::of(request.name.as_bytes());
                    let resolved = ResolvedImage { manifest, config: image.clone() };
                    assert!(images.insert(request, resolved).is_none(), "asked twice for one image");
                }
            }
            Ok(Plan::Graph { graph, warnings }) => {
                for (number, step) in graph.steps.iter().enumerate() {
                    inside(source, step.span);
                    let earlier = step.op.inputs().iter().all(|input| (input.0 as usize) < number);
                    assert!(earlier, "step {number} needs a later one");
                }
                return Ok(format!("{graph:?}{warnings:?}"));
            }
        }
    }
}

fn inside(source: &Source, span: Option<Span>) {
    let Some(span) = span else { return };
    assert!(span.start <= span.end && span.end <= source.text.len(), "{span:?} in {}", source.text.len());
}

/// What stands outside of all instructions is blank or a comment: each line of it, read in the simplest way.
fn nothing_is_skipped(source: &Source, dockerfile: &Dockerfile) {
    let mut outside = source.text.clone();
    let mut end = 0;
    for instruction in &dockerfile.instructions {
        let span = instruction.span;
        inside(source, Some(span));
        assert!(span.start >= end, "instructions overlap at {}", span.start);
        outside[span.start..span.end].fill(b' ');
        end = span.end;
    }
    let outside = outside.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&outside);
    for line in outside.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        // A line that holds nothing but an escape character continues nothing.
        let line = line.trim();
        let is_blank =
            line.is_empty() || line.starts_with('#') || line.chars().all(|c| c == dockerfile.escape);
        assert!(is_blank, "this was skipped: {line:?}");
    }
}

struct Case {
    options: Options,
    image: ImageConfig,
    dockerfile: Vec<u8>,
}

fn read_case(input: &[u8]) -> Case {
    let mut case = Case {
        options: Options::default(),
        image: serde_json::from_str(SCRATCH).expect("a configuration"),
        dockerfile: vec![],
    };
    let mut args = vec![];
    let mut files: Vec<(Vec<u8>, Vec<u8>)> = vec![];
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let text = line.trim_ascii_end();
        if let Some(name) = text.strip_prefix(b"-- ").and_then(|rest| rest.strip_suffix(b" --")) {
            files.push((name.to_vec(), vec![]));
        } else if let Some((_, content)) = files.last_mut() {
            content.extend_from_slice(line);
        } else if let Some(rest) = text.strip_prefix(b"args:") {
            args.extend(String::from_utf8_lossy(rest).split_whitespace().map(|word| word.replace('\'', "")));
        }
    }
    for (name, content) in files {
        match &name[..] {
            b"Dockerfile" => case.dockerfile = content,
            b"image.json" => {
                if let Ok(image) = serde_json::from_slice(&content) {
                    case.image = image;
                }
            }
            _ => {}
        }
    }
    if case.dockerfile.is_empty() {
        case.dockerfile = input.to_vec();
    }
    arguments(&mut case.options, &args);
    case
}

fn arguments(options: &mut Options, args: &[String]) {
    for pair in args.windows(2) {
        let [flag, value] = pair else { continue };
        let (key, rest) = value.split_once('=').unwrap_or((value, ""));
        match flag.as_str() {
            "--target" => options.target = Some(value.clone()),
            "--build-arg" => options.build_args.push((key.into(), rest.into())),
            "--label" => options.labels.push((key.into(), rest.into())),
            "--platform" => {
                options.target_platform = value.parse().unwrap_or(Platform::new("linux", "arm64"))
            }
            "--build-context" => {
                let context = match rest.split_once("://") {
                    Some(("oci-layout", _)) => NamedContext::Layout,
                    Some(("docker-image", _)) => NamedContext::Image,
                    _ => NamedContext::Folder,
                };
                options.contexts.insert(key.into(), context);
            }
            _ => {}
        }
    }
}
