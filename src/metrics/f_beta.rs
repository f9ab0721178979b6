//! Precision and recall in one number.

use crate::metrics::class_counts::{ClassCount, class_metric, share};
use crate::{ModelError, ModelResult};

class_metric! {
    /// The weighted harmonic mean of precision and recall, `(1 + b^2) p r / (b^2 p + r)` (van Rijsbergen 1979): one number
    /// to choose a model by when classes are of unequal size. F1 unless [`beta`](Self::beta) is set. The macro average is
    /// the mean of the classes' F, as in scikit-learn.
    ///
    /// ```
    /// use elistimator::metrics::{FBeta, Metric};
    ///
    /// let f1 = FBeta::from_classes(&[1, 1, 0, 1], &[1, 0, 0, 1], 2).unwrap().leave_out(&[0]).unwrap();
    /// assert_eq!(f1.value(), 0.8);
    /// ```
    FBeta, "F-beta", beta = 1.0;
    |count: ClassCount, beta: f64| {
        let square = beta * beta;
        share((1.0 + square) * count.correct, square * count.labelled + count.predicted)
    }
}

impl FBeta {
    /// How many times as much recall matters as precision: 2 for F2, 0.5 for F0.5.
    ///
    /// # Errors
    /// When it is negative, not finite, or larger than 10^6.
    pub fn beta(mut self, beta: f64) -> ModelResult<Self> {
        if !(0.0..=1e6).contains(&beta) {
            return Err(ModelError::msg(format!("F-beta: found beta {beta}, expected a number from 0 to 1000000")));
        }
        self.beta = beta;
        Ok(self)
    }
}
