//! The rules, one line each: the file, and what is found.

use std::collections::HashMap;

use super::busybox;
use crate::{Check, LintReport, Options, ResolvedImage, Source, lint};

fn report(text: &str, options: &Options) -> LintReport {
    let mut images = HashMap::new();
    loop {
        match lint(&Source::new("Dockerfile", text), options, &images) {
            Check::Report(report) => return report,
            Check::NeedImages(missing) => images.extend(missing.into_iter().map(|request| {
                let manifest = lithify_oci::Digest::of(&request.name);
                (request, ResolvedImage { manifest, config: busybox() })
            })),
        }
    }
}

fn check(text: &str, expected: &[(&str, usize)]) {
    let report = report(text, &Options::default());
    assert!(report.errors.is_empty(), "{text}: {:?}", report.errors);
    let found: Vec<(&str, usize)> = report.warnings.iter().map(|it| (it.rule.name(), it.lines.0)).collect();
    assert_eq!(found, expected, "{text}: {:#?}", report.warnings);
}

#[test]
fn rules() {
    check("FROM a AS b\nRUN x\nCMD [\"y\"]\n", &[]);
    check("FROM a AS Base\n", &[("StageNameCasing", 1)]);
    check("FROM a as b\n", &[("FromAsCasing", 1)]);
    check("FROM a\nRUN x \\\n\n  y\n", &[("NoEmptyContinuation", 2)]);
    check("FROM a\nRUN x\nrun y\n", &[("ConsistentInstructionCasing", 3)]);
    check("from a\nrun x\nRun y\n", &[("ConsistentInstructionCasing", 3)]);
    check("FROM a AS b\nFROM a AS b\n", &[("DuplicateStageName", 2)]);
    check("FROM a AS context\n", &[("ReservedStageName", 1)]);
    check("FROM a\nCMD x\nENTRYPOINT y\n", &[("JSONArgsRecommended", 2), ("JSONArgsRecommended", 3)]);
    check("FROM a\nSHELL [\"x\"]\nCMD x\n", &[]);
    check("FROM a\nMAINTAINER x\n", &[("MaintainerDeprecated", 2)]);
    check("ARG V=1\nFROM a:$V$W\n", &[("UndefinedArgInFrom", 2)]);
    check("FROM a\nWORKDIR x\nWORKDIR y\n", &[("WorkdirRelativePath", 2)]);
    check("FROM a AS b\nWORKDIR /x\nFROM b\nWORKDIR y\n", &[]);
    check("FROM a\nCOPY $SRC .\nENV A=$HOEM\n", &[("UndefinedVar", 2), ("UndefinedVar", 3)]);
    check("FROM a\nARG SRC\nCOPY $SRC .\n", &[]);
    check("FROM a\nCMD [\"x\"]\nCMD [\"y\"]\n", &[("MultipleInstructionsDisallowed", 2)]);
    check("FROM a AS b\nCMD [\"x\"]\nFROM b\nCMD [\"y\"]\n", &[]);
    check("FROM a\nENV a b\nLABEL c d\n", &[("LegacyKeyValueFormat", 2), ("LegacyKeyValueFormat", 3)]);
    check("FROM --platform=linux/s390x a AS on-s390x\n", &[("InvalidBaseImagePlatform", 1)]);
    check("FROM --platform=$TARGETPLATFORM a\n", &[("RedundantTargetPlatform", 1)]);
    check("FROM --platform=$BUILDPLATFORM a\n", &[]);
    check("FROM --platform=linux/amd64 a\n", &[("FromPlatformFlagConstDisallowed", 1)]);
    check(
        "FROM a\nENV API_KEY=1 PUBLIC_KEY=2 KEYBOARD=3\nARG token\n",
        &[("SecretsUsedInArgOrEnv", 2), ("SecretsUsedInArgOrEnv", 3)],
    );
    check("FROM a\nEXPOSE 80/TCP\nEXPOSE 1:2\n", &[("ExposeProtoCasing", 2), ("ExposeInvalidFormat", 3)]);
    check("# check=experimental=all\n# other\nFROM a AS b\n", &[("InvalidDefinitionDescription", 3)]);
    check("# check=experimental=all\n# b what it is\nFROM a AS b\n", &[]);
}

#[test]
fn notes_are_about_what_does_nothing() {
    check("FROM a\nARG --x y\nARG z\n", &[("FlagIgnored", 2)]);
    check(
        "FROM a\nSTOPSIGNAL --x 9\nHEALTHCHECK --retries=1 NONE\n",
        &[("FlagIgnored", 2), ("FlagIgnored", 3)],
    );
    check("FROM a\nHEALTHCHECK --retries=1 CMD [\"x\"]\n", &[]);
    check(
        "FROM a\nONBUILD RUM x\nONBUILD RUN x\nONBUILD COPY x\n",
        &[("InvalidTrigger", 2), ("InvalidTrigger", 4)],
    );
    check("# check=error=true\nFROM a\nARG --x y\n", &[("FlagIgnored", 3)]);
    let planned = |text| super::plan_on(&busybox(), &Source::new("Dockerfile", text), &Options::default());
    assert!(planned("# check=error=true\nFROM a\nARG --x y\n").is_ok(), "a note fails no build");
    let used = planned("FROM a AS b\nONBUILD RUM x\nFROM b\n").err().unwrap_or_default();
    assert!(used.to_string().contains("unknown instruction: RUM"), "{used}");
    let contexts = [("b".to_owned(), crate::NamedContext::Layout)].into_iter().collect();
    let found = report("FROM a AS b\n", &Options { contexts, ..Options::default() });
    assert_eq!(found.warnings[0].rule.name(), "ContextHidden");
}

#[test]
fn skipping() {
    check("# check=skip=all\nFROM a AS B\nMAINTAINER x\n", &[]);
    check(
        "# check=skip=StageNameCasing;error=true\nFROM a AS B\nMAINTAINER x\n",
        &[("MaintainerDeprecated", 3)],
    );
    check(
        "FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER x\nMAINTAINER y\n",
        &[("MaintainerDeprecated", 4)],
    );
    let build_args = vec![("BUILDKIT_DOCKERFILE_CHECK".to_owned(), "skip=StageNameCasing".to_owned())];
    let options = Options { build_args, ..Options::default() };
    assert!(report("FROM a AS B", &options).is_clean());
}

#[test]
fn defaults_must_name_an_image() {
    let build_args = vec![("V".to_owned(), "x".to_owned())];
    let options = Options { build_args, ..Options::default() };
    let found = report("ARG V\nFROM a:$V", &options);
    assert_eq!(found.warnings[0].rule.name(), "InvalidDefaultArgInFrom");
}

#[test]
fn suggestions() {
    let found = report("ARG VERSION=1\nFROM a:1$VERSOIN\nENV ABC=1 D=x\nLABEL a=$ABD\n", &Options::default());
    let messages: Vec<&str> = found.warnings.iter().map(|it| it.message.as_str()).collect();
    assert_eq!(messages[0], "FROM argument 'VERSOIN' is not declared (did you mean VERSION?)");
    assert_eq!(messages.last(), Some(&"Usage of undefined variable '$ABD' (did you mean $ABC?)"));
}

#[test]
fn ignored_sources() {
    let ignored = crate::Ignored(std::sync::Arc::new(|path: &str| path.starts_with("out")));
    let options = Options { ignored: Some(ignored), ..Options::default() };
    let found = report("FROM a AS b\nFROM a\nCOPY ./out/x in /\nCOPY --from=b out /\nADD out /\n", &options);
    assert!(found.errors.is_empty(), "{:?}", found.errors);
    let lines: Vec<usize> = found.warnings.iter().map(|it| it.lines.0).collect();
    assert_eq!(lines, [3, 5]);
}

#[test]
fn json_has_the_shape_of_buildkit() {
    let json = report("FROM a AS B\nRUM x\n", &Options::default()).to_json();
    assert_eq!(json["buildError"]["message"], "unknown instruction: RUM (did you mean RUN?)");
    let json = report("FROM a AS B\nRUN x\n", &Options::default()).to_json();
    assert_eq!(json["warnings"][0]["ruleName"], "StageNameCasing");
    assert_eq!(json["warnings"][0]["detail"], "Stage name 'B' should be lowercase");
    assert_eq!(json["warnings"][0]["url"], "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/");
    assert_eq!(json["warnings"][0]["location"]["ranges"][0]["start"]["line"], 1);
    assert_eq!(json["sources"][0]["data"], "RlJPTSBhIEFTIEIKUlVOIHgK");
    assert!(json.get("buildError").is_none());
}

#[test]
fn sarif_has_rules_and_regions() {
    let sarif = report("FROM a AS B\nRUN x\n", &Options::default()).to_sarif("1.2.3");
    let run = &sarif["runs"][0];
    assert_eq!((&sarif["version"], &run["tool"]["driver"]["version"]), (&"2.1.0".into(), &"1.2.3".into()));
    assert_eq!(run["results"][0]["ruleId"], "StageNameCasing");
    let region = &run["results"][0]["locations"][0]["physicalLocation"]["region"];
    assert_eq!((&region["startLine"], &region["endColumn"]), (&1.into(), &12.into()));
    assert_eq!(run["tool"]["driver"]["rules"].as_array().map(Vec::len), Some(25));
}
