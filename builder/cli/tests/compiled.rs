//! Compiled Python is current in the image, and in the trees of later steps: its header holds the time that its source has
//! there, whoever made the layers and whether they came from the cache.

use lithify_testkit::{Env, Image};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");

/// Compiles as Python does, as far as anybody looks: `compile SOURCE [SECONDS [FLAGS]]`.
const COMPILE: &str = r#"#!/bin/sh
set -e
t=$(( $(stat -c %Y "$1") + ${2:-0} ))
n=$(basename "$1" .py)
mkdir -p "$(dirname "$1")/__pycache__"
{
  printf '\247\015\015\012'; printf "\\00${3:-0}\\000\\000\\000"
  for shift in 0 8 16 24; do printf "\\$(printf %03o $(( (t >> shift) & 255 )))"; done
  printf '\001\000\000\000code of %s' "$n"
} > "$(dirname "$1")/__pycache__/$n.cpython-311.pyc"
"#;

/// Says which compiled files hold the time of their source.
const CURRENT: &str = r#"#!/bin/sh
for source in /app/*.py; do
  n=$(basename "$source" .py)
  t=$(od -An -tu4 -j8 -N4 "/app/__pycache__/$n.cpython-311.pyc" | tr -d ' ')
  if [ "$t" = "$(stat -c %Y "$source")" ]; then echo "$n"; fi
done
"#;

const DOCKERFILE: &str = "FROM busybox\n\
    COPY tools /tools\n\
    COPY app /app\n\
    RUN echo own > /app/own.py && echo own > /app/Own.py && echo stale > /app/stale.py && echo hashed > /app/hashed.py && touch -d 202401010000 /app/stale.py /app/hashed.py && \
    for n in own Own lower; do sh /tools/compile /app/$n.py; done && \
    sh /tools/compile /app/stale.py -60 && sh /tools/compile /app/hashed.py 0 1\n\
    RUN sh /tools/current > /current # first\n";

#[test]
fn compiled_files_stay_current() {
    let mut digests = vec![];
    for snapshotter in ["overlay", "copy"] {
        let env = Env::new(BINARY);
        let context = env.folder(&[
            ("Dockerfile", DOCKERFILE),
            ("tools/compile", COMPILE),
            ("tools/current", CURRENT),
            ("app/lower.py", "lower"),
        ]);
        let build = |flags: &[&str]| {
            let flags = flags.iter().map(|flag| (*flag).to_owned()).chain([env.busybox()]);
            let flags: Vec<_> = flags.chain([format!("--snapshotter={snapshotter}")]).collect();
            env.build(&flags, &context)
        };
        let image = build(&[]);
        check(&image, 0);
        // What a later step sees, in the tree that the step before left and in one that comes from the cache.
        assert_eq!(text(&image, "/current"), "Own\nhashed\nlower\nown\n", "{snapshotter}");
        let trees = env.store().join("trees");
        std::fs::remove_dir_all(&trees).expect("remove the trees");
        std::fs::create_dir(&trees).expect("make the folder for trees");
        env.write(&context.join("Dockerfile"), &DOCKERFILE.replace("# first", "# again"));
        let again = build(&[]);
        assert_eq!(text(&again, "/current"), "Own\nhashed\nlower\nown\n", "{snapshotter}: from the cache");
        check(&build(&["--timestamp=1700000000"]), 1_700_000_000);
        digests.push(image.digest.clone());
    }
    assert_eq!(digests[0], digests[1], "overlay and copy differ");
}

/// Whether the headers in the image hold `layer_time` just where the source's time is meant.
fn check(image: &Image, layer_time: u32) {
    let header = |name: &str| {
        let path = format!("/app/__pycache__/{name}.cpython-311.pyc");
        let content = image.file(&path).expect("a layer").unwrap_or_else(|| panic!("no {path}"));
        assert!(content.ends_with(format!("code of {name}").as_bytes()), "{path}");
        u32::from_le_bytes(content[8..12].try_into().expect("four bytes"))
    };
    for name in ["own", "Own", "lower"] {
        assert_eq!(header(name), layer_time, "{name}");
    }
    for name in ["stale", "hashed"] {
        assert!(header(name) > 1_700_000_000, "{name}: {}", header(name));
    }
}

fn text(image: &Image, path: &str) -> String {
    let content = image.file(path).expect("a layer").expect("the file");
    String::from_utf8(content).expect("text")
}
