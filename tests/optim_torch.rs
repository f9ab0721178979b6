//! Every optimiser follows PyTorch's for 100 steps on a fixed problem; FTRL and LAMB, which PyTorch lacks, follow TensorFlow's and
//! Keras'. Schedules and the reduction on a plateau follow PyTorch's. See `data/optim_torch.py`, `data/optim_tensorflow.py` and
//! `data/schedules_torch.py`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use elistimator::Device;
use elistimator::dfdx::tensor::{Cpu, TensorFromVec, Trace};
use elistimator::dfdx::tensor_ops::{Backward, SumTo, TryMul, TrySub};
use elistimator::metrics::Metrics;
use elistimator::nn::{Gradients, Parameter};
use elistimator::optim::{
    Adagrad, Adam, Ftrl, Lamb, Optimizer, OptimizerConfig, ReduceOnPlateau, RmsProp, Schedule, Sgd,
};
use elistimator::prelude::{DeviceSpec, Mode};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    a: Vec<f32>,
    t: Vec<f32>,
    start: Vec<f32>,
    kept: Vec<usize>,
    cases: BTreeMap<String, Vec<Vec<f64>>>,
}

fn configs() -> BTreeMap<&'static str, OptimizerConfig> {
    BTreeMap::from([
        ("sgd", Sgd::new(0.05).into()),
        ("sgd_decay", Sgd::new(0.05).weight_decay(0.1).into()),
        ("momentum", Sgd::new(0.02).momentum(0.9).weight_decay(0.01).into()),
        ("nesterov", Sgd::new(0.02).momentum(0.9).nesterov(true).into()),
        ("adam", Adam::new(0.05).into()),
        ("adam_l2", Adam::new(0.05).betas(0.8, 0.99).epsilon(1e-6).weight_decay(0.1).into()),
        ("adamw", Adam::new(0.05).decoupled_weight_decay(0.1).into()),
        ("rmsprop", RmsProp::new(0.01).epsilon(1e-3).into()),
        ("rmsprop_momentum", RmsProp::new(0.005).decay(0.95).epsilon(1e-3).momentum(0.5).weight_decay(0.1).into()),
        ("adagrad", Adagrad::new(0.3).into()),
        ("adagrad_decay", Adagrad::new(0.3).weight_decay(0.1).initial_accumulator(0.1).into()),
        ("ftrl", Ftrl::new(0.3).into()),
        ("ftrl_l1_l2", Ftrl::new(0.3).l1(0.3).l2(0.2).into()),
        ("lamb", Lamb::new(0.02).weight_decay(0.01).into()),
        ("lamb_no_decay", Lamb::new(0.02).into()),
        ("clip_norm", OptimizerConfig::from(Sgd::new(0.1)).clip_norm(1.0)),
        ("clip_value", OptimizerConfig::from(Sgd::new(0.1)).clip_value(0.5)),
    ])
}

#[test]
fn optimisers_follow_pytorch_for_100_steps() {
    let mut configs = configs();
    configs.remove("lamb_no_decay");
    follow(include_str!("data/optim_torch.json"), &configs);
}

#[test]
fn optimisers_follow_tensorflow_for_100_steps() {
    let mut configs = configs();
    configs.retain(|name, _| ["ftrl", "ftrl_l1_l2", "lamb_no_decay"].contains(name));
    follow(include_str!("data/optim_tensorflow.json"), &configs);
}

fn follow(reference: &str, configs: &BTreeMap<&'static str, OptimizerConfig>) {
    let reference: Reference = serde_json::from_str(reference).unwrap();
    let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
    let len = reference.start.len();
    let a = device.tensor_from_vec(reference.a, (len,));
    let t = device.tensor_from_vec(reference.t, (len,));
    assert!(configs.keys().eq(reference.cases.keys()), "the same cases on both sides");
    for (name, config) in configs {
        let expected = &reference.cases[*name];
        let mut net = Parameter::from_vec(&device, &[len], reference.start.clone()).unwrap();
        let mut optimizer = Optimizer::new(config.clone());
        let mut compared = 0;
        for step in 1..=100 {
            let error = net.flat().trace(Gradients::leaky()).try_sub(t.clone()).unwrap();
            let loss = error.try_square().unwrap().try_mul(a.clone()).unwrap().sum::<(), _>();
            optimizer.update(&mut net, &mut loss.backward(), None).unwrap();
            let Some(index) = reference.kept.iter().position(|kept| *kept == step) else { continue };
            for (found, expected) in net.values().iter().zip(&expected[index]) {
                let difference = (f64::from(*found) - expected).abs();
                // Ours is in f32, theirs in f64 (Keras' in f32): rounding grows over the steps, but stays far below any other formula's error.
                assert!(difference < 2e-5, "{name}, step {step}: {found}, expected {expected}");
            }
            compared += 1;
        }
        assert_eq!(compared, reference.kept.len());
    }
}

#[derive(Deserialize)]
struct Schedules {
    rates: BTreeMap<String, Vec<f64>>,
    series: Vec<Option<f64>>,
    plateaus: BTreeMap<String, Vec<f64>>,
}

fn schedules() -> Schedules {
    serde_json::from_str(include_str!("data/schedules_torch.json")).unwrap()
}

#[test]
fn schedules_follow_pytorch_step_by_step() {
    let restarts = |steps, growth, floor| Schedule::WarmRestarts { steps, growth, floor };
    let cases = BTreeMap::from([
        ("constant", Schedule::Constant),
        ("step", Schedule::Step { steps: 7, factor: 0.3 }),
        ("exponential", Schedule::Exponential { rate: 0.97 }),
        ("multi_step", Schedule::MultiStep { milestones: vec![31, 5, 5, 17], factor: 0.2 }),
        ("polynomial", Schedule::Polynomial { steps: 37, power: 1.7, floor: 0.0 }),
        ("linear_decay", Schedule::Polynomial { steps: 37, power: 1.0, floor: 0.0 }),
        ("cosine", Schedule::Cosine { steps: 41, floor: 0.05 }),
        ("restarts", restarts(5, 1, 0.01)),
        ("restarts_growing", restarts(3, 3, 0.02)),
        ("one_cycle", Schedule::OneCycle { steps: 70, rise: 16.0 / 70.0, start: 0.1, end: 0.001 }),
        ("warm_up", Schedule::Cosine { steps: 30, floor: 0.0 }.after_warm_up(9)),
        ("transformer", Schedule::InverseSquareRoot { steps: 11 }.after_warm_up(11)),
        ("snapshots", Schedule::Cyclic { cycle: 13 }),
    ]);
    let expected = schedules().rates;
    assert!(cases.keys().eq(expected.keys()), "the same cases on both sides");
    for (name, schedule) in cases {
        // What was written down is what is used.
        let schedule: Schedule = serde_json::from_str(&serde_json::to_string(&schedule).unwrap()).unwrap();
        for (step, expected) in expected[name].iter().enumerate() {
            // Their count from 1 reaches the peak a step earlier than the schedule after the warm-up begins.
            let late = u64::from(name == "transformer" && step > 10);
            let found = schedule.factor(step as u64 + late);
            assert!((found - expected).abs() < 1e-12, "{name}, step {step}: {found}, expected {expected}");
        }
    }
}

#[test]
fn reduction_on_a_plateau_follows_pytorch() {
    let plateau = |mode, min_delta| ReduceOnPlateau::new("loss", mode).min_delta(min_delta);
    let cases = BTreeMap::from([
        ("default", plateau(Mode::Min, 0.0)),
        ("cooldown", plateau(Mode::Min, 0.05).factor(0.3).patience(2).cooldown(3)),
        ("max", plateau(Mode::Max, 0.1).factor(0.5).patience(0).cooldown(1).min_learning_rate(0.02)),
        ("impatient", plateau(Mode::Min, 0.2).factor(0.7).patience(0).min_learning_rate(0.1)),
    ]);
    let Schedules { series, plateaus, .. } = schedules();
    assert!(cases.keys().eq(plateaus.keys()), "the same cases on both sides");
    for (name, mut plateau) in cases {
        let mut rate = 1.0;
        for (step, (value, expected)) in series.iter().zip(&plateaus[name]).enumerate() {
            let mut metrics = Metrics::new();
            metrics.insert("loss", value.unwrap_or(f64::NAN));
            // Written down and read back between two updates, as by checkpoints.
            plateau = serde_json::from_str(&serde_json::to_string(&plateau).unwrap()).unwrap();
            rate = plateau.update(&metrics, rate).unwrap();
            assert!((rate - expected).abs() < 1e-12, "{name}, update {step}: {rate}, expected {expected}");
        }
    }
}
