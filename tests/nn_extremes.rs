//! Layers and losses at the edges of what they take: huge values, infinities, many values; and tensors that are views.
#![allow(clippy::unwrap_used)]

mod nn_support;

use dfdx::shapes::{Axes3, Axis, HasShape, Shape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::{BroadcastTo, PermuteTo, ReshapeTo};
use elistimator::ModelResult;
use elistimator::device::Cpu;
use elistimator::nn::*;
use nn_support::*;

type Steps = (usize, usize, usize);

fn activated(activation: Activation, x: f32) -> f32 {
    activation.forward(tensor(&[x], (1,))).unwrap().as_vec()[0]
}

#[test]
fn activations_reach_their_limits() {
    for x in [20.0f32, 200.0, 1e4, 1e10, 1e30] {
        assert_eq!((activated(Activation::Gelu, x), activated(Activation::Gelu, -x)), (x, 0.0), "at {x}");
        assert_eq!(activated(Activation::Silu, x), x);
        assert!(activated(Activation::Silu, -x).abs() < 1e-6, "at -{x}: {}", activated(Activation::Silu, -x));
    }
    // Their logarithm is a loss, so small values have to be good relatively.
    for x in [-3.0f32, -10.0, -20.0, -40.0, -80.0] {
        let (exact, found) = (1.0 / (1.0 + (-f64::from(x)).exp()), f64::from(activated(Activation::Sigmoid, x)));
        assert!((found / exact - 1.0).abs() < 1e-6, "sigmoid({x}) = {found}, expected {exact}");
        let silu = f64::from(activated(Activation::Silu, x));
        assert!((silu / (f64::from(x) * exact) - 1.0).abs() < 1e-6, "silu({x}) = {silu}");
    }
    let slopes = |activation: Activation, x: f32| run(&activation, &[x], (1,), |a, x| a.forward(x)).dx[0];
    for activation in [Activation::Gelu, Activation::Silu, Activation::Sigmoid] {
        assert_eq!(slopes(activation, -1e10), 0.0, "{activation:?}");
    }
}

#[test]
fn means_of_many_values_do_not_drift() {
    let count = 1 << 21;
    let zeros = vec![0.0; count];
    let x = vec![0.3; count];
    let near = |what: &str, found: f32, expected: f64| {
        assert!((f64::from(found) / expected - 1.0).abs() < 1e-6, "{what}: {found}, expected {expected}");
    };
    let shape = (count / 16, 16);
    let square = f64::from(0.3f32).powi(2);
    near("mean", Loss::Squared.mean(tensor(&x, shape), tensor(&zeros, shape)).unwrap().as_vec()[0], square);
    let weights = vec![0.25; count / 16];
    let loss = Loss::Squared.weighted_mean(tensor(&x, shape), tensor(&zeros, shape), &weights);
    near("weighted mean", loss.unwrap().as_vec()[0], square);
    let row = (1, count);
    near("example", Loss::Squared.per_example(tensor(&x, row), tensor(&zeros, row)).unwrap().as_vec()[0], square);
    let labels = vec![0; count / 2];
    let loss = sparse_cross_entropy(tensor(&x, (count / 2, 2)), &labels).unwrap();
    near("cross-entropy", loss.as_vec()[0], 2.0f64.ln());
    let pooled = GlobalPool2D::Average.forward(tensor(&x, (1, 1, 1 << 10, 1 << 11))).unwrap();
    near("global pool", pooled.as_vec()[0], f64::from(0.3f32));
    // Half of the values are -0.3, so that the variance is their square.
    let x: Vec<f32> = (0..count).map(|at| if at % 2 == 0 { 0.3 } else { -0.3 }).collect();
    let norm = BatchNorm::new(&cpu(), 1).unwrap();
    let y = run(&norm, &x, (1, 1, count), |norm, x| norm.forward(x)).y;
    near("batch norm", y[0], f64::from(0.3f32) / (square + 1e-5).sqrt());
}

#[test]
fn cross_entropy_of_large_logits_is_exact() {
    for at in [0.0f32, 30.0, 1e3, 1e6, -1e6] {
        let losses = CrossEntropy::new().sparse_per_example(tensor(&[at, at, at + 8.0, at], (2, 2)), &[0, 1]).unwrap();
        let losses = losses.as_vec();
        assert!((losses[0] - 2.0f32.ln()).abs() < 1e-6, "at {at}: {losses:?}");
        assert!((f64::from(losses[1]) / (8.0 + (-8.0f64).exp().ln_1p()) - 1.0).abs() < 1e-6, "at {at}: {losses:?}");
        let smooth = CrossEntropy::new().label_smoothing(0.5).sparse(tensor(&[at, at], (1, 2)), &[0]).unwrap();
        assert!((smooth.as_vec()[0] - 2.0f32.ln()).abs() < 1e-6, "at {at}: {:?}", smooth.as_vec());
        let found = run(&(), &[at, at], (1, 2), |_, x| CrossEntropy::new().sparse_per_example(x, &[0]));
        assert!((found.dx[0] + found.dx[1]).abs() < 1e-6 && found.dx[0] != 0.0, "at {at}: {:?}", found.dx);
        assert!((found.dx[1] / noise(1, 99)[0] - 0.5).abs() < 1e-6, "at {at}: {:?}", found.dx);
    }
}

#[test]
fn rows_that_do_not_count_may_hold_anything() {
    for junk in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let x = [1.0, 2.0, junk, junk, 0.5, -0.5];
        let kept = [1.0, 2.0, 0.0, 0.0, 0.5, -0.5];
        let all = [
            CrossEntropy::new().mask(&[true, false, true]),
            CrossEntropy::new().mask(&[true, false, true]).label_smoothing(0.1).class_weights([1.0, 2.0]),
        ];
        for loss in all {
            let f = |_: &(), x: Traced<(usize, usize)>| loss.sparse_per_example(x, &[0, 1, 1]);
            let (found, expected) = (run(&(), &x, (3, 2), f), run(&(), &kept, (3, 2), f));
            assert_eq!((found.y, found.dx), (expected.y, expected.dx), "{loss:?}");
        }
        let steps = CrossEntropy::new().lengths(&[1, 2]);
        let x = [1.0, 2.0, junk, junk, 0.5, -0.5, 0.1, 0.2];
        let loss = steps.sparse(tensor(&x, (2, 2, 2)), &[0, 9, 1, 1]).unwrap().as_vec()[0];
        assert!(loss.is_finite(), "{junk}: {loss}");
    }
}

#[test]
fn dense_targets_of_other_steps_are_refused() {
    let logits = || tensor(&noise(12, 1), (2, 3, 2));
    let found = CrossEntropy::new().dense(logits(), tensor(&[0.5; 12], (3, 2, 2))).unwrap_err().to_string();
    assert!(found.contains("targets of (batch, length) (3, 2), expected (2, 3)"), "{found}");
    let as_steps = CrossEntropy::new().dense(logits(), tensor(&[0.5; 12], (2, 3, 2))).unwrap().as_vec();
    let as_rows = CrossEntropy::new().dense(logits(), tensor(&[0.5; 12], (6, 2))).unwrap().as_vec();
    assert_eq!(as_steps, as_rows);
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let x = || tensor(&[1.0, 2.0], (2, 1));
    for weight in [f32::NAN, f32::INFINITY] {
        let found = Loss::Squared.weighted_mean(x(), x(), &[1.0, weight]).unwrap_err().to_string();
        assert!(found.contains("of example 1, expected a finite one"), "{found}");
        let found = CrossEntropy::new().example_weights([weight, 1.0]).sparse(x(), &[0, 0]).unwrap_err().to_string();
        assert!(found.contains("of example 0, expected a finite one"), "{found}");
    }
}

#[test]
fn a_pool_that_sees_nothing_says_so() {
    let x = || tensor(&noise(4, 3), (1, 1, 2, 2));
    let found = MaxPool2D::new(2).padding(2).forward(x()).unwrap_err().to_string();
    assert!(found.contains("window of 2x2 that meets only the padding of images of 2x2"), "{found}");
    let dilated = MaxPool1D::new(2).dilation(2).padding(Padding::Same);
    assert!(dilated.forward(tensor(&[1.0], (1, 1, 1))).is_err());
    assert!(MaxPool2D::new(2).padding(1).forward(x()).unwrap().as_vec().iter().all(|y| y.is_finite()));
    // The mean of nothing is 0, as it always was.
    assert!(AvgPool2D::new(2).padding(2).forward(x()).is_ok());
}

/// The result of a layer in one dimension.
fn flat<S: Shape, T: Tape<f32, Cpu>>(y: Tensor<S, Cpu, T>) -> ModelResult<Tensor<(usize,), Cpu, T>> {
    let len = y.shape().num_elements();
    Ok(y.try_reshape_like(&(len,))?)
}

/// Compares a layer over a permuted tensor and over a broadcast one with the same over a contiguous one.
fn check_views<N: Network<Cpu>>(what: &str, net: &N, f: impl Fn(&N, Traced<Steps>) -> ModelResult<Traced<(usize,)>>) {
    let (batch, length, size) = (3, 4, 6);
    let shape = (batch, length, size);
    let close = |part: &str, found: &[f32], expected: &[f32]| {
        assert_eq!(found.len(), expected.len(), "{what}: {part}");
        let far = found.iter().zip(expected).position(|(a, b)| (a - b).abs() > 1e-4 * (1.0 + b.abs()));
        assert!(far.is_none(), "{what}: {part} at {far:?}: {found:?}, expected {expected:?}");
    };
    let same = |view: &str, found: &Run, expected: &Run, dx: &[f32]| {
        close(&format!("{view} y"), &found.y, &expected.y);
        close(&format!("{view} dx"), &found.dx, dx);
        for (name, gradient) in &expected.gradients {
            close(&format!("{view} {name}"), &found.gradients[name], gradient);
        }
    };
    let x = noise(batch * length * size, 21);
    let plain = run(net, &x, shape, &f);

    // As (length, size, batch), turned back on the tape.
    let turn = |values: &[f32]| -> Vec<f32> {
        let place = |at: usize| (at % batch) * length * size + at / batch;
        (0..values.len()).map(|at| values[place(at)]).collect()
    };
    let permuted = run(net, &turn(&x), (length, size, batch), |net, x| f(net, x.try_permute::<_, Axes3<2, 0, 1>>()?));
    same("permuted", &permuted, &plain, &turn(&plain.dx));

    let one = &x[..length * size];
    let repeated = run(net, &one.repeat(batch), shape, &f);
    let broadcast = run(net, one, (length, size), |net, x| f(net, x.try_broadcast_like::<_, Axis<0>>(&shape)?));
    let total: Vec<f32> =
        (0..one.len()).map(|at| (0..batch).map(|row| repeated.dx[row * one.len() + at]).sum()).collect();
    same("broadcast", &broadcast, &repeated, &total);
}

#[test]
fn layers_take_views() {
    let device = &cpu();
    let lengths: &[usize] = &[4, 2, 3];
    for activation in [Activation::Identity, Activation::Gelu, Activation::Relu, Activation::LeakyRelu(0.1)] {
        check_views("activation", &activation, |net, x| flat(net.forward(x)?));
        let linear = Linear::builder(6, 5).activation(activation).build(device).unwrap();
        check_views("linear", &linear, |net, x| flat(net.forward(x)?));
        let conv = Conv1D::builder(4, 3, 3).padding(1).activation(activation).build(device).unwrap();
        check_views("convolution", &conv, |net, x| flat(net.forward(x)?));
    }
    check_views("layer norm", &LayerNorm::new(device, 6).unwrap(), |net, x| flat(net.forward(x)?));
    check_views("batch norm", &BatchNorm::new(device, 4).unwrap(), |net, x| flat(net.forward(x)?));
    check_views("lstm", &Lstm::new(device, 6, 5).unwrap(), |net, x| flat(net.forward((x, lengths))?));
    check_views("lstm's last state", &Lstm::new(device, 6, 5).unwrap(), |net, x| {
        flat(net.run(x, lengths, None)?.into_last())
    });
    check_views("gru", &BiGru::new(device, 6, 5).unwrap(), |net, x| flat(net.forward((x, lengths))?));
    let attention = MultiHeadAttention::new(device, 6, 2).unwrap();
    check_views("attention", &attention, |net, x| flat(net.forward((x, lengths))?));
    let block = TransformerBlock::builder(6, 2).norm(NormPosition::Pre).build(device).unwrap();
    check_views("transformer", &block, |net, x| flat(net.forward((x, lengths))?));
    check_views("max pool", &MaxPool1D::new(2), |net, x| flat(net.forward(x)?));
    check_views("average pool", &GlobalPool1D::Average, |net, x| flat(net.forward(x)?));
    check_views("max over time", &(), |_, x| flat(max_over_time(x, lengths)?));
    check_views("mean over time", &(), |_, x| flat(mean_over_time(x, lengths)?));
    check_views("mask", &(), |_, x| flat(mask_after_end(x, lengths)?));
    check_views("flatten", &(), |_, x| flat(flatten::<usize, _>(x)?));
    check_views("concatenate", &(), |_, x| flat(concatenate([x.retaped::<StepTape<Cpu>>(), x], Axis::<1>)?));
    let crf = Crf::new(device, 6).unwrap();
    let tags = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5];
    check_views("field", &crf, |net, x| flat(net.negative_log_likelihood(x, &tags, lengths)?));
    check_views("ctc", &(), |_, x| flat(Ctc::new().lengths(lengths).per_example(x, &[vec![1, 2], vec![3], vec![]])?));
    check_views("cross-entropy", &(), |_, x| flat(CrossEntropy::new().sparse_per_example(x, &tags)?));
    check_views("loss", &(), |_, x| {
        let targets = tensor(&noise(6, 8), (6,)).try_broadcast_like::<_, dfdx::shapes::Axes2<0, 1>>(x.shape())?;
        flat(Loss::Huber { delta: 0.5 }.per_example(x, targets)?)
    });
}

#[test]
fn a_state_that_is_shared_by_the_batch_is_trained() {
    let mut lstm = Lstm::new(&cpu(), 2, 3).unwrap();
    let x = noise(2 * 3 * 2, 4);
    let f = |lstm: &Lstm<Cpu>, state: Traced<(usize,)>| {
        let of = |state: Traced<(usize,)>| state.try_broadcast_like::<_, Axis<0>>(&(2, 3));
        let cell = Some(of(state.retaped::<StepTape<Cpu>>())?);
        let state = RecurrentState { hidden: of(state)?, cell };
        let x = tensor(&x, (2, 3, 2)).retaped::<StepTape<Cpu>>();
        // One of the sequences is empty: its last state is the first one.
        let run = lstm.run(x, &[3, 0], Some(state))?;
        flat(run.into_last())
    };
    check_finite_differences(&mut lstm, &noise(3, 5), (3,), 1e-2, f);
}

#[test]
fn layers_used_twice_add_their_gradients_up() {
    let device = &cpu();
    let lengths: &[usize] = &[4, 2, 0];
    let x = noise(3 * 4 * 6, 31);
    let shape = (3, 4, 6);
    check_finite_differences(&mut Lstm::new(device, 6, 6).unwrap(), &x, shape, 1e-2, |net, x| {
        net.forward((net.forward((x, lengths))?, lengths))
    });
    check_finite_differences(&mut Gru::new(device, 6, 6).unwrap(), &x, shape, 1e-2, |net, x| {
        net.forward((net.forward((x, lengths))?, lengths))
    });
    check_finite_differences(&mut MultiHeadAttention::new(device, 6, 3).unwrap(), &x, shape, 1e-2, |net, x| {
        net.forward((net.forward((x, lengths))?, lengths))
    });
    check_finite_differences(&mut LayerNorm::new(device, 6).unwrap(), &x, shape, 1e-2, |net, x| {
        net.forward(Activation::Tanh.forward(net.forward(x)?)?)
    });
    check_finite_differences(&mut BatchNorm::new(device, 4).unwrap(), &x, shape, 1e-2, |net, x| {
        net.forward(Activation::Tanh.forward(net.forward(x)?)?)
    });
    let mut conv = Conv1D::builder(4, 4, 3).groups(2).padding(1).activation(Activation::Silu).build(device).unwrap();
    check_finite_differences(&mut conv, &x, shape, 1e-2, |net, x| net.forward(net.forward(x)?));
}
