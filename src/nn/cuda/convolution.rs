//! Convolutions: the windows' values as a matrix, a product, and a kernel for everything after it. A batch is worked on in
//! parts, so that the matrix stays within bounds.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, CudaError, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::Flat;
use super::blas::{Matrix, Onto};
use super::context::{Context, blocks, size};
use super::elementwise::{THREADS, code};
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::backend::Convolution;
use crate::nn::window::WindowOver;
use crate::nn::{Activation, Parameter, Tensor};
use crate::{ModelError, ModelResult};

/// What convolutions and pools take and give: `(batch, channels, height, width)`.
pub(super) type Images<T> = Tensor<(usize, usize, usize, usize), Cuda, T>;

/// The kernels' `Window`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    batch: u32,
    channels: u32,
    size: [u32; 2],
    kernel: [u32; 2],
    stride: [u32; 2],
    dilation: [u32; 2],
    pad: [u32; 2],
    out: [u32; 2],
}

// SAFETY: fourteen numbers of 32 bits in C's layout, as the kernels' struct has them in the same order.
unsafe impl DeviceRepr for Window {}

impl Window {
    /// For `batch` of the window's images.
    pub(super) fn new(window: &WindowOver, batch: usize) -> ModelResult<Self> {
        let pair = |(a, b)| -> ModelResult<[u32; 2]> { Ok([size(a)?, size(b)?]) };
        // The kernels count pixels of a batch, planes, and cells of a window in 32 bits.
        size(window.channels.saturating_mul(window.kernel.0).saturating_mul(window.kernel.1))?;
        size(window.batch.saturating_mul(window.channels))?;
        size(window.height.saturating_mul(window.width))?;
        size(batch.saturating_mul(window.out.0).saturating_mul(window.out.1))?;
        pair(window.padded)?;
        Ok(Self {
            batch: size(batch)?,
            channels: size(window.channels)?,
            size: pair((window.height, window.width))?,
            kernel: pair(window.kernel)?,
            stride: pair(window.stride)?,
            dilation: pair(window.dilation)?,
            pad: pair(window.pad)?,
            out: pair(window.out)?,
        })
    }
}

/// The kernels' `Pool`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Pool {
    batch: u32,
    channels: u32,
    size: [u32; 2],
    pool: [u32; 2],
    out: [u32; 2],
}

// SAFETY: eight numbers of 32 bits in C's layout, as the kernels' struct has them in the same order.
unsafe impl DeviceRepr for Pool {}

/// The rows of blocks for so many rows of work: beyond the most that a device takes, a block goes on to another row.
pub(super) fn planes(rows: usize) -> u32 {
    rows.min(65_535) as u32
}

/// What follows the product.
#[derive(Clone, Copy)]
enum Tail {
    Activation(Activation),
    /// ReLU and max pooling.
    Pool((usize, usize)),
}

/// See [`Backend::conv2d`](crate::nn::backend::Backend::conv2d).
pub(super) fn conv2d<T: Tape<f32, Cuda>>(
    x: Images<T>,
    weight: &Parameter<Cuda>,
    bias: Option<&Parameter<Cuda>>,
    convolution: &Convolution,
    activation: Activation,
) -> ModelResult<Images<T>> {
    convolve(x, weight, bias, convolution, Tail::Activation(activation))
}

/// See [`Backend::conv_block`](crate::nn::backend::Backend::conv_block).
pub(super) fn conv_block<T: Tape<f32, Cuda>>(
    x: Images<T>,
    weight: &Parameter<Cuda>,
    bias: Option<&Parameter<Cuda>>,
    convolution: &Convolution,
    pool: (usize, usize),
) -> ModelResult<Images<T>> {
    convolve(x, weight, bias, convolution, Tail::Pool(pool))
}

/// The sizes of one convolution.
struct Shape {
    window: WindowOver,
    channels: u32,
    groups: u32,
    /// Values of a window, of all groups.
    depth: u32,
    /// Pixels of an image before a pool.
    pixels: u32,
    /// Values of an image of the input and of the output.
    input: usize,
    output: usize,
    /// Images of a part.
    part: usize,
    tail: Tail,
}

/// The most values of a matrix of windows: 512 MiB.
const MOST_VALUES: usize = 1 << 27;
/// Columns that one block works on when it goes back.
const COLUMNS_OF_A_BLOCK: u32 = 4096;

impl Shape {
    fn new(convolution: &Convolution, tail: Tail) -> ModelResult<Self> {
        let window = convolution.window;
        let depth = window.channels * window.kernel.0 * window.kernel.1;
        let pixels = window.out.0 * window.out.1;
        let out = match tail {
            Tail::Activation(_) => pixels,
            Tail::Pool(pool) => (window.out.0 / pool.0) * (window.out.1 / pool.1),
        };
        let part = MOST_VALUES.checked_div(depth.saturating_mul(pixels)).unwrap_or(window.batch);
        let part = part.clamp(1, window.batch.max(1));
        Window::new(&window, part)?;
        Ok(Self {
            channels: size(convolution.out_channels)?,
            groups: size(convolution.groups)?,
            depth: size(depth)?,
            pixels: size(pixels)?,
            input: window.channels * window.height * window.width,
            output: convolution.out_channels * out,
            part,
            tail,
            window,
        })
    }

    /// The first image and the number of images of each part.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (batch, part) = (self.window.batch, self.part);
        (0..batch).step_by(part).map(move |first| (first, part.min(batch - first)))
    }

    fn pool(&self, images: usize, pool: (usize, usize)) -> Pool {
        let pair = |(a, b): (usize, usize)| [a as u32, b as u32];
        let size = self.window.out;
        Pool {
            batch: images as u32,
            channels: self.channels,
            size: pair(size),
            pool: pair(pool),
            out: pair((size.0 / pool.0, size.1 / pool.1)),
        }
    }

    /// Writes the windows' values of a part into `columns`.
    fn im2col(&self, context: &Context, columns: u64, x: u64, first: usize, images: usize) -> Result<(), CudaError> {
        let grid = (blocks(images * self.pixels as usize, THREADS), self.depth.min(65_535));
        let from = x + (first * self.input * size_of::<f32>()) as u64;
        // SAFETY: columns is of (depth, images * pixels), and x has that many images from `first` on.
        unsafe { context.launch("im2col", grid, THREADS, (columns, from, self.geometry(images))) }
    }

    /// The sizes of the product of one group.
    fn sizes(&self, images: usize) -> (u32, u32, u32) {
        (self.channels / self.groups, images as u32 * self.pixels, self.depth / self.groups)
    }

    /// The weights, the windows and the output of all groups.
    fn matrices(&self, images: usize, weights: u64, windows: u64, outputs: u64) -> [Matrix; 3] {
        let (m, n, k) = self.sizes(images);
        let of = |pointer, rows: u32, row: u32| Matrix::new(pointer, row).batched(rows as usize * row as usize);
        [of(weights, m, k), of(windows, k, n), of(outputs, m, n)]
    }

    /// Checked for the largest part when the shape was made.
    fn geometry(&self, images: usize) -> Window {
        let pair = |(a, b): (usize, usize)| [a as u32, b as u32];
        let w = &self.window;
        Window {
            batch: images as u32,
            channels: w.channels as u32,
            size: pair((w.height, w.width)),
            kernel: pair(w.kernel),
            stride: pair(w.stride),
            dilation: pair(w.dilation),
            pad: pair(w.pad),
            out: pair(w.out),
        }
    }
}

/// What the way back needs beside the tensors.
struct Kept {
    /// What went into the activation, where its derivative needs that.
    before: Option<CudaSlice<f32>>,
    /// Which cell of each pool's window was the largest.
    cells: Option<CudaSlice<u8>>,
}

impl Kept {
    fn before(&self, first: usize) -> u64 {
        self.before.as_ref().map_or(0, |before| *before.device_ptr() + (first * size_of::<f32>()) as u64)
    }

    fn cells(&self, first: usize) -> u64 {
        self.cells.as_ref().map_or(0, |cells| *cells.device_ptr() + first as u64)
    }
}

/// What makes the kernels' and the products' memory accesses valid: a layer's parameters are anybody's to replace.
fn check(
    images: (usize, usize, usize, usize),
    weight: &Parameter<Cuda>,
    bias: Option<&Parameter<Cuda>>,
    convolution: &Convolution,
    tail: Tail,
) -> ModelResult<()> {
    let Convolution { window, out_channels, groups, .. } = *convolution;
    let is_image = images == (window.batch, window.channels, window.height, window.width);
    let are_groups = groups > 0 && window.channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups);
    // Which cell of a pool was the largest is kept in a byte.
    let is_pool = match tail {
        Tail::Activation(_) => true,
        Tail::Pool((height, width)) => (1..=255).contains(&height.saturating_mul(width)),
    };
    if !(is_image && are_groups && is_pool) {
        return Err(ModelError::msg(format!(
            "convolution: found images of {images:?}, which do not fit {convolution:?}, or its pool"
        )));
    }
    let cells = window.kernel.0.saturating_mul(window.kernel.1);
    let expected = (window.channels / groups).saturating_mul(cells).saturating_mul(out_channels);
    let biases = bias.map_or(out_channels, Parameter::len);
    if weight.len() != expected || biases != out_channels {
        return Err(ModelError::msg(format!(
            "convolution: found {} weights and {biases} biases, expected {expected} and {out_channels}",
            weight.len()
        )));
    }
    Ok(())
}

fn convolve<T: Tape<f32, Cuda>>(
    x: Images<T>,
    weight: &Parameter<Cuda>,
    bias: Option<&Parameter<Cuda>>,
    convolution: &Convolution,
    tail: Tail,
) -> ModelResult<Images<T>> {
    check(*x.shape(), weight, bias, convolution, tail)?;
    let shape = Shape::new(convolution, tail)?;
    let batch = shape.window.batch;
    let (x, tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let weights = weight.lend();
    let bias = bias.map(Parameter::lend);

    let x_values = Values::of(&context, &x)?;
    let weight_values = Values::of(&context, &weights)?;
    let bias_values = bias.as_ref().map(|bias| Values::of(&context, bias)).transpose()?;
    let bias_pointer = bias_values.as_ref().map_or(0, |bias| bias.pointer());
    let y = Output::new(&context, x.device(), batch * shape.output)?;
    let keep_sum = match tail {
        Tail::Activation(activation) => T::OWNS_TAPE && !activation.is_known_from_output(),
        Tail::Pool(_) => false,
    };
    let len = batch * shape.output;
    let kept = Kept {
        before: if keep_sum { Some(context.uninitialized(len)?) } else { None },
        cells: if matches!(tail, Tail::Pool(_)) { Some(context.uninitialized(len)?) } else { None },
    };

    let columns_len = shape.part * shape.depth as usize * shape.pixels as usize;
    let columns = context.uninitialized::<f32>(columns_len)?;
    let z = context.uninitialized::<f32>(shape.part * shape.channels as usize * shape.pixels as usize)?;
    for (first, images) in shape.parts() {
        let (columns, z) = (*columns.device_ptr(), *z.device_ptr());
        shape.im2col(&context, columns, x_values.pointer(), first, images)?;
        let [weights, windows, outputs] = shape.matrices(images, weight_values.pointer(), columns, z);
        let sizes = shape.sizes(images);
        // SAFETY: for each group, weights are (channels, depth), windows (depth, images * pixels), and the outputs new
        // memory of (channels, images * pixels).
        unsafe { context.multiply(sizes, weights, windows, outputs, Onto::Replace, shape.groups) }?;
        let to = y.pointer() + (first * shape.output * size_of::<f32>()) as u64;
        let count = images * shape.pixels as usize;
        match shape.tail {
            Tail::Activation(activation) => {
                let (kind, slope) = code(activation);
                let before = kept.before(first * shape.output);
                let sizes = (images as u32, shape.channels, shape.pixels);
                let arguments = (to, z, bias_pointer, before, kind, slope, sizes.0, sizes.1, sizes.2);
                let grid = (blocks(count, THREADS), shape.channels.min(65_535));
                // SAFETY: z is of (channels, images * pixels), bias of the channels or null, y and before (or null) have
                // that many values from the part's first image on, and are new.
                unsafe { context.launch("convolution_output", grid, THREADS, arguments) }?;
            }
            Tail::Pool(pool) => {
                let pool = shape.pool(images, pool);
                let cells = kept.cells(first * shape.output);
                let pixels = images * pool.out[0] as usize * pool.out[1] as usize;
                let grid = (blocks(pixels, THREADS), shape.channels.min(65_535));
                let arguments = (to, cells, z, bias_pointer, pool);
                // SAFETY: z is of (channels, images * pixels), bias of the channels or null, y and cells have the pooled
                // values from the part's first image on, and are new.
                unsafe { context.launch("pool_output", grid, THREADS, arguments) }?;
            }
        }
    }
    let y = y.finish()?;
    let mut recorded: Vec<&Flat> = vec![&weights];
    recorded.extend(bias.as_deref());
    if convolution.input_gradient {
        recorded.push(&x);
    }
    let (has_bias, input_gradient) = (bias.is_some(), convolution.input_gradient);
    let out = match tail {
        Tail::Activation(_) => shape.window.out,
        Tail::Pool(pool) => (shape.window.out.0 / pool.0, shape.window.out.1 / pool.1),
    };
    let out = (batch, convolution.out_channels, out.0, out.1);
    let (output, weights) = (y.clone(), weights.clone());
    record(tape, &recorded, y, out, move |gradients, dy| {
        let gradients = Gradients {
            weight: gradients[0],
            bias: has_bias.then(|| gradients[1]),
            input: input_gradient.then(|| gradients[1 + usize::from(has_bias)]),
            output: dy,
        };
        backward(&context, &shape, &kept, &x_values, &weights, &output, &gradients)
    })
}

/// Pointers to the gradients of one convolution, all of different tensors.
struct Gradients {
    weight: u64,
    bias: Option<u64>,
    input: Option<u64>,
    output: u64,
}

fn backward(
    context: &Arc<Context>,
    shape: &Shape,
    kept: &Kept,
    x: &Values,
    weights: &Flat,
    output: &Flat,
    gradients: &Gradients,
) -> Result<(), CudaError> {
    let weights = Values::of(context, weights)?;
    let output = Values::of(context, output)?;
    let pixels = shape.part * shape.pixels as usize;
    // These three are freed at the end, behind all that is launched here.
    let columns = context.uninitialized::<f32>(pixels * shape.depth as usize)?;
    let dz = context.uninitialized::<f32>(pixels * shape.channels as usize)?;
    let blocks_of_a_row = (pixels as u32).div_ceil(COLUMNS_OF_A_BLOCK);
    let sums = context.uninitialized::<f32>(shape.channels as usize * blocks_of_a_row as usize)?;
    let (columns, dz) = (*columns.device_ptr(), *dz.device_ptr());
    let sums_of_bias = if gradients.bias.is_some() { *sums.device_ptr() } else { 0 };
    for (first, images) in shape.parts() {
        let offset = (first * shape.output * size_of::<f32>()) as u64;
        let (dy, y) = (gradients.output + offset, output.pointer() + offset);
        let across = (images as u32 * shape.pixels).div_ceil(COLUMNS_OF_A_BLOCK);
        let grid = (across, shape.channels.min(65_535));
        match shape.tail {
            Tail::Activation(activation) => {
                let (kind, slope) = code(activation);
                let known = if kept.before.is_some() { kept.before(first * shape.output) } else { y };
                let sizes = (images as u32, shape.channels, shape.pixels, COLUMNS_OF_A_BLOCK);
                let arguments = (dz, sums_of_bias, dy, known, kind, slope, sizes.0, sizes.1, sizes.2, sizes.3);
                // SAFETY: dz is of (channels, images * pixels), dy and known have as many values from the part's first
                // image on, and the sums are a value for each block, or null.
                unsafe { context.launch("convolution_output_backward", grid, THREADS, arguments) }?;
            }
            Tail::Pool(pool) => {
                let (cells, pool) = (kept.cells(first * shape.output), shape.pool(images, pool));
                let arguments = (dz, sums_of_bias, dy, y, cells, pool, COLUMNS_OF_A_BLOCK);
                // SAFETY: as above, with the pooled values in dy, y and cells.
                unsafe { context.launch("pool_output_backward", grid, THREADS, arguments) }?;
            }
        }
        if let Some(bias) = gradients.bias {
            let arguments = (bias, sums_of_bias, across, u64::from(shape.channels) * u64::from(across));
            // SAFETY: the sums are of (channels, across), bias of the channels.
            unsafe { context.launch("row_sums", (shape.channels, 1), THREADS, arguments) }?;
        }
        shape.im2col(context, columns, x.pointer(), first, images)?;
        let (m, n, k) = shape.sizes(images);
        let [dweights, windows, doutputs] = shape.matrices(images, gradients.weight, columns, dz);
        // SAFETY: for each group, doutputs are (channels, images * pixels), windows (depth, images * pixels), and
        // dweights (channels, depth).
        unsafe { context.multiply((m, k, n), doutputs, windows.transposed(), dweights, Onto::Add, shape.groups) }?;
        if let Some(dx) = gradients.input {
            let [weights, ..] = shape.matrices(images, weights.pointer(), columns, dz);
            // SAFETY: the same sizes; the windows' values are not needed any more, and their memory takes the gradients.
            unsafe {
                context.multiply((k, n, m), weights.transposed(), doutputs, windows, Onto::Replace, shape.groups)
            }?;
            let to = dx + (first * shape.input * size_of::<f32>()) as u64;
            let rows = planes(images * shape.window.channels);
            let grid = (blocks(shape.window.height * shape.window.width, THREADS), rows);
            // SAFETY: dx has `images` images from `first` on, columns is of (depth, images * pixels).
            unsafe { context.launch("col2im", grid, THREADS, (to, columns, shape.geometry(images))) }?;
        }
    }
    Ok(())
}
