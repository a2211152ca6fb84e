//! Drives the steps: asks the schedule what to do, does it on a thread each, tells the schedule how it went.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;
use std::time::Instant;

use lithify_cache::Store;
use lithify_graph::{Graph, Op, StepId, Tree};
use lithify_linux::tree::STACK_BYTES;

use crate::assemble::{Built, assemble};
use crate::chain::TreeLayers;
use crate::error::{Error, Failure};
use crate::event::{Event, Observer, Origin};
use crate::log::Log;
use crate::operations::{Done, Outcome};
use crate::resources::{Cancel, Sources};
use crate::schedule::Schedule;
use crate::settings::Settings;
use crate::trees::{Needed, Trees};

/// A build to do.
pub struct Request<'a> {
    /// What the log of builds calls it.
    pub name: &'a str,
    /// What to build.
    pub graph: &'a Graph,
    /// Where results are kept.
    pub store: &'a Store,
    /// Where base images and files come from.
    pub sources: &'a dyn Sources,
    /// What holds for all steps.
    pub settings: &'a Settings,
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// How it is stopped.
    pub cancel: &'a Cancel,
}

/// A build that is going on.
pub(crate) struct Running<'a> {
    pub(crate) request: &'a Request<'a>,
    pub(crate) trees: Trees<'a>,
    pub(crate) log: Log,
    /// Cache mounts that this build has emptied, for it was told to take nothing from caches.
    pub(crate) emptied: Mutex<HashSet<String>>,
    outcomes: Mutex<Vec<Option<Outcome>>>,
    unlimited: AtomicBool,
}

/// Does all steps that the graph's target needs and puts the image together: its blobs, configuration and manifest are
/// in the store then, except for layers of base images that no step had to read.
///
/// # Errors
/// The first step that fails; the others are stopped, and what was finished stays in the cache.
pub fn build(request: &Request<'_>) -> Result<Built, Error> {
    let running = Running {
        request,
        trees: Trees::new(request.store, request.sources, request.settings, request.cancel),
        log: Log::new(request.graph),
        emptied: Mutex::default(),
        outcomes: Mutex::new(vec![None; request.graph.steps.len()]),
        unlimited: AtomicBool::new(false),
    };
    let built = running.run_steps().and_then(|()| {
        let tree = running.tree(request.graph.target.tree);
        assemble(&running, &tree)
    });
    running.log.write(request, built.is_ok());
    built
}

impl<'a> Running<'a> {
    /// Whether nobody was told yet that steps run without the limits that were asked for.
    pub(crate) fn is_first_unlimited(&self) -> bool {
        !self.unlimited.swap(true, Ordering::Relaxed)
    }

    fn run_steps(&self) -> Result<(), Error> {
        let jobs = self.request.settings.jobs.unwrap_or(usize::MAX);
        let mut schedule = Schedule::new(self.request.graph, jobs);
        let (sender, completions) = channel();
        let mut first_failure = None;
        std::thread::scope(|scope| {
            loop {
                self.start_ready(&mut schedule, scope, &sender);
                if schedule.is_over() {
                    break;
                }
                let Ok((step, result)) = completions.recv() else { break };
                match result {
                    Ok(outcome) => self.finish(&mut schedule, step, outcome),
                    Err(failure) => {
                        self.log.failed(step);
                        schedule.failed();
                        self.trees.stop();
                        first_failure.get_or_insert((step, failure));
                    }
                }
            }
        });
        match first_failure {
            None => Ok(()),
            Some(_) if self.request.cancel.is_cancelled() => Err(Error::Cancelled),
            Some((step, failure)) => {
                let title = self.request.graph.step(step).title.clone();
                Err(Error::Step { step, title, failure: Box::new(failure) })
            }
        }
    }

    /// Starts what may start. Steps that only have to be looked up are done here and now: a thread costs more than they do.
    fn start_ready<'s>(
        &'s self,
        schedule: &mut Schedule,
        scope: &'s Scope<'s, '_>,
        sender: &Sender<(StepId, Result<Outcome, Failure>)>,
    ) {
        loop {
            let starting = schedule.start();
            if starting.is_empty() {
                return;
            }
            for step in starting {
                let since = Instant::now();
                match self.look_up(step) {
                    Ok(Some(done)) => {
                        self.report(step, &done, since);
                        self.finish(schedule, step, done.outcome);
                    }
                    Ok(None) => {
                        let sender = sender.clone();
                        let failed = sender.clone();
                        let work = move || {
                            let result = self.perform(step).map(|done| {
                                self.report(step, &done, since);
                                done.outcome
                            });
                            // The receiver waits for every step that was started.
                            let _ = sender.send((step, result));
                        };
                        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                        if let Err(source) = thread.spawn_scoped(scope, work) {
                            let failure = Failure::Io { doing: "cannot start a thread for a step", source };
                            let _ = failed.send((step, Err(failure)));
                        }
                    }
                    Err(failure) => {
                        let _ = sender.send((step, Err(failure)));
                    }
                }
            }
        }
    }

    fn report(&self, step: StepId, done: &Done, since: Instant) {
        self.log.finished(step, done.origin);
        self.request.observer.event(Event::Finished { step, origin: done.origin, took: since.elapsed() });
    }

    fn finish(&self, schedule: &mut Schedule, step: StepId, outcome: Outcome) {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)[step.0 as usize] = Some(outcome);
        schedule.done(step);
    }

    /// What a step that is done resulted in.
    ///
    /// # Panics
    /// If the schedule started a step before its inputs were done.
    pub(crate) fn outcome(&self, step: StepId) -> Outcome {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes[step.0 as usize].clone().expect("inputs are done before a step starts")
    }

    /// The layers of a tree; a context has none.
    pub(crate) fn tree(&self, tree: Tree) -> TreeLayers {
        match tree {
            Tree::Scratch => TreeLayers::default(),
            Tree::Of(step) => match self.outcome(step) {
                Outcome::Tree(layers) => layers,
                Outcome::Files(_) | Outcome::Commit(_) => TreeLayers::default(),
            },
        }
    }

    /// The trees that steps which are not done start from or read; a RUN's own base (`by` is the step) may become its result.
    pub(crate) fn needed_beside(&self, by: StepId) -> Needed {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut needed = HashSet::new();
        for (index, step) in self.request.graph.steps.iter().enumerate() {
            if outcomes[index].is_some() {
                continue;
            }
            let own_base =
                index == by.0 as usize && matches!(&step.op, Op::Exec(exec) if exec.base != Tree::Scratch);
            // The base comes first among the inputs.
            for input in step.op.inputs().into_iter().skip(usize::from(own_base)) {
                if let Some(Outcome::Tree(layers)) = &outcomes[input.0 as usize] {
                    needed.extend(layers.chain().last());
                }
            }
        }
        Needed(needed)
    }

    pub(crate) fn emit_start(&self, step: StepId, why: Option<&str>) {
        self.request.observer.event(Event::Started { step, why });
    }
}

impl Done {
    pub(crate) fn cached(layers: TreeLayers) -> Self {
        Done { outcome: Outcome::Tree(layers), origin: Origin::Cache }
    }

    pub(crate) fn ran(layers: TreeLayers) -> Self {
        Done { outcome: Outcome::Tree(layers), origin: Origin::Run }
    }
}
