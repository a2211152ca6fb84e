//! `lithify images`, `rmi` and `save`: the images of the store.

use std::path::Path;
use std::time::SystemTime;

use lithify_cache::Store;
use lithify_oci::{Blobs, Platform, Reference};
use lithify_transfer::{Contents, Image, archive};

use super::store::{ago, open, table};
use crate::args::{Rmi, Save, SaveFormat};
use crate::config::Config;
use crate::exit::{self, Problem};
use crate::inputs::wrong;
use crate::outputs::{self, Destination};
use crate::sources::store_problem;

/// Names, digests and ages, one image a line.
pub(super) fn list(config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let images = open(config, root)?.images().map_err(store_problem)?;
    let rows = images.iter().map(|image| {
        let age = SystemTime::now().duration_since(image.tagged_at).unwrap_or_default();
        [image.name.clone(), image.manifest.digest.to_string(), ago(age)]
    });
    table(["NAME", "DIGEST", "TAGGED"], rows.collect());
    Ok(())
}

/// All of the names, or none where one is not there.
pub(super) fn remove(arguments: &Rmi, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let names = arguments.names.iter().map(|name| reference(name)).collect::<Result<Vec<_>, _>>()?;
    let store = open(config, root)?;
    let known = store.images().map_err(store_problem)?;
    for name in &names {
        if !known.iter().any(|image| image.name == name.to_string()) {
            return Err(unknown(name));
        }
    }
    for name in &names {
        if store.untag_image(name).map_err(store_problem)? {
            println!("removed {name}");
        }
    }
    Ok(())
}

pub(super) fn save(arguments: &Save, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    let name = reference(&arguments.name)?;
    let platform = match &arguments.platform {
        Some(text) => text.parse().map_err(|error| wrong("--platform", text, error))?,
        None => Platform::host(),
    };
    let store = open(config, root)?;
    let found = store.image(&name, &platform).map_err(store_problem)?.ok_or_else(|| unknown(&name))?;
    let unreadable =
        |error: &dyn std::error::Error| Problem::caused(exit::STORE, "cannot read the store", error);
    let mut bytes = vec![];
    store
        .open_blob(&found.manifest.digest)
        .and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut bytes))
        .map_err(|error| unreadable(&error))?;
    let image = Image::from_manifest(bytes, &name.to_string()).map_err(|error| unreadable(&error))?;
    check_whole(&image, &name, &store)?;
    let destination = match arguments.output.as_deref() {
        None => Destination::Stdout,
        Some(path) if path == Path::new("-") => Destination::Stdout,
        Some(path) => Destination::File(path.to_owned()),
    };
    let failed =
        |error: &dyn std::error::Error| Problem::caused(exit::OUTPUT, "cannot write the archive", error);
    let names = [name];
    let written = match arguments.format {
        SaveFormat::Oci => outputs::write_to(&destination, |writer| {
            archive::write_oci(Contents::Image(&image), &names, &store, writer, &())
                .map_err(std::io::Error::other)
        }),
        SaveFormat::Docker => {
            let plain = archive::uncompress(&image, &store).map_err(|error| failed(&error))?;
            outputs::write_to(&destination, |writer| {
                archive::write_docker(&plain, &names, &store, writer, &()).map_err(std::io::Error::other)
            })
        }
    };
    written.map_err(|error| failed(&error))
}

/// Layers of a base image need not be in the store, as long as no step had to read them.
fn check_whole(image: &Image, name: &Reference, store: &Store) -> Result<(), Problem> {
    for layer in &image.layers {
        let here = store.size_bytes(&layer.digest);
        let here = here.map_err(|error| Problem::caused(exit::STORE, "cannot read the store", &error))?;
        if here.is_none() {
            let message = format!(
                "the layer {} of {name} was never downloaded, for no step needed it: build with \
                 --output type=oci,dest=FILE, which fetches it",
                layer.digest
            );
            return Err(Problem::new(exit::OUTPUT, message));
        }
    }
    Ok(())
}

fn reference(name: &str) -> Result<Reference, Problem> {
    name.parse().map_err(|error| wrong("NAME", name, error))
}

fn unknown(name: &Reference) -> Problem {
    let message =
        format!("the store has no image {}: `lithify images` lists those that it has", name.familiar());
    Problem::new(exit::USAGE, message)
}
