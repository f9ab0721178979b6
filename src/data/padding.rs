//! How batches of unequal examples are padded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::data::{Array, Dtype, Record};
use crate::{Error, ErrorKind, Result};

/// How `padded_batch` and `bucket_by_length` fill up shorter examples: with 0 (false, the empty text), or a value or text by input
/// name; up to the longest of the batch, or a shape by input name; and whether the lengths before padding become inputs of
/// their own. A name that is in no example is an error of the first batch. (That of convolutions is
/// [`nn::Padding`](crate::nn::Padding).)
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
    texts: BTreeMap<String, String>,
    shapes: BTreeMap<String, Vec<Option<usize>>>,
    lengths: BTreeMap<String, String>,
    /// By input, the axes of an example along which some were filled up to the longest of their batch. Shared with clones, so that
    /// who has the recipe sees what its streams did.
    filled: Arc<Mutex<BTreeMap<String, Vec<bool>>>>,
}

impl Padding {
    /// Everything with 0, false or the empty text.
    pub fn new() -> Self {
        Self::default()
    }

    /// This input with this value; one that the input's type does not have (-1 among bytes, 0.5 among integers) is an error of
    /// the first batch.
    #[must_use]
    pub fn value(mut self, input: &str, value: f64) -> Self {
        self.values.insert(input.to_owned(), value);
        self
    }

    /// This input, of text, with this text: `<pad>` where a vocabulary has it. A [`value`](Self::value) for text, or a text
    /// for numbers, is an error of the first batch.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Padding, Record};
    ///
    /// let words = |words: &[&str]| Record::new().with("words", words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
    /// let sentences = Dataset::from_records(vec![words(&["to", "be"]), words(&["be"])]);
    /// let batch = sentences.padded_batch(2, Padding::new().text("words", "<pad>")).open(0, 0, 0)?.next().unwrap()?;
    /// assert_eq!(batch.get("words")?.as_slice::<String>()?, ["to", "be", "be", "<pad>"]);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    pub fn text(mut self, input: &str, text: impl Into<String>) -> Self {
        self.texts.insert(input.to_owned(), text.into());
        self
    }

    /// This input always to these lengths, one for each axis of an example; `None` pads to the longest of the batch. A batch
    /// with a longer example is an [`ErrorKind::Data`] error.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Padding, Record};
    ///
    /// let sentences = Dataset::from_records(vec![Record::new().with("ids", vec![4i64, 5, 6])]);
    /// let batch = sentences.padded_batch(8, Padding::new().shape("ids", [Some(5)])).open(0, 0, 0)?.next().unwrap()?;
    /// assert_eq!(batch.get("ids")?.dims(), [1, 5]);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    pub fn shape(mut self, input: &str, dims: impl Into<Vec<Option<usize>>>) -> Self {
        self.shapes.insert(input.to_owned(), dims.into());
        self
    }

    /// Adds an input `name` (i64, one per example) with the lengths of `input` along its first axis before padding.
    #[must_use]
    pub fn lengths(mut self, input: &str, name: &str) -> Self {
        self.lengths.insert(input.to_owned(), name.to_owned());
        self
    }

    /// One name of a batch.
    pub(crate) fn apply(&self, name: &str, arrays: &[Array], batch: &mut Record) -> Result<()> {
        let shape = self.shapes.get(name).map(Vec::as_slice);
        let is_text = arrays.first().is_some_and(|array| array.dtype() == Dtype::Text);
        let (value, text) = (self.values.get(name), self.texts.get(name));
        if is_text && value.is_some() || !is_text && text.is_some() {
            let (found, set) = if is_text { ("text", "a number (`value`)") } else { ("of numbers", "a text (`text`)") };
            let message = format!("padding is set to {set}, but the input is {found}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let text = text.map_or("", String::as_str);
        batch.insert(name, Array::pad_stack_to(arrays, value.copied().unwrap_or(0.0), text, shape)?);
        self.note_filled(name, arrays);
        if let Some(lengths) = self.lengths.get(name) {
            let values: Vec<i64> = arrays.iter().map(|array| array.rows() as i64).collect();
            batch.insert(lengths.as_str(), values);
        }
        Ok(())
    }

    fn note_filled(&self, name: &str, arrays: &[Array]) {
        let Some((first, rest)) = arrays.split_first() else { return };
        for (axis, length) in first.dims().iter().enumerate() {
            let is_free = self.shapes.get(name).is_none_or(|shape| shape.get(axis).is_none_or(Option::is_none));
            if is_free && rest.iter().any(|array| array.dims().get(axis) != Some(length)) {
                let mut filled = crate::lock(&self.filled);
                filled.entry(name.to_owned()).or_insert_with(|| vec![false; first.dims().len()])[axis] = true;
            }
        }
    }

    /// For each input the axes of an example along which padding made batches: other data may be of another length there.
    pub(crate) fn filled(&self) -> BTreeMap<String, Vec<bool>> {
        crate::lock(&self.filled).clone()
    }

    /// Whether what is set fits examples with these arrays.
    pub(crate) fn check(&self, names: &[&str]) -> Result<()> {
        let set = self.values.keys().chain(self.texts.keys()).chain(self.shapes.keys()).chain(self.lengths.keys());
        if let Some(unknown) = set.into_iter().find(|name| !names.contains(&name.as_str())) {
            let message = format!("padding is set for {unknown:?}, but the examples have {names:?}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if let Some(taken) = self.lengths.values().find(|name| names.contains(&name.as_str())) {
            let message = format!("the lengths cannot be named {taken:?}: the examples have an array of that name");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        for (input, name) in &self.lengths {
            if let Some((other, _)) = self.lengths.iter().find(|(other, known)| *other < input && *known == name) {
                let message = format!("the lengths of {other:?} and of {input:?} cannot both be named {name:?}");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        Ok(())
    }

    /// What is set, for the comparison with other data; nothing where nothing is.
    pub(crate) fn describe(&self, out: &mut String) {
        let values = self.values.iter().map(|(name, value)| format!("{name} with {value:?}"));
        let texts = self.texts.iter().map(|(name, text)| format!("{name} with {text:?}"));
        let shapes = self.shapes.iter().map(|(name, dims)| {
            let dims: Vec<_> = dims.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string())).collect();
            format!("{name} to [{}]", dims.join(", "))
        });
        let lengths = self.lengths.iter().map(|(name, lengths)| format!("lengths of {name} as {lengths}"));
        let set: Vec<String> = values.chain(texts).chain(shapes).chain(lengths).collect();
        if !set.is_empty() {
            out.push_str(&format!("({})", set.join("; ")));
        }
    }
}
