//! What is wrong with a file, where, and what is proposed.

use super::errors;
use crate::{Options, Source, parse, render};

/// A file has exactly one error, which points at `words` and has this message and help.
fn check(text: &str, words: &str, message: &str, help: Option<&str>) {
    let found = errors(text, &Options::default());
    assert_eq!(found.len(), 1, "{text}: {found:#?}");
    let error = &found[0];
    let span = error.span.unwrap_or_default();
    assert_eq!(&text[span.start..span.end], words, "{text}: {error:?}");
    assert!(error.message.contains(message), "{text}: {error:?}");
    assert_eq!(error.help.as_deref(), help, "{text}: {error:?}");
}

#[test]
fn errors_point_at_the_words() {
    check("FROM a\nRUM x", "RUM", "unknown instruction: RUM", Some("did you mean RUN?"));
    check("from a\nworkdri x", "workdri", "unknown instruction: workdri", Some("did you mean WORKDIR?"));
    check("FROM a\nCOPY --chonw=1 a b", "--chonw=1", "unknown flag: --chonw", Some("did you mean --chown?"));
    check("FROM a\nCOPY --link --link a b", "--link", "duplicate flag specified: --link", None);
    check("FROM a\nCOPY --link=maybe a b", "--link=maybe", "expecting boolean value for flag --link", None);
    check("FROM a\nCOPY --link= a b", "--link=", "missing a value on flag: --link", None);
    check("FROM a\nCOPY --from a b", "--from", "missing a value on flag: --from", None);
    check("FROM a\nENV --x y=1", "--x", "unknown flag: --x", None);
    check("FROM a b", "a b", "FROM requires either one or three arguments", None);
    check("FROM a IN b", "IN", "FROM requires either one or three arguments", None);
    check("FROM scratch AS 1st", "1st", "invalid name for build stage: \"1st\"", None);
    check("FROM a\nENV a=1 b", "b", "can't find = in \"b\"", None);
    check("FROM a\nENV a", "a", "ENV must have two arguments", None);
    check("FROM a\nENV", "ENV", "ENV requires at least one argument", None);
    check("FROM a\nARG =x", "=x", "ARG names can not be blank", None);
    check("FROM a\nEXPOSE 1 x", "x", "invalid containerPort: x", None);
    check("FROM a\nEXPOSE 70000", "70000", "invalid containerPort", None);
    check("FROM a\nCMD [1]", "[1]", "comprised of strings only", Some("put each element in double quotes"));
    check("FROM a\nRUN []", "[]", "RUN requires a command", None);
    check("FROM a\nHEALTHCHECK CMD", "HEALTHCHECK", "Missing command after HEALTHCHECK CMD", None);
    check("FROM a\nHEALTHCHECK --interval=1 CMD x", "--interval=1", "invalid duration", None);
    check("FROM a\nHEALTHCHECK --timeout=1us CMD x", "--timeout=1us", "cannot be less than 1ms", None);
    check("FROM a\nSTOPSIGNAL SIGTREM", "SIGTREM", "invalid signal: SIGTREM", Some("did you mean TERM?"));
    check(
        "FROM a\nRUN --mount=type=cash,target=/x true",
        "--mount=type=cash,target=/x",
        "unsupported mount type \"cash\"",
        Some("did you mean cache?"),
    );
    check(
        "FROM a\nRUN --mount=targte=/x true",
        "--mount=targte=/x",
        "unexpected key 'targte'",
        Some("did you mean target?"),
    );
    check("FROM a\nRUN --mount=target=/ true", "--mount=target=/", "invalid mount target", None);
    check(
        "FROM a\nRUN --mount=mode=1,target=/x true",
        "--mount=mode=1,target=/x",
        "mode not allowed for \"bind\"",
        None,
    );
    check(
        "FROM a\nRUN --mount=from=$X,target=/x true",
        "--mount=from=$X,target=/x",
        "doesn't support variable expansion",
        None,
    );
    check(
        "FROM a\nRUN --network=non true",
        "--network=non",
        "invalid network mode",
        Some("did you mean none?"),
    );
    check("FROM a\nCOPY --chmod=999 a b", "--chmod=999", "invalid chmod parameter: '999'", None);
    check("FROM a\nCOPY --chmod=u=rwz a b", "--chmod=u=rwz", "invalid chmod parameter", None);
    check("FROM a\nCOPY https://x/y /z", "https://x/y", "source can't be a URL for COPY", Some("use ADD"));
    check(
        "FROM a\nADD --checksum=sha256:12 https://x/y /z",
        "--checksum=sha256:12",
        "invalid --checksum",
        None,
    );
    check("FROM a\nLABEL a=1 b=${X:=y}", "${X:=", "unsupported modifier (:=)", None);
    check("FROM a\nLABEL a=\"open", "\"open", "matching double-quote", None);
    check(
        "FROM a AS base\nFROM Base",
        "Base",
        "failed to parse stage name \"Base\"",
        Some("did you mean base?"),
    );
    check(
        "ARG BASE=x\nFROM $BSAE",
        "$BSAE",
        "base name ($BSAE) should not be blank",
        Some("did you mean BASE?"),
    );
    check(
        "FROM --platform=what/is/this/then a",
        "--platform=what/is/this/then",
        "failed to parse platform",
        None,
    );
    check("RUN x\nFROM a", "RUN", "must come after FROM", None);
    check("FROM a\nONBUILD FROM b", "FROM", "FROM isn't allowed as an ONBUILD trigger", None);
    check("FROM a\nCOPY <<a/b /x\na/b\n", "<<a/b", "cannot hold a slash", None);
    check("FROM a\nCOPY a <<x\nx\n", "<<x", "cannot accept a heredoc as a destination", None);
    check("# escape=x\nFROM a", "x", "invalid escape token 'x'", None);
    check("# escape=`\n# escape=`\nFROM a", "# escape=`", "only one escape parser directive", None);
    check("# check=bogus\nFROM a", "bogus", "invalid check option \"bogus\"", None);
    check(
        "FROM a\nCOPY \\\n  --form=x \\\n  a b",
        "--form=x",
        "unknown flag: --form",
        Some("did you mean --from?"),
    );
}

#[test]
fn every_error_at_once() {
    let text = "FROM a\nRUM x\nCOPY y\nRUN --wibble z\nEXPOSE\n";
    let found = errors(text, &Options::default());
    let messages: Vec<&str> = found.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(messages.len(), 4, "{messages:?}");
    let text = "FROM a\nENV A=${\nLABEL b=${C?needed}\nARG =x\nCOPY --chmod=9 a b\nEXPOSE 1/icmp\nUSER \"x\n";
    assert_eq!(errors(text, &Options::default()).len(), 5);
}

#[test]
fn a_wrong_target_is_named() {
    let options = Options { target: Some("bulid".into()), ..Options::default() };
    let found = errors("FROM a AS build", &options);
    assert_eq!(found[0].to_string(), "target stage \"bulid\" could not be found (did you mean build?)");
}

#[test]
fn warnings_fail_the_build_when_asked_to() {
    let found = errors("# check=error=true\nFROM a AS B\n", &Options::default());
    assert_eq!(found[0].message, "lint violation found for rules: StageNameCasing");
}

#[test]
fn rendering_shows_the_line() {
    let source = Source::new("app/Dockerfile", "\u{feff}FROM a\n\tENV \u{e9}=1 b\r\n");
    let (_, found) = parse(&source);
    let expected = "\
error: Syntax error - can't find = in \"b\". Must be of the form: name=value
  --> app/Dockerfile:2:10
   |
 2 |  ENV \u{e9}=1 b
   |          ^ expected name=value
";
    assert_eq!(render(&source, &found[0], false), expected);
    let coloured = render(&source, &found[0], true);
    assert!(coloured.contains("\x1b["));
}

#[test]
fn rendering_cuts_long_lines_and_control_characters() {
    let source = Source::new("Dockerfile", format!("FROM a\nRUN --wib\x1b[31mble {}", "x".repeat(5000)));
    let (_, found) = parse(&source);
    let text = render(&source, &found[0], false);
    assert!(!text.contains('\x1b') && text.lines().all(|line| line.chars().count() < 250), "{text}");
}

#[test]
fn bytes_that_are_no_text_count_as_buildkit_counts_them() {
    let planned =
        |text: &[u8]| super::plan_on(&super::busybox(), &Source::new("f", text), &Options::default());
    let accepted: [&[u8]; 7] = [
        b"# \xe9\nFROM a\nRUN x \\\n# \xe9\n y",
        b"FROM a\nENV A=\xe9 B=$A",
        b"FROM a\nLABEL a=\xe9\nMAINTAINER \xe9",
        b"FROM a\nCMD echo \xe9",
        b"FROM a\nRUN [\"\xe9\"]",
        b"FROM a\nCOPY <<E /x\n\xe9\nE",
        b"FROM a\nWORKDIR /\xe9",
    ];
    for text in accepted {
        assert!(planned(text).is_ok(), "{}", text.escape_ascii());
    }
    let (graph, ..) = planned(b"FROM a\nENV A=x\xe9y").unwrap_or_else(|errors| panic!("{errors}"));
    assert!(graph.target.config.config.env.contains(&"A=x\u{fffd}y".to_owned()));
    for text in [&b"FROM a\nRUN echo \xe9"[..], b"FROM a\nRUN <<E\n\xe9\nE"] {
        let errors = planned(text).err().unwrap_or_default();
        assert!(errors.to_string().contains("not valid UTF-8"), "{errors}");
    }
    // Found by fuzzing: what is replaced is longer than what stands in the file.
    let source = Source::new("f", &b"FROM a\nENTR\x85\x85 tar"[..]);
    let (_, errors) = parse(&source);
    assert_eq!(errors[0].span.map(|span| (span.start, span.end)), Some((7, 13)));
}

#[test]
fn errors_of_triggers_point_at_from() {
    // Found by fuzzing: they pointed to where the words stand in the trigger.
    for trigger in ["COPY --from=$X a b", "RUN --mount=type=x y", "ENV A=\"", "COPY --from=9 a b"] {
        let text = format!("FROM a AS b\nONBUILD {trigger}\n# FROM b\nFROM b\n");
        let found = errors(&text, &Options::default());
        let places: Vec<&str> =
            found.iter().filter_map(|it| it.span).map(|span| &text[span.start..span.end]).collect();
        assert_eq!(places, ["FROM b"], "{text}: {found:?}");
        assert_eq!(found[0].span.map(|span| span.end), Some(text.len() - 1));
    }
}

#[test]
fn suggestions_do_not_depend_on_chance() {
    // Found by fuzzing: of names that are equally near it was the one that a hash table had first.
    let text = "FROM a\nARG AB=1 AC=1 AD=1 AE=1 AF=1\nLABEL a=$AX\n";
    let said = || match super::plan_on(&super::busybox(), &Source::new("f", text), &Options::default()) {
        Ok((_, warnings, _)) => warnings.into_iter().map(|warning| warning.message).collect::<Vec<_>>(),
        Err(errors) => panic!("{errors}"),
    };
    for _ in 0..20 {
        assert_eq!(said(), ["Usage of undefined variable '$AX' (did you mean $AB?)"]);
    }
}
