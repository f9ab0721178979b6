//! A run that is stopped, saved and restored is the run that was not.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Line, in_dir, points, quiet, train_data};
use elistimator::prelude::*;

fn inputs() -> Inputs {
    Inputs::train(train_data().prefetch(2)).validation(points(17).batch(4))
}

#[test]
fn resumed_runs_are_bit_identical_at_every_kind_of_stop() {
    let unbroken_dir = tempfile::tempdir().unwrap();
    let mut unbroken = in_dir(unbroken_dir.path()).build().unwrap();
    unbroken.setup(inputs()).unwrap().train_until(50).unwrap();
    let expected = unbroken.hashes().unwrap();

    // At 0, in the middle of an epoch, at the end of one, in the second.
    for stop in [0, 1, 7, 20, 33] {
        let dir = tempfile::tempdir().unwrap();
        let mut first = in_dir(dir.path()).build().unwrap();
        first.setup(inputs()).unwrap().train_until(stop).unwrap().save_ckpt().unwrap();
        drop(first);
        let mut second = in_dir(dir.path()).resume_or_start().unwrap();
        assert_eq!(second.global_step(), stop);
        second.setup(inputs()).unwrap().train_until(50).unwrap();
        assert_eq!(second.hashes().unwrap(), expected, "stopped at {stop}");
        assert_eq!(second.epoch(), 2);
        drop(second);

        let mut third = Elistimator::<Line>::from_disk(dir.path()).unwrap();
        third.setup(inputs()).unwrap().train_until(50).unwrap();
        assert_eq!(third.hashes().unwrap(), expected, "from disk at {stop}");
    }
}

#[test]
fn another_seed_is_another_run() {
    let hashes = |seed| {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = in_dir(dir.path()).seed(seed).build().unwrap();
        estimator.setup(inputs()).unwrap().train().unwrap();
        estimator.hashes().unwrap()
    };
    assert_ne!(hashes(1), hashes(2));
    assert_eq!(hashes(1), hashes(1));
}

#[test]
fn from_disk_predicts_without_any_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap().save_ckpt().unwrap();
    let x = || Array::new([1, 3], vec![0.5f32, 0.25, -0.5]).unwrap();
    let expected = estimator.predict([x()]).unwrap();
    // While the first one still holds the write lock: readers always work.
    let restored = Elistimator::<Line>::from_disk(dir.path()).unwrap();
    assert_eq!(restored.predict(inputs! { "x" => x() }).unwrap(), expected);
    assert_eq!(restored.signature(), estimator.signature());
    assert_eq!(restored.model(), &Line::default());
}

#[test]
fn going_back_to_the_best_and_on_makes_a_new_branch() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap().validate().unwrap();
    estimator.save_ckpt().unwrap();
    estimator.train().unwrap().save_ckpt().unwrap();
    estimator.restore_ckpt(20).unwrap().set_learning_rate(1e-4).train().unwrap();
    let branch = estimator.hashes().unwrap();
    estimator.save_ckpt().unwrap();
    assert_eq!(estimator.restore_latest().unwrap().hashes().unwrap(), branch);
    assert_eq!(estimator.learning_rate(), 1e-4, "a fixed learning rate is part of the checkpoint");
    estimator.restore_ckpt(20).unwrap().train().unwrap();
    assert_ne!(estimator.hashes().unwrap(), branch);
}

#[test]
fn metrics_stick_whether_validated_before_or_after_the_save() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap().save_ckpt().unwrap();
    let after = estimator.validate().unwrap();
    let before = estimator.train().unwrap().validate().unwrap();
    estimator.save_ckpt().unwrap();
    drop(estimator);
    let estimator = Elistimator::<Line>::from_disk(dir.path()).unwrap();
    let kept: Vec<_> =
        estimator.checkpoints().unwrap().iter().map(|info| info.metrics.clone().unwrap()["loss"]).collect();
    assert_eq!(kept, [after.get("loss").unwrap(), before.get("loss").unwrap()]);
}

/// Guards, as `scripts/mutations.py` shows: the lock.
#[test]
fn a_second_writer_is_locked_out_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = in_dir(dir.path()).build().unwrap();
    first.setup(inputs()).unwrap();
    let mut second = in_dir(dir.path()).build().unwrap();
    assert_eq!(second.setup(inputs()).unwrap_err().kind(), ErrorKind::Locked);
    drop(first);
    second.setup(inputs()).unwrap();
}

#[test]
fn other_settings_are_refused_item_by_item() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap().save_ckpt().unwrap();
    drop(estimator);

    let error = in_dir(dir.path()).seed(4).resume_or_start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings);
    assert!(error.to_string().contains("seed: was 3, is now 4"), "{error}");
    in_dir(dir.path()).seed(4).allow(Setting::Seed).resume_or_start().unwrap();
    let other = Line { learning_rate: 0.01, ..Line::default() };
    let error = quiet(other.clone()).model_dir(dir.path()).resume_or_start().unwrap_err();
    assert!(error.to_string().contains("learning_rate"), "{error}");

    let mut estimator = in_dir(dir.path()).resume_or_start().unwrap();
    let error = estimator.setup(Inputs::train(points(100).shuffle(40).batch(10))).unwrap_err();
    assert!(error.to_string().contains("batch_size: was 5, is now 10"), "{error}");
    let new_data = Inputs::train(points(60).batch(10)).continue_with_new_data();
    estimator.setup(new_data).unwrap().train().unwrap();
    assert_eq!((estimator.global_step(), estimator.epoch()), (26, 2));
    assert!(estimator.differences().iter().any(|difference| difference.setting == Setting::BatchSize));
}

#[test]
fn other_data_of_the_same_shape_is_other_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).revision("1f0c").build().unwrap();
    estimator.setup(inputs()).unwrap().train_steps(7).unwrap().save_ckpt().unwrap();
    drop(estimator);
    let contents = elistimator::inspect::ModelDir::open(dir.path()).unwrap().contents(7).unwrap();
    assert_eq!(contents.settings["revision"], "1f0c");

    let other = || points(120).shuffle(40).batch(5);
    let mut estimator = in_dir(dir.path()).revision("2e9a").resume_or_start().unwrap();
    let before = estimator.hashes().unwrap();
    let error = estimator.setup(Inputs::train(other())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings);
    let message = error.to_string();
    assert!(message.contains("data: was") && message.contains("100") && message.contains("120"), "{message}");
    assert!(message.contains("continue_with_new_data") && message.contains("Setting::Data"), "{message}");
    assert!(!message.contains("batch_size:"), "{message}");
    assert_eq!(estimator.hashes().unwrap(), before);
    // Both together are refused together.
    let error = estimator.setup(Inputs::train(points(120).batch(6))).unwrap_err().to_string();
    assert!(error.contains("data: was") && error.contains("batch_size: was 5, is now 6"), "{error}");
    estimator.setup(inputs()).unwrap();
    drop(estimator);

    let allowing = in_dir(dir.path()).allow(Setting::Data);
    for (builder, inputs) in
        [(allowing, Inputs::train(other())), (in_dir(dir.path()), Inputs::train(other()).continue_with_new_data())]
    {
        let mut estimator = builder.resume_or_start().unwrap();
        estimator.setup(inputs).unwrap().train().unwrap();
        assert_eq!(
            (estimator.global_step(), estimator.epoch()),
            (7 + 24, 1),
            "an epoch of the new data from its start"
        );
        assert!(estimator.differences().iter().all(|difference| difference.setting == Setting::Data));
    }
}

/// The checkpoint of the same step that an earlier branch has left has other weights.
#[test]
fn metrics_are_not_put_on_the_checkpoint_of_another_branch() {
    for background in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = in_dir(dir.path()).background_saving(background).build().unwrap();
        estimator.setup(inputs()).unwrap().train_steps(10).unwrap().save_ckpt().unwrap();
        estimator.train_steps(10).unwrap().save_ckpt().unwrap();
        let first = estimator.validate().unwrap();
        let on_disk = || in_dir(dir.path()).build().unwrap().checkpoints().unwrap()[1].metrics.clone().unwrap();
        assert_eq!(on_disk()["loss"].to_bits(), first.get("loss").unwrap().to_bits());

        estimator.restore_ckpt(10).unwrap().set_learning_rate(0.0);
        let second = estimator.train_steps(10).unwrap().validate().unwrap();
        assert_ne!(first, second);
        assert_eq!(on_disk()["loss"].to_bits(), first.get("loss").unwrap().to_bits(), "its own stay");
        if background {
            estimator.save_ckpt_in_background().unwrap();
        } else {
            estimator.save_ckpt().unwrap();
        }
        estimator.validate().unwrap();
        assert_eq!(on_disk()["loss"].to_bits(), second.get("loss").unwrap().to_bits());
    }
}

/// In whichever order the data and the checkpoint come.
#[test]
fn other_data_that_was_set_up_before_the_restore_is_other_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train_steps(7).unwrap().save_ckpt().unwrap();
    drop(estimator);

    let other = || Inputs::train(points(120).shuffle(40).batch(6));
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(other()).unwrap();
    let before = estimator.hashes().unwrap();
    let error = estimator.restore_latest().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings);
    let message = error.to_string();
    assert!(message.contains("data: was") && message.contains("batch_size: was 5, is now 6"), "{message}");
    assert_eq!((estimator.hashes().unwrap(), estimator.global_step()), (before, 0), "nothing was restored");
    estimator.setup(inputs()).unwrap().restore_latest().unwrap().train().unwrap();
    assert_eq!((estimator.global_step(), estimator.epoch()), (20, 1), "the rest of the epoch");

    estimator.setup(other().continue_with_new_data()).unwrap().restore_latest().unwrap().train().unwrap();
    assert_eq!((estimator.global_step(), estimator.epoch()), (7 + 20, 1), "an epoch of the new data from its start");
}

/// Guards, as `scripts/mutations.py` shows: the swap: all is checked before anything changes.
#[test]
fn a_failed_restore_changes_nothing() {
    #[derive(Serialize, Deserialize)]
    struct Wider(Line);
    impl ModelFn for Wider {
        type Net = common::LineNet<Cpu>;
        fn build(&self, device: &Cpu) -> ModelResult<Self::Net> {
            Ok(common::LineNet {
                hidden: Linear::builder(3, 9).build(device)?,
                dropout: Dropout::new(0.2),
                out: Linear::builder(9, 1).build(device)?,
            })
        }
        fn optimizer(&self) -> OptimizerConfig {
            ModelFn::<Cpu>::optimizer(&self.0)
        }
        fn train(
            &self,
            net: &mut Self::Net,
            f: &Features<Cpu>,
            step: &mut Step<'_, Cpu>,
        ) -> ModelResult<TrainSpec<Cpu>> {
            self.0.train(net, f, step)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap();
    let saved = estimator.save_ckpt().unwrap();
    drop(estimator);
    let mut wider = Elistimator::builder(Wider(Line::default()))
        .model_dir(dir.path())
        .allow(Setting::HyperParameters)
        .seed(3)
        .build()
        .unwrap();
    let before = wider.hashes().unwrap();
    let error = wider.restore_ckpt(&saved).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("hidden.weight"), "{error}");
    assert_eq!(wider.hashes().unwrap(), before);
    assert_eq!(wider.global_step(), 0);
}

/// The same in the middle of a run, whatever is wrong with what was to be restored: the run ends as if nobody had tried.
#[test]
fn a_failed_restore_in_the_middle_of_a_run_changes_nothing() {
    let (other_dir, seed_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut other = in_dir(other_dir.path()).max_to_keep(0).save_every(Every::Steps(1)).build().unwrap();
    other.setup(inputs()).unwrap().train_steps(8).unwrap();
    let saved = other.checkpoints().unwrap();
    let files = ["model.safetensors", "optimizer.safetensors", "hyper_parameters.json", "state.bin"];
    for (info, file) in saved.iter().zip(files) {
        std::fs::remove_file(info.path.join(file)).unwrap();
    }
    for (info, file) in saved[4..].iter().zip(files) {
        let mut bytes = std::fs::read(info.path.join(file)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(info.path.join(file), bytes).unwrap();
    }
    let mut seeded = in_dir(seed_dir.path()).seed(4).build().unwrap();
    let with_other_seed = seeded.save_ckpt().unwrap();

    let unbroken_dir = tempfile::tempdir().unwrap();
    let mut unbroken = in_dir(unbroken_dir.path()).ema(0.9).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).ema(0.9).build().unwrap();
    for estimator in [&mut unbroken, &mut estimator] {
        estimator.setup(inputs()).unwrap().train_steps(7).unwrap().keep("mine", &1).unwrap();
        estimator.validate().unwrap();
    }
    for info in saved[..8].iter().chain([&with_other_seed]) {
        let error = estimator.restore_ckpt(info).unwrap_err();
        assert!(!error.to_string().is_empty());
        assert_eq!((estimator.global_step(), estimator.epoch()), (7, 0), "{error}");
        assert_eq!(estimator.kept::<u32>("mine").unwrap(), Some(1), "{error}");
    }
    for estimator in [&mut unbroken, &mut estimator] {
        let metrics = estimator.save_ckpt().unwrap().metrics;
        assert!(metrics.is_some(), "those of its step");
        estimator.train_until(45).unwrap();
    }
    assert_eq!(estimator.hashes().unwrap(), unbroken.hashes().unwrap());
    let ema = |estimator: &mut Elistimator<Line>| estimator.validate_ema().unwrap().get("loss").unwrap();
    assert_eq!(ema(&mut estimator), ema(&mut unbroken));
}

#[test]
fn a_hyper_parameter_added_with_a_default_still_loads_old_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    let saved = estimator.save_ckpt().unwrap();
    let json = std::fs::read_to_string(saved.path.join("hyper_parameters.json")).unwrap();
    assert!(json.contains("added_later"), "{json}");

    /// The same model before the field was added.
    #[derive(Serialize, Deserialize)]
    struct Old {
        learning_rate: f64,
    }
    impl ModelFn for Old {
        type Net = common::LineNet<Cpu>;
        fn build(&self, device: &Cpu) -> ModelResult<Self::Net> {
            Line::default().build(device)
        }
        fn optimizer(&self) -> OptimizerConfig {
            ModelFn::<Cpu>::optimizer(&Line::default())
        }
        fn train(
            &self,
            net: &mut Self::Net,
            f: &Features<Cpu>,
            step: &mut Step<'_, Cpu>,
        ) -> ModelResult<TrainSpec<Cpu>> {
            Line::default().train(net, f, step)
        }
    }
    let old_dir = tempfile::tempdir().unwrap();
    let mut old = Elistimator::builder(Old { learning_rate: 0.5 }).model_dir(old_dir.path()).build().unwrap();
    old.save_ckpt().unwrap();
    let now = Elistimator::<Line>::from_disk(old_dir.path()).unwrap();
    assert_eq!(now.model(), &Line { learning_rate: 0.5, added_later: 0 });
}

#[test]
fn kept_values_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.keep("patience", &(3u32, "epochs")).unwrap().save_ckpt().unwrap();
    let restored = Elistimator::<Line>::from_disk(dir.path()).unwrap();
    assert_eq!(restored.kept::<(u32, String)>("patience").unwrap(), Some((3, "epochs".to_owned())));
    assert_eq!(restored.kept::<u32>("other").unwrap(), None);
    assert!(restored.kept::<Vec<u32>>("patience").is_err());
}

#[test]
fn saving_every_so_many_steps_happens_inside_the_verbs() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).save_every(Every::Steps(6)).max_to_keep(0).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap();
    let steps: Vec<_> = estimator.checkpoints().unwrap().iter().map(|info| info.step).collect();
    assert_eq!(steps, [6, 12, 18]);
}

#[test]
fn a_run_resumed_at_the_very_end_of_an_epoch_ends_it_without_a_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).save_every(Every::Steps(10)).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap();
    drop(estimator);
    // The last save was inside `train`, before the epoch was over: so is the validation that follows in the unbroken run.
    let mut resumed = in_dir(dir.path()).resume_or_start().unwrap();
    assert_eq!((resumed.global_step(), resumed.epoch()), (20, 0));
    resumed.setup(inputs()).unwrap().train().unwrap();
    assert_eq!((resumed.global_step(), resumed.epoch()), (20, 1));
    resumed.train().unwrap();
    assert_eq!((resumed.global_step(), resumed.epoch()), (40, 2));
}
