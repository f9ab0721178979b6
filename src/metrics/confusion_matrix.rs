//! Which classes are taken for which.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::accuracy::last_axis;
use crate::metrics::examples::{as_many_of_each, can_be_summed, class_count, class_index};
use crate::metrics::{Figure, Metric, argmax};
use crate::nn::Tensor;
use crate::{Device, ModelResult};

/// How often each class was predicted for each label, to see which classes a classifier takes for which. Rows are labels,
/// columns predictions; its [`value`](Metric::value) is the accuracy. As a metric of an evaluation it is drawn by every
/// `validate`: for TensorBoard, and by [`Elistimator::plot`](crate::Elistimator).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ConfusionMatrix {
    counts: Vec<f64>,
}

impl ConfusionMatrix {
    /// The most classes: counts grow with their square (128 MiB here).
    pub const MAX_CLASSES: usize = 4096;

    /// From logits or probabilities `(batch, classes)` and a label per example, or `(batch, length, classes)` and one per step.
    ///
    /// # Errors
    /// Those of [`from_classes`](Self::from_classes).
    pub fn of<S: Shape, D: Device, T>(logits: &Tensor<S, D, T>, labels: &[usize]) -> ModelResult<Self> {
        Self::from_classes(&argmax(logits), labels, last_axis(logits))
    }

    /// From predicted classes and labels, each one of `classes`.
    ///
    /// # Errors
    /// When the numbers of predictions and labels differ, a class does not exist, or there are more than
    /// [`MAX_CLASSES`](Self::MAX_CLASSES).
    pub fn from_classes(predicted: &[i64], labels: &[usize], classes: usize) -> ModelResult<Self> {
        Self::weighted(predicted, labels, &vec![1.0; labels.len()], classes)
    }

    /// With a weight for every example, which is what it counts as; one of weight 0 may have any class, even none that exists.
    ///
    /// # Errors
    /// Those of [`from_classes`](Self::from_classes), and when weights are missing, negative or not finite.
    pub fn weighted(predicted: &[i64], labels: &[usize], weights: &[f64], classes: usize) -> ModelResult<Self> {
        let metric = "confusion matrix";
        as_many_of_each(
            metric,
            &[("predictions", predicted.len()), ("labels", labels.len()), ("weights", weights.len())],
        )?;
        can_be_summed(metric, weights)?;
        class_count(metric, classes, Self::MAX_CLASSES)?;
        let mut counts = vec![0.0; classes * classes];
        for (at, ((&class, &label), &weight)) in predicted.iter().zip(labels).zip(weights).enumerate() {
            if weight > 0.0 {
                let column = class_index(metric, "prediction", class, at, classes)?;
                let row = class_index(metric, "label", label, at, classes)?;
                counts[row * classes + column] += weight;
            }
        }
        Ok(Self { counts })
    }

    /// How many classes there are: both dimensions of the matrix.
    pub fn classes(&self) -> usize {
        self.counts.len().isqrt()
    }

    /// The counts `(classes, classes)`, a row per label, row by row.
    pub fn counts(&self) -> &[f64] {
        &self.counts
    }

    /// How often `predicted` was the answer for `label`; 0 for classes that do not exist.
    pub fn count(&self, label: usize, predicted: usize) -> f64 {
        self.rows().nth(label).and_then(|row| row.get(predicted)).copied().unwrap_or(0.0)
    }

    /// The counts, a row per label.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.counts.chunks(self.classes().max(1))
    }

    /// The shares `(classes, classes)` of each label's predictions, row by row: rows sum to 1, those of labels that never
    /// occurred are 0. The colours of a plot.
    pub fn shares(&self) -> Vec<f64> {
        let share = |row: &[f64]| {
            let sum: f64 = row.iter().sum();
            row.iter().map(|count| if sum > 0.0 { count / sum } else { 0.0 }).collect::<Vec<_>>()
        };
        self.rows().flat_map(share).collect()
    }
}

impl Metric for ConfusionMatrix {
    /// Matrices of different sizes give one of the larger size.
    fn merge(&mut self, other: Self) {
        let (mut larger, smaller) = if self.counts.len() < other.counts.len() {
            (other, std::mem::take(self))
        } else {
            (std::mem::take(self), other)
        };
        let classes = larger.classes().max(1);
        for (into, from) in larger.counts.chunks_mut(classes).zip(smaller.rows()) {
            into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        }
        *self = larger;
    }

    fn value(&self) -> f64 {
        let right: f64 = self.counts.iter().step_by(self.classes() + 1).sum();
        right / self.counts.iter().sum::<f64>()
    }

    fn figure(&self) -> Option<Figure> {
        Some(self.clone().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_labels() {
        let mut matrix = ConfusionMatrix::from_classes(&[0, 1, 1], &[0, 0, 1], 2).unwrap();
        assert_eq!(matrix.counts(), [1.0, 1.0, 0.0, 1.0]);
        assert_eq!(
            (matrix.count(0, 1), matrix.count(1, 0), matrix.count(0, 2), matrix.count(7, 0)),
            (1.0, 0.0, 0.0, 0.0)
        );
        assert_eq!(matrix.shares(), [0.5, 0.5, 0.0, 1.0]);
        assert_eq!(matrix.value(), 2.0 / 3.0);
        matrix.merge(ConfusionMatrix::weighted(&[2, -1], &[0, 9], &[0.5, 0.0], 3).unwrap());
        assert_eq!(matrix.counts(), [1.0, 1.0, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        matrix.merge(ConfusionMatrix::default());
        assert_eq!((matrix.classes(), matrix.value()), (3, 2.0 / 3.5));
        assert!(ConfusionMatrix::default().value().is_nan());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for result in [
            ConfusionMatrix::from_classes(&[0], &[0, 1], 2),
            ConfusionMatrix::from_classes(&[2], &[0], 2),
            ConfusionMatrix::from_classes(&[-1], &[0], 2),
            ConfusionMatrix::from_classes(&[0], &[2], 2),
            ConfusionMatrix::from_classes(&[], &[], 0),
            ConfusionMatrix::from_classes(&[], &[], usize::MAX),
            ConfusionMatrix::weighted(&[0], &[0], &[], 1),
        ] {
            assert!(result.is_err());
        }
    }
}
