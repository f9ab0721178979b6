//! The geometry of windows that slide over images: what convolutions and pools have in common.

use serde::{Deserialize, Serialize};

use crate::nn::parameter::element_count;
use crate::{Error, ErrorKind, ModelError, ModelResult};

/// What is added around an image before windows slide over it. Convolutions see zeros there, pools see nothing.
/// (That of batches of unequal examples is [`data::Padding`](crate::data::Padding).)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Padding {
    /// Nothing: windows lie inside the image.
    #[default]
    Valid,
    /// As much as makes the output `ceil(size / stride)`; an odd rest goes below and to the right, as in TensorFlow.
    Same,
    /// So many rows and columns.
    Explicit {
        /// Rows above.
        top: usize,
        /// Rows below.
        bottom: usize,
        /// Columns to the left, or steps before a sequence.
        left: usize,
        /// Columns to the right, or steps after a sequence.
        right: usize,
    },
}

impl From<usize> for Padding {
    /// The same on all sides, as in PyTorch.
    fn from(n: usize) -> Self {
        Self::Explicit { top: n, bottom: n, left: n, right: n }
    }
}

impl From<(usize, usize)> for Padding {
    /// So much above and below, and so much to the left and right.
    fn from((vertical, horizontal): (usize, usize)) -> Self {
        Self::Explicit { top: vertical, bottom: vertical, left: horizontal, right: horizontal }
    }
}

/// A height and a width; a single number stands for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size2 {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl From<usize> for Size2 {
    fn from(n: usize) -> Self {
        Self { height: n, width: n }
    }
}

impl From<(usize, usize)> for Size2 {
    fn from((height, width): (usize, usize)) -> Self {
        Self { height, width }
    }
}

/// A window before it is laid over an image of a known size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns of the window.
    pub kernel: Size2,
    /// How far the window moves.
    pub stride: Size2,
    /// The distance of neighbouring cells of the window; 1 is dense.
    pub dilation: Size2,
    /// What is added around the image.
    pub padding: Padding,
}

/// Values for which there may be no memory.
const LARGE: usize = 1 << 28;

impl Window {
    /// A dense window that moves by its own size or by one, without padding.
    pub(crate) fn new(kernel: Size2, stride: Size2) -> Self {
        Self { kernel, stride, dilation: 1.into(), padding: Padding::Valid }
    }

    /// Refuses sizes of 0.
    pub(crate) fn check(&self, layer: &str) -> ModelResult<()> {
        for (what, size) in [("kernel", self.kernel), ("stride", self.stride), ("dilation", self.dilation)] {
            if size.height == 0 || size.width == 0 {
                let (height, width) = (size.height, size.width);
                let message = format!("{layer}: found a {what} of {height}x{width}, expected at least 1x1");
                return Err(ModelError::msg(message));
            }
        }
        Ok(())
    }

    /// Lays the window over images.
    #[doc(hidden)]
    pub fn over(
        &self,
        layer: &str,
        batch: usize,
        channels: usize,
        height: usize,
        width: usize,
    ) -> ModelResult<WindowOver> {
        let (pad, pad_bottom, pad_right);
        match self.padding {
            Padding::Valid => (pad, pad_bottom, pad_right) = ((0, 0), 0, 0),
            Padding::Explicit { top, bottom, left, right } => {
                (pad, pad_bottom, pad_right) = ((top, left), bottom, right);
            }
            Padding::Same => {
                let vertical = same(height, self.kernel.height, self.stride.height, self.dilation.height);
                let horizontal = same(width, self.kernel.width, self.stride.width, self.dilation.width);
                pad = (vertical / 2, horizontal / 2);
                (pad_bottom, pad_right) = (vertical - pad.0, horizontal - pad.1);
            }
        }
        let padded_height = pad.0.saturating_add(height).saturating_add(pad_bottom);
        let padded_width = pad.1.saturating_add(width).saturating_add(pad_right);
        let out_height = steps(padded_height, self.kernel.height, self.stride.height, self.dilation.height);
        let out_width = steps(padded_width, self.kernel.width, self.stride.width, self.dilation.width);
        let (Some(out_height), Some(out_width)) = (out_height, out_width) else {
            return Err(ModelError::msg(format!(
                "{layer}: found images of {height}x{width} ({padded_height}x{padded_width} with padding), expected at \
                 least the window's {}x{}",
                extent(self.kernel.height, self.dilation.height),
                extent(self.kernel.width, self.dilation.width)
            )));
        };
        let padded = element_count(&[batch, channels, padded_height, padded_width])?;
        // A padding that is mistyped is an error, where filling a vector ends the process.
        if padded > LARGE && Vec::<f32>::new().try_reserve_exact(padded).is_err() {
            let message = format!(
                "{layer}: found no memory for {batch} images of {channels}x{padded_height}x{padded_width} with padding"
            );
            return Err(Error::new(ErrorKind::OutOfMemory, message).into());
        }
        element_count(&[self.kernel.height, self.kernel.width, channels, out_width])?;
        Ok(WindowOver {
            batch,
            channels,
            height,
            width,
            kernel: (self.kernel.height, self.kernel.width),
            stride: (self.stride.height, self.stride.width),
            dilation: (self.dilation.height, self.dilation.width),
            pad,
            padded: (padded_height, padded_width),
            out: (out_height, out_width),
        })
    }
}

/// A window laid over a batch of images: all numbers are known and have been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOver {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Rows and columns of the window.
    pub kernel: (usize, usize),
    /// How far the window moves down and right.
    pub stride: (usize, usize),
    /// The distance of neighbouring cells.
    pub dilation: (usize, usize),
    /// Padding above and to the left.
    pub pad: (usize, usize),
    /// Rows and columns with padding on all sides.
    pub padded: (usize, usize),
    /// Rows and columns of the output.
    pub out: (usize, usize),
}

/// How far a dilated window reaches.
fn extent(kernel: usize, dilation: usize) -> usize {
    (kernel - 1).saturating_mul(dilation).saturating_add(1)
}

/// How many positions a window has, if it fits at all.
fn steps(padded: usize, kernel: usize, stride: usize, dilation: usize) -> Option<usize> {
    Some(padded.checked_sub(extent(kernel, dilation))? / stride + 1)
}

/// The total padding that makes the output `ceil(size / stride)`.
fn same(size: usize, kernel: usize, stride: usize, dilation: usize) -> usize {
    let reached =
        size.div_ceil(stride).saturating_sub(1).saturating_mul(stride).saturating_add(extent(kernel, dilation));
    reached.saturating_sub(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(size: usize, kernel: usize, stride: usize, dilation: usize, padding: Padding) -> Option<usize> {
        let window = Window { kernel: kernel.into(), stride: stride.into(), dilation: dilation.into(), padding };
        window.over("test", 1, 1, size, size).ok().map(|over| over.out.0)
    }

    #[test]
    fn output_sizes() {
        assert_eq!(out(28, 5, 1, 1, Padding::Same), Some(28));
        assert_eq!(out(7, 3, 2, 1, Padding::Same), Some(4));
        assert_eq!(out(7, 3, 2, 2, Padding::Same), Some(4));
        assert_eq!(out(7, 3, 2, 1, Padding::Valid), Some(3));
        assert_eq!(out(7, 3, 2, 1, 1.into()), Some(4));
        assert_eq!(out(7, 3, 1, 3, Padding::Valid), Some(1));
        assert_eq!(out(6, 3, 1, 3, Padding::Valid), None);
        assert_eq!(out(0, 3, 1, 1, Padding::Valid), None);
        assert_eq!(out(3, 2, 1, 1, Padding::from(usize::MAX)), None);
        assert_eq!(out(3, 2, 1, 1, Padding::from(1 << 28)), None);
    }
}
