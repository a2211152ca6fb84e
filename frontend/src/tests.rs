//! Tests of the whole: cases of one line each, and every conformance case.

mod conformance;
mod errors;
mod fuzz;
mod graphs;
mod lints;
mod outlines;
mod words;

use std::collections::{BTreeSet, HashMap};

use lithify_graph::Graph;
use lithify_oci::{Digest, ImageConfig};

use crate::{Diagnostics, ImageRequest, Options, Plan, ResolvedImage, Source, Warning, plan};

/// A configuration as busybox's.
fn busybox() -> ImageConfig {
    let text = r#"{
        "architecture": "amd64", "os": "linux", "created": "2023-11-14T22:13:20Z",
        "config": {
            "Cmd": ["sh"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:1059ff0ceffa78d25be1beef0bb687190e5bd22fd9b4bc0d3f6fe9a247326680"]
        },
        "history": [{ "created": "2023-11-14T22:13:20Z", "created_by": "base rootfs" }]
    }"#;
    serde_json::from_str(text).unwrap()
}

/// Plans with `base` as the configuration of every image.
fn plan_on(
    base: &ImageConfig,
    source: &Source,
    options: &Options,
) -> Result<(Graph, Vec<Warning>, BTreeSet<ImageRequest>), Diagnostics> {
    let mut images = HashMap::new();
    loop {
        match plan(source, options, &images)? {
            Plan::Graph { graph, warnings } => return Ok((graph, warnings, images.into_keys().collect())),
            Plan::NeedImages(missing) => {
                assert!(missing.iter().all(|request| !images.contains_key(request)), "asked twice");
                for request in missing {
                    let manifest = Digest::of(request.name.as_bytes());
                    images.insert(request, ResolvedImage { manifest, config: base.clone() });
                }
            }
        }
    }
}

/// Plans a text on busybox with no options.
fn graph(text: &str) -> Graph {
    match plan_on(&busybox(), &Source::new("Dockerfile", text), &Options::default()) {
        Ok((graph, _, _)) => graph,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

/// The errors of a text.
fn errors(text: &str, options: &Options) -> Vec<crate::Diagnostic> {
    match plan_on(&busybox(), &Source::new("Dockerfile", text), options) {
        Ok(_) => vec![],
        Err(errors) => errors.0,
    }
}
