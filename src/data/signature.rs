//! What a model's inputs look like, inferred from the data.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::data::{Array, Dtype, Record};
use crate::{Error, ErrorKind, Result};

/// One input: its dimensions are those of an example; `None` is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSpec {
    /// The name in records.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// The dimensions without the batch axis.
    pub dims: Vec<Option<usize>>,
}

impl InputSpec {
    /// Whether an example can have these dimensions.
    fn fits(&self, dims: &[usize]) -> bool {
        dims.len() == self.dims.len()
            && dims.iter().zip(&self.dims).all(|(&dim, &free)| free.is_none_or(|fixed| fixed == dim))
    }

    /// The dimensions of a batch, as messages have them.
    pub(crate) fn shape(&self) -> String {
        let dims = self.dims.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string()));
        format!("[{}]", std::iter::once("batch".to_owned()).chain(dims).collect::<Vec<_>>().join(", "))
    }
}

/// The names, types and shapes of a model's inputs, which requests are checked against. The batch axis is free; another axis
/// becomes free when batches are seen to differ along it, or examples that were padded to one batch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Signature {
    inputs: Vec<InputSpec>,
}

impl Signature {
    /// The signature of a batch: the first axis of every array is the batch.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] when an array has no axis, or the first axes differ.
    pub fn of_batch(batch: &Record) -> Result<Self> {
        batch_size(batch)?;
        let inputs = batch.iter().map(|(name, array)| InputSpec {
            name: name.to_owned(),
            dtype: array.dtype(),
            dims: array.dims()[1..].iter().copied().map(Some).collect(),
        });
        Ok(Self { inputs: inputs.collect() })
    }

    /// The signature of single examples.
    pub fn of_example(example: &Record) -> Self {
        let inputs = example.iter().map(|(name, array)| InputSpec {
            name: name.to_owned(),
            dtype: array.dtype(),
            dims: array.dims().iter().copied().map(Some).collect(),
        });
        Self { inputs: inputs.collect() }
    }

    /// The inputs in the order of the data.
    pub fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(|input| input.name.as_str())
    }

    /// Frees the axes along which this batch differs; says whether it did.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] when names, types or ranks differ.
    pub fn widen(&mut self, batch: &Record) -> Result<bool> {
        if batch.len() != self.inputs.len() {
            let missing = self.names().find(|name| !batch.contains(name)).unwrap_or_default().to_owned();
            self.check_names(batch)?;
            return Err(Error::new(ErrorKind::Signature, format!("input {missing:?} is missing from a batch")));
        }
        let mut widened = false;
        for (name, array) in batch.iter() {
            let known = self.input(name)?;
            let dims = array.dims().get(1..).unwrap_or_default();
            if array.dtype() != known.dtype || dims.len() != known.dims.len() || array.dims().is_empty() {
                return Err(differs(known, array, ""));
            }
            if dims.iter().zip(&known.dims).all(|(&dim, &free)| free.is_none_or(|fixed| fixed == dim)) {
                continue;
            }
            if let Some(input) = self.inputs.iter_mut().find(|input| input.name == name) {
                for (free, &dim) in input.dims.iter_mut().zip(dims) {
                    if free.is_some_and(|fixed| fixed != dim) {
                        (*free, widened) = (None, true);
                    }
                }
            }
        }
        Ok(widened)
    }

    /// Frees these axes of examples of an input, if it is there and has as many.
    pub(crate) fn free(&mut self, name: &str, axes: &[bool]) {
        let known = self.inputs.iter_mut().find(|input| input.name == name && input.dims.len() == axes.len());
        let dims = known.into_iter().flat_map(|input| &mut input.dims);
        dims.zip(axes).filter(|(_, is_free)| **is_free).for_each(|(dim, _)| *dim = None);
    }

    /// Whether a request fits: every input in it is known and of the right type and shape, all have one batch size above 0,
    /// and the `needed` ones are there.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`]; a single example without its batch axis gets a hint.
    pub fn check_batch(&self, batch: &Record, needed: &[&str]) -> Result<()> {
        self.check_names(batch)?;
        if let Some(missing) = needed.iter().find(|name| !batch.contains(name)) {
            let known: Vec<_> = self.names().collect();
            let message = format!("input {missing:?} is missing; known are {known:?}");
            return Err(Error::new(ErrorKind::Signature, message));
        }
        if batch.is_empty() {
            let known: Vec<_> = self.names().collect();
            return Err(Error::new(ErrorKind::Signature, format!("no inputs were given; known are {known:?}")));
        }
        for (name, array) in batch.iter() {
            let known = self.input(name)?;
            if array.dtype() != known.dtype || !array.dims().get(1..).is_some_and(|dims| known.fits(dims)) {
                let hint = if array.dtype() == known.dtype && known.fits(array.dims()) {
                    let mut dims = vec![1];
                    dims.extend_from_slice(array.dims());
                    format!(
                        "; this looks like one example without the batch axis: reshape it to {dims:?}, or leave the batch axis \
                         out of all inputs of a request"
                    )
                } else if array.dtype() != known.dtype && array.dtype().casts_to(known.dtype) {
                    format!("; convert it with `cast(Dtype::{:?})`", known.dtype)
                } else {
                    String::new()
                };
                return Err(differs(known, array, &hint));
            }
        }
        if batch_size(batch)? == 0 {
            return Err(Error::new(ErrorKind::Signature, "the batch is empty, expected at least one example"));
        }
        Ok(())
    }

    /// A request in which every input lacks exactly the batch axis as a batch of this one example; any other as it is. The
    /// number of an input's axes is fixed, so that it cannot be both.
    pub(crate) fn batch_of(&self, request: Record) -> Record {
        let is_example = |(name, array): (&str, &Array)| {
            let fits = |known: &InputSpec| known.dtype == array.dtype() && known.fits(array.dims());
            self.inputs.iter().any(|known| known.name == name && fits(known))
        };
        if !request.iter().all(is_example) {
            return request;
        }
        let with_axis = |(name, array): (&str, &Array)| {
            let dims: Vec<usize> = std::iter::once(1).chain(array.dims().iter().copied()).collect();
            Ok((name.to_owned(), array.reshape(dims)?))
        };
        let arrays: Result<Vec<_>> = request.iter().map(with_axis).collect();
        let Ok(arrays) = arrays else { return request };
        arrays.into_iter().fold(Record::new(), |record, (name, array)| record.with(name, array))
    }

    fn check_names(&self, batch: &Record) -> Result<()> {
        batch.names().try_for_each(|name| self.input(name).map(|_| ()))
    }

    pub(crate) fn input(&self, name: &str) -> Result<&InputSpec> {
        self.inputs.iter().find(|input| input.name == name).ok_or_else(|| {
            let (name, known): (String, Vec<_>) = (name.chars().take(60).collect(), self.names().collect());
            Error::new(ErrorKind::Signature, format!("input {name:?} is not in the signature; known are {known:?}"))
        })
    }
}

/// The length of the first axis, which all arrays share.
pub(crate) fn batch_size(batch: &Record) -> Result<usize> {
    let mut size = None;
    for (name, array) in batch.iter() {
        let Some(&rows) = array.dims().first() else {
            let message = format!("input {name:?} is a scalar, expected a batch axis");
            return Err(Error::new(ErrorKind::Signature, message));
        };
        match size {
            None => size = Some((name, rows)),
            Some((first, expected)) if expected != rows => {
                let message =
                    format!("input {name:?} has {rows} examples, but {first:?} has {expected}; a batch has one size");
                return Err(Error::new(ErrorKind::Signature, message));
            }
            Some(_) => {}
        }
    }
    Ok(size.map_or(0, |(_, rows)| rows))
}

fn differs(known: &InputSpec, array: &Array, hint: &str) -> Error {
    let message = format!(
        "input {:?}: found {} of shape {:?}, expected {} of shape {}{hint}",
        known.name,
        array.dtype(),
        array.dims(),
        known.dtype,
        known.shape()
    );
    Error::new(ErrorKind::Signature, message)
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.names().map(str::len).max().unwrap_or(0);
        for (index, input) in self.inputs.iter().enumerate() {
            let end = if index + 1 == self.inputs.len() { "" } else { "\n" };
            write!(f, "  {:width$}  {:4}  {}{end}", input.name, input.dtype.to_string(), input.shape())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_another_type_is_told_how_to_become_the_right_one() {
        let signature = Signature::of_batch(&Record::new().with("x", [[0.5f32, 1.0]]).with("on", vec![true])).unwrap();
        let found = |request: Record| signature.check_batch(&request, &[]).unwrap_err().to_string();
        let cast = found(Record::new().with("x", [[0.5f64, 1.0]]));
        assert!(cast.ends_with("expected f32 of shape [batch, 2]; convert it with `cast(Dtype::F32)`"), "{cast}");
        assert!(found(Record::new().with("x", [[true, false]])).contains("cast(Dtype::F32)"));
        assert!(!found(Record::new().with("x", [["a", "b"].map(str::to_owned)])).contains("cast"));
        assert!(!found(Record::new().with("on", vec![1i64])).contains("cast"));
    }
}
