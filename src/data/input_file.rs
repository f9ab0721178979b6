//! Files that data is read from.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind as IoKind, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::{Error, ErrorKind, Result};

/// How much of a file's beginning and of its end goes into its description.
const SAMPLE: u64 = 1 << 16;

/// Opens a regular file; anything else could make the reader wait for ever, and cannot be read twice.
pub(crate) fn open(path: &Path) -> Result<File> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "no regular file" };
        let message = format!("cannot read {}: found {what}, expected a file", path.display());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    File::open(path).map_err(|error| Error::io("open", path, error))
}

/// Opens a file for reading from its beginning, unpacking it where its name ends in `.gz`.
pub(crate) fn stream(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let file = open(path)?;
    let packed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    Ok(if packed {
        Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(BufReader::new(file))))
    } else {
        Box::new(BufReader::with_capacity(1 << 16, file))
    })
}

/// Whether a failed read means damage, a way of packing that is not known, or an operating system that refuses.
pub(crate) fn read_error_kind(error: &std::io::Error) -> ErrorKind {
    match error.kind() {
        IoKind::InvalidInput | IoKind::InvalidData | IoKind::UnexpectedEof => ErrorKind::Corrupt,
        IoKind::Unsupported => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    }
}

/// A failed read of this file.
pub(crate) fn read_error(path: &Path, error: std::io::Error) -> Error {
    Error::with_source(read_error_kind(&error), format!("cannot read {}", path.display()), error)
}

/// A whole file of at most `limit` bytes.
pub(crate) fn read_whole(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    // The file may grow while it is read, so its length is not asked for beforehand.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| read_error(path, error))?;
    if bytes.len() as u64 > limit {
        let message = format!("{} is larger than {limit} bytes, the most this reader takes", path.display());
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(bytes)
}

/// A file's name, length and a checksum of its beginning and end: tells files apart without reading them whole, and the
/// same file in two directories not.
pub(crate) fn describe(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let sample = || -> Result<(u64, u32)> {
        let mut file = open(path)?;
        let mut bytes = Vec::new();
        let read = |error| read_error(path, error);
        let len = file.metadata().map_err(read)?.len();
        (&mut file).take(SAMPLE).read_to_end(&mut bytes).map_err(read)?;
        file.seek(SeekFrom::Start(len.saturating_sub(SAMPLE))).map_err(read)?;
        file.take(SAMPLE).read_to_end(&mut bytes).map_err(read)?;
        Ok((len, crc32fast::hash(&bytes)))
    };
    match sample() {
        Ok((len, crc)) => format!("{name} {len} bytes crc {crc:08x}"),
        Err(_) => format!("{name} unreadable"),
    }
}
