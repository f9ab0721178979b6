//! When to stop.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::checkpoint::Mode;
use crate::metrics::Metrics;

/// Early stopping as a value in your loop: `if stop.update(&metrics, step)?.is_finished() { break }`. Keep it in the checkpoints
/// with [`Elistimator::keep`](crate::Elistimator::keep), and it goes on after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    monitor: String,
    mode: Mode,
    patience: u64,
    patience_steps: Option<u64>,
    min_delta: f64,
    min_steps: u64,
    best: Option<f64>,
    best_step: u64,
    since_best: u64,
    finished: bool,
}

impl EarlyStopping {
    /// Stops when the metric has not got better for so many updates: 1 unless set by [`patience`](Self::patience).
    pub fn new(monitor: &str, mode: Mode) -> Self {
        Self {
            monitor: monitor.to_owned(),
            mode,
            patience: 1,
            patience_steps: None,
            min_delta: 0.0,
            min_steps: 0,
            best: None,
            best_step: 0,
            since_best: 0,
            finished: false,
        }
    }

    /// tf.estimator's `stop_if_no_increase_hook`: stops when a metric has not grown for so many training steps, but never
    /// before `min_steps`.
    pub fn if_no_increase(monitor: &str, max_steps_without_increase: u64, min_steps: u64) -> Self {
        let mut stop = Self::new(monitor, Mode::Max).min_steps(min_steps);
        stop.patience_steps = Some(max_steps_without_increase);
        stop
    }

    /// How many updates without an improvement are borne.
    #[must_use]
    pub fn patience(mut self, updates: u64) -> Self {
        self.patience = updates;
        self
    }

    /// By how much a value must be better to count as an improvement.
    #[must_use]
    pub fn min_delta(mut self, min_delta: f64) -> Self {
        self.min_delta = min_delta;
        self
    }

    /// What the first improvement has to beat.
    #[must_use]
    pub fn baseline(mut self, baseline: f64) -> Self {
        self.best = Some(baseline);
        self
    }

    /// Training steps before which it never stops.
    #[must_use]
    pub fn min_steps(mut self, steps: u64) -> Self {
        self.min_steps = steps;
        self
    }

    /// Takes in the metrics after `step` training steps. NaN and infinite values are no improvement.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when the monitored metric is not among them.
    pub fn update(&mut self, metrics: &Metrics, step: u64) -> Result<&Self> {
        let value = metrics.get(&self.monitor)?;
        let is_better = value.is_finite()
            && self.best.is_none_or(|best| match self.mode {
                Mode::Min => value < best - self.min_delta,
                Mode::Max => value > best + self.min_delta,
            });
        if is_better {
            (self.best, self.best_step, self.since_best) = (Some(value), step, 0);
        } else {
            self.since_best = self.since_best.saturating_add(1);
        }
        let is_tired = match self.patience_steps {
            Some(steps) => step.saturating_sub(self.best_step) >= steps,
            None => self.since_best >= self.patience,
        };
        self.finished = !is_better && is_tired && step >= self.min_steps;
        Ok(self)
    }

    /// Whether to stop.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The best value so far, or the baseline.
    pub fn best(&self) -> Option<f64> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished_after(mut stop: EarlyStopping, values: &[f64]) -> Option<usize> {
        values.iter().enumerate().position(|(index, value)| {
            let mut metrics = Metrics::new();
            metrics.insert("f1", *value);
            stop.update(&metrics, 100 * (index as u64 + 1)).unwrap().is_finished()
        })
    }

    #[test]
    fn patience_counts_updates_without_improvement() {
        let stop = || EarlyStopping::new("f1", Mode::Max).patience(2);
        assert_eq!(finished_after(stop(), &[0.1, 0.2, 0.2, 0.3, 0.3, f64::NAN]), Some(5));
        assert_eq!(finished_after(stop().min_delta(0.15), &[0.1, 0.2, 0.2]), Some(2));
        assert_eq!(finished_after(stop().baseline(0.5), &[0.1, 0.2]), Some(1));
        assert_eq!(finished_after(stop().min_steps(500), &[0.1; 6]), Some(4));
        assert_eq!(finished_after(EarlyStopping::new("f1", Mode::Min).patience(1), &[0.3, 0.2, 0.25]), Some(2));
    }

    #[test]
    fn no_increase_counts_training_steps() {
        let stop = EarlyStopping::if_no_increase("f1", 300, 600);
        assert_eq!(finished_after(stop, &[0.5, 0.4, 0.4, 0.4, 0.4, 0.4]), Some(5));
    }

    #[test]
    fn a_misspelt_monitor_is_an_error() {
        let mut metrics = Metrics::new();
        metrics.insert("f1", 0.0);
        let error = EarlyStopping::new("F1", Mode::Max).update(&metrics, 1).unwrap_err();
        assert!(error.to_string().contains("f1"), "{error}");
    }
}
