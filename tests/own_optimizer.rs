//! Update rules of the user's own, through whole runs: they have what the library's have.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{mean_squared, points};
use elistimator::optim::{Optimizer, ParameterUpdate, UpdateRule};
use elistimator::prelude::*;

/// What `Sgd` with momentum and weight decay computes.
#[derive(Debug)]
struct Heavy {
    momentum: f32,
    weight_decay: f32,
}

impl UpdateRule for Heavy {
    fn state(&self) -> &'static [&'static str] {
        &["velocity"]
    }

    fn update(&self, update: &mut ParameterUpdate<'_>) -> ModelResult<()> {
        let (momentum, rate) = (self.momentum, update.learning_rate() as f32);
        let decay = if update.decays() { self.weight_decay } else { 0.0 };
        update.each(|w, g, velocity, _| {
            let g = g + decay * *w;
            *velocity = momentum * *velocity + g;
            *w -= rate * *velocity;
        });
        Ok(())
    }
}

/// A step of one length for each row of a matrix, shorter from update to update; it remembers nothing.
#[derive(Debug)]
struct UnitRows;

impl UpdateRule for UnitRows {
    fn update(&self, update: &mut ParameterUpdate<'_>) -> ModelResult<()> {
        let rate = (update.learning_rate() / update.step() as f64) as f32;
        let columns = update.dims().last().copied().unwrap_or(1);
        let (weights, gradient, state) = update.slices();
        assert!(state.iter().all(|values| values.is_empty()));
        for (weights, gradient) in weights.chunks_mut(columns).zip(gradient.chunks(columns)) {
            let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            weights.iter_mut().zip(gradient).for_each(|(w, g)| *w -= rate * g / norm);
        }
        Ok(())
    }
}

/// Fails from some update on.
#[derive(Debug)]
struct Failing {
    panics: bool,
}

impl UpdateRule for Failing {
    fn update(&self, update: &mut ParameterUpdate<'_>) -> ModelResult<()> {
        match (update.step() > 2, self.panics) {
            (false, _) => Ok(()),
            (true, false) => Err(ModelError::msg("enough")),
            (true, true) => panic!("no more"),
        }
    }
}

#[derive(Debug)]
struct Remembers(&'static [&'static str]);

impl UpdateRule for Remembers {
    fn state(&self) -> &'static [&'static str] {
        self.0
    }

    fn update(&self, _: &mut ParameterUpdate<'_>) -> ModelResult<()> {
        Ok(())
    }
}

/// Which rule a run has.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq)]
enum Which {
    Own,
    Ours,
    Fails,
    Panics,
}

#[derive(Serialize, Deserialize, Clone)]
struct Model(Which);

network! {
    struct Net<D> {
        hidden: Linear<D>,
        dropout: Dropout,
        head: Linear<D>,
    }
}

impl<D: Device> Net<D> {
    fn forward<T: Tape<f32, D>>(&self, x: Tensor<(usize, usize), D, T>) -> ModelResult<Tensor<(usize, usize), D, T>> {
        self.head.forward(self.dropout.forward(self.hidden.forward(x)?)?)
    }
}

impl<D: Device> ModelFn<D> for Model {
    type Net = Net<D>;

    fn build(&self, device: &D) -> ModelResult<Net<D>> {
        Ok(Net {
            hidden: Linear::builder(3, 8).activation(Activation::Relu).build(device)?,
            dropout: Dropout::new(0.2),
            head: Linear::new(device, 8, 1)?,
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        let whole: OptimizerConfig = match self.0 {
            Which::Own => OptimizerConfig::own(0.05, Heavy { momentum: 0.9, weight_decay: 0.1 }),
            Which::Ours => Sgd::new(0.05).momentum(0.9).weight_decay(0.1).into(),
            Which::Fails => return OptimizerConfig::own(0.05, Failing { panics: false }),
            Which::Panics => return OptimizerConfig::own(0.05, Failing { panics: true }),
        };
        let head: OptimizerConfig = match self.0 {
            Which::Own => OptimizerConfig::own(0.01, Heavy { momentum: 0.5, weight_decay: 0.2 }),
            _ => Sgd::new(0.01).momentum(0.5).weight_decay(0.2).into(),
        };
        whole.without_decay("*.bias").group("head.", head).clip_norm(0.5)
    }

    fn schedule(&self) -> Schedule {
        Schedule::Step { steps: 3, factor: 0.5 }
    }

    fn train(&self, net: &mut Net<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let y = net.forward(features.tensor("x")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(mean_squared(y, features.tensor("y")?)?))
    }
}

fn builder(which: Which, dir: &Path) -> Builder<Model> {
    Elistimator::builder(Model(which)).model_dir(dir).seed(3).progress(ProgressMode::Off).accumulate(2)
}

fn inputs() -> Inputs {
    Inputs::train(points(100).shuffle(50).batch(5))
}

#[test]
fn they_have_schedules_groups_decay_clipping_and_accumulation_as_ours_do() {
    let [own, ours] = [Which::Own, Which::Ours].map(|which| {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = builder(which, dir.path()).build().unwrap();
        estimator.setup(inputs()).unwrap().train_steps(9).unwrap();
        (estimator.hashes().unwrap(), dir)
    });
    assert_eq!(own.0, ours.0);
}

#[test]
fn what_they_remember_is_in_the_checkpoints() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut unbroken = builder(Which::Own, dirs[0].path()).build().unwrap();
    unbroken.setup(inputs()).unwrap().train_steps(9).unwrap();

    let mut first = builder(Which::Own, dirs[1].path()).build().unwrap();
    first.setup(inputs()).unwrap().train_steps(5).unwrap().save_ckpt().unwrap();
    drop(first);
    let mut second = Elistimator::<Model>::from_disk(dirs[1].path()).unwrap();
    second.setup(inputs()).unwrap().train_steps(4).unwrap();
    assert_eq!(second.hashes().unwrap(), unbroken.hashes().unwrap());

    let saved = second.save_ckpt().unwrap();
    let bytes = std::fs::read(saved.path.join("optimizer.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("velocity/hidden.weight"));
}

#[test]
fn what_goes_wrong_in_them_comes_back_as_an_error() {
    for (which, expected) in [(Which::Fails, "enough"), (Which::Panics, "no more")] {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = builder(which, dir.path()).build().unwrap();
        estimator.setup(inputs()).unwrap().train_steps(2).unwrap().save_ckpt().unwrap();
        let error = estimator.train_steps(5).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains(expected), "{error}");
        // And once more, with the state as it was.
        assert_eq!(estimator.restore_latest().unwrap().global_step(), 2);
        assert!(estimator.train_steps(5).unwrap_err().to_string().contains(expected));
    }
}

#[test]
fn state_that_could_not_be_kept_is_refused() {
    for names in [&["a", "b", "c"][..], &["a", "a"], &[""], &["updates"], &["a/b"]] {
        let config = OptimizerConfig::own(0.1, Remembers(Box::leak(names.to_vec().into_boxed_slice())));
        let device = Cpu::open(DeviceSpec::Cpu, 1).unwrap();
        let mut net = Model(Which::Own).build(&device).unwrap();
        let mut gradients = elistimator::nn::Gradients::leaky();
        let error = Optimizer::new(config).update(&mut net, &mut gradients, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(&format!("{names:?}")), "{}", *error);
    }
    assert_eq!(OptimizerConfig::own(0.1, UnitRows), OptimizerConfig::own(0.1, UnitRows));
    assert_ne!(OptimizerConfig::own(0.1, UnitRows), OptimizerConfig::own(0.1, Failing { panics: false }));
}

/// Rows of (3, 4) and (6, 8) with gradients in their own direction, at learning rate 0.5 and 0.25.
#[test]
fn they_see_the_parameter_as_a_whole() {
    let device = Cpu::open(DeviceSpec::Cpu, 1).unwrap();
    let weights = elistimator::nn::Init::Values(vec![3.0, 4.0, 6.0, 8.0]);
    let mut net = Linear::builder(2, 2).weights(weights).without_bias().build(&device).unwrap();
    let mut optimizer = Optimizer::new(OptimizerConfig::own(0.5, UnitRows));
    for expected in [[2.7, 3.6, 5.7, 7.6], [2.55, 3.4, 5.55, 7.4]] {
        let x = net.weight.shaped((2, 2)).unwrap();
        let loss = x.leaky_traced().try_square().unwrap().try_sum::<(), _>().unwrap();
        optimizer.update(&mut net, &mut loss.try_backward().unwrap(), None).unwrap();
        let worst =
            net.weight.values().iter().zip(expected).map(|(a, b): (&f32, f32)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{:?}", net.weight.values());
    }
}
