//! A home, a store and a configuration for one test.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::StatVfsMountFlags;
use tempfile::TempDir;

use crate::{Finished, Image, PlainUser, Running};

/// More than any build of a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);

/// Where `lithify` runs: nothing of the caller's home, store, configuration or environment is seen or touched.
#[derive(Debug)]
pub struct Env {
    binary: PathBuf,
    folders: AtomicU32,
    variables: Vec<(String, String)>,
    dir: TempDir,
    // After `dir`: the user must outlive the files that belong to it.
    user: Option<PlainUser>,
}

impl Env {
    /// An environment for the user who runs the tests. `binary` is `env!("CARGO_BIN_EXE_lithify")` in tests of the
    /// command line; the variable `LITHIFY_BIN` names another one.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    pub fn new(binary: impl AsRef<Path>) -> Self {
        Self::make(binary.as_ref(), None)
    }

    /// An environment for `user`, who gets a copy of the binary, since the build folder may be closed to others.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    pub fn for_user(binary: impl AsRef<Path>, user: PlainUser) -> Self {
        Self::make(binary.as_ref(), Some(user))
    }

    /// An environment for somebody without rights but with subordinate ids: a throw-away user when the tests run as
    /// root, else whoever runs them.
    ///
    /// # Errors
    /// Why no such user can be had.
    pub fn plain(binary: impl AsRef<Path>) -> Result<Self, String> {
        if crate::is_root() {
            return Ok(Self::for_user(binary, PlainUser::with_subids()?));
        }
        match crate::missing_program(&["newuidmap", "newgidmap"]) {
            Some(why) => Err(format!("{why} (Debian: uidmap)")),
            None => Ok(Self::new(binary)),
        }
    }

    fn make(binary: &Path, user: Option<PlainUser>) -> Self {
        let dir =
            tempfile::Builder::new().prefix("lithify-test-").tempdir_in(place()).expect("temporary folder");
        let mut binary = std::env::var_os("LITHIFY_BIN").map_or_else(|| binary.to_owned(), PathBuf::from);
        for name in ["home", "run", "tmp", "docker"] {
            fs::create_dir(dir.path().join(name)).expect("folder");
        }
        fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o700)).expect("mode");
        if let Some(user) = &user {
            let copy = dir.path().join("lithify");
            fs::copy(&binary, &copy).expect("copy of the binary");
            binary = copy;
            user.own(dir.path());
        }
        Self { binary, dir, user, folders: AtomicU32::new(0), variables: vec![] }
    }

    /// The folder that holds everything of this environment.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir().join("home")
    }

    /// Where the store is unless `--root` moves it.
    pub fn store(&self) -> PathBuf {
        self.home().join(".local/share/lithify")
    }

    /// The binary that runs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Sets an environment variable for all that is started here from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// The throw-away user as whom everything runs, if any.
    pub fn user(&self) -> Option<&PlainUser> {
        self.user.as_ref()
    }

    /// `lithify` with these arguments, ready to start.
    pub fn lithify<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.program(&self.binary);
        command.args(args);
        command
    }

    /// Any program in this environment, as this environment's user.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.home())
            .env("XDG_RUNTIME_DIR", self.dir().join("run"))
            .env("TMPDIR", self.dir().join("tmp"))
            .env("DOCKER_CONFIG", self.dir().join("docker"))
            .env("LANG", "C.UTF-8")
            .env("RUST_BACKTRACE", "0")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir());
        if let Some(user) = &self.user {
            command.env("USER", user.name()).env("LOGNAME", user.name());
            user.lend(&mut command);
        }
        command
    }

    /// Runs `lithify` to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Finished {
        self.start(args).wait(LIMIT)
    }

    /// Starts `lithify`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Running {
        Running::start(&mut self.lithify(args))
            .unwrap_or_else(|err| panic!("{} should start: {err}", self.binary.display()))
    }

    /// Runs any program to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run_program<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> Finished {
        let mut command = self.program(program);
        command.args(args);
        Running::start(&mut command).unwrap_or_else(|err| panic!("{program} should start: {err}")).wait(LIMIT)
    }

    /// A new folder with these files (mode 0644, in folders of mode 0755), which belongs to the environment's user.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn folder(&self, files: &[(&str, &str)]) -> PathBuf {
        let folder = self.fresh("folder");
        fs::create_dir(&folder).expect("folder");
        for (name, text) in files {
            self.write(&folder.join(name), text);
        }
        self.give(&folder);
        folder
    }

    /// Writes a file below a folder of this environment, with the folders above it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &Path, text: &str) {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("folder");
        }
        fs::write(path, text).expect("file");
        self.give(path);
    }

    /// A copy of a folder, with its links and modes but new times, which belongs to the environment's user.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn copy_of(&self, from: &Path) -> PathBuf {
        let to = self.fresh("copy");
        copy_tree(from, &to);
        self.give(&to);
        to
    }

    /// A path in this environment at which nothing exists yet.
    pub fn fresh(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}-{}", self.folders.fetch_add(1, Ordering::Relaxed)))
    }

    /// The flag that makes `FROM busybox` work without a registry.
    ///
    /// # Panics
    /// When the image cannot be copied to where the environment's user may read it.
    pub fn busybox(&self) -> String {
        let mut layout = crate::in_repository("testdata/conformance/base/busybox");
        if self.user.is_some() {
            layout = self.copy_of(&layout);
        }
        format!("--build-context=busybox=oci-layout://{}", layout.display())
    }

    /// Builds `context` with these flags into an archive, and reads the image after recomputing all of its digests.
    ///
    /// # Panics
    /// When the build fails or the image is not sound.
    #[track_caller]
    pub fn build<A: AsRef<OsStr>>(&self, flags: &[A], context: &Path) -> Image {
        self.build_with(&mut self.lithify(["build", "--progress=plain"]), flags, context)
    }

    /// As [`Self::build`], with a command that begins `lithify build` and has an environment of its own.
    ///
    /// # Panics
    /// When the build fails or the image is not sound.
    #[track_caller]
    pub fn build_with<A: AsRef<OsStr>>(&self, command: &mut Command, flags: &[A], context: &Path) -> Image {
        let archive = self.fresh("image");
        command.arg(format!("--output=type=oci,dest={}", archive.display())).args(flags).arg(context);
        Running::start(command).expect("lithify should start").wait(LIMIT).expect_ok();
        let image = Image::from_archive(&archive).expect("a readable image");
        image.validate().expect("a sound image");
        image
    }

    /// Writes `~/.docker/config.json`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn docker_config(&self, json: &str) {
        self.write(&self.dir().join("docker/config.json"), json);
    }

    fn give(&self, path: &Path) {
        if let Some(user) = &self.user {
            user.own(path);
        }
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        if crate::is_root() {
            return;
        }
        // The store holds files of subordinate ids, which only their own namespace may remove. Whatever stays is in
        // the temporary folder.
        let _ = Command::new("unshare")
            .args(["--user", "--map-root-user", "--map-auto", "rm", "-rf", "--"])
            .arg(self.dir.path())
            .output();
    }
}

/// Where environments are: in memory where there is plenty and the caller names no place, since a build writes much.
fn place() -> PathBuf {
    const PLENTY_BYTES: u64 = 6 << 30;
    let memory = Path::new("/dev/shm");
    let is_fit = rustix::fs::statvfs(memory).is_ok_and(|all| {
        all.f_bavail * all.f_frsize >= PLENTY_BYTES && !all.f_flag.contains(StatVfsMountFlags::NOEXEC)
    });
    if is_fit && std::env::var_os("TMPDIR").is_none() { memory.to_owned() } else { std::env::temp_dir() }
}

/// Copies a folder with its symbolic links and modes; times and owners are new.
///
/// # Panics
/// When something cannot be copied.
pub fn copy_tree(from: &Path, to: &Path) {
    let output = Command::new("cp")
        .args(["-R", "--preserve=mode,links"])
        .arg(from)
        .arg(to)
        .output()
        .expect("cp should start");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
