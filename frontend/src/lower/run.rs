//! RUN.

use std::collections::HashMap;

use lithify_graph::{Exec, InlineFile, Network, Op, Tree};

use crate::expand::Lookup;
use crate::heredoc::{self, Heredoc};
use crate::instruction::{Instruction, Run};
use crate::lower::history::{self, Layer};
use crate::lower::stage::Work;
use crate::lower::{Lowering, Place, command};
use crate::options::Options;

/// Where a heredoc script with `#!` is shown to its process.
const SCRIPTS: &str = "/dev/pipes";

/// The command of a RUN, before its shell is added.
struct Command {
    args: Vec<String>,
    script: Option<InlineFile>,
    /// The start of a script, for the title.
    summary: Option<String>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn run(
        &mut self,
        work: &mut Work<'a>,
        instruction: &'a Instruction,
        run: &Run,
        triggered: bool,
    ) {
        let Some(command) = self.run_command(instruction, run, &work.state.config.os) else { return };
        let args = match run.command.json {
            true => command.args,
            false => command::with_shell(&work.state.config, command.args.join(" ")),
        };
        let Some(mounts) = self.mounts(work, instruction, run) else { return };
        let secrets = secret_names(&mounts);
        let code = match command.summary {
            Some(summary) => format!("{} ({summary})", instruction.code),
            None => instruction.code.clone(),
        };
        let title = if secrets.is_empty() {
            self.title(work, &code, triggered)
        } else {
            let masked = Masked { variables: &work.state.variables.clone(), names: secrets };
            self.title_with(work, &code, triggered, &masked)
        };
        let options = self.resolver.options;
        let created_by = history::run(&args, &declared(work));
        let op = Op::Exec(Exec {
            base: work.state.tree,
            args,
            env: work.state.variables.in_order(),
            proxy_env: proxy_env(options, work),
            cwd: work.state.cwd.clone(),
            user: work.state.config.config.user.clone(),
            mounts,
            network: match run.network {
                Network::Default => options.network.unwrap_or_default(),
                given => given,
            },
            security: run.security,
            script: command.script,
        });
        let platform = work.state.platform.clone();
        let id = self.push(op, &platform, &Place { node: work.node, instruction, title });
        work.state.tree = Tree::Of(id);
        work.commit(created_by, Layer::Marked(id));
    }

    fn run_command(&mut self, instruction: &Instruction, run: &Run, os: &str) -> Option<Command> {
        let plain = |args: Vec<String>| Some(Command { args, script: None, summary: None });
        let (Some(first), [text]) = (run.heredocs.first(), &run.command.words[..]) else {
            return plain(run.command.words.clone());
        };
        if let Some(invalid) = run.heredocs.iter().find(|it| std::str::from_utf8(&it.body).is_err()) {
            self.fail(invalid.span, format!("the heredoc {} is not valid UTF-8", invalid.name));
            return None;
        }
        if heredoc::heredoc(text).is_none() {
            return plain(vec![reassemble(text, &run.heredocs)]);
        }
        let content = first.content();
        let script = String::from_utf8_lossy(&content).into_owned();
        let summary = Some(summarize(&script));
        if os == "windows" || !script.starts_with("#!") {
            return Some(Command { args: vec![script], script: None, summary });
        }
        if first.name.contains('/') {
            let message = format!("the heredoc {:?} is a file name, which cannot hold a slash", first.name);
            self.fail(instruction.span, message);
            return None;
        }
        let args = vec![format!("{SCRIPTS}/{}", first.name)];
        Some(Command { args, script: Some(InlineFile { name: first.name.clone(), content }), summary })
    }
}

/// The line with its heredocs, for a shell that reads them itself.
fn reassemble(line: &str, heredocs: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for heredoc in heredocs {
        text = format!("{text}\n{}{}", String::from_utf8_lossy(&heredoc.body), heredoc.name);
    }
    text
}

fn summarize(script: &str) -> String {
    let mut lines = script.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
}

/// The declared arguments, each once and with the value that it has now.
fn declared(work: &Work<'_>) -> Vec<(String, String)> {
    let mut declared: Vec<(String, String)> = vec![];
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (name, value) in &work.state.build_args {
        let value = work.state.variables.get(name).unwrap_or(value).to_owned();
        match places.insert(name, declared.len()) {
            Some(place) => {
                places.insert(name, place);
                declared[place].1 = value;
            }
            None => declared.push((name.clone(), value)),
        }
    }
    declared
}

/// The proxies given as build arguments, in upper and lower case, but for those that an ARG declares.
fn proxy_env(options: &Options, work: &Work<'_>) -> Vec<(String, String)> {
    const NAMES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
    let mut env = vec![];
    for name in NAMES {
        let given = options.build_args.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        // Of HTTP_PROXY and http_proxy the latter counts, as with BuildKit, which goes through them sorted.
        let value = given.max_by(|a, b| a.0.cmp(&b.0)).map(|(_, value)| value);
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        for variable in [name.to_owned(), name.to_lowercase()] {
            if !work.state.build_args.iter().any(|(declared, _)| *declared == variable) {
                env.push((variable, value.clone()));
            }
        }
    }
    env
}

/// Variables of which some hold secrets.
struct Masked<'a> {
    variables: &'a dyn Lookup,
    names: Vec<String>,
}

impl Lookup for Masked<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        match self.names.iter().any(|secret| secret == name) {
            true => Some("****"),
            false => self.variables.get(name),
        }
    }
}

fn secret_names(mounts: &[lithify_graph::Mount]) -> Vec<String> {
    let names = mounts.iter().filter_map(|mount| match &mount.kind {
        lithify_graph::MountKind::Secret { env, .. } => env.clone(),
        _ => None,
    });
    names.collect()
}
