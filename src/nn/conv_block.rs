//! Convolution, bias, ReLU and max pooling in one.

use std::marker::PhantomData;

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::backend::Convolution;
use crate::nn::conv2d::{check_channels, convolution_parameters, weight_and_bias};
use crate::nn::window::{Padding, Size2, Window};
use crate::nn::{Init, Layer, Network, Parameter, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// Convolution, bias, ReLU and max pooling of images `(batch, channels, height, width)` in one pass, which is faster than
/// the four layers after each other since what lies between them never leaves the cache. Rows and columns left over by
/// the pool are dropped, as in PyTorch and TensorFlow. `weight` is `(out_channels, channels, kernel height, kernel width)`.
///
/// ```
/// use elistimator::nn::ConvBlock;
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let block = ConvBlock::new(&device, 1, 32, 5)?; // padding "same", pool 2: 28x28 becomes 14x14
/// let other = ConvBlock::builder(32, 64, 3).padding(1).pool((2, 3)).build(&device)?;
/// # drop((block, other));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ConvBlock<D: Device, C: Dim = usize, O: Dim = usize> {
    /// `(out_channels, channels, kernel height, kernel width)`.
    pub weight: Parameter<D>,
    /// `(out_channels)`, unless left out.
    pub bias: Option<Parameter<D>>,
    channels: C,
    out_channels: O,
    window: Window,
    pool: Size2,
    input_gradient: bool,
}

/// The options of a [`ConvBlock`] before it is built.
#[derive(Debug, Clone)]
pub struct ConvBlockBuilder<D, C: Dim, O: Dim> {
    channels: C,
    out_channels: O,
    window: Window,
    pool: Size2,
    weights: Init,
    bias: Option<Init>,
    input_gradient: bool,
    device: PhantomData<fn(&D)>,
}

impl<D: Device, C: Dim, O: Dim> ConvBlock<D, C, O> {
    /// A block with padding "same" and a pool of 2x2, Glorot-uniform weights and zero biases.
    ///
    /// # Errors
    /// When a size is 0 or memory runs out.
    pub fn new(device: &D, channels: C, out_channels: O, kernel: impl Into<Size2>) -> ModelResult<Self> {
        Self::builder(channels, out_channels, kernel).build(device)
    }

    /// A block with options.
    pub fn builder(channels: C, out_channels: O, kernel: impl Into<Size2>) -> ConvBlockBuilder<D, C, O> {
        let mut window = Window::new(kernel.into(), 1.into());
        window.padding = Padding::Same;
        ConvBlockBuilder {
            channels,
            out_channels,
            window,
            pool: 2.into(),
            weights: Init::GlorotUniform,
            bias: Some(Init::Zeros),
            input_gradient: true,
            device: PhantomData,
        }
    }
}

impl<D: Device, C: Dim, O: Dim> ConvBlockBuilder<D, C, O> {
    /// The size of the pool's windows, which do not overlap; 2x2 by default, at most 255 cells.
    #[must_use]
    pub fn pool(mut self, pool: impl Into<Size2>) -> Self {
        self.pool = pool.into();
        self
    }

    /// How far the convolution's window moves; 1 by default.
    #[must_use]
    pub fn stride(mut self, stride: impl Into<Size2>) -> Self {
        self.window.stride = stride.into();
        self
    }

    /// What is added around the images; [`Padding::Same`] by default.
    #[must_use]
    pub fn padding(mut self, padding: impl Into<Padding>) -> Self {
        self.window.padding = padding.into();
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

    /// Computes no gradient for the input: faster when the input is data.
    #[must_use]
    pub fn without_input_gradient(mut self) -> Self {
        self.input_gradient = false;
        self
    }

    /// Makes the block.
    ///
    /// # Errors
    /// When a size is 0, the pool is larger than 255 cells, given initial values do not fit, or memory runs out.
    pub fn build(self, device: &D) -> ModelResult<ConvBlock<D, C, O>> {
        let cells = self.pool.height.saturating_mul(self.pool.width);
        if cells == 0 || cells > 255 {
            return Err(ModelError::msg(format!(
                "convolution block: found a pool of {}x{}, expected 1 to 255 cells",
                self.pool.height, self.pool.width
            )));
        }
        let (weight, bias) = convolution_parameters(
            device,
            "convolution block",
            (self.channels.size(), self.out_channels.size(), 1),
            &self.window,
            &self.weights,
            self.bias.as_ref(),
        )?;
        Ok(ConvBlock {
            weight,
            bias,
            channels: self.channels,
            out_channels: self.out_channels,
            window: self.window,
            pool: self.pool,
            input_gradient: self.input_gradient,
        })
    }
}

weight_and_bias!(ConvBlock<D, C: Dim, O: Dim>);

impl<B, C, O, H, W, D, T> Layer<Tensor<(B, C, H, W), D, T>> for ConvBlock<D, C, O>
where
    B: Dim,
    C: Dim,
    O: Dim,
    H: Dim,
    W: Dim,
    D: Device,
    T: Tape<f32, D>,
{
    type Output = Tensor<(B, O, usize, usize), D, T>;

    fn forward(&self, x: Tensor<(B, C, H, W), D, T>) -> ModelResult<Self::Output> {
        let batch = x.shape().0;
        let dims = [batch.size(), x.shape().1.size(), x.shape().2.size(), x.shape().3.size()];
        check_channels("convolution block", &dims, self.channels.size())?;
        let over = self.window.over("convolution block", dims[0], dims[1], dims[2], dims[3])?;
        let pooled = (over.out.0 / self.pool.height, over.out.1 / self.pool.width);
        if pooled.0 == 0 || pooled.1 == 0 {
            return Err(ModelError::msg(format!(
                "convolution block: found images of {}x{} before the pool, expected at least its {}x{}",
                over.out.0, over.out.1, self.pool.height, self.pool.width
            )));
        }
        let convolution = Convolution {
            window: over,
            out_channels: self.out_channels.size(),
            groups: 1,
            input_gradient: self.input_gradient,
        };
        let x = x.try_reshape_like(&(dims[0], dims[1], dims[2], dims[3]))?;
        let pool = (self.pool.height, self.pool.width);
        let y = D::conv_block(x, &self.weight, self.bias.as_ref(), &convolution, pool)?;
        Ok(y.try_reshape_like(&(batch, self.out_channels, pooled.0, pooled.1))?)
    }
}
