//! Outline, targets and SOURCE_DATE_EPOCH.

use std::collections::HashMap;

use crate::{Options, PlanOutline, Source, outline, source_date_epoch, targets};

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
fn source_date_epoch_comes_from_arguments() {
    let epoch = |text: &str, args: &[(&str, &str)]| {
        let build_args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        source_date_epoch(&Source::new("Dockerfile", text), &Options { build_args, ..Options::default() })
    };
    assert_eq!(epoch("FROM scratch", &[]), None);
    assert_eq!(epoch("ARG SOURCE_DATE_EPOCH=5\nFROM scratch", &[]).as_deref(), Some("5"));
    assert_eq!(epoch("FROM scratch", &[("SOURCE_DATE_EPOCH", "7")]).as_deref(), Some("7"));
    assert_eq!(epoch("ARG SOURCE_DATE_EPOCH=5\nFROM scratch", &[("SOURCE_DATE_EPOCH", "")]), None);
}
