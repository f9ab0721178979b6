//! How well scores find a rare class.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::Metric;
use crate::metrics::score_histogram::{Bin, ScoreHistogram};
use crate::nn::{Tensor, read};
use crate::{Device, ModelResult};

/// The area under the precision-recall curve as average precision, `sum((r_i - r_(i-1)) p_i)` over falling thresholds
/// (scikit-learn's `average_precision_score`, no interpolation): for classes so rare that [`RocAuc`](crate::metrics::RocAuc)
/// flatters. Chance is the share of positives.
///
/// Scores are probabilities of class 1 in `[0, 1]` and are counted in equal bins (1000 unless set), so that the state does
/// not grow with the data: the scores in one bin count as equal, and the result is off by at most
/// [`error_bound`](Self::error_bound); it is exact where every bin holds one score at most.
///
/// ```
/// use elistimator::metrics::{Metric, PrAuc};
///
/// let auc = PrAuc::from_scores(&[0.1, 0.4, 0.35, 0.8], &[0, 0, 1, 1]).unwrap();
/// assert!((auc.value() - 5.0 / 6.0).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrAuc(ScoreHistogram);

impl PrAuc {
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
        ScoreHistogram::new("PR AUC", scores, labels, weights, bins).map(Self)
    }

    /// How far the value can be from that of the scores without bins: the larger distance to what it would be with the
    /// positives of every bin scored above, or below, the negatives of that bin.
    pub fn error_bound(&self) -> f64 {
        let value = self.value();
        let highest =
            average_precision(&self.0, |bin| precision(bin.positives_above + bin.positives, bin.negatives_above));
        let lowest = average_precision(&self.0, |bin| {
            // The minimum because the precision of nothing is 1.
            precision(bin.positives_above, bin.negatives_above + bin.negatives).min(at_bin(bin))
        });
        (highest - value).max(value - lowest)
    }
}

impl Metric for PrAuc {
    fn merge(&mut self, other: Self) {
        self.0.merge(&other.0);
    }

    /// NaN without positives.
    fn value(&self) -> f64 {
        average_precision(&self.0, at_bin)
    }
}

/// The mean over positives of the precision that their bin gives them.
pub(crate) fn average_precision(counts: &ScoreHistogram, precision: impl Fn(Bin) -> f64) -> f64 {
    let gained = |bin: Bin| if bin.positives > 0.0 { bin.positives * precision(bin) } else { 0.0 };
    counts.descending().map(gained).sum::<f64>() / counts.totals().0
}

/// The precision of taking all that scores in this bin or above as positive; 1 where nothing does, as in scikit-learn.
pub(crate) fn at_bin(bin: Bin) -> f64 {
    precision(bin.positives_above + bin.positives, bin.negatives_above + bin.negatives)
}

fn precision(right: f64, wrong: f64) -> f64 {
    if right + wrong > 0.0 { right / (right + wrong) } else { 1.0 }
}
