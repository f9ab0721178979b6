//! Normalisation.

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;
use rayon::prelude::*;

use super::record::{flat, host, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::Parameter;
use crate::nn::backend::{Normalized, Rows, Sequences, Statistics};

/// See [`Backend::layer_norm`](crate::nn::backend::Backend::layer_norm).
pub(crate) fn layer_norm<T: Tape<f32, Cpu>>(
    x: Rows<Cpu, T>,
    weight: &Parameter<Cpu>,
    bias: &Parameter<Cpu>,
    epsilon: f32,
) -> ModelResult<Rows<Cpu, T>> {
    let (rows, size) = *x.shape();
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let (gains, offsets) = (host(weight)?, host(bias)?);
    let mut normal = Scratch::copy_of(&x);
    let mut scales = Scratch::dirty(rows);
    let mut y = vec![0.0; rows * size];
    super::vectorized(
        #[inline(always)]
        || {
            for ((normal, scale), y) in
                normal.chunks_exact_mut(size).zip(scales.iter_mut()).zip(y.chunks_exact_mut(size))
            {
                let mean = sum(normal) / size as f32;
                for x in normal.iter_mut() {
                    *x -= mean;
                }
                *scale = 1.0 / (sum_of_products(normal, normal) / size as f32 + epsilon).sqrt();
                for x in normal.iter_mut() {
                    *x *= *scale;
                }
                y.iter_mut()
                    .zip(normal.iter().zip(gains.iter().zip(offsets.iter())))
                    .for_each(|(y, (n, (g, o)))| *y = n * g + o);
            }
        },
    );
    let y = x.device().try_tensor_from_vec(y, (rows, size))?;
    record(&mut tape, &[&weight.identity(), &bias.identity(), &flat(&x)?], &[&flat(&y)?], move |gradients, dy| {
        let [dw, db, dx] = gradients else { return };
        super::vectorized(
            #[inline(always)]
            || {
                let mut scaled = vec![0.0; size];
                let rows = normal.chunks_exact(size).zip(scales.iter()).zip(dy[0].chunks_exact(size));
                for (((normal, scale), dy), dx) in rows.zip(dx.chunks_exact_mut(size)) {
                    for k in 0..size {
                        dw[k] += dy[k] * normal[k];
                        db[k] += dy[k];
                        scaled[k] = dy[k] * gains[k];
                    }
                    let mean = sum(&scaled) / size as f32;
                    let along = sum_of_products(&scaled, normal) / size as f32;
                    for k in 0..size {
                        dx[k] += scale * (scaled[k] - mean - normal[k] * along);
                    }
                }
            },
        );
    });
    Ok(y.put_tape(tape))
}

/// Values that are summed in floats where there may be many; the sums of such blocks are added up in f64.
pub(super) const BLOCK: usize = 1024;

/// Sums in 16 lanes, so that the loop vectorises the same way everywhere.
#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let chunks = values.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane += v);
    }
    lanes.iter().sum::<f32>() + rest
}

/// The same of products.
#[inline(always)]
pub(super) fn sum_of_products(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for k in 0..16 {
            lanes[k] += a[k] * b[k];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The same of squared distances.
#[inline(always)]
fn sum_of_squares_about(values: &[f32], mean: f32) -> f32 {
    let mut lanes = [0.0; 16];
    let chunks = values.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|x| (x - mean) * (x - mean)).sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += (x - mean) * (x - mean));
    }
    lanes.iter().sum::<f32>() + rest
}

/// See [`Backend::batch_norm`](crate::nn::backend::Backend::batch_norm).
pub(crate) fn batch_norm<T: Tape<f32, Cpu>>(
    x: Sequences<Cpu, T>,
    weight: &Parameter<Cpu>,
    bias: &Parameter<Cpu>,
    epsilon: f32,
    statistics: Option<Statistics<Cpu>>,
) -> ModelResult<Normalized<Cpu, T>> {
    let shape = *x.shape();
    let (batch, channels, pixels) = shape;
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let (gains, offsets) = (host(weight)?, host(bias)?);
    let mut normal = Scratch::copy_of(&x);
    let count = (batch * pixels) as f32;
    let is_given = statistics.is_some();
    let (mean, variance) = match &statistics {
        Some((mean, variance)) => (Scratch::copy_of(mean), Scratch::copy_of(variance)),
        None => {
            let (mut mean, mut variance) = (Scratch::zeros(channels), Scratch::zeros(channels));
            let count = (batch * pixels) as f64;
            mean.par_iter_mut().zip(variance.par_iter_mut()).enumerate().for_each(|(channel, (mean, variance))| {
                let planes = || (0..batch).map(|row| &normal[(row * channels + channel) * pixels..][..pixels]);
                // A channel may have millions of values, whose sum in floats would drift.
                let blocks = || planes().flat_map(|plane| plane.chunks(BLOCK));
                *mean = (blocks().map(|block| f64::from(sum(block))).sum::<f64>() / count) as f32;
                let squares = |block: &[f32]| f64::from(sum_of_squares_about(block, *mean));
                *variance = (blocks().map(squares).sum::<f64>() / count) as f32;
            });
            (mean, variance)
        }
    };
    let scales: Vec<f32> = variance.iter().map(|variance| 1.0 / (variance + epsilon).sqrt()).collect();
    let mut y = vec![0.0; batch * channels * pixels];
    if pixels > 0 {
        normal.par_chunks_mut(pixels).zip(y.par_chunks_mut(pixels)).enumerate().for_each(|(plane, (normal, y))| {
            let channel = plane % channels;
            let (mean, scale, gain, offset) = (mean[channel], scales[channel], gains[channel], offsets[channel]);
            for (normal, y) in normal.iter_mut().zip(y) {
                *normal = (*normal - mean) * scale;
                *y = *normal * gain + offset;
            }
        });
    }
    let device = x.device();
    let y = device.try_tensor_from_vec(y, shape)?;
    let (mean, variance) = match statistics {
        Some(given) => given,
        None => (
            device.try_tensor_from_vec(mean.to_vec(), (channels,))?,
            device.try_tensor_from_vec(variance.to_vec(), (channels,))?,
        ),
    };
    let inputs = [&weight.identity(), &bias.identity(), &flat(&x)?];
    record(&mut tape, &inputs, &[&flat(&y)?], move |gradients, dy| {
        let [dw, db, dx] = gradients else { return };
        let dy = &dy[0];
        let planes = |channel: usize| (0..batch).map(move |row| (row * channels + channel) * pixels);
        dw.par_iter_mut().zip(db.par_iter_mut()).enumerate().for_each(|(channel, (dw, db))| {
            *dw +=
                planes(channel).map(|at| sum_of_products(&dy[at..at + pixels], &normal[at..at + pixels])).sum::<f32>();
            *db += planes(channel).map(|at| sum(&dy[at..at + pixels])).sum::<f32>();
        });
        // Sums of this pass alone: the parameters' gradients may already have held something.
        let sums: Vec<(f32, f32)> = (0..channels)
            .into_par_iter()
            .map(|channel| {
                let along = |at: usize| sum_of_products(&dy[at..at + pixels], &normal[at..at + pixels]);
                let total = |at: usize| sum(&dy[at..at + pixels]);
                (planes(channel).map(along).sum(), planes(channel).map(total).sum())
            })
            .collect();
        if pixels == 0 {
            return;
        }
        dx.par_chunks_mut(pixels).enumerate().for_each(|(plane, dx)| {
            let channel = plane % channels;
            let factor = gains[channel] * scales[channel];
            let (along, total) = if is_given { (0.0, 0.0) } else { sums[channel] };
            let at = plane * pixels;
            for (dx, (dy, normal)) in dx.iter_mut().zip(dy[at..].iter().zip(&normal[at..])) {
                *dx += factor * (dy - total / count - normal * along / count);
            }
        });
    });
    Ok((y.put_tape(tape), mean, variance))
}
