//! How fast batches are made of images in memory: shuffled by number, gathered, converted from bytes to `f32` where they are
//! kept as bytes, with one prefetch thread beside the caller's or without. Prints one JSON line for each pipeline: gigabytes of
//! output a second, the median of several passes; gigabytes a second of processor time of all threads, which holds on a busy
//! machine too; and by how many megabytes the resident memory grew from the second pass to the last one.
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

/// Seconds of processor time of all threads so far; 0 where there is no `/proc`.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // User and system time in ticks, of which Linux shows a hundred a second.
    fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn measure(name: &str, data: &Dataset) -> Result<()> {
    let mut rates = Vec::new();
    let mut memory = Vec::new();
    let (before, mut gigabytes) = (processor_seconds(), 0.0);
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
        gigabytes += 4e-9 * values as f64;
        memory.push(resident());
    }
    let processor = gigabytes / (processor_seconds() - before);
    rates.sort_by(f64::total_cmp);
    let (rate, growth) = (rates[PASSES / 2], memory[PASSES - 1] - memory[1]);
    println!(
        "{{\"pipeline\": \"{name}\", \"gb_s\": {rate:.2}, \"gb_processor_s\": {processor:.2}, \"growth_mb\": {growth:.1}}}"
    );
    Ok(())
}

fn main() -> Result<()> {
    let bytes = images(|pixel| pixel)?.cast("images", Dtype::F32);
    let floats = images(f32::from)?;
    for (name, data) in [("u8", &bytes), ("f32", &floats)] {
        for size in [56, 1024] {
            let batches = data.clone().shuffle(EXAMPLES).batch(size);
            measure(&format!("{name}, batches of {size}"), &batches)?;
            measure(&format!("{name}, batches of {size}, prefetched"), &batches.prefetch(2))?;
        }
        // Record by record, as after any map.
        let records = data.clone().map(Ok).shuffle(10_000).batch(56);
        measure(&format!("{name}, record by record, batches of 56, prefetched"), &records.prefetch(2))?;
    }
    Ok(())
}
