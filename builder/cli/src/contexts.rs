//! Where files and images beside the Dockerfile come from: the build context and `--build-context`.

use std::path::PathBuf;
use std::str::FromStr;

use lithify_oci::{Digest, Reference};

use crate::exit::{self, Problem};

/// What a context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A folder of this machine.
    Folder(PathBuf),
    /// An image in the store or a registry.
    Image(Reference),
    /// The empty image.
    Scratch,
    /// An image in an OCI layout: a folder or an archive.
    Layout { path: PathBuf, tag: Option<String>, digest: Option<Digest> },
    /// A git repository, with fragment and query.
    Git(String),
    /// A file or archive on an HTTP server.
    Url(String),
    /// Standard input: an archive or a Dockerfile.
    Stdin,
}

impl Source {
    /// Whether this is an image rather than files.
    pub(crate) fn is_image(&self) -> bool {
        matches!(self, Source::Image(_) | Source::Scratch | Source::Layout { .. })
    }
}

/// Parses the CONTEXT argument.
pub(crate) fn parse_main(text: &str) -> Source {
    match text {
        "-" => Source::Stdin,
        text if is_git(text) => Source::Git(text.to_owned()),
        text if is_http(text) => Source::Url(text.to_owned()),
        text => Source::Folder(PathBuf::from(text)),
    }
}

/// Parses `NAME=SOURCE`.
pub(crate) fn parse_named(text: &str) -> Result<(String, Source), Problem> {
    let wrong = |why: &str| Problem::new(exit::USAGE, format_args!("--build-context {text}: {why}"));
    let (name, source) = text.split_once('=').ok_or_else(|| wrong("expected NAME=SOURCE"))?;
    if name.is_empty() || source.is_empty() {
        return Err(wrong("expected NAME=SOURCE"));
    }
    let source = if let Some(reference) = source.strip_prefix("docker-image://") {
        if reference == "scratch" {
            Source::Scratch
        } else {
            Source::Image(Reference::from_str(reference).map_err(|error| wrong(&error.to_string()))?)
        }
    } else if let Some(layout) = source.strip_prefix("oci-layout://") {
        parse_layout(layout).map_err(|why| wrong(&why))?
    } else if source.starts_with("target:") {
        return Err(wrong(
            "target: contexts name other targets of a bake file, which lithify does not read yet",
        ));
    } else if is_git(source) {
        Source::Git(source.to_owned())
    } else if is_http(source) {
        Source::Url(source.to_owned())
    } else {
        Source::Folder(PathBuf::from(source))
    };
    Ok((name.to_owned(), source))
}

fn parse_layout(text: &str) -> Result<Source, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|error| error.to_string())?)),
        None => (text, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    Ok(Source::Layout { path: PathBuf::from(path), tag, digest })
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Contexts may leave out the scheme of github.com, as docker's may.
fn is_git(text: &str) -> bool {
    let without_fragment = text.split(['#', '?']).next().unwrap_or_default();
    text.starts_with("git://")
        || text.starts_with("ssh://")
        || text.starts_with("git@")
        || text.starts_with("github.com/")
        || is_http(text) && without_fragment.ends_with(".git")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn main_context(text: &str, expected: Source) {
        assert_eq!(parse_main(text), expected, "{text}");
    }

    #[test]
    fn main_contexts() {
        main_context("-", Source::Stdin);
        main_context(".", Source::Folder(".".into()));
        main_context("a/b.git", Source::Folder("a/b.git".into()));
        main_context("https://h/x.git#main:sub", Source::Git("https://h/x.git#main:sub".into()));
        main_context("https://h/x.tar.gz", Source::Url("https://h/x.tar.gz".into()));
        main_context("git@h:x", Source::Git("git@h:x".into()));
        main_context("github.com/o/r", Source::Git("github.com/o/r".into()));
    }

    #[test]
    fn named_contexts() {
        let layout = |path: &str, tag: Option<&str>| Source::Layout {
            path: path.into(),
            tag: tag.map(str::to_owned),
            digest: None,
        };
        let check =
            |text: &str, expected: Source| assert_eq!(parse_named(text).unwrap().1, expected, "{text}");
        check("a=dir", Source::Folder("dir".into()));
        check("a=oci-layout:///x/y", layout("/x/y", None));
        check("a=oci-layout:///x/y:v1", layout("/x/y", Some("v1")));
        check("a=docker-image://alpine", Source::Image("alpine".parse().unwrap()));
        check("a=docker-image://scratch", Source::Scratch);
    }

    #[test]
    fn wrong_named_contexts() {
        for text in ["a", "=b", "a=", "a=docker-image://UPPER", "a=oci-layout:///x@sha256:1", "a=target:b"] {
            assert!(parse_named(text).is_err(), "{text}");
        }
    }
}
