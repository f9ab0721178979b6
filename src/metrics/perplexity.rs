//! How surprised a language model is, as a number of choices.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::examples::{as_many_of_each, can_be_summed};
use crate::metrics::{LogLoss, Mean, Metric};
use crate::nn::Tensor;
use crate::{Device, ModelResult};

/// `exp` of the mean loss per token (in nats): for language models, as if each token were a choice among that many. The mean
/// is over all tokens, not over sentences or batches.
///
/// ```
/// use elistimator::metrics::{Metric, Perplexity};
///
/// let perplexity = Perplexity::from_losses(&[8_f32.ln(), 2_f32.ln()]).unwrap();
/// assert!((perplexity.value() - 4.0).abs() < 1e-6);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Perplexity(Mean);

impl Perplexity {
    /// From logits `(tokens, vocabulary)` or `(batch, length, vocabulary)` and the token that came; the softmax is taken here,
    /// in double precision. Where padding is among the tokens, take [`of_sequences`](Self::of_sequences).
    ///
    /// # Errors
    /// When the numbers of rows and tokens differ, or a token is not in the vocabulary.
    pub fn of<S: Shape, D: Device, T>(logits: &Tensor<S, D, T>, tokens: &[usize]) -> ModelResult<Self> {
        LogLoss::of(logits, tokens).map(Self::from)
    }

    /// From logits `(batch, length, vocabulary)` of padded sequences and the tokens that came, `(batch, length)` in row-major
    /// order: what comes after a sequence's end does not count.
    ///
    /// # Errors
    /// Those of [`of`](Self::of), and when a length is longer than the padded one.
    pub fn of_sequences<S: Shape, D: Device, T>(
        logits: &Tensor<S, D, T>,
        tokens: &[usize],
        lengths: &[usize],
    ) -> ModelResult<Self> {
        LogLoss::of_sequences(logits, tokens, lengths).map(Self::from)
    }

    /// From a loss per token, `-ln p(token)`.
    ///
    /// # Errors
    /// None; a `Result` as from all constructors.
    pub fn from_losses(losses: &[f32]) -> ModelResult<Self> {
        Self::weighted(losses, &vec![1.0; losses.len()])
    }

    /// From losses with weights: 0 for padding; or mean losses of sentences with their numbers of tokens.
    ///
    /// # Errors
    /// When the numbers of losses and weights differ, or a weight is negative or not finite.
    pub fn weighted(losses: &[f32], weights: &[f64]) -> ModelResult<Self> {
        as_many_of_each("perplexity", &[("losses", losses.len()), ("weights", weights.len())])?;
        can_be_summed("perplexity", weights)?;
        Ok(Self(Mean::weighted(losses.iter().map(|loss| f64::from(*loss)).zip(weights.iter().copied()))))
    }
}

impl From<LogLoss> for Perplexity {
    fn from(loss: LogLoss) -> Self {
        Self(loss.into_mean())
    }
}

impl Metric for Perplexity {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    fn value(&self) -> f64 {
        self.0.value().exp()
    }
}
