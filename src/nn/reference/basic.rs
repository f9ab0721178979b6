//! Activations, the linear layer, dropout.

use dfdx::shapes::{Axes2, Axis, HasShape, Shape};
use dfdx::tensor::{NoneTape, Tape, WithEmptyTape};
use dfdx::tensor_ops::{BroadcastTo, PermuteTo, ReshapeTo, TryAdd, TryConcatAlong, TryMatMul, TryMul, TrySub};

use crate::nn::backend::Rows;
use crate::nn::{Activation, Parameter, RandomStream, Tensor};
use crate::{Device, ModelError, ModelResult};

/// See [`Backend::activation`](crate::nn::backend::Backend::activation).
pub fn activation<S: Shape, D: Device, T: Tape<f32, D>>(
    x: Tensor<S, D, T>,
    activation: Activation,
) -> ModelResult<Tensor<S, D, T>> {
    Ok(match activation {
        Activation::Identity => x,
        Activation::Relu => x.try_relu()?,
        Activation::LeakyRelu(slope) => {
            let negative = x.with_empty_tape().try_negate()?.try_relu()?.try_mul(slope)?;
            x.try_relu()?.try_sub(negative)?
        }
        Activation::Sigmoid => x.try_sigmoid()?,
        Activation::Tanh => x.try_tanh()?,
        Activation::Gelu => {
            // dfdx's derivative has sqrt(2) x φ(x) where x φ(x) belongs. The added term is zero and has the derivative that
            // is missing: φ' = -x φ.
            let density = surplus_density(x.with_empty_tape())?;
            let value = surplus_density(x.retaped::<NoneTape>())?;
            x.try_accurate_gelu()?.try_add(density.try_sub(value)?)?
        }
        Activation::Silu => x.with_empty_tape().try_sigmoid()?.try_mul(x)?,
    })
}

/// `(sqrt(2) - 1) φ(x)`.
fn surplus_density<S: Shape, D: Device, T: Tape<f32, D>>(x: Tensor<S, D, T>) -> ModelResult<Tensor<S, D, T>> {
    let factor = ((std::f64::consts::SQRT_2 - 1.0) / std::f64::consts::TAU.sqrt()) as f32;
    Ok(x.try_square()?.try_mul(-0.5f32)?.try_exp()?.try_mul(factor)?)
}

/// See [`Backend::linear`](crate::nn::backend::Backend::linear).
pub fn linear<D: Device, T: Tape<f32, D>>(
    x: Tensor<(usize, usize), D, T>,
    weight: &Parameter<D>,
    bias: Option<&Parameter<D>>,
    function: Activation,
) -> ModelResult<Tensor<(usize, usize), D, T>> {
    let (rows, inputs) = *x.shape();
    let outputs = weight.dims()[0];
    let weight = weight.shaped((outputs, inputs))?.try_permute::<(usize, usize), Axes2<1, 0>>()?;
    let mut y = x.try_matmul(weight)?;
    if let Some(bias) = bias {
        let bias = bias.flat().retaped::<T>().try_broadcast_like::<_, Axis<0>>(&(rows, outputs))?;
        y = y.try_add(bias)?;
    }
    activation(y, function)
}

/// See [`Backend::dropout`](crate::nn::backend::Backend::dropout).
pub fn dropout<S: Shape, D: Device, T: Tape<f32, D>>(
    x: Tensor<S, D, T>,
    key: u64,
    threshold: u32,
    scale: f32,
) -> ModelResult<Tensor<S, D, T>> {
    let shape = *x.shape();
    let mask = (0..shape.num_elements() as u64)
        .map(|index| if RandomStream::bits(key, index) < threshold { 0.0 } else { scale })
        .collect();
    let mask = x.device().try_tensor_from_vec(mask, shape)?;
    Ok(x.try_contiguous()?.try_mul(mask)?)
}

/// See [`Backend::concatenate`](crate::nn::backend::Backend::concatenate).
pub fn concatenate<D: Device, T: Tape<f32, D>>(parts: Vec<Rows<D, T>>) -> ModelResult<Rows<D, T>> {
    let mut parts = parts.into_iter();
    let Some(mut joined) = parts.next() else {
        return Err(ModelError::msg("concatenate: found no tensor, expected at least one"));
    };
    for part in parts {
        joined = (joined, part).try_concat_along(Axis::<1>)?;
    }
    Ok(joined)
}
