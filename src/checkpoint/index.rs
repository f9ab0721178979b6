//! The list of a directory's checkpoints, and the file that caches it.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::checkpoint::state::{open, seal};
use crate::checkpoint::{MetricValues, State};

const MAGIC: &[u8; 8] = b"ELIINDEX";
const PREFIX: &str = "model_iter-";
/// A checkpoint that is being replaced by another one of the same step. It counts while that other one is not there.
const REPLACED: &str = "replaced-";

/// One checkpoint, as [`save_ckpt`](crate::Elistimator::save_ckpt) describes it and
/// [`checkpoints`](crate::Elistimator::checkpoints) lists it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// The global step.
    pub step: u64,
    /// Its directory.
    pub path: PathBuf,
    /// When it was saved, by the clock of that machine.
    pub saved_at: DateTime<Utc>,
    /// The metrics of its step, if it was validated.
    pub metrics: Option<MetricValues>,
    /// Which save of the directory it was: the latest has the highest.
    pub order: u64,
    /// Whether all its weights are finite numbers; it is never the best if not.
    pub is_finite: bool,
    /// Whether it was pinned by hand.
    pub is_pinned: bool,
    /// The size of its files.
    pub bytes: u64,
}

/// Which save it is: two directories may have checkpoints of one step and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) step: u64,
    order: u64,
    saved_at: i64,
}

impl Mark {
    pub(crate) fn of(state: &State) -> Self {
        Self { step: state.step, order: state.order, saved_at: state.saved_at }
    }
}

impl CheckpointInfo {
    /// The later, the higher: the number of the save, and of checkpoints that were brought together from elsewhere the step.
    pub(crate) fn age(&self) -> (u64, u64) {
        (self.order, self.step)
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { step: self.step, order: self.order, saved_at: self.saved_at.timestamp_millis() }
    }

    pub(crate) fn new(path: PathBuf, state: &State, metrics: Option<MetricValues>, is_pinned: bool) -> Self {
        Self {
            step: state.step,
            path,
            saved_at: DateTime::from_timestamp_millis(state.saved_at).unwrap_or_default(),
            metrics,
            order: state.order,
            is_finite: state.is_finite,
            is_pinned,
            bytes: state.files.iter().fold(0, |sum, (_, length, _)| sum.saturating_add(*length)),
        }
    }
}

pub(crate) fn dir_name(step: u64) -> String {
    format!("{PREFIX}{step:010}")
}

pub(crate) fn replaced_name(step: u64) -> String {
    format!("{REPLACED}{step:010}")
}

/// The step of a checkpoint's directory, and whether it is one that is being replaced.
pub(crate) fn parse_name(path: &Path) -> Option<(u64, bool)> {
    let name = path.file_name()?.to_str()?;
    let (digits, is_replaced) = match name.strip_prefix(PREFIX) {
        Some(digits) => (digits, false),
        None => (name.strip_prefix(REPLACED)?, true),
    };
    // Only names that we would write: another spelling of a number is somebody else's directory.
    let step: u64 = digits.parse().ok()?;
    (format!("{step:010}") == digits).then_some((step, is_replaced))
}

#[derive(Serialize, Deserialize)]
struct Entry {
    step: u64,
    saved_at: i64,
    metrics: Option<Vec<(String, f64)>>,
    order: u64,
    is_finite: bool,
    is_pinned: bool,
    bytes: u64,
}

pub(crate) fn to_bytes(checkpoints: &[CheckpointInfo]) -> Result<Vec<u8>> {
    let entries = checkpoints.iter().map(|info| Entry {
        step: info.step,
        saved_at: info.saved_at.timestamp_millis(),
        metrics: info.metrics.clone().map(|metrics| metrics.into_iter().collect()),
        order: info.order,
        is_finite: info.is_finite,
        is_pinned: info.is_pinned,
        bytes: info.bytes,
    });
    seal(MAGIC, &entries.collect::<Vec<_>>())
}

/// Reads the cache; paths follow from the steps, so that no file can point elsewhere.
pub(crate) fn from_bytes(bytes: &[u8], dir: &Path) -> Result<Vec<CheckpointInfo>> {
    let entries: Vec<Entry> = open(MAGIC, bytes)?;
    let info = |entry: Entry| CheckpointInfo {
        step: entry.step,
        path: dir.join(dir_name(entry.step)),
        saved_at: DateTime::from_timestamp_millis(entry.saved_at).unwrap_or_default(),
        metrics: entry.metrics.map(|metrics| metrics.into_iter().collect()),
        order: entry.order,
        is_finite: entry.is_finite,
        is_pinned: entry.is_pinned,
        bytes: entry.bytes,
    };
    Ok(entries.into_iter().map(info).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbers_not_text() {
        assert_eq!(parse_name(Path::new("x/model_iter-0000005360")), Some((5360, false)));
        assert_eq!(parse_name(Path::new("model_iter-10000000000")), Some((10_000_000_000, false)));
        assert_eq!(parse_name(Path::new("replaced-0000000007")), Some((7, true)));
        for foreign in ["model_iter-7", "model_iter-00000000007", "model_iter-+000000007", "model_iter-", "other"] {
            assert_eq!(parse_name(Path::new(foreign)), None, "{foreign}");
        }
    }
}
