//! A learning rate that drops when a metric stops getting better.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Mode;
use crate::metrics::Metrics;
use crate::optim::config::not_negative;
use crate::{Error, ErrorKind, Result};

/// Reduce on plateau as a value in your loop, as PyTorch's `ReduceLROnPlateau` computes it with an absolute threshold:
/// `let rate = plateau.update(&metrics, estimator.learning_rate())?; estimator.set_learning_rate(rate)`. Keep it in the
/// checkpoints with [`Elistimator::keep`](crate::Elistimator::keep), and it goes on after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReduceOnPlateau {
    monitor: String,
    mode: Mode,
    factor: f64,
    patience: u64,
    cooldown: u64,
    min_delta: f64,
    min_learning_rate: f64,
    best: Option<f64>,
    bad: u64,
    cooling: u64,
}

impl ReduceOnPlateau {
    /// Multiplies by 0.1 after more than 10 updates without an improvement, unless set otherwise.
    pub fn new(monitor: &str, mode: Mode) -> Self {
        Self {
            monitor: monitor.to_owned(),
            mode,
            factor: 0.1,
            patience: 10,
            cooldown: 0,
            min_delta: 0.0,
            min_learning_rate: 0.0,
            best: None,
            bad: 0,
            cooling: 0,
        }
    }

    /// What each drop multiplies the learning rate by.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// How many updates without an improvement are borne; the next one drops.
    #[must_use]
    pub fn patience(mut self, updates: u64) -> Self {
        self.patience = updates;
        self
    }

    /// How many updates after a drop are not counted.
    #[must_use]
    pub fn cooldown(mut self, updates: u64) -> Self {
        self.cooldown = updates;
        self
    }

    /// By how much a value must be better to count as an improvement.
    #[must_use]
    pub fn min_delta(mut self, min_delta: f64) -> Self {
        self.min_delta = min_delta;
        self
    }

    /// The learning rate below which it never goes.
    #[must_use]
    pub fn min_learning_rate(mut self, learning_rate: f64) -> Self {
        self.min_learning_rate = learning_rate;
        self
    }

    /// Takes in fresh metrics, and returns the learning rate to go on with. NaN and infinite values are no improvement.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when the monitored metric is not among them;
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a factor that is not from 0 to below 1, or another number that is not
    /// finite or negative.
    pub fn update(&mut self, metrics: &Metrics, learning_rate: f64) -> Result<f64> {
        let value = metrics.get(&self.monitor)?;
        if !(0.0..1.0).contains(&self.factor) {
            let message = format!("reduce on plateau: found the factor {}, expected 0 to below 1", self.factor);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        not_negative("reduce on plateau: min_delta", self.min_delta)?;
        not_negative("reduce on plateau: min_learning_rate", self.min_learning_rate)?;
        let is_better = value.is_finite()
            && self.best.is_none_or(|best| match self.mode {
                Mode::Min => value < best - self.min_delta,
                Mode::Max => value > best + self.min_delta,
            });
        if is_better {
            (self.best, self.bad) = (Some(value), 0);
        } else {
            self.bad = self.bad.saturating_add(1);
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad = 0;
        }
        if self.bad <= self.patience {
            return Ok(learning_rate);
        }
        (self.bad, self.cooling) = (0, self.cooldown);
        // A rate that is below the floor already is not raised to it.
        Ok((learning_rate * self.factor).max(self.min_learning_rate.min(learning_rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_reduce_nothing_are_refused() {
        let mut metrics = Metrics::new();
        metrics.insert("loss", 1.0);
        let message = |mut plateau: ReduceOnPlateau| {
            let error = plateau.update(&metrics, 0.1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            error.to_string()
        };
        let new = || ReduceOnPlateau::new("loss", Mode::Min);
        assert!(message(new().factor(1.0)).contains("found the factor 1, expected 0 to below 1"));
        assert!(message(new().factor(f64::NAN)).contains("NaN"));
        assert!(message(new().min_delta(-0.1)).contains("min_delta: found -0.1"));
        assert!(message(new().min_learning_rate(f64::NAN)).contains("min_learning_rate: found NaN"));
    }

    fn rates(mut plateau: ReduceOnPlateau, values: &[f64]) -> Vec<f64> {
        let mut rate = 1.0;
        let update = |value: &f64| {
            let mut metrics = Metrics::new();
            metrics.insert("loss", *value);
            rate = plateau.update(&metrics, rate).unwrap();
            rate
        };
        values.iter().map(update).collect()
    }

    #[test]
    fn it_drops_after_patience_and_rests_in_the_cooldown() {
        let plateau = || ReduceOnPlateau::new("loss", Mode::Min).factor(0.5).patience(1);
        let values = [1.0, 0.5, 0.5, f64::NAN, 0.6, 0.6, 0.4, 0.4];
        assert_eq!(rates(plateau(), &values), [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25]);
        assert_eq!(rates(plateau().cooldown(2), &[1.0; 7]), [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]);
        assert_eq!(rates(plateau().min_learning_rate(0.4), &[1.0; 5]), [1.0, 1.0, 0.5, 0.5, 0.4]);
        assert_eq!(rates(plateau().min_delta(0.2), &[1.0, 0.9, 0.9]), [1.0, 1.0, 0.5]);
    }
}
