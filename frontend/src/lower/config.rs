//! Instructions that only change the configuration.

use lithify_oci::Healthcheck;
use lithify_oci::config::Empty;

use crate::expand::{Lexer, Lookup};
use crate::instruction::{ArgDefinition, CommandLine, Instruction, Pair};
use crate::lint::{Rule, text};
use crate::lower::history::{self, Layer};
use crate::lower::stage::Work;
use crate::lower::{Lowering, command, ports, signal};
use crate::source::Word;

impl<'a> Lowering<'a> {
    /// The pairs of ENV or LABEL with their values; all are expanded before any counts.
    fn pairs(&mut self, work: &Work<'a>, instruction: &Instruction, pairs: &[Pair]) -> Vec<(String, String)> {
        let keyword = &instruction.keyword.text;
        if pairs.iter().any(|pair| pair.legacy) {
            let message = format!(
                "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
            );
            self.linter.report(Rule::LegacyKeyValueFormat, instruction, message);
        }
        let expanded = pairs.iter().map(|pair| {
            let key = self.word(work, instruction, &pair.key);
            Some((key?, self.word(work, instruction, &pair.value)?))
        });
        expanded.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    pub(crate) fn env(&mut self, work: &mut Work<'a>, instruction: &Instruction, pairs: &[Pair]) {
        let mut text = String::from("ENV");
        for (key, value) in self.pairs(work, instruction, pairs) {
            self.check_secret("ENV", &key, instruction);
            text += &format!(" {key}={value}");
            // All of the image's variables are known here: what is not need not be looked for.
            let is_new = work.state.variables.get(&key).is_none();
            work.state.variables.set(&key, &value);
            let entry = format!("{key}={value}");
            let env = &mut work.state.config.config.env;
            let known = match is_new {
                true => None,
                false => env.iter_mut().find(|known| known.split('=').next() == Some(&key)),
            };
            match known {
                Some(known) => *known = entry,
                None => env.push(entry),
            }
        }
        work.commit(text, Layer::None);
    }

    pub(crate) fn label(&mut self, work: &mut Work<'a>, instruction: &Instruction, pairs: &[Pair]) {
        let mut text = String::from("LABEL");
        for (key, value) in self.pairs(work, instruction, pairs) {
            text += &format!(" {key}={value}");
            work.state.config.config.labels.insert(key, value);
        }
        work.commit(text, Layer::None);
    }

    /// ARG: `--build-arg`, or else the default, or else the global value.
    pub(crate) fn arg(
        &mut self,
        work: &mut Work<'a>,
        instruction: &Instruction,
        definitions: &[ArgDefinition],
    ) {
        let mut texts = vec![];
        for definition in definitions {
            let name = &definition.name.text;
            self.check_secret("ARG", name, instruction);
            let value = match (self.resolver.options.build_arg(name), &definition.value) {
                (Some(given), _) => Some(given.to_owned()),
                (None, Some(default)) => match self.word(work, instruction, default) {
                    Some(value) => Some(value),
                    None => continue,
                },
                (None, None) => self.stages.globals.variables.get(name).map(str::to_owned),
            };
            let is_global = definition.value.is_none() && self.resolver.options.build_arg(name).is_none();
            match is_global && value.is_some() {
                true => self.collected.uses(name),
                false => {
                    let description = definition.description.as_deref();
                    self.collected.arg(name, description, value.as_deref().unwrap_or_default(), instruction);
                }
            }
            let is_env = !matches!(name.as_str(), "BUILDKIT_SBOM_SCAN_CONTEXT" | "BUILDKIT_SBOM_SCAN_STAGE");
            if let Some(value) = value.as_deref().filter(|_| is_env) {
                work.state.variables.set(name, value);
            }
            texts.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            work.state.build_args.push((name.clone(), value.unwrap_or_default()));
        }
        work.commit(format!("ARG {}", texts.join(" ")), Layer::None);
    }

    fn check_secret(&mut self, keyword: &str, name: &str, instruction: &Instruction) {
        if text::is_secret(name) {
            let message =
                format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})");
            self.linter.report(Rule::SecretsUsedInArgOrEnv, instruction, message);
        }
    }

    fn used_once(&mut self, instruction: &Instruction, earlier: Option<&Instruction>) {
        if let Some(earlier) = earlier {
            let keyword = &instruction.keyword.text;
            let message = format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will \
                 be used"
            );
            self.linter.report(Rule::MultipleInstructionsDisallowed, earlier, message);
        }
    }

    fn command_line(
        &mut self,
        work: &Work<'a>,
        instruction: &Instruction,
        command: &CommandLine,
    ) -> Vec<String> {
        let config = &work.state.config;
        if command.json {
            return command.words.clone();
        }
        if config.config.shell.as_ref().is_none_or(Vec::is_empty) {
            let message = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                instruction.keyword.text
            );
            self.linter.report(Rule::JsonArgsRecommended, instruction, message);
        }
        command::with_shell(config, command.words.join(" "))
    }

    pub(crate) fn cmd(&mut self, work: &mut Work<'a>, instruction: &'a Instruction, command: &CommandLine) {
        self.used_once(instruction, work.last_cmd.replace(instruction));
        let args = self.command_line(work, instruction, command);
        let text = format!("CMD {}", history::quoted_list(&args));
        let config = &mut work.state.config.config;
        config.cmd = Some(args).filter(|args| !args.is_empty());
        config.args_escaped = true;
        work.commit(text, Layer::None);
    }

    /// ENTRYPOINT takes away a CMD that was inherited.
    pub(crate) fn entrypoint(
        &mut self,
        work: &mut Work<'a>,
        instruction: &'a Instruction,
        command: &CommandLine,
    ) {
        self.used_once(instruction, work.last_entrypoint.replace(instruction));
        let args = self.command_line(work, instruction, command);
        let text = format!("ENTRYPOINT {}", history::quoted_list(&args));
        let config = &mut work.state.config.config;
        config.entrypoint = Some(args).filter(|args| !args.is_empty());
        if work.last_cmd.is_none() {
            config.cmd = None;
        }
        work.commit(text, Layer::None);
    }

    pub(crate) fn healthcheck(
        &mut self,
        work: &mut Work<'a>,
        instruction: &'a Instruction,
        check: &Healthcheck,
    ) {
        self.used_once(instruction, work.last_healthcheck.replace(instruction));
        work.state.config.config.healthcheck = Some(check.clone());
        work.commit(history::healthcheck(check), Layer::None);
    }

    pub(crate) fn user(&mut self, work: &mut Work<'a>, instruction: &Instruction, user: &Word) {
        let Some(user) = self.word(work, instruction, user) else { return };
        work.commit(format!("USER {user}"), Layer::None);
        work.state.config.config.user = user;
    }

    pub(crate) fn volume(&mut self, work: &mut Work<'a>, instruction: &Instruction, volumes: &[Word]) {
        let mut paths = vec![];
        for word in volumes {
            let Some(path) = self.word(work, instruction, word) else { continue };
            if path.is_empty() {
                self.fail(word.span, "VOLUME specified can not be an empty string");
            }
            work.state.config.config.volumes.insert(path.clone(), Empty {});
            paths.push(path);
        }
        work.commit(format!("VOLUME {}", history::list(&paths)), Layer::None);
    }

    pub(crate) fn stop_signal(&mut self, work: &mut Work<'a>, instruction: &Instruction, word: &Word) {
        let Some(name) = self.word(work, instruction, word) else { return };
        if let Err(diagnostic) = signal::check(&name, word.span) {
            self.problems.push(diagnostic);
        }
        work.commit(format!("STOPSIGNAL {name}"), Layer::None);
        work.state.config.config.stop_signal = name;
    }

    pub(crate) fn expose(&mut self, work: &mut Work<'a>, instruction: &Instruction, words: &[Word]) {
        let mut exposed = vec![];
        for word in words {
            let Some(expanded) = self.expanded(work, instruction, word, &Lexer::new(self.escape())) else {
                continue;
            };
            for text in &expanded.words {
                match ports::parse(text) {
                    Ok(port) => {
                        port.lint(self.linter, instruction, text);
                        exposed.extend(port.names());
                    }
                    Err(problem) => self.fail(word.span, problem),
                }
            }
        }
        let ports = exposed.iter().map(|port| (port.clone(), Empty {}));
        work.state.config.config.exposed_ports.extend(ports);
        work.commit(format!("EXPOSE {}", history::list(&exposed)), Layer::None);
    }
}
