//! Errors of a regression, squared.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::examples::{as_many_of_each, can_be_summed};
use crate::metrics::{Mean, Metric};
use crate::nn::{Tensor, read};
use crate::{Device, ModelResult};

/// The mean of `(predicted - target)^2`, in squared units of the target, with its root as the entry `rmse`: the usual number
/// for a regression, in which large errors dominate.
///
/// ```
/// use elistimator::metrics::{MeanSquaredError, Metric};
///
/// let mse = MeanSquaredError::from_values(&[1.0, 5.0], &[1.0, 1.0]).unwrap();
/// assert_eq!((mse.value(), mse.rmse()), (8.0, 8_f64.sqrt()));
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MeanSquaredError(Mean);

impl MeanSquaredError {
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
        let errors = errors("mean squared error", predicted, targets, weights)?;
        Ok(Self(Mean::weighted(errors.map(|(error, weight)| (error * error, weight)))))
    }

    /// The root of the mean, in units of the target.
    pub fn rmse(&self) -> f64 {
        self.value().sqrt()
    }
}

impl Metric for MeanSquaredError {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    fn value(&self) -> f64 {
        self.0.value()
    }

    fn values(&self) -> Vec<(String, f64)> {
        vec![(String::new(), self.value()), ("rmse".to_owned(), self.rmse())]
    }
}

/// `predicted - target` in double precision, with the weights.
pub(crate) fn errors(
    metric: &str,
    predicted: &[f32],
    targets: &[f32],
    weights: &[f64],
) -> ModelResult<impl Iterator<Item = (f64, f64)>> {
    as_many_of_each(
        metric,
        &[("predictions", predicted.len()), ("targets", targets.len()), ("weights", weights.len())],
    )?;
    can_be_summed(metric, weights)?;
    let errors = predicted.iter().zip(targets).map(|(&guess, &target)| f64::from(guess) - f64::from(target));
    Ok(errors.zip(weights.iter().copied()))
}
