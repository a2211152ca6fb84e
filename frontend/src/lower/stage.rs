//! One stage: what it starts with, and its instructions in order.

use lithify_graph::{HistoryItem, MakeDirectory, Op, Tree};
use lithify_oci::{ImageConfig, Platform};

use crate::expand::{Expanded, Lexer, Lookup};
use crate::instruction::{Instruction, Kind};
use crate::lint::{Linter, Rule};
use crate::lower::history::{self, Layer};
use crate::lower::{Lowering, Place};
use crate::resolve::{Origin, StageNode};
use crate::source::Word;
use crate::variables::Variables;
use crate::{paths, place, suggest};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// With more variables than this there are no suggestions: each would have to be compared with all of them.
const MAX_NAMES: usize = 500;

/// What a stage has come to.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) config: ImageConfig,
    pub(crate) history: Vec<HistoryItem>,
    pub(crate) platform: Platform,
    pub(crate) variables: Variables,
    /// The arguments declared so far, with the values that they had where they were declared.
    pub(crate) build_args: Vec<(String, String)>,
    /// Where commands run; absolute and clean.
    pub(crate) cwd: String,
    /// Whether some WORKDIR of the file came before.
    pub(crate) workdir_set: bool,
}

/// A stage while it is lowered.
pub(crate) struct Work<'a> {
    pub(crate) node: &'a StageNode<'a>,
    pub(crate) state: State,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK of this stage.
    pub(crate) last_cmd: Option<&'a Instruction>,
    pub(crate) last_entrypoint: Option<&'a Instruction>,
    pub(crate) last_healthcheck: Option<&'a Instruction>,
    /// How many steps there are, and which the next is.
    total: usize,
    index: usize,
}

impl<'a> Lowering<'a> {
    pub(crate) fn stage(&mut self, node: &'a StageNode<'a>) -> State {
        let mut work = self.start(node);
        if node.replaced {
            return work.state;
        }
        work.enter();
        let triggers = node.triggers.iter().map(|trigger| (trigger.as_ref(), true));
        for (instruction, triggered) in triggers.chain(node.stage.body.iter().map(|it| (it, false))) {
            self.instruction(&mut work, instruction, triggered);
        }
        work.state
    }

    /// The state that a stage starts from: its base's.
    fn start(&mut self, node: &'a StageNode<'a>) -> Work<'a> {
        let counted = |instruction: &&Instruction| {
            matches!(instruction.kind, Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_))
        };
        let all = node.triggers.iter().map(AsRef::as_ref).chain(node.stage.body);
        let has_base_step = matches!(node.base, Origin::Image(_) | Origin::Folder(_));
        let total = all.filter(counted).count() + usize::from(has_base_step);
        let mut index = 0;
        let title = match has_base_step {
            true => titled(node, total, &mut index, false, &format!("FROM {}", node.image_name)),
            false => String::new(),
        };
        let place = Place { node, instruction: node.stage.instruction, title };
        let state = match &node.base {
            Origin::Stage(number) => match &self.states[*number] {
                Some(state) => State { platform: node.platform.clone(), ..state.clone() },
                None => State::empty(&node.platform),
            },
            Origin::Scratch => State::empty(&node.platform),
            Origin::Folder(name) => {
                let (tree, history) = self.folder_as_base(name, &place);
                State { tree, history: vec![history], ..State::empty(&node.platform) }
            }
            Origin::Image(request) => {
                let config = self.resolver.images.get(request).map(|image| image.config.clone());
                let config = config.unwrap_or_default();
                self.check_base_platform(node, &config);
                State { tree: self.image(request, &place), ..State::of_image(config, &node.platform) }
            }
        };
        let mut work =
            Work { node, state, last_cmd: None, last_entrypoint: None, last_healthcheck: None, total, index };
        work.state.config.config.on_build = match node.replaced {
            true => std::mem::take(&mut work.state.config.config.on_build),
            false => vec![],
        };
        work
    }

    fn check_base_platform(&mut self, node: &StageNode<'_>, config: &ImageConfig) {
        let (expected, actual) = (&node.platform, config.platform());
        if expected.os != actual.os || expected.architecture != actual.architecture {
            let message = format!(
                "Base image {} was pulled with platform {:?}, expected {:?} for current build",
                node.stage.from.image.text,
                actual.to_string(),
                expected.to_string()
            );
            self.linter.report(Rule::InvalidBaseImagePlatform, node.stage.instruction, message);
        }
    }

    fn instruction(&mut self, work: &mut Work<'a>, instruction: &'a Instruction, triggered: bool) {
        let before = self.problems.len();
        self.unset = false;
        self.lower(work, instruction, triggered);
        if self.early && self.unset {
            self.problems.truncate(before);
        }
        if triggered {
            // The words of a trigger stand in no file: FROM is where it comes from.
            self.problems[before..].iter_mut().for_each(|problem| problem.span = Some(instruction.span));
        }
    }

    fn lower(&mut self, work: &mut Work<'a>, instruction: &'a Instruction, triggered: bool) {
        match &instruction.kind {
            Kind::Add(add) => self.add(work, instruction, add, triggered),
            Kind::Arg(definitions) => self.arg(work, instruction, definitions),
            Kind::Cmd(command) => self.cmd(work, instruction, command),
            Kind::Copy(copy) => self.copy(work, instruction, copy, triggered),
            Kind::Entrypoint(command) => self.entrypoint(work, instruction, command),
            Kind::Env(pairs) => self.env(work, instruction, pairs),
            Kind::Expose(ports) => self.expose(work, instruction, ports),
            Kind::Healthcheck(healthcheck) => self.healthcheck(work, instruction, healthcheck),
            Kind::Label(pairs) => self.label(work, instruction, pairs),
            Kind::Maintainer(author) => {
                work.state.config.author = Some(author.text.clone());
                work.commit(format!("MAINTAINER {}", author.text), Layer::None);
            }
            Kind::Onbuild(text) => work.state.config.config.on_build.push(text.clone()),
            Kind::Run(run) => self.run(work, instruction, run, triggered),
            Kind::Shell(shell) => {
                work.state.config.config.shell = Some(shell.clone());
                work.commit(format!("SHELL {}", history::list(shell)), Layer::None);
            }
            Kind::StopSignal(signal) => self.stop_signal(work, instruction, signal),
            Kind::User(user) => self.user(work, instruction, user),
            Kind::Volume(volumes) => self.volume(work, instruction, volumes),
            Kind::Workdir(path) => self.workdir(work, instruction, path, triggered),
            Kind::From(_) | Kind::Invalid => {}
        }
    }

    fn workdir(&mut self, work: &mut Work<'a>, instruction: &'a Instruction, path: &Word, triggered: bool) {
        let Some(path) = self.word(work, instruction, path) else { return };
        if !std::mem::replace(&mut work.state.workdir_set, true) && !path.starts_with('/') {
            let message =
                format!("Relative workdir {path:?} can have unexpected results if the base image changes");
            self.linter.report(Rule::WorkdirRelativePath, instruction, message);
        }
        // What is absolute is stored as it was written, as BuildKit does.
        let stored = match path.starts_with('/') {
            true => path.clone(),
            false => paths::join(&work.state.config.config.working_dir, &path),
        };
        work.state.cwd = paths::clean(&stored);
        work.state.config.config.working_dir = stored.clone();
        let layer = if work.state.cwd == "/" {
            Layer::None
        } else {
            let title = self.title(work, &instruction.code, triggered);
            let user = work.state.config.config.user.clone();
            let op = Op::MakeDirectory(MakeDirectory {
                base: work.state.tree,
                path: work.state.cwd.clone(),
                user,
            });
            let platform = work.state.platform.clone();
            let id = self.push(op, &platform, &Place { node: work.node, instruction, title });
            work.state.tree = Tree::Of(id);
            Layer::Unmarked(id)
        };
        work.commit(format!("WORKDIR {stored}"), layer);
    }

    pub(crate) fn escape(&self) -> char {
        self.resolver.dockerfile.escape
    }

    /// Expands a word with the variables of the stage; reports what is wrong with it.
    pub(crate) fn word(&mut self, work: &Work<'a>, instruction: &Instruction, word: &Word) -> Option<String> {
        self.expanded(work, instruction, word, &Lexer::new(self.escape())).map(|expanded| expanded.text)
    }

    pub(crate) fn expanded(
        &mut self,
        work: &Work<'a>,
        instruction: &Instruction,
        word: &Word,
        lexer: &Lexer,
    ) -> Option<Expanded> {
        match lexer.expand(&word.text, &work.state.variables) {
            Ok(expanded) => {
                self.unset |= !expanded.unmatched.is_empty();
                work.report_undefined(self.linter, instruction, &expanded.unmatched);
                Some(expanded)
            }
            Err(error) => {
                // An error may come of a value that is not known yet, but not when no variable is used before it.
                self.unset |= word.text.contains('$') && error.needs_value;
                self.problems.push(place::error(word, &error));
                None
            }
        }
    }

    /// The title of the next step of a stage.
    pub(crate) fn title(&self, work: &mut Work<'a>, code: &str, triggered: bool) -> String {
        let text = shown(&Lexer::title(self.escape()), code, &work.state.variables);
        titled(work.node, work.total, &mut work.index, triggered, &text)
    }

    /// The same with other values of variables.
    pub(crate) fn title_with(
        &self,
        work: &mut Work<'a>,
        code: &str,
        triggered: bool,
        variables: &dyn Lookup,
    ) -> String {
        let text = shown(&Lexer::title(self.escape()), code, variables);
        titled(work.node, work.total, &mut work.index, triggered, &text)
    }
}

/// A command with the values of its variables and its keyword in upper case.
fn shown(lexer: &Lexer, code: &str, variables: &dyn Lookup) -> String {
    let text = lexer.text(code, variables).unwrap_or_else(|_| code.to_owned());
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// `[build 2/5] RUN make`.
fn titled(node: &StageNode<'_>, total: usize, index: &mut usize, triggered: bool, text: &str) -> String {
    *index += 1;
    let space = if node.display.is_empty() { "" } else { " " };
    let width = total.to_string().len();
    let onbuild = if triggered { "ONBUILD " } else { "" };
    format!("[{}{space}{index:>width$}/{total}] {onbuild}{text}", node.display)
}

impl State {
    /// `FROM scratch`.
    fn empty(platform: &Platform) -> Self {
        let mut config = ImageConfig {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            ..ImageConfig::default()
        };
        config.config.working_dir = "/".into();
        State::of_image(config, platform)
    }

    /// What an image gives to a stage: all of its configuration that BuildKit knows.
    fn of_image(mut config: ImageConfig, platform: &Platform) -> Self {
        config.created = None;
        config.extra.clear();
        config.config.extra.clear();
        let history = std::mem::take(&mut config.history);
        State {
            tree: Tree::Scratch,
            history: history.into_iter().map(|history| HistoryItem { history, step: None }).collect(),
            config,
            platform: platform.clone(),
            variables: Variables::default(),
            build_args: vec![],
            cwd: "/".into(),
            workdir_set: false,
        }
    }
}

impl<'a> Work<'a> {
    /// Takes over what the configuration says: PATH, variables, folder.
    fn enter(&mut self) {
        let state = &mut self.state;
        let env = &mut state.config.config.env;
        let has_path = env.iter().any(|entry| entry.split('=').next() == Some("PATH"));
        if !has_path && state.platform.os != "windows" {
            env.push(format!("PATH={PATH}"));
        }
        for entry in env.iter() {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            state.variables.set(name, value);
        }
        let folder = &state.config.config.working_dir;
        state.cwd = if folder.is_empty() { state.cwd.clone() } else { paths::join("/", folder) };
    }

    /// Adds an element to the history.
    pub(crate) fn commit(&mut self, created_by: String, layer: Layer) {
        self.state.history.push(history::item(created_by, layer));
    }

    fn report_undefined(&self, linter: &mut Linter, instruction: &Instruction, unmatched: &[String]) {
        for name in unmatched {
            let declared = self.state.build_args.iter().any(|(known, _)| known == name);
            if declared || matches!(name.as_str(), "BUILDKIT_SBOM_SCAN_CONTEXT" | "BUILDKIT_SBOM_SCAN_STAGE")
            {
                continue;
            }
            let mut message = format!("Usage of undefined variable '${name}'");
            let names = self.state.variables.names();
            let near = match names.size_hint().0 <= MAX_NAMES {
                true => suggest::nearest(name, names),
                false => None,
            };
            if let Some(near) = near {
                message += &format!(" (did you mean ${near}?)");
            }
            linter.report(Rule::UndefinedVar, instruction, message);
        }
    }
}
