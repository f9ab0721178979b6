//! NumPy's format of one array.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use crate::data::array::element_count;
use crate::data::npy_header::NpyHeader;
use crate::data::{Array, Dtype, Element, input_file};
use crate::{Error, ErrorKind, Result};

/// Reads an array as `numpy.save` writes it
/// (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>), of `float32`, `float64`, `int32`, `int64`,
/// `uint8` or `bool`, in either byte order. Arrays in Fortran order are brought into row-major order.
///
/// # Errors
/// [`ErrorKind::Io`] when the file cannot be read; [`ErrorKind::Corrupt`] saying what was found and expected when it is
/// truncated, too long, or not in this format; [`ErrorKind::Unsupported`] for other types. Never more memory than twice the
/// length of the file is used.
pub fn read_npy(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    let file = input_file::open(path)?;
    let len = file.metadata().map_err(|error| input_file::read_error(path, error))?.len();
    parse(BufReader::new(file), len, len).map_err(|error| error.at(path.display()))
}

/// Writes an array so that `numpy.load` and [`read_npy`] read it; a file that is there is replaced.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for text; [`ErrorKind::Io`] when the file cannot be written.
pub fn write_npy(path: impl AsRef<Path>, array: &Array) -> Result<()> {
    let path = path.as_ref();
    let header = NpyHeader { dtype: array.dtype(), big_endian: false, fortran: false, dims: array.dims().to_vec() };
    let header = header.to_bytes().map_err(|error| error.at(path.display()))?;
    let write = || -> Result<std::io::Result<()>> {
        let mut file = match File::create(path) {
            Ok(file) => BufWriter::new(file),
            Err(error) => return Ok(Err(error)),
        };
        let written = file.write_all(&header);
        let written = written.and(match array.dtype() {
            Dtype::F32 => array.as_slice::<f32>()?.iter().try_for_each(|value| file.write_all(&value.to_le_bytes())),
            Dtype::F64 => array.as_slice::<f64>()?.iter().try_for_each(|value| file.write_all(&value.to_le_bytes())),
            Dtype::I32 => array.as_slice::<i32>()?.iter().try_for_each(|value| file.write_all(&value.to_le_bytes())),
            Dtype::I64 => array.as_slice::<i64>()?.iter().try_for_each(|value| file.write_all(&value.to_le_bytes())),
            Dtype::U8 => file.write_all(array.as_slice::<u8>()?),
            Dtype::Bool => array.as_slice::<bool>()?.iter().try_for_each(|&value| file.write_all(&[u8::from(value)])),
            Dtype::Text => Ok(()), // has no header
        });
        Ok(written.and_then(|()| file.flush()))
    };
    write()?.map_err(|error| Error::io("write", path, error))
}

/// Reads an array from bytes that should be `len`, of which so many as `known` are sure to be there.
pub(crate) fn parse(mut reader: impl Read, len: u64, known: u64) -> Result<Array> {
    let (header, header_len) = NpyHeader::read(&mut reader)?;
    let NpyHeader { dtype, big_endian, fortran, dims } = header;
    let width = width(dtype);
    let count = element_count(&dims);
    let bytes = count.and_then(|count| u64::try_from(count).ok()?.checked_mul(width as u64));
    let found = len.saturating_sub(header_len);
    let (Some(count), true) = (count, bytes == Some(found)) else {
        return Err(corrupt(format!(
            "found {found} bytes of values, expected {} for {dtype} of shape {dims:?}",
            bytes.map_or("more than memory can hold".to_owned(), |bytes| bytes.to_string())
        )));
    };
    let capacity = usize::try_from(known / width as u64).unwrap_or(usize::MAX).min(count);
    let mut values = Body { reader, count, capacity, big_endian, order: fortran.then_some(dims.as_slice()) };
    let array = match dtype {
        Dtype::F32 => values
            .array(&dims, |bytes, big| Some(if big { f32::from_be_bytes(bytes) } else { f32::from_le_bytes(bytes) })),
        Dtype::F64 => values
            .array(&dims, |bytes, big| Some(if big { f64::from_be_bytes(bytes) } else { f64::from_le_bytes(bytes) })),
        Dtype::I32 => values
            .array(&dims, |bytes, big| Some(if big { i32::from_be_bytes(bytes) } else { i32::from_le_bytes(bytes) })),
        Dtype::I64 => values
            .array(&dims, |bytes, big| Some(if big { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) })),
        Dtype::U8 => values.array(&dims, |[byte], _| Some(byte)),
        Dtype::Bool => values.array(&dims, |[byte], _| (byte < 2).then_some(byte == 1)),
        Dtype::Text => Err(Error::new(ErrorKind::Unsupported, "text cannot be read from this format")),
    }?;
    // The end is read too: it is there that an archive compares its checksum.
    match values.reader.read(&mut [0]) {
        Ok(0) => Ok(array),
        Ok(_) => Err(corrupt("there are more bytes after the values, expected the end".into())),
        Err(error) => Err(read_failed(error)),
    }
}

fn width(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 | Dtype::I32 => 4,
        Dtype::F64 | Dtype::I64 => 8,
        Dtype::U8 | Dtype::Bool | Dtype::Text => 1,
    }
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// What a failed read means; the caller adds of which file.
pub(crate) fn read_failed(error: std::io::Error) -> Error {
    Error::with_source(input_file::read_error_kind(&error), "cannot read the array", error)
}

/// The values behind a header.
struct Body<'a, R> {
    reader: R,
    count: usize,
    capacity: usize,
    big_endian: bool,
    /// The dimensions, where the first axis varies fastest.
    order: Option<&'a [usize]>,
}

impl<R: Read> Body<'_, R> {
    fn array<T: Element, const N: usize>(
        &mut self,
        dims: &[usize],
        from: fn([u8; N], bool) -> Option<T>,
    ) -> Result<Array> {
        let mut values = Vec::with_capacity(self.capacity);
        let mut buffer = vec![0u8; (1 << 16) / N * N];
        while values.len() < self.count {
            let wanted = (self.count - values.len()).saturating_mul(N).min(buffer.len());
            let buffer = &mut buffer[..wanted];
            self.reader.read_exact(buffer).map_err(read_failed)?;
            let (chunks, _) = buffer.as_chunks::<N>();
            for chunk in chunks {
                values.push(from(*chunk, self.big_endian).ok_or_else(|| {
                    corrupt(format!("value {} is {chunk:02x?}, expected a {}", values.len(), T::DTYPE))
                })?);
            }
        }
        match self.order {
            Some(dims) => Array::new(dims, row_major(&values, dims)),
            None => Array::new(dims, values),
        }
    }
}

/// Values whose first axis varies fastest, in the order in which the last one does.
fn row_major<T: Clone>(values: &[T], dims: &[usize]) -> Vec<T> {
    let mut strides = Vec::with_capacity(dims.len());
    let mut stride = 1usize;
    for &dim in dims {
        strides.push(stride);
        stride *= dim; // at most the number of values, which is in memory
    }
    let mut index = vec![0usize; dims.len()];
    let mut place = 0;
    let mut out = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        out.push(values[place].clone());
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            place += strides[axis];
            if index[axis] < dims[axis] {
                break;
            }
            place -= strides[axis] * dims[axis];
            index[axis] = 0;
        }
    }
    out
}
