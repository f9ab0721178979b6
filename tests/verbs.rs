//! What each verb does, and what it says when it cannot.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Line, in_dir, points, quiet, train_data};
use elistimator::prelude::*;

fn ready(dir: &std::path::Path) -> Elistimator<Line> {
    let mut estimator = in_dir(dir).build().unwrap();
    estimator.setup(Inputs::train(train_data()).validation(points(17).batch(4))).unwrap();
    estimator
}

#[test]
fn verbs_chain_and_count_steps_and_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(dir.path());
    let before = estimator.evaluate(points(17).batch(4)).unwrap().get("loss").unwrap();
    let after = estimator.train().unwrap().train().unwrap().validate().unwrap().get("loss").unwrap();
    assert!(after < before / 2.0, "loss {before} -> {after}");
    assert_eq!((estimator.global_step(), estimator.epoch()), (40, 2));
    estimator.save_ckpt().unwrap();
    estimator.train().unwrap().save_ckpt().unwrap();
    let restored = estimator.restore_best().unwrap().evaluate(points(17).batch(4)).unwrap();
    assert_eq!(restored.get("loss").unwrap(), after);
    estimator.restore_latest().unwrap();
    let of_best = estimator.evaluate_ckpt(Which::Best, points(17).batch(4), None).unwrap();
    assert_eq!(of_best.get("loss").unwrap(), after);
    assert_eq!(estimator.global_step(), 60, "the network in training stays as it is");
    let error = estimator.restore_ckpt(99).unwrap_err();
    assert!(error.to_string().contains("[40, 60]"), "{error}");
}

#[test]
fn partial_passes_go_on_where_they_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = ready(dir.path());
    whole.train().unwrap();
    let other = tempfile::tempdir().unwrap();
    let mut parts = ready(other.path());
    parts.train_steps(7).unwrap().train_until(12).unwrap().train_steps(0).unwrap();
    assert_eq!((parts.global_step(), parts.epoch()), (12, 0));
    parts.train().unwrap();
    assert_eq!((parts.global_step(), parts.epoch()), (20, 1));
    assert_eq!(whole.hashes().unwrap(), parts.hashes().unwrap());
    parts.train_steps(25).unwrap();
    assert_eq!((parts.global_step(), parts.epoch()), (45, 2));
    parts.train_until(3).unwrap();
    assert_eq!(parts.global_step(), 45);
}

#[test]
fn a_pass_that_ends_exactly_with_its_steps_begins_the_next_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(dir.path());
    estimator.train_steps(20).unwrap();
    assert_eq!(estimator.epoch(), 1);
    estimator.train().unwrap();
    assert_eq!((estimator.global_step(), estimator.epoch()), (40, 2));
}

#[test]
fn train_for_ends_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(dir.path());
    let start = Instant::now();
    // Others may have the processor all that time.
    for _ in 0..100 {
        estimator.train_for(Duration::from_millis(50)).unwrap();
        if estimator.global_step() > 0 {
            break;
        }
    }
    // It goes from epoch to epoch: without a look at the clock it would not end at all.
    assert!(start.elapsed() < Duration::from_secs(120));
    assert!(estimator.global_step() > 0);
    assert_eq!(estimator.train_for(Duration::MAX).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn verbs_in_the_wrong_order_say_what_to_call_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    for error in [
        estimator.train().unwrap_err(),
        estimator.train_steps(1).unwrap_err(),
        estimator.validate().unwrap_err(),
        estimator.predict(Record::new()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::WrongOrder);
        assert!(error.to_string().contains("`setup`"), "{error}");
    }
    assert_eq!(estimator.restore_latest().unwrap_err().kind(), ErrorKind::NotFound);
    estimator.setup(Inputs::train(train_data())).unwrap();
    let error = estimator.validate().unwrap_err();
    assert!(error.to_string().contains("Inputs::validation"), "{error}");
}

#[test]
fn evaluate_and_predict_work_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let estimator = ready(dir.path());
    assert!(estimator.evaluate(points(9).batch(2)).unwrap().get("loss").unwrap().is_finite());
    let outputs = estimator.predict(inputs! { "x" => Array::new([2, 3], vec![0.1f32; 6]).unwrap() }).unwrap();
    assert_eq!(outputs.get("y").unwrap().dims(), [2, 1]);
}

#[test]
fn the_loss_is_the_mean_over_examples_not_batches() {
    let dir = tempfile::tempdir().unwrap();
    let estimator = ready(dir.path());
    let by_three = estimator.evaluate(points(7).batch(3)).unwrap().get("loss").unwrap();
    let at_once = estimator.evaluate(points(7).batch(7)).unwrap().get("loss").unwrap();
    assert!((by_three - at_once).abs() < 1e-6 * at_once.abs().max(1.0), "{by_three} against {at_once}");
    let first = estimator.evaluate_steps(points(7).batch(3), 1).unwrap().get("loss").unwrap();
    assert_ne!(first, by_three);
    assert!(estimator.evaluate_steps(points(7).batch(3), 0).is_err());
}

#[test]
fn predict_goes_by_name_and_by_position_and_checks_both() {
    let dir = tempfile::tempdir().unwrap();
    let estimator = ready(dir.path());
    let x = || Array::new([1, 3], vec![0.5f32, 0.25, -0.5]).unwrap();
    let named = estimator.predict(inputs! { "x" => x() }).unwrap();
    assert_eq!(named, estimator.predict([x()]).unwrap());
    let twice = estimator.predict_outputs([x()], &["twice"]).unwrap();
    assert_eq!(twice.names().collect::<Vec<_>>(), ["twice"]);
    assert!(estimator.predict_outputs([x()], &["trice"]).unwrap_err().to_string().contains("twice"));

    let unknown = estimator.predict(inputs! { "z" => x() }).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Signature);
    assert!(unknown.to_string().contains("\"x\""), "known names are listed: {unknown}");
    // One example, without the batch axis.
    assert_eq!(named, estimator.predict(inputs! { "x" => vec![0.5f32, 0.25, -0.5] }).unwrap());
    let rank = estimator.predict(inputs! { "x" => vec![0.5f32, 0.25] }).unwrap_err();
    assert!(rank.to_string().contains("batch"), "a hint at the batch dimension: {rank}");
    let dtype = estimator.predict(inputs! { "x" => Array::new([1, 3], vec![1i64; 3]).unwrap() }).unwrap_err();
    assert!(dtype.to_string().contains("f32") && dtype.to_string().contains("i64"), "{dtype}");
    let missing = estimator.predict(inputs! { "y" => Array::new([1, 1], vec![0f32]).unwrap() }).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Signature);
    assert_eq!(missing.to_string(), "predict: input \"x\" is missing; given are [\"y\"]");
}

#[test]
fn predict_all_is_lazy_and_gives_batches_or_examples() {
    let dir = tempfile::tempdir().unwrap();
    let estimator = ready(dir.path());
    let batches: Vec<_> = estimator.predict_all(points(7).batch(3)).unwrap().map(|batch| batch.unwrap()).collect();
    assert_eq!(batches.iter().map(|batch| batch.get("y").unwrap().dims()[0]).collect::<Vec<_>>(), [3, 3, 1]);
    let endless = points(7).repeat_forever().batch(3);
    assert_eq!(estimator.predict_all(endless).unwrap().examples().take(10).filter(|e| e.is_ok()).count(), 10);
}

#[test]
fn single_examples_where_batches_belong_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    let error = estimator.setup(Inputs::train(points(10))).unwrap_err();
    assert!(error.to_string().contains(".batch(n)"), "{error}");
}

#[test]
fn named_validation_sets_are_monitored_under_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).monitor("dev2/loss", Mode::Min).build().unwrap();
    let inputs =
        Inputs::train(train_data()).validation(points(9).batch(3)).validation_named("dev2", points(6).batch(3));
    estimator.setup(inputs).unwrap();
    estimator.train().unwrap().validate().unwrap();
    estimator.validate_named("dev2").unwrap();
    let saved = estimator.save_ckpt().unwrap();
    let metrics = saved.metrics.unwrap();
    assert!(metrics.contains_key("loss") && metrics.contains_key("dev2/loss"), "{metrics:?}");
    assert_eq!(estimator.restore_best().unwrap().global_step(), 20);
    assert!(estimator.validate_named("dev3").unwrap_err().to_string().contains("dev2"));
    assert!(dir.path().join("validation_dev2").is_dir());
}

#[test]
fn a_model_without_evaluate_or_predict_trains_and_says_what_is_missing() {
    #[derive(Serialize, Deserialize)]
    struct Bare(Line);
    impl ModelFn for Bare {
        type Net = common::LineNet<Cpu>;
        fn build(&self, device: &Cpu) -> ModelResult<Self::Net> {
            self.0.build(device)
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
    let mut estimator =
        Elistimator::builder(Bare(Line::default())).model_dir(dir.path()).progress(ProgressMode::Off).build().unwrap();
    estimator.setup(Inputs::train(train_data()).validation(train_data())).unwrap().train_steps(3).unwrap();
    for error in [
        estimator.validate().unwrap_err(),
        estimator.predict([Array::new([1, 3], vec![0f32; 3]).unwrap()]).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotProvided);
    }
}

#[test]
fn errors_and_panics_of_the_data_reach_the_caller_and_leave_the_estimator_usable() {
    for prefetch in [0, 2] {
        for panics in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut estimator = in_dir(dir.path()).build().unwrap();
            let failing = points(50)
                .map(move |record| {
                    if record.get("x")?.as_slice::<f32>()?[0] == points_at(17) {
                        if panics {
                            panic!("bad example");
                        }
                        return Err(Error::new(ErrorKind::Data, "bad example"));
                    }
                    Ok(record)
                })
                .batch(5)
                .prefetch(prefetch);
            estimator.setup(Inputs::train(failing)).unwrap();
            let error = estimator.train().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data, "{error}");
            assert!(error.to_string().contains("bad example") && error.to_string().contains("17"), "{error}");
            assert_eq!(estimator.global_step(), 3);
            estimator.save_ckpt().unwrap();
            estimator.setup(Inputs::train(train_data())).unwrap().train().unwrap();
        }
    }
}

fn points_at(example: usize) -> f32 {
    ((3 * example * 37 % 101) as f32) / 50.0 - 1.0
}

#[test]
fn a_nan_loss_is_reported_with_its_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = quiet(Line { learning_rate: 1e30, ..Line::default() }).model_dir(dir.path()).build().unwrap();
    estimator.setup(Inputs::train(train_data())).unwrap();
    let error = estimator.train().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFinite);
    assert!(error.to_string().starts_with("step "), "{error}");
}

#[test]
fn estimators_move_between_threads_and_are_shared_on_the_cpu() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    fn sync<T: Sync>(value: T) -> T {
        value
    }
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = send(sync(ready(dir.path())));
    let estimator = std::thread::spawn(move || {
        estimator.train().unwrap();
        estimator
    })
    .join()
    .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| estimator.evaluate(points(9).batch(3)).unwrap());
        }
    });
}

#[test]
fn without_a_model_dir_a_temporary_one_outlives_the_estimator() {
    let mut estimator = quiet(Line::default()).build().unwrap();
    let saved = estimator.save_ckpt().unwrap();
    assert_eq!(saved.step, 0);
    let dir = estimator.model_dir().to_owned();
    drop(estimator);
    assert!(saved.path.is_dir());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn an_error_in_the_model_function_names_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    let wide = Record::new()
        .with("x", Array::new([10, 4], vec![0f32; 40]).unwrap())
        .with("y", Array::new([10, 1], vec![0f32; 10]).unwrap());
    estimator.setup(Inputs::train(Dataset::from_arrays(wide).unwrap().batch(5))).unwrap();
    let error = estimator.train().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    assert!(error.to_string().contains("step 1") && error.to_string().contains('4'), "{error}");
}

#[test]
fn a_fraction_of_memory_is_in_its_range_on_every_device() {
    for fraction in [0.0, -0.5, 1.5, f64::NAN, f64::INFINITY] {
        let error = Elistimator::builder(Line::default()).memory_fraction(fraction).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let expected = format!("memory_fraction: found {fraction}, expected a fraction above 0 and at most 1");
        assert_eq!(error.to_string(), expected);
    }
    let dir = tempfile::tempdir().unwrap();
    for fraction in [f64::MIN_POSITIVE, 0.5, 1.0] {
        Elistimator::builder(Line::default()).model_dir(dir.path()).memory_fraction(fraction).build().unwrap();
    }
}

/// [`Line`] with a schedule.
#[derive(Serialize, Deserialize)]
struct Scheduled(Schedule);

impl ModelFn for Scheduled {
    type Net = common::LineNet<Cpu>;

    fn build(&self, device: &Cpu) -> ModelResult<Self::Net> {
        Line::default().build(device)
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(0.1).into()
    }

    fn schedule(&self) -> Schedule {
        self.0.clone()
    }

    fn train(&self, net: &mut Self::Net, x: &Features<Cpu>, step: &mut Step<'_, Cpu>) -> ModelResult<TrainSpec<Cpu>> {
        Line::default().train(net, x, step)
    }

    fn evaluate(&self, net: &Self::Net, x: &Features<Cpu>) -> ModelResult<EvaluationSpec<Cpu>> {
        Ok(Line::default().evaluate(net, x)?.weight(f64::NAN))
    }
}

#[test]
fn a_weight_of_the_loss_that_is_no_weight_is_an_error() {
    let estimator = Elistimator::builder(Scheduled(Schedule::Constant)).progress(ProgressMode::Off).build().unwrap();
    let error = estimator.evaluate(points(6).batch(3)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    assert!(error.to_string().contains("the weight of the loss: found NaN"), "{error}");
}

#[test]
fn settings_that_can_never_do_what_they_say_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let refused = |builder: Builder<Line>, expected: &str| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().starts_with(expected), "{error}");
    };
    refused(in_dir(&run).monitor("", Mode::Min), r#"monitor: found the name "", expected that of a metric"#);
    refused(in_dir(&run).monitor(" ", Mode::Max), r#"monitor: found the name " ""#);
    refused(in_dir(&run).save_every(Every::Steps(0)), "save_every: found 0 steps, expected at least 1");
    refused(in_dir(&run).swa(0, 0), "swa: found an average every 0 steps, expected at least 1");
    refused(in_dir(&run).ema_every(0.9, 0), "ema_every: found an average every 0 steps, expected at least 1");
    let scheduled =
        |schedule| Elistimator::builder(Scheduled(schedule)).model_dir(&run).progress(ProgressMode::Off).build();
    let error = scheduled(Schedule::Cosine { steps: 0, floor: 0.0 }.after_warm_up(3)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.to_string(), "build: steps of the cosine schedule: found 0, expected at least 1 step");
    assert!(!run.exists());
    assert!(scheduled(Schedule::Cosine { steps: 9, floor: 0.0 }.after_warm_up(0)).is_ok());
    assert!(in_dir(&run).swa(0, 1).build().is_ok());
}

#[test]
fn validation_sets_have_names_that_stay_in_the_model_directory() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "a/../../../outside", "a\\b", "a\n", "ema"] {
        let mut estimator = in_dir(&dir.path().join("run")).build().unwrap();
        let inputs = Inputs::train(train_data()).validation_named(name, points(6).batch(3));
        let error = estimator.setup(inputs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(&format!("found the name {name:?}")), "{error}");
    }
}

#[test]
fn a_length_that_came_from_padding_is_free_also_when_all_batches_are_alike() {
    use elistimator::data::Padding;
    let data = |padding: Padding| {
        let sentence = |n: usize| {
            let (x, y) = (Array::new([3], vec![0.5f32; 3]).unwrap(), Array::new([1], vec![1f32]).unwrap());
            Record::new().with("x", x).with("y", y).with("words", vec![1i64; n])
        };
        Dataset::from_records(vec![sentence(4), sentence(7)]).padded_batch(2, padding)
    };
    let dims = |padding: Padding| {
        let mut estimator = quiet(Line::default()).build().unwrap();
        estimator.setup(Inputs::train(data(padding).prefetch(1))).unwrap().train().unwrap();
        let signature = estimator.signature().unwrap();
        ["words", "x"].map(|name| signature.inputs().iter().find(|input| input.name == name).unwrap().dims.clone())
    };
    assert_eq!(dims(Padding::new()), [vec![None], vec![Some(3)]]);
    assert_eq!(dims(Padding::new().shape("words", [Some(9)])), [vec![Some(9)], vec![Some(3)]]);
}
