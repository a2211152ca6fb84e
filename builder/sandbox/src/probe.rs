//! What this machine allows, found out by doing it in a child, and what would help where it does not.
//!
//! Settings are read only to choose the advice.

use std::fmt;
use std::path::Path;

use lithify_linux::process::{Exit, SpawnError, Stage};

use crate::idmap::MapError;
use crate::{Choice, IdMap, Place, RungName, Unavailable, worker};

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What.
    pub tried: String,
    /// What the kernel or a helper said, if it failed.
    pub failure: Option<String>,
    /// What would help then, the likeliest first.
    pub remedies: Vec<String>,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            None => write!(f, "{}: works", self.tried),
            Some(failure) => {
                write!(f, "{}: {failure}", self.tried)?;
                for remedy in &self.remedies {
                    write!(f, "\n    help: {remedy}")?;
                }
                Ok(())
            }
        }
    }
}

/// A kind of sandbox, and whether it works here.
#[derive(Debug)]
pub struct Rung {
    /// Its name, as in `--sandbox`.
    pub name: RungName,
    /// What it would be, or why it does not work.
    pub outcome: Result<Place, Unavailable>,
}

/// The kinds of sandbox, strongest first.
#[derive(Debug)]
pub struct Ladder {
    /// All that there are.
    pub rungs: Vec<Rung>,
}

impl Ladder {
    /// The strongest that works.
    pub fn chosen(&self) -> Option<&Place> {
        self.rungs.iter().find_map(|rung| rung.outcome.as_ref().ok())
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rung in &self.rungs {
            match &rung.outcome {
                Ok(Place::Range(map) | Place::Single(map) | Place::Pretended(map)) => {
                    writeln!(f, "{}: works, with the ids {}", rung.name, map.key())?
                }
                Ok(_) => writeln!(f, "{}: works", rung.name)?,
                Err(unavailable) => {
                    write!(f, "{}: does not work", rung.name)?;
                    unavailable.probes.iter().try_for_each(|probe| write!(f, "\n  {probe}"))?;
                    writeln!(f)?;
                }
            }
        }
        Ok(())
    }
}

/// Tries every rung.
pub fn ladder() -> Ladder {
    let rung = |name| Rung { name, outcome: probe(name) };
    Ladder { rungs: RungName::ALL.into_iter().map(rung).collect() }
}

/// The rung that was asked for, or the strongest that works.
///
/// # Errors
/// What was tried of all that were to be, and what would help.
pub fn choose(choice: Choice) -> Result<Place, Unavailable> {
    if let Choice::Only(name) = choice {
        return probe(name);
    }
    let mut probes = vec![];
    for name in RungName::ALL {
        match probe(name) {
            Ok(place) => return Ok(place),
            Err(unavailable) => probes.extend(
                unavailable
                    .probes
                    .into_iter()
                    .map(|probe| Probe { tried: format!("{name}: {}", probe.tried), ..probe }),
            ),
        }
    }
    Err(Unavailable { rung: "auto", probes })
}

/// Tries one rung.
///
/// # Errors
/// What failed, and what would help.
pub fn probe(name: RungName) -> Result<Place, Unavailable> {
    match name {
        RungName::Range => probe_range().map(Place::Range),
        RungName::Single => probe_single(RungName::Single).map(Place::Single),
        RungName::Pretended => probe_single(RungName::Pretended).map(Place::Pretended),
        RungName::Chroot => probe_chroot().map(|()| Place::Chroot),
    }
}

/// Tries whether this process may do what the rung `chroot` needs, in a child.
fn probe_chroot() -> Result<(), Unavailable> {
    let failed = |tried: &str, failure: String, remedies| {
        Err(Unavailable::of(RungName::Chroot, tried, failure, remedies))
    };
    if !rustix::process::geteuid().is_root() {
        let remedy = "run lithify as root of a container; outside of one, a rung with namespaces is safer";
        return failed("being root", "this is another user".into(), vec![remedy.to_owned()]);
    }
    match crate::chroot::probe() {
        Ok(None) => Ok(()),
        Ok(Some((right, errno))) => {
            let remedy = format!(
                "give the container the capability {right}: --cap-add {right} (in Kubernetes: securityContext.capabilities.add)"
            );
            let failure = std::io::Error::from_raw_os_error(errno).to_string();
            failed(&format!("using the capability {right}"), failure, vec![remedy])
        }
        Err(error) => failed("starting a process", error.to_string(), execute_remedies()),
    }
}

/// Tries whether this user can have a user namespace with a range of ids, in which mounts can be made: starts a child in one, which
/// ends at once.
///
/// # Errors
/// What failed, and what would help.
pub fn probe_range() -> Result<IdMap, Unavailable> {
    let map = id_map()?;
    let tried = "running a process in the user namespace";
    let mut child = worker::hold_and_release(&map, None)?;
    match child.wait() {
        Ok(Exit::Exited(0)) => Ok(map),
        Ok(exit) => Err(unavailable(tried, format!("it ended with {exit:?}"), vec![])),
        Err(error) => Err(unavailable(tried, error.to_string(), vec![])),
    }
}

/// As [`probe_range`], with one id; on the rung `single`, the child also asks for what is emulated.
fn probe_single(rung: RungName) -> Result<IdMap, Unavailable> {
    let of_rung = |unavailable: Unavailable| Unavailable { rung: rung.as_str(), ..unavailable };
    let failed = |tried: &str, failure: String, remedies| Unavailable::of(rung, tried, failure, remedies);
    let map = IdMap::single()
        .map_err(|error| failed("finding an id for the user namespace", error.to_string(), vec![]))?;
    let mut child = worker::hold_and_release(&map, None).map_err(of_rung)?;
    match child.wait() {
        Ok(Exit::Exited(0)) => {}
        Ok(exit) => {
            let tried = "running a process in the user namespace";
            return Err(failed(tried, format!("it ended with {exit:?}"), vec![]));
        }
        Err(error) => {
            return Err(failed("running a process in the user namespace", error.to_string(), vec![]));
        }
    }
    if rung == RungName::Single {
        crate::emulate::probe(&map).map_err(|error| {
            failed("answering system calls for another process", error.to_string(), listener_remedies())
        })?;
    }
    Ok(map)
}

fn listener_remedies() -> Vec<String> {
    vec![
        "system calls can be answered from Linux 5.14 on, and by one program only: where this runs in another tool's sandbox that answers them \
         (errno EBUSY), such as another lithify or Sysbox, run it outside"
            .into(),
    ]
}

/// The ids that this user's namespace would have; nothing is tried. [`spawn_worker`](crate::spawn_worker) then says the same as
/// [`probe_range`] where they are refused, at the cost of one process less.
///
/// # Errors
/// That there are none, and how to get some.
pub fn id_map() -> Result<IdMap, Unavailable> {
    IdMap::of_this_user().map_err(|error| {
        unavailable("finding ids for the user namespace", error.to_string(), no_ids_remedies())
    })
}

/// As [`id_map`], for a namespace with one id.
///
/// # Errors
/// A map of this process that cannot be read.
pub fn single_id() -> std::io::Result<IdMap> {
    IdMap::single()
}

fn unavailable(tried: &str, failure: String, remedies: Vec<String>) -> Unavailable {
    Unavailable::of(RungName::Range, tried, failure, remedies)
}

fn no_ids_remedies() -> Vec<String> {
    vec![
        "give the account a range of ids, as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 <user>".into(),
        "on Debian and Ubuntu, adduser and useradd write /etc/subuid and /etc/subgid for new accounts".into(),
    ]
}

/// What to say of a process that could not be started in the namespaces.
pub(crate) fn not_started(error: &SpawnError) -> Unavailable {
    let (tried, remedies) = match error.stage {
        Stage::Namespaces => ("making a user namespace", namespace_remedies()),
        Stage::Identity => ("becoming root of the user namespace", apparmor_remedies()),
        Stage::Propagation => ("making mounts in the user namespace", apparmor_remedies()),
        Stage::Proc => ("mounting /proc in the user namespace", proc_remedies()),
        Stage::DeathSignal | Stage::Descriptors | Stage::Execute => {
            ("starting a process there", execute_remedies())
        }
    };
    unavailable(tried, error.source.to_string(), remedies)
}

/// What to say of a thread that cannot have a working folder of its own.
pub(crate) fn not_unshared(error: &std::io::Error) -> Unavailable {
    unavailable("calling unshare", error.to_string(), namespace_remedies())
}

/// What to say when the kernel or a helper refused the map.
pub(crate) fn not_mapped(map: &IdMap, error: MapError) -> Unavailable {
    let ids = map.key();
    match error {
        MapError::Direct { path, source } => unavailable(
            &format!("writing the ids {ids} to {path}"),
            source.to_string(),
            vec!["give the container the capabilities SETUID and SETGID: --cap-add SETUID,SETGID".into()],
        ),
        MapError::NoHelper { name, source } => unavailable(
            &format!("running {name} for the ids {ids}"),
            source.to_string(),
            vec!["install it: apt install uidmap (Debian, Ubuntu), dnf install shadow-utils (Fedora)".into()],
        ),
        MapError::Refused { name, message } => {
            let mut remedies = vec![
                format!("{name} must be setuid root or hold the file capability: ls -l $(command -v {name})"),
                "its file system must not be mounted nosuid, and no_new_privs must not be set (in Kubernetes: allowPrivilegeEscalation)".into(),
            ];
            remedies.extend(no_ids_remedies());
            unavailable(&format!("running {name} for the ids {ids}"), message, remedies)
        }
    }
}

fn setting(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
}

fn namespace_remedies() -> Vec<String> {
    let mut remedies = vec![];
    if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        remedies.push("allow them, as root: sysctl -w kernel.unprivileged_userns_clone=1".to_owned());
    }
    if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        remedies.push("allow them, as root: sysctl -w user.max_user_namespaces=10000".to_owned());
    }
    remedies.extend(apparmor_remedies());
    if in_container() {
        remedies.push(
            "this looks like a container, whose system call filter refuses them: --security-opt seccomp=unconfined (in Kubernetes: seccompProfile.type: Unconfined)".into(),
        );
    }
    remedies
}

fn apparmor_remedies() -> Vec<String> {
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() != Some("1") {
        return vec![];
    }
    vec![
        "AppArmor gives user namespaces no rights; as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".into(),
        "or install an AppArmor profile for lithify with the rule `userns,`".into(),
    ]
}

fn proc_remedies() -> Vec<String> {
    let mut remedies = apparmor_remedies();
    remedies.push(
        "something is mounted over parts of /proc, as container engines do: --security-opt systempaths=unconfined (in Kubernetes: procMount: Unmasked)".into(),
    );
    remedies
}

fn execute_remedies() -> Vec<String> {
    vec!["the lithify binary must be executable for everyone: chmod a+rx, and its folder must not be mounted noexec".into()]
}

fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists())
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        || std::env::var_os("container").is_some()
}
