//! The weighted mean.

use serde::{Deserialize, Serialize};

use crate::metrics::Metric;

/// The mean of values, each with a weight: an auxiliary loss, a length.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    /// The mean of these values, each counting once.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        Self::weighted(values.into_iter().map(|value| (value, 1.0)))
    }

    /// The mean of values with weights: `sum(w * x) / sum(w)`. Values of weight 0 are left out, even if they are NaN.
    pub fn weighted(values: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut mean = Self::default();
        for (value, weight) in values {
            if weight != 0.0 {
                mean.sum += value * weight;
                mean.weight += weight;
            }
        }
        mean
    }
}

impl Metric for Mean {
    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.weight += other.weight;
    }

    fn value(&self) -> f64 {
        self.sum / self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_and_three_and_one_give_the_mean_of_seven() {
        let mut mean = Mean::of([1.0, 2.0, 3.0]);
        mean.merge(Mean::of([4.0, 5.0, 6.0]));
        mean.merge(Mean::of([14.0]));
        assert_eq!(mean.value(), 5.0);
        assert_eq!(Mean::weighted([(1.0, 3.0), (5.0, 1.0), (f64::NAN, 0.0)]).value(), 2.0);
        assert!(Mean::default().value().is_nan());
    }
}
