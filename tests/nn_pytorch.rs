//! Layers against what PyTorch computes; `tests/data/nn_pytorch.py` wrote the values.
#![allow(clippy::unwrap_used)]

mod nn_support;

use std::collections::BTreeMap;

use dfdx::shapes::Shape;
use dfdx::tensor_ops::ReshapeTo;
use elistimator::ModelResult;
use elistimator::device::Cpu;
use elistimator::nn::{
    Activation, AvgPool2D, BatchNorm, BiGru, BiLstm, Conv1D, Conv2D, CrossEntropy, Layer, LayerNorm, Linear, Loss,
    MaxPool2D, MultiHeadAttention, Network, NormPosition, Padding, TransformerBlock,
};
use nn_support::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    shape: Vec<usize>,
    x: Vec<f32>,
    y: Vec<f32>,
    dx: Vec<f32>,
    parameters: BTreeMap<String, Vec<f32>>,
    gradients: BTreeMap<String, Vec<f32>>,
    #[serde(default)]
    lengths: Vec<usize>,
    #[serde(default)]
    labels: Vec<usize>,
    #[serde(default)]
    targets: Vec<f32>,
    #[serde(default)]
    class_weights: Vec<f32>,
    #[serde(default)]
    running_mean: Vec<f32>,
    #[serde(default)]
    running_var: Vec<f32>,
    #[serde(default)]
    evaluated: Vec<f32>,
}

fn load(name: &str) -> Case {
    let mut file: File = serde_json::from_str(include_str!("data/nn_pytorch.json")).unwrap();
    file.cases.remove(name).unwrap()
}

/// Sets the parameters, runs forward and backward, and compares everything.
fn compare<N: Network<Cpu>, S: Shape, O: Shape>(
    case: &Case,
    net: &mut N,
    shape: S,
    f: impl Fn(&N, Traced<S>) -> ModelResult<Traced<O>>,
) {
    assert_eq!(shape.concrete().into_iter().collect::<Vec<_>>(), case.shape);
    for (name, values) in &case.parameters {
        change(net, name, |parameter| parameter.copy_from_slice(values));
    }
    let found = run(net, &case.x, shape, f);
    assert_close("y", &found.y, &case.y, 3e-6);
    assert_close("dx", &found.dx, &case.dx, 3e-6);
    for (name, gradient) in &case.gradients {
        assert_close(name, &found.gradients[name], gradient, 3e-6);
    }
    assert!(case.gradients.len() >= case.parameters.len());
}

#[test]
fn dense_layers() {
    let mut linear = Linear::builder(4, 3).activation(Activation::Gelu).build(&cpu()).unwrap();
    compare(&load("linear_gelu"), &mut linear, (5, 4), |l, x| l.forward(x));
    let mut norm = LayerNorm::new(&cpu(), 7).unwrap();
    compare(&load("layer_norm"), &mut norm, (4, 7), |l, x| l.forward(x));
}

#[test]
fn convolutions_and_pools() {
    let conv = Conv2D::builder(4, 6, 3).stride((2, 1)).padding((2, 1)).dilation((1, 2)).groups(2);
    compare(&load("conv2d"), &mut conv.build(&cpu()).unwrap(), (2, 4, 7, 6), |l, x| l.forward(x));
    let conv = Conv1D::builder(3, 5, 3).stride(2).padding(2).dilation(2);
    compare(&load("conv1d"), &mut conv.build(&cpu()).unwrap(), (2, 3, 9), |l, x| l.forward(x));
    let mut pool = MaxPool2D::new(3).stride(2).padding(1);
    compare(&load("max_pool2d"), &mut pool, (2, 2, 5, 7), |l, x| l.forward(x));
    let mut pool = AvgPool2D::new(3).stride(2).padding(Padding::from(1));
    compare(&load("avg_pool2d"), &mut pool, (2, 2, 5, 7), |l, x| l.forward(x));
}

#[test]
fn recurrent_layers() {
    let case = load("bi_lstm");
    let lengths = &case.lengths[..];
    compare(&case, &mut BiLstm::new(&cpu(), 3, 4).unwrap(), (3, 6, 3), |l, x| l.forward((x, lengths)));
    let case = load("bi_gru");
    compare(&case, &mut BiGru::new(&cpu(), 3, 4).unwrap(), (3, 6, 3), |l, x| l.forward((x, lengths)));
}

#[test]
fn batch_normalisation() {
    let case = load("batch_norm");
    let mut norm = BatchNorm::new(&cpu(), 3).unwrap();
    compare(&case, &mut norm, (2, 3, 4, 5), |l, x| l.forward(x));
    let expected = [("running_mean", &case.running_mean), ("running_var", &case.running_var)];
    for (name, expected) in expected {
        change(&mut norm, name, |found| assert_close(name, found, expected, 1e-6));
    }
    let evaluated = norm.forward(tensor(&case.x, (2usize, 3usize, 4usize, 5usize))).unwrap().as_vec();
    assert_close("evaluated", &evaluated, &case.evaluated, 3e-6);
}

#[test]
fn attention_and_transformers() {
    let case = load("attention");
    let lengths = &case.lengths[..];
    let mut attention = MultiHeadAttention::new(&cpu(), 6, 2).unwrap();
    compare(&case, &mut attention, (3, 4, 6), |l, x| l.forward((x, lengths)));
    for (name, norm) in [("transformer_post", NormPosition::Post), ("transformer_pre", NormPosition::Pre)] {
        let mut block = TransformerBlock::builder(6, 2).hidden(8).norm(norm).build(&cpu()).unwrap();
        compare(&load(name), &mut block, (3, 4, 6), |l, x| l.forward((x, lengths)));
    }
}

#[test]
fn losses() {
    let case = load("cross_entropy");
    let loss = CrossEntropy::new().label_smoothing(0.1).class_weights(case.class_weights.clone());
    compare(&case, &mut (), (5, 4), |_, x: Traced<(usize, usize)>| {
        Ok(loss.sparse(x, &case.labels)?.try_reshape_like(&(1,))?)
    });
    let case = load("dense_cross_entropy");
    let loss = CrossEntropy::new().label_smoothing(0.2);
    compare(&case, &mut (), (5, 4), |_, x: Traced<(usize, usize)>| {
        Ok(loss.dense(x, tensor(&case.targets, (5, 4)))?.try_reshape_like(&(1,))?)
    });
    for (name, loss) in [
        ("binary_cross_entropy", Loss::BinaryCrossEntropy { positive_weight: 1.0 }),
        ("weighted_binary_cross_entropy", Loss::BinaryCrossEntropy { positive_weight: 2.5 }),
        ("squared", Loss::Squared),
        ("absolute", Loss::Absolute),
        ("huber", Loss::Huber { delta: 0.7 }),
    ] {
        let case = load(name);
        compare(&case, &mut (), (5, 4), |_, x: Traced<(usize, usize)>| {
            Ok(loss.mean(x, tensor(&case.targets, (5, 4)))?.try_reshape_like(&(1,))?)
        });
    }
}
