//! What an unchanged context costs: its walk, and its ignore file.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use divan::{Bencher, black_box};
use lithify_files::ignore::Ignore;
use lithify_files::select::{Options, TreeKind, select};
use tempfile::TempDir;

fn main() {
    divan::main();
}

const FILES: usize = 10_000;

/// Folders of 100 files each: half of them in `node_modules`.
fn context() -> (TempDir, fs::File) {
    let folder = tempfile::tempdir().expect("a folder");
    for at in 0..FILES / 100 {
        let inner = folder.path().join(if at % 2 == 0 { "src" } else { "node_modules" }).join(at.to_string());
        fs::create_dir_all(&inner).expect("a folder");
        (0..100).for_each(|file| write(&inner.join(format!("file{file}.js"))));
    }
    let root = fs::File::open(folder.path()).expect("the folder");
    (folder, root)
}

fn write(path: &Path) {
    fs::write(path, "1").expect("a file");
}

fn scan(bencher: Bencher<'_, '_>, patterns: &[&str]) {
    let (_folder, root) = context();
    let ignore = Ignore::from_patterns(patterns).expect("patterns");
    let options = Options { ignore: Some(&ignore), exclude: None, parents: false, tree: TreeKind::Context };
    bencher.bench_local(|| select(root.as_fd(), b".", black_box(&options)).expect("matches"));
}

#[divan::bench]
fn scan_everything(bencher: Bencher<'_, '_>) {
    scan(bencher, &[]);
}

#[divan::bench]
fn scan_without_an_ignored_folder(bencher: Bencher<'_, '_>) {
    scan(bencher, &["node_modules"]);
}

/// What is brought back cannot be in the ignored folder, so it is pruned all the same.
#[divan::bench]
fn scan_with_an_exception_elsewhere(bencher: Bencher<'_, '_>) {
    scan(bencher, &["node_modules", "src/1*", "!src/1*/file7.js"]);
}

#[divan::bench(args = [1, 10, 100])]
fn match_a_path_against_patterns(bencher: Bencher<'_, '_>, patterns: usize) {
    let patterns: Vec<_> = (0..patterns).map(|at| format!("**/*.{at}/x?[a-c]")).collect();
    let ignore = Ignore::from_patterns(&patterns).expect("patterns");
    bencher.bench_local(|| ignore.is_ignored(black_box(b"src/some/folder/with/a/file.js")));
}
