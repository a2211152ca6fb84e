//! Which system calls are answered here, and the rules of the filter that sends them.

use lithify_linux::seccomp::{Action, Rule, When};

use super::Identities;

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// stat(2) and its like.
    Stat,
    /// chown(2) and its like.
    Owner,
    /// readlink(2) and its like.
    Link,
    /// What makes files.
    Create,
    /// Extended attributes.
    Attribute,
    /// execve(2) and its like.
    Execute,
    /// Who a process is.
    Identity,
    /// chmod(2) and its like.
    Mode,
    /// rename(2) and its like.
    Name,
    /// What the kernel does alone for whoever may.
    Permission,
    /// chroot(2).
    Root,
}

impl Subject {
    pub(crate) fn has_path(self) -> bool {
        self != Subject::Identity
    }
}

/// Calls, when they are of interest, and what they are about.
type Calls = &'static [(i64, Interest, Subject)];

#[derive(Clone, Copy)]
enum Interest {
    Always,
    /// When this argument is one of these.
    Values(u8, &'static [u32]),
    /// When the kind of file in this argument is one of these.
    Kinds(u8, &'static [u32]),
}

use Interest::{Always, Kinds, Values};

const DEVICES: &[u32] = &[libc::S_IFCHR, libc::S_IFBLK];
const NODES: &[u32] = &[libc::S_IFCHR, libc::S_IFBLK, libc::S_IFIFO, libc::S_IFSOCK];
const LIMIT: &[u32] = &[libc::RLIMIT_RTTIME];
const PRCTL: &[u32] = &[
    libc::PR_SET_KEEPCAPS as u32,
    libc::PR_GET_KEEPCAPS as u32,
    libc::PR_SET_SECUREBITS as u32,
    libc::PR_CAPBSET_DROP as u32,
    libc::PR_CAP_AMBIENT as u32,
];

/// Asked about files.
const STAT: Calls = &[
    (libc::SYS_newfstatat, Always, Subject::Stat),
    (libc::SYS_fstat, Always, Subject::Stat),
    (libc::SYS_statx, Always, Subject::Stat),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat, Always, Subject::Stat),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lstat, Always, Subject::Stat),
];

/// Device nodes being made.
const DEVICE: Calls = &[
    (libc::SYS_mknodat, Kinds(2, DEVICES), Subject::Create),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, Kinds(1, DEVICES), Subject::Create),
];

/// What changes owners.
const CHOWN: Calls = &[
    (libc::SYS_fchownat, Always, Subject::Owner),
    (libc::SYS_fchown, Always, Subject::Owner),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, Always, Subject::Owner),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lchown, Always, Subject::Owner),
];

/// What changes identities.
const BECOME: Calls = &[
    (libc::SYS_setuid, Always, Subject::Identity),
    (libc::SYS_setgid, Always, Subject::Identity),
    (libc::SYS_setreuid, Always, Subject::Identity),
    (libc::SYS_setregid, Always, Subject::Identity),
    (libc::SYS_setresuid, Always, Subject::Identity),
    (libc::SYS_setresgid, Always, Subject::Identity),
    (libc::SYS_setgroups, Always, Subject::Identity),
    (libc::SYS_setfsuid, Always, Subject::Identity),
    (libc::SYS_setfsgid, Always, Subject::Identity),
];

/// What else there is to identities and files.
const OTHERS: Calls = &[
    (libc::SYS_getuid, Always, Subject::Identity),
    (libc::SYS_getgid, Always, Subject::Identity),
    (libc::SYS_geteuid, Always, Subject::Identity),
    (libc::SYS_getegid, Always, Subject::Identity),
    (libc::SYS_getresuid, Always, Subject::Identity),
    (libc::SYS_getresgid, Always, Subject::Identity),
    (libc::SYS_getgroups, Always, Subject::Identity),
    (libc::SYS_capget, Always, Subject::Identity),
    (libc::SYS_capset, Always, Subject::Identity),
    (libc::SYS_prctl, Values(0, PRCTL), Subject::Identity),
    (libc::SYS_prlimit64, Values(1, LIMIT), Subject::Identity),
    (libc::SYS_getrlimit, Values(0, LIMIT), Subject::Identity),
    (libc::SYS_setrlimit, Values(0, LIMIT), Subject::Identity),
    (libc::SYS_readlinkat, Always, Subject::Link),
    (libc::SYS_openat, Always, Subject::Create),
    (libc::SYS_openat2, Always, Subject::Create),
    (libc::SYS_mkdirat, Always, Subject::Create),
    (libc::SYS_symlinkat, Always, Subject::Create),
    (libc::SYS_mknodat, Kinds(2, NODES), Subject::Create),
    (libc::SYS_renameat, Always, Subject::Name),
    (libc::SYS_renameat2, Always, Subject::Name),
    (libc::SYS_fchmod, Always, Subject::Mode),
    (libc::SYS_fchmodat, Always, Subject::Mode),
    (libc::SYS_fchmodat2, Always, Subject::Mode),
    (libc::SYS_unlinkat, Always, Subject::Permission),
    (libc::SYS_linkat, Always, Subject::Permission),
    (libc::SYS_faccessat, Always, Subject::Permission),
    (libc::SYS_faccessat2, Always, Subject::Permission),
    (libc::SYS_truncate, Always, Subject::Permission),
    (libc::SYS_chdir, Always, Subject::Permission),
    (libc::SYS_fchdir, Always, Subject::Permission),
    (libc::SYS_utimensat, Always, Subject::Permission),
    (libc::SYS_setxattr, Always, Subject::Attribute),
    (libc::SYS_lsetxattr, Always, Subject::Attribute),
    (libc::SYS_fsetxattr, Always, Subject::Attribute),
    (libc::SYS_getxattr, Always, Subject::Attribute),
    (libc::SYS_lgetxattr, Always, Subject::Attribute),
    (libc::SYS_fgetxattr, Always, Subject::Attribute),
    (libc::SYS_listxattr, Always, Subject::Attribute),
    (libc::SYS_llistxattr, Always, Subject::Attribute),
    (libc::SYS_flistxattr, Always, Subject::Attribute),
    (libc::SYS_removexattr, Always, Subject::Attribute),
    (libc::SYS_lremovexattr, Always, Subject::Attribute),
    (libc::SYS_fremovexattr, Always, Subject::Attribute),
    (libc::SYS_execve, Always, Subject::Execute),
    (libc::SYS_execveat, Always, Subject::Execute),
    (libc::SYS_chroot, Always, Subject::Root),
];

/// The same, of calls that only x86 has.
#[cfg(target_arch = "x86_64")]
const OTHERS_HERE: Calls = &[
    (libc::SYS_readlink, Always, Subject::Link),
    (libc::SYS_open, Always, Subject::Create),
    (libc::SYS_creat, Always, Subject::Create),
    (libc::SYS_mkdir, Always, Subject::Create),
    (libc::SYS_rename, Always, Subject::Name),
    (libc::SYS_symlink, Always, Subject::Create),
    (libc::SYS_mknod, Kinds(1, NODES), Subject::Create),
    (libc::SYS_chmod, Always, Subject::Mode),
    (libc::SYS_unlink, Always, Subject::Permission),
    (libc::SYS_rmdir, Always, Subject::Permission),
    (libc::SYS_link, Always, Subject::Permission),
    (libc::SYS_access, Always, Subject::Permission),
];
#[cfg(not(target_arch = "x86_64"))]
const OTHERS_HERE: Calls = &[];

/// What a call is about.
pub(crate) fn subject(call: i64) -> Option<Subject> {
    let all = [STAT, CHOWN, BECOME, OTHERS, OTHERS_HERE, DEVICE];
    all.into_iter().flatten().find(|(number, ..)| *number == call).map(|(.., subject)| *subject)
}

/// The rules that send the calls here; `shows_devices` where a tree with recorded nodes has to be shown.
pub(crate) fn rules(identities: Identities, shows_devices: bool) -> Vec<Rule> {
    let rules = |calls: &[Calls], action| -> Vec<Rule> {
        let calls = calls.iter().copied().flatten();
        calls.map(|(call, interest, _)| Rule { call: *call, when: interest.when(), action }).collect()
    };
    match (identities, shows_devices) {
        (Identities::Emulated, _) => rules(&[STAT, OTHERS, OTHERS_HERE, CHOWN, BECOME], Action::Notify),
        (Identities::Real, false) => rules(&[DEVICE], Action::Notify),
        (Identities::Real, true) => rules(&[STAT, DEVICE], Action::Notify),
        (Identities::Pretended, _) => rules(&[CHOWN, BECOME, DEVICE], Action::Fail(0)),
    }
}

impl Interest {
    fn when(self) -> When {
        match self {
            Always => When::Always,
            Values(argument, values) => When::OneOf(argument, u32::MAX, values.to_vec()),
            Kinds(argument, kinds) => When::OneOf(argument, libc::S_IFMT, kinds.to_vec()),
        }
    }
}
