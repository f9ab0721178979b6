//! The three workloads in burn, on its CPU backend flex.

use std::{cell::RefCell, rc::Rc};

use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{conv::*, pool::*, *};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use measure::{Args, Batches};

#[path = "../../common/measure.rs"]
mod measure;

#[derive(Module, Debug)]
struct Cnn {
    conv1: Conv2d,
    conv2: Conv2d,
    pool: MaxPool2d,
    dense: Linear,
    dropout: Dropout,
    logits: Linear,
}

#[derive(Module, Debug)]
struct Mlp {
    first: Linear,
    second: Linear,
    logits: Linear,
}

#[derive(Module, Debug)]
struct Lstm {
    lstm: BiLstm,
    logits: Linear,
}

/// A network that makes a row of logits for every label.
trait Net: Module + Clone + 'static {
    fn logits(&self, x: Vec<f32>, device: &Device) -> Tensor<2>;
}

impl Cnn {
    fn new(device: &Device) -> Self {
        Self {
            conv1: Conv2dConfig::new([1, 32], [5, 5]).with_padding(PaddingConfig2d::Same).init(device),
            conv2: Conv2dConfig::new([32, 64], [5, 5]).with_padding(PaddingConfig2d::Same).init(device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            dense: LinearConfig::new(3136, 1024).init(device),
            dropout: DropoutConfig::new(0.4).init(),
            logits: LinearConfig::new(1024, 10).init(device),
        }
    }
}

impl Net for Cnn {
    fn logits(&self, x: Vec<f32>, device: &Device) -> Tensor<2> {
        let batch = x.len() / 784;
        let x: Tensor<4> = Tensor::from_data(TensorData::new(x, [batch, 1, 28, 28]), device);
        let x = self.pool.forward(relu(self.conv1.forward(x)));
        let x = self.pool.forward(relu(self.conv2.forward(x)));
        let x: Tensor<2> = x.reshape([batch, 3136]);
        self.logits.forward(self.dropout.forward(relu(self.dense.forward(x))))
    }
}

impl Mlp {
    fn new(device: &Device) -> Self {
        Self {
            first: LinearConfig::new(784, 512).init(device),
            second: LinearConfig::new(512, 512).init(device),
            logits: LinearConfig::new(512, 10).init(device),
        }
    }
}

impl Net for Mlp {
    fn logits(&self, x: Vec<f32>, device: &Device) -> Tensor<2> {
        let batch = x.len() / 784;
        let x: Tensor<2> = Tensor::from_data(TensorData::new(x, [batch, 784]), device);
        self.logits.forward(relu(self.second.forward(relu(self.first.forward(x)))))
    }
}

impl Lstm {
    fn new(device: &Device) -> Self {
        Self { lstm: BiLstmConfig::new(300, 100, true).init(device), logits: LinearConfig::new(200, 10).init(device) }
    }
}

impl Net for Lstm {
    fn logits(&self, x: Vec<f32>, device: &Device) -> Tensor<2> {
        let batch = x.len() / (32 * 300);
        let x: Tensor<3> = Tensor::from_data(TensorData::new(x, [batch, 32, 300]), device);
        let (outputs, _) = self.lstm.forward(x, None);
        self.logits.forward(outputs).reshape([batch * 32, 10])
    }
}

fn indices(labels: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let count = labels.len();
    Tensor::from_data(TensorData::new(labels, [count]), device)
}

fn run<N: Net>(args: &Args, model: N, mut optimizer: ModuleOptimizer, learning_rate: f64, device: Device) {
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);
    let model = Rc::new(RefCell::new(Some(model)));
    let (trained, plain_device) = (model.clone(), device.clone().inner());
    let train_step = move |batches: &mut Batches| {
        let (x, y) = batches.next();
        let before = model.borrow_mut().take().unwrap();
        let loss = cross_entropy.forward(before.logits(x, &device), indices(y, &device));
        let gradients = GradientsParams::from_grads(loss.backward(), &before);
        *model.borrow_mut() = Some(optimizer.step(learning_rate, before, gradients));
        loss.into_scalar::<f32>()
    };
    let evaluation = move || {
        let model = trained.borrow().as_ref().unwrap().valid();
        let cross_entropy = CrossEntropyLossConfig::new().init(&plain_device);
        move |batches: &mut Batches| {
            let (x, y) = batches.next();
            let count = y.len() as f32;
            let labels = indices(y, &plain_device);
            let logits = model.logits(x, &plain_device);
            let guesses: Tensor<1, Int> = logits.clone().argmax(1).squeeze_dim(1);
            let hits = guesses.equal(labels.clone()).int().sum().into_scalar::<i64>();
            (cross_entropy.forward(logits, labels).into_scalar::<f32>(), hits as f32 / count)
        }
    };
    measure::run(args, "burn 0.22.1 flex", train_step, evaluation);
}

fn main() {
    let args = Args::parse();
    let device = Device::flex().autodiff();
    device.seed(1);
    let adam = || AdamConfig::new().with_epsilon(1e-8).init();
    match args.workload.as_str() {
        "cnn" => run(&args, Cnn::new(&device), SgdConfig::new().init(), 1e-3, device),
        "mlp" => run(&args, Mlp::new(&device), adam(), 1e-3, device),
        "lstm" => run(&args, Lstm::new(&device), adam(), 1e-3, device),
        other => panic!("found workload {other}, expected cnn, mlp or lstm"),
    }
}
