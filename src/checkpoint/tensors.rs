//! Named tensors as bytes, in the safetensors format.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use crate::{Error, ErrorKind, Result};

/// The longest name of a tensor that is read or written.
const MAX_NAME: usize = 4096;

/// The most dimensions of a tensor that is read, since two bytes in a header are eight in memory.
const MAX_RANK: usize = 64;

/// Named tensors of `f32` with distinct, sane names. Those of a file stay the bytes of the file, which are looked at as
/// numbers where they are: a checkpoint need not fit into memory twice.
#[derive(Clone, Default)]
pub(crate) struct Tensors {
    entries: Vec<Entry>,
    /// The file, if it was read from one: every tensor in it begins where an `f32` may, in the machine's order of bytes.
    bytes: Vec<u8>,
}

#[derive(Clone)]
struct Entry {
    name: String,
    dims: Vec<usize>,
    values: Values,
}

#[derive(Clone)]
enum Values {
    /// With whom they are of: a network that is trained on meanwhile goes on with a copy.
    Shared(Arc<Vec<f32>>),
    /// In the bytes of the file.
    File(Range<usize>),
}

impl Tensors {
    pub(crate) fn new(entries: Vec<(String, Vec<usize>, Vec<f32>)>) -> Result<Self> {
        Self::shared(entries.into_iter().map(|(name, dims, values)| (name, dims, Arc::new(values))).collect())
    }

    /// The same without a copy of the values.
    pub(crate) fn shared(entries: Vec<(String, Vec<usize>, Arc<Vec<f32>>)>) -> Result<Self> {
        let mut names = BTreeSet::new();
        for (name, dims, values) in &entries {
            check_name(name)?;
            if !names.insert(name.as_str()) {
                return Err(Error::new(ErrorKind::InvalidArgument, format!("two tensors are named {name:?}")));
            }
            if count(dims) != Some(values.len()) {
                let message = format!("tensor {name:?} of shape {dims:?} has {} values", values.len());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        let entry = |(name, dims, values)| Entry { name, dims, values: Values::Shared(values) };
        Ok(Self { entries: entries.into_iter().map(entry).collect(), bytes: Vec::new() })
    }

    /// Name, dimensions, and values in row-major order of every tensor.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[usize], &[f32])> + Clone {
        self.entries.iter().map(|entry| {
            let values = match &entry.values {
                Values::Shared(values) => values.as_slice(),
                // Both were checked when the file was read.
                Values::File(range) => {
                    self.bytes.get(range.clone()).and_then(|b| bytemuck::try_cast_slice(b).ok()).unwrap_or_default()
                }
            };
            (entry.name.as_str(), entry.dims.as_slice(), values)
        })
    }

    /// Whether every value is a finite number.
    pub(crate) fn are_finite(&self) -> bool {
        // Without a way out of the inner loop it runs on whole vectors.
        self.iter().all(|(_, _, values)| {
            values.chunks(1024).all(|chunk| chunk.iter().fold(true, |all, value| all & value.is_finite()))
        })
    }

    /// The bytes of a file, in parts: the header, then the values of each tensor where they are.
    pub(crate) fn to_parts(&self) -> Result<Vec<Cow<'_, [u8]>>> {
        let invalid = |error| Error::with_source(ErrorKind::InvalidArgument, "cannot write tensors", error);
        let mut tensors: Vec<_> = self.iter().collect();
        tensors.sort_unstable_by_key(|(name, ..)| *name);
        let mut end = 0;
        let listed = tensors.iter().map(|(name, dims, values)| {
            let start = end;
            end += size_of_val(*values);
            let info = TensorInfo { dtype: Dtype::F32, shape: dims.to_vec(), data_offsets: (start, end) };
            ((*name).to_owned(), info)
        });
        let metadata = Metadata::new(None, listed.collect()).map_err(invalid)?;
        let json = serde_json::to_vec(&metadata)
            .map_err(|error| Error::with_source(ErrorKind::InvalidArgument, "cannot write tensors", error))?;
        // The values begin where a multiple of 8 does.
        let length = json.len().next_multiple_of(8);
        let mut header = (length as u64).to_le_bytes().to_vec();
        header.extend(json);
        header.resize(8 + length, b' ');
        let values = tensors.iter().map(|(_, _, values)| little_endian(values));
        Ok(std::iter::once(Cow::Owned(header)).chain(values).collect())
    }

    /// The bytes of a file.
    #[cfg(test)]
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.to_parts()?.concat())
    }

    /// Reads the bytes of a file, and keeps them: beside them, memory is needed only for what the header says.
    pub(crate) fn from_bytes(mut bytes: Vec<u8>) -> Result<Self> {
        let (data, tensors) = listed(&bytes)?;
        if let Some(Listed { name, stored, .. }) = tensors.iter().find(|tensor| tensor.stored != Stored::F32) {
            let message = format!("tensor {:?} is {stored:?}, expected F32", shown(name));
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        let start = align(&mut bytes, data)?;
        let entry =
            |Listed { name, dims, at, .. }| Entry { name, dims, values: Values::File(start + at.0..start + at.1) };
        Ok(Self { entries: tensors.into_iter().map(entry).collect(), bytes })
    }

    /// Reads the bytes of a file that another program may have written: numbers of other widths become `f32`, and of the tensors
    /// that are no such numbers the names and types are returned.
    pub(crate) fn from_foreign_bytes(bytes: &[u8]) -> Result<(Self, Vec<(String, String)>)> {
        let (data, tensors) = listed(bytes)?;
        let (mut entries, mut others) = (Vec::new(), Vec::new());
        for Listed { name, dims, at, stored } in tensors {
            let bytes = bytes.get(data + at.0..data + at.1).unwrap_or_default();
            match stored.numbers(bytes) {
                Some(values) => entries.push(Entry { name, dims, values: Values::Shared(Arc::new(values)) }),
                None => others.push((name, format!("{stored:?}"))),
            }
        }
        Ok((Self { entries, bytes: Vec::new() }, others))
    }
}

/// Where the values of a file begin, and its tensors in the order in which they lie there, checked against its length.
fn listed(bytes: &[u8]) -> Result<(usize, Vec<Listed>)> {
    let corrupt = |message: String| Error::new(ErrorKind::Corrupt, message);
    let length = bytes.first_chunk::<8>().and_then(|length| usize::try_from(u64::from_le_bytes(*length)).ok());
    let Some(data) = length.and_then(|length| length.checked_add(8)).filter(|&data| data <= bytes.len()) else {
        let message = format!("found {} bytes, expected a header and its length before it", bytes.len());
        return Err(corrupt(message));
    };
    let mut tensors = header(&bytes[8..data])?;
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(corrupt(format!("two tensors are named {:?}", twice[0].name)));
    }
    // In the order of the file: one tensor begins where the one before ends, and the last one ends with the file.
    tensors.sort_unstable_by_key(|tensor| tensor.at);
    let mut next = 0;
    for Listed { name, dims, at, stored } in &tensors {
        check_name(name).map_err(|error| corrupt(error.to_string()))?;
        let size = count(dims).and_then(|count| count.checked_mul(stored.bytes()));
        if at.0 != next || size.is_none() || at.1.checked_sub(at.0) != size {
            let message = format!("tensor {name:?} of shape {dims:?} is at {at:?}, expected to begin at {next}");
            return Err(corrupt(message));
        }
        next = at.1;
    }
    if next != bytes.len() - data {
        let message = format!("found {} bytes of values, the header tells of {next}", bytes.len() - data);
        return Err(corrupt(message));
    }
    Ok((data, tensors))
}

impl PartialEq for Tensors {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl std::fmt::Debug for Tensors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, dims, _)| (name, dims))).finish()
    }
}

fn count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
}

/// The numbers as they are in a file: without a copy on the machines that there are.
fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

/// Moves the values, which begin at `data`, towards the front to where an `f32` may lie, over the header, which is read by then;
/// returns where they begin now. A file of ours has them there already.
fn align(bytes: &mut Vec<u8>, data: usize) -> Result<usize> {
    let is_aligned = |start: &usize| bytemuck::try_cast_slice::<u8, f32>(&bytes[*start..*start]).is_ok();
    let start = (data.saturating_sub(3)..=data).rev().find(is_aligned).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("the values begin at {data}, and have no room to be moved"))
    })?;
    bytes.copy_within(data.., start);
    bytes.truncate(bytes.len() - (data - start));
    if cfg!(target_endian = "big") {
        bytes[start..].as_chunks_mut::<4>().0.iter_mut().for_each(|value| value.reverse());
    }
    Ok(start)
}

/// A tensor as the header of a file lists it.
struct Listed {
    name: String,
    dims: Vec<usize>,
    /// Its first byte, and the one behind its last, counted from the end of the header.
    at: (usize, usize),
    stored: Stored,
}

/// The types that the format knows, by their names there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[allow(non_camel_case_types, clippy::upper_case_acronyms)]
enum Stored {
    F32,
    F64,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    BOOL,
    F8_E4M3,
    F8_E5M2,
}

impl Stored {
    /// Of one value.
    fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::BOOL | Self::F8_E4M3 | Self::F8_E5M2 => 1,
        }
    }

    /// The values as `f32`, where weights are kept in this type.
    fn numbers(self, bytes: &[u8]) -> Option<Vec<f32>> {
        Some(match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Self::F64 => bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
            Self::BF16 => {
                bytes.as_chunks::<2>().0.iter().map(|&[low, high]| f32::from_le_bytes([0, 0, low, high])).collect()
            }
            Self::F16 => bytes.as_chunks::<2>().0.iter().map(|bytes| half(u16::from_le_bytes(*bytes))).collect(),
            _ => return None,
        })
    }
}

/// A number of IEEE 754's binary16.
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (bits >> 10 & 0x1f, bits & 0x3ff);
    let size = match (exponent, fraction) {
        (0, _) => f32::from(fraction) / 16_777_216.0,
        (31, 0) => f32::INFINITY,
        (31, _) => f32::NAN,
        _ => f32::from_bits((u32::from(exponent) + 112) << 23 | u32::from(fraction) << 13),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// Reads the header. The reader of the crate that writes the format takes thirty times the header's memory for hostile ones, and lets
/// the last of several tensors of one name win.
fn header(json: &[u8]) -> Result<Vec<Listed>> {
    let corrupt = |error: serde_json::Error| {
        // It quotes what it found.
        let found: String = error.to_string().chars().take(200).collect();
        let message = format!("the header of a safetensors file, at character {}: {found}", error.column());
        Error::new(ErrorKind::Corrupt, message)
    };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let tensors = reader.deserialize_map(Header).map_err(corrupt)?;
    reader.end().map_err(corrupt)?;
    Ok(tensors)
}

struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = Vec<Listed>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vec<Listed>, A::Error> {
        #[derive(serde::Deserialize)]
        struct Description<'d> {
            #[serde(borrow)]
            dtype: Cow<'d, str>,
            shape: Dims,
            data_offsets: (usize, usize),
        }

        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Description { dtype, shape, data_offsets } = map.next_value()?;
            let stored =
                Stored::deserialize(dtype.as_ref().into_deserializer()).map_err(|_: serde::de::value::Error| {
                    A::Error::custom(format!("tensor {:?} is of an unknown type {:?}", shown(&name), shown(&dtype)))
                })?;
            tensors.push(Listed { name, dims: shape.0, at: data_offsets, stored });
        }
        Ok(tensors)
    }
}

/// Dimensions, of which there are not too many.
struct Dims(Vec<usize>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Seq;

        impl<'de> Visitor<'de> for Seq {
            type Value = Dims;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == MAX_RANK {
                        return Err(A::Error::custom(format!("more than {MAX_RANK} dimensions")));
                    }
                    dims.push(dim);
                }
                Ok(Dims(dims))
            }
        }

        deserializer.deserialize_seq(Seq)
    }
}

/// As much of a text as an error should show.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

fn check_name(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 4096 bytes"
    } else if name.chars().any(char::is_control) {
        "it has a control character"
    } else if name.split('/').any(|part| part == "..") {
        "it climbs out of its place"
    } else if name == "__metadata__" {
        "the file format uses it itself"
    } else {
        return Ok(());
    };
    let name = shown(name);
    Err(Error::new(ErrorKind::InvalidArgument, format!("tensor name {name:?} cannot be used: {reason}")))
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn sample() -> Tensors {
        Tensors::new(vec![
            ("b.weight".into(), vec![2, 2], vec![1.0, -2.5, f32::MIN_POSITIVE, 4.0]),
            ("a".into(), vec![], vec![0.1]),
            ("empty".into(), vec![0, 3], vec![]),
        ])
        .unwrap()
    }

    #[test]
    fn tensors_come_back_bit_by_bit() {
        let back = Tensors::from_bytes(sample().to_bytes().unwrap()).unwrap();
        let sample = sample();
        let (mut expected, mut found): (Vec<_>, Vec<_>) = (sample.iter().collect(), back.iter().collect());
        expected.sort_by(|a, b| a.0.cmp(b.0));
        found.sort_by(|a, b| a.0.cmp(b.0));
        assert_eq!(found, expected);
        assert_eq!(back.to_bytes().unwrap(), sample.to_bytes().unwrap());
    }

    /// The crate of the format writes the same bytes.
    #[test]
    fn files_are_those_of_the_format() {
        let sample = sample();
        let views = sample.iter().map(|(name, dims, values)| {
            (name, TensorView::new(Dtype::F32, dims.to_vec(), bytemuck::cast_slice(values)).unwrap())
        });
        assert_eq!(sample.to_bytes().unwrap(), safetensors::serialize(views, None).unwrap());
    }

    #[test]
    fn values_are_read_wherever_they_begin() {
        for padding in 0..8 {
            let header =
                format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}}}{}", " ".repeat(padding));
            let values = [1.5f32.to_le_bytes(), (-0.25f32).to_le_bytes()].concat();
            let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &values].concat();
            let tensors = Tensors::from_bytes(file).unwrap();
            assert_eq!(tensors.iter().collect::<Vec<_>>(), [("a", &[2][..], &[1.5, -0.25][..])], "{padding}");
        }
    }

    #[test]
    fn values_that_are_not_finite_are_seen_anywhere() {
        for place in [0, 1023, 1024, 2999] {
            let mut values = vec![1.0; 3000];
            assert!(Tensors::new(vec![("a".into(), vec![3000], values.clone())]).unwrap().are_finite());
            values[place] = if place % 2 == 0 { f32::NAN } else { f32::NEG_INFINITY };
            assert!(!Tensors::new(vec![("a".into(), vec![3000], values)]).unwrap().are_finite(), "{place}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(Tensors::from_bytes(bytes[..end].to_vec()).is_err(), "{end}");
        }
        assert!(Tensors::from_bytes([&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn halves_are_what_their_bits_say() {
        for (bits, expected) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x03ff, 6.097_555e-5),
            (0x0001, 5.960_464_5e-8),
            (0xfc00, f32::NEG_INFINITY),
        ] {
            assert_eq!(half(bits), expected, "{bits:x}");
        }
        assert!(half(0x7e00).is_nan() && half(0x8000).is_sign_negative() && half(0x8000) == 0.0);
    }

    #[test]
    fn hostile_headers_are_errors() {
        let file =
            |header: &str, data: &[u8]| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
        for header in [
            r#"{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            r#"{"a/../b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a\u0000":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        ] {
            assert!(Tensors::from_bytes(file(header, &[0; 8])).is_err(), "{header}");
            let is_sound = header.contains("F64") || header.contains("I32");
            assert_eq!(Tensors::from_foreign_bytes(&file(header, &[0; 8])).is_ok(), is_sound, "{header}");
        }
        let unknown = file(r#"{"a":{"dtype":"F3","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]);
        let error = Tensors::from_foreign_bytes(&unknown).unwrap_err();
        assert!(format!("{error:?}{error}").contains("F3"), "{error}");
        let long = format!(r#"{{"{}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#, "x".repeat(1 << 20));
        let error = Tensors::from_bytes(file(&long, &[0; 8])).unwrap_err().to_string();
        assert!(error.contains("longer than") && error.len() < 300, "{} bytes", error.len());
        let bomb = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert!(Tensors::from_bytes(bomb).is_err());
        assert!(Tensors::new(vec![("x".repeat(1 << 20), vec![], vec![0.0])]).is_err());
        assert!(Tensors::new(vec![("x".into(), vec![], vec![0.0]), ("x".into(), vec![], vec![0.0])]).is_err());
    }
}
