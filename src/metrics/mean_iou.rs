//! How well predicted regions cover the true ones.

use crate::metrics::class_counts::{ClassCount, class_metric, share};

class_metric! {
    /// Intersection over union, `tp / (tp + fp + fn)` (Jaccard), averaged over classes: for segmentation, with every pixel
    /// an example. Give pixels that do not count weight 0, and leave the background out where it should not count as a class.
    ///
    /// ```
    /// use elistimator::metrics::{MeanIou, Metric};
    ///
    /// let iou = MeanIou::from_classes(&[0, 1, 1, 1], &[0, 0, 1, 1], 2).unwrap();
    /// assert_eq!(iou.value(), (1.0 / 2.0 + 2.0 / 3.0) / 2.0);
    /// ```
    MeanIou, "mean IoU";
    |count: ClassCount| share(count.correct, count.predicted + count.labelled - count.correct)
}
