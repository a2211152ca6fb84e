//! Build contexts that are not folders of this machine.

use std::path::Path;
use std::sync::Arc;

use lithify_frontend::Source as Text;

use super::dockerfile::{Inputs, find, stdin};
use crate::args;
use crate::downloads;
use crate::exit::{self, Problem};
use crate::sources::{MainContext, runtime};

/// A Dockerfile on standard input comes without files.
pub(super) fn from_stdin(arguments: &args::Dockerfile, input: Vec<u8>) -> Result<Inputs, Problem> {
    if is_archive(&input) {
        let message =
            "an archive on standard input is not supported as a build context yet; unpack it into a folder";
        return Err(Problem::new(exit::USAGE, message));
    }
    if arguments.file.is_some() {
        let message = "--file names a Dockerfile, and standard input is one too; use a folder as the context";
        return Err(Problem::new(exit::USAGE, message));
    }
    Ok(Inputs { text: Text { name: "<stdin>".into(), text: input }, context: MainContext::Empty })
}

/// A repository with a Dockerfile in it.
pub(super) fn from_git(arguments: &args::Dockerfile, url: &str) -> Result<Inputs, Problem> {
    let source = downloads::git(&runtime()?, url, true, false, None)
        .map_err(|error| Problem::new(exit::SOURCE, error.message))?;
    let folder =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&source.root)));
    let folder = folder.map_err(|error| Problem::caused(exit::SOURCE, "cannot read the checkout", &error))?;
    let text = if arguments.file.as_deref() == Some(Path::new("-")) {
        Text { name: "<stdin>".into(), text: stdin()? }
    } else {
        let path = find(&folder, arguments.file.as_ref().map(|file| folder.join(file)).as_deref())?;
        let text = std::fs::read(&path);
        let text =
            text.map_err(|error| Problem::caused(exit::USAGE, "cannot read the Dockerfile", &error))?;
        Text { name: path.strip_prefix(&folder).unwrap_or(&path).display().to_string(), text }
    };
    Ok(Inputs { text, context: MainContext::Fetched(Arc::new(source)) })
}

/// A Dockerfile on an HTTP server.
pub(super) fn from_url(_arguments: &args::Dockerfile, url: &str) -> Result<Inputs, Problem> {
    let message = format!(
        "{url}: a file or archive on a server is not supported as a build context yet; download it first"
    );
    Err(Problem::new(exit::USAGE, message))
}

/// Whether this is a compressed file or a tar archive.
fn is_archive(input: &[u8]) -> bool {
    let magic: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    magic.iter().any(|magic| input.starts_with(magic)) || input.get(257..262) == Some(b"ustar")
}
