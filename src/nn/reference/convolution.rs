//! Convolutions and pools by gathering every window's values.

use dfdx::shapes::{Axes2, Axes3, Axis, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::{
    BroadcastTo, GatherTo, MaxTo, PermuteTo, ReshapeTo, SumTo, TryAdd, TryConcatAlong, TryMatMul, TryMul,
};

use crate::nn::backend::{Convolution, Pooling};
use crate::nn::reference::activation;
use crate::nn::window::WindowOver;
use crate::nn::{Activation, Parameter, Tensor};
use crate::{Device, ModelResult};

type Images<D, T> = Tensor<(usize, usize, usize, usize), D, T>;

/// Every window's values as `(cells, batch)`, where a cell is one of (channel, kernel row, kernel column, output pixel);
/// cells outside the images hold `outside`.
fn windows<D: Device, T: Tape<f32, D>>(
    x: Images<D, T>,
    window: &WindowOver,
    outside: f32,
) -> ModelResult<Tensor<(usize, usize), D, T>> {
    let device = x.device().clone();
    let pixels = window.channels * window.height * window.width;
    let x = x.try_reshape_like(&(window.batch, pixels))?.try_permute::<(usize, usize), Axes2<1, 0>>()?;
    let outside = device.try_tensor_from_vec(vec![outside; window.batch], (1, window.batch))?;
    let x = (x.try_contiguous()?, outside).try_concat_along(Axis::<0>)?;
    let x = x.try_reshape_like(&(pixels + 1, window.batch))?;
    let mut cells = Vec::new();
    for channel in 0..window.channels {
        for (row, column) in cells_of(window.kernel) {
            for (y, x) in cells_of(window.out) {
                let y = (y * window.stride.0 + row * window.dilation.0).checked_sub(window.pad.0);
                let x = (x * window.stride.1 + column * window.dilation.1).checked_sub(window.pad.1);
                cells.push(match (y, x) {
                    (Some(y), Some(x)) if y < window.height && x < window.width => {
                        (channel * window.height + y) * window.width + x
                    }
                    _ => pixels,
                });
            }
        }
    }
    let count = cells.len();
    let cells = device.try_tensor_from_vec(cells, (count,))?;
    Ok(x.try_gather::<(usize, usize), (usize,)>(cells)?)
}

fn cells_of((height, width): (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    (0..height).flat_map(move |row| (0..width).map(move |column| (row, column)))
}

/// `(channels, pixels * batch)` to `(batch, channels, height, width)`.
fn images<D: Device, T: Tape<f32, D>>(
    y: Tensor<(usize, usize), D, T>,
    window: &WindowOver,
    channels: usize,
) -> ModelResult<Images<D, T>> {
    let (height, width) = window.out;
    let y = y.try_reshape_like(&(channels, height * width, window.batch))?;
    let y = y.try_permute::<(usize, usize, usize), Axes3<2, 0, 1>>()?;
    Ok(y.try_reshape_like(&(window.batch, channels, height, width))?)
}

/// See [`Backend::conv2d`](crate::nn::backend::Backend::conv2d).
pub fn conv2d<D: Device, T: Tape<f32, D>>(
    x: Images<D, T>,
    weight: &Parameter<D>,
    bias: Option<&Parameter<D>>,
    convolution: &Convolution,
    function: Activation,
) -> ModelResult<Images<D, T>> {
    let Convolution { window, out_channels, groups, .. } = *convolution;
    let depth = window.channels / groups * window.kernel.0 * window.kernel.1;
    let columns = window.out.0 * window.out.1 * window.batch;
    let cells = windows(x, &window, 0.0)?.try_reshape_like(&(groups, depth, columns))?;
    let weight = weight.shaped((groups, out_channels / groups, depth))?;
    let mut y = weight.retaped::<T>().try_matmul(cells)?.try_reshape_like(&(out_channels, columns))?;
    if let Some(bias) = bias {
        y = y.try_add(bias.flat().retaped::<T>().try_broadcast_like::<_, Axis<1>>(&(out_channels, columns))?)?;
    }
    activation(images(y, &window, out_channels)?, function)
}

/// See [`Backend::conv_block`](crate::nn::backend::Backend::conv_block).
pub fn conv_block<D: Device, T: Tape<f32, D>>(
    x: Images<D, T>,
    weight: &Parameter<D>,
    bias: Option<&Parameter<D>>,
    convolution: &Convolution,
    pool: (usize, usize),
) -> ModelResult<Images<D, T>> {
    let (height, width) = convolution.window.out;
    let pooled = WindowOver {
        batch: convolution.window.batch,
        channels: convolution.out_channels,
        height,
        width,
        kernel: pool,
        stride: pool,
        dilation: (1, 1),
        pad: (0, 0),
        padded: (height, width),
        out: (height / pool.0, width / pool.1),
    };
    // The pool before the ReLU: dfdx's maximum gives the gradient to all of equal values, and zeros would be equal.
    let y = conv2d(x, weight, bias, convolution, Activation::Identity)?;
    activation(pool2d(y, &pooled, Pooling::Max)?, Activation::Relu)
}

/// See [`Backend::pool2d`](crate::nn::backend::Backend::pool2d). Equal largest values all receive the gradient here.
pub fn pool2d<D: Device, T: Tape<f32, D>>(
    x: Images<D, T>,
    window: &WindowOver,
    pooling: Pooling,
) -> ModelResult<Images<D, T>> {
    let device = x.device().clone();
    let cells = window.kernel.0 * window.kernel.1;
    let columns = window.out.0 * window.out.1 * window.batch;
    let outside = if pooling == Pooling::Max { f32::MIN } else { 0.0 };
    let values = windows(x, window, outside)?.try_reshape_like(&(window.channels, cells, columns))?;
    let pooled = match pooling {
        Pooling::Max => values.try_max::<(usize, usize), Axis<1>>()?,
        Pooling::Average => {
            let counts = counts(window);
            let factors = cells_of(window.out).flat_map(|(y, x)| {
                let factor = 1.0 / (counts.0[y] * counts.1[x]).max(1) as f32;
                std::iter::repeat_n(factor, window.batch)
            });
            let factors = device.try_tensor_from_vec(factors.collect(), (columns,))?;
            let sums = values.try_sum::<(usize, usize), Axis<1>>()?;
            let shape = *sums.shape();
            sums.try_mul(factors.try_broadcast_like::<_, Axis<0>>(&shape)?)?
        }
    };
    images(pooled, window, window.channels)
}

/// For each output row and column, how many rows and columns of its window lie in the image.
pub(crate) fn counts(window: &WindowOver) -> (Vec<usize>, Vec<usize>) {
    let along = |out: usize, stride: usize, kernel: usize, dilation: usize, pad: usize, size: usize| {
        let inside =
            |o: usize| (0..kernel).filter(|k| (pad..pad + size).contains(&(o * stride + k * dilation))).count();
        (0..out).map(inside).collect::<Vec<_>>()
    };
    let w = window;
    (
        along(w.out.0, w.stride.0, w.kernel.0, w.dilation.0, w.pad.0, w.height),
        along(w.out.1, w.stride.1, w.kernel.1, w.dilation.1, w.pad.1, w.width),
    )
}
