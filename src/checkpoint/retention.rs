//! Which checkpoint is best, and which are kept: pure decisions.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointInfo;
use crate::{Error, ErrorKind, Result};

/// The direction in which a metric gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Smaller is better: losses, errors.
    Min,
    /// Larger is better: accuracies, F1.
    Max,
}

/// Which metric decides what is best.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    metric: String,
    mode: Mode,
}

impl Default for Monitor {
    /// The smallest `loss`.
    fn default() -> Self {
        Self::new("loss", Mode::Min)
    }
}

impl Monitor {
    /// This metric in this direction; `name/metric` for one of a named validation set.
    pub fn new(metric: &str, mode: Mode) -> Self {
        Self { metric: metric.to_owned(), mode }
    }

    /// The metric's name.
    pub fn metric(&self) -> &str {
        &self.metric
    }

    /// The best first. Only finite values of checkpoints with finite weights count; ties go to the earlier step.
    fn ranked<'c>(&self, checkpoints: &'c [CheckpointInfo]) -> Vec<&'c CheckpointInfo> {
        let mut ranked: Vec<(f64, &CheckpointInfo)> = checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.is_finite)
            .filter_map(|checkpoint| {
                let value = *checkpoint.metrics.as_ref()?.get(&self.metric)?;
                value.is_finite().then_some((if self.mode == Mode::Max { -value } else { value }, checkpoint))
            })
            .collect();
        // Adding 0 makes the two zeros equal, which `total_cmp` tells apart.
        ranked.sort_by(|a, b| (a.0 + 0.0).total_cmp(&(b.0 + 0.0)).then(a.1.step.cmp(&b.1.step)));
        ranked.into_iter().map(|(_, checkpoint)| checkpoint).collect()
    }

    /// The best checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when none has a finite value of the metric; the message lists the metrics that there are.
    pub(crate) fn best<'c>(&self, checkpoints: &'c [CheckpointInfo]) -> Result<&'c CheckpointInfo> {
        self.ranked(checkpoints).first().copied().ok_or_else(|| {
            let names: BTreeSet<&str> = checkpoints
                .iter()
                .filter_map(|c| c.metrics.as_ref())
                .flat_map(|m| m.keys().map(String::as_str))
                .collect();
            let message = format!(
                "none of {} checkpoints has a finite {:?} to be the best by; their metrics are {names:?}",
                checkpoints.len(),
                self.metric
            );
            Error::new(ErrorKind::NotFound, message)
        })
    }
}

/// Which checkpoints are kept. The best, the latest, the latest whose weights are finite, and pinned ones always are, on top
/// of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// So many of the last ones; 0 keeps all.
    pub max_to_keep: usize,
    /// So many of the best ones.
    pub best_to_keep: usize,
    /// Those whose step this number divides, for ever.
    pub every_steps: Option<u64>,
    /// One in so many hours, for ever.
    pub every_hours: Option<f64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_to_keep: 5, best_to_keep: 1, every_steps: None, every_hours: None }
    }
}

impl Retention {
    /// The last so many; 0 keeps all.
    pub fn last(max_to_keep: usize) -> Self {
        Self { max_to_keep, ..Self::default() }
    }

    /// The steps to delete.
    pub(crate) fn to_delete(&self, checkpoints: &[CheckpointInfo], monitor: &Monitor) -> Vec<u64> {
        if self.max_to_keep == 0 {
            return Vec::new();
        }
        let mut by_age: Vec<&CheckpointInfo> = checkpoints.iter().collect();
        by_age.sort_by_key(|checkpoint| checkpoint.age());
        let mut keep: BTreeSet<u64> = by_age.iter().rev().take(self.max_to_keep).map(|c| c.step).collect();
        keep.extend(monitor.ranked(checkpoints).iter().take(self.best_to_keep.max(1)).map(|c| c.step));
        keep.extend(checkpoints.iter().filter(|c| c.is_pinned).map(|c| c.step));
        // Without metrics nothing is the best, and a run that goes on after a NaN would rotate out all it could go back to.
        keep.extend(by_age.iter().rev().find(|c| c.is_finite).map(|c| c.step));
        if let Some(steps) = self.every_steps.filter(|&steps| steps > 0) {
            keep.extend(checkpoints.iter().map(|c| c.step).filter(|step| step.is_multiple_of(steps)));
        }
        if let Some(hours) = self.every_hours.filter(|hours| *hours > 0.0) {
            let mut last = None;
            for checkpoint in &by_age {
                let time = checkpoint.saved_at.timestamp_millis() as f64 / 3_600_000.0;
                // A clock that was ahead and was set right must not stop this until it is there again.
                if last.is_none_or(|last: f64| (time - last).abs() >= hours) {
                    keep.insert(checkpoint.step);
                    last = Some(time);
                }
            }
        }
        by_age.iter().map(|c| c.step).filter(|step| !keep.contains(step)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64, loss: Option<f64>) -> CheckpointInfo {
        CheckpointInfo {
            step,
            path: format!("{step}").into(),
            saved_at: Default::default(),
            metrics: loss.map(|loss| [("loss".to_owned(), loss)].into()),
            order: step,
            is_finite: true,
            is_pinned: false,
            bytes: 0,
        }
    }

    fn best(losses: &[Option<f64>]) -> Option<u64> {
        let all: Vec<_> = losses.iter().enumerate().map(|(step, loss)| checkpoint(step as u64, *loss)).collect();
        Monitor::default().best(&all).ok().map(|best| best.step)
    }

    /// Guards, as `scripts/mutations.py` shows: NaN is never the best.
    #[test]
    fn only_finite_values_are_best_and_ties_go_to_the_earlier() {
        let (nan, inf) = (Some(f64::NAN), Some(f64::INFINITY));
        assert_eq!(best(&[nan, Some(2.0), None, Some(1.0), inf, Some(1.0), Some(f64::NEG_INFINITY)]), Some(3));
        assert_eq!(best(&[nan, inf, None]), None);
        assert_eq!(best(&[Some(0.0), Some(-0.0)]), Some(0));
        let mut all = [checkpoint(1, Some(1.0)), checkpoint(2, Some(2.0))];
        all[0].is_finite = false;
        assert_eq!(Monitor::default().best(&all).unwrap().step, 2);
        assert_eq!(Monitor::new("loss", Mode::Max).best(&all).unwrap().step, 2);
        let error = Monitor::new("lsos", Mode::Min).best(&all).unwrap_err();
        assert!(error.to_string().contains("\"loss\""), "{error}");
    }

    /// Guards, as `scripts/mutations.py` shows: the best is kept; NaN is never the best.
    #[test]
    fn in_every_order_the_best_is_the_smallest_finite_one() {
        let values = [None, Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY), Some(1.0), Some(2.0)];
        let mut orders = vec![Vec::new()];
        for _ in values {
            let longer = |order: &Vec<usize>| {
                let rest = (0..values.len()).filter(|place| !order.contains(place));
                rest.map(|place| [&order[..], &[place]].concat()).collect::<Vec<_>>()
            };
            orders = orders.iter().flat_map(longer).collect();
        }
        assert_eq!(orders.len(), 720);
        for order in orders {
            let losses: Vec<_> = order.iter().map(|&place| values[place]).collect();
            let place = |value: f64| losses.iter().position(|loss| *loss == Some(value)).map(|place| place as u64);
            assert_eq!(best(&losses), place(1.0), "{losses:?}");
            let all: Vec<_> = (0u64..).zip(&losses).map(|(step, loss)| checkpoint(step, *loss)).collect();
            let highest = Monitor::new("loss", Mode::Max);
            assert_eq!(Some(highest.best(&all).unwrap().step), place(2.0), "{losses:?}");
            let deleted = Retention::last(1).to_delete(&all, &highest);
            let kept = 1 + usize::from(place(2.0) != Some(5));
            assert_eq!(deleted.len(), values.len() - kept, "{losses:?}");
        }
    }

    /// Guards, as `scripts/mutations.py` shows: the best is kept; pinned ones are kept.
    #[test]
    fn rotation_keeps_the_last_the_best_and_the_pinned() {
        let mut all: Vec<_> = [9, 10, 100, 10_000_000_000].map(|step| checkpoint(step, Some(step as f64))).into();
        let delete = |all: &[CheckpointInfo], max| Retention::last(max).to_delete(all, &Monitor::default());
        assert_eq!(delete(&all, 1), [10, 100]);
        assert_eq!(delete(&all, 2), [10]);
        assert_eq!(delete(&all, 0), [0u64; 0]);
        assert_eq!(delete(&all, usize::MAX), [0u64; 0]);
        all[1].is_pinned = true;
        assert_eq!(delete(&all, 1), [100]);
        let every = Retention { every_steps: Some(100), ..Retention::last(1) };
        all[1].is_pinned = false;
        assert_eq!(every.to_delete(&all, &Monitor::default()), [10]);
    }

    /// A run that was asked to go on after a NaN saves weights that are not finite, again and again.
    ///
    /// Guards, as `scripts/mutations.py` shows: one with finite weights is kept.
    #[test]
    fn rotation_keeps_a_checkpoint_with_finite_weights() {
        let mut all: Vec<_> = (1..=6).map(|step| checkpoint(step, None)).collect();
        all[2..].iter_mut().for_each(|checkpoint| checkpoint.is_finite = false);
        assert_eq!(Retention::last(2).to_delete(&all, &Monitor::default()), [1, 3, 4]);
        all.iter_mut().for_each(|checkpoint| checkpoint.is_finite = false);
        assert_eq!(Retention::last(2).to_delete(&all, &Monitor::default()), [1, 2, 3, 4], "there is none to keep");
    }

    #[test]
    fn the_latest_is_what_was_saved_last_not_the_highest_step() {
        let mut all = vec![checkpoint(100, None), checkpoint(50, None)];
        all[1].order = 101;
        assert_eq!(Retention::last(1).to_delete(&all, &Monitor::default()), [100]);
    }

    /// Rule: one in so many hours is kept, also of a run that began while the clock was years ahead.
    #[test]
    fn one_in_so_many_hours_is_kept_when_the_clock_is_set_back() {
        let at = |step: u64, hours: i64| CheckpointInfo {
            saved_at: chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(hours),
            ..checkpoint(step, None)
        };
        let all: Vec<_> =
            [90_000, 90_001, 10, 11, 12, 13].into_iter().zip(1..).map(|(hour, step)| at(step, hour)).collect();
        let retention = Retention { every_hours: Some(2.0), ..Retention::last(1) };
        assert_eq!(retention.to_delete(&all, &Monitor::default()), [2, 4]);
    }

    /// The best k, every n-th, one in so many hours, the last ones and pinned ones, all together and as the run goes: after every
    /// save the rotation sees only what the ones before have left.
    ///
    /// Guards, as `scripts/mutations.py` shows: the best is kept; pinned ones are kept.
    #[test]
    fn all_reasons_to_keep_hold_at_once() {
        let retention = Retention { max_to_keep: 2, best_to_keep: 3, every_steps: Some(40), every_hours: Some(2.5) };
        let losses = [9.0, 3.0, 8.0, 1.0, 7.0, 2.0, 6.0, 5.0, 4.5, 4.0, 3.5, 3.2];
        let mut left = Vec::new();
        for (place, loss) in losses.into_iter().enumerate() {
            let step = 10 * (place as u64 + 1);
            // An hour between two saves.
            let hours = chrono::TimeDelta::hours(place as i64);
            let saved =
                CheckpointInfo { saved_at: chrono::DateTime::UNIX_EPOCH + hours, ..checkpoint(step, Some(loss)) };
            left.push(CheckpointInfo { is_pinned: step == 30, ..saved });
            let deleted = retention.to_delete(&left, &Monitor::default());
            left.retain(|checkpoint| !deleted.contains(&checkpoint.step));
        }
        let steps: Vec<u64> = left.iter().map(|checkpoint| checkpoint.step).collect();
        // Hours keep 10, then the first that is three hours later: 40, 70, 100. The best are 40, 60, 20.
        assert_eq!(steps, [10, 20, 30, 40, 60, 70, 80, 100, 110, 120]);
        // Nothing of what was left goes for another reason later, and every reason by itself keeps its own.
        let only = |retention: Retention| {
            let deleted = retention.to_delete(&left, &Monitor::default());
            steps.iter().copied().filter(|step| !deleted.contains(step)).collect::<Vec<_>>()
        };
        let none = Retention { max_to_keep: 1, best_to_keep: 0, every_steps: None, every_hours: None };
        assert_eq!(only(none.clone()), [30, 40, 120]);
        assert_eq!(only(Retention { best_to_keep: 3, ..none.clone() }), [20, 30, 40, 60, 120]);
        assert_eq!(only(Retention { every_steps: Some(40), ..none.clone() }), [30, 40, 80, 120]);
        assert_eq!(only(Retention { every_hours: Some(2.5), ..none.clone() }), [10, 30, 40, 70, 100, 120]);
        for nonsense in [f64::NAN, 0.0, -1.0] {
            assert_eq!(only(Retention { every_hours: Some(nonsense), ..none.clone() }), [30, 40, 120]);
        }
    }
}
