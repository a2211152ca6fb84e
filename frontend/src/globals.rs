//! The arguments in front of the first FROM, and those that every build has.

use std::collections::BTreeMap;

use crate::diagnostic::Diagnostic;
use crate::expand::Lexer;
use crate::expand::Lookup;
use crate::instruction::{Dockerfile, Kind};
use crate::options::Options;
use crate::place;
use crate::variables::Variables;

/// What a global ARG says, for the outline.
#[derive(Clone, Debug)]
pub(crate) struct GlobalArg {
    pub(crate) value: String,
    pub(crate) description: Option<String>,
    pub(crate) lines: (usize, usize),
    /// The arguments that its default uses.
    pub(crate) uses: Vec<String>,
}

/// The global scope.
#[derive(Clone, Debug, Default)]
pub(crate) struct Globals {
    /// Automatic and declared arguments that have a value.
    pub(crate) variables: Variables,
    /// The declared ones.
    pub(crate) declared: BTreeMap<String, GlobalArg>,
}

/// The arguments that exist without an ARG; any can be given by `--build-arg`.
pub(crate) fn automatic(options: &Options, last_stage: Option<&str>) -> Variables {
    let (build, target) = (&options.build_platform, &options.target_platform);
    let stage = options.target.as_deref().filter(|name| !name.is_empty()).or(last_stage).unwrap_or("default");
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let without_version = lithify_oci::Platform { os_version: None, ..build.clone() };
    let values = [
        ("BUILDPLATFORM", without_version.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", text(&build.os_version)),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", text(&build.variant)),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", text(&target.os_version)),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", text(&target.variant)),
        ("TARGETSTAGE", stage.to_owned()),
    ];
    let mut variables = Variables::default();
    for (name, value) in values {
        variables.set(name, options.build_arg(name).unwrap_or(&value));
    }
    variables
}

/// The global scope: `start` and what the ARG instructions in front of the first FROM add, with values given by
/// `build_arg`.
pub(crate) fn globals<'a>(
    dockerfile: &Dockerfile,
    start: Variables,
    build_arg: impl Fn(&str) -> Option<&'a str>,
    problems: &mut Vec<Diagnostic>,
) -> Globals {
    let lexer = Lexer::new(dockerfile.escape);
    let mut globals = Globals { variables: start, declared: BTreeMap::new() };
    for instruction in dockerfile.global_args() {
        let Kind::Arg(definitions) = &instruction.kind else { continue };
        for definition in definitions {
            let name = &definition.name.text;
            let mut uses = vec![];
            let value = match (build_arg(name), &definition.value) {
                (Some(given), _) => Some(given.to_owned()),
                (None, None) => None,
                (None, Some(default)) => match lexer.expand(&default.text, &globals.variables) {
                    Ok(expanded) => {
                        uses = expanded.matched;
                        Some(expanded.text)
                    }
                    Err(error) => {
                        problems.push(place::error(default, &error));
                        continue;
                    }
                },
            };
            if let Some(value) = &value {
                globals.variables.set(name, value);
            }
            let arg = GlobalArg {
                value: globals.variables.get(name).unwrap_or_default().to_owned(),
                description: definition.description.clone(),
                lines: instruction.lines,
                uses,
            };
            globals.declared.insert(name.clone(), arg);
        }
    }
    globals
}
