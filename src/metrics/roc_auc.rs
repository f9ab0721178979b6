//! How well scores separate two classes.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::Metric;
use crate::metrics::score_histogram::ScoreHistogram;
use crate::nn::{Tensor, read};
use crate::{Device, ModelResult};

/// The area under the receiver operating characteristic: the probability that a positive scores higher than a negative, ties
/// counting half. 0.5 is chance; it does not depend on a threshold nor on how rare positives are.
///
/// Scores are probabilities of class 1 in `[0, 1]` and are counted in equal bins (1000 unless set), so that the state does
/// not grow with the data. Only pairs within one bin are not told apart: the result is off by at most half of their share,
/// which [`error_bound`](Self::error_bound) gives, and exact where no bin holds both classes with different scores. Scores
/// crowded near 0 or 1 want more bins.
///
/// ```
/// use elistimator::metrics::{Metric, RocAuc};
///
/// let auc = RocAuc::from_scores(&[0.1, 0.4, 0.35, 0.8], &[0, 0, 1, 1]).unwrap();
/// assert_eq!((auc.value(), auc.error_bound()), (0.75, 0.0));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RocAuc(ScoreHistogram);

impl RocAuc {
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

    /// With weights and a number of bins from 1 to 2^20, the same for every batch: states of different bins merge to NaN.
    ///
    /// # Errors
    /// Those of [`weighted`](Self::weighted), and for other numbers of bins.
    pub fn with_bins(scores: &[f32], labels: &[usize], weights: &[f64], bins: usize) -> ModelResult<Self> {
        ScoreHistogram::new("ROC AUC", scores, labels, weights, bins).map(Self)
    }

    /// How far the value can be from that of the scores without bins: half the share of pairs that share a bin.
    pub fn error_bound(&self) -> f64 {
        let (positives, negatives) = self.0.totals();
        let pairs: f64 = self.0.descending().map(|bin| bin.positives * bin.negatives).sum();
        0.5 * pairs / (positives * negatives)
    }
}

impl Metric for RocAuc {
    fn merge(&mut self, other: Self) {
        self.0.merge(&other.0);
    }

    /// NaN without both positives and negatives.
    fn value(&self) -> f64 {
        let (positives, negatives) = self.0.totals();
        let won = self.0.descending().map(|bin| bin.negatives * (bin.positives_above + 0.5 * bin.positives));
        won.sum::<f64>() / (positives * negatives)
    }
}
