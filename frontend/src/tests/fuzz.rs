//! No input makes the frontend panic, and none makes it slow.

#![expect(clippy::disallowed_types, reason = "the tests measure how long parsing takes")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{busybox, plan_on};
use crate::expand::{Lexer, NoVariables};
use crate::pattern::Pattern;
use crate::{Options, Source, lint, outline, parse, plan, render, targets};

/// Pieces that Dockerfiles are made of, and pieces that break them.
const PIECES: [&str; 62] = [
    "FROM scratch",
    "FROM a AS b",
    "FROM --platform=$X ${Y:-scratch} AS",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "CMD ",
    "SHELL ",
    "EXPOSE ",
    "VOLUME ",
    "USER ",
    "WORKDIR ",
    "STOPSIGNAL ",
    "MAINTAINER ",
    "ENTRYPOINT ",
    "--mount=",
    "type=cache,target=/x",
    "--from=b",
    "--chmod=",
    "<<EOF",
    "<<-'E'",
    "EOF",
    "E",
    "[\"a\"]",
    "[1]",
    "[",
    "]",
    "$",
    "${",
    "}",
    "${A:-",
    "${A//",
    "/",
    "#",
    "%",
    "?",
    "*",
    "\\",
    "`",
    "\"",
    "'",
    "=",
    "a=b",
    " ",
    "\t",
    "\n",
    "\r\n",
    "# escape=`\n",
    "# check=skip=all\n",
    "# ",
    "\u{feff}",
    "\u{e9}",
    "\u{1f600}",
    "\0",
    ",",
    "80-90/tcp",
    "https://x/y.git#a:b",
];

/// Everything that can be done with a text.
fn exercise(bytes: &[u8]) {
    let source = Source::new("Dockerfile", bytes);
    let (_, errors) = parse(&source);
    for error in &errors {
        render(&source, error, true);
    }
    let options = Options::default();
    if let Err(errors) = plan_on(&busybox(), &source, &options) {
        errors.0.iter().for_each(|error| drop(render(&source, error, false)));
    }
    let _ = plan(&source, &options, &HashMap::new());
    if let crate::Check::Report(report) = lint(&source, &options, &HashMap::new()) {
        report.to_json();
        report.to_sarif("0");
    }
    let _ = outline(&source, &options, &HashMap::new());
    let _ = targets(&source);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        exercise(&bytes);
    }

    #[test]
    fn pieces_do_not_panic(pieces in proptest::collection::vec(0..PIECES.len(), 0..60)) {
        let text: String = pieces.iter().map(|index| PIECES[*index]).collect();
        exercise(text.as_bytes());
        exercise(format!("FROM scratch\n{text}").as_bytes());
    }

    #[test]
    fn words_do_not_panic(text in "[a${}:/#%?*\\\\'\"< -]{0,40}") {
        let _ = Lexer::new('\\').expand(&text, &NoVariables);
        let _ = Lexer::heredoc_body().expand(&text, &NoVariables);
        if let Ok(pattern) = Pattern::parse(&text) {
            let _ = pattern.without_prefix(&text, true);
            let _ = pattern.without_suffix(&text, false);
            let _ = pattern.replace_all(&text, "$0$1", 1 << 16);
        }
    }
}

#[test]
fn hostile_texts_end_soon() {
    let deep = format!("FROM scratch\nLABEL a={}x{}\n", "${A:-".repeat(9000), "}".repeat(9000));
    let doubling: String = (0..64).map(|n| format!("ENV A{}=$A{n}$A{n}\n", n + 1)).collect();
    let stars =
        format!("FROM scratch\nENV V={}\nLABEL a=${{V##{}b}}\n", "a".repeat(20000), "*a".repeat(1000));
    let texts = [
        deep,
        format!("FROM scratch\nENV A0=xxxxxxxxxxxxxxxx\n{doubling}"),
        stars,
        "FROM scratch\n".repeat(20000),
        "FROM scratch AS a\nFROM a AS b\n".repeat(5000),
        format!("FROM scratch\nRUN {}\n", "<<A ".repeat(16000)),
        format!("FROM scratch\nCMD {}\n", "[".repeat(60000)),
        "ONBUILD ".repeat(8000),
        "FROM scratch\nRUN \\\n".repeat(20000),
        // Each name was compared with all others to suggest one.
        (0..20_000).fold("FROM scratch\n".to_owned(), |text, n| text + &format!("ENV A{n}=$B{n}\n")),
    ];
    for text in texts {
        let start = Instant::now();
        exercise(text.as_bytes());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}: {:?}...", &text[..40]);
    }
}

#[test]
fn long_files_parse_quickly() {
    let mut text = String::from("FROM scratch AS base\n");
    while text.lines().count() < 20_000 {
        text +=
            "RUN --mount=type=cache,target=/c apt-get update && \\\n    apt-get install -y curl # comment\n";
        text += "COPY --from=base --chown=1:2 a \"b c\" /dest/\nENV A=1 B=\"$A two\" C=${B:-x}\n# remark\nLABEL k=v\n".repeat(400).as_str();
    }
    let source = Source::new("Dockerfile", text);
    let start = Instant::now();
    let (dockerfile, errors) = parse(&source);
    let took = start.elapsed();
    assert!(errors.is_empty() && dockerfile.instructions.len() > 10_000);
    // 50 ms are asked for of a release build; this one may be unoptimised, and the machine busy.
    let limit = if cfg!(debug_assertions) { Duration::from_secs(3) } else { Duration::from_millis(50) };
    assert!(took < limit, "{took:?}");
}
