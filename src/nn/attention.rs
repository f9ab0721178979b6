//! Multi-head attention.

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::{PutTape, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::backend::Attention;
use crate::nn::dropout::draw;
use crate::nn::mask::check_lengths;
use crate::nn::{Layer, Linear, Network, RandomStream, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// Scaled dot-product attention in several heads (Vaswani et al. 2017) over padded sequences `(batch, length, size)`; the
/// output has the queries' shape. Keys after a sequence's end are not seen; where there is no key at all, heads give zeros.
///
/// ```
/// use elistimator::nn::{Layer, MultiHeadAttention, Tensor};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let attention = MultiHeadAttention::new(&device, 8, 2)?;
/// let x: Tensor<(usize, usize, usize), Cpu> = dfdx::tensor::TensorFromVec::tensor_from_vec(&device, vec![0.1; 48], (2, 3, 8));
/// let lengths: &[usize] = &[3, 1];
/// let y = attention.forward((x, lengths))?;
/// # drop(y);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MultiHeadAttention<D: Device, E: Dim = usize> {
    /// Makes the queries.
    pub query: Linear<D, E, E>,
    /// Makes the keys.
    pub key: Linear<D, E, E>,
    /// Makes the values.
    pub value: Linear<D, E, E>,
    /// Mixes the heads.
    pub output: Linear<D, E, E>,
    heads: usize,
    pub(crate) causal: bool,
    dropout: f64,
    random: RandomStream,
}

impl<D: Device, E: Dim> MultiHeadAttention<D, E> {
    /// Attention of `size` values in `heads` heads of equal size.
    ///
    /// # Errors
    /// When the heads do not divide the size, or memory runs out.
    pub fn new(device: &D, size: E, heads: usize) -> ModelResult<Self> {
        if heads == 0 || !size.size().is_multiple_of(heads) {
            return Err(ModelError::msg(format!(
                "attention: found {heads} heads, expected a divisor of the size {}",
                size.size()
            )));
        }
        let linear = || Linear::new(device, size, size);
        Ok(Self {
            query: linear()?,
            key: linear()?,
            value: linear()?,
            output: linear()?,
            heads,
            causal: false,
            dropout: 0.0,
            random: RandomStream::new(),
        })
    }

    /// Lets each step see itself and what came before it only.
    #[must_use]
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// Drops each attention weight with this probability while training.
    #[must_use]
    pub fn dropout(mut self, p: f64) -> Self {
        self.dropout = p;
        self
    }

    /// Attends from `x` to another sequence, as a decoder does to the encoder's output. `lengths` are those of `memory`.
    ///
    /// # Errors
    /// When the batches or sizes differ, or a length is impossible.
    pub fn attend<B: Dim, L: Dim, M: Dim, T: Tape<f32, D>>(
        &self,
        x: Tensor<(B, L, E), D, T>,
        memory: Tensor<(B, M, E), D, T>,
        lengths: Option<&[usize]>,
    ) -> ModelResult<Tensor<(B, L, E), D, T>> {
        let (memory, tape) = memory.split_tape();
        let keys = self.key.forward(memory.retaped::<T>())?;
        let values = self.value.forward(memory.put_tape(tape))?;
        let queries = self.query.forward(x)?;
        self.mix(queries, keys, values, lengths)
    }

    fn mix<B: Dim, L: Dim, M: Dim, T: Tape<f32, D>>(
        &self,
        queries: Tensor<(B, L, E), D, T>,
        keys: Tensor<(B, M, E), D, T>,
        values: Tensor<(B, M, E), D, T>,
        lengths: Option<&[usize]>,
    ) -> ModelResult<Tensor<(B, L, E), D, T>> {
        let shape = *queries.shape();
        let (batch, length, size) = (shape.0.size(), shape.1.size(), shape.2.size());
        let key_length = keys.shape().1.size();
        if keys.shape().0.size() != batch {
            return Err(ModelError::msg(format!(
                "attention: found a batch of {} keys, expected the {batch} of the queries",
                keys.shape().0.size()
            )));
        }
        if let Some(lengths) = lengths {
            check_lengths("attention", lengths, batch, key_length)?;
        }
        let attention = Attention {
            heads: self.heads,
            lengths,
            causal: self.causal,
            dropout: draw::<T, D>(self.dropout, &self.random)?,
        };
        let keys = keys.try_reshape_like(&(batch, key_length, size))?;
        let values = values.try_reshape_like(&(batch, key_length, size))?;
        let mixed = D::attention(queries.try_reshape_like(&(batch, length, size))?, keys, values, &attention)?;
        self.output.forward(mixed.try_reshape_like(&shape)?)
    }

    pub(crate) fn attend_to_itself<B: Dim, L: Dim, T: Tape<f32, D>>(
        &self,
        x: Tensor<(B, L, E), D, T>,
        lengths: Option<&[usize]>,
    ) -> ModelResult<Tensor<(B, L, E), D, T>> {
        let (x, tape) = x.split_tape();
        let keys = self.key.forward(x.retaped::<T>())?;
        let values = self.value.forward(x.retaped::<T>())?;
        let queries = self.query.forward(x.put_tape(tape))?;
        self.mix(queries, keys, values, lengths)
    }
}

impl<D: Device, E: Dim> Network<D> for MultiHeadAttention<D, E> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.network("query", &self.query)?;
        visitor.network("key", &self.key)?;
        visitor.network("value", &self.value)?;
        visitor.network("output", &self.output)?;
        visitor.random("random", &self.random)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.network("query", &mut self.query)?;
        visitor.network("key", &mut self.key)?;
        visitor.network("value", &mut self.value)?;
        visitor.network("output", &mut self.output)?;
        visitor.random("random", &self.random)
    }
}

/// Both layers take sequences that have the full length, or padded ones with their lengths.
macro_rules! over_sequences {
    ($Layer:ident, $apply:ident) => {
        impl<B: Dim, L: Dim, E: Dim, D: Device, T: Tape<f32, D>> Layer<Tensor<(B, L, E), D, T>> for $Layer<D, E> {
            type Output = Tensor<(B, L, E), D, T>;

            fn forward(&self, x: Tensor<(B, L, E), D, T>) -> ModelResult<Self::Output> {
                self.$apply(x, None)
            }
        }

        impl<B, L, E, D, T> Layer<(Tensor<(B, L, E), D, T>, &[usize])> for $Layer<D, E>
        where
            B: Dim,
            L: Dim,
            E: Dim,
            D: Device,
            T: Tape<f32, D>,
        {
            type Output = Tensor<(B, L, E), D, T>;

            fn forward(&self, (x, lengths): (Tensor<(B, L, E), D, T>, &[usize])) -> ModelResult<Self::Output> {
                self.$apply(x, Some(lengths))
            }
        }
    };
}

pub(crate) use over_sequences;

over_sequences!(MultiHeadAttention, attend_to_itself);
