//! A guard against a slower training loop: how much of the rate of large matrix products, measured just before and after in
//! the same process, two workloads reach. Fails when it is less than the share that is stated for them; a busy machine gets
//! three tries.
//!
//!     cargo bench --bench floor
#![allow(missing_docs)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use elistimator::prelude::*;
use shared::rates::{matrix_product, median, use_threads};
use shared::workload::Workload;

#[allow(dead_code)]
mod shared;

/// The least share that passes: about 60 % of what two quiet cores with AVX-512 reach (0.4 and 0.57), so that noise does not
/// fail it, and a loop of half the speed does. Slower cores reach more of their products' rate.
const LEAST: [(Workload, f64); 2] = [(Workload::Mlp, 0.25), (Workload::Cnn, 0.34)];

/// As many as the shares were found with: more of them share the work of a small batch less well than a large product.
const THREADS: usize = 2;
const TRIES: usize = 3;
const PRODUCTS: Duration = Duration::from_millis(300);
/// Each try is that many stretches of training between two measurements of the matrix product.
const STRETCHES: usize = 3;

/// The share of the matrix-product rate that the loop reaches: the median over some stretches of its steps.
fn share(estimator: &mut Elistimator<Workload>, steps: u64, gflop: f64) -> Result<f64> {
    let mut shares = Vec::with_capacity(STRETCHES);
    let mut before = matrix_product(PRODUCTS);
    for _ in 0..STRETCHES {
        let start = Instant::now();
        estimator.train_steps(steps)?;
        let rate = steps as f64 * gflop / start.elapsed().as_secs_f64();
        let after = matrix_product(PRODUCTS);
        println!("  {rate:.0} GFLOP/s between products at {before:.0} and {after:.0}");
        shares.push(rate / ((before + after) / 2.0));
        before = after;
    }
    Ok(median(shares))
}

fn reaches(workload: Workload, least: f64) -> Result<bool> {
    let name = workload.name();
    let steps = workload.sizes().steps / 2;
    let mut estimator =
        Builder::<_, Cpu>::new(workload).model_dir_or_temporary(None).progress(ProgressMode::Off).build()?;
    estimator.setup(Inputs::train(workload.data(workload.sizes().batch)?.prefetch(2)))?;
    estimator.train_steps(steps / 3)?;
    for attempt in 1..=TRIES {
        let share = share(&mut estimator, steps, workload.training_gflop(workload.sizes().batch))?;
        let verdict = if share >= least { "enough" } else { "too little" };
        println!(
            "{name}, try {attempt}: {share:.2} of the matrix-product rate, at least {least:.2} expected: {verdict}"
        );
        if share >= least {
            return Ok(true);
        }
    }
    Ok(false)
}

fn main() -> Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    use_threads(THREADS.min(cores))?;
    let mut passed = true;
    for (workload, least) in LEAST {
        passed &= reaches(workload, least)?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
