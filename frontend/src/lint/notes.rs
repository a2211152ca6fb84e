//! Notes: what BuildKit takes without a word although it does nothing, or fails later.

use crate::instruction::{Dockerfile, Instruction, Kind};
use crate::lint::{Linter, Rule};
use crate::options::{NamedContext, Options};
use crate::resolve::trigger;

/// Looks at every instruction of the file.
pub(crate) fn notes(linter: &mut Linter, dockerfile: &Dockerfile, options: &Options) {
    for instruction in &dockerfile.instructions {
        match &instruction.kind {
            Kind::Arg(_) | Kind::StopSignal(_) => ignored_flags(linter, instruction),
            Kind::Healthcheck(check) if check.test == ["NONE"] => ignored_flags(linter, instruction),
            Kind::Onbuild(text) => {
                if let Err(problem) = trigger(text) {
                    let message = format!("The trigger will fail when the image is built upon: {problem}");
                    linter.report(Rule::InvalidTrigger, instruction, message);
                }
            }
            Kind::From(from) => {
                let name = from.name.as_ref().map_or("", |name| name.text.as_str());
                if options.contexts.get(name) == Some(&NamedContext::Layout) {
                    let message = format!(
                        "The stage {name} is used, not the context: an oci-layout stands in for a registry, whose \
                         images a stage of the same name hides"
                    );
                    linter.report(Rule::ContextHidden, instruction, message);
                }
            }
            _ => {}
        }
    }
}

fn ignored_flags(linter: &mut Linter, instruction: &Instruction) {
    for flag in &instruction.flags {
        let message = format!("{} does not look at --{}", instruction.keyword.text.to_uppercase(), flag.name);
        linter.report(Rule::FlagIgnored, instruction, message);
    }
}
