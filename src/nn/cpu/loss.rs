//! Softmax cross-entropy.

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;

use super::math::exp;
use super::record::{flat, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::Tensor;
use crate::nn::backend::Targets;

/// See [`Backend::cross_entropy`](crate::nn::backend::Backend::cross_entropy).
pub(crate) fn cross_entropy<T: Tape<f32, Cpu>>(
    logits: Tensor<(usize, usize), Cpu, T>,
    targets: Targets<'_, Cpu>,
    row_weights: &[f32],
) -> ModelResult<Tensor<(usize,), Cpu, T>> {
    let (rows, classes) = *logits.shape();
    let (logits, mut tape) = logits.try_contiguous()?.split_tape();
    let mut probabilities = Scratch::copy_of(&logits);
    let mut losses = vec![0.0; rows];

    // What backward subtracts: the targets times the row's weight. One label per row needs no matrix.
    let mut dense = Scratch::dirty(if one_hot(&targets).is_some() { 0 } else { rows * classes });
    match &targets {
        Targets::Dense(targets) => (*targets).clone().try_contiguous()?.copy_into(&mut dense),
        Targets::Sparse { labels, smoothing, class_weights } if !dense.is_empty() => {
            dense.fill(smoothing / classes as f32);
            for (row, label) in dense.chunks_exact_mut(classes).zip(*labels) {
                row[*label] += 1.0 - smoothing;
                if let Some(weights) = class_weights {
                    for (target, weight) in row.iter_mut().zip(*weights) {
                        *target *= weight;
                    }
                }
            }
        }
        Targets::Sparse { .. } => {}
    }
    let labels = one_hot(&targets);
    for (row, values) in probabilities.chunks_exact_mut(classes).enumerate() {
        // A row that does not count may hold anything, and 0 times infinity is no 0.
        if row_weights[row] == 0.0 {
            continue;
        }
        let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = super::vectorized(
            #[inline(always)]
            || values.iter().map(|x| exp(x - largest)).sum::<f32>(),
        );
        // Differences from the largest are exact where the logits are large and their sum would not be.
        let log_sum = log_sum.ln();
        let loss = match labels {
            Some(labels) => log_sum + (largest - values[labels[row]]),
            None => {
                let targets = &dense[row * classes..][..classes];
                // A target of 0 contributes nothing even where the logit is minus infinity.
                let terms = targets.iter().zip(values.iter()).filter(|(t, _)| **t != 0.0);
                terms.map(|(t, x)| t * (log_sum + (largest - x))).sum()
            }
        };
        losses[row] = row_weights[row] * loss;
        super::vectorized(
            #[inline(always)]
            || {
                for x in values.iter_mut() {
                    *x = exp(*x - largest - log_sum);
                }
            },
        );
    }
    let y = logits.device().try_tensor_from_vec(losses, (rows,))?;
    if T::OWNS_TAPE {
        let labels = labels.map(<[usize]>::to_vec);
        let weights = row_weights.to_vec();
        record(&mut tape, &[&flat(&logits)?], &[&y], move |dx, dy| {
            for (row, dx) in dx[0].chunks_exact_mut(classes).enumerate() {
                if weights[row] == 0.0 {
                    continue;
                }
                let scale = weights[row] * dy[0][row];
                let p = &probabilities[row * classes..][..classes];
                if let Some(labels) = &labels {
                    for (dx, p) in dx.iter_mut().zip(p) {
                        *dx += scale * p;
                    }
                    dx[labels[row]] -= scale;
                } else {
                    let t = &dense[row * classes..][..classes];
                    let total: f32 = t.iter().sum();
                    for ((dx, p), t) in dx.iter_mut().zip(p).zip(t) {
                        *dx += scale * (total * p - t);
                    }
                }
            }
        });
    }
    Ok(y.put_tape(tape))
}

/// The labels, if each row's target is 1 for its label and 0 elsewhere.
fn one_hot<'a>(targets: &Targets<'a, Cpu>) -> Option<&'a [usize]> {
    match targets {
        Targets::Sparse { labels, smoothing: 0.0, class_weights: None } => Some(labels),
        _ => None,
    }
}
