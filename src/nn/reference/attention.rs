//! Attention.

use dfdx::shapes::{Axes4, Axis, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::{BroadcastTo, PermuteTo, ReshapeTo, TryAdd, TryMatMul, TryMul};

use crate::nn::backend::{Attention, Sequences};
use crate::nn::reference::dropout;
use crate::{Device, ModelResult};

/// See [`Backend::attention`](crate::nn::backend::Backend::attention).
pub fn attention<D: Device, T: Tape<f32, D>>(
    queries: Sequences<D, T>,
    keys: Sequences<D, T>,
    values: Sequences<D, T>,
    attention: &Attention<'_>,
) -> ModelResult<Sequences<D, T>> {
    type Four = (usize, usize, usize, usize);
    let (batch, length, size) = *queries.shape();
    let key_length = keys.shape().1;
    let (heads, width) = (attention.heads, size / attention.heads);
    let device = queries.device().clone();
    let queries = queries.try_reshape_like(&(batch, length, heads, width))?;
    let queries: crate::nn::Tensor<Four, D, T> = queries.try_permute::<_, Axes4<0, 2, 1, 3>>()?;
    let keys = keys.try_reshape_like(&(batch, key_length, heads, width))?;
    let keys: crate::nn::Tensor<Four, D, T> = keys.try_permute::<_, Axes4<0, 2, 3, 1>>()?;
    let values = values.try_reshape_like(&(batch, key_length, heads, width))?;
    let values: crate::nn::Tensor<Four, D, T> = values.try_permute::<_, Axes4<0, 2, 1, 3>>()?;

    let mut mask = vec![0.0; batch * length * key_length];
    let mut sees = vec![1.0; batch * length];
    for row in 0..batch {
        let end = attention.lengths.map_or(key_length, |lengths| lengths[row]);
        for query in 0..length {
            let end = if attention.causal { end.min(query + 1) } else { end };
            let place = row * length + query;
            mask[place * key_length + end..(place + 1) * key_length].fill(-1e30);
            sees[place] = f32::from(u8::from(end > 0));
        }
    }
    let shape = (batch, heads, length, key_length);
    let mask = device.try_tensor_from_vec(mask, (batch, length, key_length))?;
    let scores = queries.try_matmul(keys)?.try_mul(1.0 / (width as f32).sqrt())?;
    let scores = scores.try_add(mask.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
    let mut weights = scores.try_softmax::<Axis<3>>()?;
    if let Some((key, threshold, scale)) = attention.dropout {
        weights = dropout(weights, key, threshold, scale)?;
    }
    let sees = device.try_tensor_from_vec(sees, (batch, length))?;
    let sees = sees.try_broadcast_like::<_, Axis<2>>(&(batch, length, size))?;
    let mixed = weights.try_matmul(values)?.try_permute::<Four, Axes4<0, 2, 1, 3>>()?;
    Ok(mixed.try_reshape_like(&(batch, length, size))?.try_mul(sees)?)
}
