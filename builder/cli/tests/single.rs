//! The rung `single`: one id in truth, any as far as a step can see. The image is that of the rung `range`.

use lithify_testkit::{Env, Image, PlainUser, skipped};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");

/// Owners of every kind of file, given in every way, by and to several users; and read back in later steps and by COPY.
const EVERYBODY: &str = r#"FROM busybox AS build
COPY --chown=7:8 a /a
RUN echo app:x:1000:100::/home/app:/bin/sh >> /etc/passwd && mkdir -p /home/app /shared && chown 1000:100 /home/app \
 && chown 0:50 /shared && chmod 2775 /shared && touch /shared/by-root && (umask 077; echo > /private) && mkdir /shared/sub && touch /shared/sub/too \
 && test "$(stat -c %u:%g /a /home/app /shared/sub/too | tr '\n' ' ')" = "7:8 1000:100 0:50 "
USER app
RUN test "$(id -u):$(id -g)" = 1000:100 && touch /home/app/file && mkdir /home/app/folder && ln -s file /home/app/link \
 && mkfifo /home/app/pipe && ln /home/app/file /home/app/name && ln -s /home/app/file /home/app/absolute \
 && (umask 077; echo x > /home/app/secret) && chmod 4711 /home/app/file \
 && ! touch /denied && ! rm -f /a && ! mv /etc /home/app/etc && ! chown 0 /home/app/file && ! cat /private
USER 0
RUN set -e; cd /home/app; test "$(stat -c %u:%g:%a:%s file link pipe secret | tr '\n' ' ')" = \
 "1000:100:4711:0 1000:100:777:4 1000:100:644:0 1000:100:600:2 "; test "$(readlink link)" = file; \
 mv pipe renamed; mv link moved; cp -a moved copied; chown -h 5:6 copied; chown 9 file; chmod 6755 name; \
 tar -cf - . | (mkdir /copy && tar -C /copy -xpf -); test "$(stat -c %u copied)" = 5
RUN busybox mknod /device c 1 3 && chown 3:4 /device && cp /bin/busybox /busybox-user && chown 1000:100 /busybox-user && chmod 6755 /busybox-user \
 && cp /bin/busybox /bin/busybox-root && chmod 4755 /bin/busybox-root
RUN test -c /device && test "$(stat -c %u:%t:%T /device)" = 3:1:3 && cp -a /device /copied-device && test "$(/busybox-user id -u)" = 1000
USER app
RUN /bin/busybox-root touch /home/app/as-itself && test "$(/bin/busybox-root id -u)" = 1000 && grep -q "^Uid:.1000.1000" /proc/self/status
FROM busybox
COPY --from=build --parents /home/app /copy /device /shared /busybox-user /a /
RUN test -p /home/app/renamed && test -c /device && rm -r /copy/folder
"#;

/// The image of the rung `range`; `None` where there is none.
fn expected(name: &str) -> Option<Image> {
    if !lithify_testkit::is_root() {
        skipped(name, "only root is sure to have a range of ids");
        return None;
    }
    let env = Env::new(BINARY);
    let context = env.folder(&[("Dockerfile", EVERYBODY), ("a", "a\n")]);
    Some(env.build(&[env.busybox().as_str(), "--sandbox=range"], &context))
}

fn check(env: &Env, expected: &Image, what: &str) {
    let context = env.folder(&[("Dockerfile", EVERYBODY), ("a", "a\n")]);
    for snapshotter in ["overlay", "copy"] {
        let flags =
            ["--sandbox=single", "--no-cache", &format!("--snapshotter={snapshotter}"), &env.busybox()];
        let image = env.build(&flags, &context);
        if let Some(difference) = lithify_testkit::diff::explain(expected, &image).expect("read") {
            panic!("single {what} with {snapshotter} makes another image: {difference}");
        }
    }
}

#[test]
fn same_image_for_a_user_without_a_range() {
    let name = "same_image_for_a_user_without_a_range";
    let Some(expected) = expected(name) else { return };
    match PlainUser::without_subids() {
        Ok(user) => check(&Env::for_user(BINARY, user), &expected, "as a user without a range of ids"),
        Err(why) => skipped(name, &why),
    }
}

#[test]
fn same_image_for_root() {
    let Some(expected) = expected("same_image_for_root") else { return };
    check(&Env::new(BINARY), &expected, "as root");
}

#[test]
fn single_is_chosen_where_there_is_no_range() {
    let name = "single_is_chosen_where_there_is_no_range";
    let env = match PlainUser::without_subids() {
        Ok(user) => Env::for_user(BINARY, user),
        Err(why) => return skipped(name, &why),
    };
    let ended = env.run(["doctor"]).expect_ok();
    ended.expect_says("chosen: single").expect_says("has no line for").expect_says("--add-subuids");
    let context = env.folder(&[("Dockerfile", "FROM busybox\nRUN chown 1:2 /bin && stat -c %u /bin\n")]);
    let context = context.display().to_string();
    let args = ["build", "--progress=plain", &env.busybox(), &context];
    env.run(args).expect_ok().expect_says("has the sandbox single");
}

/// Where nothing answers system calls, ownership is lost, which is said; and what was made so is not taken for the same later.
#[test]
fn pretended_owners_are_lost_and_said_to_be() {
    let name = "pretended_owners_are_lost_and_said_to_be";
    let env = match PlainUser::without_subids() {
        Ok(user) => Env::for_user(BINARY, user),
        Err(why) => return skipped(name, &why),
    };
    let dockerfile = "FROM busybox\nRUN touch /f && chown 1:2 /f && stat -c owner=%u /f\n";
    let context = env.folder(&[("Dockerfile", dockerfile)]).display().to_string();
    let build = |sandbox: &str| {
        let args = ["build", "--progress=plain", &env.busybox(), sandbox, &context];
        env.run(args).expect_ok()
    };
    build("--sandbox=pretended").expect_says("WHO OWNS A FILE IS LOST").expect_says("owner=0");
    build("--sandbox=single").expect_says("owner=1");
}
