//! What must leave no trace, and what must: secrets, sockets, mounts and the builder's own files leave none; the real times of
//! files survive the cache.

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::fs::DirEntryExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use lithify_testkit::Env;

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");

/// Not found anywhere by chance.
const FILE_SECRET: &str = "S3CRET-in-a-file-9f41c2";
const ENV_SECRET: &str = "S3CRET-in-a-variable-77ab0e";
const CACHED: &str = "kept-in-a-cache-mount-51d2aa";
const BOUND: &str = "only-mounted-from-the-context-c0ffee";

#[test]
fn secrets_and_mounts_leave_nothing() {
    for snapshotter in ["overlay", "copy"] {
        let env = Env::new(BINARY);
        let context = env.folder(&[
            (
                "Dockerfile",
                "FROM busybox\n\
                 RUN --mount=type=secret,id=file,target=/run/here --mount=type=secret,id=var,env=TOKEN \
                 --mount=type=cache,target=/cache --mount=type=bind,source=bound,target=/bound \
                 --mount=type=tmpfs,target=/scratch --mount=type=ssh \
                 test -n \"$TOKEN\" && test -s /run/here && test -s /bound && test -S \"$SSH_AUTH_SOCK\" \
                 && echo kept-in-a-cache''-mount-51d2aa > /cache/f && cp /run/here /scratch && echo done > /done\n",
            ),
            ("bound", BOUND),
        ]);
        let outside = env.folder(&[("secret", FILE_SECRET)]);
        let socket = outside.join("agent");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        let image = env.build_with(
            env.lithify(["build", "--progress=plain", "--snapshotter", snapshotter])
                .env("TOKEN_VALUE", ENV_SECRET),
            &[
                env.busybox(),
                format!("--secret=id=file,src={}", outside.join("secret").display()),
                "--secret=id=var,env=TOKEN_VALUE".to_owned(),
                format!("--ssh=default={}", socket.display()),
            ],
            &context,
        );
        let mut tar = image.tar(image.layers.last().expect("a layer")).expect("a layer");
        let mut paths = vec![];
        while let Some(member) = tar.next_member().expect("a member") {
            paths.push(member.path());
        }
        assert_eq!(paths, ["/done"], "{snapshotter}: the layer holds more than the step made");
        for needle in [FILE_SECRET, ENV_SECRET, "TOKEN_VALUE"] {
            assert_eq!(found_in(&env.store(), needle), Vec::<PathBuf>::new(), "{snapshotter}: {needle}");
        }
        // A cache mount's content is where it belongs, and nowhere else.
        let kept = found_in(&env.store(), CACHED);
        assert!(
            !kept.is_empty() && kept.iter().all(|path| path.display().to_string().contains("cache-mounts")),
            "{snapshotter}: {kept:?}"
        );
    }
}

/// The files below `folder` that hold `needle`, plain or in a zstd or gzip blob.
fn found_in(folder: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    search(folder, needle, &mut HashSet::new(), &mut found);
    found
}

/// `seen` are the inodes that were searched: BusyBox has hundreds of names.
fn search(folder: &Path, needle: &str, seen: &mut HashSet<u64>, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            search(&path, needle, seen, found);
        } else if kind.is_file() && seen.insert(entry.ino()) {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let mut plain = vec![];
            if let Ok(mut reader) = lithify_testkit::decoded(&bytes[..]) {
                // What is no compressed file after all was searched as it is.
                let _ = reader.read_to_end(&mut plain);
            }
            // The search of text is the fast one of the standard library.
            let holds = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(needle);
            if holds(&bytes) || holds(&plain) {
                found.push(path);
            }
        }
    }
}

/// `make` compares times: a target older than its source is made again. After a hit, a step must see the times that the first
/// build left, or a build with a cache mount takes old for new.
#[test]
fn a_hit_brings_real_times_back() {
    for snapshotter in ["overlay", "copy"] {
        let env = Env::new(BINARY);
        let dockerfile = |last: &str| {
            format!(
                "FROM busybox\n\
                 COPY source /w/source\n\
                 RUN touch -d '2001-02-03 04:05:06' /w/old && sleep 0.02 && echo made > /w/target\n\
                 RUN {last}\n"
            )
        };
        let context = env.folder(&[("source", "1\n"), ("Dockerfile", &dockerfile("true"))]);
        // BusyBox compares whole seconds.
        let source = std::fs::File::open(context.join("source")).expect("the source");
        let minute_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        source.set_modified(minute_ago).expect("an older source");
        let flags = [env.busybox(), format!("--snapshotter={snapshotter}")];
        env.build(&flags, &context);
        // Trees can always be made again from layers and their catalogues.
        remove_trees(&env);
        let check = "test /w/target -nt /w/source && test $(stat -c %Y /w/old) = 981173106 \
                     && test $(stat -c %Y /w/source) -gt 1000000000";
        env.write(&context.join("Dockerfile"), &dockerfile(check));
        env.build(&flags, &context);
    }
}

fn remove_trees(env: &Env) {
    let trees = env.store().join("trees");
    std::fs::remove_dir_all(&trees).expect("remove the trees");
    std::fs::create_dir(&trees).expect("make the folder for trees");
}
