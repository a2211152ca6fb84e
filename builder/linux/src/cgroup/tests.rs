use super::*;

fn place(mount: &str, group: &str) -> Option<Place> {
    Some(Place { mount: mount.into(), group: group.into() })
}

#[test]
fn hierarchies_are_found() {
    let mounts = "25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        26 25 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        27 25 0:24 /outer /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
        28 25 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let own = "4:memory:/outer/inner\n1:cpu,cpuacct:/\n0::/user.slice/a:b\n";
    let check = |controller, expected| assert_eq!(hierarchy(mounts, own, controller), expected);
    check(None, place("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/user.slice/a:b"));
    check(Some("cpu"), place("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu"));
    check(Some("memory"), place("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/inner"));
    check(Some("cpuset"), None);
    assert_eq!(hierarchy("", own, None), None);
}

#[test]
fn limits_become_settings() {
    let check = |limits: Limits, unified: &str, legacy: &str| {
        let text = |settings: Vec<Setting>| {
            let lines = settings.iter().map(|one| format!("{}={}", one.file, one.value));
            lines.collect::<Vec<_>>().join(" ")
        };
        assert_eq!((text(limits.unified()).as_str(), text(limits.legacy()).as_str()), (unified, legacy));
    };
    let none = Limits::default;
    assert!(none().is_empty());
    check(none(), "", "");
    check(
        Limits { memory_bytes: Some(100), ..none() },
        "memory.max=100 memory.swap.max=100",
        "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=200",
    );
    check(
        Limits { memory_bytes: Some(100), memory_and_swap_bytes: Some(100), ..none() },
        "memory.max=100 memory.swap.max=0",
        "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=100",
    );
    check(
        Limits { memory_bytes: Some(100), memory_and_swap_bytes: Some(u64::MAX), ..none() },
        "memory.max=100 memory.swap.max=max",
        "memory.limit_in_bytes=100",
    );
    check(
        Limits { cpu_quota: Some((50_000, 100_000)), cpu_shares: Some(1024), ..none() },
        "cpu.max=50000 100000 cpu.weight=39",
        "cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 cpu.shares=1024",
    );
    check(
        Limits { cpus: Some("0-1".into()), memory_nodes: Some("0".into()), ..none() },
        "cpuset.cpus=0-1 cpuset.mems=0",
        "cpuset.cpus=0-1 cpuset.mems=0",
    );
}

/// Whatever the machine allows: a group that was made has its limit, takes this process's child, and goes away.
#[test]
fn a_group_goes_away() {
    let limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    let group = match Group::make(&limits) {
        Ok(group) => group,
        Err(error) => {
            assert!(
                std::env::var_os("LITHIFY_REQUIRE_ALL").is_none_or(|_| !rustix::process::geteuid().is_root()),
                "{error}"
            );
            return eprintln!("SKIPPED a_group_goes_away: {error}");
        }
    };
    let folder = group.folders[0].path.clone();
    let limit =
        ["memory.max", "memory.limit_in_bytes"].map(|name| fs::read_to_string(folder.join(name)).ok());
    assert_eq!(limit.into_iter().flatten().next().as_deref().map(str::trim), Some("67108864"));
    assert_eq!(group.out_of_memory_kills(), 0);
    assert_eq!(group.members().expect("open files").len(), 1);
    drop(group);
    assert!(!folder.exists());
    // One that a killed process left.
    fs::create_dir(&folder).expect("a group");
    drop(Group::make(&limits).expect("another group"));
    assert!(!folder.exists());
}
