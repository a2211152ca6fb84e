//! Containers and machines as they come: on which rung lithify lands in each, and what it says.
//!
//! Each is imitated by what makes it: capabilities taken away, the refusals of a published system call profile, something mounted
//! over parts of /proc, accounts without ids. This test program puts itself under it and then becomes lithify ([`in_profile`]).

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use lithify_linux::capability::{self, Capabilities};
use lithify_linux::seccomp::{Action, Filter, Rule, When};
use lithify_testkit::{Env, Finished, PlainUser, Running, in_repository, is_root, missing_program, skipped};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const LIMIT: Duration = Duration::from_secs(60);
/// Docker's default capabilities, as in /proc/<pid>/status.
const DOCKER: u64 = 0xa804_25fb;
const EPERM: u16 = 1;
const EACCES: u16 = 13;
const ENOSYS: u16 = 38;

/// A machine or container.
#[derive(Clone, Copy, Default)]
struct Profile {
    /// The system call filter.
    filter: FilterKind,
    /// Whether only Docker's default capabilities are left.
    few_capabilities: bool,
    /// Whether no program gives more rights, as with Kubernetes' `allowPrivilegeEscalation: false`.
    no_new_privileges: bool,
    /// What a shell does before, in mounts of its own.
    prepare: &'static str,
}

#[derive(Clone, Copy, Debug, Default)]
enum FilterKind {
    #[default]
    None,
    /// Docker's default profile, and containerd's, which refuses the same under these conditions.
    Docker,
    /// containerd's of old: without tracing besides.
    OldContainerd,
    /// What AppArmor does on Ubuntu 24.04: a user namespace can be had, but gives no rights.
    NoRightsInside,
}

/// What container engines mount over.
const MASKED: &str = "for f in kcore keys timer_list interrupts; do [ ! -e /proc/$f ] || mount --bind /dev/null /proc/$f; done; \
     mount --bind -o ro /proc/sys /proc/sys;";
/// The root file system read-only; the store and the build's folder are elsewhere.
const READ_ONLY: &str = "mount -o remount,bind,ro /;";

impl FilterKind {
    fn rules(self) -> Vec<Rule> {
        let rule = |call, when, errno| Rule { call, when, action: Action::Fail(errno) };
        #[cfg(target_arch = "x86_64")]
        let (clone, mount, more) = (56, 165, &[101, 303, 310, 311][..]);
        #[cfg(target_arch = "aarch64")]
        let (clone, mount, more) = (220, 40, &[117, 264, 270, 271][..]);
        const CLONE3: i64 = 435;
        if let FilterKind::NoRightsInside = self {
            // mount, and the calls of the new mount interface.
            return [mount, 428, 429, 430, 432, 442].map(|call| rule(call, When::Always, EACCES)).to_vec();
        }
        let list = std::fs::read_to_string(in_repository("testdata/seccomp/docker-refuses.txt"));
        let column = if cfg!(target_arch = "x86_64") { 1 } else { 2 };
        let list = list.expect("the list");
        let calls = list.lines().filter(|line| !line.starts_with('#'));
        let calls = calls.filter_map(|line| line.split(' ').nth(column)?.parse().ok());
        let mut rules: Vec<Rule> = calls.map(|call| rule(call, When::Always, EPERM)).collect();
        rules.push(rule(clone, When::AnyBit(0, 0x7e02_0000), EPERM));
        if let FilterKind::OldContainerd = self {
            // ptrace, name_to_handle_at, process_vm_readv and process_vm_writev.
            rules.extend(more.iter().map(|call| rule(*call, When::Always, EPERM)));
        }
        rules.push(rule(CLONE3, When::Always, ENOSYS));
        rules
    }
}

/// Not a test by itself: what a test starts to have lithify run in a profile.
#[test]
fn in_profile() {
    let Ok(filter) = std::env::var("LITHIFY_TEST_FILTER") else { return };
    let variable = |name: &str| std::env::var(name).expect("a variable");
    let args: Vec<String> = serde_json::from_str(&variable("LITHIFY_TEST_ARGS")).expect("JSON");
    let kinds = [FilterKind::Docker, FilterKind::OldContainerd, FilterKind::NoRightsInside];
    if let Some(kind) = kinds.into_iter().find(|kind| format!("{kind:?}") == filter) {
        // Without `no_new_privs`, as container engines do it, and so while the capability for it is still there.
        let filter = Filter { rules: kind.rules(), highest_known: None };
        filter.compile().install_alone().expect("a filter");
    }
    if variable("LITHIFY_TEST_FEW") == "true" {
        let kept = Capabilities::from_bits_retain(DOCKER);
        capability::bound(kept).expect("a bounding set");
        capability::limit(kept).expect("capabilities");
    }
    if variable("LITHIFY_TEST_NO_NEW") == "true" {
        rustix::thread::set_no_new_privs(true).expect("no_new_privs");
    }
    let mut command = Command::new(variable("LITHIFY_TEST_BECOME"));
    command.args(args);
    if let Ok(user) = variable("LITHIFY_TEST_USER").parse() {
        command.uid(user).gid(variable("LITHIFY_TEST_GROUP").parse().expect("a group"));
    }
    for name in ["FILTER", "ARGS", "FEW", "NO_NEW", "BECOME", "USER", "GROUP"] {
        command.env_remove(format!("LITHIFY_TEST_{name}"));
    }
    panic!("cannot execute lithify: {}", command.exec());
}

/// Runs lithify there, as the environment's user.
fn run(env: &Env, profile: Profile, args: &[&str]) -> Finished {
    // The plain user may not reach this program where it is; root puts on what is asked for, and then becomes that user.
    let lithify = env.lithify(args);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{} exec \"$@\"", profile.prepare), "sh"]);
    command.arg(std::env::current_exe().expect("this program"));
    command.args(["--exact", "in_profile", "--nocapture", "--test-threads=1"]).env_clear().current_dir("/");
    for (name, value) in lithify.get_envs() {
        value.map(|value| command.env(name, value));
    }
    command.env("LITHIFY_TEST_FILTER", format!("{:?}", profile.filter));
    command.env("LITHIFY_TEST_ARGS", serde_json::to_string(args).expect("JSON"));
    command.env("LITHIFY_TEST_FEW", profile.few_capabilities.to_string());
    command.env("LITHIFY_TEST_NO_NEW", profile.no_new_privileges.to_string());
    command.env("LITHIFY_TEST_BECOME", env.binary());
    let ids = env.user().map(|user| (user.uid().to_string(), user.gid().to_string())).unwrap_or_default();
    command.env("LITHIFY_TEST_USER", ids.0).env("LITHIFY_TEST_GROUP", ids.1);
    Running::start(&mut command).expect("start").wait(LIMIT)
}

fn build(env: &Env, profile: Profile, dockerfile: &str) -> Finished {
    let context = env.folder(&[("Dockerfile", dockerfile), ("a", "a\n")]).display().to_string();
    run(env, profile, &["build", "--progress=plain", &env.busybox(), &context])
}

fn able(test: &str) -> bool {
    if !is_root() {
        skipped(test, "only root can imitate containers");
        return false;
    }
    let missing = missing_program(&["unshare", "newuidmap"]);
    missing.iter().for_each(|why| skipped(test, why));
    missing.is_none()
}

const WITH_RUN: &str =
    "FROM busybox\nCOPY --chown=7:8 a /a\nRUN chown 9:9 /a && echo done > /b && rm -f /etc/group\n";
const WITHOUT_RUN: &str = "FROM busybox\nENV A=b\nLABEL c=d\n";

/// Containers whose root may make no namespaces.
#[test]
fn containers_with_root() {
    if !able("containers_with_root") {
        return;
    }
    let check = |what: &str, profile: Profile, rung: &str, said: &[&str]| {
        let env = Env::new(BINARY);
        let doctor = run(&env, profile, &["doctor"]).expect_ok();
        let doctor = doctor.expect_says(&format!("chosen: {rung}"));
        said.iter().fold(doctor, |doctor, text| doctor.expect_says(text));
        let first = build(&env, profile, WITH_RUN).expect_ok();
        let digest = |ended: &Finished| {
            let digest = ended.log().lines().find_map(|line| line.strip_prefix("digest").map(str::to_owned));
            digest.unwrap_or_else(|| panic!("{what}: no digest: {}", ended.log()))
        };
        let plain = Env::new(BINARY);
        let reference = build(&plain, Profile::default(), WITH_RUN).expect_ok();
        assert_eq!(digest(&first), digest(&reference), "{what}");
        build(&env, profile, WITHOUT_RUN).expect_ok();
    };
    let docker = Profile { filter: FilterKind::Docker, few_capabilities: true, ..Profile::default() };
    check("nothing taken away", Profile::default(), "range", &[]);
    check("Docker's defaults", Profile { prepare: MASKED, ..docker }, "chroot", &["seccomp=unconfined"]);
    let old = Profile { filter: FilterKind::OldContainerd, prepare: MASKED, ..docker };
    check(
        "old containerd",
        old,
        "chroot",
        &["tried: making a user namespace", "got:   Operation not permitted"],
    );
    let unconfined = Profile { filter: FilterKind::None, prepare: MASKED, ..docker };
    check(
        "seccomp=unconfined alone",
        unconfined,
        "chroot",
        &["tried: mounting /proc in the user namespace", "systempaths=unconfined", "procMount: Unmasked"],
    );
    let open = Profile { filter: FilterKind::None, ..docker };
    check("seccomp and paths unconfined", open, "range", &[]);
    check("a read-only root", Profile { prepare: READ_ONLY, ..docker }, "chroot", &[]);
    check(
        "a read-only root of a machine",
        Profile { prepare: READ_ONLY, ..Profile::default() },
        "range",
        &[],
    );
}

/// Plain users, for whom RUN is refused where nothing can be had: each probe, its errno and what would help.
#[test]
fn plain_users() {
    if !able("plain_users") {
        return;
    }
    let check = |what: &str, profile: Profile, user: Result<PlainUser, String>, said: &[&str]| {
        let user = match user {
            Ok(user) => user,
            Err(why) => return skipped("plain_users", &why),
        };
        let env = Env::for_user(BINARY, user);
        let ladder = run(&env, profile, &["doctor"]);
        for text in said {
            assert!(
                ladder.log().contains(text) || ladder.summary().contains(text),
                "{what}: no {text:?}: {}",
                ladder.summary()
            );
        }
        let context = env.folder(&[("Dockerfile", WITH_RUN), ("a", "a\n")]).display().to_string();
        let args = ["build", "--progress=plain", "--sandbox=range", &env.busybox(), &context];
        if said.is_empty() {
            run(&env, profile, &args).expect_ok();
            return;
        }
        let refused = run(&env, profile, &args);
        let refused = refused.expect_failure(4, "does not allow the sandbox \"range\"");
        for text in said {
            assert!(
                refused.log().contains(text.trim_start_matches("tried: ").trim_start_matches("got:   ")),
                "{what}: no {text:?}: {}",
                refused.log()
            );
        }
    };
    let with = PlainUser::with_subids;
    check("a machine", Profile::default(), with(), &[]);
    check("a read-only root", Profile { prepare: READ_ONLY, ..Profile::default() }, with(), &[]);
    check(
        "no ids",
        Profile::default(),
        PlainUser::without_subids(),
        &["tried: finding ids for the user namespace", "usermod --add-subuids"],
    );
    let restricted = Profile { filter: FilterKind::Docker, no_new_privileges: true, ..Profile::default() };
    check(
        "a restricted pod",
        restricted,
        with(),
        &["tried: making a user namespace", "Operation not permitted (os error 1)"],
    );
    check(
        "allowPrivilegeEscalation: false",
        Profile { no_new_privileges: true, ..Profile::default() },
        with(),
        &["tried: running newuidmap", "allowPrivilegeEscalation"],
    );
    check(
        "masked /proc",
        Profile { prepare: MASKED, ..Profile::default() },
        with(),
        &["tried: mounting /proc in the user namespace", "systempaths=unconfined"],
    );
    check(
        "AppArmor",
        Profile { filter: FilterKind::NoRightsInside, ..Profile::default() },
        with(),
        &["tried: making mounts in the user namespace", "Permission denied (os error 13)"],
    );
}

/// Where no rung works, Dockerfiles without RUN are built, and a RUN is refused with everything that was tried.
#[test]
fn no_rung_at_all() {
    if !able("no_rung_at_all") {
        return;
    }
    let user = match PlainUser::without_subids() {
        Ok(user) => user,
        Err(why) => return skipped("no_rung_at_all", &why),
    };
    let mut env = Env::for_user(BINARY, user);
    env.set("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    let profile = Profile { filter: FilterKind::Docker, no_new_privileges: true, ..Profile::default() };
    build(&env, profile, WITHOUT_RUN).expect_ok();
    let refused =
        build(&env, profile, WITH_RUN).expect_failure(4, "this machine does not let lithify run steps");
    for text in ["range: finding ids", "chroot: being root", "single: ", "help: "] {
        assert!(refused.log().contains(text), "no {text:?}: {}", refused.log());
    }
    let doctor = run(&env, profile, &["doctor"]).expect_failure(4, "no sandbox works here");
    assert!(doctor.summary().contains("usermod --add-subuids"), "{}", doctor.summary());
}

/// A pod with `hostUsers: false`: root of a user namespace with 65536 ids.
#[test]
fn pod_with_a_user_namespace() {
    if !able("pod_with_a_user_namespace") {
        return;
    }
    let env = match Env::plain(BINARY) {
        Ok(env) => env,
        Err(why) => return skipped("pod_with_a_user_namespace", &why),
    };
    let pod = |prepare: &str, args: &[&str]| {
        let mut command = env.program("unshare");
        command.args(["--map-root-user", "--map-auto", "--mount", "--pid", "--fork", "--mount-proc"]);
        command.args(["sh", "-c", &format!("{prepare} exec \"$@\""), "sh"]).arg(env.binary()).args(args);
        Running::start(&mut command).expect("start").wait(LIMIT)
    };
    let context = env.folder(&[("Dockerfile", WITH_RUN), ("a", "a\n")]).display().to_string();
    pod("", &["doctor"]).expect_ok().expect_says("chosen: range");
    pod("", &["build", "--progress=plain", &env.busybox(), &context]).expect_ok();
    let masked = pod(MASKED, &["doctor"]).expect_ok().expect_says("chosen: chroot");
    masked.expect_says("procMount: Unmasked");
}

/// A container's own root is an overlay, which cannot lie under another one: trees are copied there, and doctor says so.
#[test]
fn store_on_an_overlay() {
    if !able("store_on_an_overlay") {
        return;
    }
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", WITH_RUN), ("a", "a\n")]).display().to_string();
    let place = env.fresh("container");
    let in_container = |args: &[&str]| {
        let script = "mkdir -p \"$1/lower\" \"$1/upper\" \"$1/work\" \"$1/merged\" && chmod -R a+rx \"$1\" &&
            mount -t overlay -o lowerdir=\"$1/lower\",upperdir=\"$1/upper\",workdir=\"$1/work\" overlay \"$1/merged\" &&
            store=$1/merged/store && shift && exec \"$0\" --root \"$store\" \"$@\"";
        let mut command = env.program("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(env.binary()).arg(&place).args(args);
        Running::start(&mut command).expect("start").wait(LIMIT)
    };
    let doctor = in_container(&["doctor"]).expect_ok();
    doctor
        .expect_says("overlay: does not work")
        .expect_says("not on another overlay")
        .expect_says("chosen: copy");
    let build = ["build", "--progress=plain", &env.busybox(), &context];
    in_container(&build).expect_ok();
    let asked = in_container(&[&build[..1], &["--snapshotter=overlay", "--no-cache"], &build[1..]].concat());
    asked.expect_failure(5, "overlay");
}
