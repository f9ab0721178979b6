//! How fast the whole loop is, with bar and logs on: one of the three workloads that the benchmarks of the peers run too, on
//! synthetic data. Prints one JSON line.
//!
//!     cargo run --release --example workload -- cnn --threads 2

use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use elistimator::nn::BiLstm;
use elistimator::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

#[derive(Clone, Copy, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Workload {
    /// The MNIST network: batch 56, plain SGD.
    Cnn,
    /// 784-512-512-10 with ReLU: batch 128, Adam.
    Mlp,
    /// A bidirectional LSTM of 100 units over 32 steps of 300 values, 10 classes per step: batch 20, Adam.
    Lstm,
}

#[derive(Parser)]
struct Args {
    workload: Workload,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Repetitions that are timed, after one that is not.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long)]
    model_dir: Option<PathBuf>,
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
}

network! {
    struct Cnn<D> {
        conv1: ConvBlock<D>,
        conv2: ConvBlock<D>,
        dense: Linear<D>,
        dropout: Dropout,
        logits: Linear<D>,
    }
    struct Mlp<D> {
        first: Linear<D>,
        second: Linear<D>,
        logits: Linear<D>,
    }
    struct Lstm<D> {
        lstm: BiLstm<D>,
        logits: Linear<D>,
    }
    /// One of the three; the others are absent.
    struct Net<D> {
        cnn: Option<Cnn<D>>,
        mlp: Option<Mlp<D>>,
        lstm: Option<Lstm<D>>,
    }
}

impl<D: Device> Net<D> {
    /// One row of logits for every label, from the features and the tape.
    fn forward<T: Tape<f32, D>>(&self, x: Tensor<(usize, usize), D, T>) -> ModelResult<Tensor<(usize, usize), D, T>> {
        let batch = x.shape().0;
        if let Some(net) = &self.cnn {
            let x = net.conv1.forward(x.try_reshape_like(&(batch, 1, 28, 28))?)?;
            let x = flatten(net.conv2.forward(x)?)?;
            return net.logits.forward(net.dropout.forward(net.dense.forward(x)?)?);
        }
        if let Some(net) = &self.mlp {
            return net.logits.forward(net.second.forward(net.first.forward(x)?)?);
        }
        let Some(net) = &self.lstm else { return Err(ModelError::msg("no network")) };
        let (outputs, _) = net.lstm.run(x.try_reshape_like(&(batch, 32, 300))?, &vec![32; batch], None)?;
        net.logits.forward(outputs.try_reshape_like(&(batch * 32, 200))?)
    }
}

impl<D: Device> ModelFn<D> for Workload {
    type Net = Net<D>;

    fn build(&self, device: &D) -> ModelResult<Net<D>> {
        let mut net = Net { cnn: None, mlp: None, lstm: None };
        let relu = |inputs, outputs| Linear::builder(inputs, outputs).activation(Activation::Relu);
        match self {
            Self::Cnn => {
                net.cnn = Some(Cnn {
                    conv1: ConvBlock::builder(1, 32, 5).without_input_gradient().build(device)?,
                    conv2: ConvBlock::new(device, 32, 64, 5)?,
                    dense: relu(3136, 1024).build(device)?,
                    dropout: Dropout::new(0.4),
                    logits: Linear::new(device, 1024, 10)?,
                });
            }
            Self::Mlp => {
                net.mlp = Some(Mlp {
                    first: relu(784, 512).without_input_gradient().build(device)?,
                    second: relu(512, 512).build(device)?,
                    logits: Linear::new(device, 512, 10)?,
                });
            }
            Self::Lstm => {
                let lstm = BiLstm::builder(300, 100).without_input_gradient().build_bidirectional(device)?;
                net.lstm = Some(Lstm { lstm, logits: Linear::new(device, 200, 10)? });
            }
        }
        Ok(net)
    }

    fn optimizer(&self) -> OptimizerConfig {
        match self {
            Self::Cnn => Sgd::new(1e-3).into(),
            Self::Mlp | Self::Lstm => Adam::new(1e-3).into(),
        }
    }

    fn train(&self, net: &mut Net<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let logits = net.forward(features.tensor("x")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(sparse_cross_entropy(logits, &features.indices("y")?)?))
    }

    fn evaluate(&self, net: &Net<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let logits = net.forward(features.tensor("x")?)?;
        let labels = features.indices("y")?;
        let accuracy = Accuracy::of(&logits, &labels)?;
        Ok(EvaluationSpec::new(sparse_cross_entropy(logits, &labels)?).metric("accuracy", accuracy))
    }
}

impl Workload {
    /// Name, examples, batch, labels per example, values per label, steps in a repetition.
    fn sizes(self) -> (&'static str, usize, usize, usize, usize, u64) {
        match self {
            Self::Cnn => ("cnn", 4096, 56, 1, 784, 60),
            Self::Mlp => ("mlp", 20_000, 128, 1, 784, 400),
            Self::Lstm => ("lstm", 1000, 20, 32, 300, 150),
        }
    }

    /// A weak signal in noise, and 30 % of the labels random, so that the loss stays well above 0.
    fn data(self) -> Result<Dataset> {
        let (_, examples, batch, labels, width, _) = self.sizes();
        let mut rng = StdRng::seed_from_u64(1);
        let mut normal = || (0..6).map(|_| rng.gen_range(-1.0f32..1.0)).sum::<f32>() / 1.414;
        let templates: Vec<f32> = (0..10 * width).map(|_| normal()).collect();
        let (mut x, mut y) = (Vec::with_capacity(examples * labels * width), Vec::with_capacity(examples * labels));
        let mut random = StdRng::seed_from_u64(2);
        for _ in 0..examples * labels {
            let class = random.gen_range(0..10usize);
            x.extend((0..width).map(|i| 0.1 * templates[class * width + i] + normal()));
            y.push(if random.gen_bool(0.3) { random.gen_range(0..10) } else { class as i64 });
        }
        let record = Record::new()
            .with("x", Array::new([examples, labels * width], x)?)
            .with("y", Array::new([examples, labels], y)?);
        Ok(Dataset::from_arrays(record)?.shuffle(examples).batch(batch).drop_remainder())
    }
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
    let (name, _, _, _, _, steps) = args.workload.sizes();
    let mut estimator = Builder::<_, D>::new(args.workload)
        .model_dir_or_temporary(args.model_dir.clone())
        .device(args.device)
        .progress(ProgressMode::On)
        .build()?;
    let data = args.workload.data()?;
    estimator.setup(Inputs::train(data.clone().prefetch(2)))?;
    estimator.train_steps(steps / 3)?;
    let mut train = Vec::new();
    for _ in 0..args.rounds.max(1) {
        let start = Instant::now();
        estimator.train_steps(steps)?;
        train.push(steps as f64 / start.elapsed().as_secs_f64());
    }
    let peak = peak_rss_mb();
    let mut evaluation = Vec::new();
    let data = data.repeat_forever();
    estimator.evaluate_steps(&data, steps / 3)?;
    for _ in 0..args.rounds.max(1) {
        let start = Instant::now();
        estimator.evaluate_steps(&data, steps)?;
        evaluation.push(steps as f64 / start.elapsed().as_secs_f64());
    }
    println!(
        "{{\"name\": \"{name}\", \"threads\": {}, \"train_steps_per_second\": {}, \"eval_steps_per_second\": {}, \
         \"peak_rss_mb\": {peak:.1}}}",
        args.threads,
        summary(train),
        summary(evaluation)
    );
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build_global()
        .map_err(|error| Error::with_source(ErrorKind::InvalidArgument, "--threads", error))?;
    with_device!(args.device, |D| run::<D>(&args))
}
