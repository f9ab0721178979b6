//! How much of the variance a regression explains.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::Metric;
use crate::metrics::mean_squared_error::errors;
use crate::nn::{Tensor, read};
use crate::{Device, ModelResult};

/// The coefficient of determination, `1 - sum((t - p)^2) / sum((t - mean t)^2)`: 1 for perfect predictions, 0 for those no
/// better than the mean of the targets, negative for worse. NaN where the targets do not vary.
///
/// The variance is merged by Chan, Golub and LeVeque's update (1983), so targets far from 0 lose no precision.
///
/// ```
/// use elistimator::metrics::{Metric, R2};
///
/// assert_eq!(R2::from_values(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]).unwrap().value(), 1.0);
/// assert_eq!(R2::from_values(&[2.0, 2.0, 2.0], &[1.0, 2.0, 3.0]).unwrap().value(), 0.0);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct R2 {
    weight: f64,
    mean: f64,
    /// Sum of squared distances of the targets from their mean.
    total: f64,
    /// Sum of squared errors.
    residual: f64,
}

impl R2 {
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
        let mut r2 = Self::default();
        for ((error, weight), &target) in errors("R2", predicted, targets, weights)?.zip(targets) {
            if weight > 0.0 {
                let mean = f64::from(target);
                r2.merge(Self { weight, mean, total: 0.0, residual: weight * error * error });
            }
        }
        Ok(r2)
    }
}

impl Metric for R2 {
    fn merge(&mut self, other: Self) {
        self.residual += other.residual;
        let weight = self.weight + other.weight;
        if weight > 0.0 {
            let distance = other.mean - self.mean;
            let share = other.weight / weight;
            self.mean += distance * share;
            self.total += other.total + distance * distance * self.weight * share;
        }
        self.weight = weight;
    }

    fn value(&self) -> f64 {
        if self.total > 0.0 { 1.0 - self.residual / self.total } else { f64::NAN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_do_not_vary_have_no_r2() {
        assert!(R2::default().value().is_nan());
        assert!(R2::from_values(&[1.0, 1.0], &[2.0, 2.0]).unwrap().value().is_nan());
        assert!(R2::from_values(&[1.0], &[]).is_err());
    }

    #[test]
    fn targets_far_from_zero_keep_their_variance() {
        let targets: Vec<f32> = (0..1000).map(|i| 8e6 + (i % 2) as f32).collect();
        let guess: Vec<f32> = (0..1000).map(|i| 8e6 + (i % 4 / 2) as f32).collect();
        let whole = R2::from_values(&guess, &targets).unwrap().value();
        assert!((whole - (1.0 - 500.0 / 250.0)).abs() < 1e-9, "{whole}");
    }
}
