//! A guard against a slower training loop: how much of the rate of large matrix products, measured just before and after in
//! the same process, two workloads reach. Fails when it is less than the share that is stated for them, three times. A try in
//! which other programs had the processors says nothing, since they hold up the many short operations of a step more than a
//! large product: it is passed over, and where there are too many of them, so is the workload, with a line that says so.
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
/// How many tries there are with those that do not count.
const MOST_TRIES: usize = 12;
/// From this share of their time on that the threads were kept from running, a try does not count. Two threads on a quiet
/// machine of two cores are kept by the one that makes the batches, for a few hundredths.
const KEPT: f64 = 0.1;
const PRODUCTS: Duration = Duration::from_millis(300);
/// Each try is that many stretches of training between two measurements of the matrix product.
const STRETCHES: usize = 3;

/// How many seconds threads of this process were ready to run and had no processor; 0 where the system does not say.
fn kept_from_running() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let kept = |thread: std::fs::DirEntry| -> Option<f64> {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse().ok()
    };
    threads.flatten().filter_map(kept).sum::<f64>() / 1e9
}

/// The share of the matrix-product rate that the loop reaches: the median over some stretches of its steps; and the share of
/// their time for which the threads were kept from running.
fn share(estimator: &mut Elistimator<Workload>, steps: u64, gflop: f64) -> Result<(f64, f64)> {
    let mut shares = Vec::with_capacity(STRETCHES);
    let (begun, kept) = (Instant::now(), kept_from_running());
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
    let kept =
        (kept_from_running() - kept).max(0.0) / (begun.elapsed().as_secs_f64() * rayon::current_num_threads() as f64);
    Ok((median(shares), kept))
}

fn reaches(workload: Workload, least: f64) -> Result<bool> {
    let name = workload.name();
    let steps = workload.sizes().steps / 2;
    let mut estimator =
        Builder::<_, Cpu>::new(workload).model_dir_or_temporary(None).progress(ProgressMode::Off).build()?;
    estimator.setup(Inputs::train(workload.data(workload.sizes().batch)?.prefetch(2)))?;
    estimator.train_steps(steps / 3)?;
    let mut counted = 0;
    for attempt in 1..=MOST_TRIES {
        let (share, kept) = share(&mut estimator, steps, workload.training_gflop(workload.sizes().batch))?;
        let verdict = match share >= least {
            true => "enough",
            false if kept > KEPT => "does not count",
            false => "too little",
        };
        println!(
            "{name}, try {attempt}: {share:.2} of the matrix-product rate, at least {least:.2} expected, kept from running for \
             {:.0} % of the time: {verdict}",
            100.0 * kept
        );
        if share >= least {
            return Ok(true);
        }
        counted += usize::from(kept <= KEPT);
        if counted == TRIES {
            return Ok(false);
        }
    }
    println!("{name}: skipped: other programs had the processors");
    Ok(true)
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
