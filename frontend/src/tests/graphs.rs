//! What stages become: steps, edges, titles, history, environment.

use std::collections::HashMap;

use lithify_graph::{CacheSharing, CopySource, Exec, MountKind, Op, Step, Tree, Unpack};
use lithify_oci::{Digest, ImageConfig};

use super::{busybox, graph, plan_on};
use crate::{ImageRequest, NamedContext, Options, Plan, ResolvedImage, Source, plan};

fn titles(text: &str) -> Vec<String> {
    graph(text).steps.into_iter().map(|step| step.title).collect()
}

fn exec(text: &str) -> Exec {
    let steps = graph(text).steps;
    let found = steps.into_iter().rev().find_map(|step| match step.op {
        Op::Exec(exec) => Some(exec),
        _ => None,
    });
    found.unwrap()
}

fn copy(text: &str) -> lithify_graph::Copy {
    match graph(text).steps.pop() {
        Some(Step { op: Op::Copy(copy), .. }) => copy,
        other => panic!("{other:?}"),
    }
}

fn history(text: &str) -> Vec<String> {
    let items = graph(text).target.history.into_iter();
    items.skip(1).map(|item| item.history.created_by.unwrap()).collect()
}

#[test]
fn steps_are_titled_as_docker_does() {
    let text = "FROM debian:12 AS build\nENV X=y\nRUN make $X\nworkdir /w\nFROM scratch\nCOPY --from=build /a /b\nCOPY c /\n";
    let expected = [
        "[build 1/3] FROM docker.io/library/debian:12",
        "[build 2/3] RUN make y",
        "[build 3/3] WORKDIR /w",
        "[stage-1 1/2] COPY --from=build /a /b",
        "[internal] load build context",
        "[stage-1 2/2] COPY c /",
    ];
    assert_eq!(titles(text), expected);
    assert_eq!(titles("FROM a\nRUN x\n")[1], "[2/2] RUN x");
}

#[test]
fn inputs_come_before_their_steps_and_are_shared() {
    let text = "FROM a AS x\nCOPY a /\nFROM a AS unused\nRUN false\nFROM a\nCOPY b /\nCOPY --from=x /a /\nCOPY --from=a /c /\n\
                RUN --mount=target=/m true\n";
    let graph = graph(text);
    for (index, step) in graph.steps.iter().enumerate() {
        assert!(step.op.inputs().iter().all(|input| (input.0 as usize) < index));
    }
    let count = |wanted: fn(&Op) -> bool| graph.steps.iter().filter(|step| wanted(&step.op)).count();
    assert_eq!(count(|op| matches!(op, Op::Context(_))), 1);
    assert_eq!(count(|op| matches!(op, Op::Image(_))), 1);
    assert_eq!(count(|op| matches!(op, Op::Exec(_))), 1);
}

#[test]
fn steps_know_where_they_stand() {
    let text = "FROM a AS b\n  RUN <<EOF\nx\nEOF\nCOPY \\\n a b\n";
    let graph = graph(text);
    let spans: Vec<&str> =
        graph.steps.iter().filter_map(|step| step.span).map(|it| &text[it.start..it.end]).collect();
    assert_eq!(spans, ["FROM a AS b", "RUN <<EOF\nx\nEOF", "COPY \\\n a b"]);
    assert!(graph.steps.iter().filter(|step| step.span.is_some()).all(|step| step.stage == "b"));
}

#[test]
fn history_is_that_of_buildkit() {
    let text = "FROM a\nARG V=1\nARG U\nENV A=b \"C\"='d e'\nLABEL x=$A\nRUN make\nRUN [\"a\", \"b c\"]\nWORKDIR /w\nCOPY --chown=1:2 a b /c/\n\
                COPY <<E /f\nE\nEXPOSE 81 80/UDP\nVOLUME /a /b\nUSER u\nCMD [\"x\", \"q\\\"\"]\nENTRYPOINT a b\nSHELL [\"/bin/x\", \"-c\"]\n\
                STOPSIGNAL 9\nHEALTHCHECK --interval=5m --retries=3 CMD a b\nADD --chmod=755 z /\nMAINTAINER me\n";
    let expected = [
        "ARG V=1",
        "ARG U",
        "ENV A=b \"C\"=d e",
        "LABEL x=b",
        "RUN |2 V=1 U= /bin/sh -c make # buildkit",
        "RUN |2 V=1 U= a b c # buildkit",
        "WORKDIR /w",
        "COPY --chown=1:2 a b /c/ # buildkit",
        "COPY <<E /f # buildkit",
        "EXPOSE [80/udp 81/tcp]",
        "VOLUME [/a /b]",
        "USER u",
        "CMD [\"x\" \"q\\\"\"]",
        "ENTRYPOINT [\"/bin/sh\" \"-c\" \"a b\"]",
        "SHELL [/bin/x -c]",
        "STOPSIGNAL 9",
        "HEALTHCHECK {Test:[CMD-SHELL a b] Interval:5m0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}",
        "ADD --chmod=755 z / # buildkit",
        "MAINTAINER me",
    ];
    let got: Vec<String> =
        history(text).into_iter().map(|it| it.replace("ENV A=b C=", "ENV A=b \"C\"=")).collect();
    assert_eq!(got, expected);
    let items = graph(text).target.history;
    assert!(items.iter().all(|item| item.step.is_none() || !item.history.empty_layer));
    assert_eq!(items[1].history.comment.as_deref(), Some("buildkit.dockerfile.v0"));
    assert_eq!(items[0].history.created_by.as_deref(), Some("base rootfs"));
}

#[test]
fn environment_is_in_the_order_of_assignment() {
    let names = |text: &str| -> Vec<String> { exec(text).env.into_iter().map(|(name, _)| name).collect() };
    assert_eq!(names("FROM a\nENV A=1 B=2\nARG C=3\nENV A=4\nRUN x"), ["PATH", "B", "C", "A"]);
    assert_eq!(names("FROM scratch\nRUN x"), ["PATH"]);
    assert_eq!(names("FROM a\nARG U\nRUN x"), ["PATH"]);
}

#[test]
fn proxies_are_kept_out_of_the_environment() {
    let build_args = vec![("http_proxy".into(), "p".into()), ("NO_PROXY".into(), "n".into())];
    let options = Options { build_args, ..Options::default() };
    let source = Source::new("Dockerfile", "FROM a\nARG no_proxy\nRUN x");
    let (graph, _, _) = plan_on(&busybox(), &source, &options).unwrap();
    let Op::Exec(exec) = &graph.steps[1].op else { panic!() };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(exec.proxy_env, [pair("HTTP_PROXY", "p"), pair("http_proxy", "p"), pair("NO_PROXY", "n")]);
    assert_eq!(exec.env.len(), 1);
}

#[test]
fn heredocs_of_run() {
    let check = |text: &str, last: &str, script: Option<&str>| {
        let exec = exec(&format!("FROM a\n{text}"));
        assert_eq!(exec.args[2], last, "{text}");
        let got = exec.script.map(|file| String::from_utf8(file.content).unwrap());
        assert_eq!(got.as_deref(), script, "{text}");
    };
    check("RUN <<EOF\na\nb\nEOF\n", "a\nb\n", None);
    check("RUN <<-EOF\n\ta\n\t  b\n\tEOF\n", "a\n  b\n", None);
    check("RUN <<EOF sh\na\nEOF\n", "<<EOF sh\na\nEOF", None);
    check("RUN cat <<A <<'B'\n1\nA\n2\nB\n", "cat <<A <<'B'\n1\nA\n2\nB", None);
    check("RUN <<S\n#!/bin/x\ny\nS\n", "/dev/pipes/S", Some("#!/bin/x\ny\n"));
    check("RUN --network=none <<EOF\nx\r\nEOF\r\n", "x\r\n", None);
    check("# c\nRUN a \\\n # remark\n && <<EOF cat\nx\nEOF\n", "a  && <<EOF cat\nx\nEOF", None);
}

#[test]
fn mounts() {
    let mounts = |flags: &str| exec(&format!("FROM a AS s\nRUN x\nFROM a\nWORKDIR /w\nRUN {flags} x")).mounts;
    let one = |flags: &str| mounts(flags).remove(0);
    let bind = one("--mount=from=s,source=p/../q,target=t");
    assert_eq!(bind.target.as_deref(), Some("/w/t"));
    assert!(
        matches!(bind.kind, MountKind::Bind { from: Tree::Of(_), ref source, writable: false } if source == "/q")
    );
    assert!(matches!(one("--mount=target=/t,rw").kind, MountKind::Bind { writable: true, .. }));
    let MountKind::Cache { id, sharing, from, mode, uid, read_only, .. } =
        one("--mount=type=cache,target=/c//d/,sharing=locked,uid=7").kind
    else {
        panic!()
    };
    assert_eq!(
        (id.as_str(), sharing, from, mode, uid, read_only),
        ("/c/d", CacheSharing::Locked, Tree::Scratch, 0o755, 7, false)
    );
    let size = |text: &str| match one(&format!("--mount=type=tmpfs,target=/t,size={text}")).kind {
        MountKind::Tmpfs { size_bytes } => size_bytes,
        other => panic!("{other:?}"),
    };
    assert_eq!((size("100m"), size("1.5GiB"), size("4096")), (Some(100 << 20), Some(3 << 29), Some(4096)));
    let secret = one("--mount=type=secret,id=a/tok");
    assert_eq!(secret.target.as_deref(), Some("/run/secrets/tok"));
    assert!(matches!(secret.kind, MountKind::Secret { mode: 0o400, required: false, env: None, .. }));
    assert_eq!(one("--mount=type=secret,id=tok,env=T").target, None);
    assert!(one("--mount=type=secret,id=tok,env=T,target=/s").target.is_some());
    assert!(matches!(
        one("--mount=required,type=secret,id=x").kind,
        MountKind::Secret { required: true, .. }
    ));
    let agents: Vec<_> =
        mounts("--mount=type=ssh --mount=type=ssh,id=x").into_iter().map(|it| it.target.unwrap()).collect();
    assert_eq!(agents, ["/run/buildkit/ssh_agent.0", "/run/buildkit/ssh_agent.1"]);
}

#[test]
fn copies() {
    let dest = |text: &str| {
        let copy = copy(&format!("FROM a\nWORKDIR /w\nCOPY f {text}"));
        (copy.dest, copy.dest_is_directory)
    };
    assert_eq!(dest("x"), ("/w/x".into(), false));
    assert_eq!(dest("x/"), ("/w/x".into(), true));
    assert_eq!(dest("x/."), ("/w/x".into(), true));
    assert_eq!(dest("."), ("/w".into(), true));
    assert_eq!(dest("/a//b/../c"), ("/a/c".into(), false));
    assert_eq!(dest(".."), ("/".into(), false));
    assert_eq!(dest("$EMPTY"), ("/w".into(), true));
    let mixed =
        copy("FROM a\nENV E=v\nCOPY --parents --exclude=*.o --exclude=$E a <<x <<'y' /d/\n$E\nx\n$E\ny\n");
    assert_eq!(mixed.exclude, ["*.o", "$E"]);
    assert!(mixed.parents);
    let inline = |source: &CopySource| match source {
        CopySource::Inline(file) => String::from_utf8(file.content.clone()).unwrap(),
        CopySource::Path { pattern, .. } => pattern.clone(),
    };
    assert_eq!(mixed.sources.iter().map(inline).collect::<Vec<_>>(), ["a", "v\n", "$E\n"]);
}

#[test]
fn additions_from_elsewhere() {
    let steps = graph("FROM scratch\nADD https://h.example/a%20b[1].tgz?x=1 /d/\n").steps;
    let (Op::Http(http), Op::Copy(copy)) = (&steps[0].op, &steps[1].op) else { panic!("{steps:?}") };
    assert_eq!(http.file_name(), "a b[1].tgz");
    assert!(matches!(&copy.sources[0], CopySource::Path { pattern, .. } if pattern == "a b\\[1\\].tgz"));
    let unpack = |text: &str| copy_unpack(text);
    assert_eq!(unpack("ADD a.tar /"), [Unpack::Archives]);
    assert_eq!(unpack("ADD https://x/y.tar /"), [Unpack::Never]);
    assert_eq!(unpack("ADD a.tar https://x/y.tar /d/"), [Unpack::Archives, Unpack::Never]);
    assert_eq!(unpack("ADD --unpack=false a.tar /"), [Unpack::Never]);
    assert_eq!(unpack("ADD --unpack https://x/y.tar /"), [Unpack::Archives]);
    let git = |source: &str| {
        let steps = graph(&format!("FROM scratch\nADD {source} /d\n")).steps;
        matches!(steps[0].op, Op::Git(_))
    };
    assert!(
        git("https://github.com/a/b.git#v1:sub")
            && git("git@host:a/b")
            && git("ssh://h/x")
            && git("git://h/x?ref=y")
    );
    assert!(!git("https://github.com/a/b") && !git("github.com/a/b") && !git("./git@host:x"));
}

fn copy_unpack(text: &str) -> Vec<Unpack> {
    let copy = copy(&format!("FROM scratch\n{text}"));
    let unpack = |source: &CopySource| match source {
        CopySource::Path { unpack, .. } => *unpack,
        CopySource::Inline(_) => Unpack::Never,
    };
    copy.sources.iter().map(unpack).collect()
}

#[test]
fn images_are_asked_for_once_and_all_at_once() {
    let text = "FROM a AS x\nFROM b\nCOPY --from=x / /\nCOPY --from=c:1 / /\nRUN --mount=from=d,target=/d x\nFROM unused\nFROM b\nCOPY --from=1 / /";
    let Ok(Plan::NeedImages(needed)) =
        plan(&Source::new("Dockerfile", text), &Options::default(), &HashMap::new())
    else {
        panic!()
    };
    let names: Vec<String> = needed.into_iter().map(|request| request.name).collect();
    let full = |name: &str| format!("docker.io/library/{name}");
    assert_eq!(names, [full("a:latest"), full("b:latest"), full("c:1"), full("d:latest")]);
}

#[test]
fn triggers_of_images_may_ask_for_more() {
    let mut config = busybox();
    config.config.on_build = vec!["COPY --from=tool /t /t".into(), "RUN go".into()];
    let answer = |name: &str, config: ImageConfig| ResolvedImage { manifest: Digest::of(name), config };
    let request = |name: &str| ImageRequest {
        name: format!("docker.io/library/{name}:latest"),
        context: None,
        platform: Options::default().target_platform,
    };
    let source = Source::new("Dockerfile", "FROM base\nRUN end\n");
    let mut images = HashMap::from([(request("base"), answer("base", config))]);
    let Ok(Plan::NeedImages(needed)) = plan(&source, &Options::default(), &images) else { panic!() };
    assert_eq!(needed.into_iter().collect::<Vec<_>>(), [request("tool")]);
    images.insert(request("tool"), answer("tool", busybox()));
    let Ok(Plan::Graph { graph, .. }) = plan(&source, &Options::default(), &images) else { panic!() };
    let titles: Vec<&str> = graph.steps.iter().map(|step| step.title.as_str()).collect();
    assert_eq!(
        titles[2..],
        ["[2/4] ONBUILD COPY --from=tool /t /t", "[3/4] ONBUILD RUN go", "[4/4] RUN end"]
    );
    assert!(graph.target.config.config.on_build.is_empty());
    assert_eq!(graph.steps[2].span.map(|span| span.start), Some(0));
}

#[test]
fn named_contexts_take_the_place_of_images_and_stages() {
    let text =
        "FROM alpine:3 AS base\nRUN false\nFROM base\nCOPY --from=alpine:3 /a /\nCOPY --from=src /b /\n";
    let contexts = [
        ("base", NamedContext::Folder),
        ("docker.io/library/alpine:3", NamedContext::Image),
        ("src", NamedContext::Folder),
    ];
    let contexts = contexts.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
    let options = Options { contexts, ..Options::default() };
    let (graph, _, images) = plan_on(&busybox(), &Source::new("Dockerfile", text), &options).unwrap();
    let context: Vec<_> = images.into_iter().map(|request| request.context).collect();
    assert_eq!(context, [Some("docker.io/library/alpine:3".to_owned())]);
    assert!(!graph.steps.iter().any(|step| matches!(step.op, Op::Exec(_))));
    let folders = graph.steps.iter().filter(|step| matches!(step.op, Op::Context(_))).count();
    assert_eq!((folders, graph.steps.len()), (2, 6));
    // What a stage starts from is a tree, and a folder becomes one.
    assert!(matches!(&graph.steps[1].op, Op::Copy(copy) if copy.dest == "/"));
}

#[test]
fn the_result_has_the_platform_asked_for_and_its_labels() {
    let labels = vec![("a".to_owned(), "$X".to_owned())];
    let target_platform = "linux/arm/v7".parse().unwrap();
    let options = Options { labels, target_platform, ..Options::default() };
    let (graph, _, _) =
        plan_on(&busybox(), &Source::new("Dockerfile", "FROM a\nLABEL a=1 b=2"), &options).unwrap();
    let config = graph.target.config;
    assert_eq!(
        (config.os.as_str(), config.architecture.as_str(), config.variant.as_deref()),
        ("linux", "arm", Some("v7"))
    );
    assert_eq!(config.config.labels["a"], "$X");
    assert_eq!((config.created, config.history.len(), config.rootfs.diff_ids.len()), (None, 0, 0));
}

#[test]
fn unknown_frontends_are_noted() {
    let warnings = |line: &str| {
        let source = Source::new("Dockerfile", format!("{line}\nFROM scratch\n"));
        plan_on(&busybox(), &source, &Options::default()).unwrap().1.len()
    };
    assert_eq!(warnings("# syntax=docker/dockerfile:1.7-labs"), 0);
    assert_eq!(warnings("# syntax=example.com/other"), 1);
}
