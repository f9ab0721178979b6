//! Activations and dropout.

use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;

use super::math::{apply_all, differentiate_all};
use super::record::{flat, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::{Activation, RandomStream, Tensor};

/// See [`Backend::activation`](crate::nn::backend::Backend::activation).
pub(crate) fn activation<S: Shape, T: Tape<f32, Cpu>>(
    x: Tensor<S, Cpu, T>,
    activation: Activation,
) -> ModelResult<Tensor<S, Cpu, T>> {
    if activation == Activation::Identity {
        return Ok(x);
    }
    let shape = *x.shape();
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let mut values = vec![0.0; shape.num_elements()];
    x.copy_into(&mut values);
    let input = (T::OWNS_TAPE && !activation.is_known_from_output()).then(|| Scratch::copy_of(&x));
    apply_all(activation, &mut values);
    let y = x.device().try_tensor_from_vec(values, shape)?;
    if T::OWNS_TAPE {
        let output = y.clone();
        record(&mut tape, &[&flat(&x)?], &[&flat(&y)?], move |dx, dy| {
            let kept = input.unwrap_or_else(|| Scratch::copy_of(&output));
            let mut gradient = Scratch::dirty(kept.len());
            gradient.copy_from_slice(&dy[0]);
            differentiate_all(activation, &kept, &mut gradient);
            add(&mut dx[0], &gradient);
        });
    }
    Ok(y.put_tape(tape))
}

/// `to += from`.
pub(super) fn add(to: &mut [f32], from: &[f32]) {
    super::vectorized(
        #[inline(always)]
        || {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        },
    );
}

/// See [`Backend::dropout`](crate::nn::backend::Backend::dropout).
pub(crate) fn dropout<S: Shape, T: Tape<f32, Cpu>>(
    x: Tensor<S, Cpu, T>,
    key: u64,
    threshold: u32,
    scale: f32,
) -> ModelResult<Tensor<S, Cpu, T>> {
    let shape = *x.shape();
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let mut values = vec![0.0; shape.num_elements()];
    x.copy_into(&mut values);
    let factor = move |index: usize| if RandomStream::bits(key, index as u64) < threshold { 0.0 } else { scale };
    super::vectorized(
        #[inline(always)]
        || {
            for (index, value) in values.iter_mut().enumerate() {
                *value *= factor(index);
            }
        },
    );
    let y = x.device().try_tensor_from_vec(values, shape)?;
    // The factors are drawn again rather than kept.
    record(&mut tape, &[&flat(&x)?], &[&flat(&y)?], move |dx, dy| {
        super::vectorized(
            #[inline(always)]
            || {
                for (index, (dx, dy)) in dx[0].iter_mut().zip(&dy[0]).enumerate() {
                    *dx += dy * factor(index);
                }
            },
        );
    });
    Ok(y.put_tape(tape))
}
