//! One store and many processes, some of which are killed, and a disk that is full.
//!
//! `LITHIFY_KILLS` says how many processes are killed (40 if it does not say), `LITHIFY_DISK_STEP` by how many kilobytes the
//! disks differ that are filled: a thousand, or steps of four, take some ten minutes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lithify_testkit::{Env, Finished, Running, is_root, skipped};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const STEP_FAILED: i32 = 1;
const STORE: i32 = 5;
const LIMIT: Duration = Duration::from_secs(600);

/// What is built: a chain of steps of every kind that all depend on the file `round`, and whose result never does.
const DOCKERFILE: &str = "FROM busybox AS a\n\
    COPY round /round\n\
    RUN test -s /round && mkdir /w && echo 1 > /w/one\n\
    WORKDIR /made\n\
    RUN --mount=type=cache,target=/c,id=shared echo line >> /c/log; cp /w/one two\n\
    FROM busybox AS b\n\
    RUN --mount=type=bind,source=round,target=/r test -s /r && dd if=/dev/zero of=/zeros bs=64k count=8\n\
    COPY files /files\n\
    FROM busybox\n\
    COPY --from=a /made /w /out/\n\
    COPY --from=b /zeros /files /out/\n\
    RUN --mount=type=bind,from=a,target=/a cat /a/round > /dev/null; ls /out > /list\n";

struct Site {
    env: Env,
    context: PathBuf,
}

impl Site {
    fn new() -> Self {
        let env = Env::new(BINARY);
        let context =
            env.folder(&[("Dockerfile", DOCKERFILE), ("round", "0"), ("files/x", "x"), ("files/y", "y")]);
        Site { env, context }
    }

    /// The context as it is in a round.
    fn round(&self, round: u64) -> PathBuf {
        let context = self.env.copy_of(&self.context);
        self.env.write(&context.join("round"), &format!("{round}\n"));
        context
    }

    fn command(&self, root: &Path, context: &Path) -> Vec<String> {
        let root = root.display().to_string();
        let context = context.display().to_string();
        let name = "-tlocalhost/out:1".to_owned();
        vec![
            "--root".into(),
            root,
            "build".into(),
            "--progress=plain".into(),
            self.env.busybox(),
            name,
            context,
        ]
    }

    #[track_caller]
    fn verify(&self, root: &Path) {
        self.env.run(["--root", &root.display().to_string(), "store", "verify"]).expect_ok();
    }
}

/// The digest that a build says.
#[track_caller]
fn digest(built: &Finished) -> String {
    let line = built.stderr.lines().find_map(|line| line.strip_prefix("digest  "));
    line.unwrap_or_else(|| panic!("no digest in {}", built.stderr)).to_owned()
}

/// The steps of which a line of the output ends like this.
fn steps(built: &Finished, ends: &[&str]) -> BTreeSet<u32> {
    let lines = built.stderr.lines().filter_map(|line| line.strip_prefix('#')?.split_once(' '));
    let fits = lines.filter(|(_, rest)| ends.iter().any(|end| rest.starts_with(end)));
    fits.filter_map(|(number, _)| number.parse().ok()).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Numbers that look random and are the same each time (Knuth's generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

/// Whatever instant a process is killed at: what it said was done is done, nothing is damaged, and the next build is right.
#[test]
fn killed_at_any_instant() {
    let site = Site::new();
    let root = site.env.store();
    let kills = number("LITHIFY_KILLS").unwrap_or(40);
    let first = site.env.run(site.command(&root, &site.round(0))).expect_ok();
    let (expected, whole) = (digest(&first), first.wall.as_millis() as u64);
    let root_text = root.display().to_string();
    let mut numbers = Numbers(kills);
    let mut finished_before_kill = 0;
    for round in 1..=kills {
        let context = site.round(round);
        // Of every ten, one is a prune beside a build that nobody kills.
        let victim = match round % 10 {
            9 => ["--root", &root_text, "prune", "--all"].map(str::to_owned).to_vec(),
            _ => site.command(&root, &context),
        };
        let beside = (round % 10 == 9).then(|| site.env.start(site.command(&root, &context)));
        let after = Duration::from_micros(numbers.below((whole + whole / 5) * 1000));
        // A step that is said to be done is done: what comes later is the kill.
        let killed = site.env.start(&victim).wait(after);
        if let Some(beside) = beside {
            assert_eq!(
                digest(&beside.wait(LIMIT).expect_ok()),
                expected,
                "beside a killed prune, round {round}"
            );
        }
        let next = site.env.run(site.command(&root, &context)).expect_ok();
        assert_eq!(digest(&next), expected, "after a kill in round {round}: {}", next.summary());
        let lost: Vec<u32> =
            steps(&killed, &["DONE"]).difference(&steps(&next, &["CACHED"])).copied().collect();
        assert!(
            lost.is_empty(),
            "round {round} lost steps {lost:?}:\n{}\nthen\n{}",
            killed.stderr,
            next.stderr
        );
        finished_before_kill += steps(&killed, &["DONE"]).len();
        std::fs::remove_dir_all(&context).expect("the context goes");
        if round % 25 == 0 || round == kills {
            site.verify(&root);
        }
    }
    assert!(finished_before_kill > 0, "no kill came late enough to test anything");
    // Nothing is left that prune does not know.
    site.env.run(["--root", &root_text, "rmi", "localhost/out:1"]).expect_ok();
    site.env.run(["--root", &root_text, "prune", "--all"]).expect_ok();
    let left = files_in(&root, &["blobs", "tmp", "use", "builds", "contexts"]);
    assert_eq!(left, Vec::<PathBuf>::new(), "left after a prune of everything");
    let trees = files_in(&root, &["trees"]);
    assert_eq!(trees, Vec::<PathBuf>::new(), "left of the trees");
}

fn files_in(root: &Path, folders: &[&str]) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => waiting.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

/// Builds of one step wait for one another and share; others go on beside them; prune takes nothing from any.
#[test]
fn dozens_of_processes_on_one_store() {
    const EACH: usize = 6;
    let site = Site::new();
    let root = site.env.store();
    let expected = digest(&site.env.run(site.command(&site.env.fresh("alone"), &site.round(0))).expect_ok());
    let contexts: Vec<PathBuf> = (100..104).map(|round| site.round(round)).collect();
    let builds: Vec<Running> = (0..EACH)
        .flat_map(|_| contexts.iter())
        .map(|context| site.env.start(site.command(&root, context)))
        .collect();
    let root_text = root.display().to_string();
    let prunes = (0..12).map(|at| {
        let how = if at % 2 == 0 { ["--unused-for", "0s"] } else { ["--keep-storage", "0"] };
        site.env.run([&["--root", &root_text, "prune"][..], &how].concat()).expect_ok()
    });
    let prunes: Vec<Finished> = prunes.collect();
    let done: Vec<Finished> = builds.into_iter().map(|build| build.wait(LIMIT).expect_ok()).collect();
    for (at, build) in done.iter().enumerate() {
        assert_eq!(digest(build), expected, "build {at}: {}", build.summary());
    }
    assert_eq!(prunes.len(), 12);
    site.verify(&root);
}

/// The same, without a prune: then each step is done once, whoever does it.
#[test]
fn one_of_many_does_the_work() {
    let site = Site::new();
    let root = site.env.store();
    let context = site.round(7);
    let builds: Vec<Running> = (0..24).map(|_| site.env.start(site.command(&root, &context))).collect();
    let done: Vec<Finished> = builds.into_iter().map(|build| build.wait(LIMIT).expect_ok()).collect();
    let mut by_step = std::collections::BTreeMap::<u32, usize>::new();
    for build in &done {
        for step in steps(build, &["DONE"]) {
            *by_step.entry(step).or_default() += 1;
        }
    }
    assert!(!by_step.is_empty() && by_step.values().all(|count| *count == 1), "{by_step:?}");
    let digests: BTreeSet<String> = done.iter().map(digest).collect();
    assert_eq!(digests.len(), 1);
    site.verify(&root);
}

/// A file system of a certain size, gone when this is.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf, kilobytes: u64) -> Option<Self> {
        std::fs::create_dir(&path).expect("folder");
        let disk = Disk(path);
        disk.run(&["-t", "tmpfs", "-o", &format!("size={kilobytes}k,mode=700"), "none"]).then_some(disk)
    }

    fn grow(&self) {
        assert!(self.run(&["-o", "remount,size=256m"]), "remount");
    }

    fn run(&self, flags: &[&str]) -> bool {
        Command::new("mount").args(flags).arg(&self.0).output().is_ok_and(|output| output.status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

/// At whatever write the disk is full, that is what is said, and with room the next build is right.
#[test]
fn a_full_disk_at_any_write() {
    let name = "a_full_disk_at_any_write";
    if !is_root() {
        return skipped(name, "only root can mount a small file system");
    }
    let site = Site::new();
    let context = site.round(1);
    let expected = digest(&site.env.run(site.command(&site.env.fresh("roomy"), &context)).expect_ok());
    let mut failed = 0;
    let mut wrong = vec![];
    // From too little for the database to just too little for the last step.
    let step = number("LITHIFY_DISK_STEP").map(|step| step as usize);
    let sizes = (8..=400).step_by(step.unwrap_or(28)).chain((400..=5000).step_by(step.unwrap_or(230)));
    for kilobytes in sizes {
        let Some(disk) = Disk::mount(site.env.fresh("disk"), kilobytes) else {
            return skipped(name, "no tmpfs can be mounted");
        };
        let root = disk.0.join("store");
        let build = site.env.run(site.command(&root, &context));
        if build.code != Some(0) {
            failed += 1;
            // A program in RUN that cannot write fails as it likes; the hint is ours.
            let hint = build.code == Some(STEP_FAILED) && build.log().contains("`lithify prune`");
            let named = build.code == Some(STORE) && build.log().to_lowercase().contains("space left");
            if !hint && !named {
                wrong.push(format!("{kilobytes} kB: {}", build.summary()));
            }
        }
        disk.grow();
        site.verify(&root);
        let next = site.env.run(site.command(&root, &context)).expect_ok();
        assert_eq!(digest(&next), expected, "{kilobytes} kB");
        site.verify(&root);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(failed > 10, "only {failed} builds met a full disk");
}
