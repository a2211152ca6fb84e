//! `lithify build --call`: a build, or a question about the Dockerfile.

use std::collections::HashMap;
use std::path::Path;

use lithify_cache::Store;
use lithify_engine::Cancel;
use lithify_frontend::PlanOutline;

use super::build::dockerfile_problem;
use super::{build, check, dockerfile};
use crate::access::Access;
use crate::args::{self, CheckFormat, Pull};
use crate::config::Config;
use crate::downloads::Outside;
use crate::exit::Problem;
use crate::inputs::{self, wrong};
use crate::network::Connection;
use crate::signals;
use crate::sources::{Provider, store_problem};

/// What `--call` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Build,
    Check(CheckFormat),
    Outline(Shown),
    Targets(Shown),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Text,
    Json,
}

pub(super) fn run(arguments: &args::Build, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let call = match (parse(&arguments.call)?, arguments.check) {
        (Call::Build, true) => Call::Check(CheckFormat::Text),
        (call, _) => call,
    };
    match call {
        Call::Build => build::run(arguments, config, root),
        Call::Check(format) => check::run(&arguments.dockerfile, format, config, root),
        Call::Outline(shown) => outline(&arguments.dockerfile, shown, config, root),
        Call::Targets(shown) => targets(&arguments.dockerfile, shown, config, root),
    }
}

fn parse(text: &str) -> Result<Call, Problem> {
    let expected = "expected build, check, outline or targets, and format=text or format=json";
    let (what, options) = text.split_once(',').unwrap_or((text, ""));
    let format = match options {
        "" | "format=text" => Shown::Text,
        "format=json" => Shown::Json,
        "format=sarif" if matches!(what, "check" | "lint") => return Ok(Call::Check(CheckFormat::Sarif)),
        _ => return Err(wrong("--call", text, expected)),
    };
    match (what, format) {
        ("" | "build", _) => Ok(Call::Build),
        // BuildKit's own name for it is lint.
        ("check" | "lint", Shown::Text) => Ok(Call::Check(CheckFormat::Text)),
        ("check" | "lint", Shown::Json) => Ok(Call::Check(CheckFormat::Json)),
        ("outline", shown) => Ok(Call::Outline(shown)),
        ("targets", shown) => Ok(Call::Targets(shown)),
        _ => Err(wrong("--call", text, expected)),
    }
}

fn outline(
    arguments: &args::Dockerfile,
    shown: Shown,
    config: &Config,
    root: Option<&Path>,
) -> Result<(), Problem> {
    let named = inputs::named_contexts(&arguments.build_context)?;
    let options = inputs::options(arguments, &named)?;
    signals::cancel_on_signals(&Cancel::default());
    let store = Store::open(&config.store_root(root)?).map_err(store_problem)?;
    let outside = Outside::new(&store, Connection::new(config, config.offline), Access::default());
    let read = dockerfile::read(arguments, &outside)?;
    let provider = Provider::new(&outside, config.pull.unwrap_or(Pull::Missing), read.context, named);
    let mut images = HashMap::new();
    let outline = loop {
        let planned = lithify_frontend::outline(&read.text, &options, &images);
        match planned.map_err(|wrong| dockerfile_problem(&read.text, &wrong))? {
            PlanOutline::Outline(outline) => break outline,
            PlanOutline::NeedImages(requests) => {
                for request in requests {
                    let image = provider.resolve(&request)?;
                    images.insert(request, image);
                }
            }
        }
    };
    match shown {
        Shown::Text => print!("{}", outline.to_text()),
        Shown::Json => println!("{:#}", outline.to_json()),
    }
    Ok(())
}

fn targets(
    arguments: &args::Dockerfile,
    shown: Shown,
    config: &Config,
    root: Option<&Path>,
) -> Result<(), Problem> {
    signals::cancel_on_signals(&Cancel::default());
    let store = Store::open(&config.store_root(root)?).map_err(store_problem)?;
    let outside = Outside::new(&store, Connection::new(config, config.offline), Access::default());
    let read = dockerfile::read(arguments, &outside)?;
    let targets =
        lithify_frontend::targets(&read.text).map_err(|wrong| dockerfile_problem(&read.text, &wrong))?;
    match shown {
        Shown::Text => print!("{}", targets.to_text()),
        Shown::Json => println!("{:#}", targets.to_json()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let check = |text: &str, expected: Option<Call>| assert_eq!(parse(text).ok(), expected, "{text}");
        check("build", Some(Call::Build));
        check("check", Some(Call::Check(CheckFormat::Text)));
        check("check,format=json", Some(Call::Check(CheckFormat::Json)));
        check("outline", Some(Call::Outline(Shown::Text)));
        check("targets,format=json", Some(Call::Targets(Shown::Json)));
        check("targets,format=sarif", None);
        check("else", None);
    }
}
