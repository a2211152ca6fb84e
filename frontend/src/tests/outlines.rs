//! Outline, targets and SOURCE_DATE_EPOCH.

use std::collections::HashMap;

use crate::{Epoch, Options, PlanOutline, Source, outline, source_date_epoch, targets};

const TEXT: &str = "\
# BASE the image to build on
ARG BASE=scratch
ARG UNUSED=1
# build compiles
FROM $BASE AS build
# MODE debug or release
ARG MODE=debug
RUN --mount=type=secret,id=token,required --mount=type=ssh true
# image is what is shipped
FROM scratch AS image
ARG BASE
COPY --from=build / /
";

#[test]
fn outline_tells_what_the_target_takes() {
    let source = Source::new("Dockerfile", TEXT);
    let Ok(PlanOutline::Outline(outline)) = outline(&source, &Options::default(), &HashMap::new()) else {
        panic!()
    };
    let args: Vec<_> =
        outline.args.iter().map(|arg| (arg.name.as_str(), arg.value.as_str(), arg.lines.0)).collect();
    assert_eq!(args, [("BASE", "scratch", 2), ("MODE", "debug", 7)]);
    assert_eq!(outline.args[0].description.as_deref(), Some("the image to build on"));
    assert_eq!((outline.secrets[0].name.as_str(), outline.secrets[0].required), ("token", true));
    assert_eq!((outline.ssh[0].name.as_str(), outline.ssh[0].required), ("default", false));
    let json = outline.to_json();
    assert_eq!((&json["name"], &json["description"]), (&"image".into(), &"is what is shipped".into()));
    assert_eq!(json["secrets"][0]["required"], true);
    let text = outline.to_text();
    assert!(
        text.starts_with(
            "TARGET:      image\nDESCRIPTION: is what is shipped\n\nBUILD ARG   VALUE     DESCRIPTION\n"
        ),
        "{text}"
    );
}

#[test]
fn targets_are_the_stages() {
    let targets = targets(&Source::new("Dockerfile", TEXT)).unwrap();
    let json = targets.to_json();
    assert_eq!(
        (&json["targets"][0]["name"], &json["targets"][0]["base"]),
        (&"build".into(), &"$BASE".into())
    );
    assert_eq!(json["targets"][1]["default"], true);
    assert_eq!(
        targets.to_text(),
        "TARGET            DESCRIPTION\nbuild             compiles\nimage (default)   is what is shipped\n\n"
    );
}

#[test]
fn source_date_epoch_is_a_number_or_the_date_of_a_source() {
    let epoch = |text: &str, given: &str| {
        let build_args = match given {
            "-" => vec![],
            given => vec![("SOURCE_DATE_EPOCH".to_owned(), given.to_owned())],
        };
        let contexts = [("lib".to_owned(), crate::NamedContext::Folder)].into_iter().collect();
        let options = Options { build_args, contexts, ..Options::default() };
        source_date_epoch(&Source::new("Dockerfile", text), &options).map_err(|errors| errors.to_string())
    };
    assert_eq!(epoch("FROM scratch", "-"), Ok(None));
    assert_eq!(epoch("ARG SOURCE_DATE_EPOCH=5\nFROM scratch", "-"), Ok(Some(Epoch::Seconds(5))));
    assert_eq!(epoch("FROM scratch", "7"), Ok(Some(Epoch::Seconds(7))));
    assert_eq!(epoch("ARG SOURCE_DATE_EPOCH=5\nFROM scratch", ""), Ok(None));
    assert_eq!(epoch("ARG SOURCE_DATE_EPOCH=context\nFROM scratch", "-"), Ok(Some(Epoch::Context)));
    assert_eq!(epoch("FROM scratch", "lib"), Ok(Some(Epoch::Named("lib".into()))));
    let http = |url: &str| Ok(Some(Epoch::Http { url: url.into(), checksum: None }));
    assert_eq!(
        epoch("FROM scratch AS src\nARG V=1\nADD https://x/$V /\nFROM scratch", "SRC"),
        http("https://x/1")
    );
    let git = Epoch::Git { url: "https://x/y.git#main".into(), checksum: Some("abc".into()) };
    let text = "FROM scratch AS src\nADD --checksum=abc https://x/y.git#main /\n";
    assert_eq!(epoch(text, "src"), Ok(Some(git)));
    let refused = [
        ("FROM scratch AS src", "sec", "invalid SOURCE_DATE_EPOCH: sec"),
        ("FROM scratch AS src", "src", "exactly one remote ADD"),
        ("FROM a AS src", "src", "must use FROM scratch"),
        ("FROM scratch AS src\nADD a /", "src", "single HTTP(S) or Git ADD"),
        ("FROM scratch AS src\nADD https://x/a /\nADD https://x/b /", "src", "exactly one remote ADD"),
        ("FROM scratch AS src\nRUN x", "src", "nothing but ARG and one remote ADD"),
    ];
    for (text, given, expected) in refused {
        let error = epoch(text, given).err().unwrap_or_default();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
