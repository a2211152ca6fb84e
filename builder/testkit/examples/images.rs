//! Looks at images from a shell, with the tests' own eyes:
//!
//! `cargo run -p lithify-testkit --example images -- show IMAGE.tar` prints what a conformance case would record;
//! `… diff A.tar B.tar` names the first difference; `… validate IMAGE.tar` recomputes digests, sizes and diffIDs.

use std::path::Path;
use std::process::ExitCode;

use lithify_testkit::{Image, describe::Bases, diff};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["show", image] => show(image),
        ["diff", one, other] => differ(one, other),
        ["validate", image] => open(image).and_then(|image| image.validate()).map(|()| "sound".to_owned()),
        _ => {
            Err(std::io::Error::other("usage: images show IMAGE.tar | diff A.tar B.tar | validate IMAGE.tar"))
        }
    };
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(err) => {
            eprintln!("images: {err}");
            ExitCode::FAILURE
        }
    }
}

fn open(path: &str) -> std::io::Result<Image> {
    let path = Path::new(path);
    if path.is_dir() { Image::from_layout(path) } else { Image::from_archive(path) }
}

fn show(image: &str) -> std::io::Result<String> {
    let bases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/conformance/base");
    let described = Bases::read(&bases)?.describe(&open(image)?)?;
    serde_json::to_string_pretty(&described).map_err(Into::into)
}

fn differ(one: &str, other: &str) -> std::io::Result<String> {
    Ok(diff::explain(&open(one)?, &open(other)?)?.unwrap_or_else(|| "the same".to_owned()))
}
