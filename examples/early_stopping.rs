//! Early stopping is an `if` between two calls.
//!
//!     cargo run --release --example early_stopping

mod common;

use std::path::PathBuf;

use clap::Parser;
use common::{Ring, points};
use elistimator::optim::EarlyStopping;
use elistimator::prelude::*;

/// Trains until the accuracy gets no better.
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
    let mut estimator = Builder::<_, D>::new(Ring { dropout: 0.0, hidden: 256, ..Ring::default() })
        .model_dir_or_temporary(args.model_dir.clone())
        .device(args.device)
        .monitor("accuracy", Mode::Max)
        .max_to_keep(2)
        .resume_or_start()?;
    // Few points, so that it overfits soon.
    estimator.setup(Inputs::train(points(300, 1)?.shuffle(300).batch(30)).validation(points(2_000, 2)?.batch(100)))?;

    let mut stop = estimator.kept("stop")?.unwrap_or_else(|| EarlyStopping::new("accuracy", Mode::Max).patience(10));
    while !stop.is_finished() {
        let metrics = estimator.train()?.validate()?;
        stop.update(&metrics, estimator.global_step())?;
        estimator.keep("stop", &stop)?.save_ckpt()?;
    }
    let stopped = estimator.epoch();
    estimator.restore_best()?;
    println!("stopped after {stopped} epochs; the best is step {}", estimator.global_step());
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    with_device!(args.device, |D| run::<D>(&args))
}
