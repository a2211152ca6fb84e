//! What the cache promises: never stale, never a needless miss, and an answer to the question why.
//!
//! Each case names what went wrong in another builder, where it did.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lithify_testkit::{Env, Finished, skipped};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const USAGE: i32 = 2;

/// A context that is built again and again in one store.
struct Again {
    env: Env,
    context: PathBuf,
}

impl Again {
    fn new(files: &[(&str, &str)]) -> Self {
        let env = Env::new(BINARY);
        let context = env.folder(files);
        Again { env, context }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.context.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        self.env.write(&self.path(name), text);
    }

    fn command(&self, flags: &[&str]) -> Vec<String> {
        let start = ["build".to_owned(), "--progress=plain".to_owned(), self.env.busybox()];
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        start.into_iter().chain(flags).chain([self.context.display().to_string()]).collect()
    }

    #[track_caller]
    fn build(&self, flags: &[&str]) -> Finished {
        self.env.run(self.command(flags)).expect_ok()
    }

    /// The numbers of the steps that a build ran, of those that could have been cached.
    #[track_caller]
    fn ran(&self, flags: &[&str]) -> Vec<u32> {
        numbers(&self.build(flags), " DONE ")
    }

    fn why(&self, arguments: &[&str]) -> String {
        self.env.run([&["why"], arguments].concat()).expect_ok().stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.env.run(arguments).expect_ok().stdout;
        serde_json::from_str(&text).expect("JSON")
    }
}

fn numbers(built: &Finished, what: &str) -> Vec<u32> {
    let lines = built.stderr.lines().filter(|line| line.starts_with('#') && line.contains(what));
    lines.filter_map(|line| line[1..].split(' ').next()?.parse().ok()).collect()
}

/// Files, and what is changed about the build between the first time and the second.
struct Case {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    first: &'static [&'static str],
    second: &'static [&'static str],
    change: fn(&Again),
    /// What the second build runs.
    ran: &'static [u32],
}

const NOTHING: fn(&Again) = |_| {};

/// A case without flags.
const PLAIN: Case = Case { name: "", files: &[], first: &[], second: &[], change: NOTHING, ran: &[] };

#[track_caller]
fn check(case: &Case) {
    let again = Again::new(case.files);
    let umask = |name: &str| fs::set_permissions(again.path(name), fs::Permissions::from_mode(0o644));
    case.files
        .iter()
        .filter(|(name, _)| !name.contains('/'))
        .for_each(|(name, _)| umask(name).expect("mode"));
    let first = again.ran(case.first);
    assert!(!first.is_empty(), "{}: nothing ran at first", case.name);
    (case.change)(&again);
    assert_eq!(again.ran(case.second), case.ran, "{}", case.name);
    // Whatever it was, it is settled now.
    assert_eq!(again.ran(case.second), [0; 0], "{}: once more", case.name);
}

fn set_mode(again: &Again, name: &str, mode: u32) {
    fs::set_permissions(again.path(name), fs::Permissions::from_mode(mode)).expect("mode");
}

/// Changes that other builders did not see: the image was wrong.
#[test]
fn nothing_stale() {
    let cases = [
        Case {
            name: "kaniko#589, #1262: a file that RUN reads, after COPY of its folder",
            files: &[("Dockerfile", "FROM busybox\nCOPY src /src\nRUN cat /src/a > /out\n"), ("src/a", "1")],
            change: |again| again.write("src/a", "2"),
            ran: &[3, 4],
            ..PLAIN
        },
        Case {
            name: "osscontainertools/kaniko#824: the body of a heredoc",
            files: &[("Dockerfile", "FROM busybox\nCOPY <<EOF /out\none\nEOF\n")],
            change: |again| again.write("Dockerfile", "FROM busybox\nCOPY <<EOF /out\ntwo\nEOF\n"),
            ran: &[2],
            ..PLAIN
        },
        Case {
            name: "the same of a RUN",
            files: &[("Dockerfile", "FROM busybox\nRUN <<EOF\necho one > /out\nEOF\n")],
            change: |again| again.write("Dockerfile", "FROM busybox\nRUN <<EOF\necho two > /out\nEOF\n"),
            ran: &[2],
            ..PLAIN
        },
        Case {
            name: "osscontainertools/kaniko#791: an ARG in a COPY",
            files: &[("Dockerfile", "FROM busybox\nARG F=a\nCOPY $F /out\n"), ("a", "1"), ("b", "2")],
            second: &["--build-arg=F=b"],
            ran: &[3],
            ..PLAIN
        },
        Case {
            name: "kaniko#845: an ARG that RUN sees, and nobody names",
            files: &[("Dockerfile", "FROM busybox\nARG V\nRUN echo hello > /out\n")],
            first: &["--build-arg=V=1"],
            second: &["--build-arg=V=2"],
            ran: &[2],
            ..PLAIN
        },
        Case {
            name: "kaniko#655, #872: ENV above a RUN",
            files: &[("Dockerfile", "FROM busybox\nENV A=1\nRUN echo $A > /out\n")],
            change: |again| again.write("Dockerfile", "FROM busybox\nENV A=2\nRUN echo $A > /out\n"),
            ran: &[2],
            ..PLAIN
        },
        Case {
            name: "buildkit#853, #894, moby#38964: one of several sources",
            files: &[("Dockerfile", "FROM busybox\nCOPY a b /out/\n"), ("a", "1"), ("b", "2")],
            change: |again| again.write("b", "3"),
            ran: &[3],
            ..PLAIN
        },
        Case {
            name: "buildkit#7176: the mode of a folder",
            files: &[("Dockerfile", "FROM busybox\nCOPY src /src\n"), ("src/deep/a", "1")],
            change: |again| set_mode(again, "src/deep", 0o700),
            ran: &[3],
            ..PLAIN
        },
        Case {
            name: "a file of the same size and time (replaced by rename, time set by touch -r)",
            files: &[("Dockerfile", "FROM busybox\nCOPY a /a\n"), ("a", "1")],
            change: |again| {
                let time = fs::metadata(again.path("a")).and_then(|a| a.modified()).expect("time");
                again.write("new", "2");
                let new = fs::File::options().append(true).open(again.path("new")).expect("file");
                new.set_modified(time).expect("time");
                fs::rename(again.path("new"), again.path("a")).expect("rename");
                set_mode(again, "a", 0o644);
            },
            ran: &[3],
            ..PLAIN
        },
        Case {
            name: "a file that RUN binds",
            files: &[
                ("Dockerfile", "FROM busybox\nRUN --mount=type=bind,source=a,target=/a cat /a > /out\n"),
                ("a", "1"),
            ],
            change: |again| again.write("a", "2"),
            ran: &[3],
            ..PLAIN
        },
        Case {
            name: "a file that .dockerignore hides no more",
            files: &[
                ("Dockerfile", "FROM busybox\nCOPY . /src\n"),
                (".dockerignore", "b\n"),
                ("a", "1"),
                ("b", "2"),
            ],
            change: |again| fs::remove_file(again.path(".dockerignore")).expect("removed"),
            ran: &[3],
            ..PLAIN
        },
    ];
    cases.iter().for_each(check);
}

/// Changes that cost a rebuild elsewhere, and must not here.
#[test]
fn nothing_missed_needlessly() {
    let cases = [
        Case {
            name: "buildkit#1106, #2012: times, as of a fresh checkout",
            files: &[("Dockerfile", "FROM busybox\nCOPY . /src\nRUN cp /src/a /out\n"), ("a", "1")],
            change: |again| {
                let file = fs::File::options().append(true).open(again.path("a")).expect("file");
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).expect("time");
            },
            ..PLAIN
        },
        Case {
            name: "buildkit#4374, moby#46708: 664 here and 644 there, with --chmod",
            files: &[("Dockerfile", "FROM busybox\nCOPY --chmod=755 a /a\n"), ("a", "1")],
            change: |again| set_mode(again, "a", 0o664),
            ..PLAIN
        },
        Case {
            name: "kaniko#1244, moby#34715: metadata after the steps, and comments",
            files: &[("Dockerfile", "FROM busybox\nRUN echo 1 > /out\nCMD [\"a\"]\nLABEL a=1\n")],
            change: |again| {
                again.write(
                    "Dockerfile",
                    "# new\nFROM busybox\nRUN echo 1 > /out\n# new\nCMD [\"b\"]\nLABEL a=2\n",
                )
            },
            ..PLAIN
        },
        Case {
            name: "a file that no step copies",
            files: &[("Dockerfile", "FROM busybox\nCOPY src /src\n"), ("src/a", "1"), ("other", "1")],
            change: |again| again.write("other", "2"),
            ..PLAIN
        },
        Case {
            name: "another name of a stage, and one that is not built",
            files: &[(
                "Dockerfile",
                "FROM busybox AS a\nRUN echo 1 > /out\nFROM busybox\nCOPY --from=a /out /\n",
            )],
            change: |again| {
                let text = "FROM busybox AS b\nRUN echo 1 > /out\nFROM busybox AS unused\nRUN false\nFROM busybox\n\
                            COPY --from=b /out /\n";
                again.write("Dockerfile", text);
            },
            ..PLAIN
        },
        Case {
            name: "a folder of another name with the same files",
            files: &[("Dockerfile", "FROM busybox\nCOPY src /src\n"), ("src/a", "1")],
            change: |again| {
                fs::rename(again.path("src"), again.path("lib")).expect("rename");
                again.write("Dockerfile", "FROM busybox\nCOPY lib /src\n");
            },
            ..PLAIN
        },
        Case {
            name: "another secret",
            files: &[
                ("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=s test -s /run/secrets/s\n"),
                ("one", "1"),
                ("two", "2"),
            ],
            first: &["--secret=id=s,src=/etc/passwd"],
            second: &["--secret=id=s,src=/etc/group"],
            ..PLAIN
        },
        Case {
            name: "where a host is",
            files: &[("Dockerfile", "FROM busybox\nRUN cat /etc/hosts > /dev/null\n")],
            first: &["--add-host=db:10.0.0.1"],
            second: &["--add-host=db:10.0.0.2"],
            ..PLAIN
        },
        Case {
            name: "limits and progress",
            files: &[("Dockerfile", "FROM busybox\nRUN echo 1 > /out\n")],
            second: &["--step-timeout=1h", "--jobs=1", "--timestamp=5"],
            ..PLAIN
        },
    ];
    cases.iter().for_each(check);
}

/// A step whose inputs changed, but whose result did not, changes nothing for those after it.
#[test]
fn early_cut_off() {
    let cases = [
        Case {
            name: "a RUN that makes the same of another file",
            files: &[
                (
                    "Dockerfile",
                    "FROM busybox AS a\nCOPY a /a\nRUN wc -c < /a > /out\nFROM busybox\nCOPY --from=a /out /\n\
                                RUN cp /out /copy\n",
                ),
                ("a", "1"),
            ],
            change: |again| again.write("a", "2"),
            // The COPY reads a tree that is another one by now, and makes the same of it.
            ran: &[3, 4, 5],
            ..PLAIN
        },
        Case {
            name: "a RUN with another command",
            files: &[("Dockerfile", "FROM busybox\nRUN echo 1 > /out\nRUN cp /out /copy\n")],
            change: |again| {
                again.write("Dockerfile", "FROM busybox\nRUN echo 1 | cat > /out\nRUN cp /out /copy\n")
            },
            ran: &[2],
            ..PLAIN
        },
        Case {
            name: "--no-cache of the first stage, which makes the same",
            files: &[(
                "Dockerfile",
                "FROM busybox AS a\nRUN echo 1 > /out\nFROM busybox\nCOPY --from=a /out /\n",
            )],
            change: |again| {
                assert_eq!(again.ran(&["--no-cache-filter=A"]), [2], "--no-cache-filter");
            },
            ..PLAIN
        },
    ];
    cases.iter().for_each(check);
}

#[test]
fn without_the_cache() {
    let random = "cat /proc/sys/kernel/random/uuid > ";
    let again = Again::new(&[(
        "Dockerfile",
        &format!("FROM busybox AS a\nRUN {random}/a\nFROM busybox\nCOPY --from=a /a /\nRUN {random}/b\n"),
    )]);
    let all = again.ran(&[]);
    assert_eq!(again.ran(&["--no-cache"]), all);
    // What it made is kept: the next build has it.
    assert_eq!(again.ran(&[]), [0; 0]);
    let last = *all.last().expect("steps");
    // A stage without a name is called by its number.
    assert_eq!(again.ran(&["--no-cache-filter=1"]).last(), Some(&last));
    let nowhere = again.build(&["--no-cache-filter=nowhere"]);
    assert_eq!(numbers(&nowhere, " DONE "), [0; 0]);
    assert!(nowhere.stderr.contains("warning: --no-cache-filter nowhere"), "{}", nowhere.stderr);
    assert!(again.why(&["--list"]).contains("ran"));
}

/// A build without cache finds cache mounts empty, once: its own steps share them as ever.
#[test]
fn without_the_cache_mounts() {
    let line =
        "--mount=type=cache,id=kept,target=/c sh -c 'echo x >> /c/log; echo li\"\"nes $(wc -l < /c/log)'";
    let again = Again::new(&[(
        "Dockerfile",
        &format!(
            "FROM busybox AS a\nRUN {line}\nRUN {line} #2\nFROM busybox AS b\nCOPY --from=a /etc/passwd /\nRUN {line} #3\n"
        ),
    )]);
    let lines = |flags: &[&str]| -> Vec<String> {
        let built = again.build(flags);
        let said = built.stderr.lines().filter_map(|line| line.split_once(" lines "));
        said.map(|(_, number)| number.to_owned()).collect()
    };
    assert_eq!(lines(&[]), ["1", "2", "3"]);
    assert_eq!(lines(&["--no-cache"]), ["1", "2", "3"]);
    assert_eq!(lines(&["--no-cache-filter=b"]), ["1"]);
}

#[test]
fn why_a_step_ran() {
    let dockerfile = |value: &str, command: &str| {
        format!(
            "FROM busybox\nENV FOO={value}\nCOPY app.txt /app/\nRUN echo begin && \\\n    {command}\nCOPY src /src\n"
        )
    };
    let many: Vec<(String, String)> =
        (0..300).map(|n| (format!("src/deep/f{n:03}"), n.to_string())).collect();
    let mut files = vec![("Dockerfile", dockerfile("hunter2", "true")), ("app.txt", "1\n".to_owned())];
    files.extend(many.iter().map(|(name, text)| (name.as_str(), text.clone())));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let again = Again::new(&files);
    again.env.run(["why"]).expect_failure(USAGE, "remembers no build");
    again.build(&[]);
    assert!(again.why(&["3"]).contains("no earlier run"), "{}", again.why(&["3"]));

    again.write("app.txt", "2\n");
    again.write("src/deep/f007", "changed");
    again.write("src/deep/new", "1");
    fs::remove_file(again.path("src/deep/f008")).expect("removed");
    again.write("Dockerfile", &dockerfile("hunter3", "false || true"));
    let built = again.build(&[]);
    assert!(built.stderr.contains("not cached: app.txt changed"), "{}", built.stderr);
    let said = again.why(&[]);
    for expected in [
        "changed file app.txt",
        "changed env FOO",
        "changed command",
        "- echo begin &&     true",
        "+ echo begin &&     false || true",
        "changed file /src/deep/f007",
        "added   file /src/deep/new",
        "removed file /src/deep/f008",
    ] {
        assert!(said.contains(expected), "{expected}:\n{said}");
    }
    assert!(!said.contains("hunter"), "a value is shown:\n{said}");
    for file in fs::read_dir(again.env.store().join("builds")).expect("the log").flatten() {
        let text = fs::read_to_string(file.path()).expect("a build");
        assert!(!text.contains("hunter"), "a value is kept:\n{text}");
    }
    // One that changed nothing says so, and any two builds can be compared.
    again.build(&[]);
    assert!(again.why(&[]).contains("every step came from the cache"));
    assert!(again.why(&["RUN"]).contains("cached"));
    assert!(again.why(&["--against=1"]).contains("+ echo begin &&     false || true"));
    assert!(again.why(&["--against=2"]).contains("no step differs"));
    assert!(again.why(&["--build=1", "--against=3", "#4"]).contains("- echo begin &&     false || true"));
    let json = again.json(&["why", "--build=2", "app.txt", "--format=json"]);
    assert_eq!(json["steps"][0]["difference"]["changed"][0], "file app.txt", "{json:#}");
    again.env.run(["why", "nowhere"]).expect_failure(USAGE, "no step");
    again.env.run(["why", "--build=99"]).expect_failure(USAGE, "--list");
    again.build(&["--no-cache"]);
    assert!(again.why(&[]).contains("--no-cache"));
}

/// A step that fails is explained as well, and so is one whose result was pruned.
#[test]
fn why_a_failed_or_lost_step_ran() {
    let again = Again::new(&[(
        "Dockerfile",
        "FROM busybox\nRUN test -n \"$V\" || exit 3\nARG V\nRUN exit ${V:-0}\n",
    )]);
    let dockerfile = |last: &str| format!("FROM busybox\nRUN echo 1 > /one\nRUN {last}\n");
    again.write("Dockerfile", &dockerfile("echo 2 > /two"));
    again.build(&[]);
    again.write("Dockerfile", &dockerfile("echo 2 > /two; exit 7"));
    again.env.run(again.command(&[])).expect_failure(1, "exit 7");
    let said = again.why(&["exit 7"]);
    assert!(said.contains("+ echo 2 > /two; exit 7"), "{said}");
    assert!(again.why(&["--list"]).contains("failed"));
    // The layers go, the records stay: as after a disk was repaired.
    for blob in fs::read_dir(again.env.store().join("blobs/sha256")).expect("blobs").flatten() {
        fs::remove_file(blob.path()).expect("removed");
    }
    again.write("Dockerfile", &dockerfile("echo 2 > /two"));
    again.build(&[]);
    assert!(again.why(&["2"]).contains("gone from the store"), "{}", again.why(&["2"]));
}

fn bytes(usage: &Value, what: &str) -> u64 {
    let list = usage[what].as_array().unwrap_or_else(|| panic!("{what} in {usage:#}"));
    list.iter().filter_map(|one| one["bytes"].as_u64()).sum()
}

/// Everything that a store takes is accounted for, and can be taken away, also what belongs to other ids.
fn space(env: Env) {
    let context = env.folder(&[(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,id=kept,target=/c dd if=/dev/zero of=/c/big bs=64k count=16 && \
         mkdir /closed && echo 1 > /closed/file && chmod 700 /closed && chown -R 1000:1000 /closed\n",
    )]);
    let context = context.display().to_string();
    env.run(["build", "-t", "one", &env.busybox(), &context]).expect_ok();
    let usage = || -> Value {
        serde_json::from_str(&env.run(["du", "--format=json"]).expect_ok().stdout).expect("JSON")
    };
    let first = usage();
    assert_eq!(first["mounts"][0]["id"], "kept", "{first:#}");
    assert!((1 << 20..2 << 20).contains(&bytes(&first, "mounts")), "{first:#}");
    assert!(bytes(&first, "trees") > 1 << 20, "{first:#}");
    assert_eq!(first["records"][0]["step"], "0] RUN", "{first:#}");
    let on_disk = env.run_program(
        "unshare",
        ["--user", "--map-root-user", "--map-auto", "du", "-s", "-B1", &env.store().display().to_string()],
    );
    if let Some(counted) = on_disk.stdout.split('\t').next().and_then(|text| text.parse::<u64>().ok()) {
        let said = first["total_bytes"].as_u64().expect("a number");
        // Folders of the store and empty files are not anybody's.
        assert!(said.abs_diff(counted) < counted / 5 + 100_000, "{said} of {counted}");
    }
    env.run(["prune", "--dry-run", "--all"]).expect_ok().expect_says("would remove");
    assert_eq!(usage()["total_bytes"], first["total_bytes"], "a dry run removed something");
    env.run(["prune", "--kind=trees", "--all"]).expect_ok();
    let second = usage();
    assert_eq!((bytes(&second, "trees"), bytes(&second, "mounts")), (0, bytes(&first, "mounts")));
    env.run(["prune", "--older-than=1h"]).expect_ok();
    env.run(["prune", "--filter=until=24h"]).expect_ok();
    assert_eq!(bytes(&usage(), "records"), bytes(&second, "records"), "what is new went");
    // The image is still whole, and its step still known.
    env.run(["build", "--progress=plain", &env.busybox(), &context]).expect_ok().expect_says("CACHED");
    let archive = env.fresh("saved");
    env.run(["save", "one", "-o", &archive.display().to_string()]).expect_ok();
    lithify_testkit::Image::from_archive(&archive)
        .and_then(|image| image.validate())
        .expect("the saved image");
    env.run(["prune", "--keep-storage=0"]).expect_ok();
    let third = usage();
    assert_eq!((bytes(&third, "mounts"), bytes(&third, "records")), (0, 0), "{third:#}");
    assert_eq!(third["images"][0]["bytes"], first["images"][0]["bytes"], "the image suffered");
    env.run(["rmi", "nowhere", "one"]).expect_failure(USAGE, "nowhere");
    env.run(["rmi", "one"]).expect_ok();
    env.run(["prune"]).expect_ok();
    let last = usage();
    assert_eq!(last["blobs_bytes"], 0, "{last:#}");
    assert!(!env.run(["images"]).expect_ok().stdout.contains("one"));
    env.run(["store", "verify"]).expect_ok();
}

#[test]
fn space_of_whoever_runs_this() {
    space(Env::new(BINARY));
}

#[test]
fn space_of_a_plain_user() {
    match Env::plain(BINARY) {
        Ok(env) => space(env),
        Err(why) => skipped("space_of_a_plain_user", &why),
    }
}

#[test]
fn the_configuration_keeps_the_store_small() {
    let again = Again::new(&[("Dockerfile", "FROM busybox\nCOPY a /a\n"), ("a", "1")]);
    let configuration = again.env.fresh("lithify.toml");
    again.env.write(&configuration, "[prune]\nkeep-storage = \"0\"\n");
    let with = |flags: &[&str]| {
        let mut command = vec!["--config".to_owned(), configuration.display().to_string()];
        command.extend(again.command(flags));
        again.env.run(command)
    };
    with(&[]).expect_ok();
    again.write("a", "2");
    // What the last build had is in use; what the one before made goes.
    with(&[]).expect_ok().expect_says("pruned");
    let usage = again.json(&["du", "--format=json"]);
    assert_eq!(usage["records"].as_array().map(Vec::len), Some(1), "{usage:#}");
    again.env.write(&configuration, "[prune]\nkeep-storage = \"much\"\n");
    with(&[]).expect_failure(USAGE, "keep-storage");
}

/// A build that fails leaves nothing that a prune does not take.
#[test]
fn a_failed_build_leaves_nothing_behind() {
    let again = Again::new(&[
        (
            "Dockerfile",
            "FROM busybox\nCOPY a /a\nRUN --mount=type=bind,source=a,target=/b,rw dd if=/dev/zero of=/big bs=1M count=4 && exit 1\n",
        ),
        ("a", "1"),
    ]);
    again.env.run(again.command(&[])).expect_failure(1, "");
    again.env.run(["prune", "--all"]).expect_ok();
    assert_eq!(left(&again.env.store()), Vec::<PathBuf>::new());
}

/// The files in a store but those that every store has.
fn left(store: &Path) -> Vec<PathBuf> {
    const USUAL: [&str; 7] = [
        "lithify.db",
        "lithify.db-wal",
        "lithify.db-shm",
        "gc.lock",
        "create.lock",
        "oci-layout",
        "index.json",
    ];
    let mut found = vec![];
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => folders.push(entry.path()),
                false if USUAL.iter().any(|usual| entry.file_name() == *usual) => {}
                false => found.push(entry.path()),
            }
        }
    }
    found
}
