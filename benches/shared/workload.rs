//! The workloads that every program of `benches/peers` runs: the same networks on synthetic data of the same kind.

use clap::ValueEnum;
use elistimator::nn::BiLstm;
use elistimator::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// One of the three.
#[derive(Clone, Copy, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// The MNIST network: batch 56, plain SGD.
    Cnn,
    /// 784-512-512-10 with ReLU: batch 128, Adam.
    Mlp,
    /// A bidirectional LSTM of 100 units over 32 steps of 300 values, 10 classes per step: batch 20, Adam.
    Lstm,
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
    pub struct Net<D> {
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

/// What a workload computes on.
pub struct Sizes {
    pub examples: usize,
    pub batch: usize,
    /// Labels of an example, each with a row of values.
    pub rows: usize,
    pub values: usize,
    /// Steps that are timed together.
    pub steps: u64,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cnn => "cnn",
            Self::Mlp => "mlp",
            Self::Lstm => "lstm",
        }
    }

    pub fn sizes(self) -> Sizes {
        match self {
            Self::Cnn => Sizes { examples: 4096, batch: 56, rows: 1, values: 784, steps: 60 },
            Self::Mlp => Sizes { examples: 20_000, batch: 128, rows: 1, values: 784, steps: 400 },
            Self::Lstm => Sizes { examples: 1000, batch: 20, rows: 32, values: 300, steps: 150 },
        }
    }

    /// The matrix products of a forward pass: rows, inner size, columns, and how often.
    fn products(self, batch: usize) -> Vec<[usize; 4]> {
        match self {
            // A convolution is a product of the patches under its window, 5 · 5 · channels values each, with its filters.
            Self::Cnn => vec![
                [batch * 28 * 28, 5 * 5, 32, 1],
                [batch * 14 * 14, 5 * 5 * 32, 64, 1],
                [batch, 3136, 1024, 1],
                [batch, 1024, 10, 1],
            ],
            Self::Mlp => vec![[batch, 784, 512, 1], [batch, 512, 512, 1], [batch, 512, 10, 1]],
            // In either direction, the inputs and the 100 outputs of the step before go into four gates of 100.
            Self::Lstm => vec![[batch * 32, 300, 4 * 100, 2], [batch, 100, 4 * 100, 2 * 32], [batch * 32, 200, 10, 1]],
        }
    }

    /// GFLOP of the matrix products of a forward pass, `2 · rows · inner · columns` each.
    pub fn evaluation_gflop(self, batch: usize) -> f64 {
        self.products(batch).iter().map(gflop).sum()
    }

    /// GFLOP of the matrix products of a training step: those of the forward pass, as many for the gradients of the
    /// weights, and as many for those of the inputs, but for the first layer, whose inputs are data.
    pub fn training_gflop(self, batch: usize) -> f64 {
        3.0 * self.evaluation_gflop(batch) - self.products(batch).first().map_or(0.0, gflop)
    }

    /// A weak signal in noise, and 30 % of the labels random, so that the loss stays well above 0.
    ///
    /// # Errors
    /// When there are not as many examples as a batch takes, or it takes none.
    pub fn data(self, batch: usize) -> Result<Dataset> {
        let Sizes { examples, rows, values, .. } = self.sizes();
        if !(1..=examples).contains(&batch) {
            let name = self.name();
            let message = format!("batch: expected 1 to {examples}, the examples of {name}, found {batch}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut rng = StdRng::seed_from_u64(1);
        let mut normal = || (0..6).map(|_| rng.gen_range(-1.0f32..1.0)).sum::<f32>() / 1.414;
        let templates: Vec<f32> = (0..10 * values).map(|_| normal()).collect();
        let (mut x, mut y) = (Vec::with_capacity(examples * rows * values), Vec::with_capacity(examples * rows));
        let mut random = StdRng::seed_from_u64(2);
        for _ in 0..examples * rows {
            let class = random.gen_range(0..10usize);
            x.extend((0..values).map(|i| 0.1 * templates[class * values + i] + normal()));
            y.push(if random.gen_bool(0.3) { random.gen_range(0..10) } else { class as i64 });
        }
        let record = Record::new()
            .with("x", Array::new([examples, rows * values], x)?)
            .with("y", Array::new([examples, rows], y)?);
        Ok(Dataset::from_arrays(record)?.shuffle(examples).batch(batch).drop_remainder())
    }
}

fn gflop([rows, inner, columns, times]: &[usize; 4]) -> f64 {
    2.0 * (rows * inner * columns * times) as f64 / 1e9
}
