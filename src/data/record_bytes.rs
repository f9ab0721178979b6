//! Records as bytes, for files.
//!
//! A record is the number of its arrays (u32), and for each its name (u32 length, UTF-8), dtype (u8), rank (u32), dimensions
//! (u64 each), and values; a text is its length (u32) and UTF-8. Everything is little-endian.

use crate::data::array::element_count;
use crate::data::{Array, Dtype, Element, Record};
use crate::{Error, ErrorKind, Result};

/// Deeper arrays than any model takes are damage.
const MOST_DIMS: usize = 64;

fn code(dtype: Dtype) -> u8 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::F64 => 1,
        Dtype::I32 => 2,
        Dtype::I64 => 3,
        Dtype::U8 => 4,
        Dtype::Bool => 5,
        Dtype::Text => 6,
    }
}

fn count(found: usize, what: &str) -> Result<[u8; 4]> {
    let count = u32::try_from(found).map_err(|_| {
        Error::new(ErrorKind::Data, format!("{what} of length {found} is too long for a file of records"))
    })?;
    Ok(count.to_le_bytes())
}

/// Appends a record.
pub(crate) fn write(record: &Record, out: &mut Vec<u8>) -> Result<()> {
    out.extend(count(record.len(), "a record")?);
    for (name, array) in record.iter() {
        out.extend(count(name.len(), "a name")?);
        out.extend(name.as_bytes());
        out.push(code(array.dtype()));
        out.extend(count(array.dims().len(), "a shape")?);
        array.dims().iter().for_each(|&dim| out.extend((dim as u64).to_le_bytes()));
        macro_rules! numbers {
            ($T:ty) => {
                array.as_slice::<$T>()?.iter().for_each(|value| out.extend(value.to_le_bytes()))
            };
        }
        match array.dtype() {
            Dtype::F32 => numbers!(f32),
            Dtype::F64 => numbers!(f64),
            Dtype::I32 => numbers!(i32),
            Dtype::I64 => numbers!(i64),
            Dtype::U8 => out.extend_from_slice(array.as_slice::<u8>()?),
            Dtype::Bool => out.extend(array.as_slice::<bool>()?.iter().map(|&value| u8::from(value))),
            Dtype::Text => {
                for text in array.as_slice::<String>()? {
                    out.extend(count(text.len(), "a text")?);
                    out.extend(text.as_bytes());
                }
            }
        }
    }
    Ok(())
}

/// The bytes not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).ok_or_else(|| {
            corrupt(format!("it ends too early: {} bytes left where {len} are expected", self.0.len()))
        })?;
        self.0 = rest;
        Ok(head)
    }

    fn u32(&mut self) -> Result<usize> {
        Ok(self.take(4)?.iter().rev().fold(0, |all, &byte| all << 8 | usize::from(byte)))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(self.take(8)?.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte)))
    }

    fn text(&mut self) -> Result<String> {
        let len = self.u32()?;
        let bytes = self.take(len)?.to_vec();
        String::from_utf8(bytes).map_err(|_| corrupt("a text is not UTF-8"))
    }

    fn numbers<T: Element, const N: usize>(&mut self, len: usize, from: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let size = len.checked_mul(N).ok_or_else(|| corrupt(format!("an array of {len} elements is impossible")))?;
        let (chunks, _) = self.take(size)?.as_chunks::<N>();
        Ok(chunks.iter().map(|&bytes| from(bytes)).collect())
    }
}

fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Reads one record, which the bytes must be.
pub(crate) fn read(bytes: &[u8]) -> Result<Record> {
    let mut reader = Reader(bytes);
    let mut record = Record::new();
    for _ in 0..reader.u32()? {
        let name = reader.text()?;
        let shown: String = name.chars().take(60).collect();
        let code = reader.take(1)?[0];
        let rank = reader.u32()?;
        if rank > MOST_DIMS {
            return Err(corrupt(format!("array {shown:?} has {rank} dimensions, expected at most {MOST_DIMS}")));
        }
        let dims = (0..rank).map(|_| Ok(usize::try_from(reader.u64()?).unwrap_or(usize::MAX)));
        let dims = dims.collect::<Result<Vec<usize>>>()?;
        let len =
            element_count(&dims).ok_or_else(|| corrupt(format!("array {shown:?} of shape {dims:?} is impossible")))?;
        let array = match code {
            0 => Array::new(dims, reader.numbers(len, f32::from_le_bytes)?),
            1 => Array::new(dims, reader.numbers(len, f64::from_le_bytes)?),
            2 => Array::new(dims, reader.numbers(len, i32::from_le_bytes)?),
            3 => Array::new(dims, reader.numbers(len, i64::from_le_bytes)?),
            4 => Array::new(dims, reader.take(len)?.to_vec()),
            5 => Array::new(dims, reader.take(len)?.iter().map(|&byte| byte != 0).collect::<Vec<bool>>()),
            // Collected one by one, since a text takes at least four bytes: never more than the bytes allow.
            6 => Array::new(dims, (0..len).map(|_| reader.text()).collect::<Result<Vec<String>>>()?),
            _ => return Err(corrupt(format!("array {shown:?} has the unknown dtype {code}"))),
        }?;
        record.insert(name, array);
    }
    match reader.0.len() {
        0 => Ok(record),
        left => Err(corrupt(format!("{left} bytes are left after the last array"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Record {
        Record::new()
            .with("f32", vec![1.5f32, f32::MIN_POSITIVE, -0.0])
            .with("f64", [[std::f64::consts::PI], [f64::INFINITY]])
            .with("i32", i32::MIN)
            .with("i64", vec![i64::MAX, -1])
            .with("u8", Array::new([2, 0, 3], Vec::<u8>::new()).unwrap())
            .with("bool", vec![true, false])
            .with("text", vec!["", "h\u{e9}llo"])
    }

    #[test]
    fn records_come_back_as_they_were() {
        for record in [everything(), Record::new()] {
            let mut bytes = Vec::new();
            write(&record, &mut bytes).unwrap();
            assert_eq!(read(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let mut bytes = Vec::new();
        write(&everything(), &mut bytes).unwrap();
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]).unwrap_err().kind(), ErrorKind::Corrupt, "{len} bytes");
        }
        assert!(read(&[bytes.as_slice(), &[0]].concat()).is_err());
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = read(&damaged);
            }
        }
        // A text array of so many elements that only their number would fill the memory.
        let mut huge = Vec::new();
        write(&Record::new().with("t", vec!["a"]), &mut huge).unwrap();
        let at = huge.len() - 5 - 8;
        huge[at..at + 8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(read(&huge).is_err());
    }
}
