//! Somebody without rights, made for one test.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// A throw-away user with a home folder; both are removed on drop.
#[derive(Debug)]
pub struct PlainUser {
    name: String,
    uid: u32,
    gid: u32,
    home: TempDir,
}

impl PlainUser {
    /// A user with a range of 65,536 subordinate ids, as Debian's `adduser` makes them.
    ///
    /// # Errors
    /// Why no user can be made here: not root, or no `useradd` or `newuidmap`.
    pub fn with_subids() -> Result<Self, String> {
        if let Some(why) = crate::missing_program(&["newuidmap", "newgidmap"]) {
            return Err(format!("{why} (Debian: uidmap)"));
        }
        let user = Self::make(65_536)?;
        for file in ["/etc/subuid", "/etc/subgid"] {
            let lines = std::fs::read_to_string(file).unwrap_or_default();
            if !lines.lines().any(|line| line.starts_with(&format!("{}:", user.name))) {
                return Err(format!("useradd wrote no line for {} to {file}", user.name));
            }
        }
        Ok(user)
    }

    /// A user without subordinate ids, as service accounts and CI users are.
    ///
    /// # Errors
    /// Why no user can be made here: not root, or no `useradd`.
    pub fn without_subids() -> Result<Self, String> {
        Self::make(0)
    }

    /// The login name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user's number.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The primary group's number.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The home folder, the user's own with mode 0700.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Gives `path` and everything below it to the user; symbolic links are not followed.
    ///
    /// # Panics
    /// When the file system refuses.
    pub fn own(&self, path: &Path) {
        let status = Command::new("chown")
            .args(["-hR", &format!("{}:{}", self.uid, self.gid)])
            .arg(path)
            .status()
            .expect("chown should start");
        assert!(status.success(), "chown {}", path.display());
    }

    /// Lets `command` run as the user. The caller sets the environment.
    pub fn lend(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt;
        // The standard library drops all supplementary groups along with the user id.
        command.uid(self.uid).gid(self.gid);
    }

    fn make(subids: u32) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !crate::is_root() {
            return Err("making a user needs root".to_owned());
        }
        if let Some(why) = crate::missing_program(&["useradd", "userdel"]) {
            return Err(why);
        }
        let home = tempfile::Builder::new()
            .prefix("lithify-user-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|err| err.to_string())?;
        let name = format!("lithify-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        accounts(&[
            "useradd",
            "--no-create-home",
            "--shell=/bin/sh",
            &format!("--home-dir={}", home.path().display()),
            &format!("--key=SUB_UID_COUNT={subids}"),
            &format!("--key=SUB_GID_COUNT={subids}"),
            &name,
        ])?;
        // From here on, drop removes the user whatever goes wrong.
        let mut user = Self { uid: 0, gid: 0, name, home };
        (user.uid, user.gid) = (id("-u", &user.name)?, id("-g", &user.name)?);
        chown(user.home(), Some(user.uid), Some(user.gid)).map_err(|err| err.to_string())?;
        Ok(user)
    }
}

impl Drop for PlainUser {
    fn drop(&mut self) {
        if let Err(why) = accounts(&["userdel", &self.name]) {
            crate::say(&format!("user {} stays behind: {why}", self.name));
        }
    }
}

/// Runs a program that edits the account files, one at a time: they fail rather than wait for each other's lock.
fn accounts(words: &[&str]) -> Result<(), String> {
    let lock =
        File::create(std::env::temp_dir().join("lithify-accounts.lock")).map_err(|err| err.to_string())?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|err| err.to_string())?;
    let output = Command::new(words[0])
        .args(&words[1..])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|err| format!("{}: {err}", words[0]))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", words[0], String::from_utf8_lossy(&output.stderr).trim()))
}

fn id(flag: &str, name: &str) -> Result<u32, String> {
    let output = Command::new("id").args([flag, name]).output().map_err(|err| err.to_string())?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(|_| format!("id {flag} {name} said no number"))
}
