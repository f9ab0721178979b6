//! Tensors one after another.

use dfdx::shapes::{Axis, Dim, HasShape, Shape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::Tensor;
use crate::nn::backend::Rows;
use crate::{Device, ModelError, ModelResult};

/// Joins any number of tensors along an axis, in order: the channels of a U-Net's two sides or of a DenseNet's blocks
/// (`Axis::<1>` of `(batch, channels, height, width)`), the features of several inputs (`Axis::<1>` of `(batch, features)`,
/// `Axis::<2>` of `(batch, length, features)`). Takes a `Vec` or an array of tensors of one type, or a tuple of up to eight
/// whose sizes have different types; in what comes out, the axis has a `usize`. Tapes are merged, and every tensor that
/// carries one receives its part of the gradient; data joined with what is being trained gets a tape by `traced`.
///
/// ```
/// use dfdx::shapes::{Axis, Const};
/// use elistimator::nn::{Tensor, concatenate};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// # use dfdx::tensor::TensorFromVec;
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let images = |channels: usize| -> Tensor<(usize, usize, Const<4>, Const<4>), Cpu> {
///     device.tensor_from_vec(vec![0.1; 2 * channels * 16], (2, channels, Const, Const))
/// };
/// let joined = concatenate([images(3), images(8), images(1)], Axis::<1>)?;
/// assert_eq!(dfdx::shapes::HasShape::shape(&joined), &(2, 12, Const, Const));
///
/// let numbers: Tensor<(usize, Const<3>), Cpu> = device.tensor_from_vec(vec![0.1; 6], (2, Const));
/// let city: Tensor<(usize, usize), Cpu> = device.tensor_from_vec(vec![0.2; 8], (2, 4));
/// assert_eq!(dfdx::shapes::HasShape::shape(&concatenate((numbers, city), Axis::<1>)?), &(2, 7));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When there is no tensor, or two differ in another dimension than the axis.
#[doc(alias("cat", "torch.cat", "stack", "join"))]
pub fn concatenate<const AXIS: isize, X: Concatenate<AXIS>>(tensors: X, axis: Axis<AXIS>) -> ModelResult<X::Output> {
    let _ = axis;
    tensors.concatenate()
}

/// What [`concatenate`] takes.
pub trait Concatenate<const AXIS: isize> {
    /// The joined tensor.
    type Output;

    /// See [`concatenate`].
    ///
    /// # Errors
    /// When there is no tensor, or two differ in another dimension than the axis.
    fn concatenate(self) -> ModelResult<Self::Output>;
}

/// A shape of up to five dimensions that has this axis.
pub trait Along<const AXIS: isize>: Shape {
    /// The same shape with a `usize` along the axis.
    type Joined: Shape;

    /// The same shape with `size` along the axis.
    fn joined(&self, size: usize) -> Self::Joined;
}

macro_rules! along {
    ($axis:literal: $($before:ident.$at:tt)* | $own:ident | $($after:ident.$place:tt)*) => {
        impl<$($before: Dim,)* $own: Dim, $($after: Dim,)*> Along<$axis> for ($($before,)* $own, $($after,)*) {
            type Joined = ($($before,)* usize, $($after,)*);

            fn joined(&self, size: usize) -> Self::Joined {
                ($(self.$at,)* size, $(self.$place,)*)
            }
        }
    };
}

along!(0: | A |);
along!(0: | A | B.1);
along!(1: A.0 | B |);
along!(0: | A | B.1 C.2);
along!(1: A.0 | B | C.2);
along!(2: A.0 B.1 | C |);
along!(0: | A | B.1 C.2 E.3);
along!(1: A.0 | B | C.2 E.3);
along!(2: A.0 B.1 | C | E.3);
along!(3: A.0 B.1 C.2 | E |);
along!(0: | A | B.1 C.2 E.3 F.4);
along!(1: A.0 | B | C.2 E.3 F.4);
along!(2: A.0 B.1 | C | E.3 F.4);
along!(3: A.0 B.1 C.2 | E | F.4);
along!(4: A.0 B.1 C.2 E.3 | F |);

/// The tensors as rows: what comes before the axis, and the axis with what comes after it.
struct Parts<D: Device, T> {
    rows: Vec<Rows<D, T>>,
    dims: Vec<usize>,
    total: usize,
}

impl<D: Device, T: Tape<f32, D>> Parts<D, T> {
    fn new(dims: impl IntoIterator<Item = usize>) -> Self {
        Self { rows: Vec::new(), dims: dims.into_iter().collect(), total: 0 }
    }

    fn push<const AXIS: isize, S: Along<AXIS>>(&mut self, x: Tensor<S, D, T>) -> ModelResult<()> {
        let axis = AXIS.unsigned_abs();
        let dims: Vec<usize> = x.shape().concrete().into_iter().collect();
        let others = |dims: &[usize]| (dims[..axis].to_vec(), dims[axis + 1..].to_vec());
        let (before, after) = others(&dims);
        if (&before, &after) != (&others(&self.dims).0, &others(&self.dims).1) {
            return Err(ModelError::msg(format!(
                "concatenate: found tensors of shapes {:?} and {dims:?}, expected them to differ along axis {axis} alone",
                self.dims
            )));
        }
        self.total += dims[axis];
        let rows = (before.iter().product(), dims[axis..].iter().product());
        self.rows.push(x.try_reshape_like(&rows)?);
        Ok(())
    }

    fn join<S: Shape>(mut self, shape: S) -> ModelResult<Tensor<S, D, T>> {
        match self.rows.pop() {
            Some(only) if self.rows.is_empty() => Ok(only.try_reshape_like(&shape)?),
            Some(last) => {
                self.rows.push(last);
                Ok(D::concatenate(self.rows)?.try_reshape_like(&shape)?)
            }
            None => Err(ModelError::msg("concatenate: found no tensor, expected at least one")),
        }
    }
}

impl<const AXIS: isize, S: Along<AXIS>, D: Device, T: Tape<f32, D>> Concatenate<AXIS> for Vec<Tensor<S, D, T>> {
    type Output = Tensor<S::Joined, D, T>;

    fn concatenate(self) -> ModelResult<Self::Output> {
        let Some(first) = self.first().map(|first| *first.shape()) else {
            return Err(ModelError::msg("concatenate: found no tensor, expected at least one"));
        };
        let mut parts = Parts::new(first.concrete());
        for x in self {
            parts.push::<AXIS, S>(x)?;
        }
        let shape = first.joined(parts.total);
        parts.join(shape)
    }
}

impl<const AXIS: isize, const N: usize, S: Along<AXIS>, D: Device, T: Tape<f32, D>> Concatenate<AXIS>
    for [Tensor<S, D, T>; N]
{
    type Output = Tensor<S::Joined, D, T>;

    fn concatenate(self) -> ModelResult<Self::Output> {
        Concatenate::<AXIS>::concatenate(Vec::from(self))
    }
}

macro_rules! concatenate_tuple {
    ($first:ident.$zero:tt $($other:ident.$at:tt)*) => {
        impl<
            const AXIS: isize,
            $first: Along<AXIS>,
            $($other: Along<AXIS, Joined = $first::Joined>,)*
            D: Device,
            T: Tape<f32, D>,
        > Concatenate<AXIS> for (Tensor<$first, D, T>, $(Tensor<$other, D, T>,)*)
        {
            type Output = Tensor<$first::Joined, D, T>;

            fn concatenate(self) -> ModelResult<Self::Output> {
                let first = *self.$zero.shape();
                let mut parts = Parts::new(first.concrete());
                parts.push::<AXIS, $first>(self.$zero)?;
                $(parts.push::<AXIS, $other>(self.$at)?;)*
                let shape = first.joined(parts.total);
                parts.join(shape)
            }
        }
    };
}

concatenate_tuple!(A.0 B.1);
concatenate_tuple!(A.0 B.1 C.2);
concatenate_tuple!(A.0 B.1 C.2 E.3);
concatenate_tuple!(A.0 B.1 C.2 E.3 F.4);
concatenate_tuple!(A.0 B.1 C.2 E.3 F.4 G.5);
concatenate_tuple!(A.0 B.1 C.2 E.3 F.4 G.5 H.6);
concatenate_tuple!(A.0 B.1 C.2 E.3 F.4 G.5 H.6 I.7);
