//! Text files line by line, gzipped or not, with every length bounded.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::data::Encoding;
use crate::{Error, ErrorKind, Result};

/// Longer lines are refused: a file without line ends must not fill the memory.
pub(crate) const LONGEST_LINE: usize = 1 << 20;

/// What a file that is kept in memory may unpack to.
pub(crate) const LARGEST_FILE: u64 = 1 << 32;

impl Encoding {
    /// The text of a line, or `None` for bytes that are none.
    fn decode(self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
            Self::Latin1 => Some(bytes.iter().map(|&byte| char::from(byte)).collect()),
        }
    }
}

/// The lines of a file, without their ends (`\n` or `\r\n`), counted from 1.
pub(crate) struct Lines {
    reader: Box<dyn BufRead>,
    path: PathBuf,
    number: usize,
    line: Vec<u8>,
    left: u64,
    limit: u64,
}

impl Lines {
    /// Opens a file of which at most `limit` unpacked bytes are read; one that is longer is an error.
    pub(crate) fn open(path: &Path, limit: u64) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let packed = reader.fill_buf().map_err(|error| Error::io("read", path, error))?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead> = match packed {
            true => Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(reader))),
            false => Box::new(reader),
        };
        Ok(Self { reader, path: path.to_owned(), number: 0, line: Vec::new(), left: limit, limit })
    }

    /// The next line's bytes, or `None` at the end.
    pub(crate) fn next_bytes(&mut self) -> Result<Option<&[u8]>> {
        self.line.clear();
        let most = (LONGEST_LINE as u64 + 2).min(self.left.saturating_add(1));
        let read = (&mut self.reader).take(most).read_until(b'\n', &mut self.line);
        let read = read.map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                Error::with_source(ErrorKind::Corrupt, format!("cannot unpack {}", self.path.display()), error)
            }
            _ => Error::io("read", &self.path, error),
        })?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if read as u64 > self.left {
            let message = format!("found more than {} bytes, the most this reader takes", self.limit);
            return Err(self.corrupt(message));
        }
        self.left -= read as u64;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
        }
        if self.line.len() > LONGEST_LINE {
            return Err(self.corrupt(format!("longer than {LONGEST_LINE} bytes, the most this reader takes")));
        }
        // Editors on Windows put a byte order mark in front of UTF-8; it belongs to no word.
        let mark = if self.number == 1 && self.line.starts_with(&[0xef, 0xbb, 0xbf]) { 3 } else { 0 };
        Ok(Some(&self.line[mark..]))
    }

    /// The next line as text, or `None` at the end.
    pub(crate) fn next_text(&mut self, encoding: Encoding) -> Result<Option<String>> {
        let Some(bytes) = self.next_bytes()? else { return Ok(None) };
        let text = encoding.decode(bytes);
        let text = text.ok_or_else(|| self.corrupt("these bytes are not UTF-8; is the file in Latin-1?"))?;
        Ok(Some(text))
    }

    /// The number of the line that was read last.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// An error that names the file and the line that was read last.
    pub(crate) fn corrupt(&self, message: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, format!("{}: line {}: {message}", self.path.display(), self.number))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn all(bytes: &[u8], encoding: Encoding, limit: u64) -> Result<Vec<String>> {
        let file = file(bytes);
        let mut lines = Lines::open(file.path(), limit)?;
        std::iter::from_fn(|| lines.next_text(encoding).transpose()).collect()
    }

    #[test]
    fn line_ends_marks_and_packing_do_not_matter() {
        let expected = ["eins", "", "zwei "];
        let plain = "eins\n\nzwei \n".as_bytes();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(plain).unwrap();
        let packed = packed.finish().unwrap();
        for bytes in [plain, b"eins\r\n\r\nzwei \r\n", b"\xef\xbb\xbfeins\n\nzwei ", &packed] {
            assert_eq!(all(bytes, Encoding::Utf8, 1000).unwrap(), expected);
        }
        for end in 2..packed.len() {
            assert_eq!(all(&packed[..end], Encoding::Utf8, 1000).unwrap_err().kind(), ErrorKind::Corrupt, "{end}");
        }
        assert!(all(b"", Encoding::Utf8, 1000).unwrap().is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_name_their_line() {
        let latin = b"ok\ncaf\xe9\n";
        let error = all(latin, Encoding::Utf8, 1000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("line 2") && error.to_string().contains("Latin-1"), "{error}");
        assert_eq!(all(latin, Encoding::Latin1, 1000).unwrap(), ["ok", "café"]);
    }

    #[test]
    fn long_lines_and_long_files_are_errors() {
        let mut long = vec![b'x'; LONGEST_LINE];
        assert_eq!(all(&long, Encoding::Utf8, u64::MAX).unwrap()[0].len(), LONGEST_LINE);
        long.push(b'x');
        assert!(all(&long, Encoding::Utf8, u64::MAX).unwrap_err().to_string().contains("line 1: longer"));
        assert_eq!(all(b"ab\ncd\n", Encoding::Utf8, 6).unwrap().len(), 2);
        let error = all(b"ab\ncd\ne", Encoding::Utf8, 6).unwrap_err();
        assert!(error.to_string().contains("line 3: found more than 6 bytes"), "{error}");
        assert_eq!(Lines::open(Path::new("/no/such/file"), 1).err().unwrap().kind(), ErrorKind::Io);
    }
}
