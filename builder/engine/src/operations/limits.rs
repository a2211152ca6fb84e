//! Limits on what a RUN uses, held by a control group.

use lithify_linux::cgroup::Group;

use crate::build::Running;
use crate::event::Event;

/// A control group with the limits that were asked for. Where the machine does not let one be made, that is said once.
pub(super) fn control_group(running: &Running<'_>) -> Option<Group> {
    let limits = &running.request.settings.limits;
    if limits.is_empty() {
        return None;
    }
    match Group::make(limits) {
        Ok(group) => Some(group),
        Err(error) => {
            let message = format!(
                "RUN is not limited in memory and processors: {error}; `systemd-run --user --scope -p Delegate=yes` \
                 gives lithify such a group, or limit the one that lithify itself is in"
            );
            if running.is_first_unlimited() {
                running.request.observer.event(Event::Warning { message: &message });
            }
            None
        }
    }
}
