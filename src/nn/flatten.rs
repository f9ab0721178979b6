//! From images and sequences to rows of values.

use std::marker::PhantomData;

use dfdx::shapes::{Const, Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::{Layer, Network, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// All values of each example in one row: `(B, C, H, W)` to `(B, K)`, in the order of channels, rows, columns. `K` is
/// `usize`, or `Const<N>` as the next layer wants it. Rank 3 works as well.
///
/// # Errors
/// When `K` is a `Const` of another size.
pub fn flatten<K: Dim, X: Flatten<K>>(x: X) -> ModelResult<X::Output> {
    x.flatten()
}

/// What [`flatten`] takes.
pub trait Flatten<K: Dim> {
    /// `Tensor<(B, K), D, T>`.
    type Output;

    /// See [`flatten`].
    ///
    /// # Errors
    /// When `K` is a `Const` of another size.
    fn flatten(self) -> ModelResult<Self::Output>;
}

fn flat_size<K: Dim>(dims: &[usize]) -> ModelResult<K> {
    let count = dims.iter().product();
    K::from_size(count).ok_or_else(|| {
        let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
        // A `Const` prints nothing of its size, so it is found by its type's name.
        let expected = std::any::type_name::<K>();
        let expected = expected.rsplit_once('<').map_or(expected, |(_, size)| size.trim_end_matches('>'));
        ModelError::msg(format!("flatten: found {} = {count} values per example, expected {expected}", dims.join("x")))
    })
}

impl<B: Dim, C: Dim, H: Dim, W: Dim, K: Dim, D: Device, T: Tape<f32, D>> Flatten<K> for Tensor<(B, C, H, W), D, T> {
    type Output = Tensor<(B, K), D, T>;

    fn flatten(self) -> ModelResult<Self::Output> {
        let (batch, channels, height, width) = *self.shape();
        Ok(self.try_reshape_like(&(batch, flat_size::<K>(&[channels.size(), height.size(), width.size()])?))?)
    }
}

impl<B: Dim, C: Dim, L: Dim, K: Dim, D: Device, T: Tape<f32, D>> Flatten<K> for Tensor<(B, C, L), D, T> {
    type Output = Tensor<(B, K), D, T>;

    fn flatten(self) -> ModelResult<Self::Output> {
        let (batch, channels, length) = *self.shape();
        Ok(self.try_reshape_like(&(batch, flat_size::<K>(&[channels.size(), length.size()])?))?)
    }
}

/// [`flatten`] as a layer, for tuples; its output's size is known at run time unless said otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct FlattenLayer<K = usize>(PhantomData<K>);

impl<K> FlattenLayer<K> {
    /// The layer, which has no parameters.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<K: Dim, X: Flatten<K>> Layer<X> for FlattenLayer<K> {
    type Output = X::Output;

    fn forward(&self, x: X) -> ModelResult<Self::Output> {
        x.flatten()
    }
}

impl<D: Device, const N: usize> Network<D> for FlattenLayer<Const<N>> {
    fn visit(&self, _: &mut Visitor<'_, D>) -> ModelResult<()> {
        Ok(())
    }

    fn visit_mut(&mut self, _: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        Ok(())
    }
}

impl<D: Device> Network<D> for FlattenLayer<usize> {
    fn visit(&self, _: &mut Visitor<'_, D>) -> ModelResult<()> {
        Ok(())
    }

    fn visit_mut(&mut self, _: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        Ok(())
    }
}
