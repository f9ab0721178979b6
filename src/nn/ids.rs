//! Numbers of words and other entries of a vocabulary, on their way into an embedding.

use dfdx::shapes::Shape;
use dfdx::tensor::NoneTape;

use crate::{ModelError, ModelResult};

/// Ids in a shape, usually `(batch, length)`: what an [`Embedding`](crate::nn::Embedding) takes. Ids live on the host, since
/// they are checked against the vocabulary. With a [tape](Self::traced) the network behind the embedding is trained.
#[derive(Debug, Clone)]
pub struct Ids<S: Shape, T = NoneTape> {
    pub(crate) values: Vec<usize>,
    pub(crate) shape: S,
    pub(crate) tape: T,
}

impl<S: Shape> Ids<S> {
    /// Ids in row-major order.
    ///
    /// # Errors
    /// When there are more or fewer than the shape holds.
    pub fn new(values: impl Into<Vec<usize>>, shape: S) -> ModelResult<Self> {
        let values = values.into();
        if values.len() != shape.num_elements() {
            return Err(ModelError::msg(format!(
                "ids: found {} of them, expected {} for the shape {:?}",
                values.len(),
                shape.num_elements(),
                shape.concrete()
            )));
        }
        Ok(Self { values, shape, tape: NoneTape })
    }

    /// The same ids with the tape of a training step.
    pub fn traced<T>(self, tape: T) -> Ids<S, T> {
        Ids { values: self.values, shape: self.shape, tape }
    }
}

impl<S: Shape, T> Ids<S, T> {
    /// The ids in row-major order.
    pub fn values(&self) -> &[usize] {
        &self.values
    }

    /// Their shape.
    pub fn shape(&self) -> &S {
        &self.shape
    }
}
