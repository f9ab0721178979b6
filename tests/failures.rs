//! Failures and panics of the user's functions: an error with the message, and an estimator that can be used on.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Line, LineNet, points, train_data};
use elistimator::nn::Gradients;
use elistimator::optim::Optimizer;
use elistimator::prelude::*;

/// What happens, once, at a place in the model function.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Fail,
    Panic,
    PanicWithNumber,
    PanicWithNothing,
    OutOfMemory,
}

type Due = Arc<Mutex<Option<(&'static str, Fault)>>>;

/// A line whose functions fail when told to.
#[derive(Serialize, Deserialize, Clone, Default)]
struct Fragile {
    line: Line,
    #[serde(skip)]
    due: Due,
}

impl Fragile {
    fn trip(&self, place: &str) -> ModelResult<()> {
        let fault = {
            let mut due = self.due.lock().unwrap();
            if due.is_none_or(|(at, _)| at != place) {
                return Ok(());
            }
            due.take().unwrap().1
        };
        match fault {
            Fault::Fail => Err(ModelError::msg("it slipped"))?,
            Fault::Panic => panic!("it slipped"),
            Fault::PanicWithNumber => panic!("it slipped {} times", 3),
            Fault::PanicWithNothing => std::panic::panic_any(7u8),
            Fault::OutOfMemory => {
                // Far more than there is, and less than a number of bytes can be.
                let _: Tensor<(usize,), Cpu> = Cpu::open(DeviceSpec::Cpu, 0)?.try_zeros_like(&(1usize << 58,))?;
            }
        }
        Ok(())
    }
}

/// A metric that panics, and counts nothing.
struct Fails(Fragile);

impl Metric for Fails {
    fn merge(&mut self, _: Self) {
        self.0.trip("merge").unwrap();
    }

    fn value(&self) -> f64 {
        self.0.trip("value").unwrap();
        0.0
    }
}

impl ModelFn for Fragile {
    type Net = LineNet<Cpu>;

    fn build(&self, device: &Cpu) -> ModelResult<LineNet<Cpu>> {
        self.trip("build")?;
        self.line.build(device)
    }

    fn optimizer(&self) -> OptimizerConfig {
        self.trip("optimizer").unwrap();
        ModelFn::<Cpu>::optimizer(&self.line)
    }

    fn schedule(&self) -> Schedule {
        self.trip("schedule").unwrap();
        ModelFn::<Cpu>::schedule(&self.line)
    }

    fn train(
        &self,
        net: &mut LineNet<Cpu>,
        features: &Features<Cpu>,
        step: &mut Step<'_, Cpu>,
    ) -> ModelResult<TrainSpec<Cpu>> {
        self.trip("train")?;
        let spec = self.line.train(net, features, step)?;
        self.trip("after the forward pass")?;
        Ok(spec)
    }

    fn evaluate(&self, net: &LineNet<Cpu>, features: &Features<Cpu>) -> ModelResult<EvaluationSpec<Cpu>> {
        self.trip("evaluate")?;
        Ok(self.line.evaluate(net, features)?.metric("fails", Fails(self.clone())))
    }

    fn predict(&self, net: &LineNet<Cpu>, features: &Features<Cpu>) -> ModelResult<PredictSpec> {
        self.trip("predict")?;
        self.line.predict(net, features)
    }

    fn preprocess(&self, batch: Record) -> ModelResult<Record> {
        self.trip("preprocess")?;
        Ok(batch)
    }

    fn update(
        &self,
        net: &mut LineNet<Cpu>,
        gradients: &mut Gradients<Cpu>,
        optimizer: &mut Optimizer<Cpu>,
        scope: Option<&str>,
    ) -> ModelResult<()> {
        self.trip("update")?;
        optimizer.update(net, gradients, scope)?;
        self.trip("after the update")
    }
}

fn builder(model: Fragile, dir: &Path) -> Builder<Fragile, Cpu> {
    Elistimator::builder(model).model_dir(dir).progress(ProgressMode::Off).seed(3)
}

fn inputs() -> Inputs {
    Inputs::train(train_data().prefetch(2)).validation(points(17).batch(4))
}

/// A run in which something happens at a place after 7 steps; what it says, and the run that goes on.
fn fails_at(place: &'static str, fault: Fault, dir: &Path) -> (Error, Elistimator<Fragile>) {
    let model = Fragile::default();
    let due = model.due.clone();
    let mut estimator = builder(model, dir).build().unwrap();
    estimator.setup(inputs()).unwrap().train_steps(7).unwrap().save_ckpt().unwrap();
    *due.lock().unwrap() = Some((place, fault));
    let x = || Array::new([1, 3], vec![0.5f32, 0.25, -0.5]).unwrap();
    let outcome = match place {
        "evaluate" | "merge" | "value" => estimator.validate().map(drop),
        "predict" => estimator.predict([x()]).map(drop),
        "optimizer" => estimator.restore_latest().map(drop),
        // The batches of this pass may be prepared already.
        _ => estimator.train_steps(13).map(drop),
    };
    let error = outcome.expect_err(place);
    assert!(due.lock().unwrap().is_none(), "{place}");
    estimator.validate().unwrap();
    estimator.predict([x()]).unwrap();
    (error, estimator)
}

const PLACES: [&str; 9] =
    ["train", "after the forward pass", "update", "preprocess", "evaluate", "merge", "value", "predict", "optimizer"];

#[test]
fn panics_of_the_model_function_reach_the_caller_and_leave_the_estimator_usable() {
    for place in PLACES {
        for (fault, expected) in [
            (Fault::Panic, "it slipped"),
            (Fault::PanicWithNumber, "it slipped 3 times"),
            (Fault::PanicWithNothing, "a panic without a message"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (error, mut estimator) = fails_at(place, fault, dir.path());
            assert!(matches!(error.kind(), ErrorKind::Model | ErrorKind::Data), "{place}: {error:?}");
            assert!(error.to_string().contains(expected) && error.to_string().contains("panicked"), "{place}: {error}");
            estimator.train().unwrap().save_ckpt().unwrap();
            let restored = Elistimator::<Fragile>::from_disk(dir.path()).unwrap();
            assert_eq!(restored.hashes().unwrap(), estimator.hashes().unwrap(), "{place}");
        }
    }
}

#[test]
fn panics_while_it_is_built_are_errors() {
    for place in ["build", "optimizer", "schedule"] {
        let dir = tempfile::tempdir().unwrap();
        let model = Fragile::default();
        *model.due.lock().unwrap() = Some((place, Fault::Panic));
        let error = builder(model.clone(), dir.path()).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{place}: {error}");
        assert!(error.to_string().contains("build") && error.to_string().contains("it slipped"), "{place}: {error}");
        builder(model, dir.path()).build().unwrap();
    }
    let panics = || -> Result<Dataset> { panic!("no such file") };
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = builder(Fragile::default(), dir.path()).build().unwrap();
    for inputs in [Inputs::train(panics), Inputs::train(train_data()).validation(panics)] {
        let error = estimator.setup(inputs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert!(error.to_string().contains("no such file"), "{error}");
    }
    estimator.setup(inputs()).unwrap().train().unwrap();
}

/// What was begun before a panic is taken back as it is for an error, and the steps after it are the same.
#[test]
fn a_run_goes_on_after_a_panic_as_after_an_error() {
    for place in ["train", "after the forward pass", "update"] {
        let hashes = |fault| {
            let dir = tempfile::tempdir().unwrap();
            let (error, mut estimator) = fails_at(place, fault, dir.path());
            assert!(error.to_string().contains("step 8") && error.to_string().contains("it slipped"), "{error}");
            assert_eq!(estimator.global_step(), 7);
            estimator.train().unwrap();
            assert_eq!((estimator.global_step(), estimator.epoch()), (19, 1), "{place}: a batch was used up");
            estimator.train().unwrap().hashes().unwrap()
        };
        assert_eq!(hashes(Fault::Panic), hashes(Fault::Fail), "{place}");
    }
}

#[test]
fn memory_that_runs_out_is_an_error_and_the_run_goes_on() {
    for place in ["train", "after the forward pass", "update", "evaluate", "predict"] {
        let dir = tempfile::tempdir().unwrap();
        let (error, mut estimator) = fails_at(place, Fault::OutOfMemory, dir.path());
        assert_eq!(error.kind(), ErrorKind::Model, "{place}: {error}");
        estimator.train().unwrap().save_ckpt().unwrap();
        assert_eq!(estimator.epoch(), 1);
    }
}

/// The batch that failed comes again, and none after it was lost: the run ends like one in which nothing happened. Neither
/// the thread nor what its iterator holds is left over.
#[test]
fn after_a_failure_of_the_data_the_run_goes_on_at_the_batch_that_failed() {
    struct Alive(Arc<AtomicUsize>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let examples: Vec<Record> = points(60).open(0, 0, 0).unwrap().map(Result::unwrap).collect();
    let run = |prefetch: usize, fault: Option<Fault>| {
        let (alive, due) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(fault)));
        let (copy, examples, fuse) = (alive.clone(), examples.clone(), due.clone());
        let data = Dataset::from_fn(move || {
            copy.fetch_add(1, Ordering::SeqCst);
            let (guard, fuse) = (Alive(copy.clone()), fuse.clone());
            let give = move |(number, record)| {
                let _ = &guard;
                match fuse.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take_if(|_| number == 33) {
                    Some(Fault::Fail) => Err(Error::new(ErrorKind::Data, "it slipped")),
                    Some(_) => panic!("it slipped"),
                    None => Ok(record),
                }
            };
            Ok(examples.clone().into_iter().enumerate().map(give))
        });
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = builder(Fragile::default(), dir.path()).build().unwrap();
        estimator.setup(Inputs::train(data.batch(5).prefetch(prefetch))).unwrap();
        if fault.is_some() {
            let error = estimator.train().unwrap_err();
            assert!(error.to_string().contains("it slipped") && error.to_string().contains("33"), "{error}");
            assert_eq!(alive.load(Ordering::SeqCst), 0, "the thread is joined, its iterator gone");
            assert!(due.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_none());
        }
        estimator.train_until(24).unwrap();
        assert_eq!(estimator.epoch(), 2);
        estimator.hashes().unwrap()
    };
    let expected = run(0, None);
    for prefetch in [0, 3] {
        for fault in [Fault::Fail, Fault::Panic] {
            assert_eq!(run(prefetch, Some(fault)), expected, "{fault:?} with {prefetch} ahead");
        }
    }
}

/// A hundred points in batches of 5; example 37 is to be this.
fn points_with(y: f32) -> Dataset {
    let place = points(100).open(0, 0, 37).unwrap().next().unwrap().unwrap();
    let set = move |record: Record| match record.get("x")? == place.get("x")? {
        true => Ok(record.with("y", Array::from(vec![y]))),
        false => Ok(record),
    };
    points(100).map(set).batch(5)
}

/// Batches of 5 out of a hundred points, of which this one cannot be had.
fn points_until(number: usize, kind: ErrorKind) -> Dataset {
    let place = points(100).open(0, 0, number as u64).unwrap().next().unwrap().unwrap();
    let set = move |record: Record| match record.get("x")? == place.get("x")? {
        true => Err(Error::new(kind, "gone")),
        false => Ok(record),
    };
    points(100).map(set).batch(5)
}

#[test]
fn a_loss_that_is_not_finite_is_reported_with_its_step_and_never_the_best() {
    for (y, loss) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "inf")] {
        let inputs = || Inputs::train(points_with(y)).validation(points(17).batch(4));
        let dir = tempfile::tempdir().unwrap();
        let saving = builder(Fragile::default(), dir.path()).save_every(Every::Steps(4)).save_on_error(true);
        let mut estimator = saving.build().unwrap();
        let good = estimator.setup(inputs()).unwrap().train_steps(4).unwrap().hashes().unwrap();
        estimator.validate().unwrap();
        let error = estimator.train().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFinite);
        assert!(error.to_string().starts_with(&format!("step 8: the loss is {loss}")), "{error}");
        let steps: Vec<_> = estimator.checkpoints().unwrap().iter().map(|info| info.step).collect();
        assert_eq!(steps, [4], "what is broken is not saved unless you say so");
        assert_eq!(estimator.restore_latest().unwrap().hashes().unwrap(), good);
        estimator.train_steps(3).unwrap();
        drop(estimator);

        let going_on = builder(Fragile::default(), dir.path()).on_not_finite(elistimator::NotFinite::GoOn);
        let mut estimator = going_on.resume_or_start().unwrap();
        estimator.setup(inputs()).unwrap().train().unwrap();
        assert_eq!((estimator.global_step(), estimator.epoch()), (20, 1));
        assert!(!estimator.validate().unwrap().get("loss").unwrap().is_finite());
        assert!(!estimator.save_ckpt().unwrap().is_finite);
        assert_eq!(estimator.restore_best().unwrap().global_step(), 4);
        assert_eq!(estimator.hashes().unwrap(), good);
    }
}

#[test]
fn what_a_failed_verb_leaves_is_saved_if_that_was_asked_for() {
    for is_asked in [false, true] {
        for place in ["train", "preprocess", "after the update"] {
            let dir = tempfile::tempdir().unwrap();
            let model = Fragile::default();
            let due = model.due.clone();
            let mut estimator = builder(model, dir.path()).save_on_error(is_asked).build().unwrap();
            estimator.setup(Inputs::train(train_data())).unwrap().train_steps(3).unwrap();
            *due.lock().unwrap() = Some((place, Fault::Panic));
            estimator.train().unwrap_err();
            if place == "after the update" {
                // Another failure before another step leaves them so.
                for again in ["train", "preprocess"] {
                    *due.lock().unwrap() = Some((again, Fault::Panic));
                    estimator.train().unwrap_err();
                }
            }
            let expected = estimator.hashes().unwrap();
            drop(estimator);
            let steps: Vec<_> = builder(Fragile::default(), dir.path())
                .build()
                .unwrap()
                .checkpoints()
                .unwrap()
                .iter()
                .map(|i| i.step)
                .collect();
            // What a failure among the updates leaves are weights of no step.
            let is_saved = is_asked && place != "after the update";
            assert_eq!(steps, if is_saved { vec![3] } else { vec![] }, "{place}");
            if is_saved {
                assert_eq!(Elistimator::<Fragile>::from_disk(dir.path()).unwrap().hashes().unwrap(), expected);
            }
        }
    }
}

#[test]
fn it_is_saved_whatever_the_kind_of_the_datas_error() {
    for kind in [ErrorKind::Io, ErrorKind::NotFound, ErrorKind::Signature, ErrorKind::Corrupt, ErrorKind::Data] {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = builder(Fragile::default(), dir.path()).save_on_error(true).build().unwrap();
        estimator.setup(Inputs::train(points_until(15, kind))).unwrap();
        assert_eq!(estimator.train().unwrap_err().kind(), kind);
        let steps: Vec<_> = estimator.checkpoints().unwrap().iter().map(|info| info.step).collect();
        assert_eq!(steps, [3], "{kind:?}");
    }
}

#[test]
fn a_failed_verb_whose_state_cannot_be_saved_says_both() {
    let dir = tempfile::tempdir().unwrap();
    let model = Fragile::default();
    let due = model.due.clone();
    let mut estimator = builder(model, dir.path()).save_on_error(true).build().unwrap();
    estimator.setup(Inputs::train(train_data())).unwrap().train_steps(3).unwrap();
    std::fs::rename(dir.path().join("checkpoints"), dir.path().join("elsewhere")).unwrap();
    *due.lock().unwrap() = Some(("train", Fault::Fail));
    let error = estimator.train().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    let message = error.to_string();
    assert!(message.contains("not saved (") && message.contains("checkpoints was removed"), "{message}");
    assert!(message.ends_with("step 4: it slipped"), "{message}");
}

#[test]
fn data_without_a_batch_is_an_error_also_when_only_a_later_epoch_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = builder(Fragile::default(), dir.path()).build().unwrap();
    let reasons = [
        (points(0).batch(5), "0 examples"),
        (points(9).filter(|_| Ok(false)).batch(5), "filter"),
        (points(3).batch(5).drop_remainder(), "3 examples"),
        (points(9).window(12, 1).batch(5), "window(12, shift 1)"),
    ];
    for (empty, reason) in reasons {
        let error = estimator.setup(Inputs::train(&empty)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert!(error.to_string().contains("no batch") && error.to_string().contains(reason), "{error}");
        estimator.setup(Inputs::train(train_data()).validation(&empty)).unwrap();
        let error = estimator.validate().unwrap_err();
        assert!(error.kind() == ErrorKind::Data && error.to_string().contains("no batch"), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }

    let is_empty = Arc::new(Mutex::new(false));
    let copy = is_empty.clone();
    let data = points(20).filter(move |_| Ok(!*copy.lock().unwrap())).batch(5).prefetch(2);
    estimator.setup(Inputs::train(data)).unwrap().train().unwrap();
    assert_eq!((estimator.global_step(), estimator.epoch()), (4, 1));
    *is_empty.lock().unwrap() = true;
    for _ in 0..2 {
        let error = estimator.train().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert!(error.to_string().contains("no batch in epoch 2"), "{error}");
    }
    estimator.save_ckpt().unwrap();
    *is_empty.lock().unwrap() = false;
    assert_eq!(estimator.train().unwrap().global_step(), 8);
}

#[test]
fn endless_data_and_no_steps_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = builder(Fragile::default(), dir.path()).build().unwrap();
    estimator.setup(Inputs::train(points(10).shuffle(10).repeat_forever().batch(4).prefetch(2))).unwrap();
    assert_eq!(estimator.train_steps(30).unwrap().epoch(), 0);
    let expected = estimator.hashes().unwrap();
    estimator.train_steps(0).unwrap().train_until(0).unwrap().train_until(30).unwrap();
    estimator.train_for(std::time::Duration::ZERO).unwrap();
    assert_eq!((estimator.global_step(), estimator.hashes().unwrap()), (30, expected));
}

/// The page that says what happens when something goes wrong names tests that there are.
#[test]
fn the_page_of_faults_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/faults.md")).unwrap();
    let named: Vec<(&str, &str)> =
        page.split('`').filter_map(|word| word.split_once("::")).filter(|(file, _)| file.ends_with(".rs")).collect();
    assert!(named.len() > 100, "{}", named.len());
    for (file, test) in named {
        let source = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("fn {test}(")), "{file} has no test {test}");
    }
}
