//! Arrays with their axes in another order, mirrored or cut.

use std::ops::Range;

use crate::data::Array;
use crate::{Error, ErrorKind, Result};

impl Array {
    /// The axes in another order, as in numpy: axis `i` of the result is axis `axes[i]` of this array. An image with its channels
    /// first, out of `[height, width, channels]`:
    ///
    /// ```
    /// use elistimator::data::Array;
    ///
    /// let image = Array::new([1, 2, 3], vec![10u8, 20, 30, 11, 21, 31])?;
    /// assert_eq!(image.transpose(&[2, 0, 1])?, Array::new([3, 1, 2], vec![10u8, 11, 20, 21, 30, 31])?);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    ///
    /// A batch of them has its own axis first: `batch.transpose(&[0, 3, 1, 2])`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `axes` does not name every axis once.
    #[doc(alias("permute"))]
    pub fn transpose(&self, axes: &[usize]) -> Result<Self> {
        let rank = self.dims().len();
        let mut is_named = vec![false; rank];
        let is_order = axes.iter().all(|&axis| axis < rank && !std::mem::replace(&mut is_named[axis], true));
        if axes.len() != rank || !is_order {
            let message = format!(
                "transpose: found the axes {axes:?} for an array of shape {:?}, expected every axis below {rank} once",
                self.dims()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let strides = self.strides();
        let dims = axes.iter().map(|&axis| self.dims()[axis]).collect();
        Ok(self.strided(dims, &axes.iter().map(|&axis| strides[axis]).collect::<Vec<_>>(), 0))
    }

    /// The array mirrored along an axis: an image from right to left with that of the width.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there is no such axis.
    pub fn flip(&self, axis: usize) -> Result<Self> {
        let length = self.axis("flip", axis)?;
        let mut strides = self.strides();
        let start = length.saturating_sub(1) * strides[axis].unsigned_abs();
        strides[axis] = -strides[axis];
        Ok(self.strided(self.dims().to_vec(), &strides, start))
    }

    /// A range of an axis: `image.crop(0, top..top + 24)?.crop(1, left..left + 24)?`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there is no such axis, or the range is not within it.
    pub fn crop(&self, axis: usize, range: Range<usize>) -> Result<Self> {
        let length = self.axis("crop", axis)?;
        if range.start > range.end || range.end > length {
            let message = format!("crop: {range:?} is not within axis {axis} of an array of shape {:?}", self.dims());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (mut dims, strides) = (self.dims().to_vec(), self.strides());
        dims[axis] = range.len();
        Ok(self.strided(dims, &strides, range.start * strides[axis].unsigned_abs()))
    }

    /// The length of an axis.
    fn axis(&self, what: &str, axis: usize) -> Result<usize> {
        self.dims().get(axis).copied().ok_or_else(|| {
            let message = format!("{what}: an array of shape {:?} has no axis {axis}", self.dims());
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }

    /// How far apart neighbours along each axis are, in elements.
    fn strides(&self) -> Vec<isize> {
        let mut strides = vec![1; self.dims().len()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis] * self.dims()[axis] as isize;
        }
        strides
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dtype;

    fn numbers(dims: &[usize]) -> Array {
        Array::new(dims, (0..dims.iter().product::<usize>() as i64).collect()).unwrap()
    }

    #[test]
    fn every_order_of_the_axes_is_numpy_s() {
        let dims = [2, 3, 4];
        for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let ours = numbers(&dims).transpose(&axes).unwrap();
            let theirs = numbers(&dims).to_ndarray::<i64>().unwrap().permuted_axes(axes.to_vec());
            assert_eq!(ours, theirs.into(), "{axes:?}");
        }
    }

    #[test]
    fn all_dtypes_and_parts_of_batches_are_transposed() {
        let bytes = Array::new([2, 3], vec![1u8, 2, 3, 4, 5, 6]).unwrap();
        for dtype in [Dtype::F32, Dtype::F64, Dtype::I32, Dtype::I64, Dtype::U8] {
            let found = bytes.cast(dtype).unwrap().transpose(&[1, 0]).unwrap();
            assert_eq!((found.dtype(), found.to_f32().unwrap()), (dtype, vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
        }
        let texts = Array::from([["a", "b"].map(str::to_owned)]);
        assert_eq!(texts.transpose(&[1, 0]).unwrap(), Array::from([["a".to_owned()], ["b".to_owned()]]));
        assert_eq!(Array::from([[true, false]]).transpose(&[1, 0]).unwrap(), [[true], [false]].into());
        let row = numbers(&[3, 2, 2]).row(1).unwrap();
        assert_eq!(row.transpose(&[1, 0]).unwrap(), [[4i64, 6], [5, 7]].into());
        assert_eq!(Array::from(3i64).transpose(&[]).unwrap(), Array::from(3i64));
        assert_eq!(numbers(&[2, 0, 3]).transpose(&[2, 0, 1]).unwrap().dims(), [3, 2, 0]);
    }

    #[test]
    fn axes_are_mirrored_and_cut() {
        let image = numbers(&[2, 3]);
        assert_eq!(image.flip(0).unwrap(), [[3i64, 4, 5], [0, 1, 2]].into());
        assert_eq!(image.flip(1).unwrap(), [[2i64, 1, 0], [5, 4, 3]].into());
        assert_eq!(image.crop(0, 1..2).unwrap().crop(1, 1..3).unwrap(), [[4i64, 5]].into());
        assert_eq!(image.crop(1, 3..3).unwrap().dims(), [2, 0]);
        assert_eq!(numbers(&[0, 3]).flip(0).unwrap().dims(), [0, 3]);
        let cube = numbers(&[2, 2, 3]);
        let theirs = cube.to_ndarray::<i64>().unwrap();
        assert_eq!(cube.flip(1).unwrap(), theirs.slice(ndarray::s![.., ..;-1, ..]).to_owned().into());
        assert_eq!(cube.crop(1, 1..2).unwrap(), theirs.slice(ndarray::s![.., 1..2, ..]).to_owned().into());
    }

    #[test]
    fn axes_that_are_no_order_and_ranges_outside_are_refused() {
        let image = numbers(&[2, 3, 1]);
        for axes in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3], &[0, 1, 2, 0], &[usize::MAX, 0, 1], &[]] {
            let error = image.transpose(axes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("shape [2, 3, 1], expected every axis below 3 once"), "{error}");
        }
        assert!(image.flip(3).unwrap_err().to_string().contains("[2, 3, 1] has no axis 3"));
        for (axis, range) in [(3, 0..1), (0, 1..3), (0, 3..3), (1, Range { start: 2, end: 1 }), (1, 0..usize::MAX)] {
            assert_eq!(image.crop(axis, range).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }
}
