//! Named arrays in the safetensors format.

use std::path::Path;

use safetensors::tensor::{Dtype as Stored, SafeTensorError, SafeTensors, TensorView};

use crate::data::array::element_count;
use crate::data::{Array, Element, Record, input_file};
use crate::{Error, ErrorKind, Result};

/// Reads the arrays of a [safetensors](https://github.com/huggingface/safetensors) file in the order in which they lie in
/// it: embeddings, features computed by another program. Types are `F32`, `F64`, `I32`, `I64`, `U8` and `BOOL`.
///
/// # Errors
/// [`ErrorKind::Io`] when the file cannot be read; [`ErrorKind::Corrupt`] when it is damaged;
/// [`ErrorKind::Unsupported`] naming an array of another type. Never more memory than about twice the length of the file is
/// used.
pub fn read_safetensors(path: impl AsRef<Path>) -> Result<Record> {
    let path = path.as_ref();
    let bytes = input_file::read_whole(path, u64::MAX)?;
    parse(&bytes).map_err(|error| error.at(path.display()))
}

fn parse(bytes: &[u8]) -> Result<Record> {
    let corrupt = |error: SafeTensorError| {
        // It quotes what it found, at any length.
        let cause: String = error.to_string().chars().take(300).collect();
        Error::with_source(ErrorKind::Corrupt, "not a whole safetensors file", cause)
    };
    // Of two entries with one name the last one counts, and the reader refuses a file with bytes that belong to none.
    let file = SafeTensors::deserialize(bytes).map_err(corrupt)?;
    let mut tensors: Vec<_> = file.iter().collect();
    tensors.sort_by_key(|(name, view)| (view.data().as_ptr() as usize, view.data().len(), *name));
    let mut record = Record::new();
    for (name, view) in tensors {
        let shown: String = name.chars().take(60).collect();
        record.insert(name, array(&view).map_err(|error| error.at(format_args!("array {shown:?}")))?);
    }
    Ok(record)
}

fn array(view: &TensorView<'_>) -> Result<Array> {
    match view.dtype() {
        Stored::F32 => values(view, |bytes| Some(f32::from_le_bytes(bytes))),
        Stored::F64 => values(view, |bytes| Some(f64::from_le_bytes(bytes))),
        Stored::I32 => values(view, |bytes| Some(i32::from_le_bytes(bytes))),
        Stored::I64 => values(view, |bytes| Some(i64::from_le_bytes(bytes))),
        Stored::U8 => values(view, |[byte]| Some(byte)),
        Stored::BOOL => values(view, |[byte]| (byte < 2).then_some(byte == 1)),
        other => {
            let message = format!("type {other:?}, expected F32, F64, I32, I64, U8 or BOOL");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

fn values<T: Element, const N: usize>(view: &TensorView<'_>, from: fn([u8; N]) -> Option<T>) -> Result<Array> {
    let corrupt = |message: String| Error::new(ErrorKind::Corrupt, message);
    let (chunks, rest) = view.data().as_chunks::<N>();
    if !rest.is_empty() || element_count(view.shape()) != Some(chunks.len()) {
        return Err(corrupt(format!("found {} bytes of values for shape {:?}", view.data().len(), view.shape())));
    }
    let values: Option<Vec<T>> = chunks.iter().map(|chunk| from(*chunk)).collect();
    Array::new(view.shape(), values.ok_or_else(|| corrupt(format!("a value is no {}", T::DTYPE)))?)
}
