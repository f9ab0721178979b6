//! Dropout.

use dfdx::shapes::Shape;
use dfdx::tensor::Tape;

use crate::nn::{Layer, Network, RandomStream, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// Sets each value to zero with probability `p` while training, and divides the others by `1 - p` (Srivastava et al. 2014,
/// inverted); does nothing in evaluation. Which values fall is a function of the run's seed, the layer's name, the number
/// of the call and the index, so a resumed run drops what the unbroken one would have dropped.
#[derive(Debug, Default)]
pub struct Dropout {
    p: f64,
    random: RandomStream,
}

impl Dropout {
    /// Drops with probability `p`, which must be at least 0 and below 1: anything else is an error of the forward pass.
    pub fn new(p: f64) -> Self {
        Self { p, random: RandomStream::new() }
    }

    /// The probability.
    pub fn probability(&self) -> f64 {
        self.p
    }
}

impl<S: Shape, D: Device, T: Tape<f32, D>> Layer<Tensor<S, D, T>> for Dropout {
    type Output = Tensor<S, D, T>;

    fn forward(&self, x: Tensor<S, D, T>) -> ModelResult<Self::Output> {
        if !(0.0..1.0).contains(&self.p) {
            let message = format!("dropout: found the probability {}, expected at least 0 and below 1", self.p);
            return Err(ModelError::msg(message));
        }
        if !T::OWNS_TAPE || self.p == 0.0 {
            return Ok(x);
        }
        D::dropout(x, self.random.next_call(), threshold(self.p), (1.0 / (1.0 - self.p)) as f32)
    }
}

/// A value falls when its 32 random bits are below this.
fn threshold(p: f64) -> u32 {
    (p * 4_294_967_296.0) as u32
}

impl<D: Device> Network<D> for Dropout {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.random("random", &self.random)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.random("random", &self.random)
    }
}
