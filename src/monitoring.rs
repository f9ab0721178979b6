//! Whether the monitored metric is among what a run measures.

use crate::logs::metric_of;
use crate::metrics::Metrics;

/// Finds out early that no checkpoint will ever be the best, when the monitored metric is misspelt, say.
#[derive(Debug, Default)]
pub(crate) struct MonitorCheck {
    /// The validation sets that were measured and had no such metric.
    without: Vec<String>,
    /// Whether the metric was found, or its absence told.
    settled: bool,
}

impl MonitorCheck {
    /// Forgets what was measured on earlier data; what was told stays told.
    pub(crate) fn new_data(&mut self) {
        self.without.clear();
    }

    /// What to tell, once, after the metrics of the validation set `measured` came without the `monitored` one while none of
    /// the other `sets` can have it.
    pub(crate) fn missing(
        &mut self,
        monitored: &str,
        measured: &str,
        metrics: &Metrics,
        mut sets: impl Iterator<Item = impl AsRef<str>>,
    ) -> Option<String> {
        if self.settled {
            return None;
        }
        let found: Vec<_> = metrics.iter().map(|(name, _)| metric_of(measured, name)).collect();
        if found.iter().any(|name| name == monitored) {
            self.settled = true;
            return None;
        }
        if !self.without.iter().any(|known| known == measured) {
            self.without.push(measured.to_owned());
        }
        // Names of the set that has none can be anything; those of the others begin with the set's.
        let can_have = |set: &str| set.is_empty() || monitored.strip_prefix(set).is_some_and(|n| n.starts_with('/'));
        let is_open = |set: &str| !self.without.iter().any(|known| known == set) && can_have(set);
        if sets.any(|set| is_open(set.as_ref())) {
            return None;
        }
        self.settled = true;
        Some(format!(
            "{monitored:?} is monitored, but the validation has only {found:?}: no checkpoint can be the best until its \
             metrics have that name (`Builder::monitor`)"
        ))
    }
}
