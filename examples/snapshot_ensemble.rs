//! A snapshot ensemble (Huang et al. 2017) in small, on a part of MNIST: one run with a cyclic learning rate, a snapshot at
//! the end of every cycle, and the mean of the snapshots' probabilities, against a single model that was trained for as long.
//!
//!     cargo run --release --example snapshot_ensemble -- --seeds 3
//!
//! The last line is a JSON object with the accuracies on the test images, as means over the seeds.

use std::path::{Path, PathBuf};

use clap::Parser;
use elistimator::Ensemble;
use elistimator::prelude::*;

/// The hyper-parameters; the schedule is one of them.
#[derive(Serialize, Deserialize)]
struct Digits {
    learning_rate: f64,
    schedule: Schedule,
    dropout: f64,
    weight_decay: f64,
}

network! {
    struct Mlp<D> {
        hidden1: Linear<D, Const<784>, Const<256>>,
        dropout1: Dropout,
        hidden2: Linear<D, Const<256>, Const<128>>,
        dropout2: Dropout,
        logits: Linear<D, Const<128>, Const<10>>,
    }
}

impl Digits {
    fn logits<D: Device, T: Tape<f32, D>>(
        net: &Mlp<D>,
        images: Tensor<(usize, Const<1>, Const<28>, Const<28>), D, T>,
    ) -> ModelResult<Tensor<(usize, Const<10>), D, T>> {
        let pixels = flatten(images)?.try_div(255.0)?;
        let x = net.dropout1.forward(net.hidden1.forward(pixels)?)?;
        let x = net.dropout2.forward(net.hidden2.forward(x)?)?;
        net.logits.forward(x)
    }
}

impl<D: Device> ModelFn<D> for Digits {
    type Net = Mlp<D>;

    fn build(&self, device: &D) -> ModelResult<Mlp<D>> {
        Ok(Mlp {
            hidden1: Linear::builder(Const, Const).activation(Activation::Relu).build(device)?,
            dropout1: Dropout::new(self.dropout),
            hidden2: Linear::builder(Const, Const).activation(Activation::Relu).build(device)?,
            dropout2: Dropout::new(self.dropout),
            logits: Linear::builder(Const, Const).build(device)?,
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(self.learning_rate).momentum(0.9).weight_decay(self.weight_decay).into()
    }

    fn schedule(&self) -> Schedule {
        self.schedule.clone()
    }

    fn train(&self, net: &mut Mlp<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let logits = Digits::logits(net, features.tensor("images")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(sparse_cross_entropy(logits, &features.indices("labels")?)?))
    }

    fn evaluate(&self, net: &Mlp<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let logits = Digits::logits(net, features.tensor("images")?)?;
        let labels = features.indices("labels")?;
        let accuracy = Accuracy::of(&logits, &labels)?;
        Ok(EvaluationSpec::new(sparse_cross_entropy(logits, &labels)?).metric("accuracy", accuracy))
    }

    fn predict(&self, net: &Mlp<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        let probabilities = Digits::logits(net, features.tensor("images")?)?.try_softmax::<Axis<1>>()?;
        Ok(PredictSpec::new().output("probabilities", &probabilities))
    }
}

/// Snapshots of one run decide together, against a single model that was trained for as long.
#[derive(Parser)]
struct Args {
    /// Runs with different initial weights and orders of the data, whose accuracies are averaged.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// Training images to use, of 60,000.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    examples: u64,
    /// Cycles of the learning rate, and so members of the ensemble.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    cycles: u64,
    /// Passes over the training images in a cycle.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    epochs_per_cycle: u64,
    /// The highest learning rate.
    #[arg(long, default_value_t = 0.1)]
    learning_rate: f64,
    /// The share of hidden values that dropout sets to 0.
    #[arg(long, default_value_t = 0.3)]
    dropout: f64,
    /// L2 regularisation.
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f64,
    /// Where checkpoints and logs go; a temporary directory, deleted at the end, unless given.
    #[arg(long)]
    model_dir: Option<PathBuf>,
    /// Where the four IDX files are, gzipped or not.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: PathBuf,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
}

/// Accuracies on the test images; those of a run, or sums over the seeds.
#[derive(Default, Serialize)]
struct Accuracies {
    single: f64,
    members: Vec<f64>,
    ensemble: f64,
}

const BATCH: usize = 32;

/// A run with this schedule, that saves at the end of every cycle; the steps of its checkpoints.
fn train<D: Device>(
    args: &Args,
    dir: &Path,
    seed: u64,
    schedule: Schedule,
    images: &Dataset,
) -> Result<(Elistimator<Digits, D>, Vec<u64>)> {
    let mut estimator = Builder::<_, D>::new(Digits {
        learning_rate: args.learning_rate,
        schedule,
        dropout: args.dropout,
        weight_decay: args.weight_decay,
    })
    .model_dir(dir)
    .device(args.device)
    .seed(seed)
    .max_to_keep(0)
    .summary_every(0)
    .progress(ProgressMode::Off)
    .build()?;
    estimator.setup(Inputs::train(images))?;
    let mut steps = Vec::new();
    for _ in 0..args.cycles {
        for _ in 0..args.epochs_per_cycle {
            estimator.train()?;
        }
        steps.push(estimator.save_ckpt()?.step);
    }
    Ok((estimator, steps))
}

fn run<D: Device>(args: &Args) -> Result<()> {
    let mnist = Mnist::load(&args.data)?;
    let images = mnist.train().take(args.examples).shuffle(60_000).batch(BATCH);
    let test = mnist.test().batch(500);
    let temporary = tempfile::tempdir()
        .map_err(|error| Error::with_source(ErrorKind::Io, "cannot make a temporary directory", error))?;
    let dir = args.model_dir.as_deref().unwrap_or(temporary.path());

    let cycle = args.examples.div_ceil(BATCH as u64) * args.epochs_per_cycle;
    let total = cycle * args.cycles;
    let mut sum = Accuracies { members: vec![0.0; args.cycles as usize], ..Accuracies::default() };
    for seed in 0..args.seeds {
        let dir = dir.join(format!("seed-{seed}"));
        // The paper's plain schedule: a tenth of the learning rate after half of the steps, and again after three quarters.
        let drops = Schedule::MultiStep { milestones: vec![total / 2, total * 3 / 4], factor: 0.1 };
        let (single, _) = train::<D>(args, &dir.join("single"), seed, drops, &images)?;
        let single = single.evaluate(&test)?.get("accuracy")?;

        let (snapshots, steps) = train::<D>(args, &dir.join("snapshots"), seed, Schedule::Cyclic { cycle }, &images)?;
        let ensemble = Ensemble::<Digits, D>::from_checkpoints(snapshots.model_dir(), &steps, args.device)?;
        let found = ensemble.evaluate(&test, "probabilities", "labels")?;
        ensemble.save(dir.join("ensemble"))?;

        let accuracy = found.ensemble.get("accuracy")?;
        println!("seed {seed}: single={single:.4} ensemble={accuracy:.4}");
        sum.single += single;
        sum.ensemble += accuracy;
        for (place, metrics) in found.members.iter().enumerate() {
            println!("  member {place}, step {}: {metrics}", steps[place]);
            sum.members[place] += metrics.get("accuracy")?;
        }
    }
    let mean = |sum: f64| sum / args.seeds as f64;
    let means = Accuracies {
        single: mean(sum.single),
        members: sum.members.into_iter().map(mean).collect(),
        ensemble: mean(sum.ensemble),
    };
    let json = serde_json::to_string(&means)
        .map_err(|error| Error::with_source(ErrorKind::InvalidArgument, "the accuracies are no JSON", error))?;
    println!("{json}");
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    with_device!(args.device, |D| run::<D>(&args))
}
