//! Convolution and pooling of sequences.

use std::marker::PhantomData;

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;
use serde::{Deserialize, Serialize};

use crate::nn::backend::Convolution;
use crate::nn::conv2d::{check_channels, convolution_parameters, weight_and_bias};
use crate::nn::window::{Padding, Size2, Window};
use crate::nn::{Activation, AvgPool2D, Init, Layer, MaxPool2D, Network, Parameter, Tensor, Visitor, VisitorMut};
use crate::nn::{GlobalPool2D, pool2d::without_parts};
use crate::{Device, ModelResult};

/// Convolution of sequences `(batch, channels, length)`; the output is `(batch, out_channels, steps)`. `weight` is
/// `(out_channels, channels / groups, 1, kernel)`. The length may differ from batch to batch. Of an explicit padding, left
/// and right count.
///
/// Recurrent layers, attention and embeddings have `(batch, length, features)` instead: what comes from them or from data in that
/// order, and goes to them, is turned by `x.try_permute::<_, Axes3<0, 2, 1>>()?`.
///
/// ```
/// use elistimator::nn::{Conv1D, Padding};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let layer = Conv1D::builder(300, 100, 3).padding(Padding::Same).build(&device)?;
/// # drop(layer);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Conv1D<D: Device, C: Dim = usize, O: Dim = usize> {
    /// `(out_channels, channels / groups, 1, kernel)`.
    pub weight: Parameter<D>,
    /// `(out_channels)`, unless left out.
    pub bias: Option<Parameter<D>>,
    channels: C,
    out_channels: O,
    window: Window,
    groups: usize,
    activation: Activation,
}

/// The options of a [`Conv1D`] layer before it is built.
#[derive(Debug, Clone)]
pub struct Conv1DBuilder<D, C: Dim, O: Dim> {
    channels: C,
    out_channels: O,
    window: Window,
    groups: usize,
    activation: Activation,
    weights: Init,
    bias: Option<Init>,
    device: PhantomData<fn(&D)>,
}

/// One row of so many columns.
fn row(width: usize) -> Size2 {
    Size2 { height: 1, width }
}

/// The padding of a single row.
fn row_padding(padding: Padding) -> Padding {
    match padding {
        Padding::Explicit { left, right, .. } => Padding::Explicit { top: 0, bottom: 0, left, right },
        other => other,
    }
}

impl<D: Device, C: Dim, O: Dim> Conv1D<D, C, O> {
    /// A dense convolution with stride 1 and no padding, Glorot-uniform weights and zero biases.
    ///
    /// # Errors
    /// When a size is 0 or memory runs out.
    pub fn new(device: &D, channels: C, out_channels: O, kernel: usize) -> ModelResult<Self> {
        Self::builder(channels, out_channels, kernel).build(device)
    }

    /// A convolution with options.
    pub fn builder(channels: C, out_channels: O, kernel: usize) -> Conv1DBuilder<D, C, O> {
        Conv1DBuilder {
            channels,
            out_channels,
            window: Window::new(row(kernel), 1.into()),
            groups: 1,
            activation: Activation::Identity,
            weights: Init::GlorotUniform,
            bias: Some(Init::Zeros),
            device: PhantomData,
        }
    }
}

impl<D: Device, C: Dim, O: Dim> Conv1DBuilder<D, C, O> {
    /// How far the window moves; 1 by default.
    #[must_use]
    pub fn stride(mut self, stride: usize) -> Self {
        self.window.stride = row(stride);
        self
    }

    /// What is added around the sequences; [`Padding::Valid`] by default.
    #[must_use]
    pub fn padding(mut self, padding: impl Into<Padding>) -> Self {
        self.window.padding = row_padding(padding.into());
        self
    }

    /// The distance of neighbouring cells of the window; 1 by default.
    #[must_use]
    pub fn dilation(mut self, dilation: usize) -> Self {
        self.window.dilation = row(dilation);
        self
    }

    /// Splits the channels into groups that do not see each other; 1 by default.
    #[must_use]
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// The function applied to the outputs; none by default.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// How the weights start; [`Init::GlorotUniform`] by default.
    #[must_use]
    pub fn weights(mut self, init: Init) -> Self {
        self.weights = init;
        self
    }

    /// How the biases start; [`Init::Zeros`] by default.
    #[must_use]
    pub fn bias(mut self, init: Init) -> Self {
        self.bias = Some(init);
        self
    }

    /// Leaves the biases out.
    #[must_use]
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When a size is 0, the groups do not divide the channels, given initial values do not fit, or memory runs out.
    pub fn build(self, device: &D) -> ModelResult<Conv1D<D, C, O>> {
        let (weight, bias) = convolution_parameters(
            device,
            "convolution",
            (self.channels.size(), self.out_channels.size(), self.groups),
            &self.window,
            &self.weights,
            self.bias.as_ref(),
        )?;
        Ok(Conv1D {
            weight,
            bias,
            channels: self.channels,
            out_channels: self.out_channels,
            window: self.window,
            groups: self.groups,
            activation: self.activation,
        })
    }
}

weight_and_bias!(Conv1D<D, C: Dim, O: Dim>);

impl<B: Dim, C: Dim, O: Dim, L: Dim, D: Device, T: Tape<f32, D>> Layer<Tensor<(B, C, L), D, T>> for Conv1D<D, C, O> {
    type Output = Tensor<(B, O, usize), D, T>;

    fn forward(&self, x: Tensor<(B, C, L), D, T>) -> ModelResult<Self::Output> {
        let batch = x.shape().0;
        let dims = [batch.size(), x.shape().1.size(), x.shape().2.size()];
        check_channels("convolution", &dims, self.channels.size())?;
        let over = self.window.over("convolution", dims[0], dims[1], 1, dims[2])?;
        let out_channels = self.out_channels.size();
        let convolution = Convolution { window: over, out_channels, groups: self.groups, input_gradient: true };
        let x = x.try_reshape_like(&(dims[0], dims[1], 1, dims[2]))?;
        let y = D::conv2d(x, &self.weight, self.bias.as_ref(), &convolution, self.activation)?;
        Ok(y.try_reshape_like(&(batch, self.out_channels, over.out.1))?)
    }
}

macro_rules! pool1d {
    ($(#[$attribute:meta])* $Pool:ident, $Pool2D:ident) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $Pool {
            pool: $Pool2D,
        }

        impl $Pool {
            /// Windows of this size that do not overlap, without padding.
            pub fn new(kernel: usize) -> Self {
                Self { pool: $Pool2D::new(row(kernel)) }
            }

            /// How far the window moves; its own size by default.
            #[must_use]
            pub fn stride(mut self, stride: usize) -> Self {
                self.pool = self.pool.stride(row(stride));
                self
            }

            /// What is added around the sequences; [`Padding::Valid`] by default.
            #[must_use]
            pub fn padding(mut self, padding: impl Into<Padding>) -> Self {
                self.pool = self.pool.padding(row_padding(padding.into()));
                self
            }

            /// The distance of neighbouring cells of the window; 1 by default.
            #[must_use]
            pub fn dilation(mut self, dilation: usize) -> Self {
                self.pool = self.pool.dilation(row(dilation));
                self
            }
        }

        impl<B: Dim, C: Dim, L: Dim, D: Device, T: Tape<f32, D>> Layer<Tensor<(B, C, L), D, T>> for $Pool {
            type Output = Tensor<(B, C, usize), D, T>;

            fn forward(&self, x: Tensor<(B, C, L), D, T>) -> ModelResult<Self::Output> {
                let (batch, channels, length) = *x.shape();
                let y = self.pool.forward(x.try_reshape_like(&(batch, channels, 1, length))?)?;
                let steps = y.shape().3;
                Ok(y.try_reshape_like(&(batch, channels, steps))?)
            }
        }

        without_parts!($Pool);
    };
}

pool1d!(
    /// The largest value of each window, channel by channel: `(batch, channels, length)` to `(batch, channels, steps)`.
    ///
    /// ```
    /// use elistimator::nn::MaxPool1D;
    /// let halve = MaxPool1D::new(2);
    /// # let _ = halve;
    /// ```
    MaxPool1D, MaxPool2D
);

pool1d!(
    /// The mean of each window, channel by channel: `(batch, channels, length)` to `(batch, channels, steps)`. Padding is not
    /// counted.
    ///
    /// ```
    /// use elistimator::nn::AvgPool1D;
    /// let smooth = AvgPool1D::new(3).stride(1).padding(1);
    /// # let _ = smooth;
    /// ```
    AvgPool1D, AvgPool2D
);

/// One value per channel, whatever the length: `(batch, channels, length)` to `(batch, channels)`. For padded sequences
/// `(batch, length, values)` see [`max_over_time`](crate::nn::max_over_time).
///
/// ```
/// use elistimator::nn::GlobalPool1D;
/// let largest = GlobalPool1D::Max;
/// # let _ = largest;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalPool1D {
    /// The mean of a channel.
    Average,
    /// The largest value of a channel.
    Max,
}

impl<B: Dim, C: Dim, L: Dim, D: Device, T: Tape<f32, D>> Layer<Tensor<(B, C, L), D, T>> for GlobalPool1D {
    type Output = Tensor<(B, C), D, T>;

    fn forward(&self, x: Tensor<(B, C, L), D, T>) -> ModelResult<Self::Output> {
        let (batch, channels, length) = *x.shape();
        let pool = match self {
            Self::Average => GlobalPool2D::Average,
            Self::Max => GlobalPool2D::Max,
        };
        pool.forward(x.try_reshape_like(&(batch, channels, 1, length))?)
    }
}

without_parts!(GlobalPool1D);
