//! Ctrl-C and SIGTERM stop the build; a second one ends the process at once.

use std::time::Duration;

use lithify_engine::Cancel;

use crate::render::say;

/// How long an orderly end may take. What cannot be stopped, such as a download or a push, is dropped then: the store is
/// sound at every instant.
const GRACE: Duration = Duration::from_millis(700);

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
        std::thread::spawn(|| {
            std::thread::sleep(GRACE);
            say(format_args!("error: interrupted; finished steps are kept in the cache"));
            std::process::exit(130);
        });
        signals.wait();
        std::process::exit(130);
    });
}
