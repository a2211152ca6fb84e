//! Builds every case in `testdata/conformance/cases` and compares the image with the one recorded from BuildKit.
//!
//! Each case is built under both snapshotters, which must give one manifest digest. What does not pass yet stands in
//! `expected-failures.txt`: a listed case that passes, or an unlisted one that fails, fails the test. Where
//! ARCHITECTURE.md declares a departure from BuildKit, `departures/CASE.json` replaces the recorded result.
//!
//! `LITHIFY_CASES=name,name` runs only those.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lithify_testkit::case::Case;
use lithify_testkit::describe::{Bases, base_names};
use lithify_testkit::{Env, Image, say, skipped};
use serde_json::{Value, json};

const SNAPSHOTTERS: [&str; 2] = ["overlay", "copy"];
const CASES_AT_ONCE: usize = 2;
const LIMIT: Duration = Duration::from_secs(300);
/// How much of a failed case is shown.
const DIFFERENCES_SHOWN: usize = 12;
const LOG_SHOWN_BYTES: usize = 800;

#[test]
fn every_case_gives_the_recorded_image() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/conformance");
    let suite = Suite::read(&data);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..CASES_AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = suite.cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = suite.try_case(case);
                    results.lock().expect("no case panics").insert(case.name.clone(), result);
                }
            });
        }
    });
    suite.report(&results.into_inner().expect("no case panics"));
}

enum Verdict {
    Passed,
    Failed(Vec<String>),
    Skipped,
}

struct Suite {
    data: PathBuf,
    cases: Vec<Case>,
    expected_failures: BTreeSet<String>,
    bases: Bases,
    /// One store for each snapshotter, or the second would find the first one's results. Within one, the cases share
    /// the cache on purpose: a case that gets another's result is a bug worth finding.
    envs: Vec<Env>,
}

impl Suite {
    fn read(data: &Path) -> Self {
        let wanted = std::env::var("LITHIFY_CASES").ok();
        let is_wanted = |name: &str| wanted.as_ref().is_none_or(|all| all.split(',').any(|one| one == name));
        let mut names: Vec<String> = std::fs::read_dir(data.join("cases"))
            .expect("cases")
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".txtar")?.to_owned()))
            .collect();
        names.sort();
        let expected_failures = names_in(&data.join("expected-failures.txt"));
        for name in &expected_failures {
            assert!(names.contains(name), "expected-failures.txt names {name}, which is no case");
        }
        let cases: Vec<Case> = names
            .iter()
            .filter(|name| is_wanted(name))
            .map(|name| Case::read(&data.join(format!("cases/{name}.txtar"))).expect("a readable case"))
            .collect();
        let unknown: Vec<&str> = wanted.as_deref().unwrap_or_default().split(',').collect();
        let unknown =
            unknown.into_iter().find(|name| !name.is_empty() && !names.iter().any(|one| one == name));
        assert_eq!(unknown, None, "LITHIFY_CASES names what is no case");
        Self {
            cases,
            expected_failures,
            bases: Bases::read(&data.join("base")).expect("readable base images"),
            envs: SNAPSHOTTERS.iter().map(|_| Env::new(env!("CARGO_BIN_EXE_lithify"))).collect(),
            data: data.to_owned(),
        }
    }

    fn try_case(&self, case: &Case) -> Verdict {
        if case.needs_root() && !lithify_testkit::is_root() {
            skipped(
                &format!("conformance case {}", case.name),
                "its context has owners, devices or files of mode 0, which needs root",
            );
            return Verdict::Skipped;
        }
        let want = self.wanted(case);
        let context = self.envs[0].folder(&[]);
        if let Err(err) = case.lay_out(&context) {
            return Verdict::Failed(vec![format!("context: {err}")]);
        }
        let (mut faults, mut digests) = (Vec::<Vec<String>>::new(), BTreeSet::new());
        for (snapshotter, env) in SNAPSHOTTERS.iter().zip(&self.envs) {
            let (got, digest, log) = self.build(case, env, snapshotter, &context);
            let mut found = case.differences(&want, &got, &log);
            found.truncate(DIFFERENCES_SHOWN);
            if !found.is_empty() && got["outcome"] != "ok" {
                found.push(format!("log: {}", tail(&log).replace('\n', "\n       ")));
            }
            faults.push(found);
            digests.extend(digest);
        }
        let mut faults = merged(faults);
        if digests.len() > 1 {
            faults.push(format!("one digest for each snapshotter: {digests:?}"));
        }
        if faults.is_empty() { Verdict::Passed } else { Verdict::Failed(faults) }
    }

    fn build(
        &self,
        case: &Case,
        env: &Env,
        snapshotter: &str,
        context: &Path,
    ) -> (Value, Option<String>, String) {
        let archive = env.fresh("image");
        let mut args = vec![
            "build".to_owned(),
            "--progress=plain".to_owned(),
            format!("--snapshotter={snapshotter}"),
            format!("--output=type=oci,dest={}", archive.display()),
        ];
        let base = self.data.join("base").canonicalize().expect("base images");
        for name in base_names(&base).expect("base images") {
            args.push(format!("--build-context={name}=oci-layout://{}", base.join(&name).display()));
        }
        args.extend(case.flags(context));
        args.push(context.display().to_string());
        let ended = env.start(&args).wait(LIMIT);
        if ended.timed_out || !ended.ended_in_order() {
            return (json!({ "outcome": "crash or hang" }), None, ended.summary());
        }
        if ended.code != Some(0) {
            return (json!({ "outcome": "error" }), None, ended.log());
        }
        let read = || {
            let image = Image::from_archive(&archive)?;
            image.validate()?;
            Ok::<_, std::io::Error>((self.bases.describe(&image)?, image.digest))
        };
        let result = match read() {
            Ok((described, digest)) => (described, Some(digest), ended.log()),
            Err(err) => (json!({ "outcome": format!("no sound image: {err}") }), None, ended.log()),
        };
        // Hundreds of archives would fill a small /tmp; one that is missing has been reported above.
        let _ = std::fs::remove_file(&archive);
        result
    }

    /// The recorded result, or the declared departure from it.
    fn wanted(&self, case: &Case) -> Value {
        let recorded = read_json(&self.data.join(format!("cases/{}.json", case.name)));
        let departure = self.data.join(format!("departures/{}.json", case.name));
        if !departure.exists() {
            return recorded;
        }
        let departure = read_json(&departure);
        assert_ne!(recorded, departure, "departures/{}.json says what BuildKit does: remove it", case.name);
        departure
    }

    fn report(&self, results: &BTreeMap<String, Verdict>) {
        let (mut passed, mut failed, mut expected, mut skipped) = (0, 0, 0, 0);
        for (name, verdict) in results {
            match (verdict, self.expected_failures.contains(name)) {
                (Verdict::Passed, false) => passed += 1,
                (Verdict::Failed(_), true) => expected += 1,
                (Verdict::Skipped, _) => skipped += 1,
                (Verdict::Passed, true) => {
                    failed += 1;
                    say(&format!("PASSES NOW {name}: remove it from expected-failures.txt"));
                }
                (Verdict::Failed(faults), false) => {
                    failed += 1;
                    say(&format!("FAIL {name}\n  {}", faults.join("\n  ")));
                }
            }
        }
        say(&format!("conformance under {}: {expected} more fail as expected", SNAPSHOTTERS.join(" and ")));
        say(&format!("{passed} passed, {failed} failed, {skipped} skipped"));
        assert_eq!(failed, 0, "cases above differ from what is recorded or listed");
    }
}

#[test]
fn every_departure_belongs_to_a_case_and_is_explained() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/conformance");
    let reasons = std::fs::read_to_string(data.join("departures/README.md")).expect("departures/README.md");
    for entry in std::fs::read_dir(data.join("departures")).expect("departures") {
        let file = entry.expect("entry").file_name().into_string().expect("a UTF-8 name");
        let Some(name) = file.strip_suffix(".json") else { continue };
        assert!(data.join(format!("cases/{name}.txtar")).exists(), "departures/{file} belongs to no case");
        assert!(
            reasons.contains(&format!("`{name}`")),
            "departures/README.md does not say why {name} departs"
        );
    }
}

/// The faults under each snapshotter, said once where all agree.
fn merged(mut faults: Vec<Vec<String>>) -> Vec<String> {
    // The log names other folders each time; what is wrong is in the lines before it.
    let without_log = |faults: &[String]| -> Vec<String> {
        faults.iter().filter(|fault| !fault.starts_with("log: ")).cloned().collect()
    };
    if faults.iter().all(|one| without_log(one) == without_log(&faults[0])) {
        return faults.swap_remove(0);
    }
    let named = SNAPSHOTTERS.iter().zip(faults);
    named.flat_map(|(name, faults)| faults.into_iter().map(move |fault| format!("{name}: {fault}"))).collect()
}

fn names_in(list: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(list).expect("expected-failures.txt");
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn tail(log: &str) -> &str {
    let log = log.trim();
    let start = log.len().saturating_sub(LOG_SHOWN_BYTES);
    let start = (start..=log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(start);
    &log[start..]
}
