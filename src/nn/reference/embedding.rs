//! Tables of vectors.

use dfdx::shapes::{Axis, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::{BroadcastTo, GatherTo, TryAdd, TryMatMul, TryMul};

use crate::nn::{Parameter, Tensor};
use crate::{Device, ModelResult};

/// See [`Backend::embedding`](crate::nn::backend::Backend::embedding).
pub fn embedding<D: Device, T: Tape<f32, D>>(
    weight: &Parameter<D>,
    ids: Vec<usize>,
    padding: Option<usize>,
    tape: T,
) -> ModelResult<Tensor<(usize, usize), D, T>> {
    let (entries, size, count) = (weight.dims()[0], weight.dims()[1], ids.len());
    let table = weight.shaped((entries, size))?;
    let device = table.device().clone();
    let real: Vec<f32> = ids.iter().map(|id| f32::from(u8::from(Some(*id) != padding))).collect();
    let pads: Vec<f32> = real.iter().map(|real| 1.0 - real).collect();
    let ids = device.try_tensor_from_vec(ids, (count,))?;
    let fixed = table.clone().try_gather::<(usize, usize), (usize,)>(ids.clone())?;
    let shape = *fixed.shape();
    if !weight.is_trainable() {
        return Ok(dfdx::tensor::PutTape::put_tape(fixed, tape));
    }
    let trained = dfdx::tensor::PutTape::put_tape(table, tape).try_gather::<(usize, usize), (usize,)>(ids)?;
    let real = device.try_tensor_from_vec(real, (count,))?.try_broadcast_like::<_, Axis<1>>(&shape)?;
    let pads = device.try_tensor_from_vec(pads, (count,))?.try_broadcast_like::<_, Axis<1>>(&shape)?;
    Ok(trained.try_mul(real)?.try_add(fixed.try_mul(pads)?)?)
}

/// See [`Backend::embedding_bag`](crate::nn::backend::Backend::embedding_bag).
pub fn embedding_bag<D: Device, T: Tape<f32, D>>(
    weight: &Parameter<D>,
    ids: Vec<usize>,
    sizes: Vec<usize>,
    factors: Vec<f32>,
    tape: T,
) -> ModelResult<Tensor<(usize, usize), D, T>> {
    let (count, bags) = (ids.len(), sizes.len());
    let vectors = embedding(weight, ids, None, tape)?;
    let mut sums = vec![0.0; bags * count];
    let mut start = 0;
    for (bag, size) in sizes.into_iter().enumerate() {
        for at in start..start + size {
            sums[bag * count + at] = factors[at];
        }
        start += size;
    }
    let sums = vectors.device().try_tensor_from_vec(sums, (bags, count))?;
    Ok(sums.retaped::<T>().try_matmul(vectors)?)
}
