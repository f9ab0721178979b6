//! The shortest whole program: train, validate, save, predict. A few seconds.
//!
//!     cargo run --release --example quickstart

mod common;

use std::path::PathBuf;

use clap::Parser;
use common::{Ring, points};
use elistimator::prelude::*;

/// The shortest whole program: trains on points in a ring, validates, saves, predicts.
#[derive(Parser)]
struct Args {
    /// Where checkpoints and logs go; a new temporary directory unless given.
    #[arg(long)]
    model_dir: Option<PathBuf>,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
}

fn run<D: Device>(args: &Args) -> Result<()> {
    let mut estimator = Builder::<_, D>::new(Ring::default())
        .model_dir_or_temporary(args.model_dir.clone())
        .device(args.device)
        .describe(true)
        .build()?;
    let train = points(20_000, 1)?.shuffle(20_000).batch(32);
    let validation = points(2_000, 2)?.batch(100);
    estimator.setup(Inputs::train(train).validation(validation))?;

    for _ in 0..3 {
        estimator.train()?.validate()?;
    }
    let saved = estimator.save_ckpt()?;
    println!("saved {}", saved.path.display());

    let two_points = Array::new([2, 2], vec![0.6f32, 0.0, 0.0, 0.0])?;
    let prediction = estimator.predict(inputs! { "points" => two_points })?;
    println!("in the ring, in the middle: {}", prediction.get("probabilities")?);
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    with_device!(args.device, |D| run::<D>(&args))
}
