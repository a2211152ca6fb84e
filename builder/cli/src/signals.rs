//! Ctrl-C and SIGTERM stop the build; a second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lithify_engine::{Cancel, TemporaryFolder};

use crate::render::say;

/// How long an orderly end may take. What cannot be stopped, such as a download or a push, is dropped then: the store is
/// sound at every instant.
const GRACE: Duration = Duration::from_millis(700);

/// How a signal is answered.
pub(crate) struct Stopping(Arc<AtomicBool>);

impl Stopping {
    /// From here on a first signal cancels the build, which then ends in order. Before, there is nothing to end but downloads.
    pub(crate) fn by_cancelling(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// From here on SIGINT and SIGTERM end the process in order. To be called before other threads are started.
///
/// A thread waits for them: nothing may be done in a signal handler itself.
pub(crate) fn cancel_on_signals(cancel: &Cancel) -> Stopping {
    let cancel = cancel.clone();
    let has_steps = Arc::new(AtomicBool::new(false));
    let stopping = Stopping(has_steps.clone());
    let waiting = lithify_linux::signals::block_termination();
    std::thread::spawn(move || {
        let Ok(signals) = waiting else { return };
        signals.wait();
        cancel.cancel();
        if has_steps.load(Ordering::SeqCst) {
            std::thread::spawn(|| {
                std::thread::sleep(GRACE);
                say(format_args!("error: interrupted; finished steps are kept in the cache"));
                TemporaryFolder::remove_all();
                std::process::exit(130);
            });
            signals.wait();
        }
        TemporaryFolder::remove_all();
        std::process::exit(130);
    });
    stopping
}
