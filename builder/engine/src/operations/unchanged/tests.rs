//! A file that changed between the look at it and the copy is noticed.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;

use lithify_files::arrange::{Part, Rules, arrange};
use lithify_files::dest::Destination;
use lithify_files::select::{Options, TreeKind, select};
use lithify_oci::FileDigest;
use lithify_oci::layer::Catalogue;

use super::super::files::FileDigests;
use super::*;
use crate::resources::FileSource;

/// Copies a file that held "old" when the key was made. `sent`: what the layer says that it got, if it is in the layer
/// at all; `now`: what is written to the file afterwards.
fn check(sent: Option<&str>, now: Option<&str>, unchanged: bool) {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("file"), "old").expect("file");
    let root = File::open(folder.path()).expect("folder").into();
    let source = Arc::new(FileSource { root, path: None, ignore: None, temporary: None });
    let options = Options { ignore: None, exclude: None, parents: false, tree: TreeKind::Context };
    let matches = select(source.root.as_fd(), b"file", &options).expect("a match");
    let mut digests = FileDigests::of(&matches);
    digests.set(0, 0, FileDigest::of("old"));
    let digests = Arc::new(digests);
    let origins = [PartContent::Files(Found::new(&source, &digests, 0, &matches[0]))];
    let parts = matches.into_iter().map(Part::Match).collect();
    let destination = Destination::in_empty_tree("/there/", true).expect("destination");
    let arrangement = arrange(parts, &destination, &Rules::default()).expect("arrangement");
    let made = arrangement.items().filter_map(|placed| {
        let digest = matches!(placed.entry.kind, EntryKind::File { .. }).then(|| sent.map(FileDigest::of));
        match digest {
            Some(None) => None,
            digest => Some(CatalogueEntry { entry: placed.entry, digest: digest.flatten(), compiled: None }),
        }
    });
    let catalogue = Catalogue::write(&made.collect::<Vec<_>>()).expect("catalogue");
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(catalogue.as_bytes()).expect("catalogue");
    if let Some(now) = now {
        fs::write(folder.path().join("file"), now).expect("file");
    }
    let result = super::check(&arrangement, &origins, &file);
    assert_eq!(result.is_ok(), unchanged, "{sent:?} {now:?}: {result:?}");
}

#[test]
fn contents_in_the_layer() {
    check(Some("old"), None, true);
    check(Some("new"), None, false);
    // What is in the layer counts, not what the file holds by now.
    check(Some("old"), Some("newer"), true);
}

#[test]
fn contents_that_equal_those_below() {
    check(None, None, true);
    check(None, Some("newer"), false);
}
