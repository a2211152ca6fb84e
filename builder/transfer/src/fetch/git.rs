//! Checking out git repositories by the `git` program.
//!
//! What is checked out is hostile: no hook, filter or configuration of a repository is run, only network protocols are
//! followed, and nobody is asked anything.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::process::Command;

use super::git_url::{GitRef, GitUrl, Times, hide_password};
use crate::Error;
use crate::credentials::Secret;

/// How a repository is checked out, apart from what its address says.
#[derive(Clone, Debug)]
pub struct GitOptions {
    /// Whether `.git` stays where the address does not say.
    pub keep_git_dir: bool,
    /// The protocols that git may use, for the repository and its submodules.
    pub protocols: Vec<String>,
    /// A token for http(s): the password of the user `x-access-token`, as forges want it (BuildKit's GIT_AUTH_TOKEN).
    pub token: Option<Secret>,
    /// The whole value of `Authorization` for http(s) (BuildKit's GIT_AUTH_HEADER).
    pub authorization: Option<Secret>,
    /// The socket of an ssh agent; the environment's where nothing is said.
    pub ssh_agent: Option<PathBuf>,
}

impl Default for GitOptions {
    fn default() -> Self {
        GitOptions {
            keep_git_dir: false,
            protocols: ["https", "http", "ssh", "git"].map(str::to_owned).into(),
            token: None,
            authorization: None,
            ssh_agent: None,
        }
    }
}

/// A repository that was checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// The commit, in full.
    pub commit: String,
    /// When it was made, in seconds since 1970.
    pub committed_unix_seconds: u64,
    /// The folder that was asked for: the destination, or the subdirectory in it.
    pub folder: PathBuf,
}

/// Checks a repository out into `dest`, which must be an empty folder or not exist. Files have mode 0644 or 0755, folders
/// 0755. As little history as possible is fetched.
///
/// # Errors
/// [`Error::Git`] with what git said; [`Error::File`].
pub async fn checkout(url: &GitUrl, dest: &Path, options: &GitOptions) -> Result<Checkout, Error> {
    fs::create_dir_all(dest).map_err(Error::file("make", dest))?;
    let git = Git { url, dest, options };
    git.run(&["init", "--quiet", "--template=", "."]).await?;
    git.run(&["remote", "add", "origin", &url.remote]).await?;
    let commit = git.fetch().await?;
    if let Some(checksum) = url.checksum.as_deref().filter(|checksum| !commit.starts_with(checksum)) {
        return Err(git.failed(format!("it is the commit {commit}, where {checksum} is expected")));
    }
    git.run(&["checkout", "--quiet", "--detach", &commit]).await?;
    if url.submodules.unwrap_or(true) && dest.join(".gitmodules").is_file() {
        git.run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1"]).await?;
    }
    let when = git.run(&["show", "--no-patch", "--format=%ct", &commit]).await?;
    let committed_unix_seconds = when.trim().parse().unwrap_or(0);
    let keep = url.keep_git_dir.unwrap_or(options.keep_git_dir);
    let times = (url.times == Some(Times::Commit)).then_some(committed_unix_seconds);
    tidy(dest, keep, times)?;
    let folder = subfolder(dest, url.subdir.as_deref()).ok_or_else(|| {
        git.failed(format!("it has no folder {:?}", url.subdir.as_deref().unwrap_or_default()))
    })?;
    Ok(Checkout { commit, committed_unix_seconds, folder })
}

/// The commit that an address itself names in full, which nobody has to be asked for.
pub fn known_commit(url: &GitUrl) -> Option<String> {
    let is_commit = |name: &&str| matches!(name.len(), 40 | 64) && is_digits(name);
    let by_commit = url.checksum.as_deref().filter(|_| url.fetch_by_commit == Some(true));
    let named = match (&url.reference, by_commit) {
        (_, Some(commit)) => Some(commit),
        (Some(GitRef::Any(name)), None) => Some(name.as_str()),
        _ => None,
    };
    named.filter(is_commit).map(str::to_ascii_lowercase)
}

fn is_digits(name: &str) -> bool {
    name.len() >= 7 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The commit that the address stands for now, in full, without fetching anything; `None` where only a checkout can tell,
/// as for the first digits of a commit.
///
/// # Errors
/// [`Error::Git`] with what git said, and where there is no such reference.
pub async fn resolve(url: &GitUrl, options: &GitOptions) -> Result<Option<String>, Error> {
    let by_commit = url.checksum.is_some() && url.fetch_by_commit == Some(true);
    if let commit @ Some(_) = known_commit(url) {
        return Ok(commit);
    } else if by_commit {
        return Ok(None);
    }
    let names = match &url.reference {
        None => vec!["HEAD".to_owned()],
        Some(GitRef::Branch(name)) => vec![format!("refs/heads/{name}")],
        Some(GitRef::Tag(name)) => vec![format!("refs/tags/{name}")],
        Some(GitRef::Any(name)) if is_digits(name) => return Ok(None),
        // git's own order (gitrevisions).
        Some(GitRef::Any(name)) => {
            ["", "refs/", "refs/tags/", "refs/heads/"].map(|before| format!("{before}{name}")).into()
        }
    };
    let git = Git { url, dest: Path::new("/"), options };
    let mut arguments = vec!["ls-remote", "--quiet", "--end-of-options", &url.remote];
    let peeled: Vec<String> = names.iter().map(|name| format!("{name}^{{}}")).collect();
    arguments.extend(names.iter().chain(&peeled).map(String::as_str));
    let listed = git.run(&arguments).await?;
    let find = |wanted: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
        lines.find(|(_, name)| *name == wanted).map(|(commit, _)| commit.to_owned())
    };
    // An annotated tag is an object of its own, which the peeled name looks through.
    let found = names.iter().zip(&peeled).find_map(|(name, peeled)| find(peeled).or_else(|| find(name)));
    let commit = found.ok_or_else(|| git.failed("it has no such branch, tag or reference".to_owned()))?;
    if let Some(checksum) = url.checksum.as_deref().filter(|checksum| !commit.starts_with(checksum)) {
        return Err(git.failed(format!("it is the commit {commit}, where {checksum} is expected")));
    }
    Ok(Some(commit))
}

struct Git<'a> {
    url: &'a GitUrl,
    dest: &'a Path,
    options: &'a GitOptions,
}

impl Git<'_> {
    /// Fetches what is wanted and returns its commit.
    async fn fetch(&self) -> Result<String, Error> {
        let by_commit = self.url.checksum.as_deref().filter(|_| self.url.fetch_by_commit == Some(true));
        let wanted = match (&self.url.reference, by_commit) {
            (_, Some(commit)) => commit.to_owned(),
            (None, None) => "HEAD".into(),
            (Some(GitRef::Any(name)), None) => name.clone(),
            (Some(GitRef::Branch(name)), None) => format!("refs/heads/{name}"),
            (Some(GitRef::Tag(name)), None) => format!("refs/tags/{name}"),
        };
        let is_commit = wanted.len() >= 7 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
        let error = match self.fetch_one(&wanted).await {
            Ok(()) => return self.commit_of("FETCH_HEAD").await,
            Err(error) => error,
        };
        // Some servers send no shallow history, or no commit that has no name.
        let needs_all =
            is_commit || matches!(&error, Error::Git { problem, .. } if problem.contains("shallow"));
        if !needs_all {
            return Err(error);
        }
        let all = [
            "+HEAD:refs/remotes/origin/HEAD",
            "+refs/heads/*:refs/remotes/origin/*",
            "+refs/tags/*:refs/tags/*",
        ];
        let mut arguments = vec!["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "origin"];
        arguments.extend(all);
        self.run(&arguments).await?;
        let branch = wanted.strip_prefix("refs/heads/").unwrap_or(&wanted);
        let names = [wanted.clone(), format!("refs/tags/{wanted}"), format!("refs/remotes/origin/{branch}")];
        for name in names {
            if let Ok(commit) = self.commit_of(&name).await {
                return Ok(commit);
            }
        }
        Err(error)
    }

    async fn fetch_one(&self, wanted: &str) -> Result<(), Error> {
        let arguments = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--depth=1",
            "--no-recurse-submodules",
            "--end-of-options",
            "origin",
        ];
        let mut arguments = arguments.to_vec();
        arguments.push(wanted);
        self.run(&arguments).await.map(|_| ())
    }

    async fn commit_of(&self, name: &str) -> Result<String, Error> {
        let commit = self.run(&["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]).await?;
        Ok(commit.trim().to_owned())
    }

    /// Runs git and returns what it printed.
    async fn run(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut command = Command::new("git");
        // Nothing of the environment may lead git to other repositories, programs or settings.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("GIT_") && !text.starts_with("GIT_SSL_CA") {
                command.env_remove(&name);
            }
        }
        // Trust what the rest of this program trusts.
        if let (Some(bundle), None) = (std::env::var_os("SSL_CERT_FILE"), std::env::var_os("GIT_SSL_CAINFO"))
        {
            command.env("GIT_SSL_CAINFO", bundle);
        }
        command
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "core.fsmonitor=false",
                "-c",
                "core.symlinks=true",
            ])
            .args(["-c", "core.autocrlf=false", "-c", "gc.auto=0", "-c", "maintenance.auto=false"])
            .args([
                "-c",
                "init.defaultBranch=main",
                "-c",
                "advice.detachedHead=false",
                "-c",
                "credential.helper=",
            ])
            .args(arguments)
            .current_dir(self.dest)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "true")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("GIT_ALLOW_PROTOCOL", self.options.protocols.join(":"))
            .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
            .env("GIT_CEILING_DIRECTORIES", self.dest.parent().unwrap_or(Path::new("/")))
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(socket) = &self.options.ssh_agent {
            command.env("SSH_AUTH_SOCK", socket);
        }
        if let Some((key, value)) = self.authorization() {
            // In the environment, because arguments can be seen by every user of the machine.
            command
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", key)
                .env("GIT_CONFIG_VALUE_0", value);
        }
        let output = command.output().await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => self.failed("the program git is not installed".into()),
            _ => self.failed(format!("git cannot be started: {error}")),
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).replace(&self.url.remote, &self.url.shown());
        let lines: Vec<String> =
            said.lines().map(str::trim).filter(|line| !line.is_empty()).map(hide_password).collect();
        let step = arguments.first().copied().unwrap_or_default();
        Err(self.failed(format!("git {step} ended with {}: {}", output.status, lines.join("; "))))
    }

    /// The setting that authenticates with this host, and with no other.
    fn authorization(&self) -> Option<(String, String)> {
        let url = reqwest::Url::parse(&self.url.remote)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let value = match (&self.options.authorization, &self.options.token) {
            (Some(header), _) => header.reveal().to_owned(),
            (None, Some(token)) => {
                format!("basic {}", STANDARD.encode(format!("x-access-token:{}", token.reveal())))
            }
            (None, None) => return None,
        };
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let key = format!("http.{}://{}{port}/.extraHeader", url.scheme(), url.host_str()?);
        Some((key, format!("Authorization: {value}")))
    }

    fn failed(&self, problem: String) -> Error {
        let reference = match &self.url.reference {
            Some(GitRef::Any(name) | GitRef::Branch(name) | GitRef::Tag(name)) => format!("{name} of "),
            None => String::new(),
        };
        Error::Git { asked: format!("check out {reference}{}", self.url.shown()), problem }
    }
}

/// Gives files the modes that git knows, whatever the umask, and the time that was asked for, and removes git's own files
/// unless they are kept. Git lets no repository hold a path named `.git`, so every such path is its own.
fn tidy(folder: &Path, keep_git_dir: bool, modified_unix_seconds: Option<u64>) -> Result<(), Error> {
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(Error::file("set the mode of", path))
    };
    let modified = modified_unix_seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let date = |path: &Path| match modified {
        Some(modified) => fs::File::open(path)
            .and_then(|file| file.set_modified(modified))
            .map_err(Error::file("set the time of", path)),
        None => Ok(()),
    };
    let mut folders = vec![folder.to_path_buf()];
    let mut at = 0;
    while let Some(folder) = folders.get(at).cloned() {
        at += 1;
        mode(&folder, 0o755)?;
        for entry in fs::read_dir(&folder).map_err(Error::file("list", &folder))? {
            let entry = entry.map_err(Error::file("list", &folder))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(Error::file("list", &folder))?);
            match entry.file_name() == ".git" {
                true if keep_git_dir => {}
                true if kind.is_dir() => fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?,
                true => fs::remove_file(&path).map_err(Error::file("remove", &path))?,
                false if kind.is_dir() => folders.push(path),
                false if kind.is_file() => {
                    let metadata = entry.metadata().map_err(Error::file("read", &path))?;
                    let is_program = metadata.permissions().mode() & 0o100 != 0;
                    mode(&path, if is_program { 0o755 } else { 0o644 })?;
                    date(&path)?;
                }
                false => {}
            }
        }
    }
    folders.iter().try_for_each(|folder| date(folder))
}

/// The folder below `dest`, unless it is none or lies behind a symlink, which could lead anywhere.
fn subfolder(dest: &Path, subdir: Option<&str>) -> Option<PathBuf> {
    let mut folder = dest.to_path_buf();
    for part in subdir.into_iter().flat_map(|subdir| subdir.split('/')) {
        folder.push(part);
        if !fs::symlink_metadata(&folder).ok()?.is_dir() {
            return None;
        }
    }
    Some(folder)
}

#[cfg(test)]
mod tests;
