//! A convolutional network on MNIST: 5 epochs to 98.4 % on the CPU.
//!
//!     cargo run --release --example mnist -- --model-dir runs/mnist
//!
//! The network, its settings and the raw pixel values are those of the classic TensorFlow tutorial.

use std::path::PathBuf;

use clap::Parser;
use elistimator::metrics::argmax;
use elistimator::prelude::*;

/// The hyper-parameters: saved with every checkpoint.
#[derive(Serialize, Deserialize)]
struct MnistCnn {
    learning_rate: f64,
    dropout: f64,
}

network! {
    /// The field names are the names of the tensors on disk.
    struct Cnn<D> {
        conv1: ConvBlock<D, Const<1>, Const<32>>,
        conv2: ConvBlock<D, Const<32>, Const<64>>,
        dense: Linear<D, Const<3136>, Const<1024>>,
        dropout: Dropout,
        logits: Linear<D, Const<1024>, Const<10>>,
    }
}

type Images<D, T> = Tensor<(usize, Const<1>, Const<28>, Const<28>), D, T>;
type Logits<D, T> = Tensor<(usize, Const<10>), D, T>;

impl<D: Device> Cnn<D> {
    /// One forward pass for training and for evaluation: dropout acts only where a tape is kept.
    fn forward<T: Tape<f32, D>>(&self, images: Images<D, T>) -> ModelResult<Logits<D, T>> {
        let x = self.conv1.forward(images)?;
        let x = self.conv2.forward(x)?;
        let x = self.dense.forward(flatten(x)?)?;
        self.logits.forward(self.dropout.forward(x)?)
    }
}

impl<D: Device> ModelFn<D> for MnistCnn {
    type Net = Cnn<D>;

    fn build(&self, device: &D) -> ModelResult<Cnn<D>> {
        Ok(Cnn {
            conv1: ConvBlock::builder(Const, Const, 5).without_input_gradient().build(device)?,
            conv2: ConvBlock::builder(Const, Const, 5).build(device)?,
            dense: Linear::builder(Const, Const).activation(Activation::Relu).build(device)?,
            dropout: Dropout::new(self.dropout),
            logits: Linear::builder(Const, Const).build(device)?,
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(self.learning_rate).into()
    }

    fn train(&self, net: &mut Cnn<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let images = features.tensor("images")?.traced(step.tape()?);
        let logits = net.forward(images)?;
        Ok(TrainSpec::new(sparse_cross_entropy(logits, &features.indices("labels")?)?))
    }

    fn evaluate(&self, net: &Cnn<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let logits = net.forward(features.tensor("images")?)?;
        let labels = features.indices("labels")?;
        let accuracy = Accuracy::of(&logits, &labels)?;
        Ok(EvaluationSpec::new(sparse_cross_entropy(logits, &labels)?).metric("accuracy", accuracy))
    }

    fn predict(&self, net: &Cnn<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        let probabilities = net.forward(features.tensor("images")?)?.try_softmax::<Axis<1>>()?;
        Ok(PredictSpec::new().output("classes", argmax(&probabilities)).output("probabilities", &probabilities))
    }
}

/// Trains a convolutional network on MNIST.
#[derive(Parser)]
struct Args {
    /// Passes over the 60,000 training images.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Where checkpoints and logs go; a new temporary directory unless given.
    #[arg(long)]
    model_dir: Option<PathBuf>,
    /// Where the four IDX files are, gzipped or not.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: PathBuf,
    /// Decides initial weights, shuffling and dropout.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
}

fn run<D: Device>(args: &Args) -> Result<()> {
    let mnist = Mnist::load(&args.data)?;
    let mut estimator = Builder::<_, D>::new(MnistCnn { learning_rate: 1e-3, dropout: 0.4 })
        .model_dir_or_temporary(args.model_dir.clone())
        .device(args.device)
        .seed(args.seed)
        .resume_or_start()?;
    estimator
        .setup(Inputs::train(mnist.train().shuffle(10_000).batch(56).prefetch(2)).validation(mnist.test().batch(56)))?;

    while estimator.epoch() < args.epochs {
        estimator.train()?.validate()?;
        estimator.save_ckpt()?;
    }

    let best = estimator.restore_best()?.evaluate(mnist.test().batch(56))?;
    println!("best: step={} {best}", estimator.global_step());
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    with_device!(args.device, |D| run::<D>(&args))
}
