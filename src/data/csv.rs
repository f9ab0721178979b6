//! Tables in CSV files.

use std::io::{BufRead, Read};
use std::path::PathBuf;

use csv::{ByteRecord, ReaderBuilder};

use crate::data::csv_column::Column;
use crate::data::csv_quotes::Quotes;
use crate::data::{Dataset, Dtype, Record, Source, input_file};
use crate::{Error, ErrorKind, Result};

/// What the reader takes from the file at once.
const BUFFER: usize = 1 << 16;

/// How much of a header is in a message, in bytes.
const MOST_SHOWN: usize = 1200;

/// A table in a CSV file ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)) with a type for every column that is wanted;
/// a name that ends in `.gz` is unpacked. [`dataset`](Self::dataset) reads row by row; [`into_arrays`](Self::into_arrays)
/// reads a table that fits in memory, which shuffles better.
///
/// ```no_run
/// use elistimator::data::{Csv, Dtype};
///
/// let passengers = Csv::new("titanic.csv")
///     .column("age", Dtype::F32)
///     .column("sex", Dtype::Text)
///     .column("survived", Dtype::I64)
///     .missing(f64::NAN)
///     .dataset();
/// # Ok::<(), elistimator::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Csv {
    path: PathBuf,
    columns: Vec<(String, Dtype)>,
    delimiter: u8,
    header: bool,
    missing: Option<f64>,
    missing_text: Option<String>,
    max_row_bytes: usize,
    max_bytes: u64,
}

impl Csv {
    /// The table of this file; say its columns next.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            columns: Vec::new(),
            delimiter: b',',
            header: true,
            missing: None,
            missing_text: None,
            max_row_bytes: 16 << 20,
            max_bytes: 1 << 32,
        }
    }

    /// Takes the column of this name as values of this type. Numbers are as Rust writes them, with blanks around them or
    /// not, and one too large for its type is an error; booleans are `true`, `false`, `1` or `0` in any case; text is UTF-8 as
    /// it stands. Columns of the file that are not asked for are left out.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>, dtype: Dtype) -> Self {
        self.columns.push((name.into(), dtype));
        self
    }

    /// What stands between fields; a comma unless set.
    #[must_use]
    pub fn delimiter(mut self, byte: u8) -> Self {
        self.delimiter = byte;
        self
    }

    /// The first row is data. The columns are then those of the file in their order, and all of them must be given.
    #[must_use]
    pub fn without_header(mut self) -> Self {
        self.header = false;
        self
    }

    /// The value for fields that are empty, in columns of numbers and booleans; without it, and where the value is none of the
    /// column's type (NaN among integers), they are an error. Empty text stays empty text.
    #[must_use]
    pub fn missing(mut self, value: f64) -> Self {
        self.missing = Some(value);
        self
    }

    /// A text, such as `NA`, that means the same as an empty field in columns of numbers and booleans.
    #[must_use]
    pub fn missing_text(mut self, text: impl Into<String>) -> Self {
        self.missing_text = Some(text.into());
        self
    }

    /// The longest row there may be, in bytes; 16 MiB unless set. A quote that is never closed would otherwise read the rest
    /// of the file into memory. The limit is kept to within 64 KiB.
    #[must_use]
    pub fn max_row_bytes(mut self, bytes: usize) -> Self {
        self.max_row_bytes = bytes;
        self
    }

    /// The largest file that [`into_arrays`](Self::into_arrays) reads, in bytes after unpacking; 4 GiB unless set.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// The rows as a recipe: records `{column: scalar, ...}`. The file is opened with every pass and a position is reached by
    /// reading the rows before it. Errors of [`ErrorKind::Data`] name file, line and column, what was found and what was
    /// expected; a quote that is never closed, as in a file that was cut off, is one.
    pub fn dataset(self) -> Dataset {
        Dataset::from_source(self)
    }

    /// The whole table: an array `[rows]` for every column, for [`Dataset::from_arrays`].
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be read; [`ErrorKind::Data`] naming file, line and column when a field is not of
    /// its type, and when the file is larger than [`max_bytes`](Self::max_bytes); [`ErrorKind::InvalidArgument`] for settings
    /// that cannot work.
    pub fn into_arrays(self) -> Result<Record> {
        let mut rows = self.rows(self.max_bytes)?;
        let mut columns: Vec<_> = self.columns.iter().map(|(_, dtype)| Column::new(*dtype, self.missing)).collect();
        while rows.read()? {
            rows.parse(&mut columns)?;
        }
        Ok(self
            .columns
            .iter()
            .zip(columns)
            .fold(Record::new(), |record, ((name, _), column)| record.with(name.as_str(), column.into_array())))
    }

    fn check(&self) -> Result<()> {
        let invalid = |message: String| {
            Err(Error::new(ErrorKind::InvalidArgument, format!("csv {}: {message}", self.path.display())))
        };
        if self.columns.is_empty() {
            return invalid("no column is asked for (`column`)".into());
        }
        if matches!(self.delimiter, b'"' | b'\r' | b'\n') {
            return invalid(format!("{:?} cannot be the delimiter", char::from(self.delimiter)));
        }
        for (index, (name, _)) in self.columns.iter().enumerate() {
            if self.columns[..index].iter().any(|(other, _)| other == name) {
                return invalid(format!("column {name:?} is asked for twice"));
            }
        }
        Ok(())
    }

    /// Opens the file and reads its header.
    fn rows(&self, max_bytes: u64) -> Result<Rows> {
        self.check()?;
        let metered = Metered {
            reader: input_file::stream(&self.path)?,
            row: 0,
            whole: max_bytes,
            over: None,
            crlf: None,
            last: 0,
            quotes: Quotes::new(self.delimiter),
            is_cut: false,
        };
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.delimiter)
            .buffer_capacity(BUFFER)
            .from_reader(metered);
        let mut rows = Rows {
            table: self.clone(),
            reader,
            row: ByteRecord::new(),
            fields: self.columns.len(),
            places: Vec::new(),
        };
        if !self.header {
            rows.places = (0..self.columns.len()).collect();
            return Ok(rows);
        }
        if !rows.read_any()? {
            let message = format!("{} is empty, expected a header (or `without_header`)", self.path.display());
            return Err(Error::new(ErrorKind::Data, message));
        }
        rows.fields = rows.row.len();
        for (name, _) in &self.columns {
            let mut found = (0..rows.fields).filter(|&place| rows.row[place].trim_ascii() == name.trim().as_bytes());
            match (found.next(), found.next()) {
                (Some(place), None) => rows.places.push(place),
                (Some(_), Some(_)) => return Err(rows.error(name, "it is in the header twice".into())),
                (None, _) => {
                    let mut known = String::new();
                    for name in rows.row.iter().map(shown) {
                        if known.len() + name.len() > MOST_SHOWN {
                            known.push_str(", ...");
                            break;
                        }
                        known.push_str(if known.is_empty() { "" } else { ", " });
                        known.push_str(&name);
                    }
                    return Err(rows.error(name, format!("it is not in the header, which has {known}")));
                }
            }
        }
        Ok(rows)
    }
}

impl Source for Csv {
    fn open(&self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> {
        let mut rows = self.rows(u64::MAX)?;
        for _ in 0..position {
            if !rows.read()? {
                break;
            }
        }
        let (columns, missing) = (self.columns.clone(), self.missing);
        let mut next = move || -> Result<Option<Record>> {
            if !rows.read()? {
                return Ok(None);
            }
            let mut values: Vec<_> = columns.iter().map(|(_, dtype)| Column::new(*dtype, missing)).collect();
            rows.parse(&mut values)?;
            let mut record = Record::new();
            for ((name, _), value) in columns.iter().zip(values) {
                record.insert(name.as_str(), value.into_array().row(0)?);
            }
            Ok(Some(record))
        };
        Ok(Box::new(std::iter::from_fn(move || next().transpose())))
    }

    fn describe(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|(name, dtype)| format!("{name} {dtype}")).collect();
        let mut set = self.missing.map_or(String::new(), |value| format!("; missing {value}"));
        if let Some(text) = &self.missing_text {
            set.push_str(&format!("; missing as {text:?}"));
        }
        if self.delimiter != b',' {
            set.push_str(&format!("; between {:?}", char::from(self.delimiter)));
        }
        set.push_str(if self.header { "" } else { "; no header" });
        format!("csv({}; {}{set})", input_file::describe(&self.path), columns.join(", "))
    }
}

/// A reader that gives up rather than read without end.
struct Metered {
    reader: Box<dyn BufRead + Send>,
    /// How many bytes the row may still take.
    row: u64,
    /// How many bytes the file may still take.
    whole: u64,
    /// The limit that was met.
    over: Option<&'static str>,
    /// Whether the first line ends in `\r\n`, once it has been read.
    crlf: Option<bool>,
    /// The last byte that was read.
    last: u8,
    quotes: Quotes,
    /// Whether the file ended within quotes.
    is_cut: bool,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.row.min(self.whole);
        if left == 0 && !self.reader.fill_buf()?.is_empty() {
            self.over = Some(if self.whole == 0 { "max_bytes" } else { "max_row_bytes" });
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.reader.read(&mut buffer[..most])?;
        self.quotes.pass(&buffer[..count]);
        self.is_cut = count == 0 && !buffer.is_empty() && self.quotes.is_open();
        self.row = self.row.saturating_sub(count as u64);
        self.whole = self.whole.saturating_sub(count as u64);
        if self.crlf.is_none() {
            let read = &buffer[..count];
            let end = read.iter().position(|&byte| byte == b'\n');
            self.crlf = end.map(|end| end.checked_sub(1).map_or(self.last, |before| read[before]) == b'\r');
            self.last = read.last().copied().unwrap_or(self.last);
        }
        Ok(count)
    }
}

/// The rows of an open file.
struct Rows {
    table: Csv,
    reader: csv::Reader<Metered>,
    row: ByteRecord,
    /// How many a row must have.
    fields: usize,
    /// Where in a row the columns are.
    places: Vec<usize>,
}

impl Rows {
    fn read_any(&mut self) -> Result<bool> {
        self.reader.get_mut().row = (self.table.max_row_bytes as u64).saturating_add(BUFFER as u64);
        let begins = self.reader.position().line();
        let read = self.reader.read_byte_record(&mut self.row);
        if self.reader.get_ref().is_cut {
            let message = format!(
                "{}: the row that begins in line {begins} or after it has a quote that is not closed before the end of the file",
                self.table.path.display()
            );
            return Err(Error::new(ErrorKind::Data, message));
        }
        read.map_err(|error| {
            let (path, line) = (&self.table.path, self.reader.position().line());
            if let Some(limit) = self.reader.get_ref().over {
                let (what, most) = match limit {
                    "max_bytes" => ("the file", self.table.max_bytes),
                    _ => ("the row", self.table.max_row_bytes as u64),
                };
                let message = format!(
                    "{}: line {line}: {what} is longer than {most} bytes, the most that is set (`{limit}`)",
                    path.display()
                );
                return Error::new(ErrorKind::Data, message);
            }
            match error.into_kind() {
                csv::ErrorKind::Io(error) => input_file::read_error(path, error).at(format_args!("line {line}")),
                other => Error::new(ErrorKind::Data, format!("{}: line {line}: {other:?}", path.display())),
            }
        })
    }

    /// Reads the next row; false at the end of the file.
    fn read(&mut self) -> Result<bool> {
        if !self.read_any()? {
            return Ok(false);
        }
        if self.row.len() != self.fields {
            let message = format!(
                "{}: line {}: found {} fields, expected {}, as many as {}",
                self.table.path.display(),
                self.line(),
                self.row.len(),
                self.fields,
                if self.table.header { "the header has" } else { "there are columns" }
            );
            return Err(Error::new(ErrorKind::Data, message));
        }
        Ok(true)
    }

    /// The line on which the row begins. After `\r\n` the reader's position is that of the `\n`, which it takes for a part of the
    /// next row.
    fn line(&self) -> u64 {
        let is_behind = self.reader.get_ref().crlf == Some(true);
        self.row.position().map_or(0, |position| position.line() + u64::from(is_behind && position.byte() > 0))
    }

    fn error(&self, column: &str, message: String) -> Error {
        let place = format!("{}: line {}: column {column:?}", self.table.path.display(), self.line());
        Error::new(ErrorKind::Data, format!("{place}: {message}"))
    }

    /// Puts the row's values at the ends of the columns.
    fn parse(&self, columns: &mut [Column]) -> Result<()> {
        for (((name, dtype), &place), column) in self.table.columns.iter().zip(&self.places).zip(columns) {
            let field = self.row.get(place).unwrap_or_default();
            let missing = self.table.missing_text.as_ref().is_some_and(|text| text.as_bytes() == field.trim_ascii());
            let text = if missing && *dtype != Dtype::Text { Some("") } else { std::str::from_utf8(field).ok() };
            if !text.is_some_and(|text| column.push(text)) {
                let expected = match dtype {
                    Dtype::Text => "UTF-8 text".to_owned(),
                    _ => dtype.to_string(),
                };
                let found = if missing { "a missing value".into() } else { shown(field) };
                let empty = missing || field.trim_ascii().is_empty();
                let advice = match self.table.missing {
                    Some(value) if empty => format!(", and {value} for missing ones is none"),
                    None if empty => " (`missing` sets what it means)".to_owned(),
                    _ => String::new(),
                };
                return Err(self.error(name, format!("found {found}, expected {expected}{advice}")));
            }
        }
        Ok(())
    }
}

/// The beginning of a field, quoted.
fn shown(field: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(&field[..field.len().min(240)]).chars().take(60).collect();
    format!("{text:?}")
}
