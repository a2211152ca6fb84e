//! Runs one process in given mounts under given limits.
//!
//! ```text
//! lithify ──spawn_worker──▶ worker: root of a user namespace, first process of a pid namespace, own mounts
//!                             └─Sandbox::run──▶ init: new pid, mount, ipc, uts (, network) namespaces
//!                                                 └─becomes the process of the step
//! ```
//! Each arrow is this binary again, started through `/proc/self/exe` with a hidden argument, so that what happens between clone
//! and program needs no care for threads; `main` calls [`init_main`] when its first argument is [`INIT_ARGUMENT`]. The worker
//! dies with whoever started it, and when the first process of a pid namespace dies the kernel kills all others in it: nothing
//! outlives a build, however it ends.
//!
//! That is the rung `range` of the ladder of sandboxes: a user namespace with a range of ids. What the kernel refuses there,
//! device nodes, is recorded instead (see [`NODE_ATTRIBUTE`]). On the rung `single` the namespace has one id, and all others are
//! [emulated](Identities). On the rung `chroot` there are no namespaces: see [`Chroot`].

mod cancel;
mod chroot;
mod created;
mod emulate;
mod error;
mod idmap;
mod init;
mod place;
mod policy;
mod probe;
mod process;
mod range;
mod uplink;
mod worker;

pub use cancel::Cancel;
pub use chroot::Chroot;
pub use emulate::{Identities, NODE_ATTRIBUTE};
pub use error::{Error, Unavailable};
pub use idmap::{IdMap, IdRange};
pub use init::{INIT_ARGUMENT, init_main};
pub use place::{Choice, Place, RungName};
pub use probe::{Ladder, Probe, Rung, choose, id_map, ladder, probe, probe_range, single_id};
pub use process::{MountSource, MountSpec, Network, Outcome, Process, Sandbox, Security, Status, Stdio};
pub use range::Range;
pub use uplink::{Uplink, UplinkProgram};
pub use worker::{WorkerProcess, arrive, spawn_worker};

#[cfg(test)]
mod tests;
