//! The plain history of a run: one line of JSON for each record.

use crate::gauges::MACHINE;
use crate::metrics::Figure;
use crate::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const FILE: &str = "history.jsonl";
/// A longer line is none of ours, and is not read into memory.
const LINE: u64 = 1 << 20;
/// The most classes of a matrix that is kept and drawn.
pub(crate) const CLASSES: usize = 100;
const FLUSH: Duration = Duration::from_secs(5);

/// The numbers of one step: where they come from (`train`, `validation`), and their values by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Global step.
    pub step: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// `train`, `validation`, or `validation_NAME` for a further validation set.
    pub source: String,
    /// Values by name; NaN and infinity among them.
    pub values: BTreeMap<String, f64>,
    /// Confusion matrices by name, of at most 100 classes: counts row by row, a row for each label.
    pub matrices: BTreeMap<String, Vec<f64>>,
}

/// What a run logged, read back from `history.jsonl` in its model directory: to draw, to compare, or to take elsewhere as CSV,
/// without TensorBoard.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    records: Vec<Record>,
}

impl History {
    /// Reads the history of a model directory. A last line that a crash has cut off is left out.
    ///
    /// Fails with [`ErrorKind::NotFound`] if there is none, [`ErrorKind::Corrupt`] with the number of the first line before the
    /// last that cannot be read, or [`ErrorKind::Io`].
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join(FILE);
        Self::read(open(&path)?, &path)
    }

    /// Reads the file that is at `path`.
    pub(crate) fn read(file: impl Read, path: &Path) -> Result<Self> {
        let mut records = Vec::new();
        let mut bad = None;
        for_each_line(file, path, |number, line| {
            if let Some(number) = bad {
                let message = format!("{}: line {number} is not a record of a history", path.display());
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            match parse(line) {
                Some(record) => records.push(record),
                None => bad = Some(number),
            }
            Ok(())
        })?;
        Ok(Self { records })
    }

    /// Of these records.
    pub fn from_records(records: Vec<Record>) -> Self {
        Self { records }
    }

    /// The records in the order in which they were written.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The names of all series, `source/name`, in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        let names = self.records.iter().flat_map(|r| r.values.keys().map(move |name| format!("{}/{name}", r.source)));
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Steps and values of one series by its name, such as `train/loss`; steps rise, and of several values for one step the last
    /// one counts. Empty if there is none of this name.
    pub fn series(&self, name: &str) -> Vec<(u64, f64)> {
        let mut series = BTreeMap::new();
        for record in &self.records {
            let inner = name.strip_prefix(record.source.as_str()).and_then(|rest| rest.strip_prefix('/'));
            if let Some(&value) = inner.and_then(|inner| record.values.get(inner)) {
                series.insert(record.step, value);
            }
        }
        series.into_iter().collect()
    }

    /// The last confusion matrix of this name, such as `validation/confusion`, and its step; `None` if there is none.
    pub fn matrix(&self, name: &str) -> Option<(u64, &[f64])> {
        let of = |record: &'_ Record| -> Option<String> {
            Some(name.strip_prefix(&format!("{}/", record.source))?.to_owned())
        };
        self.records.iter().rev().find_map(|record| Some((record.step, record.matrices.get(&of(record)?)?.as_slice())))
    }

    /// The names of all confusion matrices, `source/name`, in alphabetical order.
    pub fn matrices(&self) -> Vec<String> {
        let names = self.records.iter().flat_map(|r| r.matrices.keys().map(move |name| format!("{}/{name}", r.source)));
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Without what tells of the machine and not of the model: `steps_per_second`, `examples_per_second`, `data_wait` and
    /// `memory`. For pictures, and to compare runs.
    #[must_use]
    pub fn without_machine(&self) -> Self {
        let mut records = self.records.clone();
        for record in records.iter_mut().filter(|record| record.source == "train") {
            record.values.retain(|name, _| !MACHINE.contains(&name.as_str()));
        }
        Self { records }
    }

    /// The history as a table: one line for each step, one column for each series. Cells without a value are empty.
    pub fn to_csv(&self) -> String {
        let names = self.names();
        let mut rows: BTreeMap<u64, BTreeMap<String, f64>> = BTreeMap::new();
        for record in &self.records {
            let row = rows.entry(record.step).or_default();
            row.extend(record.values.iter().map(|(name, value)| (format!("{}/{name}", record.source), *value)));
        }
        let mut text = String::from("step");
        for name in &names {
            text.push(',');
            text += &quoted(name);
        }
        text.push('\n');
        for (step, row) in rows {
            text += &step.to_string();
            for name in &names {
                text.push(',');
                if let Some(value) = row.get(name) {
                    text += &value.to_string();
                }
            }
            text.push('\n');
        }
        text
    }
}

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

fn parse(line: &[u8]) -> Option<Record> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let values = line.get("values")?.as_object()?.iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => text.parse().ok()?,
            value => value.as_f64()?,
        };
        Some((name.clone(), value))
    });
    let matrices = line.get("matrices").and_then(Value::as_object).into_iter().flatten().map(|(name, counts)| {
        let counts: Option<Vec<f64>> = counts.as_array()?.iter().map(Value::as_f64).collect();
        Some((name.clone(), counts.filter(|counts| counts.len().isqrt().pow(2) == counts.len())?))
    });
    Some(Record {
        matrices: matrices.collect::<Option<_>>()?,
        step: line.get("step")?.as_u64()?,
        time: line.get("time")?.as_f64()?,
        source: line.get("source")?.as_str()?.to_owned(),
        values: values.collect::<Option<_>>()?,
    })
}

fn open(path: &Path) -> Result<File> {
    // Looked at first, since opening a FIFO would wait for a writer.
    let found = fs::metadata(path).and_then(|found| match found.is_file() {
        true => File::open(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")),
    });
    found.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::with_source(ErrorKind::NotFound, format!("there is no history {}", path.display()), error)
        }
        _ => Error::io("open", path, error),
    })
}

/// Calls `each` with the number of a line and the line, without its end; a last line without an end is there too.
fn for_each_line(file: impl Read, path: &Path, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(LINE).read_until(b'\n', &mut line);
        let read = read.map_err(|error| Error::io("read", path, error))?;
        if read == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if read as u64 == LINE {
            let message = format!("{}: line {number} is longer than {LINE} bytes", path.display());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        each(number, &line)?;
    }
    Ok(())
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

fn quoted(name: &str) -> String {
    if name.contains([',', '"', '\n', '\r']) { format!("\"{}\"", name.replace('"', "\"\"")) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, first: u64, steps: std::ops::Range<u64>, value: f64) {
        let mut writer = HistoryWriter::create(dir, first);
        for step in steps {
            writer.record("train", step, &[("loss", value)]);
        }
        writer.flush();
        assert!(writer.is_enabled());
    }

    #[test]
    fn what_is_written_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = HistoryWriter::create(dir.path(), 1);
        writer.record("train", 1, &[("loss", 0.1 + 0.2), ("norm", f64::NAN)]);
        writer.record("train", 2, &[("loss", f64::NEG_INFINITY)]);
        writer.record("validation", 2, &[("loss", 1e-300), ("a,\"b", 1.0)]);
        writer.sync();
        let history = History::load(dir.path()).unwrap();
        assert_eq!(history.names(), ["train/loss", "train/norm", "validation/a,\"b", "validation/loss"]);
        assert_eq!(history.series("train/loss"), [(1, 0.1 + 0.2), (2, f64::NEG_INFINITY)]);
        assert!(history.series("train/norm")[0].1.is_nan());
        assert_eq!(history.series("train/nothing"), []);
        let csv = "step,train/loss,train/norm,\"validation/a,\"\"b\",validation/loss\n\
            1,0.30000000000000004,NaN,,\n\
            2,-inf,,1,0.";
        assert!(history.to_csv().starts_with(csv), "{}", history.to_csv());
    }

    #[test]
    fn matrices_come_back_and_broken_ones_are_an_error() {
        use crate::metrics::ConfusionMatrix;
        let dir = tempfile::tempdir().unwrap();
        let of = |classes: usize| ConfusionMatrix::weighted(&[0, 1], &[0, 0], &[0.5, 1.0], classes).unwrap().into();
        let mut writer = HistoryWriter::create(dir.path(), 1);
        let figures = [("confusion".to_owned(), of(2)), ("wide".to_owned(), of(101))];
        writer.measured("validation", 5, &[("loss", 1.0)], &figures);
        writer.measured("validation", 9, &[("loss", 0.5)], &figures[1..]);
        writer.flush();
        let history = History::load(dir.path()).unwrap();
        assert_eq!(history.matrices(), ["validation/confusion"]);
        assert_eq!(history.matrix("validation/confusion"), Some((5, [0.5, 1.0, 0.0, 0.0].as_slice())));
        assert_eq!((history.matrix("validation/wide"), history.matrix("train/confusion")), (None, None));
        assert_eq!(history.series("validation/loss").len(), 2);
        // A resumed run takes matrices back with the rest of the record.
        drop(HistoryWriter::create(dir.path(), 5));
        assert!(History::load(dir.path()).unwrap().matrices().is_empty());
        for bad in ["[1,2,3]", "[1,null,3,4]", "7"] {
            let line = format!(r#"{{"step":1,"time":0,"source":"a","values":{{}},"matrices":{{"m":{bad}}}}}"#);
            fs::write(dir.path().join(FILE), format!("{line}\n{line}\n")).unwrap();
            assert_eq!(History::load(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
    }

    #[test]
    fn a_resumed_run_takes_back_what_it_writes_again() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, 1..121, 1.0);
        write(dir.path(), 101, 101..151, 2.0);
        let series = History::load(dir.path()).unwrap().series("train/loss");
        let expected: Vec<_> = (1..151).map(|step| (step, if step <= 100 { 1.0 } else { 2.0 })).collect();
        assert_eq!(series, expected);
        assert_eq!(History::load(dir.path()).unwrap().records().len(), 150);
    }

    #[test]
    fn a_tail_cut_anywhere_is_left_out_and_written_over() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, 1..4, 1.0);
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let second = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        let third = second + whole[second..].iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for length in third..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            // The last byte is the end of the line: without it, the line is whole.
            let complete = if length == whole.len() - 1 { 3 } else { 2 };
            assert_eq!(History::load(dir.path()).unwrap().records().len(), complete, "{length}");
            write(dir.path(), 4, 4..5, 2.0);
            assert_eq!(History::load(dir.path()).unwrap().records().len(), complete + 1, "{length}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error_with_its_line_and_is_not_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, 1..4, 1.0);
        let path = dir.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap().replacen("\"step\":2", "\"step\":-2", 1);
        fs::write(&path, text).unwrap();
        write(dir.path(), 3, 3..5, 2.0);
        let error = History::load(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn hostile_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(History::load(dir.path()).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(dir.path().join(FILE), vec![b'['; 3 << 20]).unwrap();
        assert_eq!(History::load(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
        let mut writer = HistoryWriter::create(dir.path(), 0);
        assert!(!writer.is_enabled());
        writer.record("train", 1, &[("loss", 1.0)]);
        fs::write(dir.path().join(FILE), "").unwrap();
        assert_eq!(History::load(dir.path()).unwrap(), History::default());
        fs::write(dir.path().join(FILE), "[[[[{}]]]]\n\0\0\0").unwrap();
        assert_eq!(History::load(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
