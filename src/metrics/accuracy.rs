//! How often the class was right.

use dfdx::shapes::{Dim, HasShape};
use serde::{Deserialize, Serialize};

use crate::metrics::{Mean, Metric};
use crate::nn::{Tensor, read};
use crate::{Device, ModelError, ModelResult};

/// The share of examples whose predicted class is the label.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Accuracy(Mean);

impl Accuracy {
    /// From logits or probabilities `(batch, classes)` and a label per example; of equal logits the first counts.
    ///
    /// # Errors
    /// When the numbers of examples and labels differ.
    pub fn of<B: Dim, K: Dim, D: Device, T>(logits: &Tensor<(B, K), D, T>, labels: &[usize]) -> ModelResult<Self> {
        Self::from_classes(&argmax(logits), labels)
    }

    /// From predicted classes and labels.
    ///
    /// # Errors
    /// When their numbers differ.
    pub fn from_classes(predicted: &[i64], labels: &[usize]) -> ModelResult<Self> {
        Self::weighted(predicted, labels, &vec![1.0; labels.len()])
    }

    /// With a weight for every example: 0 for those that do not count, such as padding.
    ///
    /// # Errors
    /// When the numbers of classes, labels and weights differ.
    pub fn weighted(predicted: &[i64], labels: &[usize], weights: &[f64]) -> ModelResult<Self> {
        if predicted.len() != labels.len() || weights.len() != labels.len() {
            return Err(ModelError::msg(format!(
                "accuracy: found {} predictions, {} labels and {} weights, expected as many of each",
                predicted.len(),
                labels.len(),
                weights.len()
            )));
        }
        let hits = predicted
            .iter()
            .zip(labels)
            .map(|(&class, &label)| f64::from(u8::from(usize::try_from(class).is_ok_and(|class| class == label))));
        Ok(Self(Mean::weighted(hits.zip(weights.iter().copied()))))
    }
}

impl Metric for Accuracy {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    fn value(&self) -> f64 {
        self.0.value()
    }
}

/// The class of the largest value in each row of `(batch, classes)`, the first of equal ones: predictions from logits or
/// probabilities.
pub fn argmax<B: Dim, K: Dim, D: Device, T>(values: &Tensor<(B, K), D, T>) -> Vec<i64> {
    let classes = values.shape().1.size().max(1);
    let best = |row: &[f32]| {
        let mut best = 0;
        for (class, value) in row.iter().enumerate() {
            if *value > row[best] {
                best = class;
            }
        }
        best as i64
    };
    read(values).chunks(classes).map(best).collect()
}
