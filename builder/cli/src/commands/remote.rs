//! Build contexts that are not folders of this machine.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithify_engine::FileSource;
use lithify_files::archive;
use lithify_frontend::Source as Text;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::dockerfile::{Inputs, NAMES, stdin, unreadable};
use crate::args;
use crate::downloads::{self, Outside};
use crate::exit::{self, Problem};
use crate::render::say;
use crate::sources::{MainContext, temporary_folder};

/// An archive on standard input is a context; anything else is a Dockerfile, which comes without files.
pub(super) fn from_stdin(arguments: &args::Dockerfile) -> Result<Inputs, Problem> {
    let failed = |error: std::io::Error| Problem::caused(exit::USAGE, "cannot read standard input", &error);
    let mut spool = tempfile::tempfile().map_err(failed)?;
    std::io::copy(&mut std::io::stdin().lock(), &mut spool).map_err(failed)?;
    if let Some(source) = unpacked(&spool, "standard input")? {
        return with_dockerfile(arguments, source);
    }
    if arguments.file.is_some() {
        let message = "--file names a Dockerfile, and standard input is one too; use a folder as the context";
        return Err(Problem::new(exit::USAGE, message));
    }
    let mut text = vec![];
    spool.rewind().and_then(|()| spool.read_to_end(&mut text)).map_err(failed)?;
    Ok(Inputs { text: Text { name: "<stdin>".into(), text }, context: MainContext::Empty })
}

/// A repository with a Dockerfile in it.
pub(super) fn from_git(
    arguments: &args::Dockerfile,
    url: &str,
    outside: &Outside<'_>,
) -> Result<Inputs, Problem> {
    let keep = arguments.build_arg.iter().any(|arg| arg == "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1");
    let source =
        outside.git(url, true, keep, None).map_err(|error| Problem::new(exit::SOURCE, error.message))?;
    with_dockerfile(arguments, source)
}

/// An archive on an HTTP server is a context; anything else there is a Dockerfile, which comes with nothing but itself, as
/// a file called `context`.
pub(super) fn from_url(
    arguments: &args::Dockerfile,
    url: &str,
    outside: &Outside<'_>,
) -> Result<Inputs, Problem> {
    let failed = |error: lithify_engine::SourceError| Problem::new(exit::SOURCE, error.message);
    let file = outside.file(url, None).map_err(failed)?;
    let opened = outside
        .store
        .open_blob(&file.digest)
        .map_err(|error| Problem::caused(exit::STORE, format_args!("cannot read what {url} sent"), &error))?;
    if let Some(source) = unpacked(&opened, url)? {
        return with_dockerfile(arguments, source);
    }
    let source = downloads::folder_of(outside.store, &file, "context").map_err(failed)?;
    if arguments.file.is_some() {
        return with_dockerfile(arguments, source);
    }
    let text = read_inside(&source, Path::new("context"))
        .map_err(|error| unreadable(Path::new(url), &error))?
        .unwrap_or_default();
    Ok(Inputs { text: Text { name: url.to_owned(), text }, context: MainContext::Fetched(Arc::new(source)) })
}

/// The archive's files in a folder that is gone when the build is; `None` where `file` is no archive.
fn unpacked(file: &File, what: &str) -> Result<Option<FileSource>, Problem> {
    Ok(unpacked_at(file, what)?.map(|(source, _)| source))
}

/// The same, and the path of that folder.
pub(super) fn unpacked_at(file: &File, what: &str) -> Result<Option<(FileSource, PathBuf)>, Problem> {
    let failed = |error: std::io::Error| {
        Problem::caused(exit::SOURCE, format_args!("{what} cannot be unpacked as the build context"), &error)
    };
    let Some(archive) = file.try_clone().and_then(archive::open).map_err(failed)? else {
        return match archive::is_compressed(file).map_err(failed)? {
            true => {
                let message = format!("{what} is compressed, but there is no tar archive in it");
                Err(Problem::new(exit::SOURCE, message))
            }
            false => Ok(None),
        };
    };
    let (source, folder) = temporary_folder().map_err(|error| Problem::new(exit::SOURCE, error.message))?;
    for path in archive.unpack(source.root.as_fd()).map_err(failed)? {
        say(format_args!("warning: {path} of {what} is a device node, and is left out"));
    }
    Ok(Some((source, folder)))
}

/// The Dockerfile of a context that was fetched: the one that was named, in the context or else here, or one of the usual
/// names in the context.
fn with_dockerfile(arguments: &args::Dockerfile, source: FileSource) -> Result<Inputs, Problem> {
    let text = match arguments.file.as_deref() {
        Some(file) if file == Path::new("-") => match arguments.context == "-" {
            true => {
                let message = "standard input cannot be both the context and the Dockerfile";
                return Err(Problem::new(exit::USAGE, message));
            }
            false => Text { name: "<stdin>".into(), text: stdin()? },
        },
        Some(file) => {
            let inside = match file.is_absolute() {
                true => None,
                false => read_inside(&source, file).map_err(|error| unreadable(file, &error))?,
            };
            let text = match inside {
                Some(text) => text,
                None => std::fs::read(file).map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        let message = format!(
                            "there is no Dockerfile {} in the build context {}, and none here",
                            file.display(),
                            arguments.context
                        );
                        Problem::new(exit::USAGE, message)
                    }
                    _ => unreadable(file, &error),
                })?,
            };
            Text { name: file.display().to_string(), text }
        }
        None => usual(arguments, &source)?,
    };
    Ok(Inputs { text, context: MainContext::Fetched(Arc::new(source)) })
}

fn usual(arguments: &args::Dockerfile, source: &FileSource) -> Result<Text, Problem> {
    for name in NAMES {
        let read = read_inside(source, Path::new(name));
        if let Some(text) = read.map_err(|error| unreadable(Path::new(name), &error))? {
            return Ok(Text { name: name.to_owned(), text });
        }
    }
    let message =
        format!("there is no Dockerfile in the build context {}; name one with --file", arguments.context);
    Err(Problem::new(exit::USAGE, message))
}

/// A regular file of a folder whose links may say anything: they are followed inside it only.
fn read_inside(source: &FileSource, path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened: OwnedFd = match rustix::fs::openat2(&source.root, path, flags, Mode::empty(), resolve) {
        Ok(opened) => opened,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut file = File::from(opened);
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut text = vec![];
    file.read_to_end(&mut text)?;
    Ok(Some(text))
}
