//! Groups of parameters by patterns of their names, through whole runs: weight decay, learning rates, what is frozen, and
//! averages.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use common::mean_squared;
use elistimator::nn::{BatchNorm, Gradients, LayerNorm};
use elistimator::optim::{Adagrad, Ftrl, Lamb, Optimizer, RmsProp};
use elistimator::prelude::*;

/// A network with an embedding-like first part, a norm and a head; its optimiser is the test's.
#[derive(Serialize, Deserialize, Clone)]
struct Grouped {
    optimizer: OptimizerConfig,
    /// What the loss is multiplied by: at 0 all gradients are 0, and what moves is moved by decay.
    scale: f32,
    schedule: Schedule,
}

network! {
    struct Net<D> {
        encoder: Linear<D>,
        norm1: LayerNorm<D>,
        head: Linear<D>,
    }
}

impl<D: Device> Net<D> {
    fn forward<T: Tape<f32, D>>(&self, x: Tensor<(usize, usize), D, T>) -> ModelResult<Tensor<(usize, usize), D, T>> {
        self.head.forward(self.norm1.forward(self.encoder.forward(x)?)?)
    }
}

impl<D: Device> ModelFn<D> for Grouped {
    type Net = Net<D>;

    fn build(&self, device: &D) -> ModelResult<Net<D>> {
        Ok(Net {
            encoder: Linear::builder(3, 6).activation(Activation::Relu).build(device)?,
            norm1: LayerNorm::new(device, 6)?,
            head: Linear::builder(6, 1).build(device)?,
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        self.optimizer.clone()
    }

    fn schedule(&self) -> Schedule {
        self.schedule.clone()
    }

    fn train(&self, net: &mut Net<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let y = net.forward(features.tensor("x")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(mean_squared(y, features.tensor("y")?)?.try_mul(self.scale)?))
    }

    fn evaluate(&self, net: &Net<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        Ok(EvaluationSpec::new(mean_squared(net.forward(features.tensor("x")?)?, features.tensor("y")?)?))
    }
}

const NAMES: [&str; 6] = ["encoder.bias", "encoder.weight", "head.bias", "head.weight", "norm1.bias", "norm1.weight"];

fn started(dir: &std::path::Path, optimizer: impl Into<OptimizerConfig>, scale: f32) -> Elistimator<Grouped> {
    with(Elistimator::builder(grouped(optimizer, scale)).model_dir(dir))
}

fn grouped(optimizer: impl Into<OptimizerConfig>, scale: f32) -> Grouped {
    Grouped { optimizer: optimizer.into(), scale, schedule: Schedule::Constant }
}

fn with(builder: Builder<Grouped>) -> Elistimator<Grouped> {
    let mut estimator = builder.seed(5).progress(ProgressMode::Off).resume_or_start().unwrap();
    if estimator.global_step() == 0 {
        // Biases begin at 0, where decay could not be seen.
        for (name, dims) in estimator.variables() {
            let ones = vec![0.5f32; dims.iter().product()];
            if name.ends_with(".bias") {
                estimator.set_variable(&name, &Array::new(dims, ones).unwrap()).unwrap();
            }
        }
    }
    estimator.setup(Inputs::train(common::points(40).shuffle(40).batch(8))).unwrap();
    estimator
}

fn values(estimator: &Elistimator<Grouped>) -> BTreeMap<String, Vec<f32>> {
    let names = estimator.variables().into_iter().map(|(name, _)| name);
    names.map(|name| (name.clone(), estimator.variable(&name).unwrap().as_slice::<f32>().unwrap().to_vec())).collect()
}

fn moved(before: &BTreeMap<String, Vec<f32>>, after: &BTreeMap<String, Vec<f32>>) -> Vec<String> {
    before.iter().filter(|(name, values)| after[*name] != **values).map(|(name, _)| name.clone()).collect()
}

#[test]
fn decay_spares_biases_and_norms_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let adamw = OptimizerConfig::from(Adam::new(0.1).decoupled_weight_decay(0.5));
    let mut estimator = started(dir.path(), adamw.clone().without_decay("*.bias").without_decay("*norm*"), 0.0);
    let before = values(&estimator);
    assert_eq!(before.keys().collect::<Vec<_>>(), NAMES);
    estimator.train_steps(3).unwrap();
    let after = values(&estimator);
    assert_eq!(moved(&before, &after), ["encoder.weight", "head.weight"]);
    // Without a gradient, AdamW's step is `w -= learning_rate * decay * w`, three times.
    for name in ["encoder.weight", "head.weight"] {
        for (before, after) in before[name].iter().zip(&after[name]) {
            let expected = f64::from(*before) * 0.95f64.powi(3);
            assert!((f64::from(*after) - expected).abs() < 1e-6, "{name}: {after} {expected}");
        }
    }
    // Without the patterns everything decays: the test can see it.
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = started(dir.path(), adamw, 0.0);
    estimator.train_steps(3).unwrap();
    assert_eq!(moved(&before, &values(&estimator)), NAMES);
}

#[test]
fn l2_decay_spares_by_pattern_too() {
    let dir = tempfile::tempdir().unwrap();
    let sgd = OptimizerConfig::from(Sgd::new(0.1).weight_decay(0.5)).without_decay("*.bias").without_decay("norm1.");
    let mut estimator = started(dir.path(), sgd, 0.0);
    let before = values(&estimator);
    estimator.train_steps(2).unwrap();
    let after = values(&estimator);
    assert_eq!(moved(&before, &after), ["encoder.weight", "head.weight"]);
    for (before, after) in before["head.weight"].iter().zip(&after["head.weight"]) {
        assert!((after - before * 0.95 * 0.95).abs() < 1e-6);
    }
}

#[test]
fn frozen_groups_stay_by_prefix_and_by_glob_over_a_restart() {
    let all = |frozen: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let config = frozen.iter().fold(OptimizerConfig::from(Adam::new(0.01)), |config, name| config.frozen(name));
        let mut estimator = started(dir.path(), config.clone(), 1.0);
        let before = values(&estimator);
        estimator.train_steps(4).unwrap().save_ckpt().unwrap();
        drop(estimator);
        let mut resumed = started(dir.path(), config, 1.0);
        assert_eq!(resumed.global_step(), 4);
        resumed.train_steps(4).unwrap();
        let summary = resumed.parameters();
        assert_eq!(summary.trainable() + summary.frozen(), 24 + 12 + 7);
        (moved(&before, &values(&resumed)), summary.frozen())
    };
    assert_eq!(all(&[]), (NAMES.map(String::from).to_vec(), 0));
    assert_eq!(all(&["encoder."]).0, ["head.bias", "head.weight", "norm1.bias", "norm1.weight"]);
    assert_eq!(all(&["*.bias", "norm*weight"]), (["encoder.weight", "head.weight"].map(String::from).to_vec(), 19));
    // A prefix without its dot fits more; a name in the middle of another one fits nothing, which is refused (below).
    assert_eq!(all(&["he"]).0, ["encoder.bias", "encoder.weight", "norm1.bias", "norm1.weight"]);
}

#[test]
fn freezing_by_hand_is_the_same_as_by_the_optimiser() {
    let (by_hand, by_config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = started(by_hand.path(), Adam::new(0.01), 1.0);
    assert_eq!(first.freeze("encoder.*").unwrap(), 2);
    first.train_steps(6).unwrap();
    let config = OptimizerConfig::from(Adam::new(0.01)).frozen("encoder.*");
    let mut second = started(by_config.path(), config, 1.0);
    second.train_steps(6).unwrap();
    assert_eq!(values(&first), values(&second));
    // And let go again.
    let before = values(&first);
    assert_eq!(first.unfreeze("encoder.").unwrap(), 2);
    first.train_steps(1).unwrap();
    assert_eq!(moved(&before, &values(&first)), NAMES);
    assert_eq!(first.freeze("*.nothing").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_group_has_its_own_learning_rate_and_the_longest_pattern_counts() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        OptimizerConfig::from(Sgd::new(0.01)).group("*.bias", Sgd::new(0.02)).group("head.bias", Sgd::new(0.04));
    let mut grouped = started(dir.path(), config, 1.0);
    let before = values(&grouped);
    grouped.train_steps(1).unwrap();
    let plain_dir = tempfile::tempdir().unwrap();
    let mut plain = started(plain_dir.path(), Sgd::new(0.01), 1.0);
    plain.train_steps(1).unwrap();
    let (grouped, plain) = (values(&grouped), values(&plain));
    for (name, factor) in NAMES.iter().zip([2.0, 1.0, 4.0, 1.0, 2.0, 1.0]) {
        assert_ne!(before[*name], plain[*name], "{name}");
        for ((before, plain), grouped) in before[*name].iter().zip(&plain[*name]).zip(&grouped[*name]) {
            let (expected, found) = (factor * (plain - before), grouped - before);
            assert!((found - expected).abs() < 1e-6, "{name}: {found} {expected}");
        }
    }
}

#[test]
fn an_average_every_third_step_is_that_of_those_steps() {
    let run = |interrupted: bool| {
        let dir = tempfile::tempdir().unwrap();
        let model = grouped(Sgd::new(0.05), 1.0);
        let build = || with(Elistimator::builder(model.clone()).model_dir(dir.path()).ema_every(0.75, 3));
        let mut estimator = build();
        let mut expected: Option<BTreeMap<String, Vec<f64>>> = None;
        for step in 1..=11 {
            estimator.train_steps(1).unwrap();
            if step % 3 == 0 {
                let now = values(&estimator);
                let wide = |values: &Vec<f32>| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
                match &mut expected {
                    None => expected = Some(now.iter().map(|(name, values)| (name.clone(), wide(values))).collect()),
                    Some(average) => average.iter_mut().for_each(|(name, average)| {
                        average.iter_mut().zip(wide(&now[name])).for_each(|(a, w)| *a = 0.75 * *a + 0.25 * w);
                    }),
                }
            }
            if interrupted && step == 7 {
                estimator.save_ckpt().unwrap();
                drop(estimator);
                estimator = build();
            }
        }
        let trained = values(&estimator);
        let found = estimator.with_ema(|averaged| Ok(values(averaged))).unwrap();
        for (name, expected) in expected.unwrap() {
            assert_ne!(found[&name], trained[&name], "{name}");
            for (found, expected) in found[&name].iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{name}: {found} {expected}");
            }
        }
        found
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn groups_follow_the_schedule_also_where_the_common_learning_rate_is_0() {
    let after = |schedule: Schedule, steps: u64| {
        let dir = tempfile::tempdir().unwrap();
        let config = OptimizerConfig::from(Sgd::new(0.0)).group("head.", Sgd::new(0.1));
        let mut estimator =
            with(Elistimator::builder(Grouped { schedule, ..grouped(config, 1.0) }).model_dir(dir.path()));
        let before = values(&estimator);
        estimator.train_steps(steps).unwrap();
        let after = values(&estimator);
        assert_eq!(moved(&before, &after), ["head.bias", "head.weight"]);
        after
    };
    let halving = Schedule::Step { steps: 1, factor: 0.5 };
    let once = after(Schedule::Constant, 1);
    assert_eq!(once, after(halving.clone(), 1));
    let (halved, constant) = (after(halving, 2), after(Schedule::Constant, 2));
    for ((once, halved), constant) in once["head.bias"].iter().zip(&halved["head.bias"]).zip(&constant["head.bias"]) {
        assert_ne!(once, constant);
        assert!(((halved - once) - 0.5 * (constant - once)).abs() < 1e-6, "{once} {halved} {constant}");
    }
}

#[test]
fn settings_without_sense_are_refused_with_what_was_found() {
    let refused = |optimizer: OptimizerConfig, expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        let builder = Elistimator::builder(grouped(optimizer, 1.0)).model_dir(dir.path()).progress(ProgressMode::Off);
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused(Sgd::new(f64::NAN).into(), "learning_rate of the optimiser: found NaN, expected");
    refused(Sgd::new(-0.1).into(), "found -0.1");
    refused(Sgd::new(0.1).momentum(f64::INFINITY).into(), "momentum of the optimiser: found inf");
    refused(Adam::new(0.1).betas(0.9, 1.0).into(), "the second of betas of the optimiser: found 1, expected");
    refused(Adam::new(0.1).epsilon(-1e-8).into(), "epsilon");
    refused(RmsProp::new(0.1).decay(1.5).into(), "decay of the optimiser: found 1.5");
    refused(Adagrad::new(0.1).initial_accumulator(-1.0).into(), "initial_accumulator");
    refused(Ftrl::new(0.1).l1(-0.5).into(), "l1");
    refused(OptimizerConfig::from(Sgd::new(0.1)).clip_norm(0.0), "clip_norm: found 0, expected a positive number");
    refused(OptimizerConfig::from(Sgd::new(0.1)).clip_value(f64::NAN), "clip_value: found NaN");
    let group = OptimizerConfig::from(Sgd::new(0.1)).group("head.", Lamb::new(0.1).weight_decay(f64::NAN));
    refused(group, "weight_decay of the group \"head.\": found NaN");

    let dir = tempfile::tempdir().unwrap();
    let mut estimator = started(dir.path(), Sgd::new(0.1), 1.0);
    estimator.train_steps(2).unwrap();
    let before = values(&estimator);
    for rate in [f64::NAN, f64::INFINITY, -1e-3] {
        let error = estimator.set_learning_rate(rate).train_steps(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(&format!("step 3: learning rate: found {rate}, expected")), "{error}");
    }
    assert_eq!((values(&estimator), estimator.global_step()), (before, 2));
    estimator.follow_schedule().train_steps(1).unwrap();
}

/// A schedule may end at 0, by which FTRL would divide.
#[test]
fn nothing_moves_at_a_learning_rate_of_0() {
    let rules: [OptimizerConfig; 6] = [
        Sgd::new(0.1).momentum(0.9).weight_decay(0.1).into(),
        Adam::new(0.1).decoupled_weight_decay(0.1).into(),
        RmsProp::new(0.1).into(),
        Adagrad::new(0.1).into(),
        Ftrl::new(0.1).l1(0.1).l2(0.1).into(),
        Lamb::new(0.1).into(),
    ];
    for config in rules {
        let dir = tempfile::tempdir().unwrap();
        let schedule = Schedule::Cosine { steps: 3, floor: 0.0 };
        let model = Grouped { schedule, ..grouped(config, 1.0) };
        let mut estimator = with(Elistimator::builder(model).model_dir(dir.path()));
        estimator.train_steps(3).unwrap();
        let before = values(&estimator);
        estimator.train_steps(3).unwrap();
        assert_eq!(values(&estimator), before, "{:?}", estimator.model().optimizer);
    }
}

#[test]
fn a_closure_is_a_schedule_and_a_fixed_rate_comes_first() {
    let schedule = |step: u64| 0.1 / (1.0 + step as f64);
    let dir = tempfile::tempdir().unwrap();
    let mut whole = started(dir.path(), Sgd::new(0.5).momentum(0.9), 1.0);
    whole.set_schedule(schedule).train_steps(9).unwrap();
    assert_eq!(whole.learning_rate(), 0.01);

    let dir = tempfile::tempdir().unwrap();
    let mut first = started(dir.path(), Sgd::new(0.5).momentum(0.9), 1.0);
    first.set_schedule(schedule).train_steps(4).unwrap().save_ckpt().unwrap();
    drop(first);
    let mut second = started(dir.path(), Sgd::new(0.5).momentum(0.9), 1.0);
    second.set_schedule(schedule).train_steps(5).unwrap();
    assert_eq!(values(&second), values(&whole));
    assert_eq!(second.set_learning_rate(0.25).learning_rate(), 0.25);
    assert_eq!(second.follow_schedule().learning_rate(), 0.01);

    let error = second.set_schedule(|step| panic!("no rate for {step}")).train_steps(1).unwrap_err();
    assert!(error.kind() == ErrorKind::Model && error.to_string().contains("no rate for 9"), "{error}");
    let error = second.set_schedule(|_| f64::NAN).train_steps(1).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("found NaN"), "{error}");
    second.set_schedule(schedule).train_steps(1).unwrap();
}

/// Batch normalisation before a line; what `update` does is the test's.
#[derive(Serialize, Deserialize, Clone)]
struct Normed {
    /// Whether the update is made with a copy of the gradients, as a rule of one's own may do.
    copies: bool,
}

network! {
    struct NormedNet<D> {
        norm: BatchNorm<D>,
        out: Linear<D>,
    }
}

impl ModelFn for Normed {
    type Net = NormedNet<Cpu>;

    fn build(&self, device: &Cpu) -> ModelResult<NormedNet<Cpu>> {
        Ok(NormedNet { norm: BatchNorm::new(device, 3)?, out: Linear::builder(3, 1).build(device)? })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Adam::new(0.1).decoupled_weight_decay(0.5).into()
    }

    fn train(
        &self,
        net: &mut NormedNet<Cpu>,
        features: &Features<Cpu>,
        step: &mut Step<'_, Cpu>,
    ) -> ModelResult<TrainSpec<Cpu>> {
        let x = features.tensor::<(usize, usize)>("x")?.traced(step.tape()?);
        let y = net.out.forward(net.norm.forward(x)?)?;
        Ok(TrainSpec::new(mean_squared(y, features.tensor("y")?)?))
    }

    fn update(
        &self,
        net: &mut NormedNet<Cpu>,
        gradients: &mut Gradients<Cpu>,
        optimizer: &mut Optimizer<Cpu>,
        scope: Option<&str>,
    ) -> ModelResult<()> {
        if self.copies {
            return optimizer.update(net, &mut gradients.clone(), scope);
        }
        optimizer.update(net, gradients, scope)
    }
}

fn normed(copies: bool) -> Elistimator<Normed> {
    let dir = tempfile::tempdir().unwrap().keep();
    let builder = Elistimator::builder(Normed { copies }).model_dir(dir).seed(2).progress(ProgressMode::Off);
    let mut estimator = builder.build().unwrap();
    estimator.setup(Inputs::train(common::points(40).shuffle(40).batch(8))).unwrap();
    estimator
}

#[test]
fn running_statistics_are_no_weights_after_unfreezing() {
    let (mut plain, mut thawed) = (normed(false), normed(false));
    assert_eq!(thawed.freeze("norm.").unwrap(), 4);
    assert_eq!(thawed.unfreeze("norm.").unwrap(), 2);
    assert_eq!(thawed.unfreeze("*.running_var").unwrap(), 0);
    assert_eq!(thawed.parameters(), plain.parameters());
    assert_eq!(thawed.parameters().frozen(), 6);
    plain.train_steps(7).unwrap();
    thawed.train_steps(7).unwrap();
    assert_eq!(thawed.hashes().unwrap(), plain.hashes().unwrap());
}

#[test]
fn an_update_of_ones_own_may_leave_the_gradients_as_they_are() {
    let (mut plain, mut copying) = (normed(false), normed(true));
    plain.train_steps(7).unwrap();
    copying.train_steps(7).unwrap();
    assert_eq!(
        copying.variable("out.weight").unwrap().as_slice::<f32>().unwrap(),
        plain.variable("out.weight").unwrap().as_slice::<f32>().unwrap()
    );
}

#[test]
fn parts_that_the_network_has_not_are_refused() {
    let model = |optimizer: OptimizerConfig| Grouped { optimizer, scale: 1.0, schedule: Schedule::default() };
    let built = |config| Elistimator::builder(model(config)).progress(ProgressMode::Off).build();
    let adam = || OptimizerConfig::from(Adam::new(1e-3));
    for (config, part) in [
        (adam().group("haed.", Sgd::new(0.1)), "the group \"haed.\""),
        (adam().frozen("*.wieght"), "frozen \"*.wieght\""),
        (adam().frozen("weight"), "frozen \"weight\""),
    ] {
        let error = built(config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(part) && error.to_string().contains("head.weight"), "{error}");
    }
    assert!(built(adam().without_decay("*nothing*").group("head.", Sgd::new(0.1)).frozen("*.bias")).is_ok());

    let mut estimator = built(adam()).unwrap();
    let (mut optimizer, mut gradients) = (Optimizer::new(adam()), Gradients::leaky());
    let error = optimizer.update(estimator.net_mut(), &mut gradients, Some("haed."));
    let error = Error::from(error.unwrap_err()).to_string();
    assert!(error.starts_with("the loss for \"haed.\": no parameter has such a name"), "{error}");
    assert!(optimizer.update(estimator.net_mut(), &mut gradients, Some("head.")).is_ok());
}
