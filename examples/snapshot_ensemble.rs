//! A snapshot ensemble by hand (Huang et al. 2017): one run with a cyclic learning rate, a snapshot at the end of every
//! cycle, and the mean of the snapshots' probabilities.
//!
//!     cargo run --release --example snapshot_ensemble

mod common;

use std::path::PathBuf;

use clap::Parser;
use common::{Ring, points};
use elistimator::prelude::*;

#[derive(Parser)]
struct Args {
    /// Where checkpoints and logs go; a new temporary directory unless given.
    #[arg(long)]
    model_dir: Option<PathBuf>,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Cycles of the learning rate, and so members of the ensemble.
    #[arg(long, default_value_t = 5)]
    members: u64,
    /// Steps in a cycle.
    #[arg(long, default_value_t = 400)]
    cycle: u64,
}

fn run<D: Device>(args: &Args) -> Result<()> {
    let mut estimator = Builder::<_, D>::new(Ring { dropout: 0.0, ..Ring::default() })
        .model_dir_or_temporary(args.model_dir.clone())
        .device(args.device)
        .max_to_keep(0)
        .progress(ProgressMode::Off)
        .build()?;
    estimator.setup(Inputs::train(points(1_000, 1)?.shuffle(1_000).batch(20)))?;

    let mut snapshots = Vec::new();
    for _ in 0..args.members {
        for step in 0..args.cycle {
            // Half a cosine from 0.05 down to 0, again in every cycle.
            let angle = std::f64::consts::PI * step as f64 / args.cycle as f64;
            estimator.set_learning_rate(0.025 * (angle.cos() + 1.0)).train_steps(1)?;
        }
        snapshots.push(estimator.save_ckpt()?);
    }

    // Every member is an estimator of its own, in this one process.
    let test = points(2_000, 2)?;
    let mut sum: Vec<f32> = Vec::new();
    for snapshot in &snapshots {
        let member =
            Builder::<Ring, D>::from_disk(estimator.model_dir(), snapshot.step)?.device(args.device).build()?;
        println!("member of step {}: {}", snapshot.step, member.evaluate(test.batch(100))?);
        let mut probabilities = Vec::new();
        for outputs in member.predict_all(test.batch(100))? {
            probabilities.extend_from_slice(outputs?.get("probabilities")?.as_slice::<f32>()?);
        }
        sum.resize(probabilities.len(), 0.0);
        sum.iter_mut().zip(probabilities).for_each(|(sum, probability)| *sum += probability);
    }

    let mut hits = 0;
    for (example, probabilities) in test.open(0, 0, 0)?.zip(sum.chunks(2)) {
        let label = example?.get("labels")?.as_slice::<i64>()?[0];
        hits += usize::from(i64::from(probabilities[1] > probabilities[0]) == label);
    }
    println!("ensemble of {}: accuracy={}", snapshots.len(), hits as f64 / (sum.len() / 2) as f64);
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    with_device!(args.device, |D| run::<D>(&args))
}
