//! Both snapshotters give the same bytes for the same change, and the bytes give the same tree.

use super::*;

const BASE: &str = r#"
    mkdir -p etc usr/bin usr/share/deep/er full/a full/b empty links other
    echo root > etc/passwd; echo text > etc/text; echo '#!' > usr/bin/tool; chmod 4755 usr/bin/tool
    chown 7:8 etc/text
    echo 1 > full/a/1; echo 2 > full/a/2; echo 3 > full/b/3; ln -s a full/sym
    echo h > links/1; ln links/1 links/2; ln links/1 other/3
    echo j > links/j1; ln links/j1 links/j2
    ln -s target symlink; mkfifo pipe; mknod null c 1 3
    echo same1 > one; echo same1 > two
    chmod 1777 empty; chmod 700 full/b
    truncate -s 1M sparse
"#;

/// What is done, and what must be in the layer.
const CASES: &[(&str, &str)] = &[
    (":", ""),
    ("echo new > new", "/new"),
    ("echo changed > etc/text", "/etc/ /etc/text"),
    ("echo more >> etc/passwd", "/etc/ /etc/passwd"),
    ("chmod 600 etc/text", "/etc/ /etc/text"),
    ("chmod 644 etc/text; chmod 4755 usr/bin/tool", ""),
    ("chown 5:6 etc/text", "/etc/ /etc/text"),
    ("touch etc/text etc full symlink -h", ""),
    ("echo root > etc/passwd", ""),
    ("cp etc/passwd x; mv x etc/passwd", ""),
    ("mv etc/text etc/moved", "/etc/ -/etc/text /etc/moved"),
    ("rm etc/text", "/etc/ -/etc/text"),
    ("rm etc/text; mkdir etc/text; echo x > etc/text/x", "/etc/ /etc/text/ /etc/text/x"),
    ("rm -r full; echo file > full", "/full"),
    ("rm -r full; ln -s etc full", "/full"),
    ("rm -r full; mkdir full", "/full/ -/full/a -/full/b -/full/sym"),
    (
        "rm -r full; mkdir full; chmod 700 full; echo new > full/n",
        "/full/ -/full/a -/full/b -/full/sym /full/n",
    ),
    ("rm -r full/a; mkdir full/a; echo 1 > full/a/1", "/full/ /full/a/ -/full/a/2"),
    ("rm -r full/a; mkdir full/a; echo 1 > full/a/1; echo 2 > full/a/2", ""),
    ("rm -r full", "-/full"),
    ("rm -r full; mkdir -p full/b; chmod 700 full/b", "/full/ -/full/a -/full/sym /full/b/ -/full/b/3"),
    ("mv full moved", "-/full /moved/ /moved/a/ /moved/a/1 /moved/a/2 /moved/b/ /moved/b/3 /moved/sym"),
    ("mkdir -p new/very/deep; echo x > new/very/deep/x", "/new/ /new/very/ /new/very/deep/ /new/very/deep/x"),
    (
        "echo x > usr/share/deep/er/x",
        "/usr/ /usr/share/ /usr/share/deep/ /usr/share/deep/er/ /usr/share/deep/er/x",
    ),
    ("mkdir full/new; chmod 711 full/new", "/full/ /full/new/"),
    ("chmod 711 full/a", "/full/ /full/a/"),
    ("chmod 711 .; touch .", ""),
    // A group is one file: all of it is in the layer once one name of it changed.
    ("echo more >> links/1", "/links/ /links/1 /links/2=/links/1 /other/ /other/3=/links/1"),
    ("chmod 600 other/3", "/links/ /links/1 /links/2=/links/1 /other/ /other/3=/links/1"),
    ("ln links/2 links/0", "/links/ /links/0 /links/1=/links/0 /links/2=/links/0 /other/ /other/3=/links/0"),
    ("rm links/1", "/links/ -/links/1"),
    ("rm links/1; echo more >> links/2", "/links/ -/links/1 /links/2 /other/ /other/3=/links/2"),
    // Replacing one name leaves the others what they are.
    ("echo new > x; mv x links/1", "/links/ /links/1"),
    ("cp links/1 x; mv x links/1", ""),
    ("sed -i s/h/i/ links/2; echo k >> links/1", "/links/ /links/1 /links/2 /other/ /other/3=/links/1"),
    ("touch links/1", ""),
    ("mv links/j1 links/k", "/links/ -/links/j1 /links/j2 /links/k=/links/j2"),
    ("rm -r links; mkdir links; echo h > links/1", "/links/ -/links/2 -/links/j1 -/links/j2"),
    ("ln one three", "/one /three=/one"),
    ("ln -f one two", "/one /two=/one"),
    ("echo a > a; ln a b; ln a usr/c", "/a /b=/a /usr/ /usr/c=/a"),
    ("ln symlink symlink2", "/symlink /symlink2=/symlink"),
    ("ln pipe pipe2", "/pipe /pipe2=/pipe"),
    ("ln -sfn elsewhere symlink", "/symlink"),
    ("ln -sfn target symlink", ""),
    ("rm symlink; echo file > symlink", "/symlink"),
    ("ln -s /absolute/../odd etc/new", "/etc/ /etc/new"),
    ("chown -h 3:4 symlink", "/symlink"),
    ("mkfifo etc/pipe", "/etc/ /etc/pipe"),
    ("chmod 600 pipe", "/pipe"),
    ("rm pipe; mkfifo pipe", ""),
    ("mknod zero c 1 5; mknod disk b 8 1", "/disk /zero"),
    ("rm null; mknod null c 1 3", ""),
    ("rm null; mknod null c 1 5", "/null"),
    ("chmod 6755 usr/bin/tool", "/usr/ /usr/bin/ /usr/bin/tool"),
    ("chown 0:0 usr/bin/tool; chmod 4755 usr/bin/tool", ""),
    ("chown 1:1 usr/bin/tool", "/usr/ /usr/bin/ /usr/bin/tool"),
    ("truncate -s 1M etc/holes; echo end >> etc/holes", "/etc/ /etc/holes"),
    ("truncate -s 2M sparse", "/sparse"),
    ("cp sparse copy", "/copy"),
    ("dd if=/dev/zero of=sparse bs=64k count=16 conv=notrunc status=none", ""),
    ("touch $'new\\nline' $'\\xff\\xfe' ' ' '*' '\\'", "/\u{20} /* /\\ /new\nline /\u{fffd}\u{fffd}"),
    ("touch a a-b; mkdir 'a '; touch 'a /z'", "/a /a\u{20}/ /a\u{20}/z /a-b"),
    ("rm one; touch a", "-/one /a"),
    ("rm etc/text; touch etc/a; mkdir etc/b; touch etc/b/c", "/etc/ -/etc/text /etc/a /etc/b/ /etc/b/c"),
    ("touch short; for i in {1..40}; do mkdir -p d$i/e; echo $i > d$i/e/f; done; rm -r d*", "/short"),
    ("mkdir m; chmod 0 m; touch m/f; chmod 0 m/f", "/m/ /m/f"),
    ("mkdir s; chmod 2755 s; chown 0:5 s; touch s/f; mkdir s/d", "/s/ /s/d/ /s/f"),
    (
        "mv full/a x; mv full/b full/a; mv x full/b",
        "/full/ /full/a/ -/full/a/1 -/full/a/2 /full/a/3 /full/b/ -/full/b/3 /full/b/1 /full/b/2",
    ),
];

#[test]
fn both_snapshotters_give_the_same_bytes() {
    let kinds = kinds("both_snapshotters_give_the_same_bytes");
    let Some(first) = kinds.first() else { return };
    let trees = Trees::new();
    let stores: Vec<_> = kinds.iter().map(|kind| (*kind, trees.snapshots(kind))).collect();
    let (base_layer, root) = base(&*stores[0].1, BASE);
    for (_, snapshots) in &stores[1..] {
        base_layer.apply(&**snapshots, &[], root);
        let trees = stores.iter().map(|(_, store)| dump(store.view(&[root]).unwrap().root()));
        let trees: Vec<_> = trees.collect();
        assert_eq!(trees[0], trees[1], "base, {first} against the others");
    }
    let mut failures = vec![];
    for (script, expected) in CASES {
        let mut results = vec![];
        for (kind, snapshots) in &stores {
            let mut workspace = snapshots.workspace(&[root], MoveOrKeep::Keep).unwrap();
            let made = run(&mut workspace, script, &[]);
            let found = listing(&made).join(" ");
            if found != *expected {
                failures.push(format!("{kind}: {script}\n  expected {expected}\n  found    {found}"));
            }
            let chain = root.then(made.layer.diff_id);
            let chain = ChainId::from(Digest::of(format!("{chain} {script}")));
            workspace.commit(chain).unwrap();
            let tree = dump(snapshots.view(&[root, chain]).unwrap().root());
            results.push((made, chain, tree));
        }
        let (made, chain, tree) = &results[0];
        for (kind, (other, _, other_tree)) in kinds.iter().zip(&results) {
            if made.layer.diff_id != other.layer.diff_id || made.tar != other.tar {
                failures.push(format!("{kind}: {script}: other bytes than {first}"));
            }
            if tree != other_tree {
                failures
                    .push(format!("{kind}: {script}: other tree than {first}: {}", unlike(tree, other_tree)));
            }
        }
        for kind in &kinds {
            let fresh = Trees::new();
            let snapshots = fresh.snapshots(kind);
            base_layer.apply(&*snapshots, &[], root);
            made.apply(&*snapshots, &[root], *chain);
            let applied = dump(snapshots.view(&[root, *chain]).unwrap().root());
            if &applied != tree && !relinked(script) {
                failures.push(format!(
                    "{kind}: {script}: the layer gives another tree: {}",
                    unlike(tree, &applied)
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Names that came apart and still are alike are not in the layer, so a tree made from it has them as one file.
fn relinked(script: &str) -> bool {
    script.starts_with("cp links/1 x") || script.starts_with("rm -r links; mkdir links")
}

fn unlike(one: &[String], other: &[String]) -> String {
    let only = |these: &[String], those: &[String]| {
        these.iter().filter(|line| !those.contains(line)).cloned().collect::<Vec<_>>().join("\n      ")
    };
    format!("\n    only here\n      {}\n    only there\n      {}", only(one, other), only(other, one))
}

#[test]
fn times_are_real_in_trees() {
    for kind in kinds("times_are_real_in_trees") {
        let trees = Trees::new();
        let snapshots = trees.snapshots(kind);
        let script = "mkdir d; touch -d 2001-02-03T04:05:06.789 d/f; ln -s x d/l; touch -hd 2002-02-03 d/l; touch -d 2003-02-03 d";
        let (made, chain) = base(&*snapshots, script);
        let fresh = Trees::new();
        let applied = fresh.snapshots(kind);
        made.apply(&*applied, &[], chain);
        for view in [snapshots.view(&[chain]), applied.view(&[chain])] {
            let view = view.unwrap();
            let folder = node::open_folder(view.root(), b"").unwrap();
            let time = |name: &str| {
                let parent = node::open_folder(&folder, path(name).parent().unwrap().as_bytes()).unwrap();
                tree::metadata(&parent, path(name).file_name().unwrap()).unwrap().modified
            };
            let (second, nanosecond) = time("d/f");
            assert_eq!((second.rem_euclid(60), nanosecond), (6, 789_000_000), "{kind}");
            assert!(time("d/l").0 < time("d").0 && time("d").0 < 1_100_000_000, "{kind}");
        }
    }
}

#[test]
fn capabilities_are_carried() {
    // CAP_NET_BIND_SERVICE, permitted and effective (linux/capability.h, struct vfs_cap_data, revision 2).
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut layers = vec![];
    for kind in kinds("capabilities_are_carried") {
        let trees = Trees::new();
        let snapshots = trees.snapshots(kind);
        let (_, root) = base(&*snapshots, "echo x > ping");
        let mut workspace = snapshots.workspace(&[root], MoveOrKeep::Keep).unwrap();
        let mount = workspace.root_mount().unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&mount, "ping", flags, Mode::empty()).unwrap();
        let set = |name: &str, value: &[u8]| {
            rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty()).unwrap();
        };
        set("user.other", b"stays here");
        assert_eq!(listing(&difference(&mut workspace, &[])), [] as [&str; 0], "{kind}");
        set("security.capability", &capability);
        let made = difference(&mut workspace, &[]);
        let item = made.catalogue.find(&path("ping")).unwrap().unwrap();
        let expected = (b"security.capability".to_vec(), capability.to_vec());
        assert_eq!(item.entry.xattrs.into_iter().collect::<Vec<_>>(), [expected], "{kind}");
        drop((file, mount));
        let chain = root.then(made.layer.diff_id);
        workspace.commit(chain).unwrap();
        let committed = dump(snapshots.view(&[root, chain]).unwrap().root());
        let applied = root.then(chain.digest());
        made.apply(&*snapshots, &[root], applied);
        assert_eq!(dump(snapshots.view(&[root, applied]).unwrap().root()), committed, "{kind}");
        layers.push(made.layer);
    }
    assert!(layers.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn mount_points_leave_no_trace() {
    let script = "mkdir -p etc run/secrets; touch etc/resolv.conf run/secrets/key; \
                  mkdir kept; touch kept/file";
    let ignore = ["etc/resolv.conf", "run", "run/secrets", "run/secrets/key", "kept", "dev"].map(path);
    for kind in kinds("mount_points_leave_no_trace") {
        let trees = Trees::new();
        let snapshots = trees.snapshots(kind);
        let (_, root) = base(&*snapshots, "mkdir etc dev; touch replaced");
        let mut workspace = snapshots.workspace(&[root], MoveOrKeep::Keep).unwrap();
        let mount = workspace.root_mount().unwrap();
        for socket in ["sock", "replaced"] {
            let at = format!("/proc/self/fd/{}/{socket}", mount.as_raw_fd());
            let _ = std::fs::remove_file(&at);
            std::os::unix::net::UnixListener::bind(at).unwrap();
        }
        drop(mount);
        let made = run(&mut workspace, script, &ignore);
        assert_eq!(listing(&made), ["-/replaced", "/kept/", "/kept/file"], "{kind}");
        let chain = root.then(made.layer.diff_id);
        workspace.commit(chain).unwrap();
        let lines = dump(snapshots.view(&[root, chain]).unwrap().root());
        let names: Vec<_> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["\"dev\"", "\"etc\"", "\"kept\"", "\"kept/file\""], "{kind}");
    }
}

#[test]
fn a_workspace_that_is_dropped_leaves_nothing() {
    for kind in kinds("a_workspace_that_is_dropped_leaves_nothing") {
        let trees = Trees::new();
        let snapshots = trees.snapshots(kind);
        let (_, root) = base(&*snapshots, "mkdir d; touch d/f; chmod 0 d");
        let folder = node::open_folder(&trees.folder, kind.as_bytes()).unwrap();
        let before = tree::names(folder.as_fd()).unwrap();
        let mut workspace = snapshots.workspace(&[root], MoveOrKeep::Keep).unwrap();
        run(&mut workspace, "mkdir -p x/y; chmod 0 x; touch d/g", &[]);
        drop(workspace);
        assert_eq!(tree::names(folder.as_fd()).unwrap(), before, "{kind}");
        rustix::fs::mkdirat(&folder, "tmp.1.1", Mode::RWXU).unwrap();
        let held = snapshots.workspace(&[root], MoveOrKeep::Keep).unwrap();
        snapshots.sweep().unwrap();
        assert_eq!(tree::names(folder.as_fd()).unwrap().len(), before.len() + 1, "{kind}");
        drop(held);
        snapshots.remove(root).unwrap();
        assert!(!snapshots.has(&[root]).unwrap());
        snapshots.remove(root).unwrap();
        let missing = snapshots.workspace(&[root], MoveOrKeep::Keep).err().unwrap().to_string();
        assert!(missing.contains("is not here"), "{missing}");
    }
}

#[test]
fn a_tree_moves_forward() {
    for kind in kinds("a_tree_moves_forward") {
        let trees = Trees::new();
        let snapshots = trees.snapshots(kind);
        let (_, root) = base(&*snapshots, BASE);
        let mut chain = vec![root];
        for step in 0..5 {
            let mut workspace = snapshots.workspace(&chain, MoveOrKeep::Move).unwrap();
            let made = run(&mut workspace, &format!("echo {step} > etc/passwd; echo {step} >> links/1"), &[]);
            let expected = [
                "/etc/",
                "/etc/passwd",
                "/links/",
                "/links/1",
                "/links/2=/links/1",
                "/other/",
                "/other/3=/links/1",
            ];
            assert_eq!(listing(&made), expected, "{kind} {step}");
            chain.push(chain[step].then(made.layer.diff_id));
            workspace.commit(chain[step + 1]).unwrap();
        }
        assert!(snapshots.has(&chain).unwrap());
        assert_eq!(snapshots.has(&[root]).unwrap(), kind == "overlay");
        let view = snapshots.view(&chain).unwrap();
        let lines = dump(view.root());
        let digest = Digest::of("h\n0\n1\n2\n3\n4\n").to_string();
        assert_eq!(lines.iter().filter(|line| line.contains(&digest)).count(), 3, "{kind}");
    }
}

#[test]
fn a_tree_that_is_read_stays_as_it_is() {
    for kind in kinds("a_tree_that_is_read_stays_as_it_is") {
        let trees = Trees::new();
        let snapshots = trees.snapshots(kind);
        let (_, root) = base(&*snapshots, BASE);
        let view = snapshots.view(&[root]).unwrap();
        let before = dump(view.root());
        let mut workspace = snapshots.workspace(&[root], MoveOrKeep::Move).unwrap();
        let made = run(&mut workspace, "rm -r etc; echo new > links/1", &[]);
        let chain = root.then(made.layer.diff_id);
        workspace.commit(chain).unwrap();
        assert_eq!(dump(view.root()), before, "{kind}");
        assert!(snapshots.has(&[root, chain]).unwrap() && snapshots.has(&[root]).unwrap());

        // As long as one works in a tree, nobody reads it.
        drop(view);
        let workspace = snapshots.workspace(&[root], MoveOrKeep::Move).unwrap();
        assert_eq!(snapshots.view(&[root]).is_ok(), kind == "overlay");
        drop(workspace);
    }
}

#[test]
fn two_that_make_one_tree_agree() {
    for kind in kinds("two_that_make_one_tree_agree") {
        let trees = Trees::new();
        let snapshots = trees.snapshots(kind);
        let (made, root) = base(&*snapshots, BASE);
        let chain = root.then(root.digest());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| made.apply(&*snapshots, &[root], chain));
            }
        });
        assert_eq!(
            dump(snapshots.view(&[root, chain]).unwrap().root()),
            dump(snapshots.view(&[root]).unwrap().root())
        );
        let folder = node::open_folder(&trees.folder, kind.as_bytes()).unwrap();
        let names = tree::names(folder.as_fd()).unwrap();
        assert!(!names.iter().any(|name| name.to_bytes().starts_with(b"tmp.")), "{names:?}");
    }
}

#[test]
fn old_kernels_mount_by_text() {
    if !kinds("old_kernels_mount_by_text").contains(&"overlay") {
        return;
    }
    let trees = Trees::new();
    let overlay = Overlay::open(trees.folder.as_fd(), Owners::Real).unwrap();
    let (made, root) = base(&overlay, "mkdir d; echo x > d/f");
    let mut chain = vec![root];
    for _ in 0..120 {
        chain.push(chain[chain.len() - 1].then(made.layer.diff_id));
        made.apply(&overlay, &chain[..chain.len() - 1], chain[chain.len() - 1]);
    }
    let (view, writable, _place) = overlay.mount_by_text(&chain).unwrap();
    assert_eq!(dump(view.as_fd()), dump(overlay.view(&chain).unwrap().root()));
    rustix::fs::mkdirat(&writable, "new", Mode::RWXU).unwrap();
    let denied = rustix::fs::mkdirat(&view, "new", Mode::RWXU);
    assert_eq!(denied, Err(rustix::io::Errno::ROFS));
}
