//! Every row of the table, in both directions.

use lithify_graph::*;
use lithify_oci::{Device, Entry, EntryKind, FileDigest, Platform, Timestamp, TreePath};

use super::*;

fn amd64() -> Platform {
    Platform::new("linux", "amd64")
}

fn base() -> Chain {
    Chain(vec![Digest::of("one"), Digest::of("two")])
}

/// All that an exec key is made of.
#[derive(Clone)]
struct Run {
    exec: Exec,
    platform: Platform,
    base: Chain,
    contents: Vec<MountContent>,
    settings: RunSettings,
}

impl Run {
    fn key(&self) -> Keyed {
        exec_key(&self.exec, &self.platform, &self.base, &self.contents, &self.settings)
    }

    fn kind(&mut self, mount: usize) -> &mut MountKind {
        &mut self.exec.mounts[mount].kind
    }
}

const BIND: usize = 0;
const CACHE: usize = 1;
const TMPFS: usize = 2;
const SECRET: usize = 3;
const SSH: usize = 4;

fn run() -> Run {
    let from = Tree::Of(StepId(3));
    let kinds = [
        MountKind::Bind { from, source: "/src".into(), writable: false },
        MountKind::Cache {
            id: "cache".into(),
            sharing: CacheSharing::Shared,
            from,
            source: "/seed".into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            read_only: false,
        },
        MountKind::Tmpfs { size_bytes: None },
        MountKind::Secret { id: "token".into(), env: None, required: false, mode: 0o400, uid: 0, gid: 0 },
        MountKind::Ssh { id: "default".into(), required: false, mode: 0o600, uid: 0, gid: 0 },
    ];
    let mounts = kinds.into_iter().enumerate();
    let mounts =
        mounts.map(|(number, kind)| Mount { target: Some(format!("/mnt/{number}")), kind }).collect();
    let mut contents = vec![MountContent::Nothing; 5];
    contents[BIND] = MountContent::Content(hash(&[file("a", "content")]));
    Run {
        exec: Exec {
            base: Tree::Of(StepId(1)),
            args: vec!["sh".into(), "-c".into(), "make".into()],
            env: vec![("A".into(), "1".into()), ("B".into(), "2".into())],
            proxy_env: vec![],
            cwd: "/".into(),
            user: String::new(),
            mounts,
            network: Network::Default,
            security: Security::Sandbox,
            script: None,
        },
        platform: amd64(),
        base: base(),
        contents,
        settings: RunSettings { hostname: "lithify".into(), ..RunSettings::default() },
    }
}

/// A name, and a change of what a key is made of.
type Change<T> = (&'static str, fn(&mut T));

/// Both directions for a list of changes: each of `matters` gives a new key, different from all others; none of
/// `does_not_matter` does.
fn check<T: Clone>(
    original: &T,
    key: impl Fn(&T) -> Keyed,
    matters: &[Change<T>],
    does_not_matter: &[Change<T>],
) {
    let changed = |change: fn(&mut T)| {
        let mut copy = original.clone();
        change(&mut copy);
        key(&copy).key
    };
    let first = key(original).key;
    let mut seen = vec![(first, "the original")];
    for (name, change) in matters {
        let new = changed(*change);
        let same = seen.iter().find(|(old, _)| *old == new);
        assert!(same.is_none(), "{name}: same key as {}", same.unwrap().1);
        seen.push((new, name));
    }
    for (name, change) in does_not_matter {
        assert!(changed(*change) == first, "{name}: changes the key");
    }
}

#[test]
fn the_key_of_a_run() {
    check(
        &run(),
        Run::key,
        &[
            ("an argument", |r| r.exec.args[2] = "make all".into()),
            ("where arguments part", |r| r.exec.args = vec!["sh".into(), "-cmake".into()]),
            ("arguments without a shell", |r| r.exec.args = vec!["make".into()]),
            ("a variable's value", |r| r.exec.env[0].1 = "3".into()),
            ("a variable's name", |r| r.exec.env[0].0 = "C".into()),
            ("one variable more", |r| r.exec.env.push(("C".into(), String::new()))),
            ("the order of variables", |r| r.exec.env.reverse()),
            ("where a variable parts", |r| r.exec.env[0] = ("A1".into(), String::new())),
            ("the folder", |r| r.exec.cwd = "/src".into()),
            ("the user", |r| r.exec.user = "nobody".into()),
            ("no network", |r| r.exec.network = Network::None),
            ("security", |r| r.exec.security = Security::Insecure),
            ("a script", |r| r.exec.script = Some(InlineFile { name: "EOF".into(), content: b"#!x".into() })),
            ("a script's content", |r| {
                r.exec.script = Some(InlineFile { name: "EOF".into(), content: b"#!y".into() })
            }),
            ("the architecture", |r| r.platform = Platform::new("linux", "arm64")),
            ("the variant", |r| r.platform.variant = Some("v3".into())),
            ("a base layer", |r| r.base.0[0] = Digest::of("other")),
            ("one base layer more", |r| r.base = r.base.with(Digest::of("three"))),
            ("the order of base layers", |r| r.base.0.reverse()),
            ("no base", |r| r.base = Chain::default()),
            ("a mount's target", |r| r.exec.mounts[TMPFS].target = Some("/tmp".into())),
            ("the order of mounts", |r| {
                r.exec.mounts.swap(0, 1);
                r.contents.swap(0, 1);
            }),
            ("one mount less", |r| drop((r.exec.mounts.pop(), r.contents.pop()))),
            ("what a bind mount shows", |r| {
                r.contents[BIND] = MountContent::Content(hash(&[file("a", "changed")]))
            }),
            ("the tree of a bind mount", |r| r.contents[BIND] = MountContent::Tree(base())),
            ("the part of that tree", |r| {
                r.contents[BIND] = MountContent::Tree(base());
                *r.kind(BIND) =
                    MountKind::Bind { from: Tree::Scratch, source: "/other".into(), writable: false };
            }),
            ("a writable bind mount", |r| {
                *r.kind(BIND) = MountKind::Bind { from: Tree::Scratch, source: "/src".into(), writable: true }
            }),
            ("the mode of a cache mount", |r| {
                if let MountKind::Cache { mode, .. } = r.kind(CACHE) {
                    *mode = 0o777
                }
            }),
            ("the owner of a cache mount", |r| {
                if let MountKind::Cache { uid, .. } = r.kind(CACHE) {
                    *uid = 1
                }
            }),
            ("the group of a cache mount", |r| {
                if let MountKind::Cache { gid, .. } = r.kind(CACHE) {
                    *gid = 1
                }
            }),
            ("a read-only cache mount", |r| {
                if let MountKind::Cache { read_only, .. } = r.kind(CACHE) {
                    *read_only = true
                }
            }),
            ("the size of a tmpfs", |r| *r.kind(TMPFS) = MountKind::Tmpfs { size_bytes: Some(0) }),
            ("the id of a secret", |r| {
                if let MountKind::Secret { id, .. } = r.kind(SECRET) {
                    *id = "other".into()
                }
            }),
            ("the variable of a secret", |r| {
                if let MountKind::Secret { env, .. } = r.kind(SECRET) {
                    *env = Some("TOKEN".into())
                }
            }),
            ("a required secret", |r| {
                if let MountKind::Secret { required, .. } = r.kind(SECRET) {
                    *required = true
                }
            }),
            ("the mode of a secret", |r| {
                if let MountKind::Secret { mode, .. } = r.kind(SECRET) {
                    *mode = 0o444
                }
            }),
            ("a secret that is no file", |r| r.exec.mounts[SECRET].target = None),
            ("the id of an agent", |r| {
                if let MountKind::Ssh { id, .. } = r.kind(SSH) {
                    *id = "other".into()
                }
            }),
            ("a required agent", |r| {
                if let MountKind::Ssh { required, .. } = r.kind(SSH) {
                    *required = true
                }
            }),
            ("the host name", |r| r.settings.hostname = "other".into()),
            ("an added host", |r| r.settings.extra_hosts = vec!["db".into()]),
            ("an ulimit", |r| r.settings.ulimits = vec![Ulimit { name: "nofile".into(), soft: 1, hard: 2 }]),
            ("its hard limit", |r| {
                r.settings.ulimits = vec![Ulimit { name: "nofile".into(), soft: 1, hard: 3 }]
            }),
            ("the size of /dev/shm", |r| r.settings.shm_size_bytes = Some(1)),
            ("SOURCE_DATE_EPOCH", |r| r.settings.source_date_epoch = Some(0)),
            ("--reproducible", |r| r.settings.reproducible = Some("1".into())),
        ],
        &[
            ("proxies", |r| r.exec.proxy_env = vec![("http_proxy".into(), "http://proxy".into())]),
            ("the network that is the default", |r| r.exec.network = Network::Host),
            ("the number of the base's step", |r| r.exec.base = Tree::Of(StepId(9))),
            ("where a bind mount selects", |r| {
                *r.kind(BIND) =
                    MountKind::Bind { from: Tree::Scratch, source: "/moved".into(), writable: false }
            }),
            ("which cache a mount is", |r| {
                if let MountKind::Cache { id, sharing, from, source, .. } = r.kind(CACHE) {
                    *id = "other".into();
                    *sharing = CacheSharing::Locked;
                    *from = Tree::Scratch;
                    *source = "/".into();
                }
            }),
        ],
    );
    let mut offline = run();
    offline.settings.network = Network::None;
    let mut explicit = run();
    explicit.exec.network = Network::None;
    assert_eq!(offline.key().key, explicit.key().key, "--network=none on the line and for all");
}

/// A COPY with the files that it selects.
#[derive(Clone)]
struct Copying {
    copy: Copy,
    platform: Platform,
    base: Chain,
    files: Vec<(Entry, Option<FileDigest>)>,
    matched: Matched,
}

impl Copying {
    fn key(&self) -> Keyed {
        let mut hasher = ContentHasher::for_copy(&self.copy);
        hasher.matched(self.matched);
        self.files.iter().for_each(|(entry, content)| hasher.add(entry, content.as_ref()));
        copy_key(&self.copy, &self.platform, &self.base, &[hasher.finish()])
    }
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    let path = TreePath::checked(path.as_bytes()).unwrap();
    let modified = Timestamp { seconds: 1_700_000_000, nanoseconds: 5 };
    Entry { path, kind, mode: 0o644, uid: 0, gid: 0, modified, xattrs: Default::default() }
}

fn file(path: &str, content: &str) -> (Entry, Option<FileDigest>) {
    (entry(path, EntryKind::File { size_bytes: content.len() as u64 }), Some(FileDigest::of(content)))
}

fn hash(files: &[(Entry, Option<FileDigest>)]) -> SourceContent {
    let mut hasher = ContentHasher::new();
    files.iter().for_each(|(entry, content)| hasher.add(entry, content.as_ref()));
    hasher.finish()
}

fn copying() -> Copying {
    let link = EntryKind::Symlink { target: b"a".into() };
    let device = EntryKind::CharDevice(Device { major: 1, minor: 3 });
    let mut folder = entry("dir", EntryKind::Directory);
    folder.mode = 0o755;
    Copying {
        copy: Copy {
            base: Tree::Of(StepId(1)),
            sources: vec![CopySource::Path {
                from: Tree::Of(StepId(0)),
                pattern: "src".into(),
                unpack: Unpack::Never,
            }],
            dest: "/app".into(),
            dest_is_directory: true,
            owner: None,
            mode: None,
            link: false,
            parents: false,
            exclude: vec![],
        },
        platform: amd64(),
        base: base(),
        files: vec![
            file("a", "content"),
            (folder, None),
            file("dir/b", "more"),
            (entry("l", link), None),
            (entry("z", device), None),
        ],
        matched: Matched::Folder,
    }
}

#[test]
fn the_key_of_a_copy() {
    check(
        &copying(),
        Copying::key,
        &[
            ("content", |c| c.files[0].1 = Some(FileDigest::of("changed"))),
            ("a name", |c| c.files[0].0.path = TreePath::checked(b"a.txt").unwrap()),
            ("the mode of a file", |c| c.files[0].0.mode = 0o664),
            ("setuid", |c| c.files[0].0.mode = 0o4644),
            // buildkit#7176: a folder's permissions.
            ("the mode of a folder", |c| c.files[1].0.mode = 0o700),
            ("the owner", |c| c.files[0].0.uid = 1),
            ("the group", |c| c.files[0].0.gid = 1),
            ("the owner of a folder", |c| c.files[1].0.uid = 1),
            ("a link's target", |c| c.files[3].0.kind = EntryKind::Symlink { target: b"b".into() }),
            ("a kind", |c| c.files[4].0.kind = EntryKind::Fifo),
            ("another kind", |c| c.files[4].0.kind = EntryKind::BlockDevice(Device { major: 1, minor: 3 })),
            ("a device", |c| c.files[4].0.kind = EntryKind::CharDevice(Device { major: 1, minor: 5 })),
            ("a capability", |c| {
                drop(c.files[0].0.xattrs.insert(b"security.capability".into(), b"x".into()))
            }),
            ("one file more", |c| c.files.push(file("zz", ""))),
            ("one file less", |c| drop(c.files.pop())),
            ("an empty folder less", |c| drop(c.files.remove(1))),
            ("no file", |c| c.files.clear()),
            ("a file in place of a folder", |c| c.matched = Matched::Single),
            ("the destination", |c| c.copy.dest = "/srv".into()),
            ("the destination's kind", |c| c.copy.dest_is_directory = false),
            // osscontainertools/kaniko#791: an ARG in COPY's flags; it arrives here expanded.
            ("--chown", |c| c.copy.owner = Some("1:1".into())),
            ("another --chown", |c| c.copy.owner = Some("app".into())),
            ("--chmod", |c| c.copy.mode = Some("755".into())),
            ("another --chmod", |c| c.copy.mode = Some("u+x".into())),
            ("--link", |c| c.copy.link = true),
            ("--parents", |c| c.copy.parents = true),
            ("ADD", |c| c.copy.sources.iter_mut().for_each(unpack)),
            ("a base layer", |c| c.base.0[1] = Digest::of("other")),
            ("no base", |c| c.base = Chain::default()),
        ],
        &[
            // buildkit#1106: a fresh checkout has new times.
            ("times", |c| c.files.iter_mut().for_each(|(entry, _)| entry.modified = Timestamp::default())),
            ("other attributes", |c| {
                drop(c.files[0].0.xattrs.insert(b"security.selinux".into(), b"x".into()))
            }),
            ("the mode of a link", |c| c.files[3].0.mode = 0o777),
            ("the pattern and the tree", |c| {
                c.copy.sources = vec![CopySource::Path {
                    from: Tree::Of(StepId(7)),
                    pattern: "renamed/*".into(),
                    unpack: Unpack::Never,
                }]
            }),
            ("what is excluded, where that selects the same", |c| c.copy.exclude = vec!["*.o".into()]),
            ("the architecture", |c| c.platform = Platform::new("linux", "arm64")),
            ("a name of the same file", |c| {
                c.files[2].0.kind = EntryKind::HardLink { target: TreePath::checked(b"a").unwrap() }
            }),
        ],
    );
}

#[test]
fn what_flags_replace_does_not_count() {
    let mut octal = copying();
    octal.copy.mode = Some("0755".into());
    check(
        &octal,
        Copying::key,
        &[("the mode", |c| c.copy.mode = Some("0700".into()))],
        &[
            // buildkit#4374: 664 here, 644 there, and --chmod.
            ("the mode of a file", |c| c.files[0].0.mode = 0o664),
            ("the mode of a folder", |c| c.files[1].0.mode = 0o775),
            ("a zero before the digits", |c| c.copy.mode = Some("755".into())),
        ],
    );
    let mut symbolic = copying();
    symbolic.copy.mode = Some("u+x".into());
    check(&symbolic, Copying::key, &[("the mode of a file", |c| c.files[0].0.mode = 0o664)], &[]);
    let mut owned = copying();
    owned.copy.owner = Some("1000".into());
    check(
        &owned,
        Copying::key,
        &[("the mode of a file", |c| c.files[0].0.mode = 0o664)],
        &[
            ("the owner of a file", |c| c.files[0].0.uid = 5),
            ("the group of a folder", |c| c.files[1].0.gid = 5),
        ],
    );
    let mut parents = copying();
    (parents.copy.parents, parents.copy.mode, parents.copy.owner) =
        (true, Some("755".into()), Some("1".into()));
    let changes: [Change<Copying>; 2] =
        [("a mode", |c| c.files[1].0.mode = 0o700), ("an owner", |c| c.files[1].0.uid = 5)];
    check(&parents, Copying::key, &changes, &[]);
    let mut link = copying();
    link.copy.link = true;
    check(
        &link,
        Copying::key,
        &[("content", |c| c.files[0].1 = None)],
        &[("the base", |c| c.base = Chain::default())],
    );
    link.copy.mode = Some("755".into());
    check(&link, Copying::key, &[("the base", |c| c.base = Chain::default())], &[]);
}

#[test]
fn several_sources_and_heredocs() {
    let hashed = |name: &str, content: &str| hash(&[file(name, content)]);
    let path = |pattern: &str| CopySource::Path {
        from: Tree::Scratch,
        pattern: pattern.into(),
        unpack: Unpack::Never,
    };
    let heredoc =
        |content: &str| CopySource::Inline(InlineFile { name: "EOF".into(), content: content.into() });
    let key = |sources: Vec<CopySource>, contents: &[SourceContent]| {
        let copy = Copy { sources, ..copying().copy };
        copy_key(&copy, &amd64(), &base(), contents).key
    };
    let keys = [
        // buildkit#853, #894, moby#38964: one of several sources.
        key(vec![path("a"), path("b")], &[hashed("a", "1"), hashed("b", "2")]),
        key(vec![path("a"), path("b")], &[hashed("a", "1"), hashed("b", "3")]),
        key(vec![path("a"), path("b")], &[hashed("a", "3"), hashed("b", "2")]),
        key(vec![path("a"), path("b")], &[hashed("a", "2"), hashed("b", "1")]),
        key(vec![path("b"), path("a")], &[hashed("b", "2"), hashed("a", "1")]),
        key(vec![path("a")], &[hashed("a", "1")]),
        // osscontainertools/kaniko#824: the body of a heredoc.
        key(vec![heredoc("1")], &[]),
        key(vec![heredoc("2")], &[]),
        key(vec![heredoc("1"), path("a")], &[hashed("a", "1")]),
        key(vec![path("a"), heredoc("1")], &[hashed("a", "1")]),
    ];
    for (at, one) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(one), "case {at}");
    }
}

#[test]
fn where_paths_and_contents_part() {
    let hashes = [
        hash(&[file("a", "b")]),
        hash(&[file("a/b", "b")]),
        hash(&[file("a", ""), file("b", "")]),
        hash(&[(entry("a", EntryKind::Directory), None), file("a/b", "")]),
        hash(&[(entry("a", EntryKind::Symlink { target: b"b".into() }), None)]),
        hash(&[(entry("ab", EntryKind::Symlink { target: b"".into() }), None)]),
        hash(&[]),
    ];
    for (at, one) in hashes.iter().enumerate() {
        assert!(!hashes[..at].contains(one), "case {at}");
    }
}

#[test]
fn the_key_of_a_copy_by_definition() {
    #[derive(Clone)]
    struct Definition(Copy, Chain, Chain);
    let key = |d: &Definition| copy_definition_key(&d.0, &amd64(), &d.1, std::slice::from_ref(&d.2));
    let original = Definition(copying().copy, base(), base());
    check(
        &original,
        key,
        &[
            ("the source's tree", |d| d.2 = d.2.with(Digest::of("three"))),
            ("the base", |d| d.1 = d.1.with(Digest::of("three"))),
            ("the pattern", |d| {
                d.0.sources = vec![CopySource::Path {
                    from: Tree::Scratch,
                    pattern: "other".into(),
                    unpack: Unpack::Never,
                }]
            }),
            ("--exclude", |d| d.0.exclude = vec!["*.o".into()]),
            ("the destination", |d| d.0.dest = "/srv".into()),
            ("--chown", |d| d.0.owner = Some("1".into())),
        ],
        &[("the number of the source's step", |d| {
            d.0.sources =
                vec![CopySource::Path { from: Tree::Scratch, pattern: "src".into(), unpack: Unpack::Never }]
        })],
    );
    assert_ne!(key(&original).key, copying().key().key);
}

#[test]
fn the_other_keys() {
    let make = MakeDirectory { base: Tree::Scratch, path: "/app".into(), user: String::new() };
    check(
        &(make, base()),
        |(make, base)| make_directory_key(make, base),
        &[
            ("the path", |(make, _)| make.path = "/srv".into()),
            ("the user", |(make, _)| make.user = "app".into()),
            ("the base", |(_, base)| base.0.clear()),
        ],
        &[("the number of the base's step", |(make, _)| make.base = Tree::Of(StepId(5)))],
    );
    let http = Http { url: "https://example.org/a.tar".into(), checksum: None };
    check(
        &(http, Digest::of("content")),
        |(http, content)| http_key(http, content),
        &[
            ("the URL", |(http, _)| http.url = "https://example.org/b.tar".into()),
            ("the content", |(_, content)| *content = Digest::of("changed")),
        ],
        &[("the checksum", |(http, content)| http.checksum = Some(*content))],
    );
    let git = Git { url: "https://example.org/a.git#main".into(), keep_git_dir: false, checksum: None };
    check(
        &(git, "c0ffee".to_owned()),
        |(git, commit)| git_key(git, commit),
        &[
            ("the URL", |(git, _)| git.url.push_str(":docs")),
            ("the commit", |(_, commit)| *commit = "decade".into()),
            ("keep-git-dir", |(git, _)| git.keep_git_dir = true),
        ],
        &[("the checksum", |(git, _)| git.checksum = Some("c0".into()))],
    );
}

#[test]
fn explanations_name_what_changed_and_keep_no_values() {
    let check = |new: &Keyed, expected: &str| {
        let old = run().key().explanation("step");
        assert_eq!(new.explanation("step").difference(&old).summary(), expected);
    };
    let mut variable = run();
    variable.exec.env[0].1 = "hunter2".into();
    check(&variable.key(), "env A changed");
    let mut layer = run();
    layer.base.0[1] = Digest::of("other");
    check(&layer.key(), "base layer 2 changed");
    let mut mount = run();
    mount.exec.mounts[TMPFS].target = Some("/tmp".into());
    check(&mount.key(), "tmpfs mount /tmp added, tmpfs mount /mnt/2 removed");
    assert!(!variable.key().explanation("step").to_json().contains("hunter2"));

    let mut copy = copying();
    copy.files[2].1 = Some(FileDigest::of("changed"));
    let old = copying().key().explanation("step");
    assert_eq!(copy.key().explanation("step").difference(&old).summary(), "dir/b changed");
    let many = |changed: &str| {
        let files =
            (0..1000).map(|n| file(&format!("dir{}/{n:04}", n / 100), if n == 777 { changed } else { "" }));
        copy_key(&copying().copy, &amd64(), &base(), &[hash(&files.collect::<Vec<_>>())]).explanation("step")
    };
    assert_eq!(many("new").difference(&many("old")).summary(), "dir7 changed");
    let round = Explanation::from_json("step", &old.to_json()).unwrap();
    assert_eq!(round, old);
}

#[test]
fn chains_have_the_ids_of_the_specification() {
    let layers = base();
    assert_eq!(Chain::default().id(), None);
    assert_eq!(Chain(vec![layers.0[0]]).id(), Some(layers.0[0]));
    assert_eq!(layers.id(), Some(Digest::of(format!("{} {}", layers.0[0], layers.0[1]))));
}

/// A change of the encoding makes every store forget all: it must be meant, and raise [`VERSION`].
#[test]
fn keys_stay_as_they_are() {
    let keys = [run().key().key, copying().key().key].map(|key| key.digest().hex()[..16].to_owned());
    assert_eq!((VERSION, keys.each_ref().map(String::as_str)), (2, ["4fdd9f95372d9af9", "f963997fb400dae6"]));
}

fn unpack(source: &mut CopySource) {
    if let CopySource::Path { unpack, .. } = source {
        *unpack = Unpack::Archives;
    }
}
