//! Parameters that no loss reaches are named, once: a lost tape looks like training.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{LineNet, mean_squared, points};
use elistimator::prelude::*;

/// Where a tape is lost.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq)]
enum Tapes {
    /// Nowhere.
    Whole,
    /// Before the last layer.
    Cut,
    /// There, but for every fifth step.
    CutMostly,
    /// There, where nothing is trained.
    CutAndFrozen,
    /// The two layers have losses of their own, and the one for the first is cut.
    CutInOne,
}

#[derive(Serialize, Deserialize)]
struct Losing(Tapes);

impl<D: Device> ModelFn<D> for Losing {
    type Net = LineNet<D>;

    fn build(&self, device: &D) -> ModelResult<LineNet<D>> {
        Ok(LineNet {
            hidden: Linear::builder(3, 8).activation(Activation::Tanh).build(device)?,
            dropout: Dropout::new(0.0),
            out: Linear::builder(8, 1).weights(Init::Zeros).build(device)?,
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        let optimizer = OptimizerConfig::from(Adam::new(0.01));
        if self.0 == Tapes::CutAndFrozen { optimizer.frozen("hidden.") } else { optimizer }
    }

    fn train(&self, net: &mut LineNet<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let (x, y) = (features.tensor::<(usize, usize)>("x")?, features.tensor("y")?);
        if self.0 == Tapes::Whole || self.0 == Tapes::CutMostly && (step.global_step() + 1) % 5 == 0 {
            return Ok(TrainSpec::new(mean_squared(net.forward(x.traced(step.tape()?))?, y)?));
        }
        let hidden = net.hidden.forward(x)?;
        let loss = mean_squared(net.out.forward(hidden.clone().traced(step.tape()?))?, y.clone())?;
        if self.0 == Tapes::CutInOne {
            let other = mean_squared(net.out.forward(hidden.traced(step.tape()?))?, y)?;
            return Ok(TrainSpec::new(loss).updating("out.").and(other, "hidden."));
        }
        Ok(TrainSpec::new(loss))
    }
}

/// The warnings in the log file of 150 steps, in two verbs.
fn warnings(tapes: Tapes) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let builder = Elistimator::builder(Losing(tapes)).progress(ProgressMode::Off).model_dir(dir.path()).log_file(true);
    let mut estimator = builder.build().unwrap();
    estimator.setup(Inputs::train(points(100).batch(5))).unwrap();
    estimator.train_steps(50).unwrap().train_steps(100).unwrap();
    let text = std::fs::read_to_string(dir.path().join("log.txt")).unwrap();
    text.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect()
}

#[test]
fn parameters_that_no_loss_reaches_are_named_once() {
    for tapes in [Tapes::Cut, Tapes::CutInOne] {
        let found = warnings(tapes);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("step=64 ") && found[0].contains("hidden.weight, hidden.bias in 64 steps"),
            "{found:?}"
        );
    }
}

#[test]
fn what_is_reached_late_or_now_and_then_or_frozen_is_not() {
    for tapes in [Tapes::Whole, Tapes::CutMostly, Tapes::CutAndFrozen] {
        assert_eq!(warnings(tapes), Vec::<String>::new());
    }
}
