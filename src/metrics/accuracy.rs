//! How often the class was right.

use dfdx::shapes::{HasShape, Shape};
use serde::{Deserialize, Serialize};

use crate::metrics::examples::{as_many_of_each, can_be_summed, step_weights};
use crate::metrics::{Mean, Metric};
use crate::nn::{Tensor, read};
use crate::{Device, ModelResult};

/// The share of examples whose predicted class is the label.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Accuracy(Mean);

impl Accuracy {
    /// From logits or probabilities `(batch, classes)` and a label per example, or `(batch, length, classes)` and a label per
    /// step; of equal logits the first counts. Where padding is among the steps, take [`of_sequences`](Self::of_sequences).
    ///
    /// # Errors
    /// When the numbers of examples and labels differ.
    pub fn of<S: Shape, D: Device, T>(logits: &Tensor<S, D, T>, labels: &[usize]) -> ModelResult<Self> {
        Self::from_classes(&argmax(logits), labels)
    }

    /// From logits `(batch, length, classes)` of padded sequences and a label per step: what comes after a sequence's end does
    /// not count.
    ///
    /// # Errors
    /// Those of [`of`](Self::of), and when a length is longer than the padded one.
    pub fn of_sequences<S: Shape, D: Device, T>(
        logits: &Tensor<S, D, T>,
        labels: &[usize],
        lengths: &[usize],
    ) -> ModelResult<Self> {
        Self::weighted(&argmax(logits), labels, &step_weights("accuracy", labels.len(), lengths)?)
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
    /// When the numbers of classes, labels and weights differ, and when weights are negative or not finite.
    pub fn weighted(predicted: &[i64], labels: &[usize], weights: &[f64]) -> ModelResult<Self> {
        as_many_of_each(
            "accuracy",
            &[("predictions", predicted.len()), ("labels", labels.len()), ("weights", weights.len())],
        )?;
        can_be_summed("accuracy", weights)?;
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

/// The class of the largest value along the last axis, the first of equal ones: predictions from logits or probabilities
/// `(batch, classes)`, one for each example, or `(batch, length, classes)`, one for each step in row-major order; give those the
/// shape of an output by `Array::new([batch, length], argmax(&logits))`.
pub fn argmax<S: Shape, D: Device, T>(values: &Tensor<S, D, T>) -> Vec<i64> {
    let classes = last_axis(values).max(1);
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

/// The length of the last axis, along which classes lie; 1 for a scalar.
pub(crate) fn last_axis<S: Shape, D: Device, T>(values: &Tensor<S, D, T>) -> usize {
    values.shape().concrete().into_iter().last().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use dfdx::tensor::{TensorFrom, TensorFromVec};

    use super::*;
    use crate::DeviceSpec;
    use crate::device::Cpu;

    #[test]
    fn the_last_axis_has_the_classes() -> ModelResult<()> {
        let device = Cpu::open(DeviceSpec::Cpu, 0)?;
        let values = vec![0.1, 0.9, 0.5, 0.5, 0.8, 0.2, 0.0, 1.0];
        let flat: Tensor<(usize, usize), Cpu> = device.tensor_from_vec(values.clone(), (4, 2));
        let steps: Tensor<(usize, usize, usize), Cpu> = device.tensor_from_vec(values, (2, 2, 2));
        assert_eq!(argmax(&flat), [1, 0, 0, 1]);
        assert_eq!(argmax(&steps), [1, 0, 0, 1]);
        assert_eq!(Accuracy::of(&steps, &[1, 0, 1, 1])?.value(), 0.75);
        assert_eq!(Accuracy::of_sequences(&steps, &[1, 9, 1, 1], &[1, 2])?.value(), 2.0 / 3.0);
        for weight in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(Accuracy::weighted(&[0, 1], &[0, 1], &[1.0, weight]).is_err(), "{weight}");
        }
        assert_eq!(argmax(&device.tensor(3.0f32)), [0]);
        assert!(argmax(&device.tensor_from_vec(Vec::new(), (0usize, 3usize))).is_empty());
        Ok(())
    }
}
