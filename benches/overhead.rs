//! What the loop adds to a step: a model of almost no work, trained by the estimator with bars and logs on, and by hand with
//! the same layers, in turn. Prints one JSON line.
//!
//!     cargo bench --bench overhead
#![allow(missing_docs)]

use std::time::Instant;

use elistimator::nn::Gradients;
use elistimator::optim::Optimizer;
use elistimator::prelude::*;

const BATCH: usize = 8;
const STEPS: usize = 1024;
const ROUNDS: usize = 15;

#[derive(Serialize, Deserialize)]
struct Tiny;

impl ModelFn for Tiny {
    type Net = Linear<Cpu>;

    fn build(&self, device: &Cpu) -> ModelResult<Linear<Cpu>> {
        Linear::new(device, 4, 2)
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(0.01).into()
    }

    fn train(
        &self,
        net: &mut Linear<Cpu>,
        features: &Features<Cpu>,
        step: &mut Step<'_, Cpu>,
    ) -> ModelResult<TrainSpec<Cpu>> {
        let x = features.tensor::<(usize, usize)>("x")?.traced(step.tape()?);
        Ok(TrainSpec::new(sparse_cross_entropy(net.forward(x)?, &features.indices("y")?)?))
    }
}

fn data() -> (Vec<f32>, Vec<i64>) {
    let x: Vec<f32> = (0..STEPS * BATCH * 4).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
    let y = x.chunks(4).map(|x| i64::from(x.iter().sum::<f32>() > 0.0)).collect();
    (x, y)
}

/// Seconds of an epoch by hand: batches gathered in a fixed order, loss read each step.
fn by_hand(
    net: &mut Linear<Cpu>,
    optimizer: &mut Optimizer<Cpu>,
    device: &Cpu,
    x: &[f32],
    y: &[i64],
) -> ModelResult<f64> {
    let start = Instant::now();
    for step in 0..STEPS {
        let batch = x[step * BATCH * 4..(step + 1) * BATCH * 4].to_vec();
        let labels: Vec<usize> = y[step * BATCH..(step + 1) * BATCH].iter().map(|&y| y as usize).collect();
        let x = device.try_tensor_from_vec(batch, (BATCH, 4usize))?.traced(Gradients::leaky());
        let loss = sparse_cross_entropy(net.forward(x)?, &labels)?;
        std::hint::black_box(loss.as_vec());
        let mut gradients = loss.try_backward()?;
        optimizer.update(net, &mut gradients, None)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|error| Error::with_source(ErrorKind::Io, "temporary directory", error))?;
    let (x, y) = data();
    let record = Record::new().with("x", Array::new([STEPS * BATCH, 4], x.clone())?).with("y", y.clone());
    let dataset = Dataset::from_arrays(record)?.batch(BATCH);
    let mut estimator = Elistimator::builder(Tiny).model_dir(dir.path()).progress(ProgressMode::On).build()?;
    estimator.setup(Inputs::train(dataset))?;

    let device = Cpu::open(DeviceSpec::Cpu, 0)?;
    let hand = |error: ModelError| Error::new(ErrorKind::Model, format!("{error:?}"));
    let mut net = Tiny.build(&device).map_err(hand)?;
    let mut optimizer = Optimizer::new(Tiny.optimizer());

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        estimator.train()?;
        ours.push(start.elapsed().as_secs_f64());
        theirs.push(by_hand(&mut net, &mut optimizer, &device, &x, &y).map_err(hand)?);
    }
    let median = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        1e6 * seconds[ROUNDS / 2] / STEPS as f64
    };
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    println!("{{\"estimator_us\": {ours:.2}, \"by_hand_us\": {theirs:.2}, \"added_us\": {:.2}}}", ours - theirs);
    Ok(())
}
