//! How often a prediction was right.

use crate::metrics::class_counts::{ClassCount, class_metric, share};

class_metric! {
    /// The share of the predictions of a class that are right, `tp / (tp + fp)`: to watch false alarms. 0 for a class that
    /// was never predicted, as in scikit-learn; classes that never occur do not enter the average.
    ///
    /// ```
    /// use elistimator::metrics::{Metric, Precision};
    ///
    /// // Two classes: precision of the positive one.
    /// let precision = Precision::from_classes(&[1, 1, 0, 1], &[1, 0, 0, 1], 2).unwrap().leave_out(&[0]).unwrap();
    /// assert_eq!(precision.value(), 2.0 / 3.0);
    /// ```
    Precision, "precision";
    |count: ClassCount| share(count.correct, count.predicted)
}
