//! When to stop.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::checkpoint::Mode;
use crate::metrics::Metrics;
use crate::optim::config::not_negative;

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
    #[serde(default)]
    looks_from_min_steps: bool,
    best: Option<f64>,
    best_step: u64,
    since_best: u64,
    finished: bool,
}

impl EarlyStopping {
    /// Stops at the first update without an improvement; set [`patience`](Self::patience) for later ones.
    pub fn new(monitor: &str, mode: Mode) -> Self {
        Self {
            monitor: monitor.to_owned(),
            mode,
            patience: 1,
            patience_steps: None,
            min_delta: 0.0,
            min_steps: 0,
            looks_from_min_steps: false,
            best: None,
            best_step: 0,
            since_best: 0,
            finished: false,
        }
    }

    /// tf.estimator's `stop_if_no_increase_hook`: stops when a metric has not grown for so many training steps. As there, what
    /// comes before `min_steps` does not count, so that it stops at `min_steps + max_steps_without_increase` at the earliest.
    pub fn if_no_increase(monitor: &str, max_steps_without_increase: u64, min_steps: u64) -> Self {
        Self {
            patience_steps: Some(max_steps_without_increase),
            looks_from_min_steps: true,
            ..Self::new(monitor, Mode::Max).min_steps(min_steps)
        }
    }

    /// After how many updates without an improvement, one after another, it stops, as Keras' `EarlyStopping` counts them; 0 is
    /// the same as 1.
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

    /// Training steps before which it never stops. Improvements before them count, and so do updates without one.
    #[must_use]
    pub fn min_steps(mut self, steps: u64) -> Self {
        self.min_steps = steps;
        self
    }

    /// Takes in the metrics after `step` training steps. NaN and infinite values are no improvement.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when the monitored metric is not among them;
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a `min_delta` that is not finite or negative.
    pub fn update(&mut self, metrics: &Metrics, step: u64) -> Result<&Self> {
        let value = metrics.get(&self.monitor)?;
        not_negative("early stopping: min_delta", self.min_delta)?;
        if self.looks_from_min_steps && step < self.min_steps {
            return Ok(self);
        }
        let is_better = value.is_finite()
            && self.best.is_none_or(|best| match self.mode {
                Mode::Min => value < best - self.min_delta,
                Mode::Max => value > best + self.min_delta,
            });
        if self.best.is_none() && self.since_best == 0 {
            // Steps without an increase are counted from the first metrics on, also when those are no numbers.
            self.best_step = step;
        }
        if is_better {
            (self.best, self.best_step, self.since_best) = (Some(value), step, 0);
        } else {
            self.since_best = self.since_best.saturating_add(1);
        }
        let is_tired = match self.patience_steps {
            Some(steps) => {
                let start = if self.looks_from_min_steps { self.min_steps } else { 0 };
                step.saturating_sub(self.best_step.max(start)) >= steps
            }
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

    #[test]
    fn an_improvement_that_none_can_be_is_refused() {
        let mut metrics = Metrics::new();
        metrics.insert("loss", 1.0);
        for min_delta in [f64::NAN, -1.0] {
            let mut stop = EarlyStopping::new("loss", Mode::Min).min_delta(min_delta);
            let error = stop.update(&metrics, 1).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("min_delta: found {min_delta}")), "{error}");
        }
    }

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

    /// `stop_if_no_metric_improvement_fn` of tensorflow_estimator, from its description: evaluations from `min_steps` on.
    fn tf_estimator(values: &[f64], max_steps: u64, min_steps: u64) -> Option<usize> {
        let mut best: Option<(f64, u64)> = None;
        let mut counted = values.iter().enumerate().filter(|(index, _)| 100 * (*index as u64 + 1) >= min_steps);
        counted.find_map(|(index, &value)| {
            let step = 100 * (index as u64 + 1);
            let (value, at) = best.filter(|(best, _)| value <= *best).unwrap_or((value, step));
            best = Some((value, at));
            (step - at >= max_steps).then_some(index)
        })
    }

    #[test]
    fn no_increase_counts_training_steps_as_tf_estimator_does() {
        let early_peak = [0.9, 0.5, 0.4, 0.4, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5];
        for (values, max_steps, min_steps, expected) in [
            (&early_peak[..], 300, 600, Some(9)),
            (&early_peak, 300, 0, Some(3)),
            (&early_peak, 600, 300, None),
            (&[0.4; 11], 500, 600, Some(10)),
            (&[0.4; 10], 500, 600, None),
        ] {
            let stop = EarlyStopping::if_no_increase("f1", max_steps, min_steps);
            assert_eq!(finished_after(stop, values), expected);
            assert_eq!(tf_estimator(values, max_steps, min_steps), expected);
        }
    }

    /// In a run that diverged, or was resumed without what was kept of it.
    #[test]
    fn steps_without_an_increase_are_counted_from_the_first_metrics_on() {
        let values = [0.9, 0.9, 0.9, 0.9, 0.9, f64::NAN, f64::NAN, f64::NAN, f64::NAN, f64::NAN];
        assert_eq!(finished_after(EarlyStopping::if_no_increase("f1", 300, 600), &values), Some(8));
        let with_baseline = EarlyStopping::if_no_increase("f1", 300, 600).baseline(0.95);
        assert_eq!(finished_after(with_baseline, &[0.9; 10]), Some(8));
        let mut resumed = EarlyStopping::if_no_increase("f1", 300, 0);
        let mut metrics = Metrics::new();
        metrics.insert("f1", f64::NAN);
        let found = [5000, 5200, 5300].map(|step| resumed.update(&metrics, step).unwrap().is_finished());
        assert_eq!(found, [false, false, true]);
    }

    /// Where Keras 3 stops: `EarlyStopping(monitor="f1", mode="max", patience=.., min_delta=..)` on the same values.
    #[test]
    fn patience_is_that_of_keras() {
        let values = [0.3, 0.5, 0.45, 0.5, 0.55, 0.54, 0.53, 0.56, 0.52, 0.52, 0.51];
        let stop = |patience| EarlyStopping::new("f1", Mode::Max).patience(patience);
        let found = [0, 1, 2, 3].map(|patience| finished_after(stop(patience), &values));
        assert_eq!(found, [2, 2, 3, 10].map(Some));
        let found = [1, 2, 3, 4].map(|patience| finished_after(stop(patience).min_delta(0.03), &values));
        assert_eq!(found, [2, 3, 7, 8].map(Some));
        // The same upside down.
        let below: Vec<f64> = values.iter().map(|value| -value).collect();
        let stop = EarlyStopping::new("f1", Mode::Min).patience(3).min_delta(0.03);
        assert_eq!(finished_after(stop, &below), Some(7));
    }

    #[test]
    fn a_misspelt_monitor_is_an_error() {
        let mut metrics = Metrics::new();
        metrics.insert("f1", 0.0);
        let error = EarlyStopping::new("F1", Mode::Max).update(&metrics, 1).unwrap_err();
        assert!(error.to_string().contains("f1"), "{error}");
    }
}
