//! WORKDIR.

use std::os::fd::AsFd;

use lithify_cache::key::{self, Chain, Keyed};
use lithify_graph::{MakeDirectory, StepId};
use lithify_worker::Request;

use super::{Done, made};
use crate::build::Running;
use crate::chain::TreeLayers;
use crate::error::Failure;

pub(super) fn key(make: &MakeDirectory, below: &TreeLayers) -> Keyed {
    key::make_directory_key(make, &Chain(below.diff_ids().to_vec()))
}

impl Running<'_> {
    pub(super) fn run_make_directory(&self, id: StepId, make: &MakeDirectory) -> Result<Done, Failure> {
        self.settled(|| self.try_make_directory(id, make))
    }

    fn try_make_directory(&self, id: StepId, make: &MakeDirectory) -> Result<Done, Failure> {
        let below = self.tree(make.base);
        self.make(id, &key(make, &below), &below, |worker, files| {
            self.trees.ensure(worker, &below, &self.needed_beside(id))?;
            let request = Request::MakeDirectory {
                chain: below.chain().to_vec(),
                path: make.path.clone(),
                user: make.user.clone(),
            };
            made(worker.call(&request, &[files.blob.file().as_fd(), files.catalogue.file().as_fd()])?)
        })
    }
}
