//! How often the right one of two classes was chosen.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::examples::{as_many_of_each, can_be_summed, is_positive};
use crate::metrics::{Mean, Metric};
use crate::nn::{Tensor, read};
use crate::{Device, ModelResult};

/// The share of examples on the right side of a threshold: for models with one output. Scores above the threshold mean
/// class 1: 0.5 for probabilities, 0 for logits.
///
/// ```
/// use elistimator::metrics::{BinaryAccuracy, Metric};
///
/// assert_eq!(BinaryAccuracy::from_scores(&[0.2, 0.5, 0.9], &[0, 1, 1], 0.5).unwrap().value(), 2.0 / 3.0);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BinaryAccuracy(Mean);

impl BinaryAccuracy {
    /// From scores of any shape, and a label, 0 or 1, for each.
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores).
    pub fn of<S: Shape, D: Device, T>(scores: &Tensor<S, D, T>, labels: &[usize], threshold: f32) -> ModelResult<Self> {
        Self::from_scores(&read(scores), labels, threshold)
    }

    /// From scores, and a label, 0 or 1, for each.
    ///
    /// # Errors
    /// When their numbers differ, or a label is neither 0 nor 1.
    pub fn from_scores(scores: &[f32], labels: &[usize], threshold: f32) -> ModelResult<Self> {
        Self::weighted(scores, labels, &vec![1.0; labels.len()], threshold)
    }

    /// With a weight for every example, 0 for those that do not count, which may have any label.
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores), and when weights are missing, negative or not finite.
    pub fn weighted(scores: &[f32], labels: &[usize], weights: &[f64], threshold: f32) -> ModelResult<Self> {
        let metric = "binary accuracy";
        as_many_of_each(metric, &[("scores", scores.len()), ("labels", labels.len()), ("weights", weights.len())])?;
        can_be_summed(metric, weights)?;
        let mut hits = Vec::with_capacity(labels.len());
        for (at, ((&score, &label), &weight)) in scores.iter().zip(labels).zip(weights).enumerate() {
            if weight > 0.0 {
                // A score that is no number is on no side.
                let hit = !score.is_nan() && (score > threshold) == is_positive(metric, label, at)?;
                hits.push((f64::from(u8::from(hit)), weight));
            }
        }
        Ok(Self(Mean::weighted(hits)))
    }
}

impl Metric for BinaryAccuracy {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    fn value(&self) -> f64 {
        self.0.value()
    }
}
