//! Which step runs when: a pure state machine, driven by completions.

use std::collections::BTreeSet;

use lithify_graph::{Graph, StepId};

/// The order of work. Steps whose inputs are done may run, the earliest in the Dockerfile first, `jobs` at a time.
pub(crate) struct Schedule {
    missing_inputs: Vec<usize>,
    dependents: Vec<Vec<StepId>>,
    ready: BTreeSet<StepId>,
    running: usize,
    unfinished: usize,
    jobs: usize,
    stopped: bool,
}

impl Schedule {
    /// Nothing has run yet.
    pub(crate) fn new(graph: &Graph, jobs: usize) -> Self {
        let mut dependents = vec![vec![]; graph.steps.len()];
        let mut missing_inputs = vec![0; graph.steps.len()];
        for (index, step) in graph.steps.iter().enumerate() {
            let inputs: BTreeSet<StepId> = step.op.inputs().into_iter().collect();
            missing_inputs[index] = inputs.len();
            for input in inputs {
                dependents[input.0 as usize].push(StepId(index as u32));
            }
        }
        let ready = (0..graph.steps.len()).filter(|index| missing_inputs[*index] == 0);
        let ready = ready.map(|index| StepId(index as u32)).collect();
        let unfinished = graph.steps.len();
        Schedule {
            missing_inputs,
            dependents,
            ready,
            running: 0,
            unfinished,
            jobs: jobs.max(1),
            stopped: false,
        }
    }

    /// The steps to start now; each counts as running from here on.
    pub(crate) fn start(&mut self) -> Vec<StepId> {
        let mut starting = vec![];
        while !self.stopped && self.running < self.jobs {
            let Some(step) = self.ready.pop_first() else { break };
            self.running += 1;
            starting.push(step);
        }
        starting
    }

    /// A running step is done: what waited for it may become ready.
    pub(crate) fn done(&mut self, step: StepId) {
        self.running -= 1;
        self.unfinished -= 1;
        for dependent in &self.dependents[step.0 as usize] {
            let missing = &mut self.missing_inputs[dependent.0 as usize];
            *missing -= 1;
            if *missing == 0 {
                self.ready.insert(*dependent);
            }
        }
    }

    /// A running step failed: nothing new starts.
    pub(crate) fn failed(&mut self) {
        self.running -= 1;
        self.stopped = true;
    }

    /// Whether nothing runs and nothing more will.
    pub(crate) fn is_over(&self) -> bool {
        self.running == 0 && (self.stopped || self.unfinished == 0)
    }
}

#[cfg(test)]
mod tests;
