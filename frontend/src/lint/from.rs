//! Rules about FROM and about the file as a whole.

use lithify_oci::{Platform, Reference};

use crate::expand::{Expanded, Lexer, Lookup};
use crate::globals::{self, Globals};
use crate::instruction::{Dockerfile, Instruction, Kind, Stage};
use crate::lint::{Linter, Rule};
use crate::source::Word;
use crate::suggest;
use crate::variables::Variables;

/// The rules that need no values: casing, names, comments, defaults.
pub(crate) fn stages(
    linter: &mut Linter,
    dockerfile: &Dockerfile,
    stages: &[Stage<'_>],
    automatic: Variables,
) {
    for instruction in &dockerfile.instructions {
        if instruction.has_blank_continuation {
            linter.report(Rule::NoEmptyContinuation, instruction, "Empty continuation line".into());
        }
        match &instruction.kind {
            Kind::Maintainer(_) => {
                let message = "Maintainer instruction is deprecated in favor of using label";
                linter.report(Rule::MaintainerDeprecated, instruction, message.into());
            }
            Kind::From(from) => {
                stage_name_casing(linter, instruction, from.written_name.as_deref());
                as_casing(linter, instruction, from.as_keyword.as_ref());
                let names: Vec<&str> = from.name.iter().map(|name| name.text.as_str()).collect();
                definition_comment(linter, instruction, "FROM", &names);
            }
            Kind::Arg(definitions) => {
                let names: Vec<&str> = definitions.iter().map(|it| it.name.text.as_str()).collect();
                definition_comment(linter, instruction, "ARG", &names);
            }
            _ => {}
        }
    }
    stage_names(linter, stages);
    keyword_casing(linter, dockerfile);
    default_images(linter, dockerfile, stages, automatic);
}

fn stage_name_casing(linter: &mut Linter, instruction: &Instruction, name: Option<&str>) {
    let Some(name) = name.filter(|name| *name != name.to_lowercase()) else { return };
    linter.report(Rule::StageNameCasing, instruction, format!("Stage name '{name}' should be lowercase"));
}

fn as_casing(linter: &mut Linter, instruction: &Instruction, keyword: Option<&Word>) {
    let (from, Some(keyword)) = (&instruction.keyword.text, keyword) else { return };
    let wanted = match case(from) {
        Case::Lower => keyword.text.to_lowercase(),
        Case::Upper => keyword.text.to_uppercase(),
        Case::Mixed => return,
    };
    if keyword.text != wanted {
        let message = format!("'{}' and '{from}' keywords' casing do not match", keyword.text);
        linter.report(Rule::FromAsCasing, instruction, message);
    }
}

fn definition_comment(linter: &mut Linter, instruction: &Instruction, keyword: &str, names: &[&str]) {
    let (Some(comment), Some(first)) = (instruction.comments.last(), names.first()) else { return };
    let word = comment.split(' ').next().unwrap_or_default();
    if names.contains(&word) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { first };
    let message = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    linter.report(Rule::InvalidDefinitionDescription, instruction, message);
}

fn stage_names(linter: &mut Linter, stages: &[Stage<'_>]) {
    let mut seen = std::collections::HashSet::new();
    for stage in stages {
        let Some(name) = stage.name() else { continue };
        if matches!(name, "context" | "scratch") {
            let message = format!("Stage name should not use the same name as reserved stage {name:?}");
            linter.report(Rule::ReservedStageName, stage.instruction, message);
        }
        if !seen.insert(name) {
            let message = format!("Duplicate stage name {name:?}, stage names should be unique");
            linter.report(Rule::DuplicateStageName, stage.instruction, message);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
    Mixed,
}

fn case(keyword: &str) -> Case {
    match keyword {
        word if word == word.to_lowercase() => Case::Lower,
        word if word == word.to_uppercase() => Case::Upper,
        _ => Case::Mixed,
    }
}

/// Keywords in the case of the majority; ARG instructions in front of the first FROM do not count.
fn keyword_casing(linter: &mut Linter, dockerfile: &Dockerfile) {
    let counted = || dockerfile.instructions.iter().skip_while(|it| !it.is_from());
    let count = |wanted: Case| counted().filter(|it| case(&it.keyword.text) == wanted).count();
    let (wanted, name) = if count(Case::Lower) > count(Case::Upper) {
        (Case::Lower, "lowercase")
    } else {
        (Case::Upper, "uppercase")
    };
    for instruction in counted() {
        let keyword = &instruction.keyword.text;
        if case(keyword) != wanted {
            let message =
                format!("Command '{keyword}' should match the case of the command majority ({name})");
            linter.report(Rule::ConsistentInstructionCasing, instruction, message);
        }
    }
}

/// FROM must name an image even if no argument is given.
fn default_images(linter: &mut Linter, dockerfile: &Dockerfile, stages: &[Stage<'_>], automatic: Variables) {
    let mut errors = vec![];
    let defaults = globals::globals(dockerfile, automatic, |_| None, &mut errors);
    if !errors.is_empty() {
        return;
    }
    let lexer = Lexer::new(dockerfile.escape);
    for stage in stages {
        let image = &stage.from.image.text;
        let Ok(name) = lexer.text(image, &defaults.variables) else { return };
        if name.parse::<Reference>().is_err() {
            let message =
                format!("Default value for ARG {image} results in empty or invalid base image name");
            linter.report(Rule::InvalidDefaultArgInFrom, stage.instruction, message);
        }
    }
}

/// FROM uses a variable that no global ARG declares.
pub(crate) fn undefined(
    linter: &mut Linter,
    instruction: &Instruction,
    unmatched: &[String],
    globals: &Globals,
) {
    for name in unmatched.iter().filter(|name| !globals.declared.contains_key(*name)) {
        let known = globals.variables.names().chain(globals.declared.keys().map(String::as_str));
        let mut message = format!("FROM argument '{name}' is not declared");
        if let Some(near) = suggest::nearest(name, known) {
            message += &format!(" (did you mean {near}?)");
        }
        linter.report(Rule::UndefinedArgInFrom, instruction, message);
    }
}

/// The rules about `--platform`.
pub(crate) fn platform(
    linter: &mut Linter,
    stage: &Stage<'_>,
    word: &Word,
    expanded: &Expanded,
    globals: &Globals,
) {
    undefined(linter, stage.instruction, &expanded.unmatched, globals);
    let only_target = expanded.unmatched.is_empty() && expanded.matched == ["TARGETPLATFORM"];
    if only_target && globals.variables.get("TARGETPLATFORM") == Some(&expanded.text) {
        let message = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            word.text
        );
        linter.report(Rule::RedundantTargetPlatform, stage.instruction, message);
    }
    if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
        return;
    }
    let Ok(platform) = expanded.text.parse::<Platform>() else { return };
    let name = stage.name().unwrap_or_default();
    if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
        let message = format!("FROM --platform flag should not use constant value {:?}", expanded.text);
        linter.report(Rule::FromPlatformFlagConstDisallowed, stage.instruction, message);
    }
}
