//! Finding and reading the Dockerfile and the ignore file that goes with it.

use std::io::Read;
use std::path::{Path, PathBuf};

use lithify_files::ignore::Ignore;
use lithify_frontend::Source as Text;

use crate::args;
use crate::contexts::{self, Source};
use crate::downloads::Outside;
use crate::exit::{self, Problem};
use crate::sources::{IGNORE_FILES, MainContext, ignore_in, read_ignore};

/// The Dockerfile and the build context.
pub(super) struct Inputs {
    pub(super) text: Text,
    pub(super) context: MainContext,
}

/// What docker and podman call it, the preferred name first.
pub(super) const NAMES: [&str; 4] = ["Dockerfile", "dockerfile", "Containerfile", "containerfile"];

pub(super) fn read(arguments: &args::Dockerfile, outside: &Outside<'_>) -> Result<Inputs, Problem> {
    let from_stdin = arguments.file.as_deref() == Some(Path::new("-"));
    match contexts::parse_main(&arguments.context) {
        Source::Folder(folder) => {
            let metadata = std::fs::metadata(&folder).map_err(|error| {
                Problem::new(
                    exit::USAGE,
                    format_args!("cannot read the build context {}: {error}", folder.display()),
                )
            })?;
            if !metadata.is_dir() {
                let message = format!("the build context {} is no folder", folder.display());
                return Err(Problem::new(exit::USAGE, message));
            }
            if from_stdin {
                let context = MainContext::Folder { ignore: ignore_of(&folder, None)?, path: folder };
                return Ok(Inputs { text: Text { name: "<stdin>".into(), text: stdin()? }, context });
            }
            let path = find(&folder, arguments.file.as_deref())?;
            let text = std::fs::read(&path).map_err(|error| unreadable(&path, &error))?;
            let ignore = ignore_of(&folder, Some(&path))?;
            let name = path.strip_prefix("./").unwrap_or(&path).display().to_string();
            Ok(Inputs { text: Text { name, text }, context: MainContext::Folder { path: folder, ignore } })
        }
        Source::Stdin if from_stdin => {
            Err(Problem::new(exit::USAGE, "standard input cannot be both the context and the Dockerfile"))
        }
        Source::Stdin => super::remote::from_stdin(arguments),
        Source::Git(url) => super::remote::from_git(arguments, &url, outside),
        Source::Url(url) => super::remote::from_url(arguments, &url, outside),
        Source::Image(_) | Source::Scratch | Source::Layout { .. } => {
            Err(Problem::new(exit::USAGE, "an image cannot be the build context"))
        }
    }
}

pub(super) fn stdin() -> Result<Vec<u8>, Problem> {
    let mut text = vec![];
    let read = std::io::stdin().lock().read_to_end(&mut text);
    read.map_err(|error| Problem::caused(exit::USAGE, "cannot read standard input", &error))?;
    Ok(text)
}

/// The Dockerfile's path: the one that was named, else the first of the usual names in the context.
fn find(folder: &Path, named: Option<&Path>) -> Result<PathBuf, Problem> {
    if let Some(named) = named {
        return match named.try_exists() {
            Ok(true) => Ok(named.to_owned()),
            Ok(false) => {
                Err(Problem::new(exit::USAGE, format_args!("there is no Dockerfile {}", named.display())))
            }
            Err(error) => Err(unreadable(named, &error)),
        };
    }
    let candidates = NAMES.iter().map(|name| folder.join(name));
    candidates.clone().find(|path| path.is_file()).ok_or_else(|| {
        let folder = folder.canonicalize().unwrap_or(folder.to_owned());
        let message = match candidates.clone().find(|path| path.is_dir()) {
            Some(path) => format!("{} is a folder, no Dockerfile; name one with --file", path.display()),
            None => {
                format!(
                    "there is no Dockerfile in the build context {}; name one with --file",
                    folder.display()
                )
            }
        };
        Problem::new(exit::USAGE, message)
    })
}

/// The ignore file of the Dockerfile where there is one, else the context's.
fn ignore_of(folder: &Path, dockerfile: Option<&Path>) -> Result<Ignore, Problem> {
    let beside = |path: &Path, ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let own = dockerfile.map(|path| IGNORE_FILES.map(|name| beside(path, name)));
    let file = own.into_iter().flatten().find(|file| file.exists());
    let ignore = match file {
        Some(file) => read_ignore(&file),
        None => ignore_in(folder),
    };
    ignore.map_err(|error| Problem::new(exit::USAGE, error.message))
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(exit::USAGE, format_args!("cannot read the Dockerfile {}: {error}", path.display()))
}
