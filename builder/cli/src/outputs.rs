//! Where the result goes: `--output`, `--push`, `--tag`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lithify_engine::Encoding;
use lithify_oci::Reference;
use lithify_oci::layer::{Compression, Times};

use crate::args::Build;
use crate::exit::Problem;
use crate::inputs::{split_commas, wrong};

/// One place for the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The store, under these names; pushed as well where asked for.
    Image { names: Vec<Reference>, push: bool },
    /// An OCI layout as an archive.
    OciArchive(Destination),
    /// An OCI layout as a folder.
    OciFolder(PathBuf),
    /// What `docker save` writes.
    DockerArchive(Destination),
    /// The files, as the caller's.
    Folder(PathBuf),
    /// The files, as an archive.
    Files(Destination),
    /// Nothing but what the cache keeps.
    Nothing,
}

/// An output, and how its layers are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) output: Output,
    pub(crate) encoding: Encoding,
}

/// A file, or standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    File(PathBuf),
    Stdout,
}

/// What the flags of `build` say of its outputs.
pub(crate) fn parse(build: &Build, tags: &[Reference]) -> Result<Vec<Planned>, Problem> {
    let mut outputs = vec![];
    for spec in &build.output {
        outputs.push(parse_one(spec, tags)?);
    }
    let encoding = Encoding::default();
    let plain = |output| Planned { output, encoding };
    if build.push {
        if tags.is_empty() {
            return Err(wrong("--push", "", "needs a name to push to: use --tag REGISTRY/REPOSITORY:TAG"));
        }
        outputs.push(plain(Output::Image { names: tags.to_vec(), push: true }));
    }
    if outputs.is_empty()
        || !tags.is_empty() && !outputs.iter().any(|one| matches!(one.output, Output::Image { .. }))
    {
        // As the first of the others is: one image has one digest wherever it goes.
        let encoding = outputs.first().map_or(encoding, |first| first.encoding);
        outputs.push(Planned { output: Output::Image { names: tags.to_vec(), push: false }, encoding });
    }
    Ok(outputs)
}

/// `--timestamp`, else SOURCE_DATE_EPOCH; `None` where nobody says anything.
pub(crate) fn times(timestamp: Option<&str>, epoch: Option<&str>) -> Result<Option<Times>, Problem> {
    let seconds = |flag: &str, text: &str| match text.parse() {
        Ok(seconds) => Ok(Some(Times::At(seconds))),
        Err(_) => Err(wrong(flag, text, "expected seconds since 1970")),
    };
    match (timestamp, epoch) {
        (Some("preserve"), _) => Ok(Some(Times::Preserve)),
        (Some(text), _) => seconds("--timestamp", text),
        (None, Some(text)) => seconds("SOURCE_DATE_EPOCH", text),
        (None, None) => Ok(None),
    }
}

/// The time of the image in seconds since 1970.
pub(crate) fn seconds(times: Option<Times>) -> i64 {
    match times {
        Some(Times::At(seconds)) => seconds,
        None | Some(Times::Preserve | Times::Exact) => 0,
    }
}

fn parse_one(spec: &str, tags: &[Reference]) -> Result<Planned, Problem> {
    let fields = Fields::parse(spec)?;
    let encoding = Encoding {
        compression: fields.compression()?.unwrap_or_default(),
        force_compression: fields.flag("force-compression")?,
        ..Encoding::default()
    };
    Ok(Planned { output: parse_output(spec, &fields, tags)?, encoding })
}

fn parse_output(spec: &str, fields: &Fields<'_>, tags: &[Reference]) -> Result<Output, Problem> {
    let wrong = |why: &str| wrong("--output", spec, why);
    let destination = || match fields.get("dest") {
        None | Some("-") => Destination::Stdout,
        Some(path) => Destination::File(path.into()),
    };
    let names = || -> Result<Vec<Reference>, Problem> {
        match fields.get("name") {
            None => Ok(tags.to_vec()),
            Some(names) => names
                .split(',')
                .map(|name| {
                    name.parse()
                        .map_err(|error: lithify_oci::reference::InvalidReference| wrong(&error.to_string()))
                })
                .collect(),
        }
    };
    let push = fields.flag("push")?;
    match fields.get("type").unwrap_or("local") {
        kind @ ("image" | "registry") => {
            let (names, push) = (names()?, push || kind == "registry");
            if push && names.is_empty() {
                return Err(wrong("needs a name to push to: name=REGISTRY/REPOSITORY:TAG, or --tag"));
            }
            Ok(Output::Image { names, push })
        }
        "oci" if fields.is_unset_or_true("tar")? => Ok(Output::OciArchive(destination())),
        "oci" => match destination() {
            Destination::File(folder) => Ok(Output::OciFolder(folder)),
            Destination::Stdout => Err(wrong("tar=false needs dest=FOLDER")),
        },
        "docker" => Ok(Output::DockerArchive(destination())),
        "local" => match fields.get("dest") {
            None | Some("" | "-") => Err(wrong("type=local needs dest=FOLDER")),
            Some(folder) => Ok(Output::Folder(folder.into())),
        },
        "tar" => Ok(Output::Files(destination())),
        "cacheonly" => Ok(Output::Nothing),
        _ => Err(wrong("expected type=image, registry, oci, docker, local, tar or cacheonly")),
    }
}

/// The `key=value` fields of a spec.
struct Fields<'a> {
    spec: &'a str,
    fields: Vec<(String, String)>,
}

const KNOWN: &[&str] =
    &["type", "dest", "name", "push", "tar", "compression", "compression-level", "force-compression"];

impl<'a> Fields<'a> {
    /// Fields are separated by commas; one in double quotes may hold commas itself.
    fn parse(spec: &'a str) -> Result<Self, Problem> {
        if spec == "-" {
            return Ok(Fields { spec, fields: vec![("type".into(), "tar".into())] });
        }
        if !spec.contains('=') {
            return Ok(Fields { spec, fields: vec![("dest".into(), spec.into())] });
        }
        let mut fields = vec![];
        for field in split_commas(spec) {
            let (key, value) =
                field.split_once('=').ok_or_else(|| wrong("--output", spec, "expected KEY=VALUE"))?;
            if !KNOWN.contains(&key) {
                let why = format!("{key} is not known; expected one of {}", KNOWN.join(", "));
                return Err(wrong("--output", spec, why));
            }
            fields.push((key.to_owned(), value.to_owned()));
        }
        Ok(Fields { spec, fields })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn flag(&self, key: &str) -> Result<bool, Problem> {
        match self.get(key) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(wrong("--output", self.spec, format_args!("expected {key}=true or {key}=false"))),
        }
    }

    fn is_unset_or_true(&self, key: &str) -> Result<bool, Problem> {
        if self.get(key).is_none() { Ok(true) } else { self.flag(key) }
    }

    fn compression(&self) -> Result<Option<Compression>, Problem> {
        let wrong = |why: &str| wrong("--output", self.spec, why);
        let level = self.get("compression-level").map(str::parse::<i32>).transpose();
        let level = level.map_err(|_| wrong("compression-level is no number"))?;
        let compression = match (self.get("compression"), level) {
            (None, None) => return Ok(None),
            (Some("zstd"), level) | (None, level) => match level.unwrap_or(3) {
                level @ 1..=22 => Compression::Zstd { level },
                _ => return Err(wrong("zstd has the levels 1 to 22")),
            },
            (Some("gzip"), level) => match level.unwrap_or(6) {
                level @ 0..=9 => Compression::Gzip { level: level as u32 },
                _ => return Err(wrong("gzip has the levels 0 to 9")),
            },
            (Some("uncompressed"), None) => Compression::None,
            _ => return Err(wrong("expected compression=zstd, gzip or uncompressed")),
        };
        Ok(Some(compression))
    }
}

/// Calls `write` with the destination's writer. A file appears under its name only when it is complete.
pub(crate) fn write_to(
    destination: &Destination,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    match destination {
        Destination::Stdout => write(&mut io::stdout().lock()),
        Destination::File(path) => {
            let folder =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut file = tempfile::Builder::new().prefix(".lithify-").tempfile_in(folder)?;
            let mut buffered = io::BufWriter::with_capacity(1 << 20, file.as_file_mut());
            write(&mut buffered)?;
            buffered.flush()?;
            drop(buffered);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666 & !umask());
            file.as_file().set_permissions(mode)?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        }
    }
}

fn umask() -> u32 {
    let old = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(old);
    old.bits()
}

/// Whether a file may be written where `path` says, found out before the build rather than after it.
pub(crate) fn check_writable(output: &Output) -> Result<(), (PathBuf, io::Error)> {
    let path = match output {
        Output::OciArchive(Destination::File(path))
        | Output::DockerArchive(Destination::File(path))
        | Output::Files(Destination::File(path)) => path,
        Output::Folder(folder) => {
            return std::fs::create_dir_all(folder)
                .and_then(|()| tempfile::tempfile_in(folder).map(|_: File| ()))
                .map_err(|error| (folder.clone(), error));
        }
        _ => return Ok(()),
    };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() {
        return Err((path.clone(), io::ErrorKind::IsADirectory.into()));
    }
    tempfile::tempfile_in(folder).map(|_: File| ()).map_err(|error| (path.clone(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: &str, expected: Option<Output>) {
        assert_eq!(parse_one(spec, &[]).ok().map(|planned| planned.output), expected, "{spec}");
    }

    #[test]
    fn specs() {
        let name = |text: &str| text.parse::<Reference>().unwrap();
        check("type=oci,dest=a.tar", Some(Output::OciArchive(Destination::File("a.tar".into()))));
        check("type=oci", Some(Output::OciArchive(Destination::Stdout)));
        check("type=oci,tar=false,dest=d", Some(Output::OciFolder("d".into())));
        check("type=oci,tar=false", None);
        check("type=docker,dest=-", Some(Output::DockerArchive(Destination::Stdout)));
        check("type=image,name=a", Some(Output::Image { names: vec![name("a")], push: false }));
        check(
            "type=image,\"name=a,b\"",
            Some(Output::Image { names: vec![name("a"), name("b")], push: false }),
        );
        check("type=image,name=a,push=true", Some(Output::Image { names: vec![name("a")], push: true }));
        check("type=registry,name=h.io/a", Some(Output::Image { names: vec![name("h.io/a")], push: true }));
        check("type=registry", None);
        check("dir", Some(Output::Folder("dir".into())));
        check("type=local,dest=dir", Some(Output::Folder("dir".into())));
        check("type=local", None);
        check("-", Some(Output::Files(Destination::Stdout)));
        check("type=tar,dest=f", Some(Output::Files(Destination::File("f".into()))));
        check("type=cacheonly", Some(Output::Nothing));
        check("type=image,nmae=a", None);
        check("type=unknown", None);
        check("type=oci,compression=lz4", None);
        check("type=oci,compression=gzip,compression-level=10", None);
    }
}
