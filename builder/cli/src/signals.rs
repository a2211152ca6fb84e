//! Ctrl-C and SIGTERM stop the build; a second one ends the process at once.

use lithify_engine::Cancel;

/// From here on SIGINT and SIGTERM cancel the build.
///
/// A thread waits for them: nothing may be done in a signal handler itself.
pub(crate) fn cancel_on_signals(cancel: &Cancel) {
    let cancel = cancel.clone();
    let waiting = lithify_linux::signals::block_termination();
    std::thread::spawn(move || {
        let Ok(signals) = waiting else { return };
        signals.wait();
        cancel.cancel();
        signals.wait();
        std::process::exit(130);
    });
}
