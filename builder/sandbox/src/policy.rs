//! What a process in the sandbox may do: Docker's defaults.

use lithify_linux::capability::Capabilities;
use lithify_linux::seccomp::{Action, Filter, Rule, When};

use crate::emulate::calls;
use crate::{Identities, Security};

/// Docker's default capabilities: `DefaultCapabilities` in moby's daemon/pkg/oci/caps.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::CHOWN
    .union(Capabilities::DAC_OVERRIDE)
    .union(Capabilities::FSETID)
    .union(Capabilities::FOWNER)
    .union(Capabilities::MKNOD)
    .union(Capabilities::NET_RAW)
    .union(Capabilities::SETGID)
    .union(Capabilities::SETUID)
    .union(Capabilities::SETFCAP)
    .union(Capabilities::SETPCAP)
    .union(Capabilities::NET_BIND_SERVICE)
    .union(Capabilities::SYS_CHROOT)
    .union(Capabilities::KILL)
    .union(Capabilities::AUDIT_WRITE);

/// Files of /proc that `/dev/null` hides: moby's `DefaultLinuxSpec`, MaskedPaths.
pub(crate) const MASKED_PROC_FILES: &[&std::ffi::CStr] =
    &[c"kcore", c"keys", c"latency_stats", c"timer_list", c"timer_stats", c"sched_debug", c"interrupts"];
/// Folders of /proc that an empty one hides: as above.
pub(crate) const MASKED_PROC_FOLDERS: &[&std::ffi::CStr] = &[c"acpi", c"asound", c"scsi"];
/// Folders of /sys that an empty one hides: as above.
pub(crate) const MASKED_SYS_FOLDERS: &[&std::ffi::CStr] = &[c"firmware", c"devices/virtual/powercap"];
/// The folders of /sys that an empty one hides for each processor there is: as above.
pub(crate) fn processor_folders() -> std::io::Result<Vec<std::ffi::CString>> {
    let mut folders = vec![];
    for entry in std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten() {
        let entry = entry?;
        let path = entry.path().join("thermal_throttle");
        let number = entry.file_name().to_string_lossy().strip_prefix("cpu").map(str::parse::<u32>);
        if matches!(number, Some(Ok(_))) && path.exists() {
            let below = path.strip_prefix("/sys/").unwrap_or(&path);
            folders.extend(std::ffi::CString::new(below.as_os_str().as_encoded_bytes()));
        }
    }
    Ok(folders)
}

/// What of /proc is read-only: moby's ReadonlyPaths.
pub(crate) const READ_ONLY_PROC: &[&std::ffi::CStr] = &[c"bus", c"fs", c"irq", c"sys", c"sysrq-trigger"];

/// The `CLONE_NEW…` bits of clone's flags, as Docker's profile masks them: all namespaces but time.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// `AF_ALG` and `AF_VSOCK`, which Docker refuses: ciphers in the kernel, and a way to the machine around a virtual one.
const REFUSED_FAMILIES: [u32; 2] = [38, 40];
/// Linux 6.8, of the same numbers everywhere.
const SYS_LSM_GET_SELF_ATTR: i64 = 459;
const SYS_LSM_SET_SELF_ATTR: i64 = 460;
const SYS_LSM_LIST_MODULES: i64 = 461;
/// The personalities that Docker allows: Linux, UNAME26 and both without address randomisation, and asking.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Calls that fail with EPERM: those that Docker's default profile (moby's profiles/seccomp/default.json) lets through only with
/// capabilities that it does not grant, or never. `mount` and its like are among them, so they fail as in Docker.
const REFUSED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    SYS_LSM_GET_SELF_ATTR,
    SYS_LSM_SET_SELF_ATTR,
    SYS_LSM_LIST_MODULES,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// The same, of calls that only x86 has.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS__sysctl,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// `mseal`, the newest call when this list was written (Linux 6.10). Newer ones do not exist in the sandbox, which programs are
/// ready for: what they would let through has not been looked at.
const HIGHEST_KNOWN: i64 = 462;

/// The filter that a process runs under. What is sent to a listener is answered by [`crate::emulate`].
pub(crate) fn filter(security: Security, identities: Identities, shows_devices: bool) -> Filter {
    let mut rules = calls::rules(identities, shows_devices);
    if security == Security::Insecure {
        return Filter { rules, highest_known: None };
    }
    let refuse = |call, when| Rule { call, when, action: Action::Fail(libc::EPERM as u16) };
    rules.extend(REFUSED.iter().chain(REFUSED_HERE).map(|call| refuse(*call, When::Always)));
    rules.push(refuse(libc::SYS_clone, When::AnyBit(0, NEW_NAMESPACES)));
    // Its flags are out of a filter's sight, so programs are made to fall back to clone.
    let absent = Action::Fail(libc::ENOSYS as u16);
    rules.push(Rule { call: libc::SYS_clone3, when: When::Always, action: absent });
    rules.push(refuse(libc::SYS_socket, When::OneOf(0, u32::MAX, REFUSED_FAMILIES.to_vec())));
    rules.push(refuse(libc::SYS_personality, When::NoneOf(0, PERSONALITIES.to_vec())));
    Filter { rules, highest_known: Some(HIGHEST_KNOWN) }
}
