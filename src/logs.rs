//! What a run writes for its observers: TensorBoard files, the history and log lines. None of it can stop the training.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::log_file::LogFile;
use crate::metrics::{Figure, Metrics};
use crate::progress::{LogEvery, StepLog};
use crate::summary::{HistoryWriter, SummaryWriter, cut};
use crate::training_log::StepValues;
use crate::{Error, Result};

/// What the metrics of averaged weights are logged as, in place of the name of a validation set.
pub(crate) const EMA: &str = "ema";

/// A metric's name among those of all validation sets.
pub(crate) fn metric_of(set: &str, name: &str) -> String {
    if set.is_empty() { name.to_owned() } else { format!("{set}/{name}") }
}

/// Whether a step's values are written, where every so many are; none for 0.
pub(crate) fn is_logged(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// Takes points that the run is going to write again out of the event files of training and of all validation sets.
fn cut_events(model_dir: &Path, first_step: u64, open: &[PathBuf]) {
    let Ok(entries) = std::fs::read_dir(model_dir) else { return };
    let dirs = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        path.is_dir() && (name == "train" || name == "validation" || name.starts_with("validation_"))
    });
    for dir in dirs {
        if let Err(error) = cut(&dir, first_step, open) {
            log::warn!("points of a run that was interrupted may show beside those of this one: {error}");
        }
    }
}

/// The log files of a model directory, each opened when it first has something to say.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: Option<PathBuf>,
    step: u64,
    /// Metrics that the restored checkpoint has: the points of their validation sets at its step are not lost work.
    restored: Metrics,
    writers: BTreeMap<String, SummaryWriter>,
    /// What the writers get once more as plain lines.
    history: Option<HistoryWriter>,
    /// Whether what lies behind `step` has been taken out of the files.
    is_cut: bool,
    lines: Option<StepLog>,
    file: Option<LogFile>,
    warned: bool,
}

impl Logs {
    pub(crate) fn new(log_every: Option<LogEvery>, file: Option<LogFile>) -> Result<Self> {
        let mut lines = log_every.map(|every| StepLog::new(every, 0)).transpose()?;
        lines.iter_mut().for_each(StepLog::leave);
        Ok(Self {
            dir: None,
            step: 0,
            restored: Metrics::new(),
            writers: BTreeMap::new(),
            history: None,
            is_cut: false,
            lines,
            file,
            warned: false,
        })
    }

    /// Logs into this model directory from `step` on.
    pub(crate) fn open(&mut self, model_dir: &Path, step: u64, restored: Metrics) {
        self.dir = Some(model_dir.to_owned());
        self.restart(step, restored);
    }

    /// Begins new files at this step: readers then drop the points behind it, which belong to another branch of the run.
    pub(crate) fn restart(&mut self, step: u64, restored: Metrics) {
        (self.step, self.restored) = (step, restored);
        self.writers.clear();
        (self.history, self.is_cut) = (None, false);
        if let Some(lines) = &mut self.lines {
            lines.restart(step);
            lines.leave();
        }
    }

    /// A training verb begins: from here on time counts for the speed in log lines.
    pub(crate) fn begin_verb(&mut self) {
        self.lines.iter_mut().for_each(StepLog::come_back);
    }

    /// A training verb is over.
    pub(crate) fn end_verb(&mut self) {
        self.lines.iter_mut().for_each(StepLog::leave);
    }

    fn writer(&mut self, name: &str) -> Option<&mut SummaryWriter> {
        let dir = self.dir.as_ref()?;
        let set = name.strip_prefix("validation").map(|set| set.strip_prefix('_').unwrap_or(set));
        // Those of averaged weights are in no checkpoint; measured once more they come out the same.
        let has_point = |set: &str| set == EMA || self.restored.get(&metric_of(set, "loss")).is_ok();
        // Training begins after the step; a validation of the step itself is still to come, unless the checkpoint has it.
        let first_step = if set.is_some_and(|set| !has_point(set)) { self.step } else { self.step + 1 };
        Some(self.writers.entry(name.to_owned()).or_insert_with(|| SummaryWriter::create(dir.join(name), first_step)))
    }

    /// The history. Only training takes out what lies behind the restored step: a run that looks at an old checkpoint, and
    /// validates it, loses nothing.
    fn history(&mut self, is_training: bool) -> Option<&mut HistoryWriter> {
        let dir = self.dir.as_ref()?;
        if is_training && !self.is_cut {
            // The old one is closed first, so that its last lines are there to be read.
            self.history = None;
            let first_step = self.step.saturating_add(1);
            let open = self.writers.values().filter_map(SummaryWriter::path).collect::<Vec<_>>();
            cut_events(dir, first_step, &open);
            self.history = Some(HistoryWriter::create(dir, first_step));
            self.is_cut = true;
        }
        Some(self.history.get_or_insert_with(|| HistoryWriter::create(dir, u64::MAX)))
    }

    /// Losses, learning rates, named values and gauges of the steps that are logged.
    pub(crate) fn steps(&mut self, steps: &[StepValues], every: u64) {
        // At the first step, not the first one that is logged: a validation in between is none of the old branch's.
        if !steps.is_empty() && !self.is_cut {
            match every {
                0 if !self.dir.as_ref().is_some_and(|dir| HistoryWriter::exists(dir)) => self.is_cut = true,
                _ => {
                    self.history(true);
                }
            }
        }
        for step in steps.iter().filter(|step| is_logged(step.step, every)) {
            let mut values = vec![("loss", step.loss), ("learning_rate", step.learning_rate)];
            values.extend(step.scalars.iter().map(|(name, value)| (name.as_str(), *value)));
            values.extend(&step.gauges);
            if let Some(writer) = self.writer("train") {
                writer.scalars(&values, step.step);
            }
            if let Some(history) = self.history(true) {
                history.record("train", step.step, &values);
            }
        }
    }

    /// The metrics of a validation set, and what they have to show.
    pub(crate) fn validation(&mut self, set: &str, step: u64, metrics: &Metrics, figures: &[(String, Figure)]) {
        let name = if set.is_empty() { "validation".to_owned() } else { format!("validation_{set}") };
        let values: Vec<_> = metrics.iter().collect();
        if let Some(writer) = self.writer(&name) {
            writer.scalars(&values, step);
            figures.iter().for_each(|(tag, figure)| writer.figure(tag, figure, step));
            writer.flush();
        }
        if let Some(history) = self.history(false) {
            history.measured(&name, step, &values, figures);
            history.flush();
        }
    }

    /// The log line that is due, if one is.
    pub(crate) fn line(&mut self, steps: &[StepValues]) -> Option<String> {
        let (lines, last) = (self.lines.as_mut()?, steps.last()?);
        if !lines.is_due(last.step) {
            return None;
        }
        Some(lines.line(last.step, last.loss, last.scalars.iter().map(|(name, value)| (name.as_str(), *value))))
    }

    /// Whether the step that was just done should be read for a log line.
    pub(crate) fn is_line_due(&self, step: u64) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.is_due(step))
    }

    /// Puts everything on the disk, as a checkpoint is: a run resumed from it finds the curves up to its step.
    pub(crate) fn sync(&mut self) {
        self.writers.values_mut().for_each(SummaryWriter::sync);
        if let Some(history) = &mut self.history {
            history.sync();
        }
    }

    /// Hands everything to the operating system, and returns the files for somebody else to wait for.
    pub(crate) fn files_to_sync(&mut self) -> Vec<(PathBuf, File)> {
        self.flush();
        let writers = self.writers.values().filter_map(SummaryWriter::file);
        let history = self.history.as_ref().and_then(HistoryWriter::file);
        let files = writers.chain(history).filter_map(|(path, file)| match file {
            Ok(file) => Some((path, file)),
            Err(error) => {
                log::warn!("cannot sync {}: {error}", path.display());
                None
            }
        });
        files.collect()
    }

    /// Hands everything to the operating system.
    pub(crate) fn flush(&mut self) {
        self.writers.values_mut().for_each(SummaryWriter::flush);
        if let Some(history) = &mut self.history {
            history.flush();
        }
    }

    /// Whether there is a log file.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// A line in the log file, if there is one.
    pub(crate) fn note(&mut self, step: u64, text: impl FnOnce() -> String) {
        if let Some(file) = &mut self.file {
            file.line(step, &text());
        }
    }

    /// Reports the first of its kind in a run.
    pub(crate) fn warn_once(&mut self, step: u64, error: &Error) {
        self.note(step, || format!("warning: {error}"));
        if !std::mem::replace(&mut self.warned, true) {
            log::warn!("{error}; going on, as was asked for");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_speed_in_log_lines_is_that_of_training() {
        let (rest, mut trained) = (Duration::from_millis(400), Duration::ZERO);
        let mut logs = Logs::new(Some(LogEvery::Steps(4)), None).unwrap();
        for _ in 0..2 {
            std::thread::sleep(rest);
            let begin = Instant::now();
            logs.begin_verb();
            std::thread::sleep(Duration::from_millis(5));
            logs.end_verb();
            trained += begin.elapsed();
        }
        std::thread::sleep(rest);
        let begin = Instant::now();
        logs.begin_verb();
        let line = logs.line(&[StepValues { step: 4, loss: 0.5, ..StepValues::default() }]).unwrap();
        trained += begin.elapsed();
        let speed: f64 = line.strip_prefix("step=4 loss=0.5 steps/s=").unwrap().parse().unwrap();
        assert!(speed + 0.1 >= 4.0 / trained.as_secs_f64() && speed <= 4.0 / 0.01, "{line} {trained:?}");
    }
}
