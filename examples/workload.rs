//! How fast the whole loop is, with bar and logs on: one of the three workloads that the benchmarks of the peers run too, on
//! synthetic data. Prints one JSON line.
//!
//!     cargo run --release --example workload -- cnn --threads 2

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use elistimator::prelude::*;
use shared::rates::use_threads;
use shared::workload::Workload;

#[path = "../benches/shared/mod.rs"]
#[allow(dead_code)]
mod shared;

/// Measures the whole loop on synthetic data; prints one JSON line.
#[derive(Parser)]
struct Args {
    /// Which network, and with it the data and the batch size.
    workload: Workload,
    /// Threads of the layers.
    #[arg(long, default_value_t = 2, value_parser = shared::rates::threads)]
    threads: usize,
    /// Repetitions that are timed, after one that is not.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Steps that are timed together; the workload's own number by default, which is for a CPU.
    #[arg(long)]
    steps: Option<u64>,
    /// Examples of a step, as many as the workload has at most; the workload's own number by default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Where checkpoints and logs go; a new temporary directory unless given.
    #[arg(long)]
    model_dir: Option<PathBuf>,
    /// Times training only.
    #[arg(long)]
    no_evaluation: bool,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
}

fn summary(mut rates: Vec<f64>) -> String {
    rates.sort_by(f64::total_cmp);
    let (min, max) = (rates.first().copied().unwrap_or(f64::NAN), rates.last().copied().unwrap_or(f64::NAN));
    format!("{{\"median\": {:.2}, \"min\": {min:.2}, \"max\": {max:.2}}}", rates[rates.len() / 2])
}

fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(f64::NAN, |kb| kb / 1024.0)
}

fn run<D: Device>(args: &Args) -> Result<()> {
    let workload = args.workload;
    let steps = args.steps.unwrap_or(workload.sizes().steps).max(1);
    let batch = args.batch.map_or(workload.sizes().batch, |batch| batch as usize);
    let data = workload.data(batch)?;
    let mut estimator = Builder::<_, D>::new(workload)
        .model_dir_or_temporary(args.model_dir.clone())
        .device(args.device)
        .progress(ProgressMode::On)
        .build()?;
    estimator.setup(Inputs::train(data.clone().prefetch(2)))?;
    estimator.train_steps(steps / 3)?;
    let mut train = Vec::new();
    for _ in 0..args.rounds.max(1) {
        let start = Instant::now();
        estimator.train_steps(steps)?;
        train.push(steps as f64 / start.elapsed().as_secs_f64());
    }
    let peak = peak_rss_mb();
    let mut evaluation = String::new();
    if !args.no_evaluation {
        let data = data.repeat_forever();
        estimator.evaluate_steps(&data, steps / 3)?;
        let mut rates = Vec::new();
        for _ in 0..args.rounds.max(1) {
            let start = Instant::now();
            estimator.evaluate_steps(&data, steps)?;
            rates.push(steps as f64 / start.elapsed().as_secs_f64());
        }
        evaluation = format!("\"eval_steps_per_second\": {}, ", summary(rates));
    }
    println!(
        "{{\"name\": \"{}\", \"version\": \"{}\", \"threads\": {}, \"batch\": {batch}, \"train_steps_per_second\": {}, \
         {evaluation}\"peak_rss_mb\": {peak:.1}, \"train_gflop\": {:.4}, \"eval_gflop\": {:.4}}}",
        workload.name(),
        env!("CARGO_PKG_VERSION"),
        args.threads,
        summary(train),
        workload.training_gflop(batch),
        workload.evaluation_gflop(batch),
    );
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    use_threads(args.threads)?;
    with_device!(args.device, |D| run::<D>(&args))
}
