//! Precision and recall at every threshold.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::pr_auc::{at_bin, average_precision};
use crate::metrics::score_histogram::ScoreHistogram;
use crate::metrics::{Figure, Metric};
use crate::nn::{Tensor, read};
use crate::{Device, ModelResult};

/// The precision-recall curve, to choose a threshold or to plot; its [`value`](Metric::value) is the average precision, as of
/// [`PrAuc`](crate::metrics::PrAuc), which also tells what the bins cost. Thresholds are the lower edges of equal bins over
/// `[0, 1]` (1000 unless set), and the counts at each are exact. As a metric of an evaluation it is on TensorBoard's page of
/// PR curves after every `validate`.
///
/// ```
/// use elistimator::metrics::PrCurve;
///
/// let curve = PrCurve::with_bins(&[0.1, 0.4, 0.35, 0.8], &[0, 0, 1, 1], &[1.0; 4], 2).unwrap();
/// let points: Vec<_> = curve.points().iter().map(|p| (p.threshold, p.precision, p.recall)).collect();
/// assert_eq!(points, [(0.0, 0.5, 1.0), (0.5, 1.0, 0.5)]);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrCurve(ScoreHistogram);

/// What taking every score of at least `threshold` as positive gives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PrPoint {
    /// The least score that counts as positive.
    pub threshold: f64,
    /// The share of what is taken as positive that is; 1 where nothing is taken.
    pub precision: f64,
    /// The share of the positives that is taken; NaN without positives.
    pub recall: f64,
    /// Weight of the positives taken.
    pub true_positives: f64,
    /// Weight of the negatives taken.
    pub false_positives: f64,
    /// Weight of the negatives not taken.
    pub true_negatives: f64,
    /// Weight of the positives not taken.
    pub false_negatives: f64,
}

impl PrCurve {
    /// From probabilities of class 1 in any shape, and a label, 0 or 1, for each.
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores).
    pub fn of<S: Shape, D: Device, T>(probabilities: &Tensor<S, D, T>, labels: &[usize]) -> ModelResult<Self> {
        Self::from_scores(&read(probabilities), labels)
    }

    /// From probabilities of class 1, and a label, 0 or 1, for each.
    ///
    /// # Errors
    /// When their numbers differ, a score is not in `[0, 1]`, or a label is neither 0 nor 1.
    pub fn from_scores(scores: &[f32], labels: &[usize]) -> ModelResult<Self> {
        Self::weighted(scores, labels, &vec![1.0; labels.len()])
    }

    /// With a weight for every example, 0 for those that do not count.
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores), and when weights are missing, negative or not finite.
    pub fn weighted(scores: &[f32], labels: &[usize], weights: &[f64]) -> ModelResult<Self> {
        Self::with_bins(scores, labels, weights, ScoreHistogram::BINS)
    }

    /// With weights and a number of thresholds from 1 to 2^20, the same for every batch: states of different ones merge to
    /// NaN.
    ///
    /// # Errors
    /// Those of [`weighted`](Self::weighted), and for other numbers of thresholds.
    pub fn with_bins(scores: &[f32], labels: &[usize], weights: &[f64], bins: usize) -> ModelResult<Self> {
        ScoreHistogram::new("PR curve", scores, labels, weights, bins).map(Self)
    }

    /// A point for every threshold, from 0 up.
    pub fn points(&self) -> Vec<PrPoint> {
        let (positives, negatives) = self.0.totals();
        let mut points: Vec<_> = self
            .0
            .descending()
            .map(|bin| {
                let true_positives = bin.positives_above + bin.positives;
                let false_positives = bin.negatives_above + bin.negatives;
                PrPoint {
                    threshold: bin.threshold,
                    precision: if positives.is_nan() { f64::NAN } else { at_bin(bin) },
                    recall: true_positives / positives,
                    true_positives,
                    false_positives,
                    true_negatives: negatives - false_positives,
                    false_negatives: positives - true_positives,
                }
            })
            .collect();
        points.reverse();
        points
    }
}

impl Metric for PrCurve {
    fn merge(&mut self, other: Self) {
        self.0.merge(&other.0);
    }

    /// The average precision; NaN without positives.
    fn value(&self) -> f64 {
        average_precision(&self.0, at_bin)
    }

    fn figure(&self) -> Option<Figure> {
        Some(self.clone().into())
    }
}
