//! How private repositories and servers let a build in: secrets with the names that BuildKit gives them.

use std::path::PathBuf;

use lithify_engine::Settings;
use lithify_transfer::Secret;
use lithify_transfer::fetch::GitOptions;

/// What may be shown to whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// By id: those that are text.
    secrets: Vec<(String, Secret)>,
    /// The socket of the agent `default`.
    ssh_agent: Option<PathBuf>,
}

impl Access {
    /// What `--secret` and `--ssh` give.
    pub(crate) fn of(settings: &Settings) -> Self {
        let text = |bytes: &Vec<u8>| Some(Secret::new(std::str::from_utf8(bytes).ok()?.trim_end()));
        let secrets = settings.secrets.iter();
        let secrets = secrets.filter_map(|(id, secret)| Some((id.clone(), text(&secret.0)?)));
        Access { secrets: secrets.collect(), ssh_agent: settings.ssh.get("default").cloned() }
    }

    /// GIT_AUTH_TOKEN and GIT_AUTH_HEADER, or those of one host: `GIT_AUTH_TOKEN.example.com`.
    pub(crate) fn git(&self, url: &str) -> GitOptions {
        let named = |name: &str| {
            host(url).and_then(|host| self.find(&format!("{name}.{host}"))).or_else(|| self.find(name))
        };
        GitOptions {
            token: named("GIT_AUTH_TOKEN"),
            authorization: named("GIT_AUTH_HEADER"),
            ssh_agent: self.ssh_agent.clone(),
            ..GitOptions::default()
        }
    }

    /// `HTTP_AUTH_HEADER_example.com`, or a token for the scheme Bearer: `HTTP_AUTH_TOKEN_example.com`.
    pub(crate) fn http(&self, url: &str) -> Option<Secret> {
        let host = host(url)?;
        let token = self.find(&format!("HTTP_AUTH_TOKEN_{host}"));
        let header = self.find(&format!("HTTP_AUTH_HEADER_{host}"));
        header.or_else(|| Some(Secret::new(format!("Bearer {}", token?.reveal()))))
    }

    fn find(&self, id: &str) -> Option<Secret> {
        self.secrets.iter().find(|(known, _)| known == id).map(|(_, secret)| secret.clone())
    }
}

/// Host and port of a URL.
fn host(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

/// A URL without its password.
pub(crate) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        None => url.to_owned(),
        Some((login, host)) => {
            // A user name without a password is a token more often than not, but for ssh, where it has none.
            let user = match login.split_once(':') {
                Some((user, _)) => format!("{user}:xxxxx"),
                None if scheme == "ssh" => login.to_owned(),
                None => "xxxxx".to_owned(),
            };
            format!("{scheme}://{user}@{host}{}", &rest[authority.len()..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let check = |url: &str, expected: &str| assert_eq!(shown(url), expected);
        check("https://h/x@y", "https://h/x@y");
        check("https://a:b@h/x", "https://a:xxxxx@h/x");
        check("https://token@h:1/x", "https://xxxxx@h:1/x");
        check("ssh://git@h/x", "ssh://git@h/x");
        check("git@h:x", "git@h:x");
    }

    #[test]
    fn secrets_go_to_their_hosts() {
        let secret = |id: &str, value: &str| (id.to_owned(), Secret::new(value));
        let access = Access {
            secrets: vec![
                secret("GIT_AUTH_TOKEN", "any"),
                secret("GIT_AUTH_TOKEN.h:1", "one"),
                secret("HTTP_AUTH_TOKEN_h", "t"),
                secret("HTTP_AUTH_HEADER_i", "basic x"),
            ],
            ssh_agent: None,
        };
        let token = |url: &str| access.git(url).token.map(|token| token.reveal().to_owned());
        assert_eq!(token("https://h:1/r.git").as_deref(), Some("one"));
        assert_eq!(token("https://other/r.git").as_deref(), Some("any"));
        let http = |url: &str| access.http(url).map(|secret| secret.reveal().to_owned());
        assert_eq!(http("https://h/f").as_deref(), Some("Bearer t"));
        assert_eq!(http("https://u@i/f").as_deref(), Some("basic x"));
        assert_eq!(http("https://h:2/f"), None);
    }
}
