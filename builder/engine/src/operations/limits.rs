//! Limits on what a RUN uses, held by a control group.

use lithify_linux::cgroup::Group;

use crate::build::Running;
use crate::event::Event;
use crate::settings::Settings;

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

/// The limits of a RUN's process. What lithify allows itself changes nothing for it.
pub(super) fn of_process(settings: &Settings) -> Vec<(String, u64, u64)> {
    let mut limits = settings.ulimits.clone();
    if let Some((soft, hard)) = settings.open_files
        && !limits.iter().any(|(name, ..)| name == "nofile")
    {
        limits.push(("nofile".into(), soft, hard));
    }
    limits
}
