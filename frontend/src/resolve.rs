//! Which stage builds on which, and what stages copy from: everything that can be told before images are known.

mod reach;

pub(crate) use reach::trigger;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use lithify_graph::Span;
use lithify_oci::{Platform, Reference};

use crate::csv;
use crate::diagnostic::Diagnostic;
use crate::expand::{Lexer, NoVariables};
use crate::globals::{self, Globals};
use crate::instruction::{Dockerfile, Instruction, Kind, Stage};
use crate::lint::{Linter, from as lint_from};
use crate::options::{ImageRequest, NamedContext, Options, ResolvedImage};
use crate::place;
use crate::source::Word;

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// Nothing.
    Scratch,
    /// A stage of the file, by number.
    Stage(usize),
    /// An image.
    Image(ImageRequest),
    /// A named context.
    Folder(String),
}

/// A stage ready to be lowered.
pub(crate) struct StageNode<'a> {
    pub(crate) stage: Stage<'a>,
    /// As shown in titles: its name, or `stage-1`; empty if it is the only one.
    pub(crate) display: String,
    pub(crate) base: Origin,
    /// The normal form of the image's reference, for titles.
    pub(crate) image_name: String,
    pub(crate) platform: Platform,
    /// A named context replaces the whole stage.
    pub(crate) replaced: bool,
    /// The triggers of the base, which come first.
    pub(crate) triggers: Vec<Cow<'a, Instruction>>,
    pub(crate) needed: bool,
    /// Global arguments that FROM uses.
    pub(crate) uses: Vec<String>,
}

/// The stages of a file with their dependencies.
pub(crate) struct Stages<'a> {
    pub(crate) nodes: Vec<StageNode<'a>>,
    pub(crate) target: usize,
    pub(crate) globals: Globals,
}

pub(crate) struct Resolver<'a> {
    pub(crate) dockerfile: &'a Dockerfile,
    pub(crate) options: &'a Options,
    pub(crate) images: &'a HashMap<ImageRequest, ResolvedImage>,
    pub(crate) problems: Vec<Diagnostic>,
    pub(crate) missing: BTreeSet<ImageRequest>,
    contexts: HashMap<String, (String, NamedContext)>,
    /// The numbers of the stages that have a name, ascending.
    names: HashMap<String, Vec<usize>>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(
        dockerfile: &'a Dockerfile,
        options: &'a Options,
        images: &'a HashMap<ImageRequest, ResolvedImage>,
    ) -> Self {
        let contexts = options.contexts.iter().map(|(name, kind)| {
            let (plain, platform) =
                name.split_once("::").map_or((name.as_str(), None), |(n, p)| (n, Some(p)));
            let plain = plain.parse::<Reference>().map_or(plain.to_owned(), |known| known.familiar());
            let key = platform.map_or(plain.clone(), |platform| format!("{plain}::{platform}"));
            (key, (name.clone(), *kind))
        });
        let contexts = contexts.collect();
        Resolver {
            dockerfile,
            options,
            images,
            problems: vec![],
            missing: BTreeSet::new(),
            contexts,
            names: HashMap::new(),
        }
    }

    /// Resolves the stages; with `every_stage` all of them are needed, otherwise those that the target needs.
    pub(crate) fn stages(&mut self, every_stage: bool, linter: &mut Linter) -> Option<Stages<'a>> {
        let stages = self.dockerfile.stages();
        self.check_outside_stages();
        let Some(last) = stages.last() else {
            let has_from = self.dockerfile.instructions.iter().any(Instruction::is_from);
            if self.problems.is_empty() && !has_from {
                self.problems.push(Diagnostic::general("dockerfile contains no stages to build"));
            }
            return None;
        };
        let automatic = globals::automatic(self.options, last.name());
        lint_from::stages(linter, self.dockerfile, &stages, automatic.clone());
        let globals = globals::globals(
            self.dockerfile,
            automatic,
            |name| self.options.build_arg(name),
            &mut self.problems,
        );
        let mut nodes: Vec<StageNode<'a>> = vec![];
        for stage in &stages {
            let node = self.stage(*stage, &nodes, &globals, stages.len() == 1, linter);
            if let Some(name) = stage.name() {
                self.names.entry(name.to_owned()).or_default().push(stage.number);
            }
            nodes.push(node);
        }
        let target = self.target(&nodes)?;
        self.check_circles(&nodes);
        if self.problems.is_empty() {
            let roots = if every_stage { (0..nodes.len()).collect() } else { vec![target] };
            self.reach(&mut nodes, roots);
        }
        Some(Stages { nodes, target, globals })
    }

    fn check_outside_stages(&mut self) {
        for instruction in self.dockerfile.global_args() {
            if !matches!(instruction.kind, Kind::Arg(_) | Kind::Invalid) {
                let name = &instruction.keyword;
                let message =
                    format!("no build stage in current context: {} must come after FROM", name.text);
                self.problems.push(Diagnostic::at(name.span, message));
            }
        }
    }

    fn stage(
        &mut self,
        stage: Stage<'a>,
        earlier: &[StageNode<'a>],
        globals: &Globals,
        only: bool,
        linter: &mut Linter,
    ) -> StageNode<'a> {
        let mut uses = vec![];
        let platform = self.platform(&stage, globals, linter, &mut uses);
        let display = match stage.name() {
            _ if only => String::new(),
            Some(name) => name.to_owned(),
            None => format!("stage-{}", stage.number),
        };
        let mut node = StageNode {
            stage,
            display: stage.name().map_or(display, str::to_owned),
            base: Origin::Scratch,
            image_name: String::new(),
            platform: platform.clone().unwrap_or_else(|| self.options.target_platform.clone()),
            replaced: false,
            triggers: vec![],
            needed: false,
            uses,
        };
        let name = self.image_name(&stage, globals, linter, &mut node.uses);
        if let Some(origin) = stage.name().and_then(|name| self.replacement(name, &node.platform)) {
            node.image_name = stage.name().unwrap_or_default().to_owned();
            node.base = origin;
            node.replaced = true;
            return node;
        }
        let Some(name) = name else { return node };
        if let Some(base) = self.names.get(&name).and_then(|numbers| earlier.get(*numbers.last()?)) {
            node.base = Origin::Stage(base.stage.number);
            node.platform = base.platform.clone();
        } else if name == "scratch" {
            node.platform = self.options.target_platform.clone();
        } else {
            let names = earlier.iter().filter_map(|known| known.stage.name());
            match self.image(&name, &node.platform) {
                Ok((origin, image_name)) => (node.base, node.image_name) = (origin, image_name),
                Err(problem) => {
                    let lower = name.to_lowercase();
                    let diagnostic = Diagnostic::at(stage.from.image.span, problem);
                    let names: Vec<&str> = names.collect();
                    self.problems.push(match names.iter().find(|known| **known == lower) {
                        Some(known) => diagnostic.help(format!("did you mean {known}?")),
                        None => diagnostic.suggest(&name, names),
                    });
                }
            }
        }
        node
    }

    /// The expanded name behind FROM.
    fn image_name(
        &mut self,
        stage: &Stage<'_>,
        globals: &Globals,
        linter: &mut Linter,
        uses: &mut Vec<String>,
    ) -> Option<String> {
        let image = &stage.from.image;
        match Lexer::new(self.dockerfile.escape).expand(&image.text, &globals.variables) {
            Ok(expanded) => {
                lint_from::undefined(linter, stage.instruction, &expanded.unmatched, globals);
                if expanded.text.is_empty() {
                    let message = format!("base name ({}) should not be blank", image.text);
                    let diagnostic = Diagnostic::at(image.span, message);
                    self.problems.push(suggest_variable(diagnostic, &expanded.unmatched, globals));
                    return None;
                }
                uses.extend(expanded.matched);
                Some(expanded.text)
            }
            Err(error) => {
                self.problems.push(place::error(image, &error));
                None
            }
        }
    }

    fn platform(
        &mut self,
        stage: &Stage<'_>,
        globals: &Globals,
        linter: &mut Linter,
        uses: &mut Vec<String>,
    ) -> Option<Platform> {
        let word = stage.from.platform.as_ref().filter(|word| !word.text.is_empty())?;
        let expanded = match Lexer::new(self.dockerfile.escape).expand(&word.text, &globals.variables) {
            Ok(expanded) => expanded,
            Err(error) => {
                let message = format!("failed to process arguments for platform: {}", error.message);
                self.problems.push(Diagnostic::at(word.span, message));
                return None;
            }
        };
        lint_from::platform(linter, stage, word, &expanded, globals);
        uses.extend(expanded.matched.iter().cloned());
        let message = match expanded.text.parse::<Platform>() {
            Ok(platform) => return Some(platform),
            Err(_) if expanded.text.is_empty() => {
                format!("empty platform value from expression {}", word.text)
            }
            Err(error) => format!("failed to parse platform {}: {error}", word.text),
        };
        let diagnostic = Diagnostic::at(word.span, message);
        self.problems.push(suggest_variable(diagnostic, &expanded.unmatched, globals));
        None
    }

    fn target(&mut self, nodes: &[StageNode<'_>]) -> Option<usize> {
        let Some(wanted) = self.options.target.as_deref().filter(|name| !name.is_empty()) else {
            return Some(nodes.len() - 1);
        };
        let lower = wanted.to_lowercase();
        let found = nodes.iter().rposition(|node| node.stage.name() == Some(&lower));
        if found.is_none() {
            let names = nodes.iter().filter_map(|node| node.stage.name());
            let message = format!("target stage {wanted:?} could not be found");
            self.problems.push(Diagnostic::general(message).suggest(&lower, names));
        }
        found
    }

    /// The named context that takes the place of a stage.
    fn replacement(&self, name: &str, platform: &Platform) -> Option<Origin> {
        let (_, kind) = self.given(name, platform)?;
        if *kind == NamedContext::Layout { None } else { self.context(name, platform) }
    }

    /// The named context of this name, the one for the platform first.
    fn given(&self, name: &str, platform: &Platform) -> Option<&(String, NamedContext)> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        let name = name.parse::<Reference>().map_or(name.to_owned(), |known| known.familiar());
        self.contexts.get(&format!("{name}::{platform}")).or_else(|| self.contexts.get(&name))
    }

    fn context(&self, name: &str, platform: &Platform) -> Option<Origin> {
        let (given, kind) = self.given(name, platform)?;
        Some(match kind {
            NamedContext::Folder => Origin::Folder(given.clone()),
            NamedContext::Image | NamedContext::Layout => Origin::Image(ImageRequest {
                name: given.clone(),
                context: Some(given.clone()),
                platform: platform.clone(),
            }),
        })
    }

    /// The image of this name, and its reference in full.
    fn image(&self, name: &str, platform: &Platform) -> Result<(Origin, String), String> {
        let reference = name
            .parse::<Reference>()
            .map_err(|error| format!("failed to parse stage name {name:?}: {error}"))?;
        let full = reference.to_string();
        let origin = self.context(&full, platform).unwrap_or_else(|| {
            Origin::Image(ImageRequest { name: full.clone(), context: None, platform: platform.clone() })
        });
        Ok((origin, full))
    }

    /// What `--from` or a mount's `from` in a stage means.
    pub(crate) fn origin(
        &self,
        name: &str,
        numbers: bool,
        nodes: &[StageNode<'_>],
        number: usize,
    ) -> Result<Origin, String> {
        if let Some(stages) = self.names.get(&name.to_lowercase()) {
            let earlier = stages.partition_point(|stage| *stage < number);
            let nearest = stages.get(earlier.wrapping_sub(1)).or_else(|| stages.get(earlier));
            if let Some(stage) = nearest {
                return Ok(Origin::Stage(*stage));
            }
        }
        if let (true, Ok(index)) = (numbers, name.parse::<i64>()) {
            let found = usize::try_from(index).ok().filter(|index| *index < nodes.len());
            return found.map(Origin::Stage).ok_or_else(|| format!("invalid stage index {index}"));
        }
        if name == "scratch" {
            return Ok(Origin::Scratch);
        }
        self.image(name, &self.options.target_platform).map(|(origin, _)| origin)
    }

    /// What an instruction reads beside its stage, each with the word that says so.
    pub(crate) fn origins(
        &self,
        instruction: &Instruction,
        nodes: &[StageNode<'_>],
        number: usize,
    ) -> Vec<(Word, Result<Origin, String>)> {
        match &instruction.kind {
            Kind::Copy(copy) => {
                let from = copy.from.iter().map(|from| {
                    let literal = Lexer::new(self.dockerfile.escape).text(&from.text, &NoVariables);
                    let origin = match literal {
                        Ok(text) if text == from.text => self.origin(&from.text, true, nodes, number),
                        Ok(_) => {
                            Err("variable expansion is not supported for --from, define a new stage with \
                                      FROM using ARG from global scope as a workaround"
                                .to_owned())
                        }
                        Err(error) => Err(format!("--from: {}", error.message)),
                    };
                    (from.clone(), origin)
                });
                from.collect()
            }
            Kind::Run(run) => {
                let names = run.mounts.iter().filter_map(|mount| Some((mount, mount_from(&mount.text)?)));
                let origin = |name: String| self.origin(&name, false, nodes, number);
                names.map(|(mount, name)| (mount.clone(), origin(name))).collect()
            }
            _ => vec![],
        }
    }

    /// Stages that copy from each other, whether they are needed or not.
    fn check_circles(&mut self, nodes: &[StageNode<'_>]) {
        let forward = |node: &StageNode<'_>| -> Vec<(usize, Span)> {
            let origins = node.stage.body.iter().flat_map(|it| self.origins(it, nodes, node.stage.number));
            let stages = origins.filter_map(|(word, origin)| match origin {
                Ok(Origin::Stage(stage)) => Some((stage, word.span)),
                _ => None,
            });
            stages.collect()
        };
        let edges: Vec<Vec<(usize, Span)>> = nodes.iter().map(forward).collect();
        let goes_forward = |(number, edges): (usize, &Vec<(usize, Span)>)| {
            edges.iter().find(|(stage, _)| *stage >= number).map(|(_, span)| (number, *span))
        };
        let starts: Vec<(usize, Span)> = edges.iter().enumerate().filter_map(goes_forward).collect();
        for (number, span) in starts {
            let mut seen = BTreeSet::new();
            let mut open: Vec<usize> = edges[number].iter().map(|(stage, _)| *stage).collect();
            while let Some(stage) = open.pop() {
                if seen.insert(stage) {
                    open.extend(edges[stage].iter().map(|(stage, _)| *stage));
                }
            }
            if seen.contains(&number) {
                let name = &nodes[number].display;
                let message = format!("circular dependency detected on stage: {name}");
                self.problems.push(Diagnostic::at(span, message));
            }
        }
    }
}

fn suggest_variable(diagnostic: Diagnostic, unmatched: &[String], globals: &Globals) -> Diagnostic {
    let Some(name) = unmatched.first() else { return diagnostic };
    let diagnostic = diagnostic.label(format!("the variable {name} has no value here"));
    diagnostic.suggest(name, globals.variables.names())
}

/// The `from` of a mount.
pub(crate) fn mount_from(mount: &str) -> Option<String> {
    let fields = csv::fields(mount).ok()?;
    let mut values = fields.iter().filter_map(|field| field.split_once('='));
    let (_, from) = values.rfind(|(key, _)| key.eq_ignore_ascii_case("from"))?;
    (!from.is_empty()).then(|| from.to_owned())
}
