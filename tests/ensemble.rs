//! Checkpoints of one run that predict together.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Line, in_dir, points, train_data};
use elistimator::prelude::*;
use elistimator::{Combine, Ensemble};

fn request() -> Record {
    inputs! { "x" => Array::new([2, 3], vec![0.5f32, -1.0, 0.25, 1.0, 0.0, -0.5]).unwrap() }
}

#[test]
fn members_are_averaged_by_weight_and_vote() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).max_to_keep(0).build().unwrap();
    estimator.setup(Inputs::train(train_data())).unwrap();
    let mut alone = Vec::new();
    for _ in 0..3 {
        estimator.train_steps(4).unwrap().save_ckpt().unwrap();
        alone.push(estimator.predict(request()).unwrap().get("y").unwrap().as_slice::<f32>().unwrap().to_vec());
    }
    let load = || Ensemble::<Line, Cpu>::from_checkpoints(dir.path(), &[4, 8, 12], DeviceSpec::Cpu).unwrap();
    let near = |ensemble: &Ensemble<Line, Cpu>, weights: [f32; 3]| {
        let found = ensemble.predict(request(), "y").unwrap();
        assert_eq!(found.dims(), [2, 1]);
        for (row, value) in found.as_slice::<f32>().unwrap().iter().enumerate() {
            let expected: f32 = alone.iter().zip(weights).map(|(values, weight)| weight * values[row]).sum();
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
    };
    near(&load(), [1.0 / 3.0; 3]);
    near(&load().weights(&[0.0, 1.0, 3.0]).unwrap(), [0.0, 0.25, 0.75]);
    // One output value per row: every member votes for it.
    let votes = load().combine(Combine::Vote).predict(request(), "y").unwrap();
    assert!(votes.as_slice::<f32>().unwrap().iter().all(|share| (share - 1.0).abs() < 1e-6));
    let metrics = load().evaluate_members(points(17).batch(4)).unwrap();
    assert_eq!(metrics[2], estimator.evaluate(points(17).batch(4)).unwrap());
    assert_ne!(metrics[0], metrics[2]);
    assert_eq!(load().predict_all(points(17).batch(4), "y").unwrap().len(), 5);
    for weights in [&[1.0][..], &[0.0; 3], &[-1.0, 1.0, 1.0], &[f64::NAN; 3]] {
        assert_eq!(load().weights(weights).unwrap_err().kind(), ErrorKind::InvalidArgument, "{weights:?}");
    }
    assert!(Ensemble::<Line, Cpu>::from_checkpoints(dir.path(), &[], DeviceSpec::Cpu).is_err());
    assert!(Ensemble::<Line, Cpu>::from_checkpoints(dir.path(), &[5], DeviceSpec::Cpu).is_err());
}
