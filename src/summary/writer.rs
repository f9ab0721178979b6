//! The writer that never fails.

use super::EventWriter;
use crate::Result;
use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Writes summaries for TensorBoard into a directory, and never stops training: the first failure is reported once through
/// `log::warn`, and from then on everything is dropped.
#[derive(Debug)]
pub struct SummaryWriter {
    dir: PathBuf,
    events: Option<EventWriter>,
}

impl SummaryWriter {
    /// Starts a session in `dir` whose first step is `first_step`; see [`EventWriter::create`].
    pub fn create(dir: impl AsRef<Path>, first_step: u64) -> Self {
        let mut writer = Self { dir: dir.as_ref().to_owned(), events: None };
        match EventWriter::create(&writer.dir, first_step) {
            Ok(events) => writer.events = Some(events),
            Err(error) => writer.give_up(&error),
        }
        writer
    }

    /// A writer that writes nothing, for runs that want no summaries.
    pub fn disabled() -> Self {
        Self { dir: PathBuf::new(), events: None }
    }

    /// Does anything that is written arrive? Not any more after a failure.
    pub fn is_enabled(&self) -> bool {
        self.events.is_some()
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One point of a curve, now. A `/` in the tag makes groups.
    pub fn scalar(&mut self, tag: &str, value: f64, step: u64) {
        self.attempt(|events| events.scalars(&[(tag, value)], step));
    }

    /// One point of several curves at once, now.
    pub fn scalars<S: AsRef<str>>(&mut self, values: &[(S, f64)], step: u64) {
        self.attempt(|events| events.scalars(values, step));
    }

    /// One point of several curves at once, as of `time`: for values that were collected on the device and are read later.
    pub fn scalars_at<S: AsRef<str>>(&mut self, values: &[(S, f64)], step: u64, time: SystemTime) {
        self.attempt(|events| events.scalars_at(values, step, time));
    }

    /// Hands everything written so far to the operating system, where TensorBoard sees it.
    pub fn flush(&mut self) {
        self.attempt(EventWriter::flush);
    }

    /// Flushes, and waits until the file is on the disk.
    pub fn sync(&mut self) {
        self.attempt(EventWriter::sync);
    }

    fn attempt(&mut self, write: impl FnOnce(&mut EventWriter) -> Result<()>) {
        if let Some(events) = &mut self.events
            && let Err(error) = write(events)
        {
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &crate::Error) {
        self.events = None;
        log::warn!("no more summaries are written into {}, training goes on: {error}", self.dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_made_disables_the_writer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = SummaryWriter::create(file.path().join("train"), 0);
        assert!(!writer.is_enabled());
        writer.scalar("loss", 1.0, 1);
        writer.sync();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_disables_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SummaryWriter::create(dir.path(), 0);
        assert!(writer.is_enabled());
        writer.scalar("loss", 1.0, 1);
        writer.events.as_mut().unwrap().fill_the_disk();
        writer.scalar("loss", 1.0, 2);
        assert!(writer.is_enabled());
        writer.flush();
        assert!(!writer.is_enabled());
        writer.scalar("loss", 1.0, 3);
        writer.flush();
    }

    #[test]
    fn a_writer_moves_between_threads() {
        fn sendable<T: Send + 'static>() {}
        sendable::<SummaryWriter>();
    }
}
