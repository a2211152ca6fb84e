//! Schedules and drives the steps of a build.
