//! Settings that act on each other, in the estimator, follow PyTorch for 100 updates: `data/combinations_torch.py` wrote the values.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{mean_squared, points};
use elistimator::optim::ReduceOnPlateau;
use elistimator::prelude::*;

#[derive(Deserialize)]
struct Reference {
    kept: Vec<u64>,
    start: Vec<f32>,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    weights: Vec<Vec<f64>>,
    averages: Vec<Vec<f64>>,
    rates: Vec<f64>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("data/combinations_torch.json")).unwrap()
}

const WARM_UP: u64 = 10;

/// A network of one hidden layer, with the settings of a case.
#[derive(Serialize, Deserialize)]
struct Combined {
    case: String,
}

network! {
    struct Net<D> { hidden: Linear<D>, out: Linear<D> }
}

impl<D: Device> Net<D> {
    fn forward<T: Tape<f32, D>>(&self, x: Tensor<(usize, usize), D, T>) -> ModelResult<Tensor<(usize, usize), D, T>> {
        self.out.forward(self.hidden.forward(x)?)
    }
}

impl<D: Device> ModelFn<D> for Combined {
    type Net = Net<D>;

    fn build(&self, device: &D) -> ModelResult<Net<D>> {
        let start = reference().start;
        let values = |range: std::ops::Range<usize>| Init::Values(start[range].to_vec());
        let hidden = Linear::builder(3, 4).activation(Activation::Tanh).weights(values(0..12)).bias(values(12..16));
        let out = Linear::builder(4, 1).weights(values(16..20)).bias(values(20..21));
        Ok(Net { hidden: hidden.build(device)?, out: out.build(device)? })
    }

    fn optimizer(&self) -> OptimizerConfig {
        let groups = || {
            OptimizerConfig::from(Adam::new(0.02).decoupled_weight_decay(0.1))
                .group("out.", Adam::new(0.05).betas(0.8, 0.99).decoupled_weight_decay(0.3))
                .without_decay("*.bias")
        };
        match self.case.as_str() {
            "clip_accumulate" => OptimizerConfig::from(Sgd::new(0.05).momentum(0.9)).clip_norm(0.5),
            "groups_ema" => groups().clip_norm(2.0),
            "groups_ema_accumulate" => groups(),
            "one_cycle" => Sgd::new(0.1).momentum(0.9).nesterov(true).weight_decay(0.01).into(),
            "rmsprop_restarts" => {
                OptimizerConfig::from(RmsProp::new(0.01).decay(0.9).epsilon(1e-3).momentum(0.5)).clip_norm(1.0)
            }
            _ => Adam::new(0.1).weight_decay(0.001).into(),
        }
    }

    fn schedule(&self) -> Schedule {
        match self.case.as_str() {
            "one_cycle" => Schedule::OneCycle { steps: 100, rise: 0.3, start: 0.04, end: 0.0004 },
            "rmsprop_restarts" => Schedule::WarmRestarts { steps: 9, growth: 2, floor: 0.1 },
            "plateau_warm_up" => Schedule::Constant.after_warm_up(WARM_UP),
            _ => Schedule::Constant,
        }
    }

    fn train(&self, net: &mut Net<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let y = net.forward(features.tensor("x")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(mean_squared(y, features.tensor("y")?)?))
    }

    fn evaluate(&self, net: &Net<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let y = net.forward(features.tensor("x")?)?;
        Ok(EvaluationSpec::new(mean_squared(y, features.tensor("y")?)?))
    }
}

fn values(estimator: &Elistimator<Combined>) -> Vec<f32> {
    let names = ["hidden.weight", "hidden.bias", "out.weight", "out.bias"];
    let variables = names.iter().map(|name| estimator.variable(name).unwrap());
    variables.flat_map(|values| values.as_slice::<f32>().unwrap().to_vec()).collect()
}

fn close(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs();
        // Ours is in f32, theirs in f64: rounding grows over the steps, but stays far below any other formula's error.
        assert!(difference < 5e-5, "{what}, value {place}: {found}, expected {expected}");
    }
}

#[test]
fn combined_settings_follow_pytorch_for_100_updates() {
    let Reference { kept, cases, .. } = reference();
    assert_eq!(cases.len(), 6);
    for (name, case) in cases {
        let builder = Elistimator::builder(Combined { case: name.clone() }).progress(ProgressMode::Off);
        let mut builder = builder.gradient_norm_every(0);
        builder = match name.as_str() {
            "clip_accumulate" => builder.accumulate(4),
            "groups_ema" => builder.ema(0.95),
            "groups_ema_accumulate" => builder.accumulate(2).ema(0.9),
            _ => builder,
        };
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = builder.model_dir(dir.path()).build().unwrap();
        estimator.setup(Inputs::train(points(100).batch(5))).unwrap();
        let mut plateau = ReduceOnPlateau::new("loss", Mode::Min).factor(0.5).patience(1).min_delta(0.02).cooldown(1);
        for step in 1..=100 {
            let (rate, expected) = (estimator.learning_rate(), case.rates[step as usize - 1]);
            assert!((rate - expected).abs() < 1e-12, "{name}, step {step}: the rate {rate}, expected {expected}");
            estimator.train_steps(1).unwrap();
            if name == "plateau_warm_up" && step >= WARM_UP && step % 5 == 0 {
                let metrics = estimator.evaluate(points(100).batch(100)).unwrap();
                let rate = plateau.update(&metrics, estimator.learning_rate()).unwrap();
                estimator.set_learning_rate(rate);
            }
            let Some(at) = kept.iter().position(|kept| *kept == step) else { continue };
            close(&format!("{name}, step {step}"), &values(&estimator), &case.weights[at]);
            if !case.averages[at].is_empty() {
                let averaged = estimator.with_ema(|averaged| Ok(values(averaged))).unwrap();
                close(&format!("{name}, averages at step {step}"), &averaged, &case.averages[at]);
            }
        }
        assert_eq!(estimator.global_step(), 100);
    }
}
