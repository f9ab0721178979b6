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

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Seconds for each of the two.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    use_threads(args.threads)?;
    let duration = Duration::from_secs_f64(args.seconds.clamp(0.0, 60.0));
    println!(
        "{{\"threads\": {}, \"matrix_product_gflop_per_second\": {:.1}, \"stream_gb_per_second\": {:.2}}}",
        args.threads,
        matrix_product(duration),
        stream(duration)
    );
    Ok(())
}
