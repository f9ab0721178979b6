//! Errors of a regression, without their sign.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::mean_squared_error::errors;
use crate::metrics::{Mean, Metric};
use crate::nn::{Tensor, read};
use crate::{Device, ModelResult};

/// The mean of `|predicted - target|`, in units of the target: for a regression in which outliers should not dominate.
///
/// ```
/// use elistimator::metrics::{MeanAbsoluteError, Metric};
///
/// assert_eq!(MeanAbsoluteError::from_values(&[1.0, 5.0], &[1.0, 1.0]).unwrap().value(), 2.0);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MeanAbsoluteError(Mean);

impl MeanAbsoluteError {
    /// From predictions of any shape and a target for each.
    ///
    /// # Errors
    /// When their numbers differ.
    pub fn of<S: Shape, D: Device, T>(predicted: &Tensor<S, D, T>, targets: &[f32]) -> ModelResult<Self> {
        Self::from_values(&read(predicted), targets)
    }

    /// From predictions and targets.
    ///
    /// # Errors
    /// When their numbers differ.
    pub fn from_values(predicted: &[f32], targets: &[f32]) -> ModelResult<Self> {
        Self::weighted(predicted, targets, &vec![1.0; targets.len()])
    }

    /// With a weight for every prediction, 0 for those that do not count.
    ///
    /// # Errors
    /// When the numbers of predictions, targets and weights differ, or a weight is negative or not finite.
    pub fn weighted(predicted: &[f32], targets: &[f32], weights: &[f64]) -> ModelResult<Self> {
        let errors = errors("mean absolute error", predicted, targets, weights)?;
        Ok(Self(Mean::weighted(errors.map(|(error, weight)| (error.abs(), weight)))))
    }
}

impl Metric for MeanAbsoluteError {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    fn value(&self) -> f64 {
        self.0.value()
    }
}
