//! Two-dimensional pooling.

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;
use serde::{Deserialize, Serialize};

use crate::nn::backend::Pooling;
use crate::nn::reference::counts;
use crate::nn::window::{Padding, Size2, Window};
use crate::nn::{Layer, Network, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// Pools have nothing to train, so one list of options and implementations serves them all.
macro_rules! pool2d {
    ($(#[$attribute:meta])* $Pool:ident, $name:literal, $pooling:expr) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $Pool {
            window: Window,
        }

        impl $Pool {
            /// Windows of this size that do not overlap, without padding.
            pub fn new(kernel: impl Into<Size2>) -> Self {
                let kernel = kernel.into();
                Self { window: Window::new(kernel, kernel) }
            }

            /// How far the window moves; its own size by default.
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
        }

        impl<B, C, H, W, D, T> Layer<Tensor<(B, C, H, W), D, T>> for $Pool
        where
            B: Dim,
            C: Dim,
            H: Dim,
            W: Dim,
            D: Device,
            T: Tape<f32, D>,
        {
            type Output = Tensor<(B, C, usize, usize), D, T>;

            fn forward(&self, x: Tensor<(B, C, H, W), D, T>) -> ModelResult<Self::Output> {
                pool(x, &self.window, $name, $pooling)
            }
        }

        without_parts!($Pool);
    };
}

macro_rules! without_parts {
    ($Layer:ty) => {
        impl<D: Device> Network<D> for $Layer {
            fn visit(&self, _: &mut Visitor<'_, D>) -> ModelResult<()> {
                Ok(())
            }

            fn visit_mut(&mut self, _: &mut VisitorMut<'_, D>) -> ModelResult<()> {
                Ok(())
            }
        }
    };
}

pub(crate) use without_parts;

pool2d!(
    /// The largest value of each window, channel by channel: `(batch, channels, height, width)` to `(batch, channels, rows,
    /// columns)`. Of equal values the first receives the gradient. Padding is never the largest.
    ///
    /// ```
    /// use elistimator::nn::{MaxPool2D, Padding};
    /// let halve = MaxPool2D::new(2);
    /// let overlapping = MaxPool2D::new((3, 3)).stride(2).padding(Padding::Same);
    /// # let _ = (halve, overlapping);
    /// ```
    MaxPool2D, "max pool", Pooling::Max
);

pool2d!(
    /// The mean of each window, channel by channel: `(batch, channels, height, width)` to `(batch, channels, rows, columns)`.
    /// Padding is not counted (TensorFlow's rule; PyTorch's with `count_include_pad=False`).
    ///
    /// ```
    /// use elistimator::nn::AvgPool2D;
    /// let halve = AvgPool2D::new(2);
    /// let smooth = AvgPool2D::new(3).stride(1).padding(1);
    /// # let _ = (halve, smooth);
    /// ```
    AvgPool2D, "average pool", Pooling::Average
);

type Pooled<B, C, D, T> = Tensor<(B, C, usize, usize), D, T>;

fn pool<B: Dim, C: Dim, H: Dim, W: Dim, D: Device, T: Tape<f32, D>>(
    x: Tensor<(B, C, H, W), D, T>,
    window: &Window,
    name: &str,
    pooling: Pooling,
) -> ModelResult<Pooled<B, C, D, T>> {
    window.check(name)?;
    let (batch, channels, height, width) = *x.shape();
    let dims = (batch.size(), channels.size(), height.size(), width.size());
    if dims.0 == 0 || dims.1 == 0 || dims.2 == 0 || dims.3 == 0 {
        return Err(ModelError::msg(format!("{name}: found an input of shape {dims:?}, expected no size to be 0")));
    }
    let over = window.over(name, dims.0, dims.1, dims.2, dims.3)?;
    let (rows, columns) = counts(&over);
    if pooling == Pooling::Max && (rows.contains(&0) || columns.contains(&0)) {
        // It would be minus infinity.
        return Err(ModelError::msg(format!(
            "{name}: found a window of {}x{} that meets only the padding of images of {}x{}, expected every window to meet \
             the image; use less padding or dilation",
            over.kernel.0, over.kernel.1, dims.2, dims.3
        )));
    }
    let y = D::pool2d(x.try_reshape_like(&dims)?, &over, pooling)?;
    Ok(y.try_reshape_like(&(batch, channels, over.out.0, over.out.1))?)
}

/// One value per channel, whatever the size of the images: `(batch, channels, height, width)` to `(batch, channels)`.
///
/// ```
/// use elistimator::nn::GlobalPool2D;
/// let means = GlobalPool2D::Average;
/// # let _ = means;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalPool2D {
    /// The mean of a channel.
    Average,
    /// The largest value of a channel.
    Max,
}

impl<B: Dim, C: Dim, H: Dim, W: Dim, D: Device, T: Tape<f32, D>> Layer<Tensor<(B, C, H, W), D, T>> for GlobalPool2D {
    type Output = Tensor<(B, C), D, T>;

    fn forward(&self, x: Tensor<(B, C, H, W), D, T>) -> ModelResult<Self::Output> {
        let (batch, channels, height, width) = *x.shape();
        let kernel: Size2 = (height.size().max(1), width.size().max(1)).into();
        let pooling = match self {
            Self::Average => Pooling::Average,
            Self::Max => Pooling::Max,
        };
        let y = pool(x, &Window::new(kernel, kernel), "global pool", pooling)?;
        Ok(y.try_reshape_like(&(batch, channels))?)
    }
}

without_parts!(GlobalPool2D);
