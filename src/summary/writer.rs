//! The writer that never fails.

use super::{Embedding, EventWriter, Histogram, HyperParameters, Image, Layout, PrCurve};
use crate::Result;
use crate::metrics::Figure;
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

    /// How the values of a tensor are distributed.
    pub fn histogram(&mut self, tag: &str, histogram: &Histogram, step: u64) {
        self.attempt(|events| events.histogram(tag, histogram, step));
    }

    /// A picture.
    pub fn image(&mut self, tag: &str, image: &Image, step: u64) {
        self.attempt(|events| events.image(tag, image, step));
    }

    /// A text in Markdown: samples, a table, the structure of the network.
    pub fn text(&mut self, tag: &str, markdown: &str, step: u64) {
        self.attempt(|events| events.text(tag, markdown, step));
    }

    /// A curve of precision over recall. The page wants the same number of thresholds in all of a tag.
    pub fn pr_curve(&mut self, tag: &str, curve: &PrCurve, step: u64) {
        self.attempt(|events| events.pr_curve(tag, curve, step));
    }

    /// What a metric has to show; see [`EventWriter::figure`].
    pub fn figure(&mut self, tag: &str, figure: &Figure, step: u64) {
        self.attempt(|events| events.figure(tag, figure, step));
    }

    /// Points with labels for the projector, as files beside the events; the same name again replaces them.
    pub fn embedding(&mut self, name: &str, embedding: &Embedding) {
        let dir = self.dir.clone();
        self.attempt(|_| embedding.write(dir, name));
    }

    /// What the run was made with, for the HParams page; see [`HyperParameters`] for the directory.
    pub fn hyper_parameters(&mut self, values: &HyperParameters) {
        self.attempt(|events| events.hyper_parameters(values));
    }

    /// How the run ended, for the HParams page.
    pub fn session_end(&mut self, success: bool) {
        self.attempt(|events| events.session_end(success));
    }

    /// How the page of custom scalars puts curves together.
    pub fn layout(&mut self, layout: &Layout) {
        self.attempt(|events| events.layout(layout));
    }

    /// Hands everything written so far to the operating system, where TensorBoard sees it.
    pub fn flush(&mut self) {
        self.attempt(EventWriter::flush);
    }

    /// Flushes, and waits until the file is on the disk.
    pub fn sync(&mut self) {
        self.attempt(EventWriter::sync);
    }

    /// The file in use.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.events.as_ref().map(|events| events.path().to_owned())
    }

    /// The file in use, to sync in another thread.
    pub(crate) fn file(&self) -> Option<(PathBuf, std::io::Result<std::fs::File>)> {
        self.events.as_ref().map(EventWriter::file)
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
