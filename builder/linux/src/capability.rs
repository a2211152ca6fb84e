//! Capabilities of this thread.

use std::io;

pub use rustix::thread::CapabilitySet as Capabilities;

/// Takes every capability but `kept` out of the bounding set: no program executed from now on can have one, whoever owns it.
///
/// # Errors
/// What `prctl(PR_CAPBSET_DROP)` says: without CAP_SETPCAP nothing can be taken out.
pub fn bound(kept: Capabilities) -> io::Result<()> {
    for number in 0..64 {
        let one = Capabilities::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes `kept` this thread's permitted and effective capabilities, with none inheritable and none ambient.
///
/// # Errors
/// What `capset` says: nothing can be gained by it.
pub fn limit(kept: Capabilities) -> io::Result<()> {
    let inheritable = Capabilities::empty();
    let sets = rustix::thread::CapabilitySets { effective: kept, permitted: kept, inheritable };
    rustix::thread::set_capabilities(None, sets)?;
    match rustix::thread::clear_ambient_capability_set() {
        // Before Linux 4.3 there was no such set.
        Err(rustix::io::Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}
