//! What a Dockerfile offers: `--call outline` and `--call targets`, in BuildKit's JSON and as tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::diagnostic::Diagnostics;
use crate::globals::Globals;
use crate::instruction::Instruction;
use crate::lint::location;
use crate::options::{ImageRequest, Options, ResolvedImage};
use crate::parse::parse;
use crate::plan::with_outline;
use crate::resolve::Stages;
use crate::source::Source;

/// The arguments, secrets and ssh agents that a target takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The stage, `None` when it has no name.
    pub name: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
    /// In the order of the file.
    pub args: Vec<OutlineArg>,
    /// In the order of the file.
    pub secrets: Vec<OutlineSecret>,
    /// In the order of the file.
    pub ssh: Vec<OutlineSsh>,
    source: Vec<u8>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What the comment above it says.
    pub description: Option<String>,
    /// The value that it has in this build.
    pub value: String,
    /// First and last line of the ARG, from 1.
    pub lines: (usize, usize),
}

/// A secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineSecret {
    /// Its id.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// First and last line of the RUN, from 1.
    pub lines: (usize, usize),
}

/// An ssh agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineSsh {
    /// Its id.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// First and last line of the RUN, from 1.
    pub lines: (usize, usize),
}

/// How far an outline got.
#[derive(Clone, Debug)]
pub enum PlanOutline {
    /// As [`crate::Plan::NeedImages`].
    NeedImages(BTreeSet<ImageRequest>),
    /// The outline.
    Outline(Outline),
}

/// What the target takes. Fails with every error of the file.
pub fn outline(
    source: &Source,
    options: &Options,
    images: &HashMap<ImageRequest, ResolvedImage>,
) -> Result<PlanOutline, Diagnostics> {
    with_outline(source, options, images).map(|found| match found {
        Err(missing) => PlanOutline::NeedImages(missing),
        Ok(outline) => PlanOutline::Outline(outline),
    })
}

/// What is collected while the stages are lowered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collected {
    /// By name: the value and where it is declared.
    args: BTreeMap<String, OutlineArg>,
    /// Global arguments that are used.
    used: BTreeSet<String>,
    secrets: BTreeMap<String, OutlineSecret>,
    ssh: BTreeMap<String, OutlineSsh>,
}

impl Collected {
    /// An ARG of a stage that has a value or default of its own.
    pub(crate) fn arg(
        &mut self,
        name: &str,
        description: Option<&str>,
        value: &str,
        instruction: &Instruction,
    ) {
        self.used.insert(name.to_owned());
        let arg = OutlineArg {
            name: name.to_owned(),
            description: description.map(str::to_owned),
            value: value.to_owned(),
            lines: instruction.lines,
        };
        self.args.insert(name.to_owned(), arg);
    }

    /// A global argument that FROM or an ARG without default uses.
    pub(crate) fn uses(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    pub(crate) fn secret(&mut self, id: &str, required: bool, instruction: &Instruction) {
        let secret = OutlineSecret { name: id.to_owned(), required, lines: instruction.lines };
        self.secrets.entry(id.to_owned()).or_insert(secret);
    }

    pub(crate) fn ssh(&mut self, id: &str, required: bool, instruction: &Instruction) {
        let ssh = OutlineSsh { name: id.to_owned(), required, lines: instruction.lines };
        self.ssh.entry(id.to_owned()).or_insert(ssh);
    }

    fn mark_global(&mut self, name: &str, globals: &Globals) {
        let Some(global) = globals.declared.get(name) else { return };
        if self.args.contains_key(name) {
            return;
        }
        let arg = OutlineArg {
            name: name.to_owned(),
            description: global.description.clone(),
            value: global.value.clone(),
            lines: global.lines,
        };
        self.args.insert(name.to_owned(), arg);
        global.uses.iter().filter(|used| *used != name).for_each(|used| self.mark_global(used, globals));
    }
}

/// Puts together what was collected.
pub(crate) fn assemble(source: &Source, stages: &Stages<'_>, mut collected: Collected) -> Outline {
    for node in stages.nodes.iter().filter(|node| node.needed) {
        node.uses.iter().for_each(|name| collected.uses(name));
    }
    for name in collected.used.clone() {
        collected.mark_global(&name, &stages.globals);
    }
    let target = &stages.nodes[stages.target].stage;
    let mut outline = Outline {
        name: target.name().map(str::to_owned),
        description: target.description().map(str::to_owned),
        args: collected.args.into_values().collect(),
        secrets: collected.secrets.into_values().collect(),
        ssh: collected.ssh.into_values().collect(),
        source: source.text.clone(),
    };
    outline.args.sort_by_key(|arg| arg.lines.0);
    outline.secrets.sort_by_key(|secret| secret.lines.0);
    outline.ssh.sort_by_key(|ssh| ssh.lines.0);
    outline
}

impl Outline {
    /// In the shape of BuildKit's `frontend.outline`.
    pub fn to_json(&self) -> Value {
        let required = |mut entry: Value, required: bool| {
            if required {
                entry["required"] = json!(true);
            }
            entry
        };
        let args = self.args.iter().map(|arg| {
            let mut entry = json!({ "name": arg.name, "location": location(arg.lines) });
            set(&mut entry, "description", arg.description.as_deref());
            set(&mut entry, "value", Some(arg.value.as_str()));
            entry
        });
        let secrets = self
            .secrets
            .iter()
            .map(|it| required(json!({ "name": it.name, "location": location(it.lines) }), it.required));
        let ssh = self
            .ssh
            .iter()
            .map(|it| required(json!({ "name": it.name, "location": location(it.lines) }), it.required));
        let lists: [(&str, Vec<Value>); 3] =
            [("args", args.collect()), ("secrets", secrets.collect()), ("ssh", ssh.collect())];
        let mut outline = json!({ "sources": [STANDARD.encode(&self.source)] });
        set(&mut outline, "name", self.name.as_deref());
        set(&mut outline, "description", self.description.as_deref());
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            outline[key] = json!(list);
        }
        outline
    }

    /// As tables.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        if self.name.is_some() || self.description.is_some() {
            text += &format!("TARGET:      {}\n", self.name.as_deref().unwrap_or("(default)"));
            text += &self.description.as_ref().map_or(String::new(), |it| format!("DESCRIPTION: {it}\n"));
            text.push('\n');
        }
        let yes = |required: bool| if required { "true" } else { "" }.to_owned();
        let args = self.args.iter().map(|arg| {
            vec![arg.name.clone(), arg.value.clone(), arg.description.clone().unwrap_or_default()]
        });
        let secrets = self.secrets.iter().map(|it| vec![it.name.clone(), yes(it.required)]);
        let ssh = self.ssh.iter().map(|it| vec![it.name.clone(), yes(it.required)]);
        text += &table(&["BUILD ARG", "VALUE", "DESCRIPTION"], args.collect());
        text += &table(&["SECRET", "REQUIRED"], secrets.collect());
        text += &table(&["SSH", "REQUIRED"], ssh.collect());
        text
    }
}

/// The stages of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// In the order of the file; the last is the default.
    pub targets: Vec<TargetInfo>,
    source: Vec<u8>,
}

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInfo {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Whether it is built when none is asked for.
    pub default: bool,
    /// What the comment above it says.
    pub description: Option<String>,
    /// The image or stage behind FROM, not expanded.
    pub base: String,
    /// `--platform`, not expanded.
    pub platform: Option<String>,
    /// First and last line of the FROM, from 1.
    pub lines: (usize, usize),
}

/// The stages of a file. Fails with every error of the file.
pub fn targets(source: &Source) -> Result<Targets, Diagnostics> {
    let (dockerfile, errors) = parse(source);
    if !errors.is_empty() {
        return Err(Diagnostics(errors));
    }
    let stages = dockerfile.stages();
    let targets = stages.iter().map(|stage| TargetInfo {
        name: stage.name().map(str::to_owned),
        default: stage.number + 1 == stages.len(),
        description: stage.description().map(str::to_owned),
        base: stage.from.image.text.clone(),
        platform: stage.from.platform.as_ref().map(|platform| platform.text.clone()),
        lines: stage.instruction.lines,
    });
    Ok(Targets { targets: targets.collect(), source: source.text.clone() })
}

impl Targets {
    /// In the shape of BuildKit's `frontend.targets`.
    pub fn to_json(&self) -> Value {
        let targets = self.targets.iter().map(|target| {
            let mut entry = json!({ "base": target.base, "location": location(target.lines) });
            set(&mut entry, "name", target.name.as_deref());
            set(&mut entry, "description", target.description.as_deref());
            set(&mut entry, "platform", target.platform.as_deref());
            if target.default {
                entry["default"] = json!(true);
            }
            entry
        });
        json!({ "targets": targets.collect::<Vec<Value>>(), "sources": [STANDARD.encode(&self.source)] })
    }

    /// As a table.
    pub fn to_text(&self) -> String {
        let rows = self.targets.iter().map(|target| {
            let name = match (&target.name, target.default) {
                (None, true) => "(default)".to_owned(),
                (Some(name), true) => format!("{name} (default)"),
                (name, false) => name.clone().unwrap_or_default(),
            };
            vec![name, target.description.clone().unwrap_or_default()]
        });
        table(&["TARGET", "DESCRIPTION"], rows.collect())
    }
}

fn set(entry: &mut Value, key: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        entry[key] = json!(value);
    }
}

/// A table with a blank line behind it; nothing when it has no rows.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:<width$}   ", width = width(column)));
        format!("{}\n", padded.collect::<String>().trim_end())
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    [line(head.to_vec())].into_iter().chain(body).chain(["\n".to_owned()]).collect()
}
