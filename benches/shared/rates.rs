//! How fast the machine is where no training loop stands in the way: large matrix products, with the kernels that the
//! layers use, and memory.

use std::time::{Duration, Instant};

use elistimator::{Error, ErrorKind, Result};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Rows and columns of the matrices that are multiplied: large enough for the rate to have levelled off, small enough for
/// a product to take some hundredths of a second.
const SIZE: usize = 1536;

/// Values in each of the three vectors of [`stream`], 64 MiB: no cache holds them.
const STREAM: usize = 1 << 24;

/// Makes the global pool of threads.
///
/// # Errors
/// When there is one already, or the system gives no threads.
pub fn use_threads(threads: usize) -> Result<()> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    built.map_err(|error| Error::with_source(ErrorKind::InvalidArgument, format!("{threads} threads"), error))
}

/// A number of threads on a command line.
///
/// # Errors
/// When it is none from 1 to 1024.
pub fn threads(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|threads| (1..=1024).contains(threads)).ok_or_else(|| "expected 1 to 1024".to_owned())
}

/// The median rate of f32 matrix products on all threads of the global pool, in GFLOP/s, from products for as long as
/// `duration`.
pub fn matrix_product(duration: Duration) -> f64 {
    let values = |factor: usize| (0..SIZE * SIZE).map(|i| (i * factor % 101) as f32 / 101.0).collect::<Vec<f32>>();
    let (a, b) = (values(37), values(53));
    let mut out = vec![0.0; SIZE * SIZE];
    // Twice as many pieces as threads, so that one late thread does not hold up the rest.
    let rows = SIZE.div_ceil(2 * rayon::current_num_threads()).next_multiple_of(16);
    let right = MatRef::from_row_major_slice(&b, SIZE, SIZE);
    let mut product = || {
        let start = Instant::now();
        out.par_chunks_mut(rows * SIZE).zip(a.par_chunks(rows * SIZE)).for_each(|(out, a)| {
            let rows = a.len() / SIZE;
            let left = MatRef::from_row_major_slice(a, rows, SIZE);
            let out = MatMut::from_row_major_slice_mut(out, rows, SIZE);
            matmul(out, Accum::Replace, left, right, 1.0, Par::Seq);
        });
        start.elapsed().as_secs_f64()
    };
    let work = 2.0 * (SIZE as f64).powi(3) / 1e9;
    work / median(repeat(duration, &mut product))
}

/// The median rate of `a = b + s · c` over vectors that no cache holds (the triad of the STREAM benchmark), in GB/s, twelve
/// bytes for every value, from passes for as long as `duration`.
pub fn stream(duration: Duration) -> f64 {
    const PIECE: usize = 1 << 16;
    let (b, c) = (vec![1.0f32; STREAM], vec![2.0f32; STREAM]);
    let mut a = vec![0.0f32; STREAM];
    let mut triad = || {
        let start = Instant::now();
        a.par_chunks_mut(PIECE).zip(b.par_chunks(PIECE)).zip(c.par_chunks(PIECE)).for_each(|((a, b), c)| {
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = b + 3.0 * c;
            }
        });
        std::hint::black_box(&a);
        start.elapsed().as_secs_f64()
    };
    12.0 * STREAM as f64 / 1e9 / median(repeat(duration, &mut triad))
}

/// Seconds of every repetition, after one that does not count: it touches the memory for the first time.
fn repeat(duration: Duration, once: &mut impl FnMut() -> f64) -> Vec<f64> {
    once();
    let start = Instant::now();
    let mut seconds = vec![once()];
    while start.elapsed() < duration {
        seconds.push(once());
    }
    seconds
}

/// The upper median; not a number where there are no values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
