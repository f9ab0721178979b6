//! Activations and dropout.

use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor::{Cuda, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::context::{Context, blocks};
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::ModelResult;
use crate::nn::{Activation, Tensor};

/// Threads of a block that works element by element.
pub(super) const THREADS: u32 = 256;

/// The number that the kernels know an activation by, and its slope.
pub(super) fn code(activation: Activation) -> (u32, f32) {
    match activation {
        Activation::Identity => (0, 0.0),
        Activation::Relu => (1, 0.0),
        Activation::LeakyRelu(slope) => (2, slope),
        Activation::Sigmoid => (3, 0.0),
        Activation::Tanh => (4, 0.0),
        Activation::Gelu => (5, 0.0),
        Activation::Silu => (6, 0.0),
    }
}

/// See [`Backend::activation`](crate::nn::backend::Backend::activation).
pub(super) fn activation<S: Shape, T: Tape<f32, Cuda>>(
    x: Tensor<S, Cuda, T>,
    activation: Activation,
) -> ModelResult<Tensor<S, Cuda, T>> {
    if activation == Activation::Identity {
        return Ok(x);
    }
    let shape = *x.shape();
    let count = shape.num_elements();
    let (x, tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let (kind, slope) = code(activation);
    let values = Values::of(&context, &x)?;
    let y = Output::new(&context, x.device(), count)?;
    let grid = (blocks(count, THREADS), 1);
    // SAFETY: both are of `count` values and alive; y is new, so nobody else has it.
    unsafe { context.launch("activation", grid, THREADS, (y.pointer(), values.pointer(), kind, slope, count as u64)) }?;
    let y = y.finish()?;
    let known = if activation.is_known_from_output() { y.clone() } else { x.clone() };
    record(tape, &[&x], y, shape, move |inputs, dy| {
        let known = Values::of(&context, &known)?;
        let arguments = (inputs[0], dy, known.pointer(), kind, slope, count as u64);
        // SAFETY: the gradients of x and y, and y or x itself, are of `count` values; x and y are different tensors.
        unsafe { context.launch("activation_backward", grid, THREADS, arguments) }
    })
}

/// See [`Backend::dropout`](crate::nn::backend::Backend::dropout).
pub(super) fn dropout<S: Shape, T: Tape<f32, Cuda>>(
    x: Tensor<S, Cuda, T>,
    key: u64,
    threshold: u32,
    scale: f32,
) -> ModelResult<Tensor<S, Cuda, T>> {
    let shape = *x.shape();
    let count = shape.num_elements();
    let (x, tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let values = Values::of(&context, &x)?;
    let y = Output::new(&context, x.device(), count)?;
    let grid = (blocks(count, THREADS), 1);
    let arguments = (y.pointer(), values.pointer(), key, threshold, scale, 0u32, count as u64);
    // SAFETY: both are of `count` values and alive; y is new, so nobody else has it.
    unsafe { context.launch("dropout", grid, THREADS, arguments) }?;
    record(tape, &[&x], y.finish()?, shape, move |inputs, dy| {
        let arguments = (inputs[0], dy, key, threshold, scale, 1u32, count as u64);
        // SAFETY: the gradients of x and y, two tensors of `count` values.
        unsafe { context.launch("dropout", grid, THREADS, arguments) }
    })
}
