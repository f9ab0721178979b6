//! Micro-batches whose gradients are summed make the update of the large batch.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::{mean_squared, points};
use elistimator::nn::{Part, Visitor};
use elistimator::prelude::*;

#[derive(Serialize, Deserialize)]
struct Plain {
    clip_norm: Option<f64>,
}

impl<D: Device> ModelFn<D> for Plain {
    type Net = Linear<D>;

    fn build(&self, device: &D) -> ModelResult<Linear<D>> {
        Linear::builder(3, 1).build(device)
    }

    fn optimizer(&self) -> OptimizerConfig {
        let config = OptimizerConfig::from(Adam::new(0.05));
        match self.clip_norm {
            Some(limit) => config.clip_norm(limit),
            None => config,
        }
    }

    fn train(&self, net: &mut Linear<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let y = net.forward(features.tensor::<(usize, usize)>("x")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(mean_squared(y, features.tensor("y")?)?))
    }
}

/// Weights after two epochs, and the steps done.
fn trained(batch: usize, accumulate: usize, clip_norm: Option<f64>) -> (Vec<f32>, u64, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap().keep();
    let builder = Elistimator::builder(Plain { clip_norm }).progress(ProgressMode::Off).seed(3).model_dir(&dir);
    let mut estimator = builder.accumulate(accumulate).gradient_norm_every(0).build().unwrap();
    estimator.setup(Inputs::train(points(17).shuffle(17).batch(batch))).unwrap();
    estimator.train().unwrap().train_steps(1).unwrap().train().unwrap();
    assert_eq!(estimator.epoch(), 2);
    let mut values = Vec::new();
    let mut read = |_: &str, part: Part<'_, Cpu>| {
        if let Part::Parameter(parameter) = part {
            values.extend(parameter.values());
        }
        Ok(())
    };
    estimator.net().visit(&mut Visitor::new(&mut read)).unwrap();
    (values, estimator.global_step(), dir)
}

#[test]
fn micro_batches_equal_the_large_batch_with_uneven_ones_and_the_tail() {
    // 17 examples: 12 and 5, the 5 from batches of 4 and 1, which must not count alike.
    for clip_norm in [None, Some(0.5)] {
        let (large, large_steps, _) = trained(12, 1, clip_norm);
        let (summed, steps, _) = trained(4, 3, clip_norm);
        assert_eq!((large_steps, steps), (4, 4));
        let worst = large.iter().zip(&summed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-6, "{large:?} {summed:?}");
    }
    assert_ne!(trained(4, 3, None).0, trained(4, 1, None).0);
}

#[test]
fn the_norm_before_clipping_is_logged() {
    let names = |dir: &std::path::Path| {
        let file = std::fs::read_dir(dir.join("train")).unwrap().next().unwrap().unwrap().path();
        String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned()
    };
    assert!(names(&trained(4, 1, Some(1.0)).2).contains("gradient_norm"));
    assert!(!names(&trained(4, 1, None).2).contains("gradient_norm"));
}
