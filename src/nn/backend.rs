//! The operations that a device brings beyond dfdx's own. Not public: it seals [`crate::Device`].

use dfdx::shapes::{Axis, Shape};
use dfdx::tensor::{Cpu, NoneTape, Tape};
use dfdx::tensor_ops::SumTo;

use crate::nn::window::WindowOver;
use crate::nn::{Activation, Parameter, Tensor, cpu, reference};
use crate::{Device, ModelResult};

/// `(rows, values)`.
pub type Rows<D, T = NoneTape> = Tensor<(usize, usize), D, T>;
/// `(batch, length, values)`.
pub type Sequences<D, T = NoneTape> = Tensor<(usize, usize, usize), D, T>;
/// `(batch, channels, height, width)`.
pub type Images<D, T = NoneTape> = Tensor<(usize, usize, usize, usize), D, T>;

/// A convolution whose sizes are known and have been checked.
#[derive(Debug, Clone, Copy)]
pub struct Convolution {
    /// The sliding window.
    pub window: WindowOver,
    /// Channels of the output.
    pub out_channels: usize,
    /// Groups of channels that do not see each other; they divide the channels on both sides.
    pub groups: usize,
    /// Whether the input's gradient is wanted.
    pub input_gradient: bool,
}

/// How a pool makes one value of a window's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The largest; the first of equal ones receives the gradient. Padding is never the largest.
    Max,
    /// The mean of those that are no padding.
    Average,
}

/// What a cross-entropy compares the logits with. The labels have been checked against the number of classes.
#[derive(Debug)]
pub enum Targets<'a, D: Device> {
    /// One class per row: the target of class `c` is `class_weights[c] * ((1 - smoothing) * [c is the label] + smoothing / K)`.
    Sparse {
        /// A class per row.
        labels: &'a [usize],
        /// The share spread evenly over all classes.
        smoothing: f32,
        /// A factor per class.
        class_weights: Option<&'a [f32]>,
    },
    /// A target per row and class.
    Dense(&'a Tensor<(usize, usize), D>),
}

/// The kind of a recurrent layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Gates input `i`, forget `f`, cell `g`, output `o`: `c' = σ(f) c + σ(i) tanh(g)`, `h' = σ(o) tanh(c')`.
    Lstm,
    /// Gates reset `r`, update `z`, new `n`: `n = tanh(x_n + σ(r) (h_n + bias_hn))`, `h' = (1 - σ(z)) n + σ(z) h`.
    Gru,
}

impl Cell {
    /// How many gates there are.
    pub fn gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::Gru => 3,
        }
    }
}

/// One direction of a recurrent layer. Gates are `x · weight_ihᵀ + h · weight_hhᵀ + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Direction<'a, D: Device> {
    /// `(gates * hidden, inputs)`.
    pub weight_ih: &'a Parameter<D>,
    /// `(gates * hidden, hidden)`.
    pub weight_hh: &'a Parameter<D>,
    /// `(gates * hidden)`.
    pub bias: &'a Parameter<D>,
    /// `(hidden)`, of a GRU.
    pub bias_hn: Option<&'a Parameter<D>>,
    /// Whether it runs from each sequence's end to its start.
    pub backward: bool,
}

/// What is known of a recurrent layer's run besides its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Recurrence<'a> {
    /// The kind of layer.
    pub cell: Cell,
    /// Units per direction.
    pub hidden: usize,
    /// Steps of each sequence, at most the padded length.
    pub lengths: &'a [usize],
    /// Whether the input's gradient is wanted.
    pub input_gradient: bool,
}

/// `(batch, hidden)`, and the cell of an LSTM.
pub type State<D> = (Rows<D>, Option<Rows<D>>);

/// What a recurrent layer gives.
#[derive(Debug)]
pub struct RecurrentRun<D: Device, T> {
    /// `(batch, length, directions * hidden)`, zero after a sequence's end.
    pub outputs: Sequences<D, T>,
    /// The last state of each direction. The tape of `outputs` covers them.
    pub states: Vec<State<D>>,
}

/// What attention knows besides its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// How many heads share the values; they divide the size.
    pub heads: usize,
    /// How many keys of each sequence are real.
    pub lengths: Option<&'a [usize]>,
    /// Whether query `i` sees no key after `i`.
    pub causal: bool,
    /// Key, threshold and factor of the dropout of weights, as in [`Backend::dropout`], with indices over `(batch, heads,
    /// queries, keys)`.
    pub dropout: Option<(u64, u32, f32)>,
}

/// The mean and variance of each channel.
pub type Statistics<D> = (Tensor<(usize,), D>, Tensor<(usize,), D>);

/// What batch normalisation gives: the output, and the mean and (biased) variance of each channel that it used.
pub type Normalized<D, T> = (Sequences<D, T>, Tensor<(usize,), D>, Tensor<(usize,), D>);

/// The tensors of a conditional random field: transitions `(from, to)`, and the scores of starting and ending at a tag.
#[derive(Debug, Clone, Copy)]
pub struct Transitions<'a, D: Device> {
    /// `(tags, tags)`: from a tag to the next.
    pub between: &'a Parameter<D>,
    /// `(tags)`.
    pub start: &'a Parameter<D>,
    /// `(tags)`.
    pub end: &'a Parameter<D>,
}

/// What connectionist temporal classification compares logits with.
#[derive(Debug, Clone, Copy)]
pub struct Labellings<'a> {
    /// The labels of each example, none of them the blank.
    pub targets: &'a [&'a [usize]],
    /// Steps of each example, at most the padded length.
    pub lengths: &'a [usize],
    /// The class that stands for no label.
    pub blank: usize,
    /// A factor of each example's loss.
    pub weights: &'a [f32],
    /// Whether an infinite loss counts as 0.
    pub zero_infinity: bool,
}

/// dfdx's device with our fused operations; the bodies given here are composed of stock operations and hold on every
/// device, so that they are the oracle of the faster ones. Sizes have been checked by the layers.
pub trait Backend:
    // No `Send`: dfdx's handle of a CUDA device holds the raw pointer of a stream.
    dfdx::tensor_ops::Device<f32> + dfdx::tensor::HasErr<Err: Send + Sync + 'static> + 'static
{
    /// Whether reading a value from the device costs nothing.
    const READS_ARE_FREE: bool = false;

    /// The activation of every value.
    fn activation<S: Shape, T: Tape<f32, Self>>(
        x: Tensor<S, Self, T>,
        activation: Activation,
    ) -> ModelResult<Tensor<S, Self, T>>
    where
        Self: Device,
    {
        reference::activation(x, activation)
    }

    /// `activation(x · weightᵀ + bias)` of `(rows, inputs)` with a weight of `(outputs, inputs)`.
    fn linear<T: Tape<f32, Self>>(
        x: Rows<Self, T>,
        weight: &Parameter<Self>,
        bias: Option<&Parameter<Self>>,
        activation: Activation,
        input_gradient: bool,
    ) -> ModelResult<Rows<Self, T>>
    where
        Self: Device,
    {
        let _ = input_gradient;
        reference::linear(x, weight, bias, activation)
    }

    /// Zero where [`RandomStream::bits`](crate::nn::RandomStream::bits)`(key, index) < threshold`, else `scale * x`.
    fn dropout<S: Shape, T: Tape<f32, Self>>(
        x: Tensor<S, Self, T>,
        key: u64,
        threshold: u32,
        scale: f32,
    ) -> ModelResult<Tensor<S, Self, T>>
    where
        Self: Device,
    {
        reference::dropout(x, key, threshold, scale)
    }

    /// `activation(convolution + bias)` of `(batch, channels, height, width)`.
    fn conv2d<T: Tape<f32, Self>>(
        x: Images<Self, T>,
        weight: &Parameter<Self>,
        bias: Option<&Parameter<Self>>,
        convolution: &Convolution,
        activation: Activation,
    ) -> ModelResult<Images<Self, T>>
    where
        Self: Device,
    {
        reference::conv2d(x, weight, bias, convolution, activation)
    }

    /// `max_pool(relu(convolution + bias))` with pool windows that do not overlap and have at most 255 cells.
    fn conv_block<T: Tape<f32, Self>>(
        x: Images<Self, T>,
        weight: &Parameter<Self>,
        bias: Option<&Parameter<Self>>,
        convolution: &Convolution,
        pool: (usize, usize),
    ) -> ModelResult<Images<Self, T>>
    where
        Self: Device,
    {
        reference::conv_block(x, weight, bias, convolution, pool)
    }

    /// Pooling of every channel of `(batch, channels, height, width)`.
    fn pool2d<T: Tape<f32, Self>>(
        x: Images<Self, T>,
        window: &WindowOver,
        pooling: Pooling,
    ) -> ModelResult<Images<Self, T>>
    where
        Self: Device,
    {
        reference::pool2d(x, window, pooling)
    }

    /// `-row_weight * Σ_c target_c * log_softmax(logits)_c` for each row.
    fn cross_entropy<T: Tape<f32, Self>>(
        logits: Rows<Self, T>,
        targets: Targets<'_, Self>,
        row_weights: &[f32],
    ) -> ModelResult<Tensor<(usize,), Self, T>>
    where
        Self: Device,
    {
        reference::cross_entropy(logits, targets, row_weights)
    }

    /// The sum of all values, in the same order every time.
    fn sum<T: Tape<f32, Self>>(x: Tensor<(usize,), Self, T>) -> ModelResult<Tensor<(), Self, T>>
    where
        Self: Device,
    {
        Ok(x.try_sum()?)
    }

    /// The sum of each row's values, in the same order every time.
    fn row_sums<T: Tape<f32, Self>>(x: Rows<Self, T>) -> ModelResult<Tensor<(usize,), Self, T>>
    where
        Self: Device,
    {
        Ok(x.try_sum::<(usize,), Axis<1>>()?)
    }

    /// The sums over the middle axis, in the same order every time.
    fn middle_sums<T: Tape<f32, Self>>(x: Sequences<Self, T>) -> ModelResult<Rows<Self, T>>
    where
        Self: Device,
    {
        Ok(x.try_sum::<(usize, usize), Axis<1>>()?)
    }

    /// The rows of a table `(entries, size)`; that of the padding receives no gradient. Ids have been checked.
    fn embedding<T: Tape<f32, Self>>(
        weight: &Parameter<Self>,
        ids: Vec<usize>,
        padding: Option<usize>,
        tape: T,
    ) -> ModelResult<Rows<Self, T>>
    where
        Self: Device,
    {
        reference::embedding(weight, ids, padding, tape)
    }

    /// Sums of rows of a table, each times its factor: `sizes` tells how many ids go into each sum.
    fn embedding_bag<T: Tape<f32, Self>>(
        weight: &Parameter<Self>,
        ids: Vec<usize>,
        sizes: Vec<usize>,
        factors: Vec<f32>,
        tape: T,
    ) -> ModelResult<Rows<Self, T>>
    where
        Self: Device,
    {
        reference::embedding_bag(weight, ids, sizes, factors, tape)
    }

    /// A recurrent layer in one or two directions over `(batch, length, inputs)`. The initial states are those of the
    /// directions, or none.
    fn recurrent<T: Tape<f32, Self>>(
        x: Sequences<Self, T>,
        directions: &[Direction<'_, Self>],
        initial: Vec<State<Self>>,
        recurrence: &Recurrence<'_>,
    ) -> ModelResult<RecurrentRun<Self, T>>
    where
        Self: Device,
    {
        reference::recurrent(x, directions, initial, recurrence)
    }

    /// Rows with mean 0 and variance 1, times `weight`, plus `bias`.
    fn layer_norm<T: Tape<f32, Self>>(
        x: Rows<Self, T>,
        weight: &Parameter<Self>,
        bias: &Parameter<Self>,
        epsilon: f32,
    ) -> ModelResult<Rows<Self, T>>
    where
        Self: Device,
    {
        reference::layer_norm(x, weight, bias, epsilon)
    }

    /// Channels of `(batch, channels, pixels)` with mean 0 and variance 1, times `weight`, plus `bias`; with given mean and
    /// variance or those of the batch.
    fn batch_norm<T: Tape<f32, Self>>(
        x: Sequences<Self, T>,
        weight: &Parameter<Self>,
        bias: &Parameter<Self>,
        epsilon: f32,
        statistics: Option<Statistics<Self>>,
    ) -> ModelResult<Normalized<Self, T>>
    where
        Self: Device,
    {
        reference::batch_norm(x, weight, bias, epsilon, statistics)
    }

    /// `softmax(queries · keysᵀ / sqrt(size / heads)) · values`, head by head; zeros where no key is seen.
    fn attention<T: Tape<f32, Self>>(
        queries: Sequences<Self, T>,
        keys: Sequences<Self, T>,
        values: Sequences<Self, T>,
        attention: &Attention<'_>,
    ) -> ModelResult<Sequences<Self, T>>
    where
        Self: Device,
    {
        reference::attention(queries, keys, values, attention)
    }

    /// The negative log-likelihood of each sequence's tags, from emissions `(batch, length, tags)`; 0 for length 0. Tags and
    /// lengths have been checked.
    fn crf<T: Tape<f32, Self>>(
        emissions: Sequences<Self, T>,
        transitions: Transitions<'_, Self>,
        tags: &[usize],
        lengths: &[usize],
    ) -> ModelResult<Tensor<(usize,), Self, T>>
    where
        Self: Device,
    {
        reference::crf(emissions, transitions, tags, lengths)
    }

    /// `weight * -ln p(target | logits)` of each example, over all ways to spread its target over its steps. What is known
    /// besides the logits `(batch, length, classes)` has been checked.
    fn ctc<T: Tape<f32, Self>>(
        logits: Sequences<Self, T>,
        labellings: &Labellings<'_>,
    ) -> ModelResult<Tensor<(usize,), Self, T>>
    where
        Self: Device;

    /// Rows one after another: parts `(rows, values)` with the same number of rows, at least one.
    fn concatenate<T: Tape<f32, Self>>(parts: Vec<Rows<Self, T>>) -> ModelResult<Rows<Self, T>>
    where
        Self: Device,
    {
        reference::concatenate(parts)
    }
}

impl Backend for Cpu {
    const READS_ARE_FREE: bool = true;

    fn sum<T: Tape<f32, Self>>(x: Tensor<(usize,), Self, T>) -> ModelResult<Tensor<(), Self, T>> {
        cpu::sum(x)
    }

    fn row_sums<T: Tape<f32, Self>>(x: Rows<Self, T>) -> ModelResult<Tensor<(usize,), Self, T>> {
        cpu::row_sums(x)
    }

    fn ctc<T: Tape<f32, Self>>(
        logits: Sequences<Self, T>,
        labellings: &Labellings<'_>,
    ) -> ModelResult<Tensor<(usize,), Self, T>> {
        cpu::ctc(logits, labellings)
    }

    fn concatenate<T: Tape<f32, Self>>(parts: Vec<Rows<Self, T>>) -> ModelResult<Rows<Self, T>> {
        cpu::concatenate(parts)
    }

    fn activation<S: Shape, T: Tape<f32, Self>>(
        x: Tensor<S, Self, T>,
        activation: Activation,
    ) -> ModelResult<Tensor<S, Self, T>> {
        cpu::activation(x, activation)
    }

    fn linear<T: Tape<f32, Self>>(
        x: Rows<Self, T>,
        weight: &Parameter<Self>,
        bias: Option<&Parameter<Self>>,
        activation: Activation,
        input_gradient: bool,
    ) -> ModelResult<Rows<Self, T>> {
        cpu::linear(x, weight, bias, activation, input_gradient)
    }

    fn dropout<S: Shape, T: Tape<f32, Self>>(
        x: Tensor<S, Self, T>,
        key: u64,
        threshold: u32,
        scale: f32,
    ) -> ModelResult<Tensor<S, Self, T>> {
        cpu::dropout(x, key, threshold, scale)
    }

    fn conv2d<T: Tape<f32, Self>>(
        x: Images<Self, T>,
        weight: &Parameter<Self>,
        bias: Option<&Parameter<Self>>,
        convolution: &Convolution,
        activation: Activation,
    ) -> ModelResult<Images<Self, T>> {
        cpu::conv2d(x, weight, bias, convolution, activation)
    }

    fn conv_block<T: Tape<f32, Self>>(
        x: Images<Self, T>,
        weight: &Parameter<Self>,
        bias: Option<&Parameter<Self>>,
        convolution: &Convolution,
        pool: (usize, usize),
    ) -> ModelResult<Images<Self, T>> {
        cpu::conv_block(x, weight, bias, convolution, pool)
    }

    fn pool2d<T: Tape<f32, Self>>(
        x: Images<Self, T>,
        window: &WindowOver,
        pooling: Pooling,
    ) -> ModelResult<Images<Self, T>> {
        cpu::pool2d(x, window, pooling)
    }

    fn cross_entropy<T: Tape<f32, Self>>(
        logits: Rows<Self, T>,
        targets: Targets<'_, Self>,
        row_weights: &[f32],
    ) -> ModelResult<Tensor<(usize,), Self, T>> {
        cpu::cross_entropy(logits, targets, row_weights)
    }

    fn embedding<T: Tape<f32, Self>>(
        weight: &Parameter<Self>,
        ids: Vec<usize>,
        padding: Option<usize>,
        tape: T,
    ) -> ModelResult<Rows<Self, T>> {
        cpu::embedding(weight, ids, padding, tape)
    }

    fn embedding_bag<T: Tape<f32, Self>>(
        weight: &Parameter<Self>,
        ids: Vec<usize>,
        sizes: Vec<usize>,
        factors: Vec<f32>,
        tape: T,
    ) -> ModelResult<Rows<Self, T>> {
        cpu::embedding_bag(weight, ids, sizes, factors, tape)
    }

    fn recurrent<T: Tape<f32, Self>>(
        x: Sequences<Self, T>,
        directions: &[Direction<'_, Self>],
        initial: Vec<State<Self>>,
        recurrence: &Recurrence<'_>,
    ) -> ModelResult<RecurrentRun<Self, T>> {
        cpu::recurrent(x, directions, initial, recurrence)
    }

    fn layer_norm<T: Tape<f32, Self>>(
        x: Rows<Self, T>,
        weight: &Parameter<Self>,
        bias: &Parameter<Self>,
        epsilon: f32,
    ) -> ModelResult<Rows<Self, T>> {
        cpu::layer_norm(x, weight, bias, epsilon)
    }

    fn batch_norm<T: Tape<f32, Self>>(
        x: Sequences<Self, T>,
        weight: &Parameter<Self>,
        bias: &Parameter<Self>,
        epsilon: f32,
        statistics: Option<Statistics<Self>>,
    ) -> ModelResult<Normalized<Self, T>> {
        cpu::batch_norm(x, weight, bias, epsilon, statistics)
    }

    fn attention<T: Tape<f32, Self>>(
        queries: Sequences<Self, T>,
        keys: Sequences<Self, T>,
        values: Sequences<Self, T>,
        attention: &Attention<'_>,
    ) -> ModelResult<Sequences<Self, T>> {
        cpu::attention(queries, keys, values, attention)
    }

    fn crf<T: Tape<f32, Self>>(
        emissions: Sequences<Self, T>,
        transitions: Transitions<'_, Self>,
        tags: &[usize],
        lengths: &[usize],
    ) -> ModelResult<Tensor<(usize,), Self, T>> {
        cpu::crf(emissions, transitions, tags, lengths)
    }
}
