//! A real registry (Debian's `docker-registry`) on a loopback port.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use tempfile::TempDir;

/// A name and a password for basic authentication.
#[derive(Clone, Copy, Debug)]
pub struct Login {
    /// The user's name.
    pub name: &'static str,
    /// The password, as it goes over the wire.
    pub password: &'static str,
}

impl Login {
    /// What stands in `auth` of `~/.docker/config.json` and behind `Authorization: Basic`.
    pub fn encoded(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", self.name, self.password))
    }

    /// A `~/.docker/config.json` with this login for `registry` (`host:port`).
    pub fn docker_config(&self, registry: &str) -> String {
        serde_json::json!({ "auths": { registry: { "auth": self.encoded() } } }).to_string()
    }
}

/// A registry that ends when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: String,
    dir: TempDir,
}

impl Registry {
    /// A registry that everybody may read and write.
    ///
    /// # Errors
    /// Why none can be started.
    pub fn open() -> Result<Self, String> {
        Self::start(String::new())
    }

    /// A registry that asks for basic authentication.
    ///
    /// # Errors
    /// Why none can be started: `docker-registry` or `htpasswd` is missing, or said something unexpected.
    pub fn with_login(login: Login) -> Result<Self, String> {
        if let Some(why) = crate::missing_program(&["htpasswd"]) {
            return Err(format!("{why} (Debian: apache2-utils)"));
        }
        // docker-registry knows bcrypt only; the lowest cost is enough for a test.
        let output = Command::new("htpasswd")
            .args(["-Bbn", "-C", "4", login.name, login.password])
            .output()
            .map_err(|err| err.to_string())?;
        Self::start(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A reference below this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The folder with the registry's data.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn start(htpasswd: String) -> Result<Self, String> {
        if let Some(why) = crate::missing_program(&["docker-registry"]) {
            return Err(why);
        }
        let dir =
            tempfile::Builder::new().prefix("lithify-registry-").tempdir().map_err(|err| err.to_string())?;
        let config = dir.path().join("config.yml");
        let mut text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: testkit}}\n",
            dir.path().join("data").display()
        );
        if !htpasswd.is_empty() {
            let file = dir.path().join("htpasswd");
            std::fs::write(&file, htpasswd + "\n").map_err(|err| err.to_string())?;
            text.push_str(&format!("auth:\n  htpasswd: {{realm: testkit, path: {}}}\n", file.display()));
        }
        std::fs::write(&config, text).map_err(|err| err.to_string())?;
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|err| format!("docker-registry: {err}"))?;
        let address = listening(&mut child);
        if address.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(Self { address: address?, child, dir })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log up to the line that names the port, which the kernel chose; keeps the pipe empty from then on.
fn listening(child: &mut Child) -> Result<String, String> {
    let mut log = BufReader::new(child.stderr.take().ok_or("docker-registry has no log")?);
    let mut all = String::new();
    loop {
        let mut line = String::new();
        if log.read_line(&mut line).map_err(|err| err.to_string())? == 0 {
            return Err(format!("docker-registry ended:\n{all}"));
        }
        if let Some((_, rest)) = line.split_once("listening on ") {
            let address: String =
                rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            return Ok(address);
        }
        all.push_str(&line);
    }
}

/// Writes a whole HTTP response without body worth mentioning.
pub(crate) fn respond(
    to: &mut impl Write,
    status: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<()> {
    write!(to, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    for (name, value) in headers {
        write!(to, "{name}: {value}\r\n")?;
    }
    write!(to, "\r\n{body}")?;
    to.flush()
}
