//! Builds at the same time on one store, with trees that move on under each other.

use lithify_testkit::{Env, Image, Running};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const LIMIT: Duration = Duration::from_secs(120);

/// Stages that start from the same step, read each other's trees by COPY and by mounts, and go on.
const DOCKERFILE: &str = "FROM busybox AS common
RUN mkdir /c && seq 2000 > /c/numbers
FROM common AS one
RUN sed -i s/1/one/ /c/numbers
COPY Dockerfile /c/
RUN rm /c/Dockerfile && echo 1 > /c/1
FROM common AS two
COPY --from=common /c/numbers /c/again
RUN --mount=type=bind,from=common,source=/c,target=/m cmp /m/numbers /c/again && echo 2 > /c/2
FROM common
RUN --mount=type=bind,from=one,target=/one --mount=type=bind,from=two,target=/two cat /one/c/1 /two/c/2 > /c/3
COPY --from=one /c /one
COPY --from=two /c /two
RUN test $(cat /c/numbers | wc -l) = 2000 && grep -c one /one/numbers > /count && ls /one /two > /list
";

#[test]
fn builds_with_moving_trees_agree() {
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", DOCKERFILE)]);
    for snapshotter in ["copy", "overlay"] {
        let flag = format!("--snapshotter={snapshotter}");
        let alone = env.build(&["--no-cache", &flag, &env.busybox()], &context);
        let archives: Vec<_> = (0..6).map(|number| env.fresh(&format!("{number}.tar"))).collect();
        let start = |archive: &std::path::PathBuf| {
            let output = format!("--output=type=oci,dest={}", archive.display());
            let mut command =
                env.lithify(["build", "--no-cache", "--progress=plain", &flag, &env.busybox(), &output]);
            Running::start(command.arg(&context)).expect("start")
        };
        let running: Vec<Running> = archives.iter().map(start).collect();
        for (running, archive) in running.into_iter().zip(&archives) {
            running.wait(LIMIT).expect_ok();
            assert_eq!(Image::from_archive(archive).expect("an image").digest, alone.digest, "{snapshotter}");
        }
    }
}
