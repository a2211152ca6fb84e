use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::{GitOptions, checkout};
use crate::Error;
use crate::fetch::git_url::{GitRef, GitUrl};
use crate::testing::{files, skipped};

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@e", "-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(folder)
        .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
        .envs([("GIT_COMMITTER_DATE", "1000000000 +0000"), ("GIT_AUTHOR_DATE", "1000000000 +0000")])
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A repository with two commits on `main`, a tag `v1` on the first, a branch `side`, and a submodule.
struct Repository {
    folder: tempfile::TempDir,
    first: String,
    second: String,
}

impl Repository {
    fn make(test: &str) -> Option<Self> {
        if Command::new("git").arg("--version").output().is_err() {
            skipped(test, "git is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (main, module) = (folder.path().join("main"), folder.path().join("module"));
        for repository in [&main, &module] {
            std::fs::create_dir(repository).unwrap();
            git(repository, &["init", "-q", "-b", "main"]);
        }
        write(&module, "inner", "inner");
        git(&module, &["add", "."]);
        git(&module, &["commit", "-qm", "inner"]);
        write(&main, "file", "one");
        write(&main, "dir/program", "#!/bin/sh");
        std::fs::set_permissions(main.join("dir/program"), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("/etc", main.join("leak")).unwrap();
        git(&main, &["add", "."]);
        git(&main, &["commit", "-qm", "one"]);
        git(&main, &["tag", "-am", "v1", "v1"]);
        let first = git(&main, &["rev-parse", "HEAD"]);
        git(&main, &["branch", "side"]);
        write(&main, "file", "two");
        git(&main, &["submodule", "--quiet", "add", module.to_str().unwrap(), "module"]);
        git(&main, &["commit", "-qam", "two"]);
        let second = git(&main, &["rev-parse", "HEAD"]);
        Some(Repository { folder, first, second })
    }

    fn url(&self) -> GitUrl {
        let remote = format!("file://{}", self.folder.path().join("main").display());
        GitUrl { remote, ..GitUrl::default() }
    }
}

fn local() -> GitOptions {
    GitOptions { protocols: vec!["file".into()], ..GitOptions::default() }
}

#[tokio::test]
async fn whatever_is_named_is_checked_out() {
    let Some(repository) = Repository::make("whatever_is_named_is_checked_out") else { return };
    let check = async |reference: Option<GitRef>, commit: &str, content: &str| {
        let dest = tempfile::tempdir().unwrap();
        let url = GitUrl { reference: reference.clone(), ..repository.url() };
        let found = checkout(&url, dest.path(), &local()).await.unwrap();
        assert_eq!(
            (found.commit.as_str(), found.committed_unix_seconds),
            (commit, 1_000_000_000),
            "{reference:?}"
        );
        assert_eq!(std::fs::read_to_string(dest.path().join("file")).unwrap(), content);
        assert!(files(dest.path()).iter().all(|file| !file.contains(".git/") && !file.ends_with(".git")));
    };
    let any = |name: &str| Some(GitRef::Any(name.into()));
    let (first, second) = (repository.first.as_str(), repository.second.as_str());
    check(None, second, "two").await;
    check(any("main"), second, "two").await;
    check(any("v1"), first, "one").await;
    check(any("refs/tags/v1"), first, "one").await;
    check(any("side"), first, "one").await;
    check(any(first), first, "one").await;
    check(any(&first[..8]), first, "one").await;
    check(Some(GitRef::Branch("side".into())), first, "one").await;
    check(Some(GitRef::Tag("v1".into())), first, "one").await;
}

#[tokio::test]
async fn modes_submodules_and_subfolders() {
    let Some(repository) = Repository::make("modes_submodules_and_subfolders") else { return };
    let dest = tempfile::tempdir().unwrap();
    let url = GitUrl { subdir: Some("dir".into()), ..repository.url() };
    let found = checkout(&url, dest.path(), &local()).await.unwrap();
    assert_eq!(found.folder, dest.path().join("dir"));
    let mode = |name: &str| dest.path().join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("file"), mode("dir/program"), mode("dir")), (0o644, 0o755, 0o755));
    let all = files(dest.path());
    assert_eq!(all, [".gitmodules", "dir/program", "file", "leak", "module/inner"]);
    let dest = tempfile::tempdir().unwrap();
    let url = GitUrl { submodules: Some(false), keep_git_dir: Some(true), ..repository.url() };
    checkout(&url, dest.path(), &local()).await.unwrap();
    assert!(dest.path().join(".git/HEAD").is_file() && !dest.path().join("module/inner").exists());
}

#[tokio::test]
async fn refusals() {
    let Some(repository) = Repository::make("refusals") else { return };
    let check = async |url: GitUrl, options: GitOptions, expected: &str| {
        let dest = tempfile::tempdir().unwrap();
        let error = checkout(&url, dest.path(), &options).await.unwrap_err();
        assert!(matches!(error, Error::Git { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    let url = || repository.url();
    check(url(), GitOptions::default(), "transport 'file' not allowed").await;
    let named = |name: &str| GitUrl { reference: Some(GitRef::Any(name.into())), ..url() };
    check(named("nowhere"), local(), "couldn't find remote ref nowhere").await;
    check(named("1234567"), local(), "couldn't find remote ref 1234567").await;
    check(GitUrl { reference: Some(GitRef::Tag("side".into())), ..url() }, local(), "refs/tags/side").await;
    check(GitUrl { checksum: Some("1234567".into()), ..url() }, local(), "where 1234567 is expected").await;
    check(GitUrl { subdir: Some("none".into()), ..url() }, local(), "it has no folder \"none\"").await;
    check(GitUrl { subdir: Some("leak".into()), ..url() }, local(), "it has no folder \"leak\"").await;
    let password = GitUrl { remote: "http://u:secret@127.0.0.1:1/r.git".into(), ..GitUrl::default() };
    let dest = tempfile::tempdir().unwrap();
    let error = checkout(&password, dest.path(), &GitOptions::default()).await.unwrap_err().to_string();
    assert!(!error.contains("secret") && error.contains("127.0.0.1"), "{error}");
}
