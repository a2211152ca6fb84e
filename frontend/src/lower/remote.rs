//! Sources of ADD that are not files: URLs and git repositories.

/// What a source of ADD is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remote {
    /// A path in the context.
    Local,
    /// One file.
    Http,
    /// A repository.
    Git(GitQuery),
}

/// What the query of a repository's URL says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GitQuery {
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) checksum: Option<String>,
}

/// What a source is; an error for a repository with a query that is not understood.
pub(crate) fn classify(source: &str) -> Result<Remote, String> {
    if source.starts_with("./") || source.starts_with("../") {
        return Ok(Remote::Local);
    }
    let (rest, query) = split_query(source);
    if let Some((scheme, after)) = rest.split_once("://") {
        let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let path = after.split_once('/').map_or("", |(_, path)| path);
        return match scheme.to_ascii_lowercase().as_str() {
            "ssh" | "git" => git_query(query).map(Remote::Git),
            "http" | "https" if path.ends_with(".git") => git_query(query).map(Remote::Git),
            "http" | "https" if scheme.starts_with('h') => Ok(Remote::Http),
            _ if is_scheme => Err(format!("invalid source {source:?}: the scheme {scheme} is not supported")),
            _ => Ok(Remote::Local),
        };
    }
    match is_scp_style(rest) {
        true => git_query(query).map(Remote::Git),
        false => Ok(Remote::Local),
    }
}

/// The part before `?` and `#`, and the query.
fn split_query(source: &str) -> (&str, &str) {
    let (before, _) = source.split_once('#').unwrap_or((source, ""));
    before.split_once('?').unwrap_or((before, ""))
}

/// `user@host:path`
fn is_scp_style(text: &str) -> bool {
    let Some((login, _)) = text.split_once(':') else { return false };
    let Some((user, host)) = login.split_once('@') else { return false };
    let is = |text: &str, extra: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
    };
    is(user, b"-_") && is(host, b"-.")
}

fn git_query(query: &str) -> Result<GitQuery, String> {
    let mut parsed = GitQuery::default();
    let mut seen: Vec<&str> = vec![];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if seen.contains(&key) {
            return Err(format!("query {key:?} has multiple values"));
        }
        let flag = match value {
            "" => Some(true),
            value => crate::lint::parse_bool(value),
        };
        match key {
            "keep-git-dir" | "submodules" | "fetch-by-commit" => {
                let flag = flag.ok_or_else(|| format!("invalid {key} value: {value:?}"))?;
                parsed.keep_git_dir = parsed.keep_git_dir.or((key == "keep-git-dir").then_some(flag));
            }
            "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" | "mtime" if value.is_empty() => {
                return Err(format!("query {key:?} has no value"));
            }
            "checksum" | "commit" => parsed.checksum = Some(value.to_owned()),
            "mtime" if !matches!(value, "checkout" | "commit") => {
                return Err(format!("invalid mtime value: {value:?} (must be \"checkout\" or \"commit\")"));
            }
            "branch" if seen.contains(&"tag") => return Err("branch conflicts with tag".into()),
            "tag" if seen.contains(&"branch") => return Err("branch conflicts with tag".into()),
            "ref" | "tag" | "branch" | "subdir" | "mtime" => {}
            _ => return Err(format!("unexpected query {key:?}")),
        }
        seen.push(key);
    }
    Ok(parsed)
}

/// A file name as a pattern that matches it alone.
pub(crate) fn literal_pattern(name: &str) -> String {
    let mut pattern = String::new();
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}
