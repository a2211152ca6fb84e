//! What becomes of an image that was built: outputs and caches of other machines.

use std::sync::Arc;
use std::thread::JoinHandle;

use lithify_cache::Store;
use lithify_cache::remote::{Depot, Export, Mode, send_early};
use lithify_engine::{Built, Encoding};
use lithify_oci::layer::Times;
use lithify_oci::{Blobs, Digest, Platform, Reference};
use lithify_transfer::{Contents, Image, archive};

use super::build::assemble_problem;
use super::files;
use crate::caches::{Caches, Kind, Spec};
use crate::exit::{self, Problem};
use crate::network::Connection;
use crate::outputs::{self, Output, Planned};
use crate::render::say;
use crate::sources::{Provider, store_problem};

/// Where the result goes, and what it takes to bring it there.
pub(super) struct Delivery<'a> {
    pub(super) outputs: &'a [Planned],
    pub(super) times: Option<Times>,
    pub(super) provider: &'a Provider<'a>,
    pub(super) store: &'a Store,
    /// Repositories of caches: layers that came from there may be mounted.
    pub(super) caches: Vec<Reference>,
    pub(super) platform: &'a Platform,
}

impl Delivery<'_> {
    /// Writes and pushes the result. Gives the image in the encoding of the first output.
    pub(super) fn deliver(&self, built: &Built) -> Result<Built, Problem> {
        let mut encoded: Vec<(Encoding, Built)> = vec![];
        for Planned { output, encoding } in self.outputs {
            let encoding = Encoding { times: self.times.unwrap_or(encoding.times), ..*encoding };
            let built = match encoded.iter().find(|(known, _)| *known == encoding) {
                Some((_, known)) => known.clone(),
                None => {
                    if encoding.force_compression {
                        self.fetch_bases(built)?;
                    }
                    let one = built.encoded(self.store, &encoding).map_err(assemble_problem)?;
                    encoded.push((encoding, one.clone()));
                    one
                }
            };
            self.one(output, &built)?;
        }
        Ok(encoded.into_iter().next().map_or_else(|| built.clone(), |(_, first)| first))
    }

    fn one(&self, output: &Output, built: &Built) -> Result<(), Problem> {
        let Delivery { outputs, times, store, .. } = *self;
        let image = Image {
            manifest: built.manifest.clone(),
            manifest_bytes: built.manifest_bytes.clone(),
            config: built.config.clone(),
            layers: built.layers.iter().map(|layer| layer.blob.clone()).collect(),
            index: None,
        };
        let failed = |what: &str, error: &dyn std::error::Error| {
            Problem::caused(exit::OUTPUT, format_args!("cannot write {what}"), error)
        };
        match output {
            Output::Image { names, push } => {
                if !*push && !names.is_empty() {
                    self.fetch_own(built)?;
                }
                for name in names {
                    if *push {
                        self.push(name, &image, built)?;
                    }
                    self.keep(name, built)?;
                }
            }
            Output::OciArchive(destination) => {
                self.fetch_layers(built)?;
                let names = named_in(outputs);
                let written = outputs::write_to(destination, |writer| {
                    archive::write_oci(Contents::Image(&image), &names, store, writer, &())
                        .map_err(std::io::Error::other)
                });
                written.map_err(|error| failed("the OCI archive", &error))?;
            }
            Output::OciFolder(folder) => {
                self.fetch_layers(built)?;
                archive::write_folder(Contents::Image(&image), &named_in(outputs), store, folder, &())
                    .map_err(|error| failed("the OCI layout", &error))?;
            }
            Output::DockerArchive(destination) => {
                self.fetch_layers(built)?;
                let names = named_in(outputs);
                let plain = archive::uncompress(&image, store)
                    .map_err(|error| failed("the docker archive", &error))?;
                let written = outputs::write_to(destination, |writer| {
                    archive::write_docker(&plain, &names, store, writer, &()).map_err(std::io::Error::other)
                });
                written.map_err(|error| failed("the docker archive", &error))?;
            }
            Output::Folder(folder) => {
                self.fetch_layers(built)?;
                files::write_folder(built, store, folder, times)
                    .map_err(|error| failed(&format!("the files to {}", folder.display()), &error))?;
            }
            Output::Files(destination) => {
                self.fetch_layers(built)?;
                let written = outputs::write_to(destination, |writer| {
                    files::write_archive(built, store, writer, times)
                });
                written.map_err(|error| failed("the archive of files", &error))?;
            }
            Output::Nothing => {}
        }
        Ok(())
    }

    /// Gives the image its name in the store. One that was pushed without all its layers being here is known as what the
    /// registry has under that name, from where the rest can be had.
    fn keep(&self, name: &Reference, built: &Built) -> Result<(), Problem> {
        let own = built.layers.iter().filter(|layer| layer.base.is_none());
        let is_here = |digest: &Digest| Ok(self.store.blob_size_bytes(digest)?.is_some());
        let mut all = true;
        for layer in own {
            all &= is_here(&layer.blob.digest).map_err(store_problem)?;
        }
        let kept = match all {
            true => self.store.tag_image(name, &built.manifest),
            false => self.store.remember_resolution(name, self.platform, &built.manifest),
        };
        kept.map_err(store_problem)
    }

    fn push(&self, name: &Reference, image: &Image, built: &Built) -> Result<(), Problem> {
        let bases = built.layers.iter().filter_map(|layer| self.provider.repository_of(layer.base.as_ref()?));
        let mut bases: Vec<Reference> = bases.collect();
        // A layer of another registry cannot be mounted there, and must be read.
        if bases.iter().any(|base| base.registry() != name.registry()) || bases.len() < base_layers(built) {
            self.fetch_bases(built)?;
        }
        bases.extend(self.caches.iter().cloned());
        self.provider.push(name, image, &bases)
    }

    /// Brings all layers that no step had to read into the store.
    fn fetch_layers(&self, built: &Built) -> Result<(), Problem> {
        self.fetch_bases(built)?;
        self.fetch_own(built)
    }

    /// Layers of base images.
    fn fetch_bases(&self, built: &Built) -> Result<(), Problem> {
        use lithify_engine::Sources;
        for layer in &built.layers {
            let here = self.store.size_bytes(&layer.blob.digest);
            let here = here.map_err(|error| Problem::caused(exit::STORE, "cannot read the store", &error))?;
            if let (Some(base), None) = (&layer.base, here) {
                self.provider
                    .fetch_layer(base, &layer.blob)
                    .map_err(|error| Problem::new(exit::SOURCE, error.message))?;
            }
        }
        Ok(())
    }

    /// Layers that a cache of another machine has.
    fn fetch_own(&self, built: &Built) -> Result<(), Problem> {
        let own = built.layers.iter().filter(|layer| layer.base.is_none());
        let own: Vec<Digest> = own.map(|layer| layer.blob.digest).collect();
        match self.store.fetch_all(&own).map_err(store_problem)? {
            true => Ok(()),
            false => Err(Problem::new(exit::STORE, "the store has lost a layer of the image: build again")),
        }
    }
}

/// The names that an archive says its image has: those of the image outputs.
pub(super) fn named_in(outputs: &[Planned]) -> Vec<Reference> {
    let names = outputs.iter().filter_map(|planned| match &planned.output {
        Output::Image { names, .. } => Some(names.clone()),
        _ => None,
    });
    names.flatten().collect()
}

fn base_layers(built: &Built) -> usize {
    built.layers.iter().filter(|layer| layer.base.is_some()).count()
}

/// Caches that are being written.
pub(super) struct Exports {
    all: Vec<(Spec, Arc<dyn Depot>)>,
    early: Vec<JoinHandle<()>>,
}

impl Exports {
    /// Opens the caches. Those that get every step's result get large layers while the build is going on.
    pub(super) fn begin(
        caches: &Caches,
        outputs: &[Planned],
        store: &Store,
        connection: &Arc<Connection>,
        platform: &Platform,
    ) -> Result<Self, Problem> {
        let mut sources = caches.repositories();
        sources.extend(named_in(outputs));
        let mut exports = Exports { all: vec![], early: vec![] };
        for spec in caches.to.iter().filter(|spec| !matches!(spec.kind, Kind::Inline)) {
            let Some(depot) = spec.kind.depot(connection, platform, sources.clone())? else { continue };
            if spec.mode == Mode::Max {
                let (recorded, store, depot) = (store.watch_records(), store.clone(), depot.clone());
                exports.early.push(std::thread::spawn(move || send_early(depot.as_ref(), &store, &recorded)));
            }
            exports.all.push((spec.clone(), depot));
        }
        Ok(exports)
    }

    /// Writes the caches, now that all is built. One that cannot be written is warned of.
    pub(super) fn finish(self, store: &Store, built: &Built) {
        store.stop_watching();
        for thread in self.early {
            let _ = thread.join();
        }
        let layers: Vec<Digest> = built.layers.iter().map(|layer| layer.stored).collect();
        for (spec, depot) in &self.all {
            let export = Export {
                depot: depot.as_ref(),
                mode: spec.mode,
                layers: &layers,
                mounts: vec![],
                kept_mounts: &spec.mounts,
            };
            if let Err(error) = export.run(store) {
                say(format_args!("warning: the cache {} is not written: {error}", depot.name()));
            }
        }
    }
}
