//! Two-dimensional convolution, alone and fused with ReLU and max pooling.

use std::marker::PhantomData;

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::backend::Convolution;
use crate::nn::window::{Padding, Size2, Window};
use crate::nn::{Activation, Init, Layer, Network, Parameter, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// Convolution of images `(batch, channels, height, width)`; the output is `(batch, out_channels, rows, columns)`. `weight`
/// is `(out_channels, channels / groups, kernel height, kernel width)`, as in PyTorch. Height and width may differ from
/// batch to batch.
///
/// ```
/// use elistimator::nn::{Conv2D, Padding};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let plain = Conv2D::new(&device, 3, 16, 3)?;
/// let strided = Conv2D::builder(16, 32, (3, 5)).stride(2).padding(Padding::Same).groups(4).build(&device)?;
/// assert_eq!(strided.weight.dims(), [32, 4, 3, 5]);
/// # drop(plain);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Conv2D<D: Device, C: Dim = usize, O: Dim = usize> {
    /// `(out_channels, channels / groups, kernel height, kernel width)`.
    pub weight: Parameter<D>,
    /// `(out_channels)`, unless left out.
    pub bias: Option<Parameter<D>>,
    channels: C,
    out_channels: O,
    window: Window,
    groups: usize,
    activation: Activation,
    input_gradient: bool,
}

/// The options of a [`Conv2D`] layer before it is built.
#[derive(Debug, Clone)]
pub struct Conv2DBuilder<D, C: Dim, O: Dim> {
    channels: C,
    out_channels: O,
    window: Window,
    groups: usize,
    activation: Activation,
    weights: Init,
    bias: Option<Init>,
    input_gradient: bool,
    device: PhantomData<fn(&D)>,
}

impl<D: Device, C: Dim, O: Dim> Conv2D<D, C, O> {
    /// A dense convolution with stride 1 and no padding, Glorot-uniform weights and zero biases.
    ///
    /// # Errors
    /// When a size is 0 or memory runs out.
    pub fn new(device: &D, channels: C, out_channels: O, kernel: impl Into<Size2>) -> ModelResult<Self> {
        Self::builder(channels, out_channels, kernel).build(device)
    }

    /// A convolution with options.
    pub fn builder(channels: C, out_channels: O, kernel: impl Into<Size2>) -> Conv2DBuilder<D, C, O> {
        Conv2DBuilder {
            channels,
            out_channels,
            window: Window::new(kernel.into(), 1.into()),
            groups: 1,
            activation: Activation::Identity,
            weights: Init::GlorotUniform,
            bias: Some(Init::Zeros),
            input_gradient: true,
            device: PhantomData,
        }
    }
}

impl<D: Device, C: Dim, O: Dim> Conv2DBuilder<D, C, O> {
    /// How far the window moves; 1 by default.
    #[must_use]
    pub fn stride(mut self, stride: impl Into<Size2>) -> Self {
        self.window.stride = stride.into();
        self
    }

    /// What is added around the images; [`Padding::Valid`] by default.
    #[must_use]
    pub fn padding(mut self, padding: impl Into<Padding>) -> Self {
        self.window.padding = padding.into();
        self
    }

    /// The distance of neighbouring cells of the window; 1 by default.
    #[must_use]
    pub fn dilation(mut self, dilation: impl Into<Size2>) -> Self {
        self.window.dilation = dilation.into();
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

    /// Computes no gradient for the input: faster when the input is data.
    #[must_use]
    pub fn without_input_gradient(mut self) -> Self {
        self.input_gradient = false;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When a size is 0, the groups do not divide the channels, given initial values do not fit, or memory runs out.
    pub fn build(self, device: &D) -> ModelResult<Conv2D<D, C, O>> {
        let (weight, bias) = convolution_parameters(
            device,
            "convolution",
            (self.channels.size(), self.out_channels.size(), self.groups),
            &self.window,
            &self.weights,
            self.bias.as_ref(),
        )?;
        Ok(Conv2D {
            weight,
            bias,
            channels: self.channels,
            out_channels: self.out_channels,
            window: self.window,
            groups: self.groups,
            activation: self.activation,
            input_gradient: self.input_gradient,
        })
    }
}

/// Weights and biases of a convolution from `channels.0` to `channels.1` channels in `channels.2` groups.
pub(crate) fn convolution_parameters<D: Device>(
    device: &D,
    layer: &str,
    (channels, out_channels, groups): (usize, usize, usize),
    window: &Window,
    weights: &Init,
    bias: Option<&Init>,
) -> ModelResult<(Parameter<D>, Option<Parameter<D>>)> {
    window.check(layer)?;
    if channels == 0 || out_channels == 0 {
        return Err(ModelError::msg(format!(
            "{layer}: found {channels} channels in and {out_channels} out, expected at least 1 of each"
        )));
    }
    if groups == 0 || !channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
        return Err(ModelError::msg(format!(
            "{layer}: found {groups} groups, expected a divisor of {channels} and {out_channels} channels"
        )));
    }
    let (height, width) = (window.kernel.height, window.kernel.width);
    let dims = [out_channels, channels / groups, height, width];
    let cells = height.saturating_mul(width);
    let fans = ((channels / groups).saturating_mul(cells), (out_channels / groups).saturating_mul(cells));
    let weight = Parameter::new(device, &dims, weights, fans)?;
    let bias = bias.map(|init| Parameter::new(device, &[out_channels], init, fans)).transpose()?;
    Ok((weight, bias))
}

pub(crate) fn check_channels(layer: &str, found: &[usize], expected: usize) -> ModelResult<()> {
    if found.contains(&0) || found[1] != expected {
        // Images as files have them, sequences as recurrent layers do.
        let hint = if found[1] != expected && found.last() == Some(&expected) {
            "; the last axis has as many: put it behind the batch with `try_permute`"
        } else {
            ""
        };
        return Err(ModelError::msg(format!(
            "{layer}: found an input of shape {found:?}, expected {expected} channels on axis 1 and no size of 0{hint}"
        )));
    }
    Ok(())
}

macro_rules! weight_and_bias {
    ($Layer:ident<$D:ident $(, $P:ident: $Bound:path)*>) => {
        impl<$D: Device $(, $P: $Bound)*> Network<$D> for $Layer<$D $(, $P)*> {
            fn visit(&self, visitor: &mut Visitor<'_, $D>) -> ModelResult<()> {
                visitor.parameter("weight", &self.weight)?;
                self.bias.as_ref().map_or(Ok(()), |bias| visitor.parameter("bias", bias))
            }

            fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, $D>) -> ModelResult<()> {
                visitor.parameter("weight", &mut self.weight)?;
                self.bias.as_mut().map_or(Ok(()), |bias| visitor.parameter("bias", bias))
            }
        }
    };
}
pub(crate) use weight_and_bias;

weight_and_bias!(Conv2D<D, C: Dim, O: Dim>);

impl<B, C, O, H, W, D, T> Layer<Tensor<(B, C, H, W), D, T>> for Conv2D<D, C, O>
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
        check_channels("convolution", &dims, self.channels.size())?;
        let over = self.window.over("convolution", dims[0], dims[1], dims[2], dims[3])?;
        let convolution = Convolution {
            window: over,
            out_channels: self.out_channels.size(),
            groups: self.groups,
            input_gradient: self.input_gradient,
        };
        let x = x.try_reshape_like(&(dims[0], dims[1], dims[2], dims[3]))?;
        let y = D::conv2d(x, &self.weight, self.bias.as_ref(), &convolution, self.activation)?;
        Ok(y.try_reshape_like(&(batch, self.out_channels, over.out.0, over.out.1))?)
    }
}
