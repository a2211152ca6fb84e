//! Image references (distribution specification; the normal form is docker's).

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// Where an image can be found: a registry, a repository in it, and a tag or a digest or both.
///
/// Short names are completed as docker does: `alpine` is `docker.io/library/alpine:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and port of the registry, `docker.io` where none was written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in the registry, such as `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` where neither tag nor digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository with exactly this content.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Reference { digest: Some(digest), ..self.clone() }
    }

    /// The name as people write it: without `docker.io/library/` and without the tag `latest`.
    pub fn familiar(&self) -> String {
        let mut name = match (self.registry.as_str(), self.repository.strip_prefix("library/")) {
            ("docker.io", Some(short)) => short.to_owned(),
            ("docker.io", None) => self.repository.clone(),
            (registry, _) => format!("{registry}/{}", self.repository),
        };
        if let Some(tag) = self.tag.as_deref().filter(|tag| *tag != "latest") {
            name = format!("{name}:{tag}");
        }
        self.digest.iter().fold(name, |name, digest| format!("{name}@{digest}"))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// A text that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {problem}")]
pub struct InvalidReference {
    /// What was to be a reference.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |problem| InvalidReference { text: text.to_owned(), problem };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| invalid("expected a sha256 digest after @"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("a tag has at most 128 letters, digits, dots, dashes and underscores"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || has_upper(host) => {
                (host.to_owned(), path.to_owned())
            }
            Some(_) => ("docker.io".to_owned(), name.to_owned()),
            None => ("docker.io".to_owned(), format!("library/{name}")),
        };
        let registry = if registry == "index.docker.io" { "docker.io".to_owned() } else { registry };
        let repository =
            if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
        if name.is_empty() {
            return Err(invalid("the name is empty"));
        }
        if has_upper(&repository) {
            return Err(invalid("a repository name must be lower case"));
        }
        if !is_host(&registry) {
            return Err(invalid("the registry is no host name"));
        }
        if repository.len() > 255 || !repository.split('/').all(is_path_component) {
            return Err(invalid(
                "a repository name has lower-case letters and digits, separated by . _ __ - or /",
            ));
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Reference { registry, repository, tag, digest })
    }
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && tag.len() <= 128
}

fn is_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && !port.ends_with(']') => {
            if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return false;
            }
            name
        }
        _ => host,
    };
    let ipv6 = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match ipv6 {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|label| {
            let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
            edge(label.bytes().next())
                && edge(label.bytes().last())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }),
    }
}

/// Lower-case letters and digits, with single separators (`.`, `_`, `__` or any number of `-`) between them.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let edges = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    let separators =
        component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|s| !s.is_empty());
    edges
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|byte| byte == b'-'))
}
