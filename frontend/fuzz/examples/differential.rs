//! Compares this parser with the crate `parse-dockerfile` over every file of a folder: what each accepts, and what it
//! understands, instruction by instruction. Prints each disagreement, the classes with their counts, and the time taken.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use lithify_frontend::{CommandLine, Kind, Options, Plan, ResolvedImage, Source, Transfer, parse, plan};
use lithify_oci::Digest;
use parse_dockerfile::{Command, HealthcheckArguments, Instruction, JsonOrStringArray};

/// Files that take longer are told of.
const SLOW: Duration = Duration::from_millis(20);

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let mut paths: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    paths.sort_by_key(|entry| entry.file_name());
    let mut classes: BTreeMap<String, usize> = BTreeMap::new();
    let (mut ours_took, mut lines, mut instructions) = (Duration::ZERO, 0, 0);
    for entry in &paths {
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = std::fs::read(entry.path())?;
        lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        let source = Source::new(&name, bytes);
        let start = Instant::now();
        let (dockerfile, errors) = parse(&source);
        let took = start.elapsed();
        ours_took += took;
        let start = Instant::now();
        let refused = planned(&source);
        let planning = start.elapsed();
        if took + planning > SLOW {
            println!("{name}: parsed in {took:?}, planned in {planning:?}");
        }
        if let (true, Some(refused)) = (errors.is_empty(), refused) {
            println!("{name}: not planned: {refused}");
            *classes.entry("parsed but not planned".into()).or_default() += 1;
        }
        instructions += dockerfile.instructions.len();
        let text = String::from_utf8_lossy(&source.text);
        let class = match (errors.first(), parse_dockerfile::parse(&text)) {
            (None, Ok(theirs)) => {
                let ours: Vec<String> =
                    dockerfile.instructions.iter().map(|it| our(&it.kind, &it.code)).collect();
                let theirs: Vec<String> = theirs.instructions.iter().map(|it| their(it)).collect();
                match ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs) {
                    None if ours.len() == theirs.len() => "same".to_owned(),
                    None => "another number of instructions".to_owned(),
                    Some(at) => {
                        println!("{name}: instruction {at}\n  ours   {}\n  theirs {}", ours[at], theirs[at]);
                        format!("understood differently: {}", ours[at].split(' ').next().unwrap_or_default())
                    }
                }
            }
            (Some(error), Ok(_)) => {
                println!("{name}: only we refuse it: {error}");
                "only we refuse it".into()
            }
            (None, Err(error)) => {
                println!("{name}: only they refuse it: {error}");
                format!(
                    "only they refuse it: {}",
                    error.to_string().split(" at line").next().unwrap_or_default()
                )
            }
            (Some(error), Err(_)) => {
                println!("{name}: both refuse it: {error}");
                "both refuse it".into()
            }
        };
        *classes.entry(class).or_default() += 1;
    }
    println!(
        "{} files, {lines} lines, {instructions} instructions; our parser took {ours_took:?}",
        paths.len()
    );
    for (class, count) in classes {
        println!("{count:6} {class}");
    }
    Ok(())
}

/// Plans with an empty image for every one that is asked for; the errors, if there are any.
fn planned(source: &Source) -> Option<String> {
    let image =
        r#"{ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } }"#;
    let mut images = HashMap::new();
    loop {
        match plan(source, &Options::default(), &images) {
            Ok(Plan::Graph { .. }) => return None,
            Ok(Plan::NeedImages(missing)) => images.extend(missing.into_iter().map(|request| {
                let manifest = Digest::of(request.name.as_bytes());
                (request, ResolvedImage { manifest, config: serde_json::from_str(image).unwrap_or_default() })
            })),
            Err(errors) => return Some(errors.to_string()),
        }
    }
}

/// Without white space, quotes and escapes, which the other parser partly keeps.
fn bare(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'' | '\\' | '`')).collect()
}

fn behind_keyword(code: &str) -> &str {
    code.split_once(char::is_whitespace).map_or("", |(_, rest)| rest)
}

fn our(kind: &Kind, code: &str) -> String {
    let arguments = || bare(behind_keyword(code));
    let command = |line: &CommandLine| match line.json {
        true => format!("exec {}", bare(&line.words.join(" "))),
        false => format!("shell {}", bare(&line.words.join(" "))),
    };
    let transfer = |transfer: &Transfer| {
        let sources: Vec<String> = transfer.sources.iter().map(|word| bare(&word.text)).collect();
        let bodies = transfer.heredocs.iter().map(|it| String::from_utf8_lossy(&it.body).into_owned());
        format!("{sources:?} {:?} {}", bodies.collect::<Vec<_>>(), bare(&transfer.dest.text))
    };
    match kind {
        Kind::Add(add) => format!("ADD {}", transfer(&add.transfer)),
        Kind::Arg(_) => format!("ARG {}", arguments()),
        Kind::Cmd(line) => format!("CMD {}", command(line)),
        Kind::Copy(copy) => format!("COPY {}", transfer(&copy.transfer)),
        Kind::Entrypoint(line) => format!("ENTRYPOINT {}", command(line)),
        Kind::Env(_) => format!("ENV {}", arguments()),
        Kind::Expose(_) => format!("EXPOSE {}", arguments()),
        Kind::From(from) => {
            let name = from.name.as_ref().map(|name| name.text.clone());
            format!("FROM {} {name:?}", bare(&from.image.text))
        }
        Kind::Healthcheck(check) => format!("HEALTHCHECK {}", bare(&check.test.join(" "))),
        Kind::Label(_) => format!("LABEL {}", arguments()),
        Kind::Maintainer(_) => "MAINTAINER".into(),
        Kind::Onbuild(_) => "ONBUILD".into(),
        Kind::Run(run) => {
            let bodies = run.heredocs.iter().map(|it| String::from_utf8_lossy(&it.body).into_owned());
            let line = if run.heredocs.is_empty() { command(&run.command) } else { String::new() };
            format!("RUN {:?} {line}", bodies.collect::<Vec<_>>())
        }
        Kind::Shell(words) => format!("SHELL {}", bare(&words.join(" "))),
        Kind::StopSignal(word) => format!("STOPSIGNAL {}", bare(&word.text)),
        Kind::User(word) => format!("USER {}", bare(&word.text)),
        Kind::Volume(words) => {
            let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
            format!("VOLUME {}", bare(&words.join(" ")))
        }
        Kind::Workdir(word) => format!("WORKDIR {}", bare(&word.text)),
        Kind::Invalid => "INVALID".into(),
    }
}

fn their(instruction: &Instruction<'_>) -> String {
    let command = |command: &Command<'_>| match command {
        Command::Exec(words) => {
            let words: Vec<&str> = words.value.iter().map(|word| &*word.value).collect();
            format!("exec {}", bare(&words.join(" ")))
        }
        // They keep comments between the lines of a command.
        Command::Shell(text) => {
            let lines = text.value.lines().filter(|line| !line.trim_start().starts_with('#'));
            format!("shell {}", bare(&lines.collect::<String>()))
        }
        _ => "another form".into(),
    };
    let transfer = |sources: &[parse_dockerfile::Source<'_>], dest: &str| {
        let (mut paths, mut bodies) = (vec![], vec![]);
        for source in sources {
            match source {
                parse_dockerfile::Source::Path(path) => paths.push(bare(&path.value)),
                parse_dockerfile::Source::HereDoc(heredoc) => bodies.push(heredoc.value.to_string()),
                _ => {}
            }
        }
        format!("{paths:?} {bodies:?} {}", bare(dest))
    };
    let words = |words: &[parse_dockerfile::UnescapedString<'_>]| {
        bare(&words.iter().map(|word| &*word.value).collect::<Vec<_>>().join(" "))
    };
    match instruction {
        Instruction::Add(it) => format!("ADD {}", transfer(&it.src, &it.dest.value)),
        Instruction::Arg(it) => format!("ARG {}", bare(&it.arguments.value)),
        Instruction::Cmd(it) => format!("CMD {}", command(&it.arguments)),
        Instruction::Copy(it) => format!("COPY {}", transfer(&it.src, &it.dest.value)),
        Instruction::Entrypoint(it) => format!("ENTRYPOINT {}", command(&it.arguments)),
        Instruction::Env(it) => format!("ENV {}", bare(&it.arguments.value)),
        Instruction::Expose(it) => format!("EXPOSE {}", words(&it.arguments)),
        Instruction::From(it) => {
            let name = it.as_.as_ref().map(|(_, name)| name.value.to_lowercase());
            format!("FROM {} {name:?}", bare(&it.image.value))
        }
        Instruction::Healthcheck(it) => match &it.arguments {
            HealthcheckArguments::Cmd { arguments: Command::Exec(_), .. } => {
                let HealthcheckArguments::Cmd { arguments, .. } = &it.arguments else { unreachable!() };
                format!("HEALTHCHECK CMD{}", command(arguments).trim_start_matches("exec "))
            }
            HealthcheckArguments::Cmd { arguments, .. } => {
                format!("HEALTHCHECK CMD-SHELL{}", command(arguments).trim_start_matches("shell "))
            }
            _ => "HEALTHCHECK NONE".into(),
        },
        Instruction::Label(it) => format!("LABEL {}", bare(&it.arguments.value)),
        Instruction::Maintainer(_) => "MAINTAINER".into(),
        Instruction::Onbuild(_) => "ONBUILD".into(),
        Instruction::Run(it) => {
            let bodies: Vec<String> = it.here_docs.iter().map(|it| it.value.to_string()).collect();
            let line = if bodies.is_empty() { command(&it.arguments) } else { String::new() };
            format!("RUN {bodies:?} {line}")
        }
        Instruction::Shell(it) => format!("SHELL {}", words(&it.arguments)),
        Instruction::Stopsignal(it) => format!("STOPSIGNAL {}", bare(&it.arguments.value)),
        Instruction::User(it) => format!("USER {}", bare(&it.arguments.value)),
        Instruction::Volume(it) => match &it.arguments {
            JsonOrStringArray::Json(json) => format!("VOLUME {}", words(&json.value)),
            JsonOrStringArray::String(list) => format!("VOLUME {}", words(list)),
        },
        Instruction::Workdir(it) => format!("WORKDIR {}", bare(&it.arguments.value)),
        _ => "another instruction".into(),
    }
}
