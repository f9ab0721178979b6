//! Precision over recall.

use super::tensor;
use crate::{Error, ErrorKind, Result};
use tensorboard_proto::{plugin_pr_curve::PrCurvePluginData, summary::Summary_Value};

/// Precision and recall of a binary classifier at evenly spaced thresholds, for TensorBoard's page of PR curves.
#[derive(Debug, Clone, PartialEq)]
pub struct PrCurve {
    true_positives: Vec<f64>,
    false_positives: Vec<f64>,
    true_negatives: Vec<f64>,
    false_negatives: Vec<f64>,
}

impl PrCurve {
    /// From predicted probabilities and what is true, at `thresholds` thresholds from 0 to 1 (201 is usual): positive is what
    /// reaches the threshold. Probabilities are clipped to 0..1, and NaN counts as 0.
    ///
    /// Fails with [`ErrorKind::InvalidArgument`] if there are not as many labels as predictions, or not 2 to 100,000 thresholds.
    pub fn of(labels: &[bool], predictions: &[f32], thresholds: usize) -> Result<Self> {
        if labels.len() != predictions.len() {
            let message = format!("a PR curve of {} labels and {} predictions", labels.len(), predictions.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if !(2..=100_000).contains(&thresholds) {
            let message = format!("a PR curve takes 2 to 100000 thresholds, not {thresholds}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (mut positives, mut negatives) = (vec![0.0; thresholds], vec![0.0; thresholds]);
        for (&label, &prediction) in labels.iter().zip(predictions) {
            // The conversion from float saturates, and takes NaN to 0.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bucket = (f64::from(prediction) * (thresholds - 1) as f64).floor() as usize;
            let side = if label { &mut positives } else { &mut negatives };
            side[bucket.min(thresholds - 1)] += 1.0;
        }
        Self::from_counts(at_least(&positives), at_least(&negatives))
    }

    /// From the positives that were found and the false alarms at each threshold, thresholds rising evenly from 0 to 1. At the
    /// first one everything is called positive, so that it holds the totals.
    ///
    /// Fails with [`ErrorKind::InvalidArgument`] if the two differ in length, or have less than 2 thresholds.
    pub fn from_counts(true_positives: Vec<f64>, false_positives: Vec<f64>) -> Result<Self> {
        let thresholds = true_positives.len();
        if thresholds != false_positives.len() || !(2..=100_000).contains(&thresholds) {
            let message = format!(
                "a PR curve takes the same 2 to 100000 thresholds twice, not {thresholds} and {}",
                false_positives.len()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let rest = |counts: &[f64]| counts.iter().map(|count| counts[0] - count).collect();
        Ok(Self {
            false_negatives: rest(&true_positives),
            true_negatives: rest(&false_positives),
            true_positives,
            false_positives,
        })
    }

    /// TP / (TP + FP) at each threshold; 0 where nothing is called positive.
    pub fn precision(&self) -> Vec<f64> {
        ratio(&self.true_positives, &self.false_positives)
    }

    /// TP / (TP + FN) at each threshold; 0 where nothing is positive.
    pub fn recall(&self) -> Vec<f64> {
        ratio(&self.true_positives, &self.false_negatives)
    }

    pub(super) fn value(&self) -> Result<Summary_Value> {
        let thresholds = self.true_positives.len();
        let mut data = PrCurvePluginData::new();
        data.set_num_thresholds(u32::try_from(thresholds).unwrap_or(u32::MAX));
        let (precision, recall) = (self.precision(), self.recall());
        let rows = [
            &self.true_positives,
            &self.false_positives,
            &self.true_negatives,
            &self.false_negatives,
            &precision,
            &recall,
        ];
        // Counts above 2^24 lose their last digits in what the page reads.
        #[allow(clippy::cast_possible_truncation)]
        let values = rows.into_iter().flatten().map(|&value| value as f32).collect();
        let mut value = Summary_Value::new();
        value.set_metadata(tensor::metadata("pr_curves", &data)?);
        value.set_tensor(tensor::floats(values, &[rows.len(), thresholds]));
        Ok(value)
    }
}

/// How many lie in this bucket or above.
fn at_least(buckets: &[f64]) -> Vec<f64> {
    let mut counts: Vec<f64> = buckets
        .iter()
        .rev()
        .scan(0.0, |sum, count| {
            *sum += count;
            Some(*sum)
        })
        .collect();
    counts.reverse();
    counts
}

fn ratio(part: &[f64], rest: &[f64]) -> Vec<f64> {
    part.iter().zip(rest).map(|(&part, &rest)| if part + rest > 0.0 { part / (part + rest) } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_at_each_threshold_by_looking_at_each_prediction() {
        let predictions: Vec<f32> = (0..100).map(|i| (i * 37 % 100) as f32 / 99.0).collect();
        let labels: Vec<bool> = (0..100).map(|i| (i * 37 % 100) + i % 30 > 60).collect();
        let curve = PrCurve::of(&labels, &predictions, 11).unwrap();
        for threshold in 0..11 {
            let limit = threshold as f64 / 10.0;
            let count = |wanted: bool| {
                let all = labels.iter().zip(&predictions);
                all.filter(|(label, p)| **label == wanted && f64::from(**p) >= limit).count() as f64
            };
            let (tp, fp) = (count(true), count(false));
            assert_eq!((curve.true_positives[threshold], curve.false_positives[threshold]), (tp, fp));
            let positive = labels.iter().filter(|label| **label).count() as f64;
            assert_eq!(curve.recall()[threshold], tp / positive);
            assert_eq!(curve.precision()[threshold], if tp + fp > 0.0 { tp / (tp + fp) } else { 0.0 });
        }
    }

    #[test]
    fn hostile_predictions() {
        let curve = PrCurve::of(&[true; 4], &[f32::NAN, f32::INFINITY, -5.0, 7.0], 3).unwrap();
        assert_eq!(curve.true_positives, [4.0, 2.0, 2.0]);
        assert_eq!(PrCurve::of(&[], &[], 2).unwrap().precision(), [0.0, 0.0]);
        assert!(PrCurve::of(&[true], &[], 2).is_err());
        assert!(PrCurve::of(&[], &[], 1).is_err());
        assert!(PrCurve::from_counts(vec![1.0; 3], vec![1.0; 2]).is_err());
    }
}
