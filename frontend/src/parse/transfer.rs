//! COPY and ADD.

use crate::diagnostic::Diagnostic;
use crate::heredoc::{self, Heredoc};
use crate::instruction::{Add, Copy, Transfer};
use crate::parse::arguments;
use crate::parse::command::{self, Json};
use crate::parse::keyword::Arguments;
use crate::source::Word;

/// COPY.
pub(crate) fn copy(arguments: &mut Arguments<'_, '_>) -> Option<Copy> {
    let transfer = transfer(arguments, "COPY")?;
    let from = arguments.flags.value("from").filter(|from| !from.text.is_empty());
    Some(Copy { transfer, from, parents: arguments.flags.switch("parents").unwrap_or(false) })
}

/// ADD.
pub(crate) fn add(arguments: &mut Arguments<'_, '_>) -> Option<Add> {
    Some(Add {
        transfer: transfer(arguments, "ADD")?,
        checksum: arguments.flags.value("checksum").filter(|checksum| !checksum.text.is_empty()),
        keep_git_dir: arguments.flags.switch("keep-git-dir"),
        unpack: arguments.flags.switch("unpack"),
    })
}

fn transfer(arguments: &mut Arguments<'_, '_>, keyword: &str) -> Option<Transfer> {
    let json = matches!(command::json(arguments.rest.text()), Json::Strings(_));
    let mut sources = arguments::list(arguments)?;
    let dest = sources.pop();
    let Some(dest) = dest.filter(|_| !sources.is_empty()) else {
        return arguments.fail(format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        ));
    };
    let mut heredocs = vec![];
    if !json {
        if heredoc::heredoc(&dest.text).is_some() {
            let message = format!("{keyword} cannot accept a heredoc as a destination");
            return arguments.report(Diagnostic::at(dest.span, message));
        }
        (sources, heredocs) = take_heredocs(arguments, sources)?;
    }
    let flags = &arguments.flags;
    let given = |word: &Word| !word.text.is_empty();
    Some(Transfer {
        sources,
        heredocs,
        dest,
        chown: flags.value("chown").filter(given),
        chmod: flags.value("chmod").filter(given),
        link: flags.switch("link").unwrap_or(false),
        exclude: flags.values("exclude"),
    })
}

/// Splits sources into paths and heredocs. Of heredocs with the same name the last body counts.
fn take_heredocs(arguments: &mut Arguments<'_, '_>, words: Vec<Word>) -> Option<(Vec<Word>, Vec<Heredoc>)> {
    let bodies = arguments.request.heredocs;
    let (mut sources, mut heredocs) = (vec![], vec![]);
    for word in words {
        let Some(opening) = heredoc::heredoc(&word.text) else {
            sources.push(word);
            continue;
        };
        if opening.name.contains('/') || matches!(opening.name.as_str(), "." | "..") {
            let message = format!("the heredoc {:?} is a file name, which cannot hold a slash", opening.name);
            return arguments.report(Diagnostic::at(word.span, message));
        }
        let body = bodies.iter().rfind(|body| body.name == opening.name);
        heredocs.push(match body {
            Some(body) => Heredoc { body: body.body.clone(), span: body.span, ..opening },
            None => opening,
        });
    }
    let unused = bodies.iter().find(|body| !heredocs.iter().any(|used| used.name == body.name));
    if let Some(unused) = unused {
        let span = arguments.rest.word().span;
        let diagnostic = Diagnostic::at(span, format!("the heredoc {} is not a source", unused.name));
        return arguments.report(diagnostic.help(format!("write <<{} without a space", unused.name)));
    }
    Some((sources, heredocs))
}
