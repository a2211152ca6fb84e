use lithify_graph::{Graph, MakeDirectory, Op, Step, StepId, Target, Tree};
use lithify_oci::{ImageConfig, Platform};

use super::Schedule;

/// A graph in which each step makes a folder in the tree of the step with the given number.
fn graph(bases: &[Option<u32>]) -> Graph {
    let steps = bases.iter().map(|base| Step {
        op: Op::MakeDirectory(MakeDirectory {
            base: base.map_or(Tree::Scratch, |base| Tree::Of(StepId(base))),
            path: "/a".into(),
            user: String::new(),
        }),
        platform: Platform::new("linux", "amd64"),
        title: String::new(),
        stage: String::new(),
        span: None,
    });
    let target = Target { tree: Tree::Scratch, config: ImageConfig::default(), history: vec![] };
    Graph { steps: steps.collect(), target }
}

/// Runs the schedule, finishing the oldest running step each time, and tells what started in each round.
fn rounds(bases: &[Option<u32>], jobs: usize) -> Vec<Vec<u32>> {
    let mut schedule = Schedule::new(&graph(bases), jobs);
    let mut running: Vec<u32> = vec![];
    let mut rounds = vec![];
    while !schedule.is_over() {
        let started: Vec<u32> = schedule.start().into_iter().map(|step| step.0).collect();
        running.extend(&started);
        rounds.push(started);
        schedule.done(StepId(running.remove(0)));
    }
    rounds
}

#[test]
fn a_chain_runs_one_by_one() {
    assert_eq!(rounds(&[None, Some(0), Some(1)], 8), [vec![0], vec![1], vec![2]]);
}

#[test]
fn independent_steps_run_side_by_side() {
    assert_eq!(rounds(&[None, None, None], 8), [vec![0, 1, 2], vec![], vec![]]);
}

#[test]
fn jobs_limit_how_many() {
    assert_eq!(rounds(&[None, None, None], 1), [vec![0], vec![1], vec![2]]);
}

#[test]
fn two_chains_interleave() {
    assert_eq!(rounds(&[None, Some(0), None, Some(2)], 8), [vec![0, 2], vec![1], vec![3], vec![]]);
}

#[test]
fn nothing_starts_after_a_failure() {
    let mut schedule = Schedule::new(&graph(&[None, None, Some(0)]), 8);
    assert_eq!(schedule.start().len(), 2);
    schedule.failed();
    assert!(!schedule.is_over());
    schedule.done(StepId(0));
    assert!(schedule.start().is_empty());
    assert!(schedule.is_over());
}

#[test]
fn an_empty_graph_is_over_at_once() {
    assert!(Schedule::new(&graph(&[]), 1).is_over());
}
