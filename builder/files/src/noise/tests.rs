use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use super::*;

/// Makes a tree of `before`, changes it to `after`, cleans it, and reads `expected` of it; `None` is a file that is not there.
fn check(
    before: &[(&str, &str)],
    after: &[(&str, &str)],
    epoch_seconds: i64,
    expected: &[(&str, Option<&str>)],
) {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path(), before);
    let root = File::open(folder.path()).expect("root");
    let looked = look(root.as_fd()).expect("a look");
    write(folder.path(), after);
    looked.clean(root.as_fd(), epoch_seconds).expect("clean");
    for (path, content) in expected {
        let found = fs::read_to_string(folder.path().join(path)).ok();
        assert_eq!(found.as_deref(), *content, "{path}");
    }
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, content).expect("file");
    }
}

/// A path that a row means.
fn example(noise: &Noise) -> String {
    format!("{}/{}", noise.folder, noise.files.replace("**", "deep/er").replace('*', "some"))
}

#[test]
fn every_row_does_what_it_says_and_leaves_alone_what_the_step_left_alone() {
    let id = "0123456789abcdef0123456789abcdef\n";
    for noise in TABLE {
        let path = example(noise);
        let today = today();
        let (content, expected) = match noise.what {
            What::File => ("dated".to_owned(), None),
            What::Id => (id.to_owned(), Some("")),
            What::Dates => (format!("app:!:{today}:0:99999:7:::\n"), Some("app:!::0:99999:7:::\n")),
        };
        let mut after = vec![(path.as_str(), content.as_str())];
        after.extend(noise.only_with.map(|installed| (installed, "a package")));
        check(&[], &after, 0, &[(&path, expected)]);
        check(&[(&path, &content)], &[], 0, &[(&path, Some(&content))]);
        if noise.only_with.is_some() {
            check(&[], &after[..1], 0, &[(&path, Some(&content))]);
        }
    }
}

#[test]
fn what_only_looks_like_noise_stays() {
    let stays = |path: &str, content: &str| check(&[], &[(path, content)], 0, &[(path, Some(content))]);
    stays("etc/machine-id", "uninitialized\n");
    stays("var/log/mine.log", "x");
    stays("var/cache/man/CACHEDIR.TAG", "x");
    stays("var/cache/apt/pkgcache.bin.d/x", "x");
    stays("var/lib/dpkg/status", "x");
    // A day that somebody chose.
    stays("etc/shadow", "app:!:10957:0:99999:7:::\nroot:*:0:::::\nodd\n:::\n");
}

#[test]
fn dates_of_the_step_become_the_epoch() {
    let today = today();
    let before = format!("root:*:{today}:0:99999:7:::\n");
    let after = format!("{before}app:!:{today}:0:99999:7:::\nold:!:19000::::::\n");
    let expected = format!("{before}app:!:20000:0:99999:7:::\nold:!:19000::::::\n");
    check(
        &[("etc/shadow", &before)],
        &[("etc/shadow", &after)],
        20_000 * 86_400 + 5,
        &[("etc/shadow", Some(&expected))],
    );
}

#[test]
fn nothing_outside_is_reached() {
    let folder = tempfile::tempdir().expect("folder");
    let outside = folder.path().join("outside");
    write(&outside, &[("dpkg.log", "precious"), ("lists/x", "precious")]);
    let inside = folder.path().join("root");
    fs::create_dir_all(inside.join("var/cache/apt")).expect("folders");
    let root = File::open(&inside).expect("root");
    let looked = look(root.as_fd()).expect("a look");
    std::os::unix::fs::symlink(&outside, inside.join("var/log")).expect("link");
    std::os::unix::fs::symlink(&outside, inside.join("var/cache/apt/archives")).expect("link");
    std::os::unix::fs::symlink(outside.join("dpkg.log"), inside.join("var/cache/apt/a.bin")).expect("link");
    looked.clean(root.as_fd(), 0).expect("clean");
    assert_eq!(fs::read_to_string(outside.join("dpkg.log")).expect("kept"), "precious");
    assert_eq!(fs::read_to_string(outside.join("lists/x")).expect("kept"), "precious");
    assert!(inside.join("var/cache/apt/a.bin").is_symlink());
}
