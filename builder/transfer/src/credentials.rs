//! Logins from docker's configuration file (`~/.docker/config.json`), and podman's (`auth.json`), which is alike.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use crate::Error;

/// Docker Hub's name in docker's configuration.
const HUB: &str = "https://index.docker.io/v1/";

/// A text that never shows itself.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being printed.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What proves who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A user name and a password.
    Password {
        /// The user's name.
        user: String,
        /// The password, or a personal access token.
        password: Secret,
    },
    /// An OAuth2 refresh token, which docker calls identity token.
    IdentityToken(Secret),
}

/// The logins that are known, and the programs that know more.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    logins: BTreeMap<String, Login>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfigFile {
    auths: BTreeMap<String, Auth>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
}

impl Credentials {
    /// Reads docker's configuration file; a file that does not exist holds no logins.
    ///
    /// # Errors
    /// [`Error::CredentialsFile`] for a file that cannot be read or understood.
    pub fn from_docker_config(path: &Path) -> Result<Self, Error> {
        let invalid = |problem: String| Error::CredentialsFile { path: path.into(), problem };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(invalid(error.to_string())),
        };
        // serde's messages can quote what they stumble over; the place is enough.
        let file: ConfigFile = serde_json::from_slice(&text).map_err(|error| {
            invalid(format!(
                "invalid JSON or unexpected value at line {}, column {}",
                error.line(),
                error.column()
            ))
        })?;
        let mut logins = BTreeMap::new();
        for (name, auth) in file.auths {
            let login = auth.login().map_err(|problem| invalid(format!("entry {name:?}: {problem}")))?;
            logins.extend(login.map(|login| (normal(&name), login)));
        }
        let helpers = file.helpers.into_iter().map(|(name, helper)| (normal(&name), helper)).collect();
        Ok(Credentials { logins, helpers, store: file.store.filter(|store| !store.is_empty()) })
    }

    /// Adds a login for a registry.
    #[must_use]
    pub fn with_login(mut self, registry: &str, login: Login) -> Self {
        self.logins.insert(normal(registry), login);
        self
    }

    /// The login for a repository: the registry's helper program is asked first, then what the file holds (podman's
    /// may name part of a repository; the longest fits best), then the default program.
    ///
    /// # Errors
    /// [`Error::CredentialHelper`] where a program fails for another reason than knowing nothing.
    pub async fn find(&self, registry: &str, repository: &str) -> Result<Option<Login>, Error> {
        let host = normal(registry);
        if let Some(helper) = self.helpers.get(&host) {
            return ask_helper(&helper_program(helper, registry)?, registry).await;
        }
        let whole = format!("{host}/{repository}");
        let mut name = whole.as_str();
        loop {
            if let Some(login) = self.logins.get(name) {
                return Ok(Some(login.clone()));
            }
            match name.rsplit_once('/') {
                Some((shorter, _)) => name = shorter,
                None => break,
            }
        }
        match &self.store {
            Some(store) => ask_helper(&helper_program(store, registry)?, registry).await,
            None => Ok(None),
        }
    }
}

impl Auth {
    fn login(self) -> Result<Option<Login>, &'static str> {
        if !self.identity_token.is_empty() {
            return Ok(Some(Login::IdentityToken(Secret(self.identity_token))));
        }
        let (user, password) = if self.auth.is_empty() {
            (self.username, self.password)
        } else {
            let text = self.auth.trim();
            let bytes = STANDARD
                .decode(text)
                .or_else(|_| STANDARD_NO_PAD.decode(text))
                .map_err(|_| "\"auth\" is not base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "\"auth\" is not UTF-8")?;
            let (user, password) =
                text.split_once(':').ok_or("\"auth\" has no colon between user and password")?;
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        let empty = user.is_empty() && password.is_empty();
        Ok((!empty).then_some(Login::Password { user, password: Secret(password) }))
    }
}

/// The host, or host and path, that an entry is for, without the decoration that tools have added over the years.
fn normal(name: &str) -> String {
    let bare = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let bare = bare.trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    let (host, path) = bare.split_once('/').map_or((bare, None), |(host, path)| (host, Some(path)));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

fn helper_program(name: &str, registry: &str) -> Result<String, Error> {
    let program = format!("docker-credential-{name}");
    if name.contains('/') {
        let problem = "its name must not contain a slash".into();
        return Err(Error::CredentialHelper { program, registry: registry.into(), problem });
    }
    Ok(program)
}

/// Runs `docker-credential-NAME get` (docker-credential-helpers, "Development").
async fn ask_helper(program: &str, registry: &str) -> Result<Option<Login>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    let failed = |problem: String| Error::CredentialHelper {
        program: program.into(),
        registry: registry.into(),
        problem,
    };
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            failed(format!("cannot be started ({error}); install it or remove it from the configuration"))
        })?;
    let question = if normal(registry) == "docker.io" { HUB } else { registry };
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its question answers something else, which shows below.
        let _ = stdin.write_all(question.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if said.contains("credentials not found") || said.contains("no credentials") {
            return Ok(None);
        }
        return Err(failed(format!("{}: {}", output.status, said.trim())));
    }
    // The text of a parse error could quote the secret.
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("its answer is no JSON".into()))?;
    Ok(match (answer.username.as_str(), answer.secret) {
        ("", secret) if secret.is_empty() => None,
        ("<token>", secret) => Some(Login::IdentityToken(Secret(secret))),
        (user, secret) => Some(Login::Password { user: user.into(), password: Secret(secret) }),
    })
}

#[cfg(test)]
mod tests;
