//! The operations that a device brings beyond dfdx's own. Not public: it seals [`crate::Device`].

use dfdx::shapes::Shape;
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
}

impl Backend for Cpu {
    const READS_ARE_FREE: bool = true;

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
}
