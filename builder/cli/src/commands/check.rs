//! `lithify check` and `lithify build --check`

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use lithify_cache::Store;
use lithify_engine::Cancel;
use lithify_frontend::{Check, Ignored, LintReport, Options, ResolvedImage, Source as Text, lint};
use lithify_oci::{Digest, ImageConfig};

use super::dockerfile;
use crate::access::Access;
use crate::args::{self, CheckFormat, Pull};
use crate::config::Config;
use crate::downloads::Outside;
use crate::exit::{self, Problem};
use crate::inputs;
use crate::network::Connection;
use crate::render::{self, say};
use crate::signals;
use crate::sources::{MainContext, Provider, store_problem};

pub(super) fn run(
    arguments: &args::Dockerfile,
    format: CheckFormat,
    config: &Config,
    root: Option<&Path>,
) -> Result<(), Problem> {
    let named = inputs::named_contexts(&arguments.build_context)?;
    let mut options = inputs::options(arguments, &named)?;
    signals::cancel_on_signals(&Cancel::default());
    let store = Store::open(&config.store_root(root)?).map_err(store_problem)?;
    let outside = Outside::new(&store, Connection::new(config, config.offline), Access::default());
    let read = dockerfile::read(arguments, &outside)?;
    if let MainContext::Folder { ignore, .. } = &read.context {
        let ignore = ignore.clone();
        options.ignored = Some(Ignored(Arc::new(move |path| ignore.is_ignored(path.as_bytes()))));
    }
    let pull = config.pull.unwrap_or(Pull::Missing);
    let provider = Provider::new(&outside, pull, read.context, named);
    let report = check(&read.text, &options, &provider);
    match format {
        CheckFormat::Json => println!("{:#}", report.to_json()),
        CheckFormat::Sarif => println!("{:#}", report.to_sarif(env!("CARGO_PKG_VERSION"))),
        CheckFormat::Text => show(&read.text, &report),
    }
    if report.is_clean() {
        return Ok(());
    }
    let (errors, warnings) = (report.errors.len(), report.warnings.len());
    Err(Problem::new(exit::STEP, format_args!("the check found {errors} error(s) and {warnings} warning(s)")))
}

/// Runs the rules. A base image that cannot be had is taken for an empty one: a check must not need a network.
fn check(text: &Text, options: &Options, provider: &Provider<'_>) -> LintReport {
    let mut images = HashMap::new();
    loop {
        match lint(text, options, &images) {
            Check::Report(report) => return report,
            Check::NeedImages(requests) => {
                for request in requests {
                    let image = provider.resolve(&request).unwrap_or_else(|_| ResolvedImage {
                        manifest: Digest::of(&request.name),
                        config: ImageConfig {
                            os: request.platform.os.clone(),
                            architecture: request.platform.architecture.clone(),
                            variant: request.platform.variant.clone(),
                            ..ImageConfig::default()
                        },
                    });
                    images.insert(request, image);
                }
            }
        }
    }
}

fn show(text: &Text, report: &LintReport) {
    for error in &report.errors {
        say(lithify_frontend::render(text, error, render::colour()));
    }
    for warning in &report.warnings {
        say(warning);
    }
    if report.is_clean() {
        say("no problems found");
    }
}
