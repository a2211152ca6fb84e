//! SOURCE_DATE_EPOCH: the seconds that images are dated with, or what they are to be taken from.

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::expand::{Lexer, Lookup};
use crate::globals;
use crate::instruction::{Add, Dockerfile, Kind, Stage};
use crate::lower::remote::{self, Remote};
use crate::options::Options;
use crate::parse::parse;
use crate::place;
use crate::source::{Source, Word};
use crate::variables::Variables;

const NAME: &str = "SOURCE_DATE_EPOCH";

/// What SOURCE_DATE_EPOCH says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Epoch {
    /// Seconds since 1970.
    Seconds(i64),
    /// `context`: the date of the build context, if it has one.
    Context,
    /// The date of a named context, if it has one.
    Named(String),
    /// The date of a file on a server, which a stage adds.
    Http {
        /// Its address.
        url: String,
        /// `--checksum`
        checksum: Option<String>,
    },
    /// The date of a commit, which a stage adds.
    Git {
        /// The repository's address with fragment and query.
        url: String,
        /// `--checksum`
        checksum: Option<String>,
    },
}

/// SOURCE_DATE_EPOCH as a build argument or global ARG sets it; `None` when it is unset or empty. Beside seconds it may be
/// `context`, the name of a named context, or that of a stage that adds one remote source to `scratch`.
///
/// # Errors
/// A value that is none of these, and a stage that holds anything else.
pub fn source_date_epoch(source: &Source, options: &Options) -> Result<Option<Epoch>, Diagnostics> {
    let (dockerfile, _) = parse(source);
    let last = dockerfile.stages().last().and_then(|stage| stage.name().map(str::to_owned));
    let automatic = globals::automatic(options, last.as_deref());
    let globals = globals::globals(&dockerfile, automatic, |name| options.build_arg(name), &mut vec![]);
    let given = options.build_arg(NAME).map(str::to_owned);
    let value = given.or_else(|| globals.declared.get(NAME).map(|arg| arg.value.clone()));
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    if let Ok(seconds) = value.parse() {
        return Ok(Some(Epoch::Seconds(seconds)));
    }
    if value == "context" {
        return Ok(Some(Epoch::Context));
    }
    if options.contexts.contains_key(&value) {
        return Ok(Some(Epoch::Named(value)));
    }
    let lower = value.to_lowercase();
    let stages = dockerfile.stages();
    let Some(stage) = stages.iter().find(|stage| stage.name() == Some(&lower)) else {
        let names = stages.iter().filter_map(Stage::name);
        let diagnostic = Diagnostic::general(format!("invalid SOURCE_DATE_EPOCH: {value}"));
        let help = "expected seconds since 1970, context, or the name of a context or stage";
        return Err(diagnostic.help(help).suggest(&lower, names).into());
    };
    let mut variables = globals.variables;
    variables.set(NAME, "");
    let mut reading = Reading { dockerfile: &dockerfile, options, variables };
    Ok(Some(reading.stage(stage)?))
}

/// A stage that stands for its one remote source.
struct Reading<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a Options,
    variables: Variables,
}

impl Reading<'_> {
    fn stage(&mut self, stage: &Stage<'_>) -> Result<Epoch, Diagnostics> {
        let from = &stage.from.image;
        if self.text(from)? != "scratch" {
            return Err(Diagnostic::at(from.span, "SOURCE_DATE_EPOCH stage must use FROM scratch").into());
        }
        let mut found = None;
        for instruction in stage.body {
            let fail = |message: &str| Err(Diagnostic::at(instruction.keyword.span, message).into());
            match &instruction.kind {
                Kind::Arg(definitions) => {
                    for definition in definitions {
                        let name = &definition.name.text;
                        let value = match (self.options.build_arg(name), &definition.value) {
                            (Some(given), _) => given.to_owned(),
                            (None, Some(default)) => self.text(default)?,
                            (None, None) => continue,
                        };
                        self.variables.set(name, &value);
                    }
                }
                Kind::Add(_) if found.is_some() => {
                    return fail("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD");
                }
                Kind::Add(add) => found = Some(self.add(add)?),
                _ => {
                    return fail("SOURCE_DATE_EPOCH stage may hold nothing but ARG and one remote ADD");
                }
            }
        }
        let missing = "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";
        found.ok_or_else(|| Diagnostic::at(stage.instruction.span, missing).into())
    }

    fn add(&self, add: &Add) -> Result<Epoch, Diagnostics> {
        let fail = |word: &Word, message: &str| Err(Diagnostic::at(word.span, message).into());
        let [source] = &add.transfer.sources[..] else {
            return fail(
                &add.transfer.dest,
                "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source",
            );
        };
        let url = self.text(source)?;
        let checksum = add.checksum.as_ref().map(|word| self.text(word)).transpose()?;
        match remote::classify(&url) {
            Ok(Remote::Http) => Ok(Epoch::Http { url, checksum }),
            Ok(Remote::Git(query)) => Ok(Epoch::Git { url, checksum: checksum.or(query.checksum) }),
            Ok(Remote::Local) => {
                fail(source, "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")
            }
            Err(problem) => fail(source, &problem),
        }
    }

    fn text(&self, word: &Word) -> Result<String, Diagnostics> {
        let variables: &dyn Lookup = &self.variables;
        let text = Lexer::new(self.dockerfile.escape).text(&word.text, variables);
        text.map_err(|error| place::error(word, &error).into())
    }
}
