//! What writes the history of a run.

use super::history::{CLASSES, FILE, LINE, for_each_line, open, parse};
use crate::metrics::Figure;
use crate::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const FLUSH: Duration = Duration::from_secs(5);

/// Appends to the history of a run, and never stops training: the first failure is reported once through `log::warn`, and
/// from then on everything is dropped.
///
/// Records are buffered, for five seconds at most while others follow.
#[derive(Debug)]
pub struct HistoryWriter {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    flushed: Instant,
}

impl HistoryWriter {
    /// Goes on with the history of a model directory, or begins it. `first_step` is the first step that this session is going to
    /// write: records from that step on, which a run that was interrupted has written ahead of its last checkpoint, are taken out.
    pub fn create(dir: impl AsRef<Path>, first_step: u64) -> Self {
        let dir = dir.as_ref();
        let mut writer = Self { path: dir.join(FILE), file: None, flushed: Instant::now() };
        match fs::create_dir_all(dir).map_err(|error| Error::io("create the directory", dir, error)).and_then(|()| {
            cut(&writer.path, first_step)?;
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(&writer.path)
                .map_err(|error| Error::io("open", &writer.path, error))
        }) {
            Ok(file) => writer.file = Some(BufWriter::new(file)),
            Err(error) => writer.give_up(&error),
        }
        writer
    }

    /// Whether a model directory has a history.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// A writer that writes nothing.
    pub fn disabled() -> Self {
        Self { path: PathBuf::new(), file: None, flushed: Instant::now() }
    }

    /// Does anything that is written arrive? Not any more after a failure.
    pub fn is_enabled(&self) -> bool {
        self.file.is_some()
    }

    /// Values of one step, now.
    pub fn record<S: AsRef<str>>(&mut self, source: &str, step: u64, values: &[(S, f64)]) {
        self.measured(source, step, values, &[]);
    }

    /// Values of one step, now, with the confusion matrices of at most 100 classes among these figures.
    pub fn measured<S: AsRef<str>>(
        &mut self,
        source: &str,
        step: u64,
        values: &[(S, f64)],
        figures: &[(String, Figure)],
    ) {
        if self.file.is_none() {
            return;
        }
        let values: Map<String, Value> =
            values.iter().map(|(name, value)| (name.as_ref().to_owned(), number(*value))).collect();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut record = json!({ "step": step, "time": time, "source": source, "values": values });
        let matrices = figures.iter().filter_map(|(name, figure)| match figure {
            Figure::ConfusionMatrix(matrix)
                if (1..=CLASSES).contains(&matrix.classes())
                    && matrix.counts().iter().all(|count| count.is_finite()) =>
            {
                Some((name.clone(), json!(matrix.counts())))
            }
            _ => None,
        });
        let matrices: Map<String, Value> = matrices.collect();
        if !matrices.is_empty() {
            record["matrices"] = Value::Object(matrices);
        }
        let mut line = record.to_string();
        if line.len() as u64 > LINE {
            // Thousands of values or names of any length: what no reader would take.
            log::warn!("a record of {} bytes is left out of the history", line.len());
            return;
        }
        line.push('\n');
        self.attempt(|file| file.write_all(line.as_bytes()));
        if self.flushed.elapsed() >= FLUSH {
            self.flush();
        }
    }

    /// Hands everything written so far to the operating system.
    pub fn flush(&mut self) {
        self.flushed = Instant::now();
        self.attempt(|file| file.flush());
    }

    /// Flushes, and waits until the file is on the disk.
    pub fn sync(&mut self) {
        self.flush();
        self.attempt(|file| file.get_ref().sync_data());
    }

    /// The file, to sync in another thread.
    pub(crate) fn file(&self) -> Option<(PathBuf, io::Result<File>)> {
        self.file.as_ref().map(|file| (self.path.clone(), file.get_ref().try_clone()))
    }

    fn attempt(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
        if let Some(file) = &mut self.file
            && let Err(error) = write(file)
        {
            let error = Error::io("write", &self.path, error);
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &Error) {
        self.file = None;
        log::warn!("the history is no longer written, training goes on: {error}");
    }
}

/// JSON has no NaN and no infinity.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { Value::String(value.to_string()) }
}

/// Takes out the records from `first_step` on, and a line that was cut off at the end. What else cannot be read stays: it is
/// not for a writer to throw away.
fn cut(path: &Path, first_step: u64) -> Result<()> {
    let mut keep = Vec::new();
    let mut changed = false;
    let mut last_is_bad = false;
    let file = match open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for_each_line(file, path, |_, line| {
        let record = parse(line);
        last_is_bad = record.is_none();
        keep.push(record.is_none_or(|record| record.step < first_step));
        changed |= keep.last() == Some(&false);
        Ok(())
    })?;
    if last_is_bad {
        keep.pop();
        keep.push(false);
    }
    let ends_well = ends_with_newline(path)?;
    if !changed && !last_is_bad && ends_well {
        return Ok(());
    }
    let failed = |error| Error::io("rewrite", path, error);
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut new = BufWriter::new(tempfile::NamedTempFile::new_in(dir).map_err(failed)?);
    let mut kept = keep.iter();
    for_each_line(open(path)?, path, |_, line| {
        if kept.next() == Some(&true) {
            new.write_all(line).and_then(|()| new.write_all(b"\n")).map_err(failed)?;
        }
        Ok(())
    })?;
    let new = new.into_inner().map_err(|error| failed(error.into_error()))?;
    let permissions = fs::metadata(path).map_err(failed)?.permissions();
    fs::set_permissions(new.path(), permissions).map_err(failed)?;
    new.as_file().sync_data().map_err(failed)?;
    new.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn ends_with_newline(path: &Path) -> Result<bool> {
    let read = || -> io::Result<bool> {
        use io::{Seek, SeekFrom};
        let mut file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(true);
        }
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last == *b"\n")
    };
    read().map_err(|error| Error::io("read", path, error))
}
