//! Activation functions, inside layers and as layers.

use dfdx::shapes::Shape;
use dfdx::tensor::Tape;
use serde::{Deserialize, Serialize};

use crate::nn::{Layer, Network, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelResult};

/// A function applied to every value. Give it to a layer's builder, which computes it together with the layer, or use it
/// as a layer of its own: `(Linear::new(..)?, Activation::Tanh)`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Activation {
    /// The value itself.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x` above zero, else the slope times `x`.
    LeakyRelu(f32),
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `x * Φ(x)` with the exact normal distribution function (Hendrycks and Gimpel 2016): what BERT uses.
    Gelu,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
}

impl Activation {
    /// Whether the derivative can be had from the output alone, so that the input need not be kept.
    pub(crate) fn is_known_from_output(self) -> bool {
        match self {
            Self::Identity | Self::Relu | Self::Sigmoid | Self::Tanh => true,
            Self::LeakyRelu(slope) => slope > 0.0,
            Self::Gelu | Self::Silu => false,
        }
    }
}

impl<S: Shape, D: Device, T: Tape<f32, D>> Layer<Tensor<S, D, T>> for Activation {
    type Output = Tensor<S, D, T>;

    fn forward(&self, x: Tensor<S, D, T>) -> ModelResult<Self::Output> {
        D::activation(x, *self)
    }
}

impl<D: Device> Network<D> for Activation {
    fn visit(&self, _: &mut Visitor<'_, D>) -> ModelResult<()> {
        Ok(())
    }

    fn visit_mut(&mut self, _: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        Ok(())
    }
}
