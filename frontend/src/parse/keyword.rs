//! Which instruction a line holds.

use crate::diagnostic::Diagnostic;
use crate::flags::{self, Flag, FlagKind, Flags};
use crate::instruction::Kind;
use crate::parse::{Request, arguments, command, healthcheck, transfer};
use crate::source::{Joined, Word};
use crate::suggest;
use crate::words::Rest;

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The first word of a logical line.
pub(crate) fn keyword(line: &Joined) -> Word {
    Rest::whole(line).split_first().0.word()
}

/// Whether the instruction, or the one that ONBUILD holds, may have heredocs.
pub(crate) fn may_hold_heredocs(line: &Joined, escape: char) -> bool {
    let whole = Rest::whole(line);
    let (mut name, mut rest) = whole.split_first();
    if name.text().eq_ignore_ascii_case("ONBUILD") {
        (name, rest) = flags::take(rest, escape).1.split_first();
    }
    let takes_heredocs = ["RUN", "COPY", "ADD"].iter().any(|known| name.text().eq_ignore_ascii_case(known));
    takes_heredocs && !matches!(command::json(flags::take(rest, escape).1.text()), command::Json::Strings(_))
}

/// Parses a whole logical line.
pub(crate) fn parse(request: &Request<'_>, problems: &mut Vec<Diagnostic>) -> (Vec<Flag>, Kind) {
    parse_rest(Rest::whole(&request.logical.text), request, problems)
}

fn parse_rest(whole: Rest<'_>, request: &Request<'_>, problems: &mut Vec<Diagnostic>) -> (Vec<Flag>, Kind) {
    let (name, rest) = whole.split_first();
    let upper = name.text().to_ascii_uppercase();
    let (written, rest) = flags::take(rest, request.escape);
    if !KEYWORDS.contains(&upper.as_str()) {
        let diagnostic = Diagnostic::at(name.word().span, format!("unknown instruction: {}", name.text()));
        problems.push(match suggest::nearest_ignoring_case(name.text(), KEYWORDS) {
            Some(known) => diagnostic.help(format!("did you mean {known}?")),
            None => diagnostic,
        });
        return (written, Kind::Invalid);
    }
    let flags = match ignores_flags(&upper, rest.text()) {
        true => Flags::check(vec![], flags_of(&upper), problems),
        false => Flags::check(written.clone(), flags_of(&upper), problems),
    };
    let mut arguments = Arguments { keyword: name, rest, request, flags, problems };
    let kind = arguments.parse(&upper);
    (written, kind.unwrap_or(Kind::Invalid))
}

/// Whether BuildKit never looks at the flags of this instruction, so that any are taken, and none does anything.
fn ignores_flags(keyword: &str, arguments: &str) -> bool {
    match keyword {
        "ARG" | "STOPSIGNAL" => true,
        "HEALTHCHECK" => {
            arguments.split_whitespace().next().is_some_and(|kind| kind.eq_ignore_ascii_case("NONE"))
        }
        _ => false,
    }
}

fn flags_of(keyword: &str) -> &'static [(&'static str, FlagKind)] {
    use FlagKind::{Switch, Value, Values};
    match keyword {
        "FROM" => &[("platform", Value)],
        "RUN" => &[("mount", Values), ("network", Value), ("security", Value)],
        "COPY" => &[
            ("chown", Value),
            ("chmod", Value),
            ("from", Value),
            ("link", Switch),
            ("parents", Switch),
            ("exclude", Values),
        ],
        "ADD" => &[
            ("chown", Value),
            ("chmod", Value),
            ("link", Switch),
            ("keep-git-dir", Switch),
            ("checksum", Value),
            ("unpack", Switch),
            ("exclude", Values),
        ],
        "HEALTHCHECK" => &[
            ("interval", Value),
            ("timeout", Value),
            ("start-period", Value),
            ("start-interval", Value),
            ("retries", Value),
        ],
        _ => &[],
    }
}

/// An instruction behind its keyword and flags.
pub(crate) struct Arguments<'a, 'b> {
    pub(crate) keyword: Rest<'a>,
    pub(crate) rest: Rest<'a>,
    pub(crate) request: &'b Request<'b>,
    pub(crate) flags: Flags<'static>,
    pub(crate) problems: &'b mut Vec<Diagnostic>,
}

impl Arguments<'_, '_> {
    fn parse(&mut self, keyword: &str) -> Option<Kind> {
        match keyword {
            "ADD" => transfer::add(self).map(Kind::Add),
            "ARG" => arguments::arg(self).map(Kind::Arg),
            "CMD" => command::command(self).map(Kind::Cmd),
            "COPY" => transfer::copy(self).map(Kind::Copy),
            "ENTRYPOINT" => command::command(self).map(Kind::Entrypoint),
            "ENV" => arguments::pairs(self, "ENV").map(Kind::Env),
            "EXPOSE" => arguments::expose(self).map(Kind::Expose),
            "FROM" => arguments::from(self).map(Kind::From),
            "HEALTHCHECK" => healthcheck::healthcheck(self).map(Kind::Healthcheck),
            "LABEL" => arguments::pairs(self, "LABEL").map(Kind::Label),
            "MAINTAINER" => arguments::one(self, "MAINTAINER").map(Kind::Maintainer),
            "ONBUILD" => self.onbuild().map(Kind::Onbuild),
            "RUN" => command::run(self).map(Kind::Run),
            "SHELL" => command::shell(self).map(Kind::Shell),
            "STOPSIGNAL" => arguments::one(self, "STOPSIGNAL").map(Kind::StopSignal),
            "USER" => arguments::one(self, "USER").map(Kind::User),
            "VOLUME" => arguments::volume(self).map(Kind::Volume),
            "WORKDIR" => arguments::one(self, "WORKDIR").map(Kind::Workdir),
            _ => None,
        }
    }

    /// Reports an error at the arguments, or at the keyword when there are none.
    pub(crate) fn fail<T>(&mut self, message: impl Into<String>) -> Option<T> {
        let place = if self.rest.is_empty() { self.keyword } else { self.rest };
        self.problems.push(Diagnostic::at(place.word().span, message));
        None
    }

    /// Reports an error.
    pub(crate) fn report<T>(&mut self, diagnostic: Diagnostic) -> Option<T> {
        self.problems.push(diagnostic);
        None
    }

    /// The trigger as it is stored: the text as written, and the bodies of its heredocs.
    fn onbuild(&mut self) -> Option<String> {
        if self.rest.is_empty() {
            return self.fail("ONBUILD requires at least one argument");
        }
        let trigger = self.rest.split_first().0;
        let upper = trigger.text().to_ascii_uppercase();
        let span = trigger.word().span;
        match upper.as_str() {
            "ONBUILD" => {
                return self
                    .report(Diagnostic::at(span, "chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
            }
            "MAINTAINER" | "FROM" => {
                return self
                    .report(Diagnostic::at(span, format!("{upper} isn't allowed as an ONBUILD trigger")));
            }
            _ => {}
        }
        // Whether it can be understood shows when the image is built upon; until then there is a note.
        let mut text = self.rest.line.text[self.rest.start..].to_owned();
        for heredoc in self.request.heredocs {
            text = format!("{text}\n{}{}", String::from_utf8_lossy(&heredoc.body), heredoc.name);
        }
        Some(text)
    }
}
