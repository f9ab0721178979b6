//! The IDX format of MNIST and its kin.

use std::io::{Cursor, Read, Take};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::data::{Array, input_file};
use crate::{Error, ErrorKind, Result};

/// Files that unpack to more than this are refused: no data set in this format comes near.
const LIMIT: u64 = 1 << 32;

/// Reads an IDX file, gzipped or not, of u8, i32, f32 or f64: two zero bytes, a type byte, the number of dimensions, the
/// dimensions as big-endian u32, and the values (<http://yann.lecun.com/exdb/mnist/>).
///
/// # Errors
/// [`ErrorKind::Io`] when the file cannot be read; [`ErrorKind::Corrupt`] saying what was found and expected when it is
/// truncated, too long, or not in this format; [`ErrorKind::InvalidArgument`] when the path is no regular file. Never more
/// memory than the file unpacks to is used.
pub fn read_idx(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    from_reader(input_file::open(path)?, path)
}

/// Reads the file that is at `path`.
pub(crate) fn from_reader(mut file: impl Read, path: &Path) -> Result<Array> {
    let mut start = Vec::with_capacity(2);
    file.by_ref().take(2).read_to_end(&mut start).map_err(|error| Error::io("read", path, error))?;
    let is_packed = start == [0x1f, 0x8b];
    let whole = Cursor::new(start).chain(file);
    let bytes = if is_packed {
        unpack(MultiGzDecoder::new(whole).take(LIMIT + 1), path)?
    } else {
        unpack(whole.take(LIMIT + 1), path)?
    };
    parse_idx(&bytes).map_err(|error| error.at(path.display()))
}

fn unpack(mut reader: Take<impl Read>, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                ErrorKind::Corrupt
            }
            _ => ErrorKind::Io,
        };
        Error::with_source(kind, format!("cannot read {}", path.display()), error)
    })?;
    if bytes.len() as u64 > LIMIT {
        let message = format!("{} is larger than {LIMIT} bytes, the most this reader takes", path.display());
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(bytes)
}

/// Reads the bytes of an IDX file.
///
/// # Errors
/// [`ErrorKind::Corrupt`] as [`read_idx`].
pub fn parse_idx(bytes: &[u8]) -> Result<Array> {
    let corrupt = |message: String| Error::new(ErrorKind::Corrupt, message);
    let (magic, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| corrupt(format!("found {} bytes, expected the 4 that begin an IDX file", bytes.len())))?;
    let [0, 0, kind, rank] = *magic else {
        return Err(corrupt(format!("begins with {magic:02x?}, expected 00 00 and a type: this is no IDX file")));
    };
    let header = usize::from(rank) * 4;
    if rest.len() < header {
        return Err(corrupt(format!("found {} bytes of dimensions, expected {header} for {rank} of them", rest.len())));
    }
    let (sizes, values) = rest.split_at(header);
    let dims: Vec<usize> =
        sizes.chunks_exact(4).map(|size| u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize).collect();
    let width = match kind {
        0x08 => 1,
        0x0c | 0x0d => 4,
        0x0e => 8,
        _ => {
            return Err(corrupt(format!(
                "type 0x{kind:02x}, expected 0x08 (u8), 0x0c (i32), 0x0d (f32) or 0x0e (f64)"
            )));
        }
    };
    let expected = dims.iter().try_fold(width, |product: usize, &dim| product.checked_mul(dim));
    if expected != Some(values.len()) {
        return Err(corrupt(format!(
            "found {} bytes of values, expected {} for shape {dims:?}",
            values.len(),
            expected.map_or("more than memory can hold".to_owned(), |bytes| bytes.to_string())
        )));
    }
    fn parse<T: crate::data::Element, const N: usize>(
        dims: Vec<usize>,
        bytes: &[u8],
        from: fn([u8; N]) -> T,
    ) -> Result<Array> {
        let (chunks, _) = bytes.as_chunks::<N>();
        Array::new(dims, chunks.iter().map(|chunk| from(*chunk)).collect())
    }
    match kind {
        0x08 => Array::new(dims, values.to_vec()),
        0x0c => parse(dims, values, i32::from_be_bytes),
        0x0d => parse(dims, values, f32::from_be_bytes),
        _ => parse(dims, values, f64::from_be_bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const GOOD: [u8; 18] = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];

    #[test]
    fn plain_and_gzipped_files_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), GOOD).unwrap();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&GOOD).unwrap();
        let packed = packed.finish().unwrap();
        std::fs::write(dir.path().join("a.gz"), &packed).unwrap();
        let expected = Array::new([2, 3], vec![1u8, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(read_idx(dir.path().join("a")).unwrap(), expected);
        assert_eq!(read_idx(dir.path().join("a.gz")).unwrap(), expected);
        for end in 0..packed.len() {
            std::fs::write(dir.path().join("cut"), &packed[..end]).unwrap();
            let error = read_idx(dir.path().join("cut")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{end}: {error}");
            assert!(error.to_string().contains("cut"), "the file is named: {error}");
        }
        assert_eq!(read_idx(dir.path().join("none")).unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn truncated_extended_and_altered_files_are_errors() {
        for end in 0..GOOD.len() {
            assert_eq!(parse_idx(&GOOD[..end]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert!(parse_idx(&[&GOOD[..], &[0]].concat()).is_err());
        for byte in 0..12 {
            for flip in 1..=255u8 {
                let mut bytes = GOOD;
                bytes[byte] ^= flip;
                assert!(parse_idx(&bytes).is_err(), "byte {byte} ^ {flip}");
            }
        }
    }

    #[test]
    fn dimensions_that_overflow_are_errors_and_allocate_nothing() {
        let bomb = [&[0u8, 0, 0x0e, 4][..], &[0xff; 16], &[0; 8]].concat();
        assert!(parse_idx(&bomb).unwrap_err().to_string().contains("more than memory"));
    }

    #[test]
    fn wider_types_are_big_endian() {
        let bytes = [&[0u8, 0, 0x0d, 1, 0, 0, 0, 1][..], &1.5f32.to_be_bytes()].concat();
        assert_eq!(parse_idx(&bytes).unwrap().as_slice::<f32>().unwrap(), [1.5]);
    }
}
