//! How much was found.

use crate::metrics::class_counts::{ClassCount, class_metric, share};

class_metric! {
    /// The share of the examples of a class that were found, `tp / (tp + fn)`: to watch misses. 0 for a class that was only
    /// ever predicted, as in scikit-learn; classes that never occur do not enter the average.
    ///
    /// ```
    /// use elistimator::metrics::{Average, Metric, Recall};
    ///
    /// let recall = Recall::from_classes(&[0, 1, 1, 1], &[0, 0, 1, 1], 2).unwrap().average(Average::PerClass);
    /// assert_eq!(recall.values(), [(String::new(), 0.75), ("0".into(), 0.5), ("1".into(), 1.0)]);
    /// ```
    Recall, "recall";
    |count: ClassCount| share(count.correct, count.labelled)
}
