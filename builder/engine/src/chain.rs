//! Trees as chains of layers.

use lithify_oci::Digest;

/// The layers of a tree, the lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeLayers {
    diff_ids: Vec<Digest>,
    chain: Vec<Digest>,
}

impl TreeLayers {
    /// The tree of these layers.
    pub fn new(diff_ids: impl IntoIterator<Item = Digest>) -> Self {
        diff_ids.into_iter().fold(TreeLayers::default(), |below, diff_id| below.with(diff_id))
    }

    /// This tree with one more layer on top.
    pub fn with(&self, diff_id: Digest) -> Self {
        let mut above = self.clone();
        above.diff_ids.push(diff_id);
        above.chain.push(chain_id(self.chain.last(), &diff_id));
        above
    }

    /// The digests of the uncompressed layers.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }

    /// For each layer, the name of the tree that it completes.
    pub fn chain(&self) -> &[Digest] {
        &self.chain
    }
}

/// The OCI ChainID (config.md, "Layer ChainID").
fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => *diff_id,
        Some(parent) => Digest::of(format!("{parent} {diff_id}")),
    }
}
