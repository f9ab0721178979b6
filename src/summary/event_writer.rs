//! One event file.

use super::{Histogram, HyperParameters, Image, Layout, PrCurve, hyper_parameters, tensor};
use crate::{Error, ErrorKind, Result};
use protobuf::Message;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tensorboard_proto::{
    event::{Event, SessionLog, SessionLog_SessionStatus},
    plugin_text::TextPluginData,
    summary::{Summary, Summary_Value},
};
use tensorboard_rs::record_writer::RecordWriter;

/// Whoever watches a running training sees points that are at most this old.
const FLUSH: Duration = Duration::from_secs(5);
/// So many bytes are held back at most.
const BUFFER: usize = 1 << 16;

/// Writes one event file of TensorBoard, returning every error as a value.
///
/// Each writer has a file of its own, that nobody else has ever written, and whose name follows on those that are there.
/// Its first events are the format's version and a session start with the first step: readers drop the points from that step on
/// that earlier files of the directory hold, so that the curves of a resumed run do not overlap.
///
/// Events are buffered, for five seconds at most while others follow. A crash of the process loses what is in the buffer
/// ([`flush`](Self::flush) empties it), a loss of power also what the system has not written out ([`sync`](Self::sync) waits
/// for that).
pub struct EventWriter {
    records: RecordWriter<BufWriter<File>>,
    /// The same open file, past the buffer.
    file: File,
    path: PathBuf,
    flushed: Instant,
}

impl EventWriter {
    /// Creates a file in `dir`, and the directory where it is missing. `first_step` is the first step that this session is
    /// going to write: one after the restored step in a resumed run.
    ///
    /// Fails with [`ErrorKind::Io`] when the directory cannot be made, read or written.
    pub fn create(dir: impl AsRef<Path>, first_step: u64) -> Result<Self> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(|error| Error::io("create the directory", dir, error))?;
        let (path, file) = create_file(dir)?;
        let clone = file.try_clone().map_err(|error| Error::io("open again", &path, error))?;
        let records = RecordWriter::new(BufWriter::with_capacity(BUFFER, clone));
        let mut writer = Self { records, file, path, flushed: Instant::now() };

        let mut version = Event::new();
        version.set_file_version("brain.Event:2".to_owned());
        writer.event(version, 0, now())?;
        let mut start = SessionLog::new();
        start.set_status(SessionLog_SessionStatus::START);
        let mut event = Event::new();
        event.set_session_log(start);
        writer.event(event, first_step, now())?;
        writer.flush()?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One point of a curve. A `/` in the tag makes groups. Fails with [`ErrorKind::Io`].
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64, time: SystemTime) -> Result<()> {
        self.scalars_at(&[(tag, value)], step, time)
    }

    /// One point of several curves at once, now. Fails with [`ErrorKind::Io`].
    pub fn scalars<S: AsRef<str>>(&mut self, values: &[(S, f64)], step: u64) -> Result<()> {
        self.scalars_at(values, step, now())
    }

    /// One point of several curves at once, as of `time`: for values that were collected on the device and are read later.
    /// Fails with [`ErrorKind::Io`].
    pub fn scalars_at<S: AsRef<str>>(&mut self, values: &[(S, f64)], step: u64, time: SystemTime) -> Result<()> {
        let values = values.iter().map(|(tag, value)| {
            let mut point = Summary_Value::new();
            point.set_tag(tag.as_ref().to_owned());
            // The field is an f32; beyond its range stands infinity.
            #[allow(clippy::cast_possible_truncation)]
            point.set_simple_value(*value as f32);
            point
        });
        self.values(values.collect(), step, time)
    }

    /// How the values of a tensor are distributed. Fails with [`ErrorKind::Io`].
    pub fn histogram(&mut self, tag: &str, histogram: &Histogram, step: u64) -> Result<()> {
        self.tagged(tag, histogram.value(), step)
    }

    /// A picture. Fails with [`ErrorKind::Io`].
    pub fn image(&mut self, tag: &str, image: &Image, step: u64) -> Result<()> {
        self.tagged(tag, image.value()?, step)
    }

    /// A text in Markdown: samples, a table, the structure of the network. Fails with [`ErrorKind::Io`].
    pub fn text(&mut self, tag: &str, markdown: &str, step: u64) -> Result<()> {
        let mut value = Summary_Value::new();
        value.set_metadata(tensor::metadata("text", &TextPluginData::new())?);
        value.set_tensor(tensor::string(markdown.as_bytes().to_vec()));
        self.tagged(tag, value, step)
    }

    /// A curve of precision over recall. The page wants the same number of thresholds in all of a tag. Fails with
    /// [`ErrorKind::Io`].
    pub fn pr_curve(&mut self, tag: &str, curve: &PrCurve, step: u64) -> Result<()> {
        self.tagged(tag, curve.value()?, step)
    }

    /// What the run was made with, for the HParams page; see [`HyperParameters`] for the directory. Fails with
    /// [`ErrorKind::Io`].
    pub fn hyper_parameters(&mut self, values: &HyperParameters) -> Result<()> {
        let now = now();
        self.values(vec![values.value(now)?], 0, now)
    }

    /// How the run ended, for the HParams page. Fails with [`ErrorKind::Io`].
    pub fn session_end(&mut self, success: bool) -> Result<()> {
        let now = now();
        self.values(vec![hyper_parameters::session_end(success, now)?], 0, now)
    }

    /// How the page of custom scalars puts curves together. Fails with [`ErrorKind::Io`].
    pub fn layout(&mut self, layout: &Layout) -> Result<()> {
        self.values(vec![layout.value()?], 0, now())
    }

    fn tagged(&mut self, tag: &str, mut value: Summary_Value, step: u64) -> Result<()> {
        value.set_tag(tag.to_owned());
        self.values(vec![value], step, now())
    }

    /// Hands everything written so far to the operating system. Fails with [`ErrorKind::Io`].
    pub fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        self.records.flush().map_err(|error| Error::io("write", &self.path, error))
    }

    /// Flushes, and waits until the file is on the disk. Fails with [`ErrorKind::Io`].
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))
    }

    /// The file, to sync in another thread.
    pub(crate) fn file(&self) -> (PathBuf, std::io::Result<File>) {
        (self.path.clone(), self.file.try_clone())
    }

    fn values(&mut self, values: Vec<Summary_Value>, step: u64, time: SystemTime) -> Result<()> {
        let mut summary = Summary::new();
        summary.set_value(values.into());
        let mut event = Event::new();
        event.set_summary(summary);
        self.event(event, step, time)
    }

    fn event(&mut self, mut event: Event, step: u64, time: SystemTime) -> Result<()> {
        event.set_step(i64::try_from(step).unwrap_or(i64::MAX));
        event.set_wall_time(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        let bytes = event.write_to_bytes().map_err(|error| {
            Error::with_source(ErrorKind::Io, format!("cannot encode an event for {}", self.path.display()), error)
        })?;
        self.records.write(&bytes).map_err(|error| Error::io("write", &self.path, error))?;
        if self.flushed.elapsed() >= FLUSH { self.flush() } else { Ok(()) }
    }
}

impl std::fmt::Debug for EventWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EventWriter").field(&self.path).finish()
    }
}

fn now() -> SystemTime {
    SystemTime::now()
}

pub(super) const PREFIX: &str = "events.out.tfevents.";

/// Readers take the files of a directory in the order of their names, which begin with a time in seconds. Two sessions in one
/// second, or a clock that went back, must not swap them: the time in the name is at least one more than the latest there.
fn create_file(dir: &Path) -> Result<(PathBuf, File)> {
    let now = now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut seconds = now.max(latest(dir)?.map_or(0, |latest| latest + 1));
    let host = host();
    let process = std::process::id();
    for _ in 0..1000 {
        let path = dir.join(format!("{PREFIX}{seconds:010}.{host}.{process}"));
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            // Another thread was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => seconds += 1,
            Err(error) => return Err(Error::io("create", &path, error)),
        }
    }
    let message = format!("cannot find a free name for an event file in {}", dir.display());
    Err(Error::new(ErrorKind::Io, message))
}

/// The latest time in the names of the event files; names are ten digits wide until the year 2286, others are not ours.
fn latest(dir: &Path) -> Result<Option<u64>> {
    let mut latest = None;
    for entry in fs::read_dir(dir).map_err(|error| Error::io("list", dir, error))? {
        let name = entry.map_err(|error| Error::io("list", dir, error))?.file_name();
        let time = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next());
        let time = time.filter(|time| time.len() == 10).and_then(|time| time.parse::<u64>().ok());
        // The last ones could not be followed by another ten digits.
        latest = latest.max(time.filter(|&time| time < 9_999_999_000));
    }
    Ok(latest)
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl EventWriter {
        /// From now on every write finds the disk full.
        #[cfg(target_os = "linux")]
        pub(in super::super) fn fill_the_disk(&mut self) {
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            self.records = RecordWriter::new(BufWriter::new(full));
        }
    }

    /// The steps, tags and values of a file, read by hand: length, checksum, message, checksum.
    pub(in super::super) fn read(path: &Path) -> Vec<Event> {
        let bytes = fs::read(path).unwrap();
        let (mut at, mut events) = (0, Vec::new());
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let message = &bytes[at + 12..at + 12 + length];
            events.push(Event::parse_from_bytes(message).unwrap());
            at += 16 + length;
        }
        events
    }

    #[test]
    fn a_file_begins_with_its_version_and_the_first_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path().join("a/b"), 101).unwrap();
        writer.scalars(&[("loss", 0.5), ("rate", f64::NAN)], u64::MAX).unwrap();
        writer.flush().unwrap();
        let events = read(writer.path());
        assert_eq!(events[0].get_file_version(), "brain.Event:2");
        assert_eq!(events[1].get_session_log().get_status(), SessionLog_SessionStatus::START);
        assert_eq!(events[1].get_step(), 101);
        assert_eq!(events[2].get_step(), i64::MAX);
        let values = events[2].get_summary().get_value();
        assert_eq!((values[0].get_tag(), values[0].get_simple_value()), ("loss", 0.5));
        assert!(values[1].get_simple_value().is_nan());
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn files_of_one_second_are_many_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..5).map(|_| EventWriter::create(dir.path(), 0).unwrap().path().to_owned()).collect();
        assert!(paths.is_sorted_by(|a, b| a < b), "{paths:?}");
        let paths: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| EventWriter::create(dir.path(), 0).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().path().to_owned()).collect()
        });
        let unique: std::collections::HashSet<_> = paths.iter().collect();
        assert_eq!(unique.len(), 8);
    }

    #[test]
    fn names_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["9999999999.x", "99999999999999999999.x", "hello", "", "-000000001.x"] {
            fs::write(dir.path().join(format!("{PREFIX}{name}")), "").unwrap();
        }
        let name = EventWriter::create(dir.path(), 0).unwrap().path().file_name().unwrap().to_owned();
        assert!(name.to_str().unwrap().starts_with("events.out.tfevents.1"), "{name:?}");
    }

    #[test]
    fn a_file_where_the_directory_should_be_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(EventWriter::create(file.path(), 0).unwrap_err().kind(), ErrorKind::Io);
    }
}
