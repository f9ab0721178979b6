//! Scores of the two classes, counted in bins: what the areas under curves are computed from.

use serde::{Deserialize, Serialize};

use crate::metrics::examples::{as_many_of_each, can_be_summed, is_outside_unit, is_positive};
use crate::{ModelError, ModelResult};

/// Weights of the examples whose scores fall in each of equal bins over `[0, 1]`, for positives and negatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScoreHistogram {
    positives: Vec<f64>,
    negatives: Vec<f64>,
    /// States with different bins were merged: there is no value any more.
    mixed: bool,
}

/// One bin, and what scores above it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bin {
    /// The lower edge: scores at least this high are in the bin or above.
    pub threshold: f64,
    /// Weights in the bin.
    pub positives: f64,
    pub negatives: f64,
    /// Weights in the bins above.
    pub positives_above: f64,
    pub negatives_above: f64,
}

impl ScoreHistogram {
    pub const BINS: usize = 1000;
    /// 16 MiB of counts.
    pub const MAX_BINS: usize = 1 << 20;

    pub fn new(metric: &str, scores: &[f32], labels: &[usize], weights: &[f64], bins: usize) -> ModelResult<Self> {
        as_many_of_each(metric, &[("scores", scores.len()), ("labels", labels.len()), ("weights", weights.len())])?;
        can_be_summed(metric, weights)?;
        if !(1..=Self::MAX_BINS).contains(&bins) {
            return Err(ModelError::msg(format!("{metric}: found {bins} bins, expected 1 to {}", Self::MAX_BINS)));
        }
        let mut counts = Self { positives: vec![0.0; bins], negatives: vec![0.0; bins], mixed: false };
        for (at, ((&score, &label), &weight)) in scores.iter().zip(labels).zip(weights).enumerate() {
            if weight > 0.0 {
                if score.is_nan() || is_outside_unit(score) {
                    return Err(ModelError::msg(format!(
                        "{metric}: found score {score} for example {at}, expected a probability from 0 to 1"
                    )));
                }
                let bin = ((f64::from(score) * bins as f64) as usize).min(bins - 1);
                let class = if is_positive(metric, label, at)? { &mut counts.positives } else { &mut counts.negatives };
                class[bin] += weight;
            }
        }
        Ok(counts)
    }

    pub fn merge(&mut self, other: &Self) {
        self.mixed |= other.mixed || self.positives.len() != other.positives.len();
        self.positives.iter_mut().zip(&other.positives).for_each(|(into, from)| *into += from);
        self.negatives.iter_mut().zip(&other.negatives).for_each(|(into, from)| *into += from);
    }

    /// The weights of all positives and negatives, NaN where bins were mixed.
    pub fn totals(&self) -> (f64, f64) {
        if self.mixed {
            return (f64::NAN, f64::NAN);
        }
        // In the order of `descending`, so that the last sums there are these to the bit.
        (self.positives.iter().rev().sum(), self.negatives.iter().rev().sum())
    }

    /// The bins from the highest scores down.
    pub fn descending(&self) -> impl Iterator<Item = Bin> {
        let bins = self.positives.len() as f64;
        let counts = self.positives.iter().zip(&self.negatives).enumerate().rev();
        counts.scan((0.0, 0.0), move |above, (at, (&positives, &negatives))| {
            let (positives_above, negatives_above) = *above;
            *above = (positives_above + positives, negatives_above + negatives);
            Some(Bin { threshold: at as f64 / bins, positives, negatives, positives_above, negatives_above })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_fall_in_bins_and_bad_ones_are_refused() {
        let counts =
            ScoreHistogram::new("auc", &[0.0, 0.25, 1.0, 0.3], &[0, 1, 1, 1], &[1.0, 2.0, 1.0, 0.5], 4).unwrap();
        assert_eq!(
            (&counts.negatives[..], &counts.positives[..]),
            (&[1.0, 0.0, 0.0, 0.0][..], &[0.0, 2.5, 0.0, 1.0][..])
        );
        assert_eq!(counts.totals(), (3.5, 1.0));
        let bins: Vec<_> = counts.descending().map(|bin| (bin.threshold, bin.positives_above)).collect();
        assert_eq!(bins, [(0.75, 0.0), (0.5, 1.0), (0.25, 1.0), (0.0, 3.5)]);
        for score in [-0.1, 1.1, f32::NAN] {
            assert!(ScoreHistogram::new("auc", &[score], &[0], &[1.0], 4).is_err());
            assert!(ScoreHistogram::new("auc", &[score], &[0], &[0.0], 4).is_ok());
        }
        // A mean of probabilities, rounded.
        let rounded = ScoreHistogram::new("auc", &[1.000_000_1, -1e-8], &[1, 0], &[1.0, 1.0], 4).unwrap();
        assert_eq!((rounded.positives[3], rounded.negatives[0]), (1.0, 1.0));
        assert!(ScoreHistogram::new("auc", &[0.5], &[2], &[1.0], 4).is_err());
        assert!(ScoreHistogram::new("auc", &[], &[], &[], 0).is_err());
        assert!(ScoreHistogram::new("auc", &[], &[], &[], usize::MAX).is_err());
    }

    #[test]
    fn different_bins_do_not_mix() {
        let mut a = ScoreHistogram::new("auc", &[0.5], &[1], &[1.0], 4).unwrap();
        a.merge(&ScoreHistogram::new("auc", &[0.5], &[1], &[1.0], 5).unwrap());
        assert!(a.totals().0.is_nan());
    }
}
