//! Another process, later: the model comes back from its directory alone, without any data.
//!
//!     cargo run --release --example quickstart -- --model-dir runs/ring
//!     cargo run --release --example predict -- --model-dir runs/ring --x 0.6 --y 0.1

#[allow(dead_code)]
mod common;

use std::path::PathBuf;

use clap::Parser;
use common::Ring;
use elistimator::prelude::*;

/// Loads a model from its directory alone and asks it about a point.
#[derive(Parser)]
struct Args {
    /// A directory that the quickstart, early_stopping or resume example wrote.
    #[arg(long)]
    model_dir: PathBuf,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Where the point to ask about is from left to right.
    #[arg(long, default_value_t = 0.6, allow_negative_numbers = true)]
    x: f32,
    /// And from bottom to top.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    y: f32,
}

fn run<D: Device>(args: &Args) -> Result<()> {
    let estimator = Builder::<Ring, D>::from_disk(&args.model_dir, Which::Best)?.device(args.device).build()?;
    println!("{}", estimator.description());
    let point = Array::new([1, 2], vec![args.x, args.y])?;
    let prediction = estimator.predict(inputs! { "points" => point })?;
    println!("outside, inside: {}", prediction.get("probabilities")?);
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    with_device!(args.device, |D| run::<D>(&args))
}
