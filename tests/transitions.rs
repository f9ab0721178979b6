//! What one verb leaves for the next, where two of them meet.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Line, in_dir, points, train_data};
use elistimator::data::Random;
use elistimator::optim::ReduceOnPlateau;
use elistimator::prelude::*;
use elistimator::summary::History;

fn inputs() -> Inputs {
    Inputs::train(train_data()).validation(points(17).batch(4))
}

fn ready(dir: &Path) -> Elistimator<Line> {
    let mut estimator = in_dir(dir).build().unwrap();
    estimator.setup(inputs()).unwrap();
    estimator
}

fn metrics_of(estimator: &Elistimator<Line>, step: u64) -> Option<f64> {
    let infos = estimator.checkpoints().unwrap();
    let info = infos.iter().find(|info| info.step == step).unwrap();
    info.metrics.as_ref().map(|metrics| metrics["loss"])
}

/// Rule: a pinned step is kept for ever, whatever is saved there.
#[test]
fn a_step_that_is_saved_again_stays_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(dir.path());
    estimator.train_until(5).unwrap().save_ckpt().unwrap();
    estimator.pin(5).unwrap();
    let again = estimator.save_ckpt().unwrap();
    assert!(again.is_pinned && estimator.checkpoints().unwrap()[0].is_pinned);
    // Also for who reads the checkpoints themselves.
    std::fs::remove_file(dir.path().join("checkpoints/elistimator_meta")).unwrap();
    drop(estimator);
    let mut estimator = in_dir(dir.path()).max_to_keep(1).resume_or_start().unwrap();
    estimator.setup(inputs()).unwrap();
    for _ in 0..3 {
        estimator.train_steps(1).unwrap().save_ckpt().unwrap();
    }
    let steps: Vec<u64> = estimator.checkpoints().unwrap().iter().map(|info| info.step).collect();
    assert_eq!(steps, [5, 8]);
    estimator.unpin(5).unwrap().save_ckpt().unwrap();
    assert_eq!(estimator.checkpoints().unwrap().len(), 1);
}

/// Rule: metrics go to the checkpoint that was restored, also when a save went on beside the restore.
#[test]
fn metrics_go_to_the_restored_checkpoint_after_a_save_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(dir.path());
    estimator.train_until(5).unwrap().save_ckpt().unwrap();
    estimator.train_until(10).unwrap().save_ckpt_in_background().unwrap().restore_ckpt(5).unwrap();
    let loss = estimator.validate().unwrap().get("loss").unwrap();
    assert_eq!(metrics_of(&estimator, 5), Some(loss));
    assert_eq!(metrics_of(&estimator, 10), None);
}

/// Rule: the closure runs after every save, whichever verb comes to know that it is done.
#[test]
fn the_closure_after_a_background_save_runs_when_another_save_follows() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(dir.path());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    estimator.after_save(move |_, info| {
        copy.lock().unwrap().push((info.step, info.path.exists()));
        Ok(())
    });
    estimator.train_until(5).unwrap().save_ckpt_in_background().unwrap().train_until(6).unwrap();
    estimator.save_ckpt().unwrap();
    assert_eq!(*seen.lock().unwrap(), [(5, true)]);
    // Its error is told, and no reason not to save.
    estimator.after_save(|_, _| Err(Error::new(ErrorKind::Io, "the copy failed")));
    estimator.train_until(7).unwrap().save_ckpt_in_background().unwrap();
    let error = estimator.save_ckpt().unwrap_err();
    assert!(error.to_string().contains("the copy failed"), "{error}");
    assert_eq!(estimator.save_ckpt().unwrap().order, 5, "both were saved");
}

/// Rule: one writer, also in a directory that took the place of this run's.
#[test]
fn a_run_touches_no_checkpoint_of_another_that_took_the_place_of_its_directory() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("run");
    let mut first = ready(&dir);
    for step in 1..=3 {
        first.train_until(step).unwrap().save_ckpt().unwrap();
    }
    std::fs::rename(&dir, above.path().join("old")).unwrap();
    let mut second = ready(&dir);
    for step in 1..=3 {
        second.train_until(step).unwrap().save_ckpt().unwrap();
    }
    assert_eq!(first.pin(1).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(first.validate().unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(first.setup(inputs()).unwrap_err().kind(), ErrorKind::Locked);
    drop(second);
    let found = in_dir(&dir).build().unwrap().checkpoints().unwrap();
    assert!(found.len() == 3 && found.iter().all(|info| info.metrics.is_none() && !info.is_pinned), "{found:?}");
    // The other one is gone: its directory is taken over, but its checkpoint of this step is still its own.
    first.validate().unwrap();
    assert_eq!(metrics_of(&first, 3), None);
}

/// Rule: metrics go to the checkpoint whose weights were measured, not to one of the same step and number elsewhere.
#[test]
fn metrics_of_a_checkpoint_from_below_the_model_directory_are_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(dir.path());
    estimator.train_until(4).unwrap().save_ckpt().unwrap();
    let averaged = estimator.average_checkpoints(1).unwrap().save_ckpt().unwrap();
    estimator.restore_ckpt(&averaged).unwrap().validate().unwrap();
    assert_eq!(metrics_of(&estimator, 4), None);
}

/// Rule: data that the run is at already is no new data, however often it is set up.
#[test]
fn new_data_that_is_set_up_again_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    ready(dir.path()).train_until(7).unwrap().save_ckpt().unwrap();
    let other = || Inputs::train(points(60).shuffle(10).batch(5)).continue_with_new_data();
    let go_on = |again: bool| {
        let mut estimator = in_dir(dir.path()).resume_or_start().unwrap();
        estimator.setup(other()).unwrap().train_steps(3).unwrap();
        if again {
            estimator.setup(other()).unwrap();
        }
        estimator.train_steps(4).unwrap();
        estimator.hashes().unwrap()
    };
    assert_eq!(go_on(false), go_on(true));
}

#[derive(Serialize, Deserialize)]
struct Unbounded {
    limit: f64,
}

impl ModelFn for Unbounded {
    type Net = Linear<Cpu>;

    fn build(&self, device: &Cpu) -> ModelResult<Self::Net> {
        Linear::new(device, 1, 1)
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(0.1).into()
    }

    fn train(
        &self,
        net: &mut Self::Net,
        features: &Features<Cpu>,
        step: &mut Step<'_, Cpu>,
    ) -> ModelResult<TrainSpec<Cpu>> {
        let x = features.tensor::<(usize, usize)>("x")?.traced(step.tape()?);
        Ok(TrainSpec::new(net.forward(x)?.try_square()?.try_mean()?))
    }
}

/// Rule: what was saved can be read back.
#[test]
fn hyper_parameters_that_do_not_come_back_are_refused_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let build = |limit| Elistimator::builder(Unbounded { limit }).model_dir(dir.path()).build();
    for limit in [f64::INFINITY, f64::NAN] {
        let error =
            build(limit).map(|mut estimator| estimator.save_ckpt().map(|_| ())).and_then(|saved| saved).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("null"), "{error}");
    }
    build(2.0).unwrap().save_ckpt().unwrap();
    assert_eq!(Elistimator::<Unbounded>::from_disk(dir.path()).unwrap().model().limit, 2.0);
}

/// Rule: the best is never deleted; a run that is looked at again has the best and the retention that it had.
#[test]
fn setting_up_a_run_from_the_disk_deletes_nothing_that_the_run_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).max_to_keep(0).build().unwrap();
    estimator.setup(inputs()).unwrap();
    for _ in 0..8 {
        estimator.train_steps(1).unwrap().save_ckpt().unwrap();
    }
    drop(estimator);
    let mut estimator = Elistimator::<Line>::from_disk(dir.path()).unwrap();
    estimator.setup(inputs()).unwrap();
    assert_eq!(estimator.checkpoints().unwrap().len(), 8);
    drop(estimator);

    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).max_to_keep(1).monitor("loss", Mode::Max).build().unwrap();
    estimator.setup(inputs()).unwrap();
    for _ in 0..3 {
        estimator.validate().unwrap();
        estimator.save_ckpt().unwrap();
        estimator.train().unwrap();
    }
    let steps = |estimator: &Elistimator<Line>| -> Vec<u64> {
        estimator.checkpoints().unwrap().iter().map(|info| info.step).collect()
    };
    assert_eq!(steps(&estimator), [0, 40]);
    drop(estimator);
    let mut estimator = Builder::<Line, Cpu>::from_disk(dir.path(), Which::Best).unwrap().build().unwrap();
    assert_eq!(estimator.global_step(), 0, "the best of the run");
    estimator.setup(inputs()).unwrap();
    assert_eq!(steps(&estimator), [0, 40]);
    estimator.train_steps(1).unwrap().save_ckpt().unwrap();
    assert_eq!(steps(&estimator), [0, 1]);
}

/// Rule: a checkpoint says what it was saved with, also without data.
#[test]
fn a_checkpoint_that_lost_its_averages_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || in_dir(dir.path()).ema(0.9);
    let mut estimator = builder().build().unwrap();
    estimator.setup(inputs()).unwrap().train_until(5).unwrap().save_ckpt().unwrap();
    drop(estimator);
    // Read by a program that keeps no averages, and saved again.
    in_dir(dir.path()).resume_or_start().unwrap().save_ckpt().unwrap();
    let error =
        builder().resume_or_start().and_then(|mut estimator| estimator.setup(inputs()).map(|_| ())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings);
    assert!(error.to_string().contains("averages"), "{error}");
    let error = in_dir(dir.path()).resume_or_start().unwrap().setup(Inputs::train(points(10).batch(2))).unwrap_err();
    assert!(error.to_string().contains("batch_size"), "what is known of the data stays true: {error}");
}

/// Rule: the metrics of a checkpoint are those of its weights.
#[test]
fn metrics_of_other_weights_do_not_stick() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(dir.path());
    let far = Array::new([1], vec![100.0f32]).unwrap();
    estimator.train_until(5).unwrap().validate().unwrap();
    estimator.set_variable("out.bias", &far).unwrap().save_ckpt().unwrap();
    assert_eq!(metrics_of(&estimator, 5), None, "measured before");
    estimator.train_until(6).unwrap().save_ckpt().unwrap();
    estimator.set_variable("out.bias", &far).unwrap().validate().unwrap();
    assert_eq!(metrics_of(&estimator, 6), None, "saved before");
    let info = estimator.save_ckpt().unwrap();
    assert!(info.metrics.is_some(), "of these");
}

/// Rule: what a session has measured stays in the history, also before the first step that is logged; what lies on another
/// branch goes.
#[test]
fn validations_before_the_first_logged_step_stay_in_the_history() {
    let validated = |dir: &Path| -> Vec<u64> {
        History::load(dir).unwrap().series("validation/loss").into_iter().map(|(step, _)| step).collect()
    };
    for every in [50, 0] {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = in_dir(dir.path()).summary_every(every).build().unwrap();
        estimator.setup(inputs()).unwrap();
        for epoch in 1..=4 {
            estimator.train().unwrap().validate().unwrap();
            if epoch == 1 {
                estimator.save_ckpt().unwrap();
            }
        }
        assert_eq!(validated(dir.path()), [20, 40, 60, 80], "every {every}");
        estimator.restore_latest().unwrap().train_steps(10).unwrap().validate().unwrap();
        assert_eq!(validated(dir.path()), [20, 30], "every {every}");
    }
}

const STEPS: u64 = 9;

/// 25 batches, of which three make a step, through every kind of stage whose place has to be found again.
fn tangled() -> Dataset {
    let noisy = |record: Record, random: &mut Random| {
        let x = record.get("x")?.as_slice::<f32>()?.iter().map(|x| x + 0.1 * random.normal()).collect::<Vec<_>>();
        let dims = record.get("x")?.dims().to_vec();
        Ok(record.with("x", Array::new(dims, x)?))
    };
    Dataset::interleave([points(60).shuffle(20), points(37)], 4)
        .random_map(noisy)
        .filter(|_| Ok(true))
        .parallel_map(2, Ok)
        .shuffle(30)
        .batch(4)
        .prefetch(2)
}

/// A program with everything that has a state, killed after some steps if a number is given; whether it came to its end.
fn session(dir: &Path, background: bool, killed_after: Option<u64>) -> bool {
    let builder = in_dir(dir).ema_every(0.9, 2).accumulate(3).save_every(Every::Steps(4)).max_to_keep(2);
    let mut estimator = builder.background_saving(background).resume_or_start().unwrap();
    let plateau = || ReduceOnPlateau::new("loss", Mode::Min).factor(0.5).patience(0).min_delta(0.05);
    let mut plateau = estimator.kept("plateau").unwrap().unwrap_or_else(plateau);
    let mut stop = estimator.kept("stop").unwrap().unwrap_or_else(|| EarlyStopping::new("loss", Mode::Min).patience(3));
    estimator.setup(Inputs::train(tangled()).validation(points(17).batch(4))).unwrap();
    let mut left = killed_after;
    while estimator.epoch() < 7 && !stop.is_finished() {
        let to_go = STEPS - (estimator.global_step() - STEPS * estimator.epoch());
        if let Some(steps) = left.filter(|&steps| steps < to_go) {
            estimator.train_steps(steps).unwrap();
            return false;
        }
        left = left.map(|steps| steps - to_go);
        let metrics = estimator.train().unwrap().validate().unwrap();
        let learning_rate = plateau.update(&metrics, estimator.learning_rate()).unwrap();
        if learning_rate != estimator.learning_rate() {
            estimator.set_learning_rate(learning_rate);
        }
        stop.update(&metrics, estimator.global_step()).unwrap();
        estimator.keep("plateau", &plateau).unwrap().keep("stop", &stop).unwrap();
        estimator.save_ckpt().unwrap();
    }
    true
}

/// Rule: exact resume, with everything at once.
#[test]
fn a_run_with_every_kind_of_state_that_is_killed_often_ends_like_the_unbroken_one() {
    let end = |dir: &Path| {
        let mut estimator = in_dir(dir).ema_every(0.9, 2).accumulate(3).resume_or_start().unwrap();
        let infos = estimator.checkpoints().unwrap();
        let infos: Vec<_> = infos.into_iter().map(|info| (info.step, info.metrics)).collect();
        let averaged = estimator.with_ema(|estimator| estimator.hashes()).unwrap();
        let history = History::load(dir).unwrap().without_machine();
        let names = ["train/loss", "train/learning_rate", "validation/loss"];
        let rates = estimator.learning_rate().to_bits();
        (estimator.hashes().unwrap(), averaged, infos, rates, names.map(|name| history.series(name)))
    };
    let whole = tempfile::tempdir().unwrap();
    assert!(session(whole.path(), false, None));
    let expected = end(whole.path());
    assert!(expected.4[1].iter().any(|(_, rate)| *rate < 0.05), "the rate was reduced");
    for (background, cuts) in
        [(false, [5, 3, 13, 9, 1, 7, 4]), (true, [2, 6, 8, 11, 9, 10, 5]), (true, [4, 5, 4, 9, 8, 4, 6])]
    {
        let dir = tempfile::tempdir().unwrap();
        for cut in cuts {
            session(dir.path(), background, Some(cut));
        }
        assert!(session(dir.path(), background, None));
        assert_eq!(end(dir.path()), expected, "background {background}, cuts {cuts:?}");
    }
}

/// Rule: a place in the data, a count of steps or calls that no run comes to is damage, never a panic.
#[test]
fn counts_that_no_run_comes_to_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(dir.path());
    estimator.train_until(5).unwrap().save_ckpt().unwrap();
    drop(estimator);
    let path = dir.path().join("checkpoints/model_iter-0000000005/state.bin");
    let good = std::fs::read(&path).unwrap();
    // Epoch, and batches of it.
    for place in [24, 32] {
        for count in [u64::MAX, u64::MAX - 1, 1 << 48] {
            let mut bytes = good[..good.len() - 4].to_vec();
            bytes[place..place + 8].copy_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
            std::fs::write(&path, &bytes).unwrap();
            let _ = std::fs::remove_file(dir.path().join("checkpoints/elistimator_meta"));
            match in_dir(dir.path()).resume_or_start() {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
                Ok(mut estimator) => {
                    estimator.setup(inputs()).unwrap().train_steps(3).unwrap().train().unwrap().validate().unwrap();
                    assert_eq!(count, 1 << 48);
                }
            }
        }
    }
}
