//! Averages of weights in the estimator: what they hold, that they are never trained, and that they outlive the process.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Line, in_dir, points, train_data};
use elistimator::prelude::*;

fn started(dir: &std::path::Path, decay: f64) -> Elistimator<Line> {
    let mut estimator = in_dir(dir).ema(decay).build().unwrap();
    estimator.setup(Inputs::train(train_data()).validation(points(17).batch(4))).unwrap();
    estimator
}

#[test]
fn averages_are_looked_at_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = started(dir.path(), 0.9);
    assert_eq!(estimator.with_ema(|_| Ok(())).unwrap_err().kind(), ErrorKind::WrongOrder);
    estimator.train().unwrap();
    let trained = estimator.hashes().unwrap();
    let averaged = estimator.with_ema(|e| Ok((e.evaluate(points(17).batch(4))?, e.hashes()?))).unwrap();
    assert_eq!(estimator.hashes().unwrap(), trained);
    assert_ne!(averaged.1, trained);
    assert_eq!(estimator.validate_ema().unwrap(), averaged.0);
    assert_ne!(estimator.validate().unwrap(), averaged.0);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = estimator.with_ema(|_| -> Result<()> { panic!("while looking") });
    }));
    assert!(panic.is_err());
    assert_eq!(estimator.hashes().unwrap(), trained);
    // With a decay of 0 the average is the last weights.
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = started(dir.path(), 0.0);
    estimator.train().unwrap();
    assert_eq!(estimator.validate_ema().unwrap(), estimator.validate().unwrap());
}

#[test]
fn averages_resume_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = started(dir.path(), 0.9);
    whole.train_steps(7).unwrap().save_ckpt().unwrap();
    whole.train_steps(9).unwrap();
    let expected = whole.validate_ema().unwrap();
    drop(whole);
    let mut resumed = in_dir(dir.path()).ema(0.9).resume_or_start().unwrap();
    resumed.setup(Inputs::train(train_data()).validation(points(17).batch(4))).unwrap();
    assert_eq!(resumed.global_step(), 7);
    resumed.train_steps(9).unwrap();
    assert_eq!(resumed.validate_ema().unwrap(), expected);
    // A run that keeps no average reads the same checkpoint, and one that has none in its checkpoint begins one.
    drop(resumed);
    let mut without = in_dir(dir.path()).resume_or_start().unwrap();
    without.setup(Inputs::train(train_data())).unwrap();
    without.train_steps(1).unwrap().save_ckpt().unwrap();
    drop(without);
    let mut begun = in_dir(dir.path()).ema(0.9).resume_or_start().unwrap();
    assert!(begun.with_ema(|_| Ok(())).is_err());
}

#[test]
fn a_decay_outside_0_and_1_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(in_dir(dir.path()).ema(1.1).build().unwrap_err().kind(), ErrorKind::InvalidArgument);
}
