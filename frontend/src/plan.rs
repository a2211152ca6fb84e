//! From text and options to a graph, asking for images on the way.

use std::collections::{BTreeSet, HashMap};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::instruction::Dockerfile;
use crate::lint::{self, CheckConfig, LintReport, Linter, Rule, Warning};
use crate::lower::Lowering;
use crate::options::{ImageRequest, Options, Plan, ResolvedImage};
use crate::outline::{self, Outline};
use crate::parse::parse;
use crate::resolve::{Resolver, Stages};
use crate::source::Source;

/// Turns a Dockerfile into the steps that the target needs.
///
/// When configurations of images are needed first, the answer is [`Plan::NeedImages`]; the caller finds them and calls
/// again with all that it was asked for so far. Fails with every error of the file.
///
/// ```
/// use std::collections::HashMap;
/// use lithify_frontend::{Options, Plan, Source, plan};
///
/// let source = Source::new("Dockerfile", "FROM scratch\nCOPY hello /\nCMD [\"/hello\"]\n");
/// let Ok(Plan::Graph { graph, .. }) = plan(&source, &Options::default(), &HashMap::new()) else { panic!() };
/// assert_eq!(graph.steps.len(), 2);
/// assert_eq!(graph.target.config.config.cmd, Some(vec!["/hello".to_owned()]));
/// ```
pub fn plan(
    source: &Source,
    options: &Options,
    images: &HashMap<ImageRequest, ResolvedImage>,
) -> Result<Plan, Diagnostics> {
    let (dockerfile, mut errors) = parse(source);
    let mut linter = Linter::new(check_config(&dockerfile, options, &mut errors));
    if source.text.is_empty() || dockerfile.instructions.is_empty() {
        return Err(Diagnostics(errors));
    }
    let mut resolver = Resolver::new(&dockerfile, options, images);
    let stages = resolver.stages(false, &mut linter);
    let Some(stages) = settle(&mut resolver, stages, &mut errors) else { return Err(in_order(errors)) };
    if !resolver.missing.is_empty() {
        return Ok(Plan::NeedImages(resolver.missing));
    }
    let mut lowering = Lowering::new(&resolver, &stages, &mut linter);
    let graph = lowering.graph();
    errors.append(&mut lowering.problems);
    errors.extend(linter.error());
    match graph.filter(|_| errors.is_empty()) {
        Some(graph) => {
            lint::notes(&mut linter, &dockerfile, options);
            let mut warnings = linter.warnings;
            warnings.sort_by_key(|warning| warning.lines.0);
            warnings.extend(syntax_note(source, &dockerfile));
            Ok(Plan::Graph { graph, warnings })
        }
        None => Err(in_order(errors)),
    }
}

/// Runs the rules: the images that are missing, or a report when anything was found.
pub(crate) fn check(
    source: &Source,
    options: &Options,
    images: &HashMap<ImageRequest, ResolvedImage>,
) -> Result<BTreeSet<ImageRequest>, LintReport> {
    let (dockerfile, mut errors) = parse(source);
    let mut linter = Linter::new(check_config(&dockerfile, options, &mut errors));
    let every_stage = options.target.as_deref().is_none_or(str::is_empty);
    let mut resolver = Resolver::new(&dockerfile, options, images);
    if !dockerfile.instructions.is_empty() {
        let stages = resolver.stages(every_stage, &mut linter);
        if let Some(stages) = settle(&mut resolver, stages, &mut errors) {
            if !resolver.missing.is_empty() {
                return Ok(resolver.missing);
            }
            let mut lowering = Lowering::new(&resolver, &stages, &mut linter);
            lowering.graph();
            errors.append(&mut lowering.problems);
        }
    }
    lint::notes(&mut linter, &dockerfile, options);
    let error_on_warnings = linter.is_error();
    Err(LintReport::new(source, linter.warnings, in_order(errors).0, error_on_warnings))
}

/// The outline of the target, or the images that are missing.
pub(crate) fn with_outline(
    source: &Source,
    options: &Options,
    images: &HashMap<ImageRequest, ResolvedImage>,
) -> Result<Result<Outline, BTreeSet<ImageRequest>>, Diagnostics> {
    let (dockerfile, mut errors) = parse(source);
    let mut linter = Linter::new(CheckConfig::default());
    let mut resolver = Resolver::new(&dockerfile, options, images);
    let stages = match dockerfile.instructions.is_empty() {
        true => None,
        false => resolver.stages(false, &mut linter),
    };
    let Some(stages) = settle(&mut resolver, stages, &mut errors) else { return Err(in_order(errors)) };
    if !resolver.missing.is_empty() {
        return Ok(Err(resolver.missing));
    }
    let mut lowering = Lowering::new(&resolver, &stages, &mut linter);
    lowering.graph();
    match lowering.problems.is_empty() {
        true => Ok(Ok(outline::assemble(source, &stages, lowering.collected))),
        false => Err(in_order(lowering.problems)),
    }
}

/// The stages if there are no errors so far. Errors that show without the missing images are found now, so that nothing
/// is downloaded for a file that cannot be built, and all errors are told at once.
fn settle<'a>(
    resolver: &mut Resolver<'a>,
    stages: Option<Stages<'a>>,
    errors: &mut Vec<Diagnostic>,
) -> Option<Stages<'a>> {
    errors.append(&mut resolver.problems);
    if !resolver.missing.is_empty() || !errors.is_empty() {
        errors.extend(stages.iter().flat_map(|stages| Lowering::early_errors(resolver, stages)));
    }
    stages.filter(|_| errors.is_empty())
}

/// `BUILDKIT_DOCKERFILE_CHECK`, or else the directive.
fn check_config(dockerfile: &Dockerfile, options: &Options, errors: &mut Vec<Diagnostic>) -> CheckConfig {
    if let Some(given) = options.build_arg("BUILDKIT_DOCKERFILE_CHECK") {
        return CheckConfig::parse(given).unwrap_or_else(|problem| {
            errors.push(Diagnostic::general(format!("BUILDKIT_DOCKERFILE_CHECK: {problem}")));
            CheckConfig::default()
        });
    }
    let directive = dockerfile.directives.iter().find(|directive| directive.name == "check");
    let Some(directive) = directive else { return CheckConfig::default() };
    CheckConfig::parse(&directive.value.text).unwrap_or_else(|problem| {
        errors.push(Diagnostic::at(directive.value.span, problem.to_string()));
        CheckConfig::default()
    })
}

/// A note when `# syntax=` names something other than Docker's frontend, whose language is built in.
fn syntax_note(source: &Source, dockerfile: &Dockerfile) -> Option<Warning> {
    let directive = dockerfile.directives.iter().find(|directive| directive.name == "syntax")?;
    let image = directive.value.text.split(' ').next().unwrap_or_default();
    let name = image.parse::<lithify_oci::Reference>().ok();
    let is_docker = name.as_ref().is_some_and(|name| {
        name.registry() == "docker.io"
            && matches!(name.repository(), "docker/dockerfile" | "docker/dockerfile-upstream")
    });
    if is_docker || image == "dockerfile.v0" {
        return None;
    }
    let message =
        format!("the frontend {image} is not used: the Dockerfile is read by the built-in language");
    let lines = source.lines(directive.span);
    Some(Warning { rule: Rule::SyntaxIgnored, message, span: directive.span, lines })
}

/// Errors in the order of the file, those without a place last; each once.
fn in_order(mut errors: Vec<Diagnostic>) -> Diagnostics {
    errors.sort_by_key(|error| error.span.map_or(usize::MAX, |span| span.start));
    errors.dedup();
    Diagnostics(errors)
}
