//! The CUDA backend without a GPU: a double of the driver (`cuda_host/driver.cpp`) runs our kernels on the host while
//! dfdx's host code and ours run as they are. Results are compared with the CPU's, and what a training step asks of the
//! device is counted. Each test runs itself again in a process with the double preloaded; skipped, with a line that says
//! so, where there is no g++. With ELISTIMATOR_GPU set, the tests run on the real device instead, and count nothing.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
mod cuda_host;

use std::collections::BTreeMap;

use cuda_host::{Log, numbers};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Tape, Trace};
use dfdx::tensor_ops::{Backward, ReshapeTo};
use elistimator::device::{Cpu, Cuda};
use elistimator::nn::backend::Targets;
use elistimator::nn::{
    Activation, AvgPool2D, Conv2D, ConvBlock, Gradients, Init, Layer, Linear, MaxPool2D, Parameter, StepTape, Tensor,
    sparse_cross_entropy,
};
use elistimator::{Device, DeviceSpec};

/// In the process with the double: the log. Elsewhere: runs the test of this name there, and returns `None`.
fn double(test: &str) -> Option<Log> {
    cuda_host::double(test, &[])
}

/// The sum of all values, each times a weight of its own.
fn weighted_sum<D: Device, T: Tape<f32, D>>(device: &D, y: Tensor<(usize,), D, T>) -> Tensor<(), D, T> {
    let n = y.shape().0;
    let linear = Linear::builder(n, 1).weights(Init::Values(numbers(99, n))).without_bias().build(device).unwrap();
    let y = linear.forward(y.try_reshape_like(&(1, n)).unwrap()).unwrap();
    D::sum(y.try_reshape_like(&(1,)).unwrap()).unwrap()
}

fn open<D: Device>() -> D {
    D::open(if D::READS_ARE_FREE { DeviceSpec::Cpu } else { DeviceSpec::Cuda(0) }, 7).unwrap()
}

/// The same on both devices: a list of values each.
#[track_caller]
fn assert_same(cpu: Vec<Vec<f32>>, cuda: Vec<Vec<f32>>) {
    assert_eq!(cpu.len(), cuda.len());
    for (which, (cpu, cuda)) in cpu.iter().zip(&cuda).enumerate() {
        assert_eq!(cpu.len(), cuda.len());
        let scale = cpu.iter().fold(1.0f32, |scale, x| scale.max(x.abs()));
        assert!(cpu.iter().any(|x| *x != 0.0), "list {which} says nothing");
        for (i, (cpu, cuda)) in cpu.iter().zip(cuda).enumerate() {
            let close = (cpu - cuda).abs() <= 2e-5 * scale;
            assert!(close, "list {which}, element {i}: {cpu} on the CPU, {cuda} on CUDA");
        }
    }
}

type Traced<S, D> = Tensor<S, D, StepTape<D>>;
type Images = (usize, usize, usize, usize);

fn gradient<D: Device>(gradients: &Gradients<D>, of: &Parameter<D>) -> Vec<f32> {
    gradients.get(&of.flat()).as_vec()
}

/// The output of a layer on images, and the gradients of the images and of its parameters.
fn on_images<D: Device>(
    shape: Images,
    layer: impl FnOnce(&D, Traced<Images, D>) -> (Traced<(usize,), D>, Vec<Tensor<(usize,), D>>),
) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let x = device.tensor_from_vec(numbers(1, shape.0 * shape.1 * shape.2 * shape.3), shape);
    let (y, parameters) = layer(&device, x.leaky_trace());
    let output = y.as_vec();
    let gradients = weighted_sum(&device, y).backward();
    let mut all = vec![output, gradients.get(&x).as_vec()];
    all.extend(parameters.iter().map(|parameter| gradients.get(parameter).as_vec()));
    all
}

fn flat<D: Device, T: Tape<f32, D>, S: dfdx::shapes::Shape>(y: Tensor<S, D, T>) -> Tensor<(usize,), D, T> {
    let n = y.shape().num_elements();
    y.try_reshape_like(&(n,)).unwrap()
}

const ACTIVATIONS: [Activation; 6] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu(0.1),
    Activation::Tanh,
    Activation::Gelu,
    Activation::Silu,
];

#[test]
fn convolutions() {
    let Some(_) = double("convolutions") else { return };
    fn run<D: Device>(activation: Activation, groups: usize) -> Vec<Vec<f32>> {
        on_images::<D>((3, 4, 7, 8), |device, x| {
            let conv = Conv2D::builder(4, 6, (3, 2)).stride((2, 1)).padding((1, 0)).groups(groups);
            let conv = conv.bias(Init::Values(numbers(5, 6))).activation(activation).build(device).unwrap();
            let y = conv.forward(x).unwrap();
            (flat(y), vec![conv.weight.flat(), conv.bias.as_ref().unwrap().flat()])
        })
    }
    for activation in ACTIVATIONS {
        assert_same(run::<Cpu>(activation, 1), run::<Cuda>(activation, 1));
    }
    assert_same(run::<Cpu>(Activation::Relu, 2), run::<Cuda>(Activation::Relu, 2));
}

#[test]
fn convolution_blocks() {
    let Some(_) = double("convolution_blocks") else { return };
    fn run<D: Device>() -> Vec<Vec<f32>> {
        on_images::<D>((3, 2, 9, 11), |device, x| {
            let block =
                ConvBlock::builder(2, 5, 3).pool((2, 3)).bias(Init::Values(numbers(5, 5))).build(device).unwrap();
            let y = block.forward(x).unwrap();
            (flat(y), vec![block.weight.flat(), block.bias.as_ref().unwrap().flat()])
        })
    }
    assert_same(run::<Cpu>(), run::<Cuda>());
}

#[test]
fn pools() {
    let Some(_) = double("pools") else { return };
    fn max<D: Device>() -> Vec<Vec<f32>> {
        on_images::<D>((2, 3, 8, 7), |_, x| (flat(MaxPool2D::new(3).stride(2).padding(1).forward(x).unwrap()), vec![]))
    }
    fn average<D: Device>() -> Vec<Vec<f32>> {
        on_images::<D>((2, 3, 8, 7), |_, x| (flat(AvgPool2D::new(3).stride(2).padding(1).forward(x).unwrap()), vec![]))
    }
    assert_same(max::<Cpu>(), max::<Cuda>());
    assert_same(average::<Cpu>(), average::<Cuda>());
}

#[test]
fn linear_layers() {
    let Some(_) = double("linear_layers") else { return };
    // More rows than one chunk of the sums that the bias's gradient takes.
    fn run<D: Device>(activation: Activation, rows: usize) -> Vec<Vec<f32>> {
        let device = open::<D>();
        let x = device.tensor_from_vec(numbers(1, rows * 5), (rows, 5));
        let layer = Linear::builder(5, 37).activation(activation).bias(Init::Values(numbers(5, 37)));
        let layer = layer.build(&device).unwrap();
        let y = layer.forward(x.leaky_trace()).unwrap();
        let output = y.as_vec();
        let gradients = weighted_sum(&device, flat(y)).backward();
        let bias = gradient(&gradients, layer.bias.as_ref().unwrap());
        vec![output, gradients.get(&x).as_vec(), gradient(&gradients, &layer.weight), bias]
    }
    for activation in ACTIVATIONS {
        assert_same(run::<Cpu>(activation, 4), run::<Cuda>(activation, 4));
    }
    assert_same(run::<Cpu>(Activation::Relu, 300), run::<Cuda>(Activation::Relu, 300));
}

#[test]
fn activations_and_dropout() {
    let Some(_) = double("activations_and_dropout") else { return };
    fn run<D: Device>(activation: Activation) -> Vec<Vec<f32>> {
        let device = open::<D>();
        let x = device.tensor_from_vec(numbers(1, 300), (300,));
        let y = D::activation(x.leaky_trace(), activation).unwrap();
        let y = D::dropout(y, 12_345, 1 << 31, 2.0).unwrap();
        let output = y.as_vec();
        vec![output, weighted_sum(&device, y).backward().get(&x).as_vec()]
    }
    for activation in ACTIVATIONS {
        assert_same(run::<Cpu>(activation), run::<Cuda>(activation));
    }
}

#[test]
fn cross_entropies() {
    let Some(_) = double("cross_entropies") else { return };
    fn run<D: Device>(kind: usize) -> Vec<Vec<f32>> {
        let (rows, classes) = (6, 70);
        let device = open::<D>();
        let x = device.tensor_from_vec(numbers(1, rows * classes), (rows, classes));
        let labels = [3, 0, 69, 5, 5, 1];
        let dense = numbers(3, rows * classes).iter().map(|x| x.abs()).collect::<Vec<_>>();
        let dense = device.tensor_from_vec(dense, (rows, classes));
        let weights = numbers(4, classes).iter().map(|x| x + 2.0).collect::<Vec<_>>();
        let targets = match kind {
            0 => Targets::Sparse { labels: &labels, smoothing: 0.0, class_weights: None },
            1 => Targets::Sparse { labels: &labels, smoothing: 0.2, class_weights: Some(&weights) },
            _ => Targets::Dense(&dense),
        };
        let loss = D::cross_entropy(x.leaky_trace(), targets, &numbers(2, rows)).unwrap();
        let output = loss.as_vec();
        vec![output, weighted_sum(&device, loss).backward().get(&x).as_vec()]
    }
    for kind in 0..3 {
        assert_same(run::<Cpu>(kind), run::<Cuda>(kind));
    }
}

/// The CNN of the MNIST example, with fewer channels.
struct Cnn<D: Device> {
    conv1: ConvBlock<D>,
    conv2: ConvBlock<D>,
    dense: Linear<D>,
    logits: Linear<D>,
}

impl<D: Device> Cnn<D> {
    fn new(device: &D) -> Self {
        let conv1 = ConvBlock::builder(1, 4, 5).without_input_gradient().build(device).unwrap();
        let conv2 = ConvBlock::new(device, 4, 8, 5).unwrap();
        let dense = Linear::builder(8 * 7 * 7, 32).activation(Activation::Relu).build(device).unwrap();
        Self { conv1, conv2, dense, logits: Linear::new(device, 32, 10).unwrap() }
    }

    fn parameters(&mut self) -> [&mut Parameter<D>; 8] {
        let Self { conv1, conv2, dense, logits } = self;
        [
            &mut conv1.weight,
            conv1.bias.as_mut().unwrap(),
            &mut conv2.weight,
            conv2.bias.as_mut().unwrap(),
            &mut dense.weight,
            dense.bias.as_mut().unwrap(),
            &mut logits.weight,
            logits.bias.as_mut().unwrap(),
        ]
    }

    fn loss(&self, x: Traced<Images, D>, labels: &[usize], call: u64) -> Traced<(), D> {
        let y = self.conv2.forward(self.conv1.forward(x).unwrap()).unwrap();
        let y = self.dense.forward(y.try_reshape_like(&(labels.len(), 8 * 7 * 7)).unwrap()).unwrap();
        let y = self.logits.forward(D::dropout(y, call, 1 << 30, 4.0 / 3.0).unwrap()).unwrap();
        sparse_cross_entropy(y, labels).unwrap()
    }
}

/// Plain SGD by dfdx's kernel.
fn train<D: Device>(steps: u64, mut each: impl FnMut(u64)) -> Vec<f32> {
    let device = open::<D>();
    let mut cnn = Cnn::new(&device);
    let sgd = dfdx::tensor_ops::SgdConfig { lr: 0.05, momentum: None, weight_decay: None };
    let mut unused = Gradients::<D>::leaky();
    let labels = [3, 1, 4, 1, 5, 9, 2, 6];
    let mut losses = Vec::new();
    for step in 0..steps {
        let images = device.tensor_from_vec(numbers(1, 8 * 784), (8, 1, 28, 28));
        let loss = cnn.loss(images.leaky_trace(), &labels, step);
        losses.push(loss.retaped::<dfdx::tensor::NoneTape>());
        let mut gradients = loss.backward();
        for parameter in cnn.parameters() {
            let flat = parameter.flat();
            let velocity = unused.get_or_alloc_mut(&flat).unwrap();
            let gradient = gradients.get_or_alloc_mut(&flat).unwrap();
            // Dropped, so that nobody shares the values and the update need not copy them.
            drop(flat);
            parameter.update(|tensor| Ok(sgd.try_update(tensor, velocity, gradient)?)).unwrap();
        }
        drop((gradients, images));
        each(step);
    }
    losses.iter().map(|loss| loss.as_vec()[0]).collect()
}

#[test]
fn a_training_step_is_few_launches_and_waits_for_nothing() {
    let Some(mut log) = double("a_training_step_is_few_launches_and_waits_for_nothing") else { return };
    let mut counts = BTreeMap::new();
    let cuda = train::<Cuda>(6, |_| counts = log.counts());
    assert_same(vec![train::<Cpu>(6, |_| {})], vec![cuda.clone()]);
    assert!(cuda[5] < 0.8 * cuda[0], "the loss does not fall: {cuda:?}");

    if log.is_of_a_gpu() {
        return;
    }
    for (what, count) in &counts {
        println!("{count:4} {what}");
    }
    let of = |what: &str| counts.get(what).copied().unwrap_or(0);
    assert!(counts.keys().all(|what| !what.ends_with("(not run)")), "a kernel that the double does not know");
    let work = of("launch") + of("gemm");
    assert!(work <= 60, "{work} launches and products");
    assert_eq!((of("d2h"), of("sync")), (0, 0), "a step waits for the device");
    // The images, the labels with their weights, and dfdx's 1 to start the backward pass from.
    assert_eq!(of("h2d"), 3, "copies to the device");
    assert_eq!(of("d2d"), 0, "copies on the device");
}

#[test]
fn gradients_of_a_network() {
    let Some(_) = double("gradients_of_a_network") else { return };
    assert_same(network_gradients::<Cpu>(), network_gradients::<Cuda>());
}

#[test]
fn gradients_when_memory_is_reached_by_copies() {
    let Some(mut log) = cuda_host::double("gradients_when_memory_is_reached_by_copies", &[("DRIVER_BREAK_PROBE", "1")])
    else {
        return;
    };
    assert_same(network_gradients::<Cpu>(), network_gradients::<Cuda>());
    assert!(log.is_of_a_gpu() || log.counts()["d2d"] > 20, "nothing was copied");
}

fn network_gradients<D: Device>() -> Vec<Vec<f32>> {
    let device = open::<D>();
    let mut cnn = Cnn::new(&device);
    let images = device.tensor_from_vec(numbers(1, 8 * 784), (8, 1, 28, 28));
    let gradients = cnn.loss(images.leaky_trace(), &[3, 1, 4, 1, 5, 9, 2, 6], 5).backward();
    cnn.parameters().map(|parameter| gradient(&gradients, parameter)).into()
}
