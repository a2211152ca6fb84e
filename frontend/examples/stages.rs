//! Prints the stages of a Dockerfile: `cargo run -p lithify-frontend --example stages -- Dockerfile`.

use std::process::ExitCode;

use lithify_frontend::{Source, parse, render};

#[expect(clippy::disallowed_methods, reason = "the library is handed what its caller reads")]
fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: stages DOCKERFILE");
        return ExitCode::from(2);
    };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let source = Source::new(path, text);
    let (dockerfile, errors) = parse(&source);
    for stage in dockerfile.stages() {
        let name = stage.name().map_or_else(|| stage.number.to_string(), str::to_owned);
        println!("{name}: from {}, {} instructions", stage.from.image.text, stage.body.len());
        for instruction in stage.body {
            println!("  {:>4}  {}", instruction.lines.0, instruction.code);
        }
    }
    for error in &errors {
        eprint!("{}", render(&source, error, false));
    }
    if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
