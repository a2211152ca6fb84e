//! The instructions of a Dockerfile, parsed but not expanded.

use lithify_graph::{Network, Security, Span};
use lithify_oci::Healthcheck;

use crate::directive::Directive;
use crate::flags::Flag;
use crate::heredoc::Heredoc;
use crate::source::Word;

/// A parsed Dockerfile.
#[derive(Clone, Debug, Default)]
pub struct Dockerfile {
    /// `# syntax=`, `# escape=`, `# check=`.
    pub directives: Vec<Directive>,
    /// The escape character: `\` or a backtick.
    pub escape: char,
    /// The instructions in order; those with errors are [`Kind::Invalid`].
    pub instructions: Vec<Instruction>,
}

impl Dockerfile {
    /// The ARG instructions in front of the first FROM.
    pub fn global_args(&self) -> impl Iterator<Item = &Instruction> {
        self.instructions.iter().take_while(|instruction| !instruction.is_from())
    }

    /// The stages: each a FROM and the instructions behind it.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        let mut stages: Vec<Stage<'_>> = vec![];
        for (index, instruction) in self.instructions.iter().enumerate() {
            match &instruction.kind {
                Kind::From(from) => {
                    let number = stages.len();
                    stages.push(Stage {
                        number,
                        instruction,
                        from,
                        body: &self.instructions[index + 1..index + 1],
                    });
                }
                _ => {
                    if let Some(stage) = stages.last_mut() {
                        let start = index - stage.body.len();
                        stage.body = &self.instructions[start..=index];
                    }
                }
            }
        }
        stages
    }
}

/// A stage of a Dockerfile.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'a> {
    /// From 0.
    pub number: usize,
    /// The FROM instruction.
    pub instruction: &'a Instruction,
    /// The same, taken apart.
    pub from: &'a From,
    /// The instructions behind it.
    pub body: &'a [Instruction],
}

impl Stage<'_> {
    /// Its name in lower case, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.from.name.as_ref().map(|name| name.text.as_str())
    }

    /// What the comment above FROM says of it: the rest of a line `# <name> text`.
    pub fn description(&self) -> Option<&str> {
        description(&self.instruction.comments, self.name()?)
    }
}

/// What the comments say of `name`: the rest of a line `# <name> text`.
pub(crate) fn description<'a>(comments: &'a [String], name: &str) -> Option<&'a str> {
    comments.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// The keyword as written.
    pub keyword: Word,
    /// The text, with continuation lines joined and without heredoc bodies.
    pub code: String,
    /// All of it, heredocs included.
    pub span: Span,
    /// The first and last line, from 1.
    pub lines: (usize, usize),
    /// The text of the comment lines above it.
    pub comments: Vec<String>,
    /// The flags as written.
    pub flags: Vec<Flag>,
    /// Whether a blank line stands between its lines.
    pub has_blank_continuation: bool,
    /// What it says.
    pub kind: Kind,
}

impl Instruction {
    /// Whether it starts a stage, even if it is not understood otherwise.
    pub fn is_from(&self) -> bool {
        self.keyword.text.eq_ignore_ascii_case("FROM")
    }
}

/// What an instruction says.
#[derive(Clone, Debug)]
pub enum Kind {
    /// ADD
    Add(Add),
    /// ARG
    Arg(Vec<ArgDefinition>),
    /// CMD
    Cmd(CommandLine),
    /// COPY
    Copy(Copy),
    /// ENTRYPOINT
    Entrypoint(CommandLine),
    /// ENV
    Env(Vec<Pair>),
    /// EXPOSE
    Expose(Vec<Word>),
    /// FROM
    From(From),
    /// HEALTHCHECK
    Healthcheck(Healthcheck),
    /// LABEL
    Label(Vec<Pair>),
    /// MAINTAINER
    Maintainer(Word),
    /// ONBUILD: the trigger as it is stored in the image.
    Onbuild(String),
    /// RUN
    Run(Run),
    /// SHELL
    Shell(Vec<String>),
    /// STOPSIGNAL
    StopSignal(Word),
    /// USER
    User(Word),
    /// VOLUME
    Volume(Vec<Word>),
    /// WORKDIR
    Workdir(Word),
    /// Something with an error.
    Invalid,
}

/// FROM.
#[derive(Clone, Debug)]
pub struct From {
    /// The image or stage.
    pub image: Word,
    /// `AS` as written.
    pub as_keyword: Option<Word>,
    /// The name in lower case; its span is that of the name as written.
    pub name: Option<Word>,
    /// The name as written.
    pub written_name: Option<String>,
    /// `--platform`
    pub platform: Option<Word>,
}

/// `key=value` of ENV and LABEL.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Before `=`.
    pub key: Word,
    /// Behind it.
    pub value: Word,
    /// Whether it is in the old form, `key value`.
    pub legacy: bool,
}

/// `name` or `name=default` of ARG.
#[derive(Clone, Debug)]
pub struct ArgDefinition {
    /// The name.
    pub name: Word,
    /// The default.
    pub value: Option<Word>,
    /// What the comment above says of it.
    pub description: Option<String>,
}

/// The command of RUN, CMD, ENTRYPOINT or HEALTHCHECK.
#[derive(Clone, Debug)]
pub struct CommandLine {
    /// The elements of the JSON form, or the text of the shell form as one element (none when it is empty).
    pub words: Vec<String>,
    /// Whether it is in JSON form.
    pub json: bool,
    /// Where it stands.
    pub span: Span,
}

/// RUN.
#[derive(Clone, Debug)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// Heredocs, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order, as written.
    pub mounts: Vec<Word>,
    /// `--network`
    pub network: Network,
    /// `--security`
    pub security: Security,
}

/// What COPY and ADD have in common.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Paths and URLs.
    pub sources: Vec<Word>,
    /// Files whose content stands in the Dockerfile.
    pub heredocs: Vec<Heredoc>,
    /// Where to.
    pub dest: Word,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<Word>,
}

/// COPY.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Sources, destination and common flags.
    pub transfer: Transfer,
    /// `--from`
    pub from: Option<Word>,
    /// `--parents`
    pub parents: bool,
}

/// ADD.
#[derive(Clone, Debug)]
pub struct Add {
    /// Sources, destination and common flags.
    pub transfer: Transfer,
    /// `--checksum`
    pub checksum: Option<Word>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `--unpack`
    pub unpack: Option<bool>,
}
