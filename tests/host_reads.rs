//! Training does not wait for the device in every step: reads are counted. A test of its own process, since the count is one
//! for all estimators.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{in_dir, points};
use elistimator::nn::host_reads;
use elistimator::prelude::*;

#[test]
fn only_losses_and_norms_are_read_while_training() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(Inputs::train(points(1000).batch(10))).unwrap();
    let before = host_reads();
    estimator.train().unwrap();
    // On the CPU a loss is read at once, since that is free: one read a step, one for the gradients' norm in every tenth, and
    // none besides. On other devices they are read in blocks, which the test of the CUDA driver's double counts.
    assert_eq!(host_reads() - before, 110);
}
