//! Losses.

use dfdx::shapes::{Axis, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::{SumTo, TryMul};

use crate::nn::Tensor;
use crate::nn::backend::Targets;
use crate::{Device, ModelResult};

/// See [`Backend::cross_entropy`](crate::nn::backend::Backend::cross_entropy).
pub fn cross_entropy<D: Device, T: Tape<f32, D>>(
    logits: Tensor<(usize, usize), D, T>,
    targets: Targets<'_, D>,
    row_weights: &[f32],
) -> ModelResult<Tensor<(usize,), D, T>> {
    let (rows, classes) = *logits.shape();
    let device = logits.device().clone();
    let targets = match targets {
        Targets::Dense(targets) => targets.clone(),
        Targets::Sparse { labels, smoothing, class_weights } => {
            let mut values = vec![smoothing / classes as f32; rows * classes];
            for (row, label) in values.chunks_exact_mut(classes.max(1)).zip(labels) {
                row[*label] += 1.0 - smoothing;
                if let Some(weights) = class_weights {
                    row.iter_mut().zip(weights).for_each(|(value, weight)| *value *= weight);
                }
            }
            device.try_tensor_from_vec(values, (rows, classes))?
        }
    };
    let weights = device.try_tensor_from_vec(row_weights.iter().map(|weight| -weight).collect(), (rows,))?;
    let losses = logits.try_log_softmax::<Axis<1>>()?.try_mul(targets)?.try_sum::<(usize,), Axis<1>>()?;
    Ok(losses.try_mul(weights)?)
}
