//! One batch, as the model function sees it.

use std::ops::Deref;

use dfdx::shapes::{HasShape, Shape};

use crate::data::{Array, Dtype, Record};
use crate::nn::{Ids, Tensor, read};
use crate::{Device, Error, ErrorKind, ModelError, ModelResult};

/// The named inputs of one batch. Ask for each by name and get it in the form the model needs: a [`tensor`](Self::tensor)
/// on the device, [`indices`](Self::indices) (class labels, token ids), or the host [`array`](Self::array) itself for text,
/// lengths and whatever is decided on the host.
#[derive(Debug)]
pub struct Features<D: Device> {
    record: Record,
    device: D,
}

impl<D: Device> Features<D> {
    /// A batch on a device; the estimator makes them, and so can a test of a model function.
    pub fn new(record: Record, device: D) -> Self {
        Self { record, device }
    }

    /// The device that tensors of this batch live on.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The number of examples: the length of the first axis, which all inputs share.
    pub fn batch_size(&self) -> usize {
        self.record.iter().next().and_then(|(_, array)| array.dims().first().copied()).unwrap_or(0)
    }

    /// The names of the inputs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.record.iter().map(|(name, _)| name)
    }

    /// The host array of an input.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] with the names that were given, when it is not among them.
    pub fn array(&self, name: &str) -> ModelResult<&Array> {
        self.record.get(name).map_err(|_| {
            let names: Vec<_> = self.names().collect();
            Error::new(ErrorKind::Signature, format!("input {name:?} is missing; given are {names:?}")).into()
        })
    }

    /// Whether this input was given: for inputs that are optional.
    pub fn contains(&self, name: &str) -> bool {
        self.record.iter().any(|(known, _)| known == name)
    }

    /// An input as a tensor of `f32` on the device. The shape is the one you write, batch axis first:
    /// `features.tensor::<(usize, Const<1>, Const<28>, Const<28>)>("images")`, where `usize` takes any length. Numbers and
    /// booleans are converted; text is refused. One number per example, `(batch)`, may be asked for as a column, `(batch, 1)`: the
    /// targets of a network with one output.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] with the input's name, dtype and shape, and the shape that was asked for.
    pub fn tensor<S: Shape>(&self, name: &str) -> ModelResult<Tensor<S, D>> {
        let array = self.array(name)?;
        if array.dtype() == Dtype::Text {
            return Err(wrong(name, array, &format!("a tensor of shape {}", shape_name::<S>())));
        }
        let column = [array.rows(), 1];
        let dims = if array.dims().len() == 1 && S::NUM_DIMS == 2 { &column } else { array.dims() };
        let shape = shape_of::<S>(dims)
            .ok_or_else(|| wrong(name, array, &format!("a tensor of shape {}", shape_name::<S>())))?;
        self.device.tensor_of(&self.record, name, shape)
    }

    /// An input as the ids of an [`Embedding`](crate::nn::Embedding), in the shape that is written, batch first:
    /// `features.ids::<(usize, usize)>("words")` for padded sentences, `features.ids::<(usize,)>("city")` for one id per example.
    /// They carry no tape, and an embedding is trained only with one: `.traced(step.recorder()?)`.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] when the input is not of integers from 0 on, or has another shape.
    pub fn ids<S: Shape>(&self, name: &str) -> ModelResult<Ids<S>> {
        let array = self.array(name)?;
        let shape = shape_of::<S>(array.dims())
            .ok_or_else(|| wrong(name, array, &format!("ids of shape {}", shape_name::<S>())))?;
        Ids::new(self.indices(name)?.values, shape)
    }

    /// An input as class or token numbers, flat in row-major order: labels of shape (batch), or token ids of shape (batch,
    /// length). Integer inputs only; a negative number is an error here, one that is too large is found where it is used.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] when the input is not of integers, or holds a negative number.
    pub fn indices(&self, name: &str) -> ModelResult<Indices> {
        let array = self.array(name)?;
        let wanted = "integers (i32, i64, u8 or bool)";
        let values: Option<Vec<usize>> = match array.dtype() {
            Dtype::I32 => array.as_slice::<i32>()?.iter().map(|&id| usize::try_from(id).ok()).collect(),
            Dtype::I64 => array.as_slice::<i64>()?.iter().map(|&id| usize::try_from(id).ok()).collect(),
            Dtype::U8 => Some(array.as_slice::<u8>()?.iter().map(|&id| usize::from(id)).collect()),
            Dtype::Bool => Some(array.as_slice::<bool>()?.iter().map(|&id| usize::from(id)).collect()),
            _ => return Err(wrong(name, array, wanted)),
        };
        match values {
            Some(values) => Ok(Indices { values, dims: array.dims().to_vec() }),
            None => Err(wrong(name, array, "integers from 0 on; it holds a negative number")),
        }
    }
}

/// Class or token numbers of a batch, on the host: dereferences to a flat `[usize]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indices {
    values: Vec<usize>,
    dims: Vec<usize>,
}

impl Indices {
    /// The shape of the input they came from, batch first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }
}

impl Deref for Indices {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.values
    }
}

/// A dfdx tensor as a host array of `f32`: an output of `predict`. It reads from the device.
impl<S: Shape, D: Device, T> From<&Tensor<S, D, T>> for Array {
    fn from(tensor: &Tensor<S, D, T>) -> Self {
        let dims: Vec<usize> = tensor.shape().concrete().into();
        Self::from_parts(dims, read(tensor))
    }
}

fn wrong(name: &str, array: &Array, wanted: &str) -> ModelError {
    let message = format!("input {name:?}: found {} of shape {:?}, expected {wanted}", array.dtype(), array.dims());
    Error::new(ErrorKind::Signature, message).into()
}

/// These dimensions as a shape, where they fit it.
fn shape_of<S: Shape>(dims: &[usize]) -> Option<S> {
    if dims.len() != S::NUM_DIMS {
        return None;
    }
    let mut concrete = S::Concrete::default();
    dims.iter().enumerate().for_each(|(axis, &size)| concrete[axis] = size);
    S::from_concrete(&concrete)
}

/// `(usize, Const<28>)` out of `(usize, dfdx::shapes::shape::Const<28>)`.
fn shape_name<S>() -> String {
    std::any::type_name::<S>().replace("dfdx::shapes::shape::", "")
}

#[cfg(test)]
mod tests {
    use dfdx::shapes::Const;

    use super::*;
    use crate::device::{Cpu, DeviceSpec};

    fn features() -> Features<Cpu> {
        let record = Record::new()
            .with("images", Array::new([2, 3], vec![1u8, 2, 3, 4, 5, 6]).unwrap())
            .with("labels", Array::from(vec![1i64, -1]))
            .with("words", Array::from(vec!["a".to_owned(), "b".to_owned()]));
        Features::new(record, Cpu::open(DeviceSpec::Cpu, 0).unwrap())
    }

    #[test]
    fn tensors_take_the_shape_that_is_written() {
        let images = features().tensor::<(usize, Const<3>)>("images").unwrap();
        assert_eq!(images.as_vec(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(features().batch_size(), 2);
    }

    #[test]
    fn one_number_per_example_is_a_column_where_that_is_asked_for() {
        let column = features().tensor::<(usize, usize)>("labels").unwrap();
        assert_eq!((*dfdx::shapes::HasShape::shape(&column), column.as_vec()), ((2, 1), vec![1.0, -1.0]));
        assert!(features().tensor::<(usize, Const<1>)>("labels").is_ok());
        assert!(features().tensor::<(usize, Const<2>)>("labels").is_err());
        assert!(features().tensor::<(usize, usize, usize)>("labels").is_err());
    }

    #[test]
    fn errors_name_the_input_and_both_shapes() {
        let error = features().tensor::<(usize, Const<4>)>("images").unwrap_err().into_error();
        assert_eq!(
            error.to_string(),
            "input \"images\": found u8 of shape [2, 3], expected a tensor of shape (usize, Const<4>)"
        );
        assert!(features().tensor::<(usize,)>("words").is_err());
        assert!(features().tensor::<(usize,)>("images").is_err());
        let error = features().indices("labels").unwrap_err().into_error();
        assert!(error.to_string().contains("negative"), "{error}");
        let error = features().array("lables").unwrap_err().into_error();
        assert!(error.to_string().contains("labels"), "the known names are listed: {error}");
    }
}
