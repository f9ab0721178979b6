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
use dfdx::shapes::{Axis, HasShape};
use dfdx::tensor::{PutTape, SplitTape, Tape, TensorFromVec, Trace, ZerosTensor};
use dfdx::tensor_ops::{Backward, ReshapeTo};
use elistimator::device::{Cpu, Cuda};
use elistimator::nn::backend::{Attention, Backend, Cell, Direction, Recurrence, Targets};
use elistimator::nn::{
    Activation, AvgPool2D, BatchNorm, Conv2D, ConvBlock, Crf, Ctc, Embedding, Gradients, Ids, Init, Layer, LayerNorm,
    Linear, Lstm, MaxPool2D, MultiHeadAttention, Network, Parameter, StepTape, Tensor, Visitor, VisitorMut,
    concatenate, sparse_cross_entropy,
};
use elistimator::optim::{
    Adagrad, Adam, Ftrl, Lamb, Optimizer, OptimizerConfig, ParameterUpdate, RmsProp, Sgd, UpdateRule,
};
use elistimator::{Device, DeviceSpec, ModelResult};

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
    for (which, values) in cpu.iter().enumerate() {
        assert!(values.iter().any(|x| *x != 0.0), "list {which} says nothing");
    }
    assert_same_or_zero(cpu, cuda);
}

/// The same where some lists are all zero by right.
#[track_caller]
fn assert_same_or_zero(cpu: Vec<Vec<f32>>, cuda: Vec<Vec<f32>>) {
    assert_eq!(cpu.len(), cuda.len());
    for (which, (cpu, cuda)) in cpu.iter().zip(&cuda).enumerate() {
        assert_eq!(cpu.len(), cuda.len());
        let scale = cpu.iter().fold(1.0f32, |scale, x| scale.max(x.abs()));
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

elistimator::network! {
    /// The CNN of the MNIST example, with fewer channels.
    struct Cnn<D> {
        conv1: ConvBlock<D>,
        conv2: ConvBlock<D>,
        dense: Linear<D>,
        logits: Linear<D>,
    }
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

/// The losses of some steps.
fn train<D: Device>(config: &OptimizerConfig, steps: u64, mut each: impl FnMut(u64)) -> Vec<f32> {
    let device = open::<D>();
    let mut cnn = Cnn::new(&device);
    let mut optimizer = Optimizer::new(config.clone());
    let labels = [3, 1, 4, 1, 5, 9, 2, 6];
    let mut losses = Vec::new();
    for step in 0..steps {
        let images = device.tensor_from_vec(numbers(1, 8 * 784), (8, 1, 28, 28));
        let loss = cnn.loss(images.leaky_trace(), &labels, step);
        losses.push(loss.retaped::<dfdx::tensor::NoneTape>());
        let mut gradients = loss.backward();
        optimizer.update(&mut cnn, &mut gradients, None).unwrap();
        drop((gradients, images));
        each(step);
    }
    losses.iter().map(|loss| loss.as_vec()[0]).collect()
}

#[test]
fn a_training_step_is_few_launches_and_waits_for_nothing() {
    let Some(mut log) = double("a_training_step_is_few_launches_and_waits_for_nothing") else { return };
    let sgd = Sgd::new(0.05).into();
    let mut counts = BTreeMap::new();
    let cuda = train::<Cuda>(&sgd, 6, |_| counts = log.counts());
    assert_same(vec![train::<Cpu>(&sgd, 6, |_| {})], vec![cuda.clone()]);
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
    assert_eq!(of("launch sgd_update"), 1, "launches of updates");
    assert_eq!(work, 33, "launches and products");
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

/// The values of two parameters, one of them larger than many blocks, after some updates with made-up gradients.
fn updated<D: Device>(config: &OptimizerConfig, keep: bool) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let layer = |seed, inputs, outputs| {
        let values = |seed, n| Init::Values(numbers(seed, n));
        let layer = Linear::builder(inputs, outputs).weights(values(seed, inputs * outputs));
        layer.bias(values(seed + 1, outputs)).build(&device).unwrap()
    };
    let mut net = (layer(3, 40, 70), layer(5, 70, 3));
    let mut optimizer = Optimizer::new(config.clone());
    let mut before = Vec::new();
    for step in 0..4 {
        let x = device.tensor_from_vec(numbers(20 + step, 2 * 40), (2, 40));
        let y = net.1.forward(net.0.forward(x.leaky_trace()).unwrap()).unwrap();
        let mut gradients = weighted_sum(&device, flat(y)).backward();
        // Someone who keeps the values does not see them change.
        let kept = keep.then(|| net.0.weight.flat());
        let values = net.0.weight.values();
        optimizer.update(&mut net, &mut gradients, None).unwrap();
        if let Some(kept) = kept {
            assert_eq!(kept.as_vec(), values);
        }
        assert_ne!(net.0.weight.values(), values);
        before.push(values);
    }
    let layers = [&net.0, &net.1];
    before.extend(layers.iter().flat_map(|layer| [layer.weight.values(), layer.bias.as_ref().unwrap().values()]));
    before.extend(optimizer.tensors(&net).unwrap().into_iter().map(|(_, _, values)| values));
    before
}

fn rules() -> [OptimizerConfig; 12] {
    [
        Sgd::new(0.1).into(),
        Sgd::new(0.1).momentum(0.9).weight_decay(0.01).into(),
        Sgd::new(0.1).momentum(0.9).nesterov(true).into(),
        Adam::new(0.01).into(),
        Adam::new(0.01).weight_decay(0.1).into(),
        OptimizerConfig::from(Adam::new(0.01).decoupled_weight_decay(0.1)).without_decay("*bias"),
        RmsProp::new(0.01).into(),
        RmsProp::new(0.01).momentum(0.5).weight_decay(0.1).into(),
        Adagrad::new(0.1).weight_decay(0.1).into(),
        Ftrl::new(0.1).l1(0.5).l2(0.1).into(),
        Lamb::new(0.01).into(),
        Lamb::new(0.01).weight_decay(0.1).into(),
    ]
}

#[test]
fn updates() {
    let Some(mut log) = double("updates") else { return };
    for config in rules() {
        let cpu = updated::<Cpu>(&config, false);
        assert_same(cpu, updated::<Cuda>(&config, false));
        let counts = log.counts();
        let launches = counts.iter().filter(|(what, _)| what.contains("launch") && what.contains("_update"));
        let launches = launches.map(|(_, count)| count).sum::<usize>();
        let groups = if config == rules()[5] { 2 } else { 1 };
        assert!(log.is_of_a_gpu() || launches == 4 * groups, "{config:?}: {counts:?}");
        let norms = ["launch lamb_moments", "launch lamb_ratios"].map(|name| counts.get(name).copied().unwrap_or(0));
        let is_lamb = counts.contains_key("launch lamb_update");
        assert!(log.is_of_a_gpu() || norms == [if is_lamb { 4 } else { 0 }; 2], "{config:?}: {counts:?}");
    }
}

/// Adagrad, with a rule of one's own.
#[derive(Debug)]
struct OwnAdagrad;

impl UpdateRule for OwnAdagrad {
    fn state(&self) -> &'static [&'static str] {
        &["sum_of_squares"]
    }

    fn update(&self, update: &mut ParameterUpdate<'_>) -> ModelResult<()> {
        let rate = update.learning_rate() as f32;
        update.each(|w, g, sum, _| {
            *sum += g * g;
            *w -= rate * g / (sum.sqrt() + 1e-10);
        });
        Ok(())
    }
}

/// On the host and back, between updates by kernels.
#[test]
fn updates_by_a_rule_of_ones_own() {
    let Some(_) = double("updates_by_a_rule_of_ones_own") else { return };
    let config = OptimizerConfig::own(0.1, OwnAdagrad).group("*bias", Adam::new(0.01));
    let cpu = updated::<Cpu>(&config, false);
    assert_same(cpu.clone(), updated::<Cuda>(&config, false));
    assert_same(cpu, updated::<Cuda>(&config, true));
}

/// Shows its layer twice.
struct Tied<D: Device>(Linear<D>);

impl<D: Device> Network<D> for Tied<D> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.network("first", &self.0)?;
        visitor.network("second", &self.0)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.network("first", &mut self.0)?;
        visitor.network("second", &mut self.0)
    }
}

/// The second update of a parameter begins where the first one ended.
#[test]
fn updates_of_a_parameter_that_is_shown_twice() {
    let Some(_) = double("updates_of_a_parameter_that_is_shown_twice") else { return };
    fn run<D: Device>(rate: f64) -> Vec<Vec<f32>> {
        let device = open::<D>();
        let layer = Linear::builder(30, 20).weights(Init::Values(numbers(1, 600))).without_bias();
        let layer = layer.build(&device).unwrap();
        let mut net = Tied(layer);
        let mut optimizer = Optimizer::new(Sgd::new(rate).into());
        for step in 0..2 {
            let x = device.tensor_from_vec(numbers(20 + step, 2 * 30), (2, 30));
            let y = net.0.forward(x.leaky_trace()).unwrap();
            let mut gradients = weighted_sum(&device, flat(y)).backward();
            optimizer.update(&mut net, &mut gradients, None).unwrap();
        }
        vec![net.0.weight.values()]
    }
    // On the CPU the gradient is used up by the first update, so it takes twice the rate there.
    assert_same(run::<Cpu>(0.2), run::<Cuda>(0.1));
}

/// The way of dfdx's own kernels.
#[test]
fn updates_of_values_that_are_shared() {
    let Some(mut log) = double("updates_of_values_that_are_shared") else { return };
    for config in &rules()[..3] {
        assert_same(updated::<Cpu>(config, true), updated::<Cuda>(config, true));
        let counts = log.counts();
        let of = |what: &str| counts.get(what).copied().unwrap_or(0);
        let what = (of("launch sgd_update_f32"), of("launch sgd_update"));
        assert!(log.is_of_a_gpu() || what == (4, 4), "{counts:?}");
    }
}

fn layer_norm<D: Device>((rows, size): (usize, usize)) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let mut layer = LayerNorm::new(&device, size).unwrap();
    layer.weight.set_values(&numbers(5, size)).unwrap();
    layer.bias.set_values(&numbers(6, size)).unwrap();
    let x = device.tensor_from_vec(numbers(1, rows * size), (rows, size));
    let y = layer.forward(x.leaky_trace()).unwrap();
    let output = y.as_vec();
    let gradients = weighted_sum(&device, flat(y)).backward();
    vec![output, gradients.get(&x).as_vec(), gradient(&gradients, &layer.weight), gradient(&gradients, &layer.bias)]
}

#[test]
fn layer_norms() {
    let Some(mut log) = double("layer_norms") else { return };
    // More rows than one chunk of the sums that the parameters' gradients take; more columns than threads of a block.
    for shape in [(7, 40), (3, 300), (300, 33)] {
        assert_same(layer_norm::<Cpu>(shape), layer_norm::<Cuda>(shape));
    }
    let counts = log.counts();
    let of = |what: &str| counts.get(what).copied().unwrap_or(0);
    let launches =
        ["layer_norm", "layer_norm_backward", "layer_norm_parameters"].map(|name| of(&format!("launch {name}")));
    assert!(log.is_of_a_gpu() || launches == [3, 3, 3], "{counts:?}");
}

fn embedding<D: Device>(size: usize) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let table = Embedding::builder(9, size).weights(Init::Values(numbers(2, 9 * size))).padding(4);
    let table = table.build(&device).unwrap();
    let ids = Ids::new(vec![3, 8, 3, 4, 0, 3, 4, 8], (2, 4)).unwrap();
    let y = table.forward(ids.traced(StepTape::<D>::default())).unwrap();
    let output = y.as_vec();
    let gradients = weighted_sum(&device, flat(y)).backward();
    let untraced = table.forward(Ids::new(vec![4, 8], (2,)).unwrap()).unwrap().as_vec();
    assert!(table.forward(Ids::new(vec![4, 9], (2,)).unwrap()).is_err());
    assert!(D::READS_ARE_FREE || D::embedding(&table.weight, vec![9], None, dfdx::tensor::NoneTape).is_err());
    vec![output, gradient(&gradients, &table.weight), untraced]
}

fn bags<D: Device>(size: usize) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let table = Parameter::from_vec(&device, &[9, size], numbers(2, 9 * size)).unwrap();
    let (ids, sizes, factors) = (vec![3, 8, 3, 0, 5, 3], vec![2, 0, 3, 1], numbers(4, 6));
    let y = D::embedding_bag(&table, ids, sizes, factors, StepTape::<D>::default()).unwrap();
    let output = y.as_vec();
    let gradients = weighted_sum(&device, flat(y)).backward();
    vec![output, gradient(&gradients, &table)]
}

#[test]
fn bags_of_embeddings() {
    let Some(mut log) = double("bags_of_embeddings") else { return };
    for size in [5, 300] {
        assert_same(bags::<Cpu>(size), bags::<Cuda>(size));
    }
    assert!(log.counts().keys().all(|what| !what.ends_with("(not run)")), "a kernel that the double does not know");
}

#[test]
fn embeddings() {
    let Some(mut log) = double("embeddings") else { return };
    for size in [5, 300] {
        assert_same(embedding::<Cpu>(size), embedding::<Cuda>(size));
    }
    let counts = log.counts();
    let of = |what: &str| counts.get(what).copied().unwrap_or(0);
    let launches = ["embedding", "embedding_backward"].map(|name| of(&format!("launch {name}")));
    assert!(log.is_of_a_gpu() || launches == [4, 2], "{counts:?}");
}

/// The logits of a language model whose output is tied to its table.
fn tied_logits<D: Device>() -> Vec<Vec<f32>> {
    let device = open::<D>();
    let table = Embedding::builder(9, 5).weights(Init::Values(numbers(2, 45))).build(&device).unwrap();
    let ids = Ids::new(vec![3, 8, 3, 4, 0, 3], (2, 3)).unwrap();
    let y = table.logits(table.forward(ids.traced(StepTape::<D>::default())).unwrap()).unwrap();
    assert_eq!(y.shape(), &(2, 3, 9));
    let output = y.as_vec();
    let gradients = weighted_sum(&device, flat(y)).backward();
    vec![output, gradient(&gradients, &table.weight)]
}

#[test]
fn tied_output_layers() {
    let Some(_) = double("tied_output_layers") else { return };
    assert_same(tied_logits::<Cpu>(), tied_logits::<Cuda>());
}

/// Sums of all values, of rows and over the middle axis, each with its gradient.
fn sums<D: Device>((outer, length, inner): (usize, usize, usize)) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let values = numbers(3, outer * length * inner).iter().map(|x| x + 0.5).collect::<Vec<_>>();
    let x: Tensor<(usize, usize, usize), D> = device.tensor_from_vec(values, (outer, length, inner));
    let mut all = Vec::new();
    let mut keep = |y: Tensor<(usize,), D, _>| {
        all.push(y.as_vec());
        all.push(weighted_sum(&device, y).backward().get(&x).as_vec());
    };
    keep(flat(D::middle_sums(x.leaky_trace()).unwrap()));
    keep(D::row_sums(x.leaky_trace().try_reshape_like(&(outer * length, inner)).unwrap()).unwrap());
    let all_values = x.leaky_trace().try_reshape_like(&(outer * length * inner,)).unwrap();
    keep(D::sum(all_values).unwrap().try_reshape_like(&(1,)).unwrap());
    all
}

#[test]
fn sums_of_all_of_rows_and_over_the_middle() {
    let Some(mut log) = double("sums_of_all_of_rows_and_over_the_middle") else { return };
    // More values than one block adds up, in parts of which the last is shorter.
    for shape in [(3, 5, 7), (5, 30, 700), (1, 1, 1)] {
        assert_same(sums::<Cpu>(shape), sums::<Cuda>(shape));
        // dfdx's own would add up its blocks in any order.
        assert!(!log.counts().keys().any(|what| what.contains("sum_to")), "{shape:?}");
    }
}

/// Three tensors joined along the channels, one of them twice, with all gradients.
fn joined<D: Device>(channels: [usize; 3]) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let shape = |channels: usize| (2, channels, 5, 7);
    let images: Vec<Tensor<Images, D>> = channels
        .iter()
        .zip(1..)
        .map(|(count, seed)| device.tensor_from_vec(numbers(seed, 70 * count), shape(*count)))
        .collect();
    let [a, b, c] = [0, 1, 2].map(|at| images[at].leaky_trace());
    let y = concatenate((a, b, c, images[0].leaky_trace()), Axis::<1>).unwrap();
    assert_eq!(y.shape(), &shape(channels.iter().sum::<usize>() + channels[0]));
    let output = y.as_vec();
    let gradients = weighted_sum(&device, flat(y)).backward();
    let mut all = vec![output];
    all.extend(images.iter().filter(|x| x.shape().1 > 0).map(|x| gradients.get(x).as_vec()));
    all
}

#[test]
fn joined_tensors() {
    let Some(mut log) = double("joined_tensors") else { return };
    for channels in [[3, 1, 4], [1, 0, 40]] {
        assert_same(joined::<Cpu>(channels), joined::<Cuda>(channels));
    }
    let counts = log.counts();
    let of = |what: &str| counts.get(what).copied().unwrap_or(0);
    let launches = ["join_columns", "join_columns_backward"].map(|name| of(&format!("launch {name}")));
    // One for each tensor that is not empty.
    assert!(log.is_of_a_gpu() || launches == [7, 7], "{counts:?}");
    let device = open::<Cuda>();
    let empty: Tensor<(usize, usize), Cuda> = device.tensor_from_vec(vec![], (0, 3));
    assert_eq!(concatenate([empty.clone(), empty], Axis::<1>).unwrap().shape(), &(0, 6));
    let rows = |rows: usize| device.tensor_from_vec(numbers(1, 2 * rows), (rows, 2));
    assert!(Cuda::concatenate(vec![rows(2), rows(3)]).is_err());
}

/// Losses of connectionist temporal classification, and the gradient.
fn ctc<D: Device>(lengths: &[usize], classes: usize) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let length = lengths.iter().copied().max().unwrap();
    let targets: Vec<Vec<usize>> = lengths.iter().map(|steps| (0..steps / 2).map(|i| 1 + i % 2).collect()).collect();
    let ctc = Ctc::new().lengths(lengths);
    let x = device.tensor_from_vec(numbers(4, lengths.len() * length * classes), (lengths.len(), length, classes));
    let untraced = ctc.per_example(x.clone(), &targets).unwrap().as_vec();
    let y = ctc.per_example(x.leaky_trace(), &targets).unwrap();
    let output = y.as_vec();
    assert_eq!(output, untraced);
    let gradients = weighted_sum(&device, y).backward();
    let mean = ctc.mean(x.clone(), &targets).unwrap().as_vec();
    let found = ctc.beam_search(&x, 5).unwrap();
    vec![output, gradients.get(&x).as_vec(), mean, found.iter().map(|found| found[0].log_probability).collect()]
}

#[test]
fn temporal_classification() {
    let Some(mut log) = double("temporal_classification") else { return };
    for (lengths, classes) in [(&[6, 0, 1, 4][..], 5), (&[3, 2], 3), (&[300], 40)] {
        assert_same(ctc::<Cpu>(lengths, classes), ctc::<Cuda>(lengths, classes));
        let counts = log.counts();
        let of = |what: &str| counts.get(what).copied().unwrap_or(0);
        assert!(log.is_of_a_gpu() || of("launch ctc_backward") == 1, "{counts:?}");
    }
}

/// What one training step of it asks of the device: the logits are read, and come back as losses and slopes.
#[test]
fn a_step_of_temporal_classification_reads_the_logits_once() {
    let Some(mut log) = double("a_step_of_temporal_classification_reads_the_logits_once") else { return };
    let device = open::<Cuda>();
    let x = device.tensor_from_vec(numbers(1, 2 * 5 * 4), (2, 5, 4));
    log.counts();
    let loss = Ctc::new().mean(x.leaky_trace(), &[vec![1, 1, 3], vec![2]]).unwrap();
    let gradients = loss.backward();
    let counts = log.counts();
    drop(gradients);
    if log.is_of_a_gpu() {
        return;
    }
    let of = |what: &str| counts.get(what).copied().unwrap_or(0);
    // The slopes both by the logits and by the losses, and the sum.
    assert_eq!((of("launch"), of("gemm")), (3, 0), "{counts:?}");
    // Losses, slopes, and dfdx's 1 to start the backward pass from.
    assert_eq!((of("h2d"), of("d2h"), of("d2d")), (3, 1, 0), "{counts:?}");
}

/// Losses of a conditional random field, and all gradients.
fn crf<D: Device>(lengths: &[usize], length: usize, count: usize) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let mut layer = Crf::new(&device, count).unwrap();
    layer.transitions.set_values(&numbers(1, count * count)).unwrap();
    layer.start.set_values(&numbers(2, count)).unwrap();
    layer.end.set_values(&numbers(3, count)).unwrap();
    let n = lengths.len() * length;
    // Long sequences have large losses; tags after an end may be anything.
    let tags = (0..n).map(|i| if i % length < lengths[i / length] { (7 * i + i * i) % count } else { usize::MAX });
    let tags = tags.collect::<Vec<_>>();
    let x = device.tensor_from_vec(numbers(4, n * count), (lengths.len(), length, count));
    let untraced = layer.negative_log_likelihood(x.clone(), &tags, lengths).unwrap().as_vec();
    let y = layer.negative_log_likelihood(x.leaky_trace(), &tags, lengths).unwrap();
    let output = y.as_vec();
    assert_eq!(output, untraced);
    let gradients = weighted_sum(&device, y).backward();
    let parameters = [&layer.transitions, &layer.start, &layer.end];
    let mut all = vec![output, gradients.get(&x).as_vec()];
    all.extend(parameters.map(|parameter| gradient(&gradients, parameter)));
    all
}

#[test]
fn conditional_random_fields() {
    let Some(mut log) = double("conditional_random_fields") else { return };
    // One tag; a sequence of one step, and of none; more tags than threads of a block; more sequences than chunks.
    let many = (0..300).map(|i| i % 4).collect::<Vec<_>>();
    for (lengths, length, count) in
        [(&[6, 0, 1, 4][..], 6, 9), (&[2, 3], 3, 1), (&[400], 400, 5), (&[3, 2], 3, 301), (&many, 3, 4)]
    {
        let cpu = crf::<Cpu>(lengths, length, count);
        let cuda = crf::<Cuda>(lengths, length, count);
        let counts = log.counts();
        if count == 1 {
            // There is but one path.
            assert_same_or_zero(cpu, cuda);
        } else {
            assert_same(cpu, cuda);
        }
        let of = |what: &str| counts.get(what).copied().unwrap_or(0);
        let kernels = ["crf", "crf_backward", "crf_transitions", "crf_parameters"];
        let launches = kernels.map(|name| of(&format!("launch {name}")));
        assert!(log.is_of_a_gpu() || launches == [2, 1, 1, 1], "{counts:?}");
    }
}

/// What one training step of a conditional random field asks of the device.
#[test]
fn a_step_of_a_conditional_random_field_is_few_launches() {
    let Some(mut log) = double("a_step_of_a_conditional_random_field_is_few_launches") else { return };
    let device = open::<Cuda>();
    let layer = Crf::new(&device, 7).unwrap();
    for length in [3, 30] {
        let tags = vec![2; 4 * length];
        let x = device.tensor_from_vec(numbers(1, 4 * length * 7), (4, length, 7));
        log.counts();
        let loss = layer.negative_log_likelihood(x.leaky_trace(), &tags, &[length, 1, 0, 2]).unwrap();
        let gradients = Cuda::sum(loss).unwrap().backward();
        let counts = log.counts();
        drop(gradients);
        if log.is_of_a_gpu() {
            return;
        }
        let of = |what: &str| counts.get(what).copied().unwrap_or(0);
        // One forward, three backward, and the loss of one each way.
        assert_eq!((of("launch"), of("gemm")), (6, 0), "{counts:?}");
        // The lengths with the tags, and dfdx's 1 to start the backward pass from.
        assert_eq!((of("h2d"), of("d2h"), of("d2d"), of("sync")), (2, 0, 0, 0), "{counts:?}");
    }
}

/// Kernels read as far as the layers' sizes say, and parameters are anybody's to replace.
#[test]
fn parameters_and_targets_of_other_sizes_are_errors() {
    let Some(mut log) = double("parameters_and_targets_of_other_sizes_are_errors") else { return };
    let device = open::<Cuda>();
    let parameter = |dims: &[usize]| {
        let len = dims.iter().product();
        Parameter::from_vec(&device, dims, vec![0.5; len]).unwrap()
    };
    let rows = device.tensor_from_vec(numbers(1, 12), (4, 3));
    let images = device.tensor_from_vec(numbers(1, 2 * 4 * 36), (2, 4, 6, 6));

    let mut linear = Linear::new(&device, 3, 5).unwrap();
    linear.weight = parameter(&[5, 2]);
    let mut biased = Linear::new(&device, 3, 5).unwrap();
    biased.bias = Some(parameter(&[4]));
    let mut conv = Conv2D::builder(4, 6, 3).groups(2).build(&device).unwrap();
    conv.weight = parameter(&[6, 1, 3, 3]);
    let mut block = ConvBlock::new(&device, 4, 6, 3).unwrap();
    block.bias = Some(parameter(&[5]));
    let mut table = Embedding::new(&device, 7, 3).unwrap();
    let other = device.tensor_from_vec(vec![0.5; 6], (6,));
    let replace = |tensor: &mut Tensor<(usize,), Cuda>| {
        *tensor = other;
        Ok(())
    };
    table.weight.update(replace).unwrap_err();
    log.counts();
    let errors = [
        linear.forward(rows.clone()).map(|_| ()),
        biased.forward(rows.clone()).map(|_| ()),
        conv.forward(images.clone()).map(|_| ()),
        block.forward(images.clone()).map(|_| ()),
        table.forward(Ids::new(vec![6, 0], (2,)).unwrap()).map(|_| ()),
        Cuda::cross_entropy(rows.clone(), sparse(&[0, 1, 2], None), &[1.0; 4]).map(|_| ()),
        Cuda::cross_entropy(rows.clone(), sparse(&[0, 1, 2, 3], None), &[1.0; 4]).map(|_| ()),
        Cuda::cross_entropy(rows.clone(), sparse(&[0, 1, 2, 0], Some(&[1.0; 2])), &[1.0; 4]).map(|_| ()),
        Cuda::cross_entropy(rows.clone(), sparse(&[0, 1, 2, 0], None), &[1.0; 3]).map(|_| ()),
    ];
    for (number, result) in errors.into_iter().enumerate() {
        let error = result.expect_err(&format!("number {number} is no error"));
        assert!(format!("{error:?}").contains("found"), "{number}: {error:?}");
    }
    assert_eq!(log.counts().get("launch"), None, "something was launched");
    Cuda::cross_entropy(rows, sparse(&[0, 1, 2, 0], None), &[1.0; 4]).unwrap();
}

fn sparse<'a>(labels: &'a [usize], class_weights: Option<&'a [f32]>) -> Targets<'a, Cuda> {
    Targets::Sparse { labels, smoothing: 0.0, class_weights }
}

/// What attention gives, and the gradients of queries, keys and values.
fn attention<D: Device>((queries, keys): (usize, usize), attention: &Attention<'_>) -> Vec<Vec<f32>> {
    let (batch, size) = (3, 12);
    let device = open::<D>();
    let tensor = |seed, length| {
        let values = numbers(seed, batch * length * size).iter().map(|x| 2.0 * x).collect::<Vec<_>>();
        device.tensor_from_vec(values, (batch, length, size))
    };
    let (q, k, v) = (tensor(1, queries), tensor(2, keys), tensor(3, keys));
    let untraced = D::attention(q.clone(), k.clone(), v.clone(), attention).unwrap().as_vec();
    // Each with a tape of its own.
    let y = D::attention(q.leaky_trace(), k.leaky_trace(), v.leaky_trace(), attention).unwrap();
    let output = y.as_vec();
    assert_eq!(output, untraced);
    let gradients = weighted_sum(&device, flat(y)).backward();
    let mut all = vec![output];
    all.extend([q, k, v].map(|x| gradients.get(&x).as_vec()));
    all
}

/// The same where one tensor is queries, keys and values.
fn self_attention<D: Device>(heads: usize) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let x: Tensor<_, D> = device.tensor_from_vec(numbers(1, 2 * 5 * 6), (2, 5, 6));
    let (traced, tape) = x.leaky_trace().split_tape();
    let attention = Attention { heads, lengths: None, causal: true, dropout: None };
    let y = D::attention(traced.retaped(), traced.retaped(), traced.put_tape(tape), &attention).unwrap();
    let output = y.as_vec();
    let gradients = weighted_sum(&device, flat(y)).backward();
    vec![output, gradients.get(&x).as_vec()]
}

#[test]
fn attentions() {
    let Some(mut log) = double("attentions") else { return };
    let dropout = Some((12_345, 1 << 30, 4.0 / 3.0));
    // Fewer keys than threads of a block, and more; a sequence without keys; heads of one value.
    for (shape, heads, lengths, causal, dropout) in [
        ((5, 7), 3, Some(&[7, 0, 4][..]), false, None),
        ((6, 6), 4, Some(&[2, 6, 5][..]), true, dropout),
        ((4, 300), 1, None, false, dropout),
        ((9, 3), 12, Some(&[3, 1, 2][..]), true, None),
    ] {
        let case = Attention { heads, lengths, causal, dropout };
        let cpu = attention::<Cpu>(shape, &case);
        assert_same(cpu, attention::<Cuda>(shape, &case));
        let counts = log.counts();
        let of = |what: &str| counts.get(what).copied().unwrap_or(0);
        let kernels = ["matrices", "attention_weights", "attention_weights_backward"];
        let launches = kernels.map(|name| of(&format!("launch {name}")));
        assert!(log.is_of_a_gpu() || launches == [3, 2, 1], "{counts:?}");
        assert!(counts.keys().all(|what| !what.ends_with("(not run)")), "a kernel that the double does not know");
    }
    for heads in [1, 2, 3] {
        assert_same(self_attention::<Cpu>(heads), self_attention::<Cuda>(heads));
    }
    // Without keys.
    let device = open::<Cuda>();
    let (x, none) = (device.tensor_from_vec(numbers(1, 12), (1, 2, 6)), device.zeros_like(&(1, 0, 6)));
    let case = Attention { heads: 2, lengths: None, causal: false, dropout: None };
    let y = Cuda::attention(x.leaky_trace(), none.clone().retaped(), none.retaped(), &case).unwrap();
    assert_eq!(y.as_vec(), [0.0; 12]);
    assert_eq!(weighted_sum(&device, flat(y)).backward().get(&x).as_vec(), [0.0; 12]);
}

/// Nothing is launched over an empty grid, which a driver refuses.
#[test]
fn batches_of_nothing() {
    let Some(mut log) = double("batches_of_nothing") else { return };
    let device = open::<Cuda>();
    let rows: Tensor<(usize, usize), Cuda> = device.zeros_like(&(0, 3));
    let losses = Cuda::cross_entropy(rows.leaky_trace(), sparse(&[], None), &[]).unwrap();
    Cuda::sum(losses).unwrap().backward();
    let sequences: Tensor<(usize, usize, usize), Cuda> = device.zeros_like(&(0, 4, 5));
    let crf = Crf::new(&device, 5).unwrap();
    Cuda::sum(crf.negative_log_likelihood(sequences.leaky_trace(), &[], &[]).unwrap()).unwrap().backward();
    let table = Embedding::new(&device, 7, 3).unwrap();
    let rows = table.forward(Ids::new(vec![], (0,)).unwrap().traced(StepTape::<Cuda>::default())).unwrap();
    Cuda::sum(flat(rows)).unwrap().backward();
    assert!(log.is_of_a_gpu() || log.counts().keys().all(|what| !what.ends_with("(not run)")));
}

#[test]
fn a_step_of_attention_is_few_launches() {
    let Some(mut log) = double("a_step_of_attention_is_few_launches") else { return };
    let device = open::<Cuda>();
    let layer = MultiHeadAttention::new(&device, 8, 4).unwrap().causal();
    for batch in [2, 9] {
        let x = device.tensor_from_vec(numbers(1, batch * 5 * 8), (batch, 5, 8));
        log.counts();
        let lengths = vec![3; batch];
        let y = layer.forward((x.leaky_trace(), &lengths[..])).unwrap();
        let gradients = Cuda::sum(flat(y)).unwrap().backward();
        let counts = log.counts();
        drop(gradients);
        if log.is_of_a_gpu() {
            return;
        }
        let of = |what: &str| counts.get(what).copied().unwrap_or(0);
        let kernels = ["matrices", "attention_weights", "attention_weights_backward"];
        assert_eq!(kernels.map(|name| of(&format!("launch {name}"))), [2, 1, 1], "{counts:?}");
        // Two products forward and four backward; four layers with one and two; each with a bias and its sum, and the loss.
        assert_eq!((of("gemm"), of("launch")), (6 + 4 * 3, 4 + 4 * 2 + 2), "{counts:?}");
        // The lengths, and dfdx's 1 to start the backward pass from.
        assert_eq!((of("h2d"), of("d2h"), of("d2d"), of("sync")), (2, 0, 0, 0), "{counts:?}");
    }
}

/// Outputs, running statistics and all gradients of batch normalisation, and what it gives in evaluation.
fn batch_norm<D: Device>(batch: usize, channels: usize, pixels: usize) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let mut layer = BatchNorm::new(&device, channels).unwrap().epsilon(1e-3);
    layer.weight.set_values(&numbers(5, channels)).unwrap();
    layer.bias.set_values(&numbers(6, channels)).unwrap();
    // Channels far from 0.
    let values = numbers(1, batch * channels * pixels);
    let values = values.iter().enumerate().map(|(i, x)| x + (i / pixels % channels % 5) as f32).collect::<Vec<_>>();
    let x = device.tensor_from_vec(values, (batch, channels, pixels));
    let y = layer.forward(x.leaky_trace()).unwrap();
    let output = y.as_vec();
    let gradients = weighted_sum(&device, flat(y)).backward();
    let mut all = vec![output, gradients.get(&x).as_vec(), gradient(&gradients, &layer.bias)];
    all.push(gradient(&gradients, &layer.weight));
    all.push(layer.forward(x.clone()).unwrap().as_vec());

    // With statistics that are given, there are gradients too.
    let given = |seed| device.tensor_from_vec(numbers(seed, channels).iter().map(|x| x + 2.0).collect(), (channels,));
    let statistics = Some((given(7), given(8)));
    let (y, mean, variance) = D::batch_norm(x.leaky_trace(), &layer.weight, &layer.bias, 1e-3, statistics).unwrap();
    all.extend([y.as_vec(), mean.as_vec(), variance.as_vec()]);
    let gradients = weighted_sum(&device, flat(y)).backward();
    all.extend([gradients.get(&x).as_vec(), gradient(&gradients, &layer.weight), gradient(&gradients, &layer.bias)]);
    all
}

#[test]
fn batch_norms() {
    let Some(mut log) = double("batch_norms") else { return };
    // Rows without pixels; a channel in several parts; planes.
    for (batch, channels, pixels) in [(7, 300, 1), (5, 2, 997), (3, 5, 6)] {
        let cpu = batch_norm::<Cpu>(batch, channels, pixels);
        assert_same(cpu, batch_norm::<Cuda>(batch, channels, pixels));
        let counts = log.counts();
        let of = |what: &str| counts.get(what).copied().unwrap_or(0);
        let forward = ["channel_moments", "channel_statistics", "batch_norm"];
        let backward = ["batch_norm_sums", "batch_norm_parameters", "batch_norm_backward"];
        let launches = forward.map(|name| of(&format!("launch {name}")));
        assert!(log.is_of_a_gpu() || launches == [1, 1, 3], "{counts:?}");
        let launches = backward.map(|name| of(&format!("launch {name}")));
        assert!(log.is_of_a_gpu() || launches == [2, 2, 2], "{counts:?}");
    }
}

#[derive(Clone, Copy)]
struct RecurrentCase {
    cell: Cell,
    directions: usize,
    has_initial: bool,
    lengths: [usize; 3],
}

/// Outputs, last states and all gradients of a recurrent layer over a padded batch.
fn recurrent<D: Device>(case: RecurrentCase, trace: bool) -> Vec<Vec<f32>> {
    let RecurrentCase { cell, directions, has_initial, lengths } = case;
    let (batch, length, inputs, hidden) = (3, 5, 4, 6);
    let device = open::<D>();
    let gates = cell.gates() * hidden;
    let parameter =
        |seed, dims: &[usize]| Parameter::from_vec(&device, dims, numbers(seed, dims.iter().product())).unwrap();
    let weights: Vec<_> = (0..directions as u64)
        .map(|number| {
            let seed = 10 * number;
            let bias_hn = (cell == Cell::Gru).then(|| parameter(seed + 4, &[hidden]));
            let [ih, hh, bias] = [vec![gates, inputs], vec![gates, hidden], vec![gates]];
            (parameter(seed + 1, &ih), parameter(seed + 2, &hh), parameter(seed + 3, &bias), bias_hn)
        })
        .collect();
    let all: Vec<Direction<'_, D>> = weights
        .iter()
        .enumerate()
        .map(|(number, (weight_ih, weight_hh, bias, bias_hn))| Direction {
            weight_ih,
            weight_hh,
            bias,
            bias_hn: bias_hn.as_ref(),
            backward: number == 1,
        })
        .collect();
    let state = |seed| device.tensor_from_vec(numbers(seed, batch * hidden), (batch, hidden));
    let initial: Vec<_> = (0..directions as u64)
        .filter(|_| has_initial)
        .map(|number| (state(50 + number), (cell == Cell::Lstm).then(|| state(60 + number))))
        .collect();
    let x = device.tensor_from_vec(numbers(99, batch * length * inputs), (batch, length, inputs));
    let recurrence = Recurrence { cell, hidden, lengths: &lengths, input_gradient: true };
    if !trace {
        let run = D::recurrent(x, &all, initial, &recurrence).unwrap();
        let mut values = vec![run.outputs.as_vec()];
        for (h, c) in run.states {
            values.push(h.as_vec());
            values.extend(c.map(|c| c.as_vec()));
        }
        return values;
    }
    // The gradients of each tensor that comes out of it, one after another.
    let mut values = Vec::new();
    for which in 0..1 + directions * if cell == Cell::Lstm { 2 } else { 1 } {
        let run = D::recurrent(x.leaky_trace(), &all, initial.clone(), &recurrence).unwrap();
        let (outputs, tape) = run.outputs.split_tape();
        let states = run.states.into_iter().flat_map(|(h, c)| [Some(h), c]).flatten().map(flat);
        let loss = [flat(outputs)].into_iter().chain(states).nth(which).unwrap();
        values.push(loss.as_vec());
        let gradients = weighted_sum(&device, loss.put_tape(tape)).backward();
        values.push(gradients.get(&x).as_vec());
        for (ih, hh, bias, bias_hn) in &weights {
            values.extend([ih, hh, bias].map(|parameter| gradient(&gradients, parameter)));
            values.extend(bias_hn.as_ref().map(|parameter| gradient(&gradients, parameter)));
        }
        for (h, c) in &initial {
            values.push(gradients.get(h).as_vec());
            values.extend(c.as_ref().map(|c| gradients.get(c).as_vec()));
        }
    }
    values
}

fn recurrent_cases() -> Vec<RecurrentCase> {
    let mut cases = Vec::new();
    for cell in [Cell::Lstm, Cell::Gru] {
        for (directions, has_initial, lengths) in
            [(1, false, [5, 2, 4]), (2, true, [3, 0, 4]), (2, false, [5, 5, 5]), (1, true, [1, 0, 0])]
        {
            cases.push(RecurrentCase { cell, directions, has_initial, lengths });
        }
    }
    cases
}

#[test]
fn recurrent_layers() {
    let Some(mut log) = double("recurrent_layers") else { return };
    for case in recurrent_cases() {
        assert_same_or_zero(recurrent::<Cpu>(case, true), recurrent::<Cuda>(case, true));
        assert_same(recurrent::<Cpu>(case, false), recurrent::<Cuda>(case, false));
    }
    assert!(log.counts().keys().all(|what| !what.ends_with("(not run)")), "a kernel that the double does not know");
}

/// What one training step of an LSTM over sequences of this length asks of the device, with its update.
fn lstm_step_counts<D: Device>(log: &mut Log, length: usize) -> BTreeMap<String, usize> {
    let device = open::<D>();
    let mut lstm = Lstm::builder(5, 8).build(&device).unwrap();
    let mut optimizer = Optimizer::new(Adam::new(0.01).into());
    let lengths = [length, length - 2, 1];
    let mut counts = BTreeMap::new();
    for _ in 0..3 {
        let x = device.tensor_from_vec(numbers(1, 3 * length * 5), (3, length, 5));
        let y = lstm.run(x.leaky_trace(), &lengths, None).unwrap().outputs;
        // A loss of one launch each way.
        let loss = D::sum(flat(y)).unwrap();
        let mut gradients = loss.backward();
        optimizer.update(&mut lstm, &mut gradients, None).unwrap();
        drop((gradients, x));
        counts = log.counts();
    }
    counts
}

#[test]
fn a_step_of_an_lstm_is_few_launches() {
    let Some(mut log) = double("a_step_of_an_lstm_is_few_launches") else { return };
    let [short, long] = [10, 20].map(|length| lstm_step_counts::<Cuda>(&mut log, length));
    if log.is_of_a_gpu() {
        return;
    }
    for (what, count) in &long {
        println!("{count:4} {what}");
    }
    let of = |counts: &BTreeMap<String, usize>, what: &str| counts.get(what).copied().unwrap_or(0);
    let work = |counts| of(counts, "launch") + of(counts, "gemm");
    assert!(long.keys().all(|what| !what.ends_with("(not run)")), "a kernel that the double does not know");
    // A product and a kernel each way; before there were kernels for it, 35 launches and 31 copies.
    assert_eq!(work(&long) - work(&short), 10 * 4, "launches and products for ten more steps of a sequence");
    // Without initial states, the first step has no product with them in either way. Outside the steps there are four
    // products (with the input, and for three gradients), the sums of the bias, the loss both ways, and the update.
    assert_eq!(work(&short), 10 * 4 - 2 + 8, "launches and products");
    for counts in [&short, &long] {
        // The input, the lengths, and dfdx's 1 to start the backward pass from.
        assert_eq!(of(counts, "h2d"), 3, "copies to the device");
        assert_eq!((of(counts, "d2h"), of(counts, "sync"), of(counts, "d2d")), (0, 0, 0), "waits, or copies");
    }
}

/// A gradient after each kind of arithmetic, and its sum of squares.
fn on_gradients<D: Device>(len: usize) -> Vec<Vec<f32>> {
    let device = open::<D>();
    let parameter = Parameter::from_vec(&device, &[len], vec![1.0; len]).unwrap();
    let traced = parameter.flat().leaky_trace();
    let mut gradients = weighted_sum(&device, traced).backward();
    let mut sum = Gradients::<D>::leaky();
    let squares = D::square_sum(&parameter, &mut gradients).unwrap().as_vec();
    D::clip_value(&parameter, &mut gradients, 0.5).unwrap();
    let clipped = gradient(&gradients, &parameter);
    assert!(clipped.contains(&0.5) && clipped.contains(&-0.5));
    D::scale(&parameter, &mut gradients, &device.tensor_from_vec(vec![0.3], ())).unwrap();
    let scaled = gradient(&gradients, &parameter);
    for weight in [0.25, -2.0] {
        D::add(&parameter, &mut sum, &mut gradients, weight).unwrap();
    }
    vec![squares, clipped, scaled, gradient(&sum, &parameter)]
}

#[test]
fn arithmetic_on_gradients() {
    let Some(mut log) = double("arithmetic_on_gradients") else { return };
    // Less than a block of the sum, and many.
    for len in [70, 5000] {
        assert_same(on_gradients::<Cpu>(len), on_gradients::<Cuda>(len));
    }
    assert!(log.counts().keys().all(|what| !what.ends_with("(not run)")), "a kernel that the double does not know");
}

/// All operations that have kernels, where tensors' memory is reached by copies.
#[test]
fn operations_when_memory_is_reached_by_copies() {
    let Some(mut log) =
        cuda_host::double("operations_when_memory_is_reached_by_copies", &[("DRIVER_BREAK_PROBE", "1")])
    else {
        return;
    };
    for case in recurrent_cases() {
        assert_same_or_zero(recurrent::<Cpu>(case, true), recurrent::<Cuda>(case, true));
    }
    assert_same(layer_norm::<Cpu>((7, 40)), layer_norm::<Cuda>((7, 40)));
    let case = Attention { heads: 3, lengths: Some(&[7, 0, 4]), causal: true, dropout: Some((5, 1 << 30, 1.5)) };
    assert_same(attention::<Cpu>((5, 7), &case), attention::<Cuda>((5, 7), &case));
    assert_same(batch_norm::<Cpu>(5, 3, 7), batch_norm::<Cuda>(5, 3, 7));
    assert_same(crf::<Cpu>(&[3, 0, 2], 3, 5), crf::<Cuda>(&[3, 0, 2], 3, 5));
    assert_same(joined::<Cpu>([3, 1, 4]), joined::<Cuda>([3, 1, 4]));
    assert_same(ctc::<Cpu>(&[5, 4], 4), ctc::<Cuda>(&[5, 4], 4));
    assert_same(embedding::<Cpu>(5), embedding::<Cuda>(5));
    assert_same(bags::<Cpu>(5), bags::<Cuda>(5));
    assert_same(on_gradients::<Cpu>(70), on_gradients::<Cuda>(70));
    for config in &rules()[..3] {
        assert_same(updated::<Cpu>(config, false), updated::<Cuda>(config, false));
    }
    let counts = log.counts();
    let of = |what: &str| counts.get(what).copied().unwrap_or(0);
    assert!(log.is_of_a_gpu() || of("d2d") > 20, "nothing was copied");
    assert_eq!(of("launch sgd_update"), 0, "values were written where they are not");
}
