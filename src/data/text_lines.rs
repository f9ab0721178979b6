//! Lines of text files.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{Dataset, Record, Source, input_file};
use crate::{Error, ErrorKind, Result};

/// How the bytes of a text file become characters. Older corpora (movie reviews, CoNLL-2002) are in Latin-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Encoding {
    /// UTF-8; a byte order mark at the beginning of a file is left out, and bytes that are no UTF-8 are an error.
    #[default]
    Utf8,
    /// ISO 8859-1: every byte is the character of its number, so nothing can be wrong.
    Latin1,
}

/// Lines of text files as records: a corpus, sentences beside their translations. Files whose names end in `.gz` are
/// unpacked as they are read. Line ends are `\n` or `\r\n`, and do not belong to the line.
///
/// A position is reached by reading the lines before it. [`Dataset::text_lines`] and its kin are shorter where nothing has
/// to be set.
///
/// ```no_run
/// use elistimator::data::{Encoding, TextLines};
///
/// let news = TextLines::files(["1990.txt", "1991.txt.gz"]).encoding(Encoding::Latin1).max_line_bytes(1 << 20).dataset();
/// # Ok::<(), elistimator::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TextLines {
    files: Files,
    encoding: Encoding,
    max_line_bytes: usize,
}

#[derive(Debug, Clone)]
enum Files {
    /// One after another.
    Chained(Vec<PathBuf>),
    /// In step, each under its name.
    Zipped(Vec<(String, PathBuf)>),
}

impl TextLines {
    /// The lines of one file: records `{"line": text}`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::files([path])
    }

    /// The lines of several files one after another: records `{"line": text}`.
    pub fn files<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self::of(Files::Chained(paths.into_iter().map(Into::into).collect()))
    }

    /// The lines of several files side by side, the first ones in one record, then the second ones: records
    /// `{name: text, ...}`. A file that ends before another one is an error that names both.
    pub fn zip<N: Into<String>, P: Into<PathBuf>>(files: impl IntoIterator<Item = (N, P)>) -> Self {
        Self::of(Files::Zipped(files.into_iter().map(|(name, path)| (name.into(), path.into())).collect()))
    }

    fn of(files: Files) -> Self {
        Self { files, encoding: Encoding::Utf8, max_line_bytes: 16 << 20 }
    }

    /// How bytes become characters; UTF-8 unless set.
    #[must_use]
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// The longest line there may be, in bytes of the unpacked file; 16 MiB unless set. Longer ones are an error, since a
    /// file without line ends would otherwise fill the memory.
    #[must_use]
    pub fn max_line_bytes(mut self, bytes: usize) -> Self {
        self.max_line_bytes = bytes;
        self
    }

    /// The lines as a recipe. Files are opened with every pass, and it is then that a missing one is an error.
    pub fn dataset(self) -> Dataset {
        Dataset::from_source(self)
    }

    fn lines(&self, path: &Path) -> Result<Lines> {
        let reader = input_file::stream(path)?;
        Ok(Lines {
            path: path.to_owned(),
            reader,
            number: 0,
            encoding: self.encoding,
            max: self.max_line_bytes,
            bytes: Vec::new(),
        })
    }

    fn open_chained(
        &self,
        paths: &[PathBuf],
        position: u64,
    ) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> {
        let paths = paths.to_vec();
        let mut rest = paths.into_iter();
        // The first file is opened here, so that a wrong path is told at once.
        let mut lines = rest.next().map(|path| self.lines(&path)).transpose()?;
        let mut left = position;
        let settings = self.clone();
        let mut next = move || -> Result<Option<Record>> {
            while let Some(open) = &mut lines {
                while left > 0 && open.read()? {
                    left -= 1;
                }
                if left == 0 && open.read()? {
                    return Ok(Some(Record::new().with("line", open.text()?)));
                }
                lines = rest.next().map(|path| settings.lines(&path)).transpose()?;
            }
            Ok(None)
        };
        Ok(Box::new(std::iter::from_fn(move || next().transpose())))
    }

    fn open_zipped(
        &self,
        files: &[(String, PathBuf)],
        position: u64,
    ) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> {
        let mut open = Vec::with_capacity(files.len());
        for (index, (name, path)) in files.iter().enumerate() {
            if files[..index].iter().any(|(other, _)| other == name) {
                return Err(Error::new(ErrorKind::InvalidArgument, format!("zip: two files are named {name:?}")));
            }
            open.push((name.clone(), self.lines(path)?));
        }
        let mut left = position;
        let mut next = move || -> Result<Option<Record>> {
            loop {
                if !read_in_step(&mut open)? {
                    return Ok(None);
                }
                if left == 0 {
                    break;
                }
                left -= 1;
            }
            let texts = open.iter().map(|(name, lines)| Ok((name, lines.text()?)));
            texts.collect::<Result<Vec<_>>>().map(|texts| {
                Some(texts.into_iter().fold(Record::new(), |record, (name, text)| record.with(name.as_str(), text)))
            })
        };
        Ok(Box::new(std::iter::from_fn(move || next().transpose())))
    }
}

/// Reads a line of every file; false when all are at their ends.
fn read_in_step(files: &mut [(String, Lines)]) -> Result<bool> {
    let mut ended = Vec::with_capacity(files.len());
    for (_, lines) in files.iter_mut() {
        ended.push(!lines.read()?);
    }
    let first = |state: bool| ended.iter().position(|&end| end == state).and_then(|index| files.get(index));
    match (first(true), first(false)) {
        (Some((_, short)), Some((_, long))) => {
            let (short, long) = ((short.path.display(), short.number), (long.path.display(), long.number));
            let message = format!("{} ends after {} lines, but {} has a line {}", short.0, short.1, long.0, long.1);
            Err(Error::new(ErrorKind::Data, message))
        }
        (_, going_on) => Ok(going_on.is_some()),
    }
}

impl Source for TextLines {
    fn open(&self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> {
        match &self.files {
            Files::Chained(paths) => self.open_chained(paths, position),
            Files::Zipped(files) => self.open_zipped(files, position),
        }
    }

    fn describe(&self) -> String {
        let files: Vec<_> = match &self.files {
            Files::Chained(paths) => paths.iter().map(|path| input_file::describe(path)).collect(),
            Files::Zipped(files) => {
                files.iter().map(|(name, path)| format!("{name} from {}", input_file::describe(path))).collect()
            }
        };
        let encoding = match self.encoding {
            Encoding::Utf8 => "utf-8",
            Encoding::Latin1 => "latin-1",
        };
        format!("lines({encoding}; {})", files.join("; "))
    }
}

/// The lines of one open file.
struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    /// Of the line in `bytes`, from 1.
    number: u64,
    encoding: Encoding,
    max: usize,
    bytes: Vec<u8>,
}

impl Lines {
    /// Reads the next line's bytes; false at the end of the file.
    fn read(&mut self) -> Result<bool> {
        self.bytes.clear();
        let limit = (self.max as u64).saturating_add(2); // `\r\n` is not part of the line
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.bytes);
        let line = self.number.saturating_add(1);
        read.map_err(|error| input_file::read_error(&self.path, error).at(format_args!("line {line}")))?;
        if self.bytes.is_empty() {
            return Ok(false);
        }
        self.number = line;
        if self.bytes.last() == Some(&b'\n') {
            self.bytes.pop();
            if self.bytes.last() == Some(&b'\r') {
                self.bytes.pop();
            }
        }
        if self.bytes.len() > self.max {
            let message = format!(
                "{}: line {line} is longer than {} bytes, the most that is set (`max_line_bytes`)",
                self.path.display(),
                self.max
            );
            return Err(Error::new(ErrorKind::Data, message));
        }
        Ok(true)
    }

    /// The characters of the line that was read.
    fn text(&self) -> Result<String> {
        if self.encoding == Encoding::Latin1 {
            return Ok(self.bytes.iter().map(|&byte| char::from(byte)).collect());
        }
        let bytes = match self.bytes.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if self.number == 1 => rest,
            _ => &self.bytes,
        };
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| {
            let at = error.valid_up_to();
            let message = format!(
                "{}: line {}: byte {} is 0x{:02x}, no UTF-8 (`Encoding::Latin1` reads any bytes)",
                self.path.display(),
                self.number,
                at + 1,
                bytes.get(at).copied().unwrap_or_default()
            );
            Error::new(ErrorKind::Data, message)
        })
    }
}
