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
    // A run that is to keep no average any more goes on from the same checkpoint, and one that has none in its checkpoint begins one.
    drop(resumed);
    let mut without = in_dir(dir.path()).allow(Setting::Averages).resume_or_start().unwrap();
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

/// The plain mean from step 6 on, every second step, over a restart in its middle; and a run that goes back has no later weights in it.
#[test]
fn a_plain_mean_is_kept_looked_at_and_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let build = || {
        let mut estimator = in_dir(dir.path()).max_to_keep(0).swa(5, 2).resume_or_start().unwrap();
        estimator.setup(Inputs::train(train_data()).validation(points(17).batch(4))).unwrap();
        estimator
    };
    let weight = |estimator: &Elistimator<Line>| -> Vec<f32> {
        estimator.variable("hidden.weight").unwrap().as_slice::<f32>().unwrap().to_vec()
    };
    let mut estimator = build();
    estimator.train_steps(5).unwrap();
    let error = estimator.with_ema(|_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongOrder);
    let mut seen = Vec::new();
    for step in 6..=14 {
        estimator.train_steps(1).unwrap();
        if step % 2 == 0 {
            seen.push(weight(&estimator));
        }
        if step == 9 {
            estimator.save_ckpt().unwrap();
            drop(estimator);
            estimator = build();
        }
    }
    let near = |estimator: &mut Elistimator<Line>, seen: &[Vec<f32>]| {
        let found = estimator.with_ema(|averaged| Ok(weight(averaged))).unwrap();
        for (place, found) in found.iter().enumerate() {
            let mean = seen.iter().map(|weights| f64::from(weights[place])).sum::<f64>() / seen.len() as f64;
            assert!((f64::from(*found) - mean).abs() < 1e-6, "{found} {mean}");
        }
        found
    };
    assert_eq!(seen.len(), 5);
    let averaged = near(&mut estimator, &seen);
    assert_ne!(averaged, weight(&estimator));
    let metrics = estimator.validate_ema().unwrap();
    estimator.save_ckpt().unwrap();
    // Back, and on: the mean is that of the branch.
    estimator.restore_ckpt(9).unwrap();
    near(&mut estimator, &seen[..2]);
    drop(estimator);
    let mut from_disk = Builder::<Line>::from_disk(dir.path(), 14).unwrap().build().unwrap();
    assert_eq!(from_disk.with_ema(|averaged| averaged.evaluate(points(17).batch(4))).unwrap(), metrics);
}

/// Goes on from what is in a directory with another setting: refused where training goes on, unless that was allowed.
#[test]
fn other_averages_are_another_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = in_dir(dir.path()).ema(0.9).accumulate(2).build().unwrap();
    first.setup(Inputs::train(train_data())).unwrap().train_steps(3).unwrap();
    first.save_ckpt().unwrap();
    let averaged = first.with_ema(|first| first.hashes()).unwrap();
    first.train_steps(4).unwrap();
    let (unbroken, unbroken_average) = (first.hashes().unwrap(), first.with_ema(|first| first.hashes()).unwrap());
    drop(first);

    // From the disk it is the run that it was, without a word about its settings.
    let mut again = Elistimator::<Line>::from_disk(dir.path()).unwrap();
    assert_eq!(again.with_ema(|again| again.hashes()).unwrap(), averaged);
    again.setup(Inputs::train(train_data())).unwrap().train_steps(4).unwrap();
    assert_eq!(again.hashes().unwrap(), unbroken);
    assert_eq!(again.with_ema(|again| again.hashes()).unwrap(), unbroken_average);
    drop(again);

    type Change = fn(Builder<Line>) -> Builder<Line>;
    let others: [Change; 3] = [|builder| builder, |builder| builder.ema(0.99), |builder| builder.swa(0, 1)];
    for change in others {
        let other = || change(in_dir(dir.path()).accumulate(2));
        let mut refused = other().resume_or_start().unwrap();
        let error = refused.setup(Inputs::train(train_data())).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        let said = error.to_string();
        assert!(said.contains("averages: ") && said.contains("was ") && said.contains("0.9"), "{error}");
        assert!(error.to_string().contains("Builder::allow(Setting::Averages)"), "{error}");
        drop(refused);
        let mut allowed = other().allow(Setting::Averages).resume_or_start().unwrap();
        allowed.setup(Inputs::train(train_data())).unwrap().train_steps(1).unwrap();
    }
}
