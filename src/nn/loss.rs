//! Losses.

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::Tensor;
use crate::nn::backend::Targets;
use crate::{Device, ModelError, ModelResult};

/// The mean over the batch of `-log softmax(logits)[label]`: the loss of a classifier, from logits `(batch, classes)`
/// and one class per example.
///
/// # Errors
/// When the batch is empty, the numbers of examples differ, or a label is no class.
pub fn sparse_cross_entropy<B: Dim, K: Dim, D: Device, T: Tape<f32, D>>(
    logits: Tensor<(B, K), D, T>,
    labels: &[usize],
) -> ModelResult<Tensor<(), D, T>> {
    let (rows, classes) = (logits.shape().0.size(), logits.shape().1.size());
    check_labels(rows, classes, labels)?;
    if rows == 0 {
        return Err(ModelError::msg("cross-entropy: found an empty batch, expected at least one example"));
    }
    let logits = logits.try_reshape_like(&(rows, classes))?;
    let weights = vec![1.0 / rows as f32; rows];
    let targets = Targets::Sparse { labels, smoothing: 0.0, class_weights: None };
    D::sum(D::cross_entropy(logits, targets, &weights)?)
}

fn check_labels(rows: usize, classes: usize, labels: &[usize]) -> ModelResult<()> {
    if labels.len() != rows {
        return Err(ModelError::msg(format!(
            "cross-entropy: found {} labels for {rows} rows of logits, expected as many",
            labels.len()
        )));
    }
    match labels.iter().position(|label| *label >= classes) {
        Some(row) => Err(ModelError::msg(format!(
            "cross-entropy: found the label {} in row {row}, expected one below the {classes} classes",
            labels[row]
        ))),
        None => Ok(()),
    }
}
