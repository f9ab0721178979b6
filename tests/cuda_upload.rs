//! Batches uploaded ahead of the training thread, on the double of the driver (see `cuda_driver.rs`), which ends the program
//! when a copy reads memory or writes it before it may. What a model function gets that asks for its inputs as tensors is
//! compared with what one gets that copies them itself, of which the estimator knows nothing.
#![cfg(feature = "cuda")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
mod cuda_host;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cuda_host::{Log, numbers};
use elistimator::device::Cuda;
use elistimator::nn::{Part, Tensor, Visitor, sparse_cross_entropy};
use elistimator::prelude::*;

const INPUTS: usize = 64;
/// The size of a batch of the examples below, and the bytes of one of its inputs.
const BATCH: usize = 512;
const BYTES: usize = BATCH * INPUTS * 4;
const BATCHES: u64 = 8;

/// Which inputs are asked for, and how.
#[derive(Serialize, Deserialize, Clone, Copy, Default)]
struct Classifier {
    /// As tensors, or as arrays that the model function copies.
    copies: bool,
    /// So many times in a step.
    more_often: usize,
    /// In every so many-th step the other input in place of the first.
    other_every: Option<u64>,
}

network! {
    struct ClassifierNet<D> {
        hidden: Linear<D>,
        out: Linear<D>,
    }
}

impl Classifier {
    fn input<D: Device>(&self, features: &Features<D>, name: &str) -> ModelResult<Tensor<(usize, usize), D>> {
        for _ in 0..self.more_often {
            self.ask(features, name)?;
        }
        self.ask(features, name)
    }

    fn ask<D: Device>(&self, features: &Features<D>, name: &str) -> ModelResult<Tensor<(usize, usize), D>> {
        if self.copies {
            let values = features.array(name)?.to_f32()?;
            return Ok(features.device().try_tensor_from_vec(values, (features.batch_size(), INPUTS))?);
        }
        features.tensor(name)
    }
}

impl<D: Device> ModelFn<D> for Classifier {
    type Net = ClassifierNet<D>;

    fn build(&self, device: &D) -> ModelResult<ClassifierNet<D>> {
        let hidden = Linear::builder(INPUTS, 16).activation(Activation::Relu).build(device)?;
        Ok(ClassifierNet { hidden, out: Linear::new(device, 16, 4)? })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(0.05).momentum(0.9).into()
    }

    fn train(
        &self,
        net: &mut ClassifierNet<D>,
        features: &Features<D>,
        step: &mut Step<'_, D>,
    ) -> ModelResult<TrainSpec<D>> {
        let is_other = self.other_every.is_some_and(|every| step.global_step() % every == every - 1);
        let x = self.input(features, if is_other { "other" } else { "x" })?;
        let y = net.out.forward(net.hidden.forward(x.traced(step.tape()?))?)?;
        Ok(TrainSpec::new(sparse_cross_entropy(y, &features.indices("label")?)?))
    }

    fn evaluate(&self, net: &ClassifierNet<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let y = net.out.forward(net.hidden.forward(self.input(features, "x")?)?)?;
        Ok(EvaluationSpec::new(sparse_cross_entropy(y, &features.indices("label")?)?))
    }

    fn predict(&self, net: &ClassifierNet<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        let y = net.out.forward(net.hidden.forward(self.input(features, "x")?)?)?;
        Ok(PredictSpec::new().output("logits", &y))
    }
}

/// So many examples, no two alike.
fn record(seed: u64, count: usize) -> Record {
    let x = Array::new([count, INPUTS], numbers(seed, count * INPUTS)).unwrap();
    let other = numbers(seed + 1, count * INPUTS).iter().map(|x| (x * 100.0 + 100.0) as u8).collect::<Vec<_>>();
    let labels = (0..count).map(|i| (i * i % 4) as i64).collect::<Vec<_>>();
    let other = Array::new([count, INPUTS], other).unwrap();
    Record::new().with("x", x).with("other", other).with("label", Array::from(labels))
}

/// Eight whole batches and one with what is left, which is as large as to be locked.
fn batches() -> Dataset {
    let examples = (BATCHES as usize - 1) * BATCH + 400;
    Dataset::from_arrays(record(1, examples)).unwrap().shuffle(examples).batch(BATCH)
}

/// The same number of batches without a known length, and an error in place of the first example of one of them.
fn unknown_length(bad: Option<usize>) -> Dataset {
    let all = record(1, BATCHES as usize * BATCH);
    let row = move |index: usize| {
        if bad.is_some_and(|bad| index == bad * BATCH) {
            return Err(Error::new(ErrorKind::Data, "a bad example"));
        }
        all.iter().try_fold(Record::new(), |record, (name, array)| Ok(record.with(name, array.row(index)?)))
    };
    let rows = move || {
        let row = row.clone();
        Ok((0..BATCHES as usize * BATCH).map(row))
    };
    Dataset::from_fn(rows).batch(BATCH)
}

fn builder(model: Classifier, dir: &Path) -> Builder<Classifier, Cuda> {
    Builder::new(model).device(DeviceSpec::Cuda(0)).model_dir(dir).progress(ProgressMode::Off).seed(3)
}

fn weights(estimator: &Elistimator<Classifier, Cuda>) -> Vec<u32> {
    let mut values = Vec::new();
    let mut read = |_: &str, part: Part<'_, Cuda>| {
        if let Part::Parameter(parameter) = part {
            values.extend(parameter.values().iter().map(|value| value.to_bits()));
        }
        Ok(())
    };
    estimator.net().visit(&mut Visitor::new(&mut read)).unwrap();
    values
}

/// The double's log in its process; on a real device, which notes nothing, an empty one if the test has sense there.
fn double(test: &str, variables: &[(&str, &str)], is_for_all: bool) -> Option<Log> {
    if std::env::var_os("ELISTIMATOR_GPU").is_some() && !is_for_all {
        println!("skipped: a real device notes nothing");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("memory");
    let variables = [variables, &[("DRIVER_MEMORY", file.to_str().unwrap())]].concat();
    cuda_host::double(test, &variables)
}

/// How much memory the double has from now on.
fn give(bytes: usize) {
    let Some(path) = std::env::var_os("DRIVER_MEMORY").map(PathBuf::from) else { return };
    // Replaced whole: the double may be reading it.
    let new = path.with_extension("new");
    std::fs::write(&new, bytes.to_string()).unwrap();
    std::fs::rename(&new, &path).unwrap();
}

fn count(lines: &[String], start: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(start)).count()
}

/// The lines up to the moment when after three steps two batches more are there.
fn lines_with_two_ahead(log: &mut Log) -> Vec<String> {
    let begun = Instant::now();
    let mut lines = log.lines();
    while count(&lines, &format!("h2d {BYTES} locked beside aside")) < 4 {
        assert!(begun.elapsed() < Duration::from_secs(300), "nothing is ahead: {lines:?}");
        std::thread::yield_now();
        lines.extend(log.lines());
    }
    lines
}

#[test]
fn a_batch_is_uploaded_by_another_thread_before_its_step() {
    let Some(mut log) = double("a_batch_is_uploaded_by_another_thread_before_its_step", &[], false) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = builder(Classifier::default(), dir.path()).build().unwrap();
    let data = batches().take(BATCHES - 1);
    estimator.setup(Inputs::train(data.clone()).validation(data)).unwrap();
    log.lines();
    estimator.train_steps(1).unwrap();
    let first = log.lines();
    let (all, aside) = (format!("h2d {BYTES} locked beside"), format!("h2d {BYTES} locked beside aside"));
    // Before the model function has run, nothing is known, and nothing is ahead.
    assert_eq!((count(&first, &all), count(&first, &aside)), (1, 0), "{first:?}");

    let mut lines = log.lines();
    for done in 1..BATCHES - 1 {
        estimator.train_steps(1).unwrap();
        let begun = lines.len();
        lines.extend(log.lines());
        let launch = begun + lines[begun..].iter().position(|line| line.starts_with("launch")).unwrap();
        let ahead = count(&lines[..launch], &aside) as u64;
        assert!((done..=done + 2).contains(&ahead), "{ahead} uploads before the step after {done}");
    }
    // Each batch went up once, and into its tensor once.
    let steps = BATCHES as usize - 2;
    assert_eq!((count(&lines, &all), count(&lines, &aside)), (steps, steps), "{lines:?}");
    assert_eq!(count(&lines, &format!("d2d {BYTES}")), steps);
    // Each verb ends with the loss read.
    assert_eq!((count(&lines, "d2h"), count(&lines, "sync")), (steps, steps), "{lines:?}");
    // The labels and their weights, and dfdx's 1, go the way of what is small.
    assert_eq!(count(&lines, "h2d"), 3 * steps, "{lines:?}");

    let mut locked = count(&first, "lock") + count(&lines, "lock");

    // What is not trained on goes the other way.
    estimator.validate().unwrap();
    estimator.predict(record(5, BATCH)).unwrap();
    let lines = log.lines();
    assert_eq!((count(&lines, &all), count(&lines, &aside)), (BATCHES as usize, 0), "{lines:?}");

    locked += count(&lines, "lock");

    // The next pass knows from its first batch on.
    estimator.train().unwrap();
    let lines = log.lines();
    assert_eq!((count(&lines, &all), count(&lines, &aside)), (steps + 1, steps + 1), "{lines:?}");
    assert_eq!((count(&lines, "d2h"), count(&lines, "sync")), (1, 1), "{lines:?}");
    // A batch in its step and two ahead are three places at most, which are made when they first are there at once: that is
    // a matter of how the threads run.
    locked += count(&lines, "lock");
    assert!(locked <= 3, "{locked} places");
    let mut ended = 0;
    for step in 0..=steps {
        let launch = ended + lines[ended..].iter().position(|line| line.starts_with("launch")).unwrap();
        assert!(count(&lines[..launch], &aside) > step, "step {step} was launched first");
        ended = launch + lines[launch..].iter().position(|line| line == "launch sgd_update").unwrap() + 1;
    }
}

/// The weights after two passes, and the metrics of a validation.
fn trained(model: Classifier, data: Dataset, accumulate: usize) -> (Vec<u32>, Vec<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = builder(model, dir.path()).accumulate(accumulate).build().unwrap();
    estimator.setup(Inputs::train(data).validation(batches())).unwrap();
    estimator.train().unwrap().train().unwrap();
    let metrics = estimator.validate().unwrap();
    (weights(&estimator), metrics.iter().map(|(_, value)| value.to_bits()).collect())
}

fn assert_nothing_changes() {
    let data = [batches(), batches().prefetch(3), unknown_length(None)];
    let models = [(0, None, 1), (0, None, 3), (2, None, 1), (0, Some(2), 1), (1, Some(3), 2)];
    for (number, data) in data.into_iter().enumerate() {
        for (more_often, other_every, accumulate) in models {
            let model = Classifier { copies: false, more_often, other_every };
            let found = trained(model, data.clone(), accumulate);
            let expected = trained(Classifier { copies: true, ..model }, data.clone(), accumulate);
            assert!(found == expected, "data {number}, {more_often} {other_every:?} {accumulate}");
        }
    }
}

#[test]
fn training_is_the_same_bit_for_bit() {
    let Some(mut log) = double("training_is_the_same_bit_for_bit", &[], true) else { return };
    give(1 << 30);
    assert_nothing_changes();
    if log.is_of_a_gpu() {
        return;
    }
    let lines = log.lines();
    assert!(count(&lines, &format!("h2d {BYTES} locked beside aside")) > 100);
    // However often places come back unused, there are few.
    println!(
        "{} uploads ahead, {} places",
        count(&lines, &format!("h2d {BYTES} locked beside aside")),
        count(&lines, "lock")
    );
    // As many as were in use at once, which is a matter of how the threads run.
    assert!((1..=12).contains(&count(&lines, "lock")), "{} places", count(&lines, "lock"));
}

#[test]
fn training_is_the_same_where_the_device_is_slow() {
    let Some(mut log) = double("training_is_the_same_where_the_device_is_slow", &[("DRIVER_BUSY", "1")], false) else {
        return;
    };
    give(1 << 30);
    assert_nothing_changes();
    assert!(count(&log.lines(), "event-wait") > 20);
}

#[test]
fn what_was_uploaded_in_vain_is_freed() {
    let Some(mut log) = double("what_was_uploaded_in_vain_is_freed", &[], false) else { return };
    for data in [batches(), unknown_length(None)] {
        give(1 << 30);
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = builder(Classifier::default(), dir.path()).build().unwrap();
        estimator.setup(Inputs::train(data)).unwrap();
        estimator.train_steps(3).unwrap();
        let mut lines = lines_with_two_ahead(&mut log);
        drop(estimator);
        lines.extend(log.lines());
        let sum = |kind: &str| -> usize {
            lines.iter().filter_map(|line| line.strip_prefix(kind)?.parse::<usize>().ok()).sum()
        };
        assert!(sum("lock ") >= 2 * BYTES, "nothing was ahead");
        assert_eq!(sum("lock "), sum("unlock "), "{lines:?}");
        let of_batches = |kind: &str| count(&lines, &format!("{kind} {BYTES}"));
        assert_eq!(of_batches("alloc"), of_batches("free"), "{lines:?}");
    }
}

#[test]
fn errors_of_the_data_come_at_their_step() {
    let Some(_log) = double("errors_of_the_data_come_at_their_step", &[], true) else { return };
    give(1 << 30);
    for at in [1, 2, 5, BATCHES as usize - 1] {
        let outcomes = [false, true].map(|copies| {
            let dir = tempfile::tempdir().unwrap();
            let mut estimator = builder(Classifier { copies, ..Classifier::default() }, dir.path()).build().unwrap();
            estimator.setup(Inputs::train(unknown_length(Some(at))).validation(batches())).unwrap();
            let mut outcome = Vec::new();
            for _ in 0..2 {
                let error = estimator.train().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Data);
                outcome.push((estimator.global_step(), error.to_string(), weights(&estimator)));
            }
            estimator.validate().unwrap();
            outcome
        });
        assert!(outcomes[0] == outcomes[1], "{at}: {:?} {:?}", outcomes[0][0].1, outcomes[1][0].1);
    }
}

#[test]
fn a_run_goes_on_where_it_was_saved() {
    let Some(_log) = double("a_run_goes_on_where_it_was_saved", &[], true) else { return };
    give(1 << 30);
    for data in [batches(), unknown_length(None)] {
        let (expected, _) = trained(Classifier { copies: true, ..Classifier::default() }, data.clone(), 1);
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = builder(Classifier::default(), dir.path()).build().unwrap();
        estimator.setup(Inputs::train(data.clone())).unwrap();
        estimator.train_steps(3).unwrap().save_ckpt().unwrap();
        // In the same process, back to what was saved.
        estimator.train_steps(2).unwrap().restore_latest().unwrap();
        estimator.train_steps(1).unwrap().save_ckpt().unwrap();
        drop(estimator);
        // And in another.
        let mut estimator = builder(Classifier::default(), dir.path()).build().unwrap();
        estimator.restore_latest().unwrap().setup(Inputs::train(data)).unwrap();
        estimator.train().unwrap().train().unwrap();
        assert!(weights(&estimator) == expected);
    }
}

#[test]
fn a_device_without_memory_takes_what_is_ahead_back() {
    let Some(mut log) = double("a_device_without_memory_takes_what_is_ahead_back", &[], false) else { return };
    let [found, expected] = [false, true].map(|copies| {
        give(1 << 30);
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = builder(Classifier { copies, ..Classifier::default() }, dir.path()).build().unwrap();
        estimator.setup(Inputs::train(batches())).unwrap();
        estimator.train_steps(3).unwrap();
        if !copies {
            lines_with_two_ahead(&mut log);
        }
        log.lines();
        give(0);
        assert_eq!(estimator.train_steps(1).unwrap_err().kind(), ErrorKind::OutOfMemory);
        let freed = count(&log.lines(), "unlock");
        assert!(copies || freed >= 2, "{freed} places were freed");
        give(1 << 30);
        estimator.train().unwrap();
        weights(&estimator)
    });
    assert!(found == expected);
}
