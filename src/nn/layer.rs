//! The forward pass of layers, alone and in sequence.

use crate::ModelResult;

/// A layer that maps an `X`, usually a [`Tensor`](crate::nn::Tensor), to its output. One method serves training and
/// evaluation: a tensor that carries a tape is being trained on, so dropout acts and operations are recorded; one without
/// is evaluated. Tuples of layers are layers, applied one after the other:
///
/// ```
/// use elistimator::nn::{Activation, Layer, Linear, Tensor};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let net = (Linear::builder(2, 8).activation(Activation::Relu).build(&device)?, Linear::new(&device, 8, 1)?);
/// let points: Tensor<(usize, usize), Cpu> = dfdx::tensor::TensorFromVec::tensor_from_vec(&device, vec![0.5; 6], (3, 2));
/// assert_eq!(dfdx::shapes::HasShape::shape(&net.forward(points)?), &(3, 1));
/// # Ok(())
/// # }
/// ```
pub trait Layer<X> {
    /// What comes out.
    type Output;

    /// Applies the layer.
    ///
    /// # Errors
    /// When the input's shape or values are impossible for the layer, saying what was found and expected.
    fn forward(&self, x: X) -> ModelResult<Self::Output>;
}

macro_rules! sequential {
    ($First:ident $first:tt $(, $Next:ident $next:tt $Previous:ident)*; $Last:ident) => {
        impl<X, $First: Layer<X>, $($Next: Layer<$Previous::Output>),*> Layer<X> for ($First, $($Next,)*) {
            type Output = $Last::Output;

            fn forward(&self, x: X) -> ModelResult<Self::Output> {
                let x = self.$first.forward(x)?;
                $(let x = self.$next.forward(x)?;)*
                Ok(x)
            }
        }
    };
}

sequential!(A 0; A);
sequential!(A 0, B 1 A; B);
sequential!(A 0, B 1 A, C 2 B; C);
sequential!(A 0, B 1 A, C 2 B, E 3 C; E);
sequential!(A 0, B 1 A, C 2 B, E 3 C, F 4 E; F);
sequential!(A 0, B 1 A, C 2 B, E 3 C, F 4 E, G 5 F; G);
sequential!(A 0, B 1 A, C 2 B, E 3 C, F 4 E, G 5 F, H 6 G; H);
sequential!(A 0, B 1 A, C 2 B, E 3 C, F 4 E, G 5 F, H 6 G, I 7 H; I);

/// A stack whose depth is known at run time: each layer's output has the type of its input.
impl<X, L: Layer<X, Output = X>> Layer<X> for Vec<L> {
    type Output = X;

    fn forward(&self, x: X) -> ModelResult<X> {
        self.iter().try_fold(x, |x, layer| layer.forward(x))
    }
}

/// A layer that may be left out.
impl<X, L: Layer<X, Output = X>> Layer<X> for Option<L> {
    type Output = X;

    fn forward(&self, x: X) -> ModelResult<X> {
        match self {
            Some(layer) => layer.forward(x),
            None => Ok(x),
        }
    }
}

impl<X, L: Layer<X> + ?Sized> Layer<X> for Box<L> {
    type Output = L::Output;

    fn forward(&self, x: X) -> ModelResult<Self::Output> {
        (**self).forward(x)
    }
}
