//! Host arrays: what input functions give and predictions come back as.

use std::fmt;
use std::ops::Range;

use super::dtype::{Buffer, Values, on_values, private};
use super::{Dtype, Element};
use crate::{Error, ErrorKind, Result};

/// An n-dimensional host array in row-major order, of numbers, booleans or text. Clones and rows share the values.
#[derive(Clone)]
pub struct Array {
    dims: Vec<usize>,
    values: Values,
}

impl Array {
    /// Values in row-major order under these dimensions; none at all for a scalar.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the number of values is not the product of the dimensions.
    pub fn new<T: Element>(dims: impl Into<Vec<usize>>, values: Vec<T>) -> Result<Self> {
        let dims = dims.into();
        if element_count(&dims) != Some(values.len()) {
            let expected = match element_count(&dims) {
                Some(count) => count.to_string(),
                None => "dimensions whose product can be counted".to_owned(),
            };
            let message = format!("array of shape {dims:?}: found {} values, expected {expected}", values.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { dims, values: T::wrap(values) })
    }

    /// Values whose number is known to be the product of the dimensions.
    pub(crate) fn from_parts<T: Element>(dims: Vec<usize>, values: Vec<T>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        Self { dims, values: T::wrap(values) }
    }

    /// The dimensions; the first is the batch axis where the array is a batch.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        match self.values {
            Values::F32(_) => Dtype::F32,
            Values::F64(_) => Dtype::F64,
            Values::I32(_) => Dtype::I32,
            Values::I64(_) => Dtype::I64,
            Values::U8(_) => Dtype::U8,
            Values::Bool(_) => Dtype::Bool,
            Values::Text(_) => Dtype::Text,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        on_values!(&self.values, buffer => buffer.as_slice().len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements in row-major order.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] when the array holds another type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        T::unwrap(&self.values).ok_or_else(|| {
            let message = format!("array of shape {:?}: found {}, expected {}", self.dims, self.dtype(), T::DTYPE);
            Error::new(ErrorKind::Signature, message)
        })
    }

    /// The number of rows: the length of the first axis; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.dims.first().copied().unwrap_or(1)
    }

    /// The `index`-th row, without the first axis, sharing the values.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there is no such row.
    pub fn row(&self, index: usize) -> Result<Self> {
        let row = self.slice_rows(index..index.saturating_add(1))?;
        Ok(Self { dims: self.dims[1..].to_vec(), values: row.values })
    }

    /// A range of rows, sharing the values.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the range is not within the rows, or the array is a scalar.
    pub fn slice_rows(&self, range: Range<usize>) -> Result<Self> {
        if self.dims.is_empty() || range.start > range.end || range.end > self.dims[0] {
            let message = format!("array of shape {:?}: rows {range:?} are not in it", self.dims);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let width: usize = self.dims[1..].iter().product();
        let mut dims = self.dims.clone();
        dims[0] = range.len();
        let range = range.start * width..range.end * width;
        let values = match &self.values {
            Values::F32(buffer) => Values::F32(buffer.slice(range)),
            Values::F64(buffer) => Values::F64(buffer.slice(range)),
            Values::I32(buffer) => Values::I32(buffer.slice(range)),
            Values::I64(buffer) => Values::I64(buffer.slice(range)),
            Values::U8(buffer) => Values::U8(buffer.slice(range)),
            Values::Bool(buffer) => Values::Bool(buffer.slice(range)),
            Values::Text(buffer) => Values::Text(buffer.slice(range)),
        };
        Ok(Self { dims, values })
    }

    /// The same values under other dimensions.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the number of elements would change.
    pub fn reshape(&self, dims: impl Into<Vec<usize>>) -> Result<Self> {
        let dims = dims.into();
        if element_count(&dims) != Some(self.len()) {
            let message = format!("array of shape {:?} cannot become {dims:?}: another number of elements", self.dims);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { dims, values: self.values.clone() })
    }

    /// The rows with these indices, copied into a new array: how a batch is gathered.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when an index is not a row.
    pub fn gather_rows(&self, rows: &[usize]) -> Result<Self> {
        if let Some(bad) = rows.iter().find(|&&row| self.dims.is_empty() || row >= self.dims[0]) {
            let message = format!("array of shape {:?}: row {bad} is not in it", self.dims);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        fn gather<T: Element>(values: &[T], width: usize, rows: &[usize]) -> Values {
            let mut out = Vec::with_capacity(rows.len() * width);
            rows.iter().for_each(|&row| out.extend_from_slice(&values[row * width..(row + 1) * width]));
            T::wrap(out)
        }
        let width: usize = self.dims[1..].iter().product();
        let values = on_values!(&self.values, buffer => gather(buffer.as_slice(), width, rows));
        let mut dims = self.dims.clone();
        dims[0] = rows.len();
        Ok(Self { dims, values })
    }

    /// The elements from `start` on with so many between neighbours along each axis, which lie within the array.
    pub(super) fn strided(&self, dims: Vec<usize>, strides: &[isize], start: usize) -> Self {
        fn copy<T: Clone>(values: &[T], dims: &[usize], strides: &[isize], start: usize, out: &mut Vec<T>) {
            match (dims, strides) {
                ([length], [1]) => out.extend_from_slice(&values[start..start + length]),
                ([length, dims @ ..], [stride, strides @ ..]) => {
                    let starts = (0..*length).map(|index| start.wrapping_add_signed(stride * index as isize));
                    starts.for_each(|start| copy(values, dims, strides, start, out));
                }
                _ => out.push(values[start].clone()),
            }
        }
        fn gather<T: Element>(values: &[T], dims: &[usize], strides: &[isize], start: usize) -> Values {
            let count = dims.iter().product();
            let mut out = Vec::with_capacity(count);
            if count > 0 {
                copy(values, dims, strides, start, &mut out);
            }
            T::wrap(out)
        }
        let values = on_values!(&self.values, buffer => gather(buffer.as_slice(), &dims, strides, start));
        Self { dims, values }
    }

    /// Arrays of one shape and type as the rows of a new one.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the first one that differs; or when there is none.
    pub fn stack(arrays: &[Self]) -> Result<Self> {
        let first = arrays.first().ok_or_else(|| Error::new(ErrorKind::Data, "cannot stack no arrays at all"))?;
        for (index, array) in arrays.iter().enumerate() {
            if array.dims != first.dims || array.dtype() != first.dtype() {
                let message = format!(
                    "example {index} is {} of shape {:?}, the first is {} of shape {:?}; batches need one shape \
                     (`padded_batch` pads)",
                    array.dtype(),
                    array.dims,
                    first.dtype(),
                    first.dims
                );
                return Err(Error::new(ErrorKind::Data, message));
            }
        }
        fn stack<T: Element>(_: &Buffer<T>, arrays: &[Array], len: usize) -> Values {
            let mut out = Vec::with_capacity(arrays.len() * len);
            for array in arrays {
                out.extend_from_slice(T::unwrap(&array.values).unwrap_or_default());
            }
            T::wrap(out)
        }
        let values = on_values!(&first.values, buffer => stack(buffer, arrays, first.len()));
        let mut dims = vec![arrays.len()];
        dims.extend_from_slice(&first.dims);
        Ok(Self { dims, values })
    }

    /// Arrays of one rank and type as rows, each padded at its ends to the longest along every axis. Padding is 0, false or
    /// the empty text, or `pad` for numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] when ranks or types differ, or there is no array; [`ErrorKind::InvalidArgument`] when the type has no
    /// value `pad`, as -1 is none among bytes and 0.5 none among integers.
    pub fn pad_stack(arrays: &[Self], pad: f64) -> Result<Self> {
        Self::pad_stack_to(arrays, pad, "", None)
    }

    /// The same with lengths given for some axes, which no array may exceed.
    pub(crate) fn pad_stack_to(arrays: &[Self], pad: f64, text: &str, shape: Option<&[Option<usize>]>) -> Result<Self> {
        let first = arrays.first().ok_or_else(|| Error::new(ErrorKind::Data, "cannot stack no arrays at all"))?;
        let mut dims = first.dims.clone();
        for (index, array) in arrays.iter().enumerate() {
            if array.dims.len() != dims.len() || array.dtype() != first.dtype() {
                let message = format!(
                    "example {index} is {} of shape {:?}, the first is {} of shape {:?}; padding needs one rank",
                    array.dtype(),
                    array.dims,
                    first.dtype(),
                    first.dims
                );
                return Err(Error::new(ErrorKind::Data, message));
            }
            dims.iter_mut().zip(&array.dims).for_each(|(widest, &dim)| *widest = (*widest).max(dim));
        }
        if let Some(shape) = shape {
            let longest = dims.clone();
            let fits = |(dim, given): (&mut usize, &Option<usize>)| {
                given.is_none_or(|given| std::mem::replace(dim, given) <= given)
            };
            if shape.len() != dims.len() || !dims.iter_mut().zip(shape).all(fits) {
                let shape: Vec<_> = shape.iter().map(|dim| dim.map_or("?".into(), |dim| dim.to_string())).collect();
                let message = format!("examples of up to {longest:?} do not fit the shape [{}]", shape.join(", "));
                return Err(Error::new(ErrorKind::Data, message));
            }
        }
        if first.dtype() != Dtype::Text && !first.dtype().holds(pad) {
            let message = format!("padding with {pad}: the type {} has no such value", first.dtype());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let len = dims.iter().try_fold(arrays.len(), |product, &dim| product.checked_mul(dim));
        let too_large = || Error::new(ErrorKind::Data, format!("a batch of {} of {dims:?} is too large", arrays.len()));
        let len = len.ok_or_else(too_large)?;
        fn place<T: Element>(_: &Buffer<T>, arrays: &[Array], dims: &[usize], len: usize, pad: T) -> Option<Values> {
            let mut out = Vec::new();
            out.try_reserve_exact(len).ok()?;
            out.resize(len, pad);
            let size: usize = dims.iter().product();
            for (index, array) in arrays.iter().enumerate() {
                let values = T::unwrap(&array.values).unwrap_or_default();
                copy_padded(values, &array.dims, dims, &mut out[index * size..(index + 1) * size]);
            }
            Some(T::wrap(out))
        }
        let values = match &first.values {
            Values::F32(buffer) => place(buffer, arrays, &dims, len, pad as f32),
            Values::F64(buffer) => place(buffer, arrays, &dims, len, pad),
            Values::I32(buffer) => place(buffer, arrays, &dims, len, pad as i32),
            Values::I64(buffer) => place(buffer, arrays, &dims, len, pad as i64),
            Values::U8(buffer) => place(buffer, arrays, &dims, len, pad as u8),
            Values::Bool(buffer) => place(buffer, arrays, &dims, len, pad != 0.0),
            Values::Text(buffer) => place(buffer, arrays, &dims, len, text.to_owned()),
        }
        .ok_or_else(too_large)?;
        let mut all = vec![arrays.len()];
        all.extend_from_slice(&dims);
        Ok(Self { dims: all, values })
    }

    /// All elements as `f32`, the type of the networks: integers are converted, booleans become 0 and 1.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] for text.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        Ok(match &self.values {
            Values::F32(buffer) => buffer.as_slice().to_vec(),
            Values::F64(buffer) => buffer.as_slice().iter().map(|&x| x as f32).collect(),
            Values::I32(buffer) => buffer.as_slice().iter().map(|&x| x as f32).collect(),
            Values::I64(buffer) => buffer.as_slice().iter().map(|&x| x as f32).collect(),
            Values::U8(buffer) => buffer.as_slice().iter().map(|&x| f32::from(x)).collect(),
            Values::Bool(buffer) => buffer.as_slice().iter().map(|&x| f32::from(u8::from(x))).collect(),
            Values::Text(_) => {
                let message = format!("array of shape {:?}: found text, expected numbers", self.dims);
                return Err(Error::new(ErrorKind::Signature, message));
            }
        })
    }

    /// The values as [`to_f32`](Self::to_f32) gives them, written to memory that is there already.
    #[cfg(feature = "cuda")]
    pub(crate) fn write_f32(&self, to: &mut [f32]) -> Result<()> {
        fn write<T: Copy>(from: &[T], to: &mut [f32], convert: impl Fn(T) -> f32) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = convert(*from));
        }
        match &self.values {
            Values::F32(buffer) => write(buffer.as_slice(), to, |x| x),
            Values::F64(buffer) => write(buffer.as_slice(), to, |x| x as f32),
            Values::I32(buffer) => write(buffer.as_slice(), to, |x| x as f32),
            Values::I64(buffer) => write(buffer.as_slice(), to, |x| x as f32),
            Values::U8(buffer) => write(buffer.as_slice(), to, f32::from),
            Values::Bool(buffer) => write(buffer.as_slice(), to, |x| f32::from(u8::from(x))),
            Values::Text(_) => to.copy_from_slice(&self.to_f32()?),
        }
        Ok(())
    }

    /// The same values as another numeric type, as Rust's `as` converts them.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] from or to text, or to booleans.
    pub fn cast(&self, dtype: Dtype) -> Result<Self> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        macro_rules! cast {
            ($($Variant:ident as $T:ty),*) => {
                match (&self.values, dtype) {
                    $((Values::F32(from), Dtype::$Variant) => <$T as private::Sealed>::wrap(from.as_slice().iter().map(|&x| x as $T).collect()),
                    (Values::F64(from), Dtype::$Variant) => <$T as private::Sealed>::wrap(from.as_slice().iter().map(|&x| x as $T).collect()),
                    (Values::I32(from), Dtype::$Variant) => <$T as private::Sealed>::wrap(from.as_slice().iter().map(|&x| x as $T).collect()),
                    (Values::I64(from), Dtype::$Variant) => <$T as private::Sealed>::wrap(from.as_slice().iter().map(|&x| x as $T).collect()),
                    (Values::U8(from), Dtype::$Variant) => <$T as private::Sealed>::wrap(from.as_slice().iter().map(|&x| x as $T).collect()),
                    (Values::Bool(from), Dtype::$Variant) => <$T as private::Sealed>::wrap(from.as_slice().iter().map(|&x| u8::from(x) as $T).collect()),)*
                    _ => {
                        let message = format!("array of shape {:?}: cannot convert {} to {dtype}", self.dims, self.dtype());
                        return Err(Error::new(ErrorKind::Signature, message));
                    }
                }
            };
        }
        let values = cast!(F32 as f32, F64 as f64, I32 as i32, I64 as i64, U8 as u8);
        Ok(Self { dims: self.dims.clone(), values })
    }

    /// A checksum of the first and the last values: tells data sets apart without reading them whole.
    pub(crate) fn sample_checksum(&self) -> u32 {
        fn sample<T: Element>(values: &[T]) -> u32 {
            let mut hasher = crc32fast::Hasher::new();
            let (head, tail) = (values.len().min(1024), values.len().saturating_sub(1024));
            for value in values[..head].iter().chain(&values[tail..]) {
                hasher.update(format!("{value:?};").as_bytes());
            }
            hasher.finalize()
        }
        on_values!(&self.values, buffer => sample(buffer.as_slice()))
    }

    /// The array as one of the `ndarray` crate.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] when it holds another type.
    pub fn to_ndarray<T: Element>(&self) -> Result<ndarray::ArrayD<T>> {
        let values = self.as_slice::<T>()?.to_vec();
        ndarray::ArrayD::from_shape_vec(self.dims.clone(), values)
            .map_err(|error| Error::with_source(ErrorKind::InvalidArgument, format!("shape {:?}", self.dims), error))
    }
}

/// The product of dimensions; `None` when it, or that of some of them, is too large. Without the latter, a row of an empty
/// array could have more elements than can be counted.
pub(crate) fn element_count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim.max(1)))?;
    Some(dims.iter().product())
}

/// Copies an array into the corner of a larger one.
fn copy_padded<T: Clone>(values: &[T], dims: &[usize], wide: &[usize], out: &mut [T]) {
    match dims.split_first() {
        None => out[0] = values[0].clone(),
        Some((&rows, [])) => out[..rows].clone_from_slice(&values[..rows]),
        Some((&rows, rest)) => {
            let (from, to): (usize, usize) = (rest.iter().product(), wide[1..].iter().product());
            for row in 0..rows {
                let (from, to) = (row * from..(row + 1) * from, row * to..(row + 1) * to);
                copy_padded(&values[from], rest, &wide[1..], &mut out[to]);
            }
        }
    }
}

impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        fn same<T: Element>(left: &Buffer<T>, right: &Values) -> bool {
            T::unwrap(right).is_some_and(|right| left.as_slice() == right)
        }
        self.dims == other.dims && on_values!(&self.values, left => same(left, &other.values))
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?} ", self.dtype(), self.dims)?;
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Array {
    /// The values as nested lists; of a long axis, the first six.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn nested<T: fmt::Debug>(values: &[T], dims: &[usize], f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Some((&rows, rest)) = dims.split_first() else {
                return values.first().map_or(Ok(()), |value| write!(f, "{value:?}"));
            };
            let width: usize = rest.iter().product();
            f.write_str("[")?;
            for row in 0..rows.min(6) {
                f.write_str(if row == 0 { "" } else { ", " })?;
                nested(&values[row * width..(row + 1) * width], rest, f)?;
            }
            f.write_str(if rows > 6 { ", ...]" } else { "]" })
        }
        on_values!(&self.values, buffer => nested(buffer.as_slice(), &self.dims, f))
    }
}

macro_rules! conversions {
    ($($T:ty),*) => {$(
        impl From<Vec<$T>> for Array {
            fn from(values: Vec<$T>) -> Self {
                Self { dims: vec![values.len()], values: <$T as private::Sealed>::wrap(values) }
            }
        }

        impl From<&[$T]> for Array {
            fn from(values: &[$T]) -> Self {
                values.to_vec().into()
            }
        }

        impl<const N: usize> From<[$T; N]> for Array {
            fn from(values: [$T; N]) -> Self {
                Vec::from(values).into()
            }
        }

        impl<const N: usize, const M: usize> From<[[$T; N]; M]> for Array {
            fn from(values: [[$T; N]; M]) -> Self {
                let flat: Vec<$T> = values.into_iter().flatten().collect();
                Self { dims: vec![M, N], values: <$T as private::Sealed>::wrap(flat) }
            }
        }

        impl From<$T> for Array {
            fn from(value: $T) -> Self {
                Self { dims: Vec::new(), values: <$T as private::Sealed>::wrap(vec![value]) }
            }
        }
    )*};
}

conversions!(f32, f64, i32, i64, u8, bool, String);

impl From<&str> for Array {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Vec<&str>> for Array {
    fn from(texts: Vec<&str>) -> Self {
        texts.into_iter().map(str::to_owned).collect::<Vec<_>>().into()
    }
}

impl<T: Element, D: ndarray::Dimension> From<ndarray::Array<T, D>> for Array {
    fn from(array: ndarray::Array<T, D>) -> Self {
        let dims = array.shape().to_vec();
        Self { dims, values: T::wrap(array.iter().cloned().collect()) }
    }
}
