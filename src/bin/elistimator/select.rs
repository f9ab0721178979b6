//! Which checkpoint is meant.

use clap::ValueEnum;
use elistimator::checkpoint::{CheckpointInfo, Mode, Monitor};
use elistimator::inspect::ModelDir;
use elistimator::{ErrorKind, Result};

/// What the best is; the run's own choice unless said.
#[derive(clap::Args, Debug)]
pub struct Best {
    /// The metric that decides what is best; what the run monitors unless given.
    #[arg(long, value_name = "METRIC", requires = "mode")]
    monitor: Option<String>,
    /// The direction in which it gets better.
    #[arg(long, requires = "monitor")]
    mode: Option<Direction>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Direction {
    Min,
    Max,
}

impl Best {
    /// The monitor that was given.
    pub fn given(&self) -> Option<Monitor> {
        let mode = match self.mode? {
            Direction::Min => Mode::Min,
            Direction::Max => Mode::Max,
        };
        Some(Monitor::new(self.monitor.as_ref()?, mode))
    }

    pub fn monitor(&self, dir: &ModelDir) -> Monitor {
        self.given().unwrap_or_else(|| dir.monitor())
    }
}

/// One checkpoint of a directory.
#[derive(clap::Args, Debug)]
pub struct Choice {
    /// The checkpoint of this step.
    #[arg(long, conflicts_with = "best")]
    step: Option<u64>,
    /// The best checkpoint.
    #[arg(long)]
    best: bool,
    #[command(flatten)]
    by: Best,
}

impl Choice {
    /// The one that was asked for, the latest if none was.
    pub fn or_latest(&self, dir: &ModelDir) -> Result<CheckpointInfo> {
        match self.step {
            Some(step) => dir.step(step),
            None if self.best || self.by.given().is_some() => dir.best(&self.by.monitor(dir)),
            None => dir.latest(),
        }
    }

    /// The one that was asked for, the best if none was; the latest of a run that has no metrics.
    pub fn or_best(&self, dir: &ModelDir) -> Result<CheckpointInfo> {
        match (self.step, dir.best(&self.by.monitor(dir))) {
            (None, Ok(best)) => Ok(best),
            (None, Err(error)) if error.kind() == ErrorKind::NotFound && self.by.given().is_none() && !self.best => {
                log::warn!("the latest checkpoint is taken, as none is the best: {error}");
                dir.latest()
            }
            (None, Err(error)) => Err(error),
            (Some(_), _) => self.or_latest(dir),
        }
    }
}
