//! Names, rates and steps where two features meet in one step or one evaluation.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Line, LineNet, in_dir, points, train_data};
use elistimator::Ensemble;
use elistimator::nn::{Gradients, PartMut};
use elistimator::optim::{Ftrl, Optimizer};
use elistimator::prelude::*;

/// [`Line`] that names, counts and weighs as the test says.
#[derive(Serialize, Deserialize, Default)]
struct Odd {
    scalars: Vec<String>,
    metrics: Vec<String>,
    has_second_loss: bool,
    is_second_nan: bool,
    is_one_row: bool,
    is_ftrl: bool,
    /// By the number of steps done, whether the last layer is trained; the last one goes on.
    trains_out: Vec<bool>,
}

impl ModelFn for Odd {
    type Net = LineNet<Cpu>;

    fn build(&self, device: &Cpu) -> ModelResult<Self::Net> {
        Line::default().build(device)
    }

    fn optimizer(&self) -> OptimizerConfig {
        if self.is_ftrl { Ftrl::new(0.1).into() } else { Sgd::new(0.01).into() }
    }

    fn train(&self, net: &mut Self::Net, x: &Features<Cpu>, step: &mut Step<'_, Cpu>) -> ModelResult<TrainSpec<Cpu>> {
        if let Some(on) = self.trains_out.get(step.global_step() as usize).or(self.trains_out.last()) {
            train_out(net, *on)?;
        }
        let mut spec = Line::default().train(net, x, step)?;
        if self.has_second_loss {
            let y = net.forward(x.tensor("x")?.traced(step.tape()?))?;
            let factor = if self.is_second_nan { f32::NAN } else { 1.0 };
            let second = common::mean_squared(y, x.tensor("y")?)?.try_mul(factor)?;
            spec = spec.updating("hidden.").and(second, "out.");
        }
        let value: Tensor<(), Cpu> = step_device(x)?;
        Ok(self.scalars.iter().fold(spec, |spec, name| spec.scalar(name, value.clone())))
    }

    fn evaluate(&self, net: &Self::Net, x: &Features<Cpu>) -> ModelResult<EvaluationSpec<Cpu>> {
        let spec = Line::default().evaluate(net, x)?;
        Ok(self.metrics.iter().fold(spec, |spec, name| spec.metric(name, Mean::of([7.0]))))
    }

    fn predict(&self, net: &Self::Net, x: &Features<Cpu>) -> ModelResult<PredictSpec> {
        let spec = Line::default().predict(net, x)?;
        Ok(if self.is_one_row { spec.output("offset", Array::new([1, 1], vec![0.5f32])?) } else { spec })
    }
}

fn train_out(net: &mut LineNet<Cpu>, on: bool) -> ModelResult<()> {
    net.visit_mut(&mut VisitorMut::new(&mut |name, part| {
        if let PartMut::Parameter(parameter) = part
            && name.starts_with("out.")
        {
            parameter.set_trainable(on);
        }
        Ok(())
    }))
}

/// A number on the device.
fn step_device(x: &Features<Cpu>) -> ModelResult<Tensor<(), Cpu>> {
    let y: Tensor<(usize, usize), Cpu> = x.tensor("y")?;
    Ok(y.try_mul(0.0)?.try_mean()?.try_add(3.0)?)
}

fn ready(model: Odd, dir: &Path) -> Elistimator<Odd> {
    let mut estimator = Elistimator::builder(model).progress(ProgressMode::Off).seed(3).model_dir(dir).build().unwrap();
    estimator.setup(Inputs::train(train_data()).validation(points(17).batch(4))).unwrap();
    estimator
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A curve of two things under one name, or a loss that is another one in the history, is seen by nobody.
#[test]
fn values_to_log_have_names_of_their_own() {
    for scalars in [&["loss"][..], &["learning_rate"], &["loss_2"], &["penalty", "penalty"], &["data_wait"]] {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = ready(Odd { scalars: names(scalars), has_second_loss: true, ..Odd::default() }, dir.path());
        let error = estimator.train_steps(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains(&format!("{:?}", scalars[0])), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let model = Odd { scalars: names(&["penalty", "loss_3"]), has_second_loss: true, ..Odd::default() };
    ready(model, dir.path()).train_steps(2).unwrap();
}

#[test]
fn metrics_have_names_of_their_own() {
    for metrics in [&["loss"][..], &["mean", "mean"]] {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = ready(Odd { metrics: names(metrics), ..Odd::default() }, dir.path());
        let error = estimator.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains(&format!("{:?}", metrics[0])), "{error}");
        assert!(estimator.evaluate(points(8).batch(4)).is_err());
    }
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(Odd { metrics: names(&["mean", "other"]), ..Odd::default() }, dir.path());
    assert_eq!(estimator.validate().unwrap().get("other").unwrap(), 7.0);
}

#[test]
fn any_loss_that_is_not_finite_stops_the_run_at_its_step() {
    let dir = tempfile::tempdir().unwrap();
    let model = Odd { has_second_loss: true, is_second_nan: true, ..Odd::default() };
    let error = ready(model, dir.path()).train_steps(5).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFinite);
    assert!(error.to_string().starts_with("step 1: loss_2 is NaN"), "{error}");
}

/// One output with a row for all would cut the others short.
#[test]
fn outputs_of_other_numbers_of_rows_are_no_examples() {
    let dir = tempfile::tempdir().unwrap();
    let estimator = ready(Odd { is_one_row: true, ..Odd::default() }, dir.path());
    let mut examples = estimator.predict_all(points(8).batch(4)).unwrap().examples();
    let error = examples.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    assert!(error.to_string().contains("\"offset\""), "{error}");
    // By batches they are what the model function said.
    assert_eq!(estimator.predict_all(points(8).batch(4)).unwrap().count(), 2);
}

/// A slip in the learning rate is an error of the step, and takes no data away from the run.
#[test]
fn a_learning_rate_that_is_none_costs_no_batch() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut straight = ready(Odd::default(), dir.path());
    straight.set_learning_rate(0.02).train_steps(5).unwrap();
    let mut slipped = ready(Odd::default(), other.path());
    assert_eq!(slipped.set_learning_rate(f64::NAN).train().unwrap_err().kind(), ErrorKind::InvalidArgument);
    slipped.set_learning_rate(0.02).train_steps(5).unwrap();
    assert_eq!(slipped.variable("out.weight").unwrap(), straight.variable("out.weight").unwrap());
    assert_eq!((slipped.epoch(), slipped.global_step()), (0, 5));
}

/// FTRL divides by the rate, in `f32`.
#[test]
fn a_rate_that_a_schedule_has_brought_to_nothing_moves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(Odd { is_ftrl: true, ..Odd::default() }, dir.path());
    estimator.train_steps(3).unwrap();
    let before = estimator.variable("hidden.weight").unwrap();
    for rate in [1e-44, 1e-60, f64::MIN_POSITIVE] {
        estimator.set_learning_rate(rate).train_steps(2).unwrap();
        assert_eq!(estimator.variable("hidden.weight").unwrap(), before, "{rate}");
    }
}

/// As a GAN in PyTorch switches `requires_grad`: what is frozen for a step leaves no gradient for a later one.
#[test]
fn parts_are_frozen_and_freed_from_step_to_step() {
    let plan = [true, false, false, true, false, true, true, false, false, true];
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut inside = ready(Odd { trains_out: plan.to_vec(), ..Odd::default() }, dirs[0].path());
    inside.train_steps(plan.len() as u64).unwrap();
    let mut outside = ready(Odd::default(), dirs[1].path());
    for on in plan {
        if on {
            outside.unfreeze("out.").unwrap()
        } else {
            outside.freeze("out.").unwrap()
        };
        outside.train_steps(1).unwrap();
    }
    for name in ["hidden.weight", "out.weight", "out.bias"] {
        assert_eq!(inside.variable(name).unwrap(), outside.variable(name).unwrap(), "{name}");
    }
}

/// Gradual unfreezing within one verb.
#[test]
fn a_part_that_is_freed_on_the_way_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let model = Odd { trains_out: vec![false, false, false, true, true, false, true], ..Odd::default() };
    let mut estimator = ready(model, dir.path());
    estimator.freeze("out.").unwrap();
    let before = estimator.variable("out.weight").unwrap();
    estimator.train_steps(4).unwrap();
    assert_eq!(estimator.variable("out.weight").unwrap(), before);
    let whole = tempfile::tempdir().unwrap();
    let model = Odd { trains_out: vec![false, false, false, true, true, false, true], ..Odd::default() };
    let mut estimator = ready(model, whole.path());
    estimator.freeze("out.").unwrap();
    estimator.train_steps(9).unwrap();
    assert_ne!(estimator.variable("out.weight").unwrap(), before);
}

/// In `f32`, in which updates are made, it would be 1.
#[test]
fn a_decay_rate_that_rounds_to_1_is_refused() {
    let mut net = Line::default().build(&Cpu::open(DeviceSpec::Cpu, 0).unwrap()).unwrap();
    for config in
        [Adam::new(0.1).betas(0.9, 1.0 - 1e-9).into(), OptimizerConfig::from(RmsProp::new(0.1).decay(1.0 - 1e-9))]
    {
        let error = Optimizer::new(config).update(&mut net, &mut Gradients::leaky(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    }
    Optimizer::new(Adam::new(0.1).betas(0.9, 0.999_999).into())
        .update(&mut net, &mut Gradients::leaky(), None)
        .unwrap();
}

/// The first step of the session that the last event file of a directory is of: the records are length, checksum, data, checksum.
fn session_start(dir: &Path) -> u64 {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let bytes = std::fs::read(files.last().unwrap()).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let data = &bytes[16 + length + 12..];
    // The time, then the step, of less than 128 here; none for 0.
    assert_eq!(data[0], 0x09);
    if data[9] == 0x10 { u64::from(data[10]) } else { 0 }
}

/// Averages are measured beside the checkpoints, which do not know of the point.
#[test]
fn a_resumed_run_keeps_the_point_of_its_averages() {
    let dir = tempfile::tempdir().unwrap();
    let started = || {
        let mut estimator = in_dir(dir.path()).ema(0.9).resume_or_start().unwrap();
        estimator.setup(Inputs::train(train_data()).validation(points(17).batch(4))).unwrap();
        estimator
    };
    let mut estimator = started();
    estimator.train_steps(5).unwrap().save_ckpt().unwrap();
    estimator.validate_ema().unwrap();
    drop(estimator);
    let mut resumed = started();
    resumed.train_steps(5).unwrap();
    resumed.validate_ema().unwrap();
    // Readers drop the points from there on.
    assert_eq!(session_start(&dir.path().join("validation_ema")), 6);
}

#[test]
fn a_range_test_spans_whatever_numbers_can() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = ready(Odd::default(), dir.path());
    let test = estimator.range_test(1e-200, 1e200, 9).unwrap();
    assert_eq!(test.points()[0].0, 1e-200);
    assert!(test.points().len() > 4 && test.points().iter().all(|(rate, _)| rate.is_finite()));
    assert_eq!(estimator.learning_rate(), 0.01);
}

/// As a batch of no weight does in an evaluation: what does not count cannot spoil the mean.
#[test]
fn members_without_weight_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let member = |name: &str, seed| {
        let mut member = in_dir(&dir.path().join(name)).seed(seed).build().unwrap();
        member.setup(Inputs::train(train_data())).unwrap().train_steps(2).unwrap();
        member
    };
    let (sound, mut broken) = (member("sound", 1), member("broken", 2));
    let request = || inputs! { "x" => Array::new([2, 3], vec![0.5f32; 6]).unwrap() };
    let expected = sound.predict(request()).unwrap().get("y").unwrap().clone();
    broken.set_variable("out.bias", &Array::from(vec![f32::NAN])).unwrap();
    let ensemble = Ensemble::new(vec![sound, broken]).unwrap().weights(&[2.0, 0.0]).unwrap();
    assert_eq!(ensemble.predict(request(), "y").unwrap(), expected);
}

/// Data that is shuffled and cut would be other examples under another seed.
#[test]
fn members_and_ensemble_are_measured_on_the_same_examples() {
    let dir = tempfile::tempdir().unwrap();
    let member = |seed: u64| {
        let mut member = in_dir(&dir.path().join(seed.to_string())).seed(seed).build().unwrap();
        member.setup(Inputs::train(train_data())).unwrap();
        for name in ["hidden.weight", "hidden.bias", "out.weight", "out.bias"] {
            let values = member.variable(name).unwrap();
            let dims = values.dims().to_vec();
            let same = Array::new(dims, vec![0.25f32; values.as_slice::<f32>().unwrap().len()]).unwrap();
            member.set_variable(name, &same).unwrap();
        }
        member
    };
    let ensemble = Ensemble::new(vec![member(1), member(2)]).unwrap();
    let data = points(60).shuffle(60).take(10).batch(5);
    let members = ensemble.evaluate_members(&data).unwrap();
    assert_eq!(members[0], members[1]);
    let error = ensemble.measure(&data, "y", |batch, combined| {
        let (y, combined) = (batch.get("y")?.as_slice::<f32>()?, combined.as_slice::<f32>()?);
        Ok(Mean::of(y.iter().zip(combined).map(|(y, found)| f64::from(y - found).powi(2))))
    });
    assert!((Metric::value(&error.unwrap()) - members[0].get("loss").unwrap()).abs() < 1e-5);
}
