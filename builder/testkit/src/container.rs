//! Running what was built, by somebody else's program.

use std::process::Command;
use std::time::Duration;

use crate::{Finished, Running};

const LIMIT: Duration = Duration::from_secs(300);

/// Podman runs containers only where cgroups are all of version 2. On other machines it gets such a view in a mount
/// namespace of its own; the container joins no cgroup either way.
const IN_CGROUP2: &str = r#"
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -R -l /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
fi
exec "$@"
"#;

/// Runs an image with podman and its default command. `image` is what podman takes, such as `oci-archive:FILE` or
/// `docker://127.0.0.1:PORT/NAME`.
///
/// # Errors
/// Why podman cannot run here: it is missing, or the tests do not run as root.
///
/// # Panics
/// When no temporary folder can be made.
pub fn run_image(image: &str, arguments: &[&str]) -> Result<Finished, String> {
    if !crate::is_root() {
        return Err("running a container in a test needs root".to_owned());
    }
    if let Some(why) = crate::missing_program(&["podman", "unshare", "crun"]) {
        return Err(why);
    }
    let dir = tempfile::Builder::new().prefix("lithify-podman-").tempdir().expect("temporary folder");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", IN_CGROUP2, "sh", "podman"]);
    // vfs is slow but works on every file system, this one's own overlay included.
    command.args([
        "--storage-driver=vfs",
        "--runtime=crun",
        "--cgroup-manager=cgroupfs",
        "--events-backend=none",
    ]);
    command.arg("--root").arg(dir.path().join("root"));
    command.arg("--runroot").arg(dir.path().join("run"));
    command.args(["run", "--rm", "--quiet", "--tls-verify=false", "--cgroups=disabled", "--network=host"]);
    // The defaults may be above what this process may set.
    command.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]);
    command.arg(image).args(arguments);
    let finished = Running::start(&mut command).map_err(|err| err.to_string())?.wait(LIMIT);
    Ok(finished)
}
