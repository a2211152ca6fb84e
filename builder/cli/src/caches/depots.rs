//! Places of remote caches: what `transfer` can reach, as the cache wants it.

use std::sync::Arc;

use lithify_cache::remote::{Depot, DepotError};
use lithify_oci::{Blobs, Descriptor, Platform, Reference};
use lithify_transfer::depot::{Bucket, Folder, Repository};

use super::Kind;
use crate::exit::{self, Problem};
use crate::network::Connection;

/// The place of a cache; `None` for one inside the image.
pub(super) fn open(
    kind: &Kind,
    connection: &Arc<Connection>,
    platform: &Platform,
    sources: Vec<Reference>,
) -> Result<Option<Arc<dyn Depot>>, Problem> {
    let place = match kind {
        Kind::Inline => return Ok(None),
        Kind::Folder { path, tag, digest } => Place::Folder(Folder::new(path, tag.clone(), *digest)),
        Kind::Bucket(config) => {
            let bucket = Bucket::new((**config).clone());
            Place::Bucket(Box::new(bucket.map_err(|error| {
                Problem::caused(exit::USAGE, format_args!("the cache {} cannot be used", kind.name()), &error)
            })?))
        }
        Kind::Registry(reference) => Place::Registry { reference: reference.clone(), sources },
    };
    Ok(Some(Arc::new(Remote {
        place,
        name: kind.name(),
        platform: platform.clone(),
        connection: connection.clone(),
    })))
}

enum Place {
    Folder(Folder),
    Bucket(Box<Bucket>),
    /// The client is made when it is needed.
    Registry {
        reference: Reference,
        sources: Vec<Reference>,
    },
}

struct Remote {
    place: Place,
    name: String,
    platform: Platform,
    connection: Arc<Connection>,
}

/// All causes in one line.
fn told(error: &dyn std::error::Error) -> DepotError {
    let problem = Problem::caused(exit::SOURCE, String::new(), error);
    DepotError { message: problem.causes.join(": ") }
}

impl Remote {
    /// Waits for what is done on the network, on a thread of its own: a push may ask for an object while it is itself
    /// waited for by this very runtime.
    fn wait<T: Send>(
        &self,
        work: impl AsyncFnOnce() -> Result<T, lithify_transfer::Error> + Send,
    ) -> Result<T, DepotError> {
        let network = self.connection.network(&self.name);
        let network = network.map_err(|problem| DepotError { message: problem.lines() })?;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| network.runtime.block_on(work()));
            waiting.join().expect("a transfer does not panic").map_err(|error| told(&error))
        })
    }

    fn repository(&self, reference: &Reference, sources: &[Reference]) -> Result<Repository, DepotError> {
        let network = self.connection.network(&self.name);
        let network = network.map_err(|problem| DepotError { message: problem.lines() })?;
        Ok(Repository::new(network.client.clone(), reference.clone(), sources.to_vec()))
    }
}

impl Depot for Remote {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn manifest(&self) -> Result<Option<Vec<u8>>, DepotError> {
        match &self.place {
            Place::Folder(folder) => folder.manifest(&self.platform).map_err(|error| told(&error)),
            Place::Bucket(bucket) => self.wait(async || bucket.manifest().await),
            Place::Registry { reference, sources } => {
                let repository = self.repository(reference, sources)?;
                self.wait(async || repository.manifest(&self.platform).await)
            }
        }
    }

    fn fetch(&self, object: &Descriptor, into: &dyn Blobs) -> Result<(), DepotError> {
        match &self.place {
            Place::Folder(folder) => folder.fetch(object, into).map_err(|error| told(&error)),
            Place::Bucket(bucket) => self.wait(async || bucket.fetch(object, into).await),
            Place::Registry { reference, sources } => {
                let repository = self.repository(reference, sources)?;
                self.wait(async || repository.fetch(object, into).await)
            }
        }
    }

    fn put(&self, object: &Descriptor, from: &dyn Blobs) -> Result<(), DepotError> {
        match &self.place {
            Place::Folder(folder) => folder.put(object, from).map_err(|error| told(&error)),
            Place::Bucket(bucket) => self.wait(async || bucket.put(object, from).await),
            Place::Registry { reference, sources } => {
                let repository = self.repository(reference, sources)?;
                self.wait(async || repository.put(object, from).await)
            }
        }
    }

    fn publish(&self, manifest: &[u8]) -> Result<(), DepotError> {
        match &self.place {
            Place::Folder(folder) => folder.publish(manifest).map_err(|error| told(&error)),
            Place::Bucket(bucket) => self.wait(async || bucket.publish(manifest).await),
            Place::Registry { reference, sources } => {
                let repository = self.repository(reference, sources)?;
                self.wait(async || repository.publish(manifest).await)
            }
        }
    }
}
