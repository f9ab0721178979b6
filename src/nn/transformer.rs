//! The transformer's encoder block.

use std::marker::PhantomData;

use dfdx::shapes::Dim;
use dfdx::tensor::Tape;
use dfdx::tensor_ops::TryAdd;

use crate::nn::attention::over_sequences;
use crate::nn::{
    Activation, Dropout, Layer, LayerNorm, Linear, MultiHeadAttention, Network, Tensor, Visitor, VisitorMut,
};
use crate::{Device, ModelResult};

/// Where a transformer block normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum NormPosition {
    /// After each residual sum, as in the original transformer and BERT.
    #[default]
    Post,
    /// Before attention and feed-forward, as in GPT-2: trains without a warm-up.
    Pre,
}

/// One block of a transformer's encoder (Vaswani et al. 2017): attention and a feed-forward network, each with a residual
/// sum and normalisation. `(batch, length, size)` to the same; with lengths, keys after a sequence's end are not seen, and
/// what stands there in the output means nothing.
///
/// ```
/// use elistimator::nn::{NormPosition, TransformerBlock};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let block = TransformerBlock::builder(64, 4).hidden(256).norm(NormPosition::Pre).dropout(0.1).build(&device)?;
/// # drop(block);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TransformerBlock<D: Device, E: Dim = usize> {
    /// The attention.
    pub attention: MultiHeadAttention<D, E>,
    /// The normalisation that belongs to the attention.
    pub norm1: LayerNorm<D, E>,
    /// The first layer of the feed-forward network, with its activation.
    pub linear1: Linear<D, E, usize>,
    /// The second layer of the feed-forward network.
    pub linear2: Linear<D, usize, E>,
    /// The normalisation that belongs to the feed-forward network.
    pub norm2: LayerNorm<D, E>,
    dropout1: Dropout,
    dropout: Dropout,
    dropout2: Dropout,
    norm: NormPosition,
}

/// The options of a [`TransformerBlock`] before it is built.
#[derive(Debug, Clone)]
pub struct TransformerBlockBuilder<D, E: Dim> {
    size: E,
    heads: usize,
    hidden: usize,
    activation: Activation,
    norm: NormPosition,
    dropout: f64,
    epsilon: f32,
    causal: bool,
    device: PhantomData<fn(&D)>,
}

impl<D: Device, E: Dim> TransformerBlock<D, E> {
    /// A block of `size` values with `heads` heads, a feed-forward network of four times the size with exact GELU,
    /// normalisation after the sums, and no dropout.
    pub fn builder(size: E, heads: usize) -> TransformerBlockBuilder<D, E> {
        TransformerBlockBuilder {
            size,
            heads,
            hidden: size.size().saturating_mul(4),
            activation: Activation::Gelu,
            norm: NormPosition::Post,
            dropout: 0.0,
            epsilon: 1e-5,
            causal: false,
            device: PhantomData,
        }
    }

    fn apply<B: Dim, L: Dim, T: Tape<f32, D>>(
        &self,
        x: Tensor<(B, L, E), D, T>,
        lengths: Option<&[usize]>,
    ) -> ModelResult<Tensor<(B, L, E), D, T>> {
        let attention = |x| self.dropout1.forward(self.attention.attend_to_itself(x, lengths)?);
        let feed_forward = |x: Tensor<(B, L, E), D, T>| {
            let hidden = self.dropout.forward(self.linear1.forward(x)?)?;
            self.dropout2.forward(self.linear2.forward(hidden)?)
        };
        match self.norm {
            NormPosition::Post => {
                let x = self.norm1.forward(residual(x, attention)?)?;
                self.norm2.forward(residual(x, feed_forward)?)
            }
            NormPosition::Pre => {
                let x = residual(x, |x| attention(self.norm1.forward(x)?))?;
                residual(x, |x| feed_forward(self.norm2.forward(x)?))
            }
        }
    }
}

/// `x + f(x)`.
fn residual<B: Dim, L: Dim, E: Dim, D: Device, T: Tape<f32, D>>(
    x: Tensor<(B, L, E), D, T>,
    f: impl FnOnce(Tensor<(B, L, E), D, T>) -> ModelResult<Tensor<(B, L, E), D, T>>,
) -> ModelResult<Tensor<(B, L, E), D, T>> {
    let kept = x.retaped::<T>();
    Ok(f(x)?.try_add(kept)?)
}

impl<D: Device, E: Dim> TransformerBlockBuilder<D, E> {
    /// The size of the feed-forward network's middle; four times the size by default.
    #[must_use]
    pub fn hidden(mut self, hidden: usize) -> Self {
        self.hidden = hidden;
        self
    }

    /// The feed-forward network's activation; exact GELU by default.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// Where to normalise; after the sums by default.
    #[must_use]
    pub fn norm(mut self, norm: NormPosition) -> Self {
        self.norm = norm;
        self
    }

    /// The probability of dropout on attention weights, on both branches and inside the feed-forward network; 0 by default.
    #[must_use]
    pub fn dropout(mut self, p: f64) -> Self {
        self.dropout = p;
        self
    }

    /// What the normalisations add to the variance; 1e-5 by default.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f32) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Lets each step see itself and what came before it only.
    #[must_use]
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// Makes the block.
    ///
    /// # Errors
    /// When a size is 0, the heads do not divide the size, or memory runs out.
    pub fn build(self, device: &D) -> ModelResult<TransformerBlock<D, E>> {
        let mut attention = MultiHeadAttention::new(device, self.size, self.heads)?.dropout(self.dropout);
        attention.causal = self.causal;
        Ok(TransformerBlock {
            attention,
            norm1: LayerNorm::new(device, self.size)?.epsilon(self.epsilon),
            linear1: Linear::builder(self.size, self.hidden).activation(self.activation).build(device)?,
            linear2: Linear::new(device, self.hidden, self.size)?,
            norm2: LayerNorm::new(device, self.size)?.epsilon(self.epsilon),
            dropout1: Dropout::new(self.dropout),
            dropout: Dropout::new(self.dropout),
            dropout2: Dropout::new(self.dropout),
            norm: self.norm,
        })
    }
}

impl<D: Device, E: Dim> Network<D> for TransformerBlock<D, E> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.network("attention", &self.attention)?;
        visitor.network("norm1", &self.norm1)?;
        visitor.network("linear1", &self.linear1)?;
        visitor.network("linear2", &self.linear2)?;
        visitor.network("norm2", &self.norm2)?;
        visitor.network("dropout1", &self.dropout1)?;
        visitor.network("dropout", &self.dropout)?;
        visitor.network("dropout2", &self.dropout2)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.network("attention", &mut self.attention)?;
        visitor.network("norm1", &mut self.norm1)?;
        visitor.network("linear1", &mut self.linear1)?;
        visitor.network("linear2", &mut self.linear2)?;
        visitor.network("norm2", &mut self.norm2)?;
        visitor.network("dropout1", &mut self.dropout1)?;
        visitor.network("dropout", &mut self.dropout)?;
        visitor.network("dropout2", &mut self.dropout2)
    }
}

over_sequences!(TransformerBlock, apply);
