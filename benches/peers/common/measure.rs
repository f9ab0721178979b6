//! What the Rust programs share: their arguments, synthetic data in memory, the timing, the JSON line they print.
#![allow(dead_code)]

use std::time::{Duration, Instant};

/// A repetition of a slow program is shortened to about as long.
const LONGEST: Duration = Duration::from_secs(3);

pub struct Args {
    pub workload: String,
    pub repetitions: usize,
}

impl Args {
    /// `WORKLOAD [--repetitions N]`. The number of threads comes from RAYON_NUM_THREADS.
    pub fn parse() -> Args {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let option = |name| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
        let workload = arguments.first().expect("usage: cnn|mlp|lstm [--repetitions N]").clone();
        Args { workload, repetitions: option("--repetitions").map_or(5, |n| n.parse().expect("a number")) }
    }
}

struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * self.uniform().max(1e-7).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}

/// Examples in memory, in a new order in every pass.
pub struct Batches {
    x: Vec<f32>,
    y: Vec<i64>,
    batch: usize,
    values: usize,
    labels: usize,
    order: Vec<usize>,
    position: usize,
    random: Xorshift,
}

impl Batches {
    /// A weak signal in noise, and 30 % of the labels random, so that the loss stays well above 0.
    fn new(workload: &str) -> Batches {
        let (examples, batch, labels, width) = match workload {
            "cnn" => (4096, 56, 1, 784),
            "mlp" => (20_000, 128, 1, 784),
            "lstm" => (1000, 20, 32, 300),
            _ => panic!("found workload {workload}, expected cnn, mlp or lstm"),
        };
        let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
        let templates: Vec<f32> = (0..10 * width).map(|_| random.normal()).collect();
        let mut x = Vec::with_capacity(examples * labels * width);
        let mut y = Vec::with_capacity(examples * labels);
        for _ in 0..examples * labels {
            let class = random.below(10);
            x.extend(templates[class * width..(class + 1) * width].iter().map(|t| 0.1 * t + random.normal()));
            y.push(if random.uniform() < 0.3 { random.below(10) } else { class } as i64);
        }
        let order = (0..examples).collect();
        Batches { x, y, batch, values: labels * width, labels, order, position: examples, random: Xorshift(77) }
    }

    /// The inputs and the labels of the next batch.
    pub fn next(&mut self) -> (Vec<f32>, Vec<i64>) {
        if self.position + self.batch > self.order.len() {
            for i in (1..self.order.len()).rev() {
                self.order.swap(i, self.random.below(i + 1));
            }
            self.position = 0;
        }
        let mut x = Vec::with_capacity(self.batch * self.values);
        let mut y = Vec::with_capacity(self.batch * self.labels);
        for &row in &self.order[self.position..self.position + self.batch] {
            x.extend_from_slice(&self.x[row * self.values..(row + 1) * self.values]);
            y.extend_from_slice(&self.y[row * self.labels..(row + 1) * self.labels]);
        }
        self.position += self.batch;
        (x, y)
    }
}

/// MiB, of this process until now.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(f64::NAN, |kb| kb / 1024.0)
}

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// Runs a third of `steps`, for a third of [`LONGEST`] at most. Returns how many steps to time together: so many, or fewer
/// if they would take longer.
fn warm_up(steps: usize, mut step: impl FnMut()) -> usize {
    let mut fastest = f64::INFINITY;
    let start = Instant::now();
    for done in 0..steps / 3 {
        fastest = fastest.min(seconds(&mut step));
        if done >= 3 && start.elapsed() > LONGEST / 3 {
            break;
        }
    }
    ((LONGEST.as_secs_f64() / fastest) as usize).clamp(5, steps)
}

/// Steps per second of every repetition, as JSON.
fn rates(steps: usize, repetitions: usize, mut step: impl FnMut()) -> String {
    let once = |_| steps as f64 / seconds(|| (0..steps).for_each(|_| step()));
    let mut found: Vec<f64> = (0..repetitions.max(1)).map(once).collect();
    found.sort_by(f64::total_cmp);
    let (min, median, max) = (found[0], found[found.len() / 2], found[found.len() - 1]);
    format!("{{\"median\": {median:.2}, \"min\": {min:.2}, \"max\": {max:.2}}}")
}

/// Times both steps and prints the results. A training step returns its loss; the evaluation starts from the trained
/// network, and an evaluation step returns loss and accuracy.
pub fn run<E: FnMut(&mut Batches) -> (f32, f32)>(
    args: &Args,
    version: &str,
    mut train_step: impl FnMut(&mut Batches) -> f32,
    evaluation: impl FnOnce() -> E,
) {
    let mut batches = Batches::new(&args.workload);
    let most = match args.workload.as_str() {
        "cnn" => 60,
        "mlp" => 400,
        _ => 150,
    };
    let first = train_step(&mut batches);
    let mut last = first;
    let steps = warm_up(most, || last = train_step(&mut batches));
    let train = rates(steps, args.repetitions, || last = train_step(&mut batches));
    let memory = peak_memory();
    let mut evaluation_step = evaluation();
    let steps = warm_up(most, || _ = evaluation_step(&mut batches));
    let evaluation = rates(steps, args.repetitions, || _ = evaluation_step(&mut batches));
    let (workload, threads) = (&args.workload, std::env::var("RAYON_NUM_THREADS").unwrap_or("null".into()));
    println!(
        "{{\"name\": \"{workload}\", \"version\": \"{version}\", \"threads\": {threads}, \
         \"train_steps_per_second\": {train}, \"eval_steps_per_second\": {evaluation}, \"peak_rss_mb\": {memory:.1}, \
         \"loss_first\": {first:.4}, \"loss_last\": {last:.4}}}"
    );
}
