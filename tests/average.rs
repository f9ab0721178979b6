//! The mean of the last checkpoints.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Line, in_dir, points, train_data};
use elistimator::prelude::*;

fn trained(dir: &std::path::Path, saves: usize) -> Elistimator<Line> {
    let mut estimator = in_dir(dir).max_to_keep(0).build().unwrap();
    estimator.setup(Inputs::train(train_data())).unwrap();
    for _ in 0..saves {
        estimator.train_steps(3).unwrap().save_ckpt().unwrap();
    }
    estimator
}

fn values(estimator: &Elistimator<Line>, name: &str) -> Vec<f32> {
    estimator.variable(name).unwrap().as_slice::<f32>().unwrap().to_vec()
}

/// The mean by hand, from the checkpoints themselves.
fn is_mean_of(averaged: &Elistimator<Line>, dir: &std::path::Path, steps: &[u64]) {
    for (name, _) in averaged.variables() {
        let members: Vec<Vec<f32>> = steps
            .iter()
            .map(|&step| values(&Builder::<Line>::from_disk(dir, step).unwrap().build().unwrap(), &name))
            .collect();
        let mean: Vec<f32> = (0..members[0].len())
            .map(|place| {
                (members.iter().map(|values| f64::from(values[place])).sum::<f64>() / steps.len() as f64) as f32
            })
            .collect();
        assert_eq!(values(averaged, &name), mean, "{name}");
        assert_ne!(mean, members[0], "{name}");
    }
}

#[test]
fn the_last_checkpoints_are_averaged_and_the_run_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = trained(dir.path(), 4);
    let before = estimator.hashes().unwrap();
    let mut averaged = estimator.average_checkpoints(3).unwrap();
    is_mean_of(&averaged, dir.path(), &[12, 9, 6]);
    assert_eq!((averaged.global_step(), estimator.hashes().unwrap()), (12, before));
    // It evaluates and predicts, and comes back from its own directory.
    let metrics = averaged.evaluate(points(17).batch(4)).unwrap();
    assert_ne!(metrics, estimator.evaluate(points(17).batch(4)).unwrap());
    averaged.predict(inputs! { "x" => Array::new([1, 3], vec![1.0f32; 3]).unwrap() }).unwrap();
    averaged.save_ckpt().unwrap();
    let back = Elistimator::<Line>::from_disk(dir.path().join("averaged")).unwrap();
    assert_eq!(back.evaluate(points(17).batch(4)).unwrap(), metrics);
    assert_eq!(estimator.checkpoints().unwrap().len(), 4);
    estimator.train_steps(1).unwrap();
    // The mean of one is that one.
    let one = estimator.average_checkpoints(1).unwrap();
    let last = Builder::<Line>::from_disk(dir.path(), 12).unwrap().build().unwrap();
    assert_eq!(values(&one, "hidden.weight"), values(&last, "hidden.weight"));
}

#[test]
fn the_last_ones_are_those_saved_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = trained(dir.path(), 3);
    estimator.restore_ckpt(3).unwrap().train_steps(1).unwrap().save_ckpt().unwrap();
    is_mean_of(&estimator.average_checkpoints(2).unwrap(), dir.path(), &[4, 9]);
}

#[test]
fn what_has_no_mean_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = trained(dir.path(), 2);
    assert_eq!(estimator.average_checkpoints(0).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let error = estimator.average_checkpoints(3).unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("found 2"), "{error}");
    estimator.set_variable("out.bias", &Array::new([1], vec![f32::NAN]).unwrap()).unwrap();
    estimator.save_ckpt().unwrap();
    assert_eq!(estimator.average_checkpoints(2).unwrap_err().kind(), ErrorKind::NotFinite);
}
