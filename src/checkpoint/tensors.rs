//! Named tensors as bytes, in the safetensors format.

use std::collections::BTreeSet;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::{Error, ErrorKind, Result};

/// The longest name of a tensor that is read or written.
const MAX_NAME: usize = 4096;

/// Named tensors of `f32` with distinct, sane names.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Tensors {
    entries: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Tensors {
    pub(crate) fn new(entries: Vec<(String, Vec<usize>, Vec<f32>)>) -> Result<Self> {
        let mut names = BTreeSet::new();
        for (name, dims, values) in &entries {
            check_name(name)?;
            if !names.insert(name.as_str()) {
                return Err(Error::new(ErrorKind::InvalidArgument, format!("two tensors are named {name:?}")));
            }
            if dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)) != Some(values.len()) {
                let message = format!("tensor {name:?} of shape {dims:?} has {} values", values.len());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        Ok(Self { entries })
    }

    pub(crate) fn entries(&self) -> &[(String, Vec<usize>, Vec<f32>)] {
        &self.entries
    }

    pub(crate) fn into_entries(self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        self.entries
    }

    /// Whether every value is a finite number.
    pub(crate) fn are_finite(&self) -> bool {
        self.entries.iter().all(|(_, _, values)| values.iter().all(|value| value.is_finite()))
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes: Vec<Vec<u8>> = self
            .entries
            .iter()
            .map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = self.entries.iter().zip(&bytes).map(|((name, dims, _), bytes)| {
            TensorView::new(Dtype::F32, dims.clone(), bytes).map(|view| (name.as_str(), view))
        });
        let invalid = |error| Error::with_source(ErrorKind::InvalidArgument, "cannot write tensors", error);
        let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(invalid)?;
        safetensors::serialize(views, None).map_err(invalid)
    }

    /// Reads bytes of a file, and takes no more memory than they have.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let corrupt = |error| Error::with_source(ErrorKind::Corrupt, "not a whole safetensors file", error);
        let file = SafeTensors::deserialize(bytes).map_err(corrupt)?;
        check_distinct(bytes)?;
        let mut entries = Vec::with_capacity(file.len());
        // In the order of the file, which is that of the offsets.
        let mut tensors: Vec<_> = file.iter().collect();
        tensors.sort_by_key(|(_, view)| view.data().as_ptr() as usize);
        for (name, view) in tensors {
            check_name(name).map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
            if view.dtype() != Dtype::F32 {
                let message = format!("tensor {name:?} is {:?}, expected F32", view.dtype());
                return Err(Error::new(ErrorKind::Mismatch, message));
            }
            let (values, _) = view.data().as_chunks::<4>();
            entries.push((
                name.to_owned(),
                view.shape().to_vec(),
                values.iter().map(|v| f32::from_le_bytes(*v)).collect(),
            ));
        }
        Self::new(entries).map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))
    }
}

/// The reader of the format lets the last of several tensors of one name win.
fn check_distinct(bytes: &[u8]) -> Result<()> {
    struct Names(BTreeSet<String>);

    impl<'de> serde::Deserialize<'de> for Names {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
            deserializer.deserialize_map(Names(BTreeSet::new()))
        }
    }

    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = Self;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("tensors by name")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<Self, A::Error> {
            while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                if self.0.contains(&name) {
                    return Err(serde::de::Error::custom(format!("two tensors are named {name:?}")));
                }
                self.0.insert(name);
            }
            Ok(self)
        }
    }

    let header = bytes
        .first_chunk::<8>()
        .and_then(|length| usize::try_from(u64::from_le_bytes(*length)).ok())
        .and_then(|length| bytes.get(8..length.checked_add(8)?))
        .unwrap_or_default();
    serde_json::from_slice::<Names>(header)
        .map(|_| ())
        .map_err(|error| Error::with_source(ErrorKind::Corrupt, "the header of a safetensors file", error))
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
    let shown: String = name.chars().take(60).collect();
    Err(Error::new(ErrorKind::InvalidArgument, format!("tensor name {shown:?} cannot be used: {reason}")))
}

#[cfg(test)]
mod tests {
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
        let back = Tensors::from_bytes(&sample().to_bytes().unwrap()).unwrap();
        let mut sorted = sample().entries;
        let mut found = back.entries;
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        found.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(found, sorted);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(Tensors::from_bytes(&bytes[..end]).is_err(), "{end}");
        }
        assert!(Tensors::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn hostile_headers_are_errors() {
        let file =
            |header: &str, data: &[u8]| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
        for header in [
            r#"{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            r#"{"a/../b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a\u0000":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        ] {
            assert!(Tensors::from_bytes(&file(header, &[0; 8])).is_err(), "{header}");
        }
        let bomb = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert!(Tensors::from_bytes(&bomb).is_err());
        assert!(Tensors::new(vec![("x".repeat(1 << 20), vec![], vec![0.0])]).is_err());
        assert!(Tensors::new(vec![("x".into(), vec![], vec![0.0]), ("x".into(), vec![], vec![0.0])]).is_err());
    }
}
