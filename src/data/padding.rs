//! How batches of unequal examples are padded.

use std::collections::BTreeMap;

use crate::Result;
use crate::data::{Array, Record};

/// How `padded_batch` fills up shorter examples: with 0 (false, the empty text), or a value by input name; and whether the
/// lengths before padding become inputs of their own.
///
/// ```
/// use elistimator::data::{Dataset, Padding, Record};
///
/// let sentences = Dataset::from_records(vec![
///     Record::new().with("ids", vec![4i64, 5, 6]),
///     Record::new().with("ids", vec![7i64]),
/// ]);
/// let batch = sentences.padded_batch(2, Padding::new().value("ids", -1.0).lengths("ids", "lengths"));
/// let batch = batch.open(0, 0, 0)?.next().unwrap()?;
/// assert_eq!(batch.get("ids")?.as_slice::<i64>()?, [4, 5, 6, 7, -1, -1]);
/// assert_eq!(batch.get("lengths")?.as_slice::<i64>()?, [3, 1]);
/// # Ok::<(), elistimator::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Padding {
    values: BTreeMap<String, f64>,
    lengths: BTreeMap<String, String>,
}

impl Padding {
    /// Everything with 0, false or the empty text.
    pub fn new() -> Self {
        Self::default()
    }

    /// This input with this value.
    #[must_use]
    pub fn value(mut self, input: &str, value: f64) -> Self {
        self.values.insert(input.to_owned(), value);
        self
    }

    /// Adds an input `name` (i64, one per example) with the lengths of `input` along its first axis before padding.
    #[must_use]
    pub fn lengths(mut self, input: &str, name: &str) -> Self {
        self.lengths.insert(input.to_owned(), name.to_owned());
        self
    }

    pub(crate) fn apply(&self, name: &str, arrays: &[Array], batch: &mut Record) -> Result<()> {
        batch.insert(name, Array::pad_stack(arrays, self.values.get(name).copied().unwrap_or(0.0))?);
        if let Some(lengths) = self.lengths.get(name) {
            let values: Vec<i64> = arrays.iter().map(|array| array.rows() as i64).collect();
            batch.insert(lengths.as_str(), values);
        }
        Ok(())
    }
}
