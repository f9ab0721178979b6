//! Batch normalisation.

use cudarc::driver::{DevicePtr, DeviceRepr};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::context::{Context, blocks, size};
use super::elementwise::THREADS;
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::Parameter;
use crate::nn::backend::{Normalized, Sequences, Statistics};
use crate::{ModelError, ModelResult};

/// The kernels' `Planes`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Planes {
    batch: u32,
    channels: u32,
    pixels: u32,
}

// SAFETY: three numbers of 32 bits in C's layout, as the kernels' struct has them in the same order.
unsafe impl DeviceRepr for Planes {}

/// How a channel is cut into parts that blocks sum up: how many, and values of each. It depends on the sizes alone, so that
/// the order of the sums is always the same.
fn parts(channels: u32, count: usize) -> (u32, usize) {
    // Enough blocks for the largest devices, and enough for each thread to do.
    let most = 1024usize.div_ceil(channels.max(1) as usize);
    let per_block = count.div_ceil(most).max(8 * THREADS as usize);
    // At most `most`.
    (count.div_ceil(per_block) as u32, per_block)
}

/// See [`Backend::batch_norm`](crate::nn::backend::Backend::batch_norm).
pub(super) fn batch_norm<T: Tape<f32, Cuda>>(
    x: Sequences<Cuda, T>,
    weight: &Parameter<Cuda>,
    bias: &Parameter<Cuda>,
    epsilon: f32,
    statistics: Option<Statistics<Cuda>>,
) -> ModelResult<Normalized<Cuda, T>> {
    let shape = *x.shape();
    let (batch, channels, pixels) = shape;
    let planes = Planes { batch: size(batch)?, channels: size(channels)?, pixels: size(pixels)? };
    let given = statistics.as_ref().map_or([channels; 2], |(mean, variance)| [mean.shape().0, variance.shape().0]);
    if [weight.len(), bias.len(), given[0], given[1]] != [channels; 4] {
        return Err(ModelError::msg(format!(
            "batch normalisation: found {} gains, {} offsets and statistics of {given:?} channels, expected {channels}",
            weight.len(),
            bias.len()
        )));
    }
    let (x, tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let (values, of_channel) = (batch * channels * pixels, batch * pixels);
    let (parts, per_block) = parts(planes.channels, of_channel);
    let input = Values::of(&context, &x)?;
    let is_given = statistics.is_some();
    let (mean, variance) = match statistics {
        Some((mean, variance)) => (mean.try_contiguous()?, variance.try_contiguous()?),
        None => {
            let mean = Output::new(&context, x.device(), channels)?;
            let variance = Output::new(&context, x.device(), channels)?;
            let partial = context.uninitialized::<f32>(2 * channels * parts as usize)?;
            let partial = *partial.device_ptr();
            let arguments = (partial, input.pointer(), planes, per_block as u64);
            // SAFETY: x is of the planes, partial of two values for each part of each channel, and new.
            unsafe { context.launch("channel_moments", (planes.channels, parts), THREADS, arguments) }?;
            let grid = (blocks(channels, THREADS), 1);
            let arguments = (mean.pointer(), variance.pointer(), partial, planes, per_block as u64, parts);
            // SAFETY: as above; mean and variance are of the channels, and new.
            unsafe { context.launch("channel_statistics", grid, THREADS, arguments) }?;
            (mean.finish()?, variance.finish()?)
        }
    };
    let statistics = [Values::of(&context, &mean)?, Values::of(&context, &variance)?];
    let (weights, bias) = (weight.lend(), bias.lend());
    let y = Output::new(&context, x.device(), values)?;
    let grid = (blocks(values, THREADS), 1);
    {
        let (gamma, beta) = (Values::of(&context, &weights)?, Values::of(&context, &bias)?);
        let (mean, variance) = (statistics[0].pointer(), statistics[1].pointer());
        let count = values as u64;
        let arguments =
            (y.pointer(), input.pointer(), mean, variance, gamma.pointer(), beta.pointer(), epsilon, planes, count);
        // SAFETY: x and y are of the planes, the others of the channels; y is new.
        unsafe { context.launch("batch_norm", grid, THREADS, arguments) }?;
    }
    let recorded = weights.clone();
    let y = record(tape, &[&recorded, &bias, &x], y.finish()?, shape, move |gradients, dy| {
        let [dgamma, dbeta, dx] = *gradients else { return Ok(()) };
        let (x, mean, variance) = (input.pointer(), statistics[0].pointer(), statistics[1].pointer());
        let gamma = Values::of(&context, &weights)?;
        let partial = context.uninitialized::<f32>(2 * channels * parts as usize)?;
        let totals = context.uninitialized::<f32>(2 * channels)?;
        let (partial, totals) = (*partial.device_ptr(), *totals.device_ptr());
        let arguments = (partial, dy, x, mean, variance, epsilon, planes, per_block as u64);
        // SAFETY: as above; dy is of the planes, partial of two values for each part of each channel, and new.
        unsafe { context.launch("batch_norm_sums", (planes.channels, parts), THREADS, arguments) }?;
        let arguments = (dgamma, dbeta, totals, partial, planes.channels, parts);
        // SAFETY: as above; dgamma and dbeta are of the channels, of two parameters, totals of two for each, and new.
        unsafe { context.launch("batch_norm_parameters", (blocks(channels, THREADS), 1), THREADS, arguments) }?;
        let share = if is_given { 0.0 } else { 1.0 / of_channel as f32 };
        let arguments = (dx, dy, x, mean, variance, gamma.pointer(), totals, epsilon, share, planes, values as u64);
        // SAFETY: as above; dx is of the planes, and x and y are different tensors.
        unsafe { context.launch("batch_norm_backward", grid, THREADS, arguments) }
    })?;
    Ok((y, mean, variance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_part() {
        for (channels, count) in [(1, 1), (3, 5000), (64, 100_352), (2000, 7), (1, 100_000_000), (5, 0)] {
            let (parts, per_block) = parts(channels, count);
            assert!(parts as usize * per_block >= count && parts <= 1024, "{parts} of {per_block}");
            assert!((parts as usize).saturating_sub(1) * per_block <= count, "{parts} of {per_block}");
        }
    }
}
