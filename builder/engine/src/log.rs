//! What becomes of each step, for the store's log of builds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use lithify_cache::key::{Key, Keyed};
use lithify_cache::{LoggedBuild, LoggedStep, Missed, Past, StepOutcome, Store};
use lithify_graph::{Graph, Step, StepId};

use crate::build::Request;
use crate::event::{Event, Origin};

/// Gathers what happens to steps.
pub(crate) struct Log {
    started: SystemTime,
    steps: Mutex<Vec<LoggedStep>>,
    /// Earlier runs, as they were when the first such step was missed: those of this build are of other steps.
    earlier: Mutex<HashMap<String, Arc<Vec<Past>>>>,
}

impl Log {
    pub(crate) fn new(graph: &Graph) -> Self {
        let step = |step: &Step| LoggedStep {
            title: step.title.clone(),
            identity: identity(step),
            key: None,
            outcome: StepOutcome::NotReached,
            missed: None,
            parts: None,
        };
        let steps = Mutex::new(graph.steps.iter().map(step).collect());
        Log { started: SystemTime::now(), steps, earlier: Mutex::default() }
    }

    fn at(&self, step: StepId, change: impl FnOnce(&mut LoggedStep)) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(step) = steps.get_mut(step.0 as usize) {
            change(step);
        }
    }

    /// The step's result was found under this key.
    pub(crate) fn found(&self, step: StepId, key: &Key) {
        self.at(step, |step| step.key = Some(*key));
    }

    /// Why a step that was looked for was not found.
    pub(crate) fn explain(
        &self,
        store: &Store,
        keyed: &Keyed,
        identity: &str,
    ) -> Result<Missed, lithify_cache::Error> {
        let mut known = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = match known.get(identity) {
            Some(earlier) => earlier.clone(),
            None => {
                let earlier = Arc::new(store.history(identity)?);
                known.insert(identity.to_owned(), earlier.clone());
                earlier
            }
        };
        drop(known);
        Ok(Missed::explain(&keyed.key, &keyed.explanation(identity), &earlier))
    }

    /// The step's result was not found, and is about to be made.
    pub(crate) fn missed(&self, step: StepId, keyed: &Keyed, why: Missed) {
        self.at(step, |step| {
            step.key = Some(keyed.key);
            step.missed = Some(why);
            step.parts = Some(keyed.explanation(&step.identity));
        });
    }

    pub(crate) fn finished(&self, step: StepId, origin: Origin) {
        self.at(step, |step| {
            step.outcome = match origin {
                Origin::Cache => StepOutcome::Cached,
                Origin::Run => StepOutcome::Ran,
                Origin::Source => StepOutcome::Source,
            };
            // The record has them.
            step.parts = None;
        });
    }

    pub(crate) fn failed(&self, step: StepId) {
        self.at(step, |step| step.outcome = StepOutcome::Failed);
    }

    /// Writes it to the store. A build is none the worse for a log that cannot be written.
    pub(crate) fn write(self, request: &Request<'_>, succeeded: bool) {
        let steps = self.steps.into_inner().unwrap_or_else(PoisonError::into_inner);
        let name = request.name.to_owned();
        let finished = SystemTime::now();
        let build = LoggedBuild { id: 0, name, started: self.started, finished, succeeded, steps };
        if let Err(error) = request.store.log_build(&build) {
            let message = format!("`lithify why` will not know of this build: {error}");
            request.observer.event(Event::Warning { message: &message });
        }
    }
}

/// What makes a step "the same" in two builds: its stage and its instruction. Of several such steps the most similar one is
/// meant, so that a line more or less does not make others of those that follow.
pub(crate) fn identity(step: &Step) -> String {
    let rest = step.title.split_once("] ").map_or(step.title.as_str(), |(_, rest)| rest);
    let instruction = rest.split_whitespace().next().unwrap_or_default();
    format!("{}] {instruction}", step.stage)
}
