//! NumPy's archives of arrays.

use std::io::BufReader;
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use crate::data::{Record, input_file, npy};
use crate::{Error, ErrorKind, Result};

/// An archive may unpack to so many bytes, or to its own length if that is more.
const LIMIT: u64 = 1 << 32;

/// Reads the arrays of an archive as `numpy.savez` and `numpy.savez_compressed` write it, under their names: a data set for
/// [`Dataset::from_arrays`](crate::data::Dataset::from_arrays). Types are those of [`read_npy`](crate::data::read_npy).
///
/// # Errors
/// Those of [`read_npy`](crate::data::read_npy), naming file and array; [`ErrorKind::Corrupt`] also when a checksum is wrong,
/// two arrays have one name, or the archive would unpack to more than 4 GiB and more than it is long itself.
pub fn read_npz(path: impl AsRef<Path>) -> Result<Record> {
    let path = path.as_ref();
    let file = input_file::open(path)?;
    let len = file.metadata().map_err(|error| input_file::read_error(path, error))?.len();
    let read = || -> Result<Record> {
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(zip_error)?;
        let mut record = Record::new();
        let mut left = len.max(LIMIT);
        for index in 0..archive.len() {
            let entry = archive.by_index(index).map_err(zip_error)?;
            let name = entry.name().map_err(zip_error)?.into_owned();
            let shown: String = name.chars().take(60).collect();
            let Some(name) = name.strip_suffix(".npy").filter(|name| !record.contains(name)) else {
                let message = format!("the archive has a file {shown:?}, expected arrays as .npy files, each once");
                return Err(Error::new(ErrorKind::Corrupt, message));
            };
            let size = entry.size();
            left = left.checked_sub(size).ok_or_else(|| {
                let message =
                    format!("the archive unpacks to more than {} bytes, the most this reader takes", len.max(LIMIT));
                Error::new(ErrorKind::Corrupt, message)
            })?;
            // What an archive says of its contents is no more than a claim, so only so much memory is taken in advance.
            let array = npy::parse(entry, size, size.min(len)).map_err(|error| error.at(format_args!("{shown:?}")))?;
            record.insert(name, array);
        }
        Ok(record)
    };
    read().map_err(|error| error.at(path.display()))
}

fn zip_error(error: ZipError) -> Error {
    let kind = match &error {
        ZipError::Io(error) => input_file::read_error_kind(error),
        ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => ErrorKind::Unsupported,
        _ => ErrorKind::Corrupt,
    };
    Error::with_source(kind, "cannot read the archive", error)
}
