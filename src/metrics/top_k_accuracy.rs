//! How often the class was among the first few.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::accuracy::last_axis;
use crate::metrics::examples::{as_many_of_each, can_be_summed, class_index, one_row_each, step_weights};
use crate::metrics::{Mean, Metric};
use crate::nn::{Tensor, read};
use crate::{Device, ModelError, ModelResult};

const NAME: &str = "top-k accuracy";

/// The share of examples whose label is among the `k` classes of the highest scores: for many classes, some hardly told
/// apart. Of equal scores the first class counts as higher, so `k = 1` is [`Accuracy`](crate::metrics::Accuracy); a score
/// that is NaN is never among them.
///
/// ```
/// use elistimator::metrics::{Metric, TopKAccuracy};
///
/// let scores = [0.1, 0.3, 0.6, 0.5, 0.2, 0.3];
/// assert_eq!(TopKAccuracy::from_scores(&scores, &[1, 1], 3, 2).unwrap().value(), 0.5);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TopKAccuracy(Mean);

impl TopKAccuracy {
    /// From logits or probabilities `(batch, classes)` and a label per example, or `(batch, length, classes)` and a label per
    /// step. Where padding is among the steps, take [`of_sequences`](Self::of_sequences).
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores).
    pub fn of<S: Shape, D: Device, T>(logits: &Tensor<S, D, T>, labels: &[usize], k: usize) -> ModelResult<Self> {
        Self::from_scores(&read(logits), labels, last_axis(logits), k)
    }

    /// From logits or probabilities `(batch, length, classes)` of padded sequences and a label per step: what comes after a
    /// sequence's end does not count.
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores), and when a length is longer than the padded one.
    pub fn of_sequences<S: Shape, D: Device, T>(
        logits: &Tensor<S, D, T>,
        labels: &[usize],
        lengths: &[usize],
        k: usize,
    ) -> ModelResult<Self> {
        let weights = step_weights(NAME, labels.len(), lengths)?;
        Self::weighted(&read(logits), labels, &weights, last_axis(logits), k)
    }

    /// From scores `(examples, classes)`, row by row, and a label per example.
    ///
    /// # Errors
    /// When the numbers do not fit, a label is no class, or `k` is 0 or more than there are classes.
    pub fn from_scores(scores: &[f32], labels: &[usize], classes: usize, k: usize) -> ModelResult<Self> {
        Self::weighted(scores, labels, &vec![1.0; labels.len()], classes, k)
    }

    /// With a weight for every example, 0 for those that do not count, which may have any label.
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores), and when weights are missing, negative or not finite.
    pub fn weighted(scores: &[f32], labels: &[usize], weights: &[f64], classes: usize, k: usize) -> ModelResult<Self> {
        as_many_of_each(NAME, &[("labels", labels.len()), ("weights", weights.len())])?;
        can_be_summed(NAME, weights)?;
        one_row_each(NAME, scores.len(), classes, labels.len())?;
        if !(1..=classes).contains(&k) {
            // With more than there are everything is a hit: labels of another task, or a swap of the two numbers.
            return Err(ModelError::msg(format!(
                "{NAME}: found k = {k}, expected 1 to the number of classes, {classes}"
            )));
        }
        let mut hits = Vec::with_capacity(labels.len());
        for (at, ((row, &label), &weight)) in scores.chunks(classes).zip(labels).zip(weights).enumerate() {
            if weight > 0.0 {
                let label = class_index(NAME, "label", label, at, classes)?;
                hits.push((f64::from(u8::from(is_among_first(row, label, k))), weight));
            }
        }
        Ok(Self(Mean::weighted(hits)))
    }
}

impl Metric for TopKAccuracy {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    fn value(&self) -> f64 {
        self.0.value()
    }
}

fn is_among_first(row: &[f32], label: usize, k: usize) -> bool {
    let score = row[label];
    let higher = |(class, other): &(usize, &f32)| **other > score || (**other == score && *class < label);
    !score.is_nan() && row.iter().enumerate().filter(higher).count() < k
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_first_class_and_nan_is_never_a_hit() {
        let hit = |row: &[f32], label, k| TopKAccuracy::from_scores(row, &[label], row.len(), k).unwrap().value();
        assert_eq!(
            (hit(&[1.0, 1.0, 0.0], 0, 1), hit(&[1.0, 1.0, 0.0], 1, 1), hit(&[1.0, 1.0, 0.0], 1, 2)),
            (1.0, 0.0, 1.0)
        );
        assert_eq!((hit(&[f32::NAN, 1.0], 0, 2), hit(&[f32::NAN, 1.0], 1, 1)), (0.0, 1.0));
        assert!(TopKAccuracy::from_scores(&[1.0, 2.0], &[0], 2, 0).is_err());
        let error = TopKAccuracy::from_scores(&[1.0, 2.0], &[0], 2, 5).unwrap_err().into_error().to_string();
        assert!(error.contains("found k = 5, expected 1 to the number of classes, 2"), "{error}");
        assert!(TopKAccuracy::from_scores(&[1.0, 2.0], &[2], 2, 1).is_err());
        assert!(TopKAccuracy::from_scores(&[1.0, 2.0, 3.0], &[0], 2, 1).is_err());
    }
}
