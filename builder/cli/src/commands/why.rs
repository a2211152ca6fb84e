//! `lithify why`: what made a step run that could have come from the cache.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use lithify_cache::key::{Difference, Key};
use lithify_cache::{LoggedBuild, LoggedStep, Missed, StepOutcome, Store};
use serde_json::{Value, json};

use super::store::{ago, open, table};
use crate::args::{Why, WhyFormat};
use crate::config::Config;
use crate::exit::{self, Problem};
use crate::sources::store_problem;

pub(super) fn run(arguments: &Why, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let store = open(config, root)?;
    let builds = store.builds().map_err(store_problem)?;
    if arguments.list {
        list(&builds, arguments.format);
        return Ok(());
    }
    let Some(last) = builds.last() else {
        return Err(Problem::new(exit::USAGE, "the store remembers no build yet: `lithify build` adds one"));
    };
    let build = arguments.build.map_or(Ok(last), |id| find(&builds, id))?;
    let against = arguments.against.map(|id| find(&builds, id)).transpose()?;
    let numbers = steps(build, arguments.step.as_deref())?;
    let mut told = vec![];
    for number in numbers {
        let reason = reason(&store, &build.steps[number], against)?;
        // Without a step, only what was not reused is of interest.
        if arguments.step.is_some() || !matches!(reason, Reason::Reused | Reason::Same | Reason::Nothing) {
            told.push((number, reason));
        }
    }
    match arguments.format {
        WhyFormat::Text => print!("{}", text(build, against, &told)),
        WhyFormat::Json => println!("{:#}", to_json(build, against, &told)),
    }
    Ok(())
}

fn find(builds: &[LoggedBuild], id: u64) -> Result<&LoggedBuild, Problem> {
    builds.iter().find(|build| build.id == id).ok_or_else(|| {
        let message =
            format!("the store does not remember build {id}: `lithify why --list` shows those that it does");
        Problem::new(exit::USAGE, message)
    })
}

/// The steps that are meant, by the number that progress shows or by a part of the title.
fn steps(build: &LoggedBuild, wanted: Option<&str>) -> Result<Vec<usize>, Problem> {
    let Some(wanted) = wanted else { return Ok((0..build.steps.len()).collect()) };
    let number = wanted.strip_prefix('#').unwrap_or(wanted).parse::<usize>().ok();
    let found: Vec<usize> = match number {
        Some(number) => (0..build.steps.len()).filter(|at| at + 1 == number).collect(),
        None => {
            let has = |at: &usize| build.steps[*at].title.to_lowercase().contains(&wanted.to_lowercase());
            (0..build.steps.len()).filter(has).collect()
        }
    };
    if found.is_empty() {
        let message = format!(
            "build {} has no step {wanted:?}: name one by its number, as progress shows it, or by a part of its line",
            build.id
        );
        return Err(Problem::new(exit::USAGE, message));
    }
    Ok(found)
}

/// What there is to say of one step.
enum Reason {
    /// It had nothing to do.
    Nothing,
    NotReached,
    Reused,
    NotAsked,
    First,
    Lost(SystemTime),
    /// As in the other build.
    Same,
    /// The other build has no such step, or it is not known any more what it depended on.
    Unknown,
    Differs(Option<SystemTime>, Difference),
}

fn reason(store: &Store, step: &LoggedStep, against: Option<&LoggedBuild>) -> Result<Reason, Problem> {
    match (step.outcome, &step.key, against) {
        (StepOutcome::Source, ..) => return Ok(Reason::Nothing),
        (StepOutcome::NotReached, ..) => return Ok(Reason::NotReached),
        (_, None, Some(_)) => return Ok(Reason::Unknown),
        (_, Some(key), Some(other)) => {
            return Ok(match store.compare(step, other).map_err(store_problem)? {
                None => Reason::Unknown,
                Some((_, difference)) if difference.is_empty() => Reason::Same,
                Some((old, difference)) => Reason::Differs(None, in_full(store, &difference, &old, key)?),
            });
        }
        (StepOutcome::Cached, ..) => return Ok(Reason::Reused),
        _ => {}
    }
    Ok(match (&step.missed, &step.key) {
        (Some(Missed::NotAsked), _) => Reason::NotAsked,
        (Some(Missed::First), _) => Reason::First,
        (Some(Missed::Lost { finished }), _) => Reason::Lost(*finished),
        (Some(Missed::Differs { against, finished, difference }), Some(key)) => {
            Reason::Differs(Some(*finished), in_full(store, difference, against, key)?)
        }
        // A download, or a step that failed before its key was known.
        _ => Reason::Nothing,
    })
}

/// With single files, where only folders of many files are named.
fn in_full(store: &Store, difference: &Difference, old: &Key, new: &Key) -> Result<Difference, Problem> {
    if !difference.names_folders() {
        return Ok(difference.clone());
    }
    store.with_files(difference, old, new).map_err(store_problem)
}

fn list(builds: &[LoggedBuild], format: WhyFormat) {
    if format == WhyFormat::Json {
        println!("{:#}", builds.iter().map(head).collect::<Value>());
        return;
    }
    let rows = builds.iter().rev().map(|build| {
        let count = |outcome| build.steps.iter().filter(|step| step.outcome == outcome).count();
        let steps = format!("{} ran, {} cached", count(StepOutcome::Ran), count(StepOutcome::Cached));
        let end = if build.succeeded { "done" } else { "failed" };
        [build.id.to_string(), when(build.finished), end.to_owned(), steps, build.name.clone()]
    });
    table(["BUILD", "WHEN", "END", "STEPS", "NAME"], rows.collect());
}

fn when(time: SystemTime) -> String {
    ago(SystemTime::now().duration_since(time).unwrap_or_default())
}

fn text(build: &LoggedBuild, against: Option<&LoggedBuild>, told: &[(usize, Reason)]) -> String {
    let mut text = format!("build {} of {}, {}", build.id, build.name, when(build.finished));
    if let Some(other) = against {
        let _ = write!(text, "; against build {} of {}, {}", other.id, other.name, when(other.finished));
    }
    text.push('\n');
    if told.is_empty() {
        text.push_str(if against.is_some() {
            "no step differs\n"
        } else {
            "every step came from the cache\n"
        });
    }
    for (number, reason) in told {
        let _ = writeln!(text, "#{} {}", number + 1, build.steps[*number].title);
        let _ = match reason {
            Reason::Nothing => {
                writeln!(text, "  nothing to reuse: images, contexts and downloads are asked for each time")
            }
            Reason::NotReached => writeln!(text, "  not reached"),
            Reason::Reused => writeln!(text, "  cached"),
            Reason::NotAsked => writeln!(text, "  not looked for: --no-cache"),
            Reason::First => writeln!(text, "  no earlier run of such a step is known"),
            Reason::Lost(time) => {
                writeln!(text, "  run before, {}, but its result is gone from the store", when(*time))
            }
            Reason::Same => writeln!(text, "  the same in both"),
            Reason::Unknown => writeln!(text, "  the other build has no such step, or its record is gone"),
            Reason::Differs(time, difference) => {
                if let Some(time) = time {
                    let _ = writeln!(text, "  against the most similar run, {}:", when(*time));
                }
                differences(&mut text, difference);
                Ok(())
            }
        };
    }
    text
}

fn differences(text: &mut String, difference: &Difference) {
    if difference.is_empty() {
        let _ = writeln!(text, "  its parts are in another order");
    }
    for (names, what) in
        [(&difference.changed, "changed"), (&difference.added, "added"), (&difference.removed, "removed")]
    {
        for name in names.iter().filter(|name| line(name).is_none()) {
            let _ = writeln!(text, "  {what:7} {name}");
        }
    }
    for (names, sign) in [(&difference.removed, '-'), (&difference.added, '+'), (&difference.changed, '~')] {
        for line in names.iter().filter_map(|name| line(name)) {
            let _ = writeln!(text, "    {sign} {line}");
        }
    }
    if difference.unnamed > 0 {
        let _ = writeln!(text, "  and {} more", difference.unnamed);
    }
}

/// The line of a command that a part is about.
fn line(name: &str) -> Option<&str> {
    name.strip_prefix("line ")
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn head(build: &LoggedBuild) -> Value {
    json!({
        "id": build.id,
        "name": build.name,
        "started": seconds(build.started),
        "finished": seconds(build.finished),
        "succeeded": build.succeeded,
    })
}

fn to_json(build: &LoggedBuild, against: Option<&LoggedBuild>, told: &[(usize, Reason)]) -> Value {
    let steps = told.iter().map(|(number, reason)| {
        let step = &build.steps[*number];
        let mut value = json!({
            "step": number + 1,
            "title": step.title,
            "outcome": step.outcome,
            "key": step.key,
        });
        let (reason, finished, difference) = match reason {
            Reason::Nothing => ("nothing-to-reuse", None, None),
            Reason::NotReached => ("not-reached", None, None),
            Reason::Reused => ("cached", None, None),
            Reason::NotAsked => ("no-cache", None, None),
            Reason::First => ("first", None, None),
            Reason::Lost(time) => ("lost", Some(*time), None),
            Reason::Same => ("same", None, None),
            Reason::Unknown => ("unknown", None, None),
            Reason::Differs(time, difference) => ("differs", *time, Some(difference)),
        };
        value["reason"] = reason.into();
        if let Some(time) = finished {
            value["earlier_run_finished"] = seconds(time).into();
        }
        if let Some(difference) = difference {
            value["difference"] = json!(difference);
        }
        value
    });
    json!({ "build": head(build), "against": against.map(head), "steps": steps.collect::<Value>() })
}
