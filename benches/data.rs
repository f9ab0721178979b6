//! How fast batches are made of images in memory: shuffled by number, gathered, converted from bytes to `f32` where they are
//! kept as bytes, with one prefetch thread beside the caller's. Prints one JSON line: gigabytes of output a second, the median of
//! several passes, and by how much the resident memory grew from the second pass to the last one.
//!
//!     cargo bench --bench data
#![allow(missing_docs)]

use std::time::Instant;

use elistimator::prelude::*;

const EXAMPLES: usize = 60_000;
const PIXELS: usize = 28 * 28;
const PASSES: usize = 9;

fn images<T: elistimator::data::Element>(from: impl Fn(u8) -> T) -> Result<Dataset> {
    let pixels: Vec<T> = (0..EXAMPLES * PIXELS).map(|i| from((i * 31 % 251) as u8)).collect();
    let labels: Vec<i64> = (0..EXAMPLES as i64).map(|i| i % 10).collect();
    let arrays = Record::new().with("images", Array::new([EXAMPLES, 1, 28, 28], pixels)?).with("labels", labels);
    Dataset::from_arrays(arrays)
}

/// Resident memory in MB; 0 where there is no `/proc`.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0) * 4096.0 / 1e6
}

/// Gigabytes of images a second in the median pass, and how many megabytes of memory the later passes added.
fn measure(data: &Dataset) -> Result<(f64, f64)> {
    let mut rates = Vec::new();
    let mut memory = Vec::new();
    for epoch in 0..PASSES {
        let start = Instant::now();
        let mut values = 0;
        for batch in data.open(7, epoch as u64, 0)? {
            let batch = batch?;
            let images = batch.get("images")?.as_slice::<f32>()?;
            std::hint::black_box(images.first());
            values += images.len();
        }
        rates.push(4e-9 * values as f64 / start.elapsed().as_secs_f64());
        memory.push(resident());
    }
    rates.sort_by(f64::total_cmp);
    Ok((rates[PASSES / 2], memory[PASSES - 1] - memory[1]))
}

fn main() -> Result<()> {
    let bytes = images(|pixel| pixel)?.cast("images", Dtype::F32);
    let floats = images(f32::from)?;
    let mut results = Vec::new();
    for (name, data) in [("u8", &bytes), ("f32", &floats)] {
        for batch in [56, 1024] {
            for (kind, pipeline) in [
                ("", data.clone().shuffle(EXAMPLES).batch(batch)),
                ("_prefetch", data.clone().shuffle(EXAMPLES).batch(batch).prefetch(2)),
            ] {
                let (rate, growth) = measure(&pipeline)?;
                results.push(format!(
                    "\"{name}_{batch}{kind}_gb_s\": {rate:.2}, \"{name}_{batch}{kind}_growth_mb\": {growth:.1}"
                ));
            }
        }
        // Record by record, as after a map.
        let (rate, growth) = measure(&data.clone().map(Ok).shuffle(10_000).batch(56).prefetch(2))?;
        results.push(format!("\"{name}_records_gb_s\": {rate:.2}, \"{name}_records_growth_mb\": {growth:.1}"));
    }
    println!("{{{}}}", results.join(", "));
    Ok(())
}
