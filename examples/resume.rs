//! A run that may be killed at any moment: start it, kill it, start it again with the same command until it is done. The
//! last line is the same as that of a run that was never killed, to the last bit.
//!
//!     cargo run --release --example resume -- --model-dir runs/resume --steps 2000 --save-every 100

mod common;

use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use common::{Ring, points};
use elistimator::prelude::*;

/// A run that may be killed at any moment: the same command goes on with it.
#[derive(Parser)]
struct Args {
    /// Where checkpoints and logs go.
    #[arg(long)]
    model_dir: PathBuf,
    /// Steps of the whole run.
    #[arg(long, default_value_t = 2_000)]
    steps: u64,
    /// Steps between two checkpoints.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
}

fn run<D: Device>(args: &Args) -> Result<()> {
    // Start or go on: this one line.
    let mut estimator = Builder::<_, D>::new(Ring::default())
        .model_dir(&args.model_dir)
        .device(args.device)
        .save_every(Every::Steps(args.save_every))
        .handle_interrupts(true)
        .resume_or_start()?;
    let validation = points(1_000, 2)?.batch(100);

    if estimator.global_step() < args.steps {
        let train = points(5_000, 1)?.shuffle(1_000).batch(32).prefetch(2);
        estimator.setup(Inputs::train(train).validation(&validation))?;
        match estimator.train_until(args.steps) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                let saved = estimator.save_ckpt()?;
                return say(&format!("interrupted at step {}: run the same command to go on", saved.step));
            }
            outcome => outcome?.save_ckpt()?,
        };
    }

    let loss = estimator.evaluate(&validation)?.get("loss")?;
    let (step, hashes) = (estimator.global_step(), estimator.hashes()?);
    say(&format!("final step={step} weights={:016x} optimizer={:016x} loss={loss}", hashes.weights, hashes.optimizer))
}

/// Prints a line; `println!` would panic where nobody reads any more: a closed terminal, `| head -1`.
fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}")
        .map_err(|error| Error::with_source(ErrorKind::Io, "cannot print to standard output", error))
}

fn main() -> Result<()> {
    let args = Args::parse();
    with_device!(args.device, |D| run::<D>(&args))
}
