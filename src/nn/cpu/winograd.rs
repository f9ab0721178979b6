//! Convolution with fewer multiplications: Winograd's minimal filtering (Lavin and Gray 2016,
//! <https://arxiv.org/abs/1509.09308>), at the points 0, 1, -1, 2, -2 and infinity.
//!
//! The image is cut into overlapping tiles of 6 × 6 values, and image and kernel are transformed so that a tile of 4 × 4 outputs
//! of a 3 × 3 kernel, or 2 × 2 of a 5 × 5 one, takes 36 multiplications for each pair of channels instead of 144 or 100. Over
//! all tiles these are 36 matrix products. Everything is linear, so the backward pass is made of the transposed transforms.
//! Results differ from those of plain sums by rounding, about as the order of summation would make them differ.

use super::images::{add_unpadded, pad};
use super::matmul::{Accum, MatMut, MatRef, matrix, matrix_mut, multiply};
use super::scratch::Scratch;
use crate::nn::backend::Convolution;
use crate::nn::window::WindowOver;

/// The side of a tile.
const SIDE: usize = 6;

/// The values of a tile, and so the number of matrix products.
const CELLS: usize = SIDE * SIDE;

/// Values of transformed tiles at a time, at most: what fits the second cache.
const BAND: usize = 200_000;

/// One group of a convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Winograd {
    channels: usize,
    outs: usize,
    all_outs: usize,
    kernel: usize,
    /// Outputs along the side of a tile.
    step: usize,
    /// Rows and columns of tiles.
    tiles: (usize, usize),
    /// Rows of tiles that are transformed at a time.
    band: usize,
    /// The convolution's, with padding up to whole tiles.
    window: WindowOver,
}

/// Buffers of one piece of work.
pub(super) struct Buffers {
    padded: Scratch,
    /// The tiles of the image, and of the outputs, as `(cell, tile, channel)`.
    inputs: Scratch,
    outputs: Scratch,
    /// A row of tiles between its two transforms, along rows and columns.
    input_rows: Scratch,
    output_rows: Scratch,
    /// A row of tiles' outputs as they are in the image.
    image_rows: Scratch,
    /// The gradient of the padded image.
    dpadded: Scratch,
}

impl Winograd {
    /// How to compute this convolution so, if it is one that gains by it.
    pub(super) fn new(c: &Convolution) -> Option<Self> {
        let w = c.window;
        let (channels, outs) = (w.channels / c.groups, c.out_channels / c.groups);
        let kernel = w.kernel.0;
        let is_dense = w.kernel.1 == kernel && w.stride == (1, 1) && w.dilation == (1, 1);
        // Few channels do not pay for the transforms.
        if !is_dense || !(kernel == 3 || kernel == 5) || channels < 16 || outs < 16 {
            return None;
        }
        let step = SIDE + 1 - kernel;
        let tiles = (w.out.0.div_ceil(step), w.out.1.div_ceil(step));
        // Small images waste much of their tiles.
        if CELLS * tiles.0 * tiles.1 * 2 > w.out.0 * w.out.1 * kernel * kernel {
            return None;
        }
        let padded = (tiles.0 * step + kernel - 1, tiles.1 * step + kernel - 1);
        let band = (BAND / (CELLS * (channels + outs) * tiles.1)).clamp(1, tiles.0);
        let window = WindowOver { padded, ..w };
        Some(Self { channels, outs, all_outs: c.out_channels, kernel, step, tiles, band, window })
    }

    /// Values of a group's transformed weights.
    pub(super) fn weights_len(&self) -> usize {
        CELLS * self.channels * self.outs
    }

    pub(super) fn buffers(&self) -> Buffers {
        let tiles = self.band * self.tiles.1;
        let padded = self.window.padded.0 * self.window.padded.1 * self.channels;
        Buffers {
            padded: Scratch::dirty(padded),
            inputs: Scratch::dirty(CELLS * tiles * self.channels),
            outputs: Scratch::dirty(CELLS * tiles * self.outs),
            input_rows: Scratch::dirty(SIDE * self.input_width()),
            output_rows: Scratch::dirty(SIDE * self.output_width()),
            image_rows: Scratch::dirty(self.step * self.output_width()),
            dpadded: Scratch::dirty(padded),
        }
    }

    /// Values in a row of the padded image.
    fn input_width(&self) -> usize {
        self.window.padded.1 * self.channels
    }

    /// Values in a row of outputs, up to whole tiles.
    fn output_width(&self) -> usize {
        self.tiles.1 * self.step * self.outs
    }

    /// A group's weights, from `(row, column, in, out)` to `(cell, in, out)`.
    pub(super) fn transform_weights(&self, weights: &[f32], transformed: &mut [f32]) {
        let len = self.channels * self.outs;
        let mut rows = Scratch::dirty(SIDE * self.kernel * len);
        super::vectorized(
            #[inline(always)]
            || {
                for (j, rows) in rows.chunks_exact_mut(self.kernel * len).enumerate() {
                    let taps = weights.chunks_exact(self.kernel * len);
                    combine(rows, taps, &kernel_row(j, self.kernel)[..self.kernel]);
                }
                for (cell, out) in transformed.chunks_exact_mut(len).enumerate() {
                    let taps = rows[cell / SIDE * self.kernel * len..].chunks_exact(len);
                    combine(out, taps, &kernel_row(cell % SIDE, self.kernel)[..self.kernel]);
                }
            },
        );
    }

    /// The transposed transform: a group's gradient of the weights from that of the transformed ones.
    pub(super) fn restore_weights(&self, transformed: &[f32], weights: &mut [f32]) {
        let len = self.channels * self.outs;
        let mut rows = Scratch::dirty(SIDE * self.kernel * len);
        let column = |i: usize| std::array::from_fn::<f32, SIDE, _>(|j| kernel_row(j, self.kernel)[i]);
        super::vectorized(
            #[inline(always)]
            || {
                for (at, out) in rows.chunks_exact_mut(len).enumerate() {
                    let cells = transformed[at / self.kernel * SIDE * len..].chunks_exact(len);
                    combine(out, cells, &column(at % self.kernel));
                }
                for (i, out) in weights.chunks_exact_mut(self.kernel * len).enumerate() {
                    combine(out, rows.chunks_exact(self.kernel * len), &column(i));
                }
            },
        );
    }

    /// The first row of tiles and the number of rows of each band.
    fn bands(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.tiles.0).step_by(self.band).map(move |first| (first, self.band.min(self.tiles.0 - first)))
    }

    /// A cell of transformed tiles, of so many channels.
    fn cell(values: &[f32], cell: usize, tiles: usize, channels: usize) -> MatRef<'_, f32> {
        matrix(&values[cell * tiles * channels..][..tiles * channels], tiles, channels)
    }

    fn cell_mut(values: &mut [f32], cell: usize, tiles: usize, channels: usize) -> MatMut<'_, f32> {
        matrix_mut(&mut values[cell * tiles * channels..][..tiles * channels], tiles, channels)
    }

    fn weight<'w>(&self, weights: &'w [f32], cell: usize) -> MatRef<'w, f32> {
        Self::cell(weights, cell, self.channels, self.outs)
    }

    /// Writes a group's part of `y`, as `(pixels, out channels)`, given the channels of its image.
    pub(super) fn forward(&self, image: &[f32], weights: &[f32], group: usize, y: &mut [f32], buffers: &mut Buffers) {
        pad(image, self.channels, &self.window, &mut buffers.padded);
        for (first, rows) in self.bands() {
            let tiles = rows * self.tiles.1;
            self.transform_image(first, rows, buffers);
            for cell in 0..CELLS {
                let out = Self::cell_mut(&mut buffers.outputs, cell, tiles, self.outs);
                let inputs = Self::cell(&buffers.inputs, cell, tiles, self.channels);
                multiply(out, Accum::Replace, inputs, self.weight(weights, cell));
            }
            for row in 0..rows {
                self.restore_outputs(row, tiles, buffers);
                self.put_rows(first + row, group, &buffers.image_rows, y);
            }
        }
    }

    /// Adds to the gradient of the transformed weights and, unless it is empty, to that of the image, given that of `y`.
    pub(super) fn backward(
        &self,
        image: &[f32],
        weights: &[f32],
        group: usize,
        dy: &[f32],
        buffers: &mut Buffers,
        dw: &mut [f32],
        dx: &mut [f32],
    ) {
        pad(image, self.channels, &self.window, &mut buffers.padded);
        if !dx.is_empty() {
            buffers.dpadded.fill(0.0);
        }
        for (first, rows) in self.bands() {
            let tiles = rows * self.tiles.1;
            self.transform_image(first, rows, buffers);
            for row in 0..rows {
                self.get_rows(first + row, group, dy, &mut buffers.image_rows);
                self.restore_outputs_transposed(row, tiles, buffers);
            }
            for cell in 0..CELLS {
                let dw = Self::cell_mut(dw, cell, self.channels, self.outs);
                let inputs = Self::cell(&buffers.inputs, cell, tiles, self.channels);
                multiply(dw, Accum::Add, inputs.transpose(), Self::cell(&buffers.outputs, cell, tiles, self.outs));
            }
            if dx.is_empty() {
                continue;
            }
            for cell in 0..CELLS {
                let inputs = Self::cell_mut(&mut buffers.inputs, cell, tiles, self.channels);
                let outputs = Self::cell(&buffers.outputs, cell, tiles, self.outs);
                multiply(inputs, Accum::Replace, outputs, self.weight(weights, cell).transpose());
            }
            for row in 0..rows {
                self.transform_image_transposed(first + row, row, tiles, buffers);
            }
        }
        if !dx.is_empty() {
            add_unpadded(&buffers.dpadded, self.channels, &self.window, dx);
        }
    }

    /// The rows of tiles from `first` on, transformed.
    fn transform_image(&self, first: usize, rows: usize, buffers: &mut Buffers) {
        let Buffers { padded, inputs, input_rows, .. } = buffers;
        let (width, channels, tiles) = (self.input_width(), self.channels, rows * self.tiles.1);
        super::vectorized(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let from = &padded[(first + row) * self.step * width..];
                    let from = pieces::<SIDE>(from, width, width);
                    apply(from, split::<SIDE>(input_rows, width), data);
                    for (line, cells) in input_rows
                        .chunks_exact(width)
                        .zip(inputs[..CELLS * tiles * channels].chunks_exact_mut(SIDE * tiles * channels))
                    {
                        let mut cells = split::<SIDE>(cells, tiles * channels);
                        for column in 0..self.tiles.1 {
                            let from = &line[column * self.step * channels..][..SIDE * channels];
                            let from = pieces::<SIDE>(from, channels, channels);
                            let start = (row * self.tiles.1 + column) * channels;
                            apply(from, at(&mut cells, start, channels), data);
                        }
                    }
                }
            },
        );
    }

    /// Adds what a row of transformed tiles' gradients makes of the padded image's.
    fn transform_image_transposed(&self, image_row: usize, row: usize, tiles: usize, buffers: &mut Buffers) {
        let Buffers { dpadded, inputs, input_rows, .. } = buffers;
        let (width, channels) = (self.input_width(), self.channels);
        super::vectorized(
            #[inline(always)]
            || {
                input_rows.fill(0.0);
                for (line, cells) in input_rows
                    .chunks_exact_mut(width)
                    .zip(inputs[..CELLS * tiles * channels].chunks_exact(SIDE * tiles * channels))
                {
                    for column in 0..self.tiles.1 {
                        let start = (row * self.tiles.1 + column) * channels;
                        let from = pieces::<SIDE>(&cells[start..], tiles * channels, channels);
                        let to = &mut line[column * self.step * channels..][..SIDE * channels];
                        apply_adding(from, split::<SIDE>(to, channels), data_transposed);
                    }
                }
                let from = pieces::<SIDE>(input_rows, width, width);
                let to = &mut dpadded[image_row * self.step * width..][..SIDE * width];
                apply_adding(from, split::<SIDE>(to, width), data_transposed);
            },
        );
    }

    /// The outputs of a row of tiles, to `image_rows`.
    fn restore_outputs(&self, row: usize, tiles: usize, buffers: &mut Buffers) {
        match self.step {
            2 => self.restore_outputs_of::<2>(row, tiles, buffers),
            _ => self.restore_outputs_of::<4>(row, tiles, buffers),
        }
    }

    fn restore_outputs_of<const STEP: usize>(&self, row: usize, tiles: usize, buffers: &mut Buffers) {
        let Buffers { outputs, output_rows, image_rows, .. } = buffers;
        let (width, outs) = (self.output_width(), self.outs);
        super::vectorized(
            #[inline(always)]
            || {
                for (line, cells) in output_rows
                    .chunks_exact_mut(width)
                    .zip(outputs[..CELLS * tiles * outs].chunks_exact(SIDE * tiles * outs))
                {
                    for (column, to) in line.chunks_exact_mut(STEP * outs).enumerate() {
                        let start = (row * self.tiles.1 + column) * outs;
                        let from = pieces::<SIDE>(&cells[start..], tiles * outs, outs);
                        apply(from, split::<STEP>(to, outs), output::<STEP>);
                    }
                }
                let from = pieces::<SIDE>(output_rows, width, width);
                apply(from, split::<STEP>(image_rows, width), output::<STEP>);
            },
        );
    }

    /// The gradients of a row of transformed tiles' outputs from those in `image_rows`.
    fn restore_outputs_transposed(&self, row: usize, tiles: usize, buffers: &mut Buffers) {
        match self.step {
            2 => self.restore_outputs_transposed_of::<2>(row, tiles, buffers),
            _ => self.restore_outputs_transposed_of::<4>(row, tiles, buffers),
        }
    }

    fn restore_outputs_transposed_of<const STEP: usize>(&self, row: usize, tiles: usize, buffers: &mut Buffers) {
        let Buffers { outputs, output_rows, image_rows, .. } = buffers;
        let (width, outs) = (self.output_width(), self.outs);
        super::vectorized(
            #[inline(always)]
            || {
                let from = pieces::<STEP>(image_rows, width, width);
                apply(from, split::<SIDE>(output_rows, width), output_transposed::<STEP>);
                for (line, cells) in output_rows
                    .chunks_exact(width)
                    .zip(outputs[..CELLS * tiles * outs].chunks_exact_mut(SIDE * tiles * outs))
                {
                    let mut cells = split::<SIDE>(cells, tiles * outs);
                    for (column, from) in line.chunks_exact(STEP * outs).enumerate() {
                        let from = pieces::<STEP>(from, outs, outs);
                        let start = (row * self.tiles.1 + column) * outs;
                        apply(from, at(&mut cells, start, outs), output_transposed::<STEP>);
                    }
                }
            },
        );
    }

    /// The rows of the image that a row of tiles has outputs for, each with where its values lie in `y`.
    fn image_rows(&self, row: usize) -> impl Iterator<Item = (usize, usize)> {
        let out = self.window.out;
        (row * self.step..((row + 1) * self.step).min(out.0)).map(move |y| y * out.1 * self.all_outs).enumerate()
    }

    /// Puts what is inside the image of a row of tiles' outputs into `y`.
    fn put_rows(&self, row: usize, group: usize, image_rows: &[f32], y: &mut [f32]) {
        let (width, outs, all_outs) = (self.window.out.1, self.outs, self.all_outs);
        for (at, start) in self.image_rows(row) {
            let from = &image_rows[at * self.output_width()..][..width * outs];
            let to = &mut y[start..][..width * all_outs];
            if outs == all_outs {
                to.copy_from_slice(from);
                continue;
            }
            for (to, from) in to.chunks_exact_mut(all_outs).zip(from.chunks_exact(outs)) {
                to[group * outs..][..outs].copy_from_slice(from);
            }
        }
    }

    /// The reverse: zeros where a tile reaches beyond the image.
    fn get_rows(&self, row: usize, group: usize, y: &[f32], image_rows: &mut [f32]) {
        let (width, outs, all_outs) = (self.window.out.1, self.outs, self.all_outs);
        image_rows.fill(0.0);
        for (at, start) in self.image_rows(row) {
            let to = &mut image_rows[at * self.output_width()..][..width * outs];
            for (to, from) in to.chunks_exact_mut(outs).zip(y[start..].chunks_exact(all_outs)) {
                to.copy_from_slice(&from[group * outs..][..outs]);
            }
        }
    }
}

/// Pieces of a slice, each so far behind the one before.
#[inline(always)]
fn pieces<const N: usize>(values: &[f32], distance: usize, len: usize) -> [&[f32]; N] {
    let mut pieces: [&[f32]; N] = [&[]; N];
    for (k, piece) in pieces.iter_mut().enumerate() {
        *piece = &values[k * distance..][..len];
    }
    pieces
}

/// Equal pieces of a slice.
#[inline(always)]
fn split<const N: usize>(values: &mut [f32], len: usize) -> [&mut [f32]; N] {
    let mut pieces = values.chunks_exact_mut(len);
    std::array::from_fn(|_| pieces.next().unwrap_or_default())
}

/// The same place of each.
#[inline(always)]
fn at<'v, const N: usize>(values: &'v mut [&mut [f32]; N], start: usize, len: usize) -> [&'v mut [f32]; N] {
    let mut pieces = values.iter_mut();
    std::array::from_fn(|_| pieces.next().map(|values| &mut values[start..start + len]).unwrap_or_default())
}

/// Applies `f` at every place.
#[inline(always)]
fn apply<const I: usize, const O: usize>(from: [&[f32]; I], to: [&mut [f32]; O], f: impl Fn([f32; I]) -> [f32; O]) {
    each(from, to, f, |to, value| *to = value);
}

/// The same, adding to what is there.
#[inline(always)]
fn apply_adding<const I: usize, const O: usize>(
    from: [&[f32]; I],
    to: [&mut [f32]; O],
    f: impl Fn([f32; I]) -> [f32; O],
) {
    each(from, to, f, |to, value| *to += value);
}

#[inline(always)]
fn each<const I: usize, const O: usize>(
    mut from: [&[f32]; I],
    to: [&mut [f32]; O],
    f: impl Fn([f32; I]) -> [f32; O],
    put: impl Fn(&mut f32, f32),
) {
    let len = to[0].len();
    for values in &mut from {
        *values = &values[..len];
    }
    let mut to = to.into_iter();
    let pieces: [&mut [f32]; O] = std::array::from_fn(|_| to.next().map(|to| &mut to[..len]).unwrap_or_default());
    // `array::map` is not always inlined, and what is not inlined is not compiled for wide vectors.
    for place in 0..len {
        let mut values = [0.0; I];
        for k in 0..I {
            values[k] = from[k][place];
        }
        let found = f(values);
        for k in 0..O {
            put(&mut pieces[k][place], found[k]);
        }
    }
}

/// `out = Σ factor · values`.
#[inline(always)]
fn combine<'v>(out: &mut [f32], values: impl Iterator<Item = &'v [f32]>, factors: &[f32]) {
    out.fill(0.0);
    for (values, &factor) in values.zip(factors) {
        for (out, value) in out.iter_mut().zip(values) {
            *out += factor * value;
        }
    }
}

/// A row of the kernel's transform: `p^i / N(p)` at the finite points, the last tap at infinity.
fn kernel_row(point: usize, kernel: usize) -> [f32; 5] {
    let (p, scale) = match point {
        0 => (0.0, 1.0 / 4.0),
        1 => (1.0, -1.0 / 6.0),
        2 => (-1.0, -1.0 / 6.0),
        3 => (2.0, 1.0 / 24.0),
        4 => (-2.0, 1.0 / 24.0),
        _ => return std::array::from_fn(|i| if i + 1 == kernel { 1.0 } else { 0.0 }),
    };
    let power = |i: usize| (0..i).fold(1.0f32, |power, _| power * p);
    std::array::from_fn(|i| if i < kernel { power(i) * scale } else { 0.0 })
}

/// The transform of the data along one side of a tile.
#[inline(always)]
fn data([d0, d1, d2, d3, d4, d5]: [f32; SIDE]) -> [f32; SIDE] {
    let (even, odd) = (d4 - 4.0 * d2, d3 - 4.0 * d1);
    let (even2, odd2) = (d4 - d2, 2.0 * (d3 - d1));
    [4.0 * d0 - 5.0 * d2 + d4, even + odd, even - odd, even2 + odd2, even2 - odd2, 4.0 * d1 - 5.0 * d3 + d5]
}

#[inline(always)]
fn data_transposed([v0, v1, v2, v3, v4, v5]: [f32; SIDE]) -> [f32; SIDE] {
    let (sum, difference) = (v1 + v2, v1 - v2);
    let (sum2, difference2) = (v3 + v4, 2.0 * (v3 - v4));
    [
        4.0 * v0,
        4.0 * v5 - 4.0 * difference - difference2,
        -5.0 * v0 - 4.0 * sum - sum2,
        difference + difference2 - 5.0 * v5,
        v0 + sum + sum2,
        v5,
    ]
}

/// The outputs along one side of a tile.
#[inline(always)]
fn output<const STEP: usize>([s0, s1, s2, s3, s4, s5]: [f32; SIDE]) -> [f32; STEP] {
    let (sum, difference) = (s1 + s2, s1 - s2);
    let (sum2, difference2) = (s3 + s4, s3 - s4);
    let mut out = [0.0; STEP];
    out[0] = s0 + sum + sum2;
    out[1] = difference + 2.0 * difference2;
    if STEP == 4 {
        out[2] = sum + 4.0 * sum2;
        out[3] = difference + 8.0 * difference2;
    }
    out[STEP - 1] += s5;
    out
}

#[inline(always)]
fn output_transposed<const STEP: usize>(y: [f32; STEP]) -> [f32; SIDE] {
    let (y2, y3) = if STEP == 4 { (y[2], y[3]) } else { (0.0, 0.0) };
    let (even, odd) = (y[0] + y2, y[1] + y3);
    let (even2, odd2) = (y[0] + 4.0 * y2, 2.0 * y[1] + 8.0 * y3);
    [y[0], even + odd, even - odd, even2 + odd2, even2 - odd2, y[STEP - 1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Padding, Window};

    fn convolution(channels: usize, outs: usize, kernel: usize, stride: usize, side: usize) -> Convolution {
        let window =
            Window { kernel: kernel.into(), stride: stride.into(), dilation: 1.into(), padding: Padding::Same };
        let window = window.over("test", 2, channels, side, side).unwrap();
        Convolution { window, out_channels: outs, groups: 1, input_gradient: true }
    }

    #[test]
    fn it_is_chosen_where_it_gains() {
        assert!(Winograd::new(&convolution(32, 64, 5, 1, 14)).is_some());
        assert!(Winograd::new(&convolution(16, 16, 3, 1, 8)).is_some());
        for (channels, outs, kernel, stride, side) in [
            (1, 64, 5, 1, 14),
            (32, 8, 3, 1, 14),
            (32, 32, 7, 1, 14),
            (32, 32, 3, 2, 14),
            (32, 32, 1, 1, 14),
            (32, 32, 3, 1, 1),
        ] {
            let found = Winograd::new(&convolution(channels, outs, kernel, stride, side));
            assert!(found.is_none(), "{found:?}");
        }
    }

    /// One output along a side by hand: the taps 1 to r on the values of a ramp and of an impulse.
    #[test]
    fn one_side_of_a_tile_is_a_correlation() {
        for kernel in [3, 5] {
            for values in
                [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0], [0.5, -3.0, 2.0, 0.25, -1.0, 7.0]]
            {
                let transformed = data(values);
                let products: [f32; SIDE] = std::array::from_fn(|point| {
                    let row = kernel_row(point, kernel);
                    (0..kernel).map(|tap| row[tap] * (tap + 1) as f32).sum::<f32>() * transformed[point]
                });
                let expected = |at: usize| (0..kernel).map(|tap| (tap + 1) as f32 * values[at + tap]).sum::<f32>();
                let found = if kernel == 3 { output::<4>(products).to_vec() } else { output::<2>(products).to_vec() };
                for (at, found) in found.into_iter().enumerate() {
                    assert!((found - expected(at)).abs() < 1e-4, "{kernel} {at}: {found} {}", expected(at));
                }
            }
        }
    }
}
