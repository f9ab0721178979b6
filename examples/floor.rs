//! What a step could be no faster than: the rates of large matrix products and of memory on this machine. Prints one JSON
//! line.
//!
//!     cargo run --release --example floor -- --threads 2

use std::time::Duration;

use clap::Parser;
use elistimator::Result;
use shared::rates::{matrix_product, stream, use_threads};

#[path = "../benches/shared/mod.rs"]
#[allow(dead_code)]
mod shared;

/// Measures large matrix products and memory on this machine; prints one JSON line.
#[derive(Parser)]
struct Args {
    /// Threads of the matrix products.
    #[arg(long, default_value_t = 2, value_parser = shared::rates::threads)]
    threads: usize,
    /// Seconds for each of the two, up to 60.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|seconds| (0.0..=60.0).contains(seconds)).ok_or_else(|| "expected 0 to 60".to_owned())
}

fn main() -> Result<()> {
    let args = Args::parse();
    use_threads(args.threads)?;
    let duration = Duration::from_secs_f64(args.seconds);
    println!(
        "{{\"threads\": {}, \"matrix_product_gflop_per_second\": {:.1}, \"stream_gb_per_second\": {:.2}}}",
        args.threads,
        matrix_product(duration),
        stream(duration)
    );
    Ok(())
}
