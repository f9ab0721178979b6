//! Linear, activations, dropout, flatten, losses, tuples and dfdx's modules.
#![allow(clippy::unwrap_used)]

mod nn_support;

use dfdx::shapes::Const;
use dfdx::tensor::Trace;
use dfdx::tensor_ops::{Backward, ReshapeTo};
use elistimator::device::Cpu;
use elistimator::nn::{
    Activation, Dfdx, Dropout, Gradients, Init, Layer, Linear, Network, Part, Tensor, Visitor, flatten, reference,
    sparse_cross_entropy,
};
use nn_support::*;

const ALL: [Activation; 7] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu(0.1),
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Gelu,
    Activation::Silu,
];

#[test]
fn linear_agrees_with_differences_and_stock_operations() {
    for (rows, inputs, outputs) in [(1, 1, 1), (5, 7, 3), (33, 17, 65)] {
        for activation in ALL {
            for bias in [true, false] {
                let builder = Linear::builder(inputs, outputs).activation(activation);
                let builder = if bias { builder } else { builder.without_bias() };
                let mut layer = builder.build(&cpu()).unwrap();
                randomize(&mut layer, 0.5);
                let x = noise(rows * inputs, 3);
                let found = run(&layer, &x, (rows, inputs), |l, x| l.forward(x));
                let expected = run(&layer, &x, (rows, inputs), |l, x| {
                    reference::linear(x, &l.weight, l.bias.as_ref(), activation)
                });
                assert_same(&found, &expected, 1e-5);
                let without_tape = layer.forward(tensor(&x, (rows, inputs))).unwrap();
                assert_close("y", &without_tape.as_vec(), &found.y, 0.0);
                check_finite_differences(&mut layer, &x, (rows, inputs), 5e-3, |l, x| l.forward(x));
            }
        }
    }
}

#[test]
fn large_linear_is_the_same_on_any_number_of_threads() {
    let layer = Linear::builder(300, 500).activation(Activation::Relu).build(&cpu()).unwrap();
    let x = noise(200 * 300, 5);
    assert_same_on_one_and_two_threads(|| run(&layer, &x, (200usize, 300usize), |l, x| l.forward(x)));
    let found = run(&layer, &x, (200usize, 300usize), |l, x| l.forward(x));
    let expected = run(&layer, &x, (200usize, 300usize), |l, x| {
        reference::linear(x, &l.weight, l.bias.as_ref(), Activation::Relu)
    });
    assert_same(&found, &expected, 1e-5);
}

#[test]
fn linear_works_on_sequences_and_const_sizes() {
    let layer = Linear::<Cpu, Const<3>, Const<2>>::new(&cpu(), Const, Const).unwrap();
    let x = noise(2 * 4 * 3, 1);
    let y: Tensor<(usize, usize, Const<2>), Cpu> = layer.forward(tensor(&x, (2, 4, Const::<3>))).unwrap();
    let rows: Tensor<(usize, Const<2>), Cpu> = layer.forward(tensor(&x, (8, Const::<3>))).unwrap();
    assert_eq!(y.as_vec(), rows.as_vec());
    let empty = layer.forward(tensor(&[], (0, Const::<3>))).unwrap();
    assert_eq!(dims(&empty), [0, 2]);
}

#[test]
fn linear_reports_wrong_sizes() {
    let layer = Linear::new(&cpu(), 3, 2).unwrap();
    let text = message(layer.forward(tensor(&noise(8, 1), (2, 4))));
    assert!(text.contains("found an input of 2 rows of 4 values, expected 3"), "{text}");
    assert!(message(Linear::new(&cpu(), 0, 2)).contains("found 0 inputs"));
    assert!(message(Linear::new(&cpu(), usize::MAX, 2)).contains("more elements"));
    let given = Linear::builder(2, 1).weights(Init::Values(vec![1.0; 3])).build(&cpu());
    assert!(message(given).contains("found 3 values, expected 2"));
}

#[test]
fn without_input_gradient_leaves_the_others_alone() {
    let with = Linear::builder(3, 2).weights(Init::Values(noise(6, 1))).build(&cpu()).unwrap();
    let without =
        Linear::builder(3, 2).weights(Init::Values(noise(6, 1))).without_input_gradient().build(&cpu()).unwrap();
    let x = noise(12, 2);
    let (a, b) = (run(&with, &x, (4, 3), |l, x| l.forward(x)), run(&without, &x, (4, 3), |l, x| l.forward(x)));
    assert_eq!(a.gradients, b.gradients);
    assert!(b.dx.iter().all(|v| *v == 0.0) && a.dx.iter().any(|v| *v != 0.0));
}

#[test]
fn a_layer_used_twice_adds_its_gradients_up() {
    let mut layer = Linear::builder(4, 4).activation(Activation::Tanh).build(&cpu()).unwrap();
    randomize(&mut layer, 0.5);
    check_finite_differences(&mut layer, &noise(8, 1), (2, 4), 5e-3, |l, x| l.forward(l.forward(x)?));
}

#[test]
fn activations_agree_with_differences_and_stock_operations() {
    let x: Vec<f32> = noise(101, 4).iter().map(|v| v * 5.0).collect();
    for activation in ALL {
        let mut layer = activation;
        let found = run(&layer, &x, (101,), |l, x| l.forward(x));
        let expected = run(&layer, &x, (101,), |l, x| reference::activation(x, *l));
        assert_same(&found, &expected, 2e-6);
        check_finite_differences(&mut layer, &x, (101,), 5e-3, |l, x| l.forward(x));
    }
}

#[test]
fn dropout_drops_the_given_share_and_only_in_training() {
    let dropout = Dropout::new(0.4);
    set_key(&dropout, 5);
    let x = vec![1.0; 100_000];
    let first = run(&dropout, &x, (100_000,), |l, x| l.forward(x));
    let dropped = first.y.iter().filter(|v| **v == 0.0).count() as f64 / 1e5;
    assert!((dropped - 0.4).abs() < 0.01, "{dropped}");
    assert!(first.y.iter().all(|v| *v == 0.0 || (*v - 1.0 / 0.6).abs() < 1e-6));
    // The gradient passes where the value passed.
    let factors = noise(100_000, 99);
    for ((y, dx), r) in first.y.iter().zip(&first.dx).zip(factors) {
        assert_eq!(*dx, y * r);
    }
    let second = run(&dropout, &x, (100_000,), |l, x| l.forward(x));
    assert_ne!(first.y, second.y, "another call draws anew");
    set_key(&dropout, 5);
    assert_eq!(run(&dropout, &x, (100_000,), |l, x| l.forward(x)).y, first.y, "the same key repeats");
    set_key(&dropout, 5);
    let stock = run(&dropout, &x, (100_000,), |_, x| {
        let key = {
            let stream = elistimator::nn::RandomStream::new();
            stream.set_key(5, "random");
            stream.next_call()
        };
        reference::dropout(x, key, (0.4 * 4_294_967_296.0) as u32, 1.0 / 0.6)
    });
    assert_eq!(stock.y, first.y, "the stock composition draws the same");
    assert_eq!(dropout.forward(tensor(&x, (100_000,))).unwrap().as_vec(), x, "evaluation passes everything");
    assert!(message(Dropout::new(1.0).forward(tensor(&[1.0], (1,)))).contains("found the probability 1"));
    assert!(message(Dropout::new(f64::NAN).forward(tensor(&[1.0], (1,)))).contains("NaN"));
}

fn set_key(dropout: &Dropout, seed: u64) {
    Network::<Cpu>::visit(
        dropout,
        &mut Visitor::new(&mut |name, part| {
            if let Part::Random(stream) = part {
                stream.set_key(seed, name);
            }
            Ok(())
        }),
    )
    .unwrap();
}

#[test]
fn flatten_keeps_the_order_and_checks_sizes() {
    let x = noise(2 * 3 * 2 * 2, 1);
    let images = tensor(&x, (2, Const::<3>, 2, Const::<2>));
    let rows: Tensor<(usize, Const<12>), Cpu> = flatten(images.clone()).unwrap();
    assert_eq!(rows.as_vec(), x);
    let rows = flatten::<usize, _>(images.clone()).unwrap();
    assert_eq!(dims(&rows), [2, 12]);
    let text = message(flatten::<Const<3136>, _>(images));
    assert!(text.contains("found 3x2x2 = 12 values per example, expected 3136"), "{text}");
}

#[test]
fn tuples_are_applied_in_order_and_named_by_position() {
    let device = cpu();
    let mut net = (
        Linear::builder(3, 5).activation(Activation::Gelu).build(&device).unwrap(),
        Linear::new(&device, 5, 4).unwrap(),
        Activation::Tanh,
        vec![Linear::new(&device, 4, 4).unwrap(), Linear::new(&device, 4, 4).unwrap()],
    );
    let mut names = Vec::new();
    net.visit(&mut Visitor::new(&mut |name, _| {
        names.push(name.to_owned());
        Ok(())
    }))
    .unwrap();
    assert_eq!(names[..4], ["0.weight", "0.bias", "1.weight", "1.bias"]);
    assert_eq!(names[4..], ["3.0.weight", "3.0.bias", "3.1.weight", "3.1.bias"]);
    check_finite_differences(&mut net, &noise(6, 1), (2, 3), 5e-3, |n, x| n.forward(x));
}

#[test]
fn cross_entropy_agrees_with_differences_and_stock_operations() {
    for (rows, classes) in [(1, 1), (1, 7), (13, 5)] {
        let labels: Vec<usize> = (0..rows).map(|row| row * 3 % classes).collect();
        let x: Vec<f32> = noise(rows * classes, 3).iter().map(|v| v * 4.0).collect();
        let loss = |_: &(), x: Traced<(usize, usize)>| {
            sparse_cross_entropy(x, &labels)?.try_reshape_like(&(1,)).map_err(Into::into)
        };
        check_finite_differences(&mut (), &x, (rows, classes), 5e-3, loss);
        let found = run(&(), &x, (rows, classes), loss);
        // By hand, in f64.
        let by_hand: f64 = x
            .chunks(classes)
            .zip(&labels)
            .map(|(row, label)| row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln() - f64::from(row[*label]))
            .sum::<f64>()
            / rows as f64;
        assert!((f64::from(found.y[0]) - by_hand).abs() < 1e-5, "{} {by_hand}", found.y[0]);
    }
    let far = tensor(&[1000.0, -1000.0, 0.0, 0.0], (2, 2));
    assert_eq!(sparse_cross_entropy(far, &[1, 0]).unwrap().as_vec(), [1000.0 + 0.5 * 2f32.ln()]);
    assert!(message(sparse_cross_entropy(tensor(&[0.0; 4], (2, 2)), &[0, 2])).contains("found the label 2 in row 1"));
    assert!(message(sparse_cross_entropy(tensor(&[0.0; 4], (2, 2)), &[0])).contains("found 1 labels for 2 rows"));
    assert!(message(sparse_cross_entropy(tensor(&[], (0, 2)), &[])).contains("empty batch"));
}

#[test]
fn modules_of_dfdx_are_trained_by_name() {
    use dfdx::nn::DeviceBuildExt;
    use dfdx::nn::builders::{LayerNorm1D, Linear as Stock, ReLU};
    let device = cpu();
    let module = device.build_module::<(Stock<4, 6>, ReLU, LayerNorm1D<6>), f32>();
    let mut net = (Dfdx::new(module).unwrap(), Linear::<Cpu, Const<6>, Const<2>>::new(&device, Const, Const).unwrap());
    let mut names = Vec::new();
    net.visit(&mut Visitor::new(&mut |name, _| {
        names.push(name.to_owned());
        Ok(())
    }))
    .unwrap();
    assert_eq!(names[..4], ["0.0.weight", "0.0.bias", "0.2.gamma", "0.2.beta"]);
    check_finite_differences(&mut net, &noise(12, 1), (3, Const::<4>), 5e-3, |n, x| n.forward(x));
    let x = tensor(&noise(12, 1), (3, Const::<4>));
    let before = net.forward(x.clone()).unwrap().as_vec();
    change(&mut net, "0.2.beta", |values| values[0] += 1.0);
    assert_ne!(net.forward(x).unwrap().as_vec(), before, "changes of the parameters reach the module");
}

#[test]
fn a_loss_of_a_whole_step_reaches_all_parameters() {
    let net = (Linear::new(&cpu(), 3, 4).unwrap(), Linear::new(&cpu(), 4, 2).unwrap());
    let x = tensor(&noise(6, 1), (2, 3)).trace(Gradients::leaky());
    let loss = sparse_cross_entropy(net.forward(x).unwrap(), &[0, 1]).unwrap();
    let gradients = loss.backward();
    assert!(gradients.get(&net.0.weight.flat()).as_vec().iter().any(|v| *v != 0.0));
}
