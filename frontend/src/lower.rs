//! From resolved stages to steps, configuration and history.

mod chmod;
mod command;
mod config;
mod copy;
mod history;
mod mounts;
mod ports;
pub(crate) mod remote;
mod run;
mod signal;
mod stage;

use std::collections::HashMap;

use lithify_graph::{
    Context, Copy, CopySource, Graph, HistoryItem, Image, Op, Span, Step, StepId, Target, Tree, Unpack,
};
use lithify_oci::{ImageConfig, Platform, RootFs};

use crate::diagnostic::Diagnostic;
use crate::instruction::Instruction;
use crate::lint::{CheckConfig, Linter};
use crate::lower::stage::State;
use crate::options::{ImageRequest, ResolvedImage};
use crate::outline::Collected;
use crate::resolve::{Origin, Resolver, StageNode, Stages};

/// Lowers stages one after the other.
pub(crate) struct Lowering<'a> {
    resolver: &'a Resolver<'a>,
    stages: &'a Stages<'a>,
    linter: &'a mut Linter,
    steps: Vec<Step>,
    contexts: HashMap<Option<String>, StepId>,
    images: HashMap<ImageRequest, StepId>,
    /// Only errors are wanted, and some images are not known: what hangs on their variables is not reported.
    early: bool,
    /// Whether the instruction at hand uses a variable that is not set.
    unset: bool,
    /// By stage; `None` until it is lowered.
    states: Vec<Option<State>>,
    pub(crate) problems: Vec<Diagnostic>,
    /// What the outline tells of.
    pub(crate) collected: Collected,
}

/// The stage and instruction that a step comes from.
pub(crate) struct Place<'a> {
    pub(crate) node: &'a StageNode<'a>,
    pub(crate) instruction: &'a Instruction,
    pub(crate) title: String,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(resolver: &'a Resolver<'a>, stages: &'a Stages<'a>, linter: &'a mut Linter) -> Self {
        Lowering {
            resolver,
            stages,
            linter,
            steps: vec![],
            contexts: HashMap::new(),
            images: HashMap::new(),
            early: false,
            unset: false,
            states: stages.nodes.iter().map(|_| None).collect(),
            problems: vec![],
            collected: Collected::default(),
        }
    }

    /// The errors that can be told before images are known.
    pub(crate) fn early_errors(resolver: &Resolver<'_>, stages: &Stages<'_>) -> Vec<Diagnostic> {
        let mut linter = Linter::new(CheckConfig::default());
        let mut lowering = Lowering { early: true, ..Lowering::new(resolver, stages, &mut linter) };
        lowering.graph();
        lowering.problems
    }

    /// The graph of the target; `None` when there were errors.
    pub(crate) fn graph(&mut self) -> Option<Graph> {
        for node in self.stages.nodes.iter().filter(|node| node.needed) {
            let state = self.stage(node);
            self.states[node.stage.number] = Some(state);
        }
        let state = self.states.get_mut(self.stages.target)?.take()?;
        if !self.problems.is_empty() {
            return None;
        }
        let config = self.finish(state.config);
        let target = Target { tree: state.tree, config, history: state.history };
        Some(Graph { steps: std::mem::take(&mut self.steps), target })
    }

    /// The configuration of the result: labels from the command line, and the platform that was asked for.
    fn finish(&self, mut config: ImageConfig) -> ImageConfig {
        let options = self.resolver.options;
        config.config.labels.extend(options.labels.iter().cloned());
        let wanted = &options.target_platform;
        let same = config.os == wanted.os && config.architecture == wanted.architecture;
        if wanted.variant.is_some() || !same {
            config.variant = wanted.variant.clone();
        }
        if wanted.os_version.is_some() || !same {
            config.os_version = wanted.os_version.clone();
        }
        if !wanted.os_features.is_empty() {
            config.os_features = wanted.os_features.clone();
        }
        (config.os, config.architecture) = (wanted.os.clone(), wanted.architecture.clone());
        config.created = None;
        config.rootfs = RootFs::default();
        config.history = vec![];
        config
    }

    fn push(&mut self, op: Op, platform: &Platform, place: &Place<'_>) -> StepId {
        let stage = &place.node.stage;
        let step = Step {
            op,
            platform: platform.clone(),
            title: place.title.clone(),
            stage: stage.name().map_or_else(|| stage.number.to_string(), str::to_owned),
            span: Some(place.instruction.span),
        };
        self.push_step(step)
    }

    fn push_step(&mut self, step: Step) -> StepId {
        self.steps.push(step);
        StepId((self.steps.len() - 1) as u32)
    }

    /// The step that shows the build context, or a named one.
    fn context(&mut self, name: Option<&str>) -> Tree {
        let key = name.map(str::to_owned);
        if let Some(id) = self.contexts.get(&key) {
            return Tree::Of(*id);
        }
        let title = match name {
            None => "[internal] load build context".to_owned(),
            Some(name) => format!("[context {name}] load from client"),
        };
        let id = self.push_step(Step {
            op: Op::Context(Context { name: key.clone() }),
            platform: self.resolver.options.target_platform.clone(),
            title,
            stage: String::new(),
            span: None,
        });
        self.contexts.insert(key, id);
        Tree::Of(id)
    }

    /// The tree that a folder is when a stage starts from it: one layer of all its files, and what the history says of it.
    fn folder_as_base(&mut self, name: &str, place: &Place<'_>) -> (Tree, HistoryItem) {
        let from = self.context(Some(name));
        let copy = Copy {
            base: Tree::Scratch,
            sources: vec![CopySource::Path { from, pattern: "/".into(), unpack: Unpack::Never }],
            dest: "/".into(),
            dest_is_directory: true,
            owner: None,
            mode: None,
            link: false,
            parents: false,
            exclude: vec![],
        };
        let id = self.push(Op::Copy(copy), &place.node.platform, place);
        let mut item = history::item(format!("FROM {name}"), history::Layer::Unmarked(id));
        item.history.comment = Some("buildkit.exporter.image.v0".into());
        (Tree::Of(id), item)
    }

    /// The step that shows an image; an image without layers is the empty tree.
    fn image(&mut self, request: &ImageRequest, place: &Place<'_>) -> Tree {
        let Some(image) = self.resolver.images.get(request) else { return Tree::Scratch };
        if is_empty(image) {
            return Tree::Scratch;
        }
        if let Some(id) = self.images.get(request) {
            return Tree::Of(*id);
        }
        let op = Op::Image(Image { name: request.name.clone(), manifest: image.manifest });
        let id = self.push(op, &request.platform, place);
        self.images.insert(request.clone(), id);
        Tree::Of(id)
    }

    /// The tree that a COPY or mount reads.
    fn tree(&mut self, origin: &Origin, place: &Place<'_>) -> Tree {
        match origin {
            Origin::Scratch => Tree::Scratch,
            Origin::Stage(number) => self.states[*number].as_ref().map_or(Tree::Scratch, |state| state.tree),
            Origin::Folder(name) => self.context(Some(name)),
            Origin::Image(request) => {
                let title = format!("FROM {}", request.name);
                self.image(request, &Place { title, node: place.node, instruction: place.instruction })
            }
        }
    }

    fn fail(&mut self, span: Span, message: impl Into<String>) {
        self.problems.push(Diagnostic::at(span, message));
    }
}

/// Whether an image has no layers, also one of the old kind, whose layers only show in its history.
fn is_empty(image: &ResolvedImage) -> bool {
    let config = &image.config;
    config.rootfs.diff_ids.is_empty() && config.history.iter().all(|element| element.empty_layer)
}
