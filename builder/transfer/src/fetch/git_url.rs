//! How git repositories are written in Dockerfiles and on the command line (BuildKit, util/gitutil and
//! frontend/dockerfile/dfgitutil).

use reqwest::Url;

use crate::Error;

/// A git repository, and what is wanted of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitUrl {
    /// What git is given: no fragment, no query.
    pub remote: String,
    /// What to check out; the remote's default branch where nothing is said.
    pub reference: Option<GitRef>,
    /// The folder in the repository, relative, without `.` and `..`.
    pub subdir: Option<String>,
    /// The commit that it must be: hexadecimal digits, at least the first seven.
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched; they are where nothing is said.
    pub submodules: Option<bool>,
    /// What times the files are to have.
    pub times: Option<Times>,
    /// Whether the commit of `checksum` is asked for by itself, whatever the reference has become.
    pub fetch_by_commit: Option<bool>,
}

/// What to check out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitRef {
    /// A branch, tag, full reference or commit: whatever fits.
    Any(String),
    /// A branch only.
    Branch(String),
    /// A tag only.
    Tag(String),
}

/// The times of files that git checked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// When they were checked out.
    Checkout,
    /// When the commit was made.
    Commit,
}

impl GitUrl {
    /// Reads a source of ADD. `None` for what is no git repository.
    ///
    /// # Errors
    /// [`Error::Address`] for a repository whose query or fragment is wrong.
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        match text.split_once("://") {
            Some((scheme, _)) => Self::parse_url(text, scheme),
            None => Self::parse_scp(text),
        }
    }

    /// Reads a context, which may also be `github.com/owner/repository` without a scheme.
    ///
    /// # Errors
    /// As [`GitUrl::parse`].
    pub fn parse_context(text: &str) -> Result<Option<Self>, Error> {
        if text.starts_with("github.com/") {
            let url = format!("https://{text}");
            let (remote, query, fragment) = split(&url);
            return Self::build(text, remote.to_owned(), query, fragment).map(Some);
        }
        Self::parse(text)
    }

    fn parse_url(text: &str, scheme: &str) -> Result<Option<Self>, Error> {
        let is_web = matches!(scheme, "http" | "https");
        if !is_web && !matches!(scheme, "ssh" | "git") {
            return Ok(None);
        }
        let (remote, query, fragment) = split(text);
        if is_web && !remote.ends_with(".git") {
            return Ok(None);
        }
        let url = Url::parse(remote).map_err(|error| problem(text, error.to_string()))?;
        if url.host_str().is_none_or(|host| host.is_empty() || host.starts_with('-')) {
            return Err(problem(text, "it names no host"));
        }
        Self::build(text, remote.to_owned(), query, fragment).map(Some)
    }

    /// `user@host:path`
    fn parse_scp(text: &str) -> Result<Option<Self>, Error> {
        let (remote, query, fragment) = split(text);
        let Some(((user, host), path)) =
            remote.split_once(':').and_then(|(login, path)| Some((login.split_once('@')?, path)))
        else {
            return Ok(None);
        };
        let good = |part: &str, others: &[char]| {
            !part.is_empty()
                && !part.starts_with('-')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(&c))
        };
        if !good(user, &['-', '_']) || !good(host, &['-', '.']) || path.is_empty() {
            return Ok(None);
        }
        Self::build(text, remote.to_owned(), query, fragment).map(Some)
    }

    fn build(text: &str, remote: String, query: Option<&str>, fragment: Option<&str>) -> Result<Self, Error> {
        let mut git = GitUrl { remote, ..GitUrl::default() };
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            git.reference = (!reference.is_empty()).then(|| GitRef::Any(reference.into()));
            git.set_subdir(text, subdir)?;
        }
        if let Some(query) = query {
            git.read_query(text, query, fragment.is_some())?;
        }
        let name = match &git.reference {
            Some(GitRef::Any(name) | GitRef::Branch(name) | GitRef::Tag(name)) => name.as_str(),
            None => "",
        };
        // git would take these for options, or for more than a name.
        if name.starts_with('-')
            || name.contains("..")
            || name.contains(|c: char| c.is_whitespace() || c.is_control() || ":?*[\\^~".contains(c))
        {
            return Err(problem(text, format!("{name:?} is no name of a branch, tag or commit")));
        }
        Ok(git)
    }

    fn set_subdir(&mut self, text: &str, subdir: &str) -> Result<(), Error> {
        let parts: Vec<&str> = subdir.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(problem(text, "the folder leads out of the repository"));
        }
        self.subdir = (!parts.is_empty()).then(|| parts.join("/"));
        Ok(())
    }

    fn read_query(&mut self, text: &str, query: &str, has_fragment: bool) -> Result<(), Error> {
        let fail = |message: String| Err(problem(text, message));
        let mut seen = vec![];
        let mut kind = None;
        let base = Url::parse("query:/").map_err(|error| problem(text, error.to_string()))?;
        let mut url = base;
        url.set_query(Some(query));
        for (key, value) in url.query_pairs() {
            let key = match key.as_ref() {
                "commit" => "checksum",
                key => key,
            };
            if seen.iter().any(|old| old == key) {
                return fail(format!("the query has {key} twice"));
            }
            seen.push(key.to_owned());
            let is_switch = matches!(key, "keep-git-dir" | "submodules" | "fetch-by-commit");
            if value.is_empty() && !is_switch {
                return fail(format!("{key} in the query has no value"));
            }
            match key {
                "ref" | "branch" | "tag" => {
                    if let Some(other) = kind.replace(key.to_owned()) {
                        return fail(format!("{other} and {key} exclude each other"));
                    }
                    let value = value.into_owned();
                    let given = match key {
                        "branch" => {
                            GitRef::Branch(value.strip_prefix("refs/heads/").unwrap_or(&value).into())
                        }
                        "tag" => GitRef::Tag(value.strip_prefix("refs/tags/").unwrap_or(&value).into()),
                        _ => GitRef::Any(value),
                    };
                    if self.reference.as_ref().is_some_and(|fragment| *fragment != given) {
                        return fail(format!("{key} in the query and the reference after # disagree"));
                    }
                    self.reference = Some(given);
                }
                "subdir" => {
                    let before = self.subdir.take();
                    self.set_subdir(text, &value)?;
                    if has_fragment && before.is_some() && before != self.subdir {
                        return fail("subdir in the query and the folder after # disagree".into());
                    }
                }
                "checksum" => {
                    if !(7..=64).contains(&value.len()) || !value.bytes().all(|byte| byte.is_ascii_hexdigit())
                    {
                        return fail(format!("{value:?} is no commit: expected 7 to 64 hexadecimal digits"));
                    }
                    self.checksum = Some(value.to_ascii_lowercase());
                }
                "keep-git-dir" => self.keep_git_dir = Some(switch(text, key, &value)?),
                "submodules" => self.submodules = Some(switch(text, key, &value)?),
                "fetch-by-commit" => self.fetch_by_commit = Some(switch(text, key, &value)?),
                "mtime" => {
                    self.times = Some(match value.as_ref() {
                        "checkout" => Times::Checkout,
                        "commit" => Times::Commit,
                        _ => return fail(format!("mtime is {value:?}: expected checkout or commit")),
                    });
                }
                _ => return fail(format!("unknown key {key:?} in the query")),
            }
        }
        Ok(())
    }

    /// The last part of the repository's path, without `.git`: what people call it.
    pub fn short_name(&self) -> &str {
        let last = self.remote.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
        last.strip_suffix(".git").unwrap_or(last)
    }

    /// The address without a password, for messages.
    pub fn shown(&self) -> String {
        hide_password(&self.remote)
    }
}

/// Go's strconv.ParseBool, where nothing means yes.
fn switch(text: &str, key: &str, value: &str) -> Result<bool, Error> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(problem(text, format!("{key} is {value:?}: expected true or false"))),
    }
}

fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, fragment) =
        text.split_once('#').map_or((text, None), |(rest, fragment)| (rest, Some(fragment)));
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    (rest, query, fragment.filter(|fragment| !fragment.is_empty()))
}

fn problem(text: &str, problem: impl Into<String>) -> Error {
    Error::Address { url: hide_password(text), problem: problem.into() }
}

/// Hides passwords, and for http(s) user names that stand alone: those are tokens more often than not.
pub(super) fn hide_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((login, host)) = authority.rsplit_once('@') else { return text.to_owned() };
    let login = match login.split_once(':') {
        Some((user, _)) => format!("{user}:xxxxx"),
        None if scheme.ends_with("http") || scheme.ends_with("https") => "xxxxx".to_owned(),
        None => login.to_owned(),
    };
    format!("{scheme}://{login}@{host}{path}")
}

#[cfg(test)]
mod tests;
