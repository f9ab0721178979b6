//! Sequences of different lengths in one batch.

use dfdx::shapes::{Axis, Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::{BroadcastTo, MaxTo, ReshapeTo, TryAdd, TryMul};

use crate::nn::Tensor;
use crate::{Device, ModelError, ModelResult};

/// One length per sequence, none longer than the padded one.
pub(crate) fn check_lengths(what: &str, lengths: &[usize], batch: usize, length: usize) -> ModelResult<()> {
    if lengths.len() != batch {
        return Err(ModelError::msg(format!("{what}: found {} lengths for a batch of {batch}", lengths.len())));
    }
    match lengths.iter().position(|found| *found > length) {
        Some(row) => Err(ModelError::msg(format!(
            "{what}: found the length {} of sequence {row}, expected at most the padded {length}",
            lengths[row]
        ))),
        None => Ok(()),
    }
}

/// 1 for each step of a sequence and 0 after its end: `(batch, length)`.
///
/// # Errors
/// When a sequence is longer than `length`.
pub fn sequence_mask<D: Device>(
    device: &D,
    lengths: &[usize],
    length: usize,
) -> ModelResult<Tensor<(usize, usize), D>> {
    check_lengths("sequence mask", lengths, lengths.len(), length)?;
    Ok(device.try_tensor_from_vec(mask_values(lengths, length), (lengths.len(), length))?)
}

pub(crate) fn mask_values(lengths: &[usize], length: usize) -> Vec<f32> {
    lengths.iter().flat_map(|end| (0..length).map(move |step| f32::from(u8::from(step < *end)))).collect()
}

/// A factor for each step, the same for all its values.
fn scaled<B: Dim, L: Dim, E: Dim, D: Device, T: Tape<f32, D>>(
    x: Tensor<(B, L, E), D, T>,
    factors: Vec<f32>,
) -> ModelResult<Tensor<(B, L, E), D, T>> {
    let shape = *x.shape();
    let factors = x.device().try_tensor_from_vec(factors, (shape.0, shape.1))?;
    Ok(x.try_mul(factors.try_broadcast_like::<_, Axis<2>>(&shape)?)?)
}

/// Sets what comes after each sequence's end to zero: `(batch, length, values)` to the same.
///
/// # Errors
/// When there are more or fewer lengths than sequences, or one is longer than the padded length.
pub fn mask_after_end<B: Dim, L: Dim, E: Dim, D: Device, T: Tape<f32, D>>(
    x: Tensor<(B, L, E), D, T>,
    lengths: &[usize],
) -> ModelResult<Tensor<(B, L, E), D, T>> {
    let (batch, length, _) = *x.shape();
    check_lengths("mask", lengths, batch.size(), length.size())?;
    scaled(x, mask_values(lengths, length.size()))
}

/// The mean over the steps of each sequence, `(batch, length, values)` to `(batch, values)`; zeros where the length is 0.
///
/// # Errors
/// When there are more or fewer lengths than sequences, or one is longer than the padded length.
pub fn mean_over_time<B: Dim, L: Dim, E: Dim, D: Device, T: Tape<f32, D>>(
    x: Tensor<(B, L, E), D, T>,
    lengths: &[usize],
) -> ModelResult<Tensor<(B, E), D, T>> {
    let (batch, length, _) = *x.shape();
    check_lengths("mean over time", lengths, batch.size(), length.size())?;
    let mut factors = mask_values(lengths, length.size());
    for (row, end) in factors.chunks_exact_mut(length.size().max(1)).zip(lengths) {
        row.iter_mut().for_each(|factor| *factor /= (*end).max(1) as f32);
    }
    let (batch, length, size) = *x.shape();
    let x = scaled(x, factors)?.try_reshape_like(&(batch.size(), length.size(), size.size()))?;
    Ok(D::middle_sums(x)?.try_reshape_like(&(batch, size))?)
}

/// The largest value over the steps of each sequence, `(batch, length, values)` to `(batch, values)`: what a text CNN does
/// to its features. Of equal values all receive the gradient.
///
/// # Errors
/// As [`mean_over_time`], and when a length is 0: nothing has no largest value.
pub fn max_over_time<B: Dim, L: Dim, E: Dim, D: Device, T: Tape<f32, D>>(
    x: Tensor<(B, L, E), D, T>,
    lengths: &[usize],
) -> ModelResult<Tensor<(B, E), D, T>> {
    let shape = *x.shape();
    check_lengths("max over time", lengths, shape.0.size(), shape.1.size())?;
    if let Some(row) = lengths.iter().position(|end| *end == 0) {
        return Err(ModelError::msg(format!(
            "max over time: found the length 0 of sequence {row}, expected at least 1"
        )));
    }
    // What comes after the end is multiplied by 0 and pushed below everything.
    let mask = mask_values(lengths, shape.1.size());
    let far = mask.iter().map(|mask| if *mask == 0.0 { -1e30 } else { 0.0 }).collect();
    let far = x.device().try_tensor_from_vec(far, (shape.0, shape.1))?;
    let x = scaled(x, mask)?.try_add(far.try_broadcast_like::<_, Axis<2>>(&shape)?)?;
    Ok(x.try_max::<(B, E), Axis<1>>()?)
}
