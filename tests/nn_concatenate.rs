//! Tensors joined along an axis.
#![allow(clippy::unwrap_used)]

mod nn_support;

use dfdx::shapes::{Axis, Const, HasShape, Shape};
use dfdx::tensor::{Trace, WithEmptyTape};
use dfdx::tensor_ops::{Backward, BroadcastTo, ReshapeTo, SumTo, TryMul};
use elistimator::ModelResult;
use elistimator::device::Cpu;
use elistimator::nn::backend::Backend;
use elistimator::nn::{Activation, Conv2D, Gradients, Layer, Tensor, concatenate, reference};
use nn_support::*;

/// The joined values by index, and where each of them comes from: the tensor and the place in it.
fn loops(shapes: &[Vec<usize>], axis: usize) -> (Vec<usize>, Vec<(usize, usize)>) {
    let mut dims = shapes[0].clone();
    dims[axis] = shapes.iter().map(|dims| dims[axis]).sum();
    let sources = (0..dims.iter().product())
        .map(|flat: usize| {
            let mut rest = flat;
            let mut index = vec![0; dims.len()];
            for (at, size) in dims.iter().enumerate().rev() {
                index[at] = rest % size;
                rest /= size;
            }
            let mut which = 0;
            while index[axis] >= shapes[which][axis] {
                index[axis] -= shapes[which][axis];
                which += 1;
            }
            (which, shapes[which].iter().zip(&index).fold(0, |place, (size, i)| place * size + i))
        })
        .collect();
    (dims, sources)
}

/// Joins tensors of these shapes on the tape, and compares values and gradients with the loops.
fn check<S: Shape, O: Shape>(shapes: &[S], axis: usize, join: impl Fn(Vec<Traced<S>>) -> ModelResult<Traced<O>>) {
    let lists: Vec<Vec<usize>> = shapes.iter().map(|shape| shape.concrete().into_iter().collect()).collect();
    let (dims, sources) = loops(&lists, axis);
    let values: Vec<Vec<f32>> = shapes.iter().zip(5..).map(|(shape, seed)| noise(shape.num_elements(), seed)).collect();
    let inputs: Vec<Tensor<S, Cpu>> = shapes.iter().zip(&values).map(|(shape, x)| tensor(x, *shape)).collect();
    let y = join(inputs.iter().map(|x| x.trace(Gradients::leaky())).collect()).unwrap();
    assert_eq!(nn_support::dims(&y), dims);
    if sources.is_empty() {
        return; // dfdx does not read empty tensors
    }
    let expected: Vec<f32> = sources.iter().map(|(which, place)| values[*which][*place]).collect();
    assert_eq!(y.as_vec(), expected);
    let factors = noise(sources.len(), 99);
    let rows = y.try_reshape_like(&(1, sources.len())).unwrap();
    let weight = tensor(&factors, (1usize, sources.len()));
    let gradients = rows.try_mul(weight).unwrap().sum().backward();
    let mut expected: Vec<Vec<f32>> = values.iter().map(|x| vec![0.0; x.len()]).collect();
    for ((which, place), factor) in sources.iter().zip(&factors) {
        expected[*which][*place] = *factor;
    }
    for (x, expected) in inputs.iter().zip(expected).filter(|(_, expected)| !expected.is_empty()) {
        assert_eq!(gradients.get(x).as_vec(), expected);
    }
}

#[test]
fn every_axis_agrees_with_loops() {
    check(&[(2, 3, 2, 2), (2, 1, 2, 2), (2, 4, 2, 2)], 1, |x| concatenate(x, Axis::<1>));
    check(&[(2, 3, 1, 2), (2, 3, 2, 2)], 2, |x| concatenate(x, Axis::<2>));
    check(&[(2, 3, 2, 1), (2, 3, 2, 5)], 3, |x| concatenate(x, Axis::<3>));
    check(&[(1, 3, 2, 2), (4, 3, 2, 2)], 0, |x| concatenate(x, Axis::<0>));
    check(&[(2, 3), (2, 1), (2, 0), (2, 4)], 1, |x| concatenate(x, Axis::<1>));
    check(&[(2, 3), (1, 3)], 0, |x| concatenate(x, Axis::<0>));
    check(&[(2, 3, 2), (2, 3, 5)], 2, |x| concatenate(x, Axis::<2>));
    check(&[(2, 3, 2), (2, 1, 2)], 1, |x| concatenate(x, Axis::<1>));
    check(&[(3,), (2,)], 0, |x| concatenate(x, Axis::<0>));
    check(&[(2, 1, 2, 1, 2), (2, 1, 3, 1, 2)], 2, |x| concatenate(x, Axis::<2>));
    check(&[(2, 3)], 1, |x| concatenate(x, Axis::<1>));
    check(&[(0, 3), (0, 2)], 1, |x| concatenate(x, Axis::<1>));
    check(&[(2, Const::<3>, 4), (2, Const, 1)], 2, |x| concatenate(x, Axis::<2>));
    check(&[(2, Const::<3>), (2, Const)], 1, |x| concatenate(x, Axis::<1>));
    // Twenty tensors, as the last layer of a dense block takes.
    check(&(1..21).map(|channels| (2, channels, 3, 3)).collect::<Vec<_>>(), 1, |x| concatenate(x, Axis::<1>));
}

#[test]
fn rows_agree_with_stock_operations() {
    let x = noise(12, 3);
    let parts = |x: Traced<(usize, usize)>| {
        let doubled = reference::activation(x.with_empty_tape(), Activation::Tanh).unwrap();
        vec![doubled, x.with_empty_tape(), x]
    };
    let found = run(&(), &x, (3, 4), |_, x| Cpu::concatenate(parts(x)));
    let stock = run(&(), &x, (3, 4), |_, x| reference::concatenate(parts(x)));
    assert_same(&found, &stock, 1e-6);
    check_finite_differences(&mut (), &x, (3, 4), 5e-3, |_, x| Cpu::concatenate(parts(x)));
}

#[test]
fn sizes_of_several_types_and_broadcast_tensors_join() {
    let images =
        |channels: usize| tensor(&noise(2 * channels * 4, channels as u64), (2usize, channels, 2usize, 2usize));
    let fixed = tensor(&noise(16, 9), (2, Const::<2>, 2, 2));
    let joined = concatenate((images(3), fixed.clone(), images(1)), Axis::<1>).unwrap();
    assert_eq!(joined.shape(), &(2, 6, 2, 2));
    assert_eq!(joined.as_vec()[12..20], fixed.as_vec()[..8]);
    let x = tensor(&[1.0], (1usize,));
    let eight = (x.clone(), x.clone(), x.clone(), x.clone(), x.clone(), x.clone(), x.clone(), x);
    assert_eq!(concatenate(eight, Axis::<0>).unwrap().as_vec(), [1.0; 8]);
    // Not contiguous: one row seen three times.
    let row: Tensor<(usize, usize), Cpu> = tensor(&[1.0, 2.0], (2usize,)).broadcast_like::<_, Axis<0>>(&(3, 2));
    let joined = concatenate([row.clone(), row], Axis::<1>).unwrap();
    assert_eq!(joined.as_vec(), [1.0, 2.0].repeat(6));
}

#[test]
fn a_tensor_joined_with_itself_gets_both_gradients() {
    let x = noise(6, 3);
    check_finite_differences(&mut (), &x, (2, 3), 5e-3, |_, x: Traced<(usize, usize)>| {
        concatenate([x.with_empty_tape(), x], Axis::<1>)
    });
}

#[test]
fn the_two_sides_of_a_u_net_are_trained() {
    let convolution = |inputs, outputs| Conv2D::builder(inputs, outputs, 3).padding(1).build(&cpu()).unwrap();
    let mut net = (convolution(2, 3), convolution(3, 4), convolution(9, 2));
    randomize(&mut net, 0.3);
    type Images = Traced<(usize, usize, usize, usize)>;
    check_finite_differences(&mut net, &noise(2 * 2 * 12, 3), (2, 2, 3, 4), 5e-3, |net, x: Images| {
        let left = net.0.forward(x.with_empty_tape())?;
        let right = net.1.forward(left.with_empty_tape())?;
        net.2.forward(concatenate((left, right, x), Axis::<1>)?)
    });
}

#[test]
fn tensors_that_do_not_fit_say_so() {
    let x = |shape: (usize, usize, usize)| tensor(&vec![0.0; shape.num_elements()], shape);
    let text = message(concatenate([x((2, 3, 4)), x((2, 3, 4)), x((2, 5, 3))], Axis::<1>));
    let expected = "found tensors of shapes [2, 3, 4] and [2, 5, 3], expected them to differ along axis 1 alone";
    assert!(text.contains(expected), "{text}");
    assert!(message(concatenate((x((2, 3, 4)), x((1, 3, 4))), Axis::<2>)).contains("along axis 2 alone"));
    let none: Vec<Tensor<(usize, usize), Cpu>> = Vec::new();
    assert!(message(concatenate(none, Axis::<1>)).contains("found no tensor"));
}
