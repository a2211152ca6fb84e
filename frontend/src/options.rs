//! What goes into a plan beside the text, and what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use lithify_graph::{Graph, Network};
use lithify_oci::{Digest, ImageConfig, Platform};

use crate::lint::Warning;

/// What the command line says about a build.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--target`: the name of a stage, in any case; `None` for the last.
    pub target: Option<String>,
    /// `--build-arg`, in order; later ones win. Proxy variables and the `BUILDKIT_...` arguments are among them.
    pub build_args: Vec<(String, String)>,
    /// `--label`, in order; they win over those of the Dockerfile.
    pub labels: Vec<(String, String)>,
    /// The platform that the builder runs on.
    pub build_platform: Platform,
    /// The platform to build for.
    pub target_platform: Platform,
    /// `--build-context`, by name as given.
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--network`
    pub network: Option<Network>,
    /// Tells which paths of the build context are excluded by its ignore file, for the rule CopyIgnoredFile.
    pub ignored: Option<Ignored>,
}

impl Default for Options {
    /// Builds the last stage for linux/amd64 on linux/amd64, with nothing else given.
    fn default() -> Self {
        Options {
            target: None,
            build_args: vec![],
            labels: vec![],
            build_platform: Platform::new("linux", "amd64"),
            target_platform: Platform::new("linux", "amd64"),
            contexts: BTreeMap::new(),
            network: None,
            ignored: None,
        }
    }
}

impl Options {
    /// The last `--build-arg` with this name.
    pub fn build_arg(&self, name: &str) -> Option<&str> {
        self.build_args.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Tells whether a path (relative to the root of the context) is excluded by the ignore file.
#[derive(Clone)]
pub struct Ignored(pub Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl fmt::Debug for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ignored(..)")
    }
}

/// What a named context holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// An image: asked for through [`Plan::NeedImages`].
    Image,
    /// An image in an OCI layout, which stands in for a registry: as `Image`, but a stage of the same name hides it.
    Layout,
    /// Any tree of files: becomes an `Op::Context` with the context's name.
    Folder,
}

/// An image whose configuration is needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRequest {
    /// The reference in its normal form, or the name of the context that answers it.
    pub name: String,
    /// The named context that answers it, as given.
    pub context: Option<String>,
    /// The platform that it is needed for.
    pub platform: Platform,
}

/// The answer to an [`ImageRequest`].
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// The digest of the manifest for the platform.
    pub manifest: Digest,
    /// The image's configuration.
    pub config: ImageConfig,
}

/// How far a plan got.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one plan for each build")]
pub enum Plan {
    /// The configurations of these images decide what follows. Call again with them.
    NeedImages(BTreeSet<ImageRequest>),
    /// The steps.
    Graph {
        /// The steps that the target needs.
        graph: Graph,
        /// What the rules found, and notes.
        warnings: Vec<Warning>,
    },
}
