//! The memory of a CUDA device, on the double of the driver (see `cuda_driver.rs`): what is said when there is not enough
//! of it, and that training goes on; what may be taken of it; and how batches get there. A file that the double reads holds
//! how much there is.
#![cfg(feature = "cuda")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
mod cuda_host;

use std::path::PathBuf;

use cuda_host::numbers;
use elistimator::device::Cuda;
use elistimator::nn::{Part, Visitor, sparse_cross_entropy};
use elistimator::prelude::*;
use elistimator::summary::History;

const INPUTS: usize = 64;

#[derive(Serialize, Deserialize)]
struct Classifier;

network! {
    struct ClassifierNet<D> {
        hidden: Linear<D>,
        out: Linear<D>,
    }
}

impl<D: Device> ModelFn<D> for Classifier {
    type Net = ClassifierNet<D>;

    fn build(&self, device: &D) -> ModelResult<ClassifierNet<D>> {
        let hidden = Linear::builder(INPUTS, 128).activation(Activation::Relu).build(device)?;
        Ok(ClassifierNet { hidden, out: Linear::new(device, 128, 4)? })
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
        let x = features.tensor::<(usize, usize)>("x")?;
        let y = net.out.forward(net.hidden.forward(x.traced(step.tape()?))?)?;
        Ok(TrainSpec::new(sparse_cross_entropy(y, &features.indices("label")?)?))
    }

    fn evaluate(&self, net: &ClassifierNet<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let y = net.out.forward(net.hidden.forward(features.tensor::<(usize, usize)>("x")?)?)?;
        Ok(EvaluationSpec::new(sparse_cross_entropy(y, &features.indices("label")?)?))
    }

    fn predict(&self, net: &ClassifierNet<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        let y = net.out.forward(net.hidden.forward(features.tensor::<(usize, usize)>("x")?)?)?;
        Ok(PredictSpec::new().output("logits", &y))
    }
}

/// So many examples, of four classes that can be told apart.
fn record(count: usize) -> Record {
    let labels = (0..count).map(|i| (i % 4) as i64).collect::<Vec<_>>();
    let mut x = numbers(1, count * INPUTS);
    for (row, label) in x.chunks_exact_mut(INPUTS).zip(&labels) {
        row[*label as usize] += 2.0;
    }
    Record::new().with("x", Array::new([count, INPUTS], x).unwrap()).with("label", Array::from(labels))
}

fn examples(count: usize) -> Dataset {
    Dataset::from_arrays(record(count)).unwrap()
}

fn builder(dir: &std::path::Path) -> Builder<Classifier, Cuda> {
    Builder::new(Classifier).device(DeviceSpec::Cuda(0)).model_dir(dir).progress(ProgressMode::Off).seed(3)
}

/// How much memory the double has from now on.
fn give(bytes: usize) {
    let path = PathBuf::from(std::env::var_os("DRIVER_MEMORY").unwrap());
    // Replaced whole: the double may be reading it.
    let new = path.with_extension("new");
    std::fs::write(&new, bytes.to_string()).unwrap();
    std::fs::rename(&new, &path).unwrap();
}

fn double(test: &str) -> Option<cuda_host::Log> {
    cuda_double(test, &[])
}

/// The log of the double in its process, with these variables; `None` elsewhere, and on a real device, whose memory is not a
/// test's to set.
fn cuda_double(test: &str, variables: &[(&str, &str)]) -> Option<cuda_host::Log> {
    if std::env::var_os("ELISTIMATOR_GPU").is_some() {
        println!("skipped: the memory of a real device is not a test's to set");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("memory");
    let variables = [variables, &[("DRIVER_MEMORY", file.to_str().unwrap())]].concat();
    cuda_host::double(test, &variables)
}

/// The same, and on a real device too.
fn anywhere(test: &str) -> Option<cuda_host::Log> {
    if std::env::var_os("ELISTIMATOR_GPU").is_some() {
        return cuda_host::double(test, &[]);
    }
    double(test).inspect(|_| give(1024 * MIB))
}

const MIB: usize = 1 << 20;

#[test]
fn a_batch_that_does_not_fit_is_an_error_and_smaller_ones_go_on() {
    let Some(mut log) = double("a_batch_that_does_not_fit_is_an_error_and_smaller_ones_go_on") else { return };
    let dir = tempfile::tempdir().unwrap();
    give(4 * MIB);
    let mut estimator = builder(dir.path()).build().unwrap();
    estimator.setup(Inputs::train(examples(256).batch(32))).unwrap();
    estimator.train().unwrap();
    assert_eq!(estimator.global_step(), 8);

    // 6000 * 128 values of the hidden layer are 2.9 MiB, twice.
    estimator.setup(Inputs::train(examples(6000).batch(6000))).unwrap();
    log.lines();
    let error = estimator.train().unwrap_err();
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let text = error.to_string();
    for piece in
        ["step 9: out of device memory: asked for 2.9 MiB, found ", " free of 4.0 MiB (", "use smaller batches"]
    {
        assert!(text.contains(piece), "{piece:?} in {text}");
    }
    assert!(log.lines().iter().any(|line| line == "trim"), "nothing was given back");
    assert_eq!(estimator.global_step(), 8, "a half-done step counts");

    estimator.setup(Inputs::train(examples(256).batch(32))).unwrap();
    estimator.train().unwrap();
    assert_eq!(estimator.global_step(), 16);

    let text = estimator.evaluate(examples(6000).batch(6000)).unwrap_err().to_string();
    assert!(text.starts_with("evaluation, batch 1: out of device memory"), "{text}");
    let text = estimator.predict(record(6000)).unwrap_err().to_string();
    assert!(text.starts_with("predict: out of device memory"), "{text}");
    estimator.predict(record(8)).unwrap();
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

/// How many more bytes are allocated after these lines than before.
fn kept(lines: &[String]) -> i64 {
    let bytes = |kind: &str| lines.iter().filter_map(|line| line.strip_prefix(kind)?.parse::<i64>().ok()).sum::<i64>();
    bytes("alloc ") - bytes("free ")
}

#[test]
fn wherever_a_step_runs_out_of_memory_nothing_of_it_is_left() {
    let Some(mut log) = double("wherever_a_step_runs_out_of_memory_nothing_of_it_is_left") else { return };
    let gradients = (INPUTS as i64 + 1) * 128 + 129 * 4;
    let run = |failing: Option<usize>, log: &mut cuda_host::Log| {
        let dir = tempfile::tempdir().unwrap();
        give(64 * MIB);
        let mut estimator = builder(dir.path()).build().unwrap();
        estimator.setup(Inputs::train(examples(64).batch(32))).unwrap();
        estimator.train().unwrap();
        let mut is_failed = false;
        if let Some(bytes) = failing {
            estimator.setup(Inputs::train(examples(512).batch(512))).unwrap();
            give(bytes);
            log.lines();
            let result = estimator.train().map(|_| ());
            is_failed = result.is_err();
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                assert!(!error.to_string().contains("while parameters"), "{error}");
                // Less than before where the gradients' memory, which steps hand on, went with the step.
                let kept = kept(&log.lines());
                assert!(kept == 0 || kept == -4 * gradients, "{kept} bytes kept after {error}");
            }
            give(64 * MIB);
        }
        estimator.setup(Inputs::train(examples(64).batch(32))).unwrap();
        estimator.train().unwrap();
        (is_failed, weights(&estimator))
    };
    let (_, expected) = run(None, &mut log);
    let mut failed = 0;
    // From nothing left to what the step needs.
    for kibibytes in (150..).step_by(30) {
        let (is_failed, found) = run(Some(kibibytes * 1024), &mut log);
        if !is_failed {
            break;
        }
        assert!(found == expected, "with {kibibytes} KiB");
        failed += 1;
    }
    assert!(failed > 20, "the step failed at {failed} places only");
}

#[test]
fn a_fraction_bounds_what_the_process_takes() {
    let Some(mut log) = double("a_fraction_bounds_what_the_process_takes") else { return };
    let dir = tempfile::tempdir().unwrap();
    give(16 * MIB);
    let mut estimator = builder(dir.path()).memory_fraction(0.25).build().unwrap();
    estimator.setup(Inputs::train(examples(256).batch(32))).unwrap();
    estimator.train().unwrap();
    let first = log.lines();
    let pool = first.iter().position(|line| line == "pool").unwrap();
    assert!(keeps_all(&first[..pool]), "a wait gives back what is free in the pool that bounds: {first:?}");
    let taken = first.iter().position(|line| line.starts_with("alloc ")).unwrap();
    assert!(pool < taken, "something is not in the pool that bounds");

    estimator.setup(Inputs::train(examples(6000).batch(6000))).unwrap();
    let error = estimator.train().unwrap_err();
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("of the 4.0 MiB that it may take"), "{error}");
    // More memory on the device is no more for this process.
    give(32 * MIB);
    assert_eq!(estimator.train().unwrap_err().kind(), ErrorKind::OutOfMemory);
    estimator.setup(Inputs::train(examples(256).batch(32))).unwrap();
    estimator.train().unwrap();

    // One bound for the process: the same once more, but no other.
    builder(dir.path()).memory_fraction(0.25).build().unwrap();
    let error = builder(dir.path()).memory_fraction(0.5).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("found 0.5, but this process bounded it to 0.25 before"), "{error}");
}

#[test]
fn without_a_fraction_the_pool_is_the_devices_own() {
    let Some(mut log) = double("without_a_fraction_the_pool_is_the_devices_own") else { return };
    give(16 * MIB);
    builder(tempfile::tempdir().unwrap().path()).build().unwrap();
    let lines = log.lines();
    assert!(!lines.iter().any(|line| line == "pool"));
    assert!(keeps_all(&lines), "a wait gives back what is free: {lines:?}");
}

/// Whether the pool was told to keep all that is freed.
fn keeps_all(lines: &[String]) -> bool {
    lines.iter().any(|line| *line == format!("keep {}", u64::MAX))
}

fn assert_is_refused() {
    give(1024 * MIB);
    let error = builder(tempfile::tempdir().unwrap().path()).memory_fraction(0.25).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device);
    assert!(error.to_string().contains("memory_fraction: cuda:0: this driver does not bound"), "{error}");
}

#[test]
fn a_driver_that_knows_no_bound_is_an_error() {
    let Some(_) = cuda_double("a_driver_that_knows_no_bound_is_an_error", &[("DRIVER_POOLS", "old")]) else { return };
    assert_is_refused();
}

#[test]
fn a_driver_that_does_not_keep_the_bound_is_an_error() {
    let Some(_) = cuda_double("a_driver_that_does_not_keep_the_bound_is_an_error", &[("DRIVER_POOLS", "careless")])
    else {
        return;
    };
    assert_is_refused();
}

#[test]
fn a_step_copies_its_batch_and_nothing_else_from_locked_memory() {
    let Some(mut log) = double("a_step_copies_its_batch_and_nothing_else_from_locked_memory") else { return };
    let dir = tempfile::tempdir().unwrap();
    give(64 * MIB);
    let mut estimator = builder(dir.path()).build().unwrap();
    estimator.setup(Inputs::train(examples(512).batch(512))).unwrap();
    estimator.train_steps(2).unwrap();
    log.lines();
    estimator.train_steps(5).unwrap();
    let lines = log.lines();
    let count = |wanted: &str| lines.iter().filter(|line| line.as_str() == wanted).count();
    // The inputs; labels with their weights, so few that the driver takes them along; and dfdx's 1 to go back from.
    assert_eq!(count("h2d 131072 locked beside aside"), 5);
    assert_eq!((count("h2d 4096 pageable"), count("h2d 4 pageable")), (5, 5));
    assert_eq!(lines.iter().filter(|line| line.starts_with("h2d")).count(), 15, "{lines:?}");
    assert_eq!(count("d2d 131072"), 5);
    assert!(!lines.iter().any(|line| line.starts_with("lock") || line == "event-wait"), "{lines:?}");
}

#[test]
fn the_memory_that_is_held_is_logged() {
    let Some(_log) = double("the_memory_that_is_held_is_logged") else { return };
    let dir = tempfile::tempdir().unwrap();
    give(64 * MIB);
    let mut estimator = builder(dir.path()).build().unwrap();
    estimator.setup(Inputs::train(examples(512).batch(512))).unwrap();
    estimator.train_steps(2).unwrap().save_ckpt().unwrap();
    let history = History::load(dir.path()).unwrap();
    let held = history.series("train/gpu_memory");
    assert!(!held.is_empty() && held.iter().all(|(_, held)| *held > 0.1 && *held <= 64.0), "{held:?}");
}

/// A classifier whose tape begins behind its first layer, but for every so many-th step, if any.
#[derive(Serialize, Deserialize)]
struct Cut(Option<u64>);

impl<D: Device> ModelFn<D> for Cut {
    type Net = ClassifierNet<D>;

    fn build(&self, device: &D) -> ModelResult<ClassifierNet<D>> {
        Classifier.build(device)
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(0.05).into()
    }

    fn train(
        &self,
        net: &mut ClassifierNet<D>,
        features: &Features<D>,
        step: &mut Step<'_, D>,
    ) -> ModelResult<TrainSpec<D>> {
        if self.0.is_some_and(|every| step.global_step() % every == every - 1) {
            return Classifier.train(net, features, step);
        }
        let hidden = net.hidden.forward(features.tensor::<(usize, usize)>("x")?)?;
        let y = net.out.forward(hidden.traced(step.tape()?))?;
        Ok(TrainSpec::new(sparse_cross_entropy(y, &features.indices("label")?)?))
    }

    fn evaluate(&self, net: &ClassifierNet<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        Classifier.evaluate(net, features)
    }

    fn predict(&self, net: &ClassifierNet<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        Classifier.predict(net, features)
    }
}

/// The warnings of a hundred steps, and the bytes that each verb has read from the device.
fn warnings(model: Cut, log: &mut cuda_host::Log) -> (Vec<String>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let builder: Builder<Cut, Cuda> = Builder::new(model).device(DeviceSpec::Cuda(0)).model_dir(dir.path());
    let mut estimator = builder.progress(ProgressMode::Off).seed(3).log_file(true).build().unwrap();
    estimator.setup(Inputs::train(examples(64).batch(8).repeat_forever())).unwrap();
    let mut read = Vec::new();
    log.lines();
    for steps in [1, 61, 2, 36] {
        estimator.train_steps(steps).unwrap();
        let bytes = |line: &String| line.strip_prefix("d2h ")?.parse::<usize>().ok();
        read.push(log.lines().iter().filter_map(bytes).sum());
    }
    let text = std::fs::read_to_string(dir.path().join("log.txt")).unwrap();
    (text.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect(), read)
}

#[test]
fn parameters_that_no_loss_reaches_are_named_without_waiting_in_every_step() {
    let test = "parameters_that_no_loss_reaches_are_named_without_waiting_in_every_step";
    let Some(mut log) = anywhere(test) else { return };
    // A loss for each step, and a norm for every tenth; four gradients in the first one, and in the 64th what the steps since
    // then have left of two.
    let losses = [1, 61 + 6, 2, 36 + 4].map(|values| 4 * values);
    for every in [None, Some(5), Some(1)] {
        let (found, read) = warnings(Cut(every), &mut log);
        let text = "hidden.weight, hidden.bias in 64 steps";
        let is_warned = found.len() == 1 && found[0].contains("step=64 ") && found[0].contains(text);
        assert!(if every.is_none() { is_warned } else { found.is_empty() }, "{every:?}: {found:?}");
        let left = if every == Some(1) { 0 } else { 4 * 2 * 63 };
        let expected = [losses[0] + 4 * 4, losses[1], losses[2] + left, losses[3]];
        assert!(log.is_of_a_gpu() || read == expected, "{every:?}: {read:?}");
    }
}

fn assert_uploads_arrive() {
    let device = Cuda::open(DeviceSpec::Cuda(0), 1).unwrap();
    let rows = |from: usize| (0..20_000 * 3).map(|i| (from + i) % 251).collect::<Vec<_>>();
    let arrays = |from: usize| {
        let rows = rows(from);
        [
            Array::new([20_000, 3], rows.iter().map(|x| *x as f32).collect::<Vec<_>>()).unwrap(),
            Array::new([20_000, 3], rows.iter().map(|x| *x as f64).collect::<Vec<_>>()).unwrap(),
            Array::new([20_000, 3], rows.iter().map(|x| *x as i32).collect::<Vec<_>>()).unwrap(),
            Array::new([20_000, 3], rows.iter().map(|x| *x as i64).collect::<Vec<_>>()).unwrap(),
            Array::new([20_000, 3], rows.iter().map(|x| *x as u8).collect::<Vec<_>>()).unwrap(),
            Array::new([20_000, 3], rows.iter().map(|x| x % 2 == 0).collect::<Vec<_>>()).unwrap(),
        ]
    };
    let mut tensors = Vec::new();
    for from in 0..3 {
        for array in arrays(from) {
            let expected = array.to_f32().unwrap();
            let features = Features::new(Record::new().with("x", array), device.clone());
            tensors.push((features.tensor::<(usize, usize)>("x").unwrap(), expected));
        }
    }
    for (tensor, expected) in tensors {
        assert!(tensor.as_vec() == expected);
    }
}

#[test]
fn uploads_of_every_type_arrive() {
    let Some(mut log) = anywhere("uploads_of_every_type_arrive") else { return };
    assert_uploads_arrive();
    if log.is_of_a_gpu() {
        return;
    }
    // Where the device is done before the next one comes, one place does.
    let counts = log.counts();
    assert_eq!((counts["lock"], counts.get("event-wait").copied().unwrap_or(0)), (1, 0));
}

#[test]
fn uploads_wait_where_the_host_is_far_ahead() {
    let Some(mut log) = cuda_double("uploads_wait_where_the_host_is_far_ahead", &[("DRIVER_BUSY", "1")]) else {
        return;
    };
    assert_uploads_arrive();
    let counts = log.counts();
    assert_eq!((counts["lock"], counts["event-wait"]), (3, 15));
}

#[test]
fn batches_grow_until_they_do_not_fit_the_fraction() {
    let Some(log) = anywhere("batches_grow_until_they_do_not_fit_the_fraction") else { return };
    if !log.is_of_a_gpu() {
        give(1024 * MIB);
    }
    let dir = tempfile::tempdir().unwrap();
    // On a device of 140 GiB the values of the hidden layer, 512 bytes an example, are more with 2^22 examples.
    let mut estimator = builder(dir.path()).memory_fraction(0.01).build().unwrap();
    let mut refused = None;
    for doublings in 0..8 {
        let count = 1 << (15 + doublings);
        estimator.setup(Inputs::train(examples(count).batch(count))).unwrap();
        if let Err(error) = estimator.train() {
            refused = Some(error);
            break;
        }
    }
    let error = refused.expect("nothing was refused");
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("that it may take"), "{error}");
    let steps = estimator.global_step();
    estimator.setup(Inputs::train(examples(256).batch(32))).unwrap();
    estimator.train().unwrap();
    assert_eq!(estimator.global_step(), steps + 8);
}
