//! What a run logs beside its losses: rates, waiting, memory, the norm of the gradients.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{in_dir, points, python};
use elistimator::prelude::*;
use elistimator::summary::History;

const GAUGES: [&str; 4] = ["steps_per_second", "examples_per_second", "data_wait", "learning_rate"];

fn trained(dir: &Path, configure: impl FnOnce(Builder<common::Line, Cpu>) -> Builder<common::Line, Cpu>) -> History {
    let mut estimator = configure(in_dir(dir)).build().unwrap();
    estimator.setup(Inputs::train(points(100).batch(5))).unwrap();
    estimator.train_steps(13).unwrap().train_steps(12).unwrap();
    History::load(dir).unwrap()
}

fn steps(history: &History, name: &str) -> Vec<u64> {
    history.series(name).iter().map(|(step, _)| *step).collect()
}

#[test]
fn every_logged_step_has_its_gauges() {
    let dir = tempfile::tempdir().unwrap();
    let history = trained(dir.path(), |builder| builder);
    for name in GAUGES {
        assert_eq!(steps(&history, &format!("train/{name}")), (1..=25).collect::<Vec<u64>>(), "{name}");
    }
    assert_eq!(steps(&history, "train/gradient_norm"), [10, 20]);
    assert!(history.series("train/data_wait").iter().all(|(_, share)| (0.0..=1.0).contains(share)));
    for ((_, rate), (_, examples)) in
        history.series("train/steps_per_second").iter().zip(history.series("train/examples_per_second"))
    {
        assert!(*rate > 0.0 && (examples - 5.0 * rate).abs() < 1e-6 * examples);
    }
    if cfg!(target_os = "linux") {
        assert!(history.series("train/memory").iter().all(|(_, memory)| *memory > 1.0));
    }
    assert_eq!(history.without_machine().names(), ["train/gradient_norm", "train/learning_rate", "train/loss"]);

    let script = "import sys\nfrom tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n\
        events = EventAccumulator(sys.argv[1] + '/train', size_guidance={'scalars': 0})\nevents.Reload()\n\
        for tag in sorted(events.Tags()['scalars']): print(tag, len(events.Scalars(tag)))";
    let Some(text) = python("tensorboard", script, dir.path()) else { return };
    for name in GAUGES {
        assert!(text.contains(&format!("{name} 25\n")), "{text}");
    }
    assert!(text.contains("gradient_norm 2\n"), "{text}");
}

#[test]
fn gauges_follow_the_steps_that_are_logged() {
    let dir = tempfile::tempdir().unwrap();
    let history = trained(dir.path(), |builder| builder.summary_every(4).gradient_norm_every(2));
    assert_eq!(steps(&history, "train/steps_per_second"), [4, 8, 12, 16, 20, 24]);
    assert_eq!(steps(&history, "train/gradient_norm"), [8, 16, 24]);
    let quiet = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(quiet.path()).summary_every(0).build().unwrap();
    estimator.setup(Inputs::train(points(100).batch(5))).unwrap().train().unwrap();
    assert!(History::load(quiet.path()).is_err());
}

#[test]
fn measuring_the_norm_changes_no_weight() {
    let weights = |every: u64| {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = in_dir(dir.path()).gradient_norm_every(every).build().unwrap();
        estimator.setup(Inputs::train(points(100).batch(5))).unwrap().train().unwrap();
        let saved = estimator.save_ckpt().unwrap();
        std::fs::read(saved.path.join("model.safetensors")).unwrap()
    };
    assert_eq!(weights(0), weights(1));
}

#[test]
fn slow_data_shows_as_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let slow = points(100).batch(5).map(|record| {
        std::thread::sleep(Duration::from_millis(20));
        Ok(record)
    });
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(Inputs::train(slow)).unwrap().train_steps(5).unwrap();
    let history = History::load(dir.path()).unwrap();
    let (waits, rates) = (history.series("train/data_wait"), history.series("train/steps_per_second"));
    assert_eq!((waits.len(), rates.len()), (5, 5));
    // The first batch was there already. The share is of the time of that one step, however long the machine took for it.
    for ((_, share), (_, rate)) in waits[1..].iter().zip(&rates[1..]) {
        let waited = share / rate;
        assert!(waited >= 0.0199 && *share <= 1.0, "{waited} s of waiting: {waits:?} {rates:?}");
    }
}

#[test]
fn looking_at_an_old_checkpoint_takes_nothing_from_the_history_and_training_on_does() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = || Inputs::train(points(100).batch(5)).validation(points(20).batch(5));
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train_steps(5).unwrap().save_ckpt().unwrap();
    estimator.train_steps(5).unwrap().save_ckpt().unwrap();
    drop(estimator);
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.restore_ckpt(5).unwrap().setup(inputs()).unwrap().validate().unwrap();
    let history = History::load(dir.path()).unwrap();
    assert_eq!(steps(&history, "train/loss"), (1..=10).collect::<Vec<u64>>());
    assert_eq!(steps(&history, "validation/loss"), [5]);
    estimator.train_steps(1).unwrap();
    let history = History::load(dir.path()).unwrap();
    assert_eq!(steps(&history, "train/loss"), (1..=6).collect::<Vec<u64>>());
    assert_eq!(steps(&history, "validation/loss"), [5]);
}
