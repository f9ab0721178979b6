//! Convolution as matrix products of the windows' values with the weights, image by image, channels last.
//!
//! Windows are laid out row by row of the kernel: each row of the padded image once, with the values under the kernel's columns
//! side by side. The rows that one row of the kernel meets then lie together, so that there is one product for each of its
//! rows, and a fifth as much to lay out for a kernel of five as with whole windows.

use rayon::prelude::*;

use super::elementwise::add;
use super::images::{add_unpadded, pad};
use super::matmul::{Accum, MatRef, matrix, matrix_mut, multiply};
use super::scratch::Scratch;
use super::winograd::{self, Winograd};
use crate::nn::backend::Convolution;
use crate::nn::window::WindowOver;

/// Pieces that a batch is cut into; each sums its own gradient of the weights.
const CHUNKS: usize = 8;

/// Values of windows laid out at a time, at most: what fits the second cache.
const TILE: usize = 1 << 17;

/// The sizes that the loops need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    c: Convolution,
    /// Channels of a group, in and out.
    channels: usize,
    out_channels: usize,
    /// Values of a window.
    depth: usize,
    /// Matrix products, each with so many values of a window: one for each row of the kernel, or one in all.
    parts: usize,
    part_depth: usize,
    /// Output pixels of an image.
    pub(super) pixels: usize,
    /// Output rows whose windows are laid out at a time.
    tile_rows: usize,
    /// Values of one image, in and out.
    pub(super) image: usize,
    pub(super) out_image: usize,
    /// Images of a chunk.
    pub(super) chunk: usize,
    /// Instead of windows' values.
    winograd: Option<Winograd>,
}

/// Buffers of one piece of work.
pub(super) struct Buffers {
    padded: Scratch,
    columns: Scratch,
    pub(super) y: Scratch,
    winograd: Option<winograd::Buffers>,
}

impl Plan {
    pub(super) fn new(c: &Convolution) -> Self {
        let w = &c.window;
        let channels = w.channels / c.groups;
        let depth = w.kernel.0 * w.kernel.1 * channels;
        let pixels = w.out.0 * w.out.1;
        let parts = if is_cell_major(w, channels) { 1 } else { w.kernel.0 };
        let part_depth = depth / parts.max(1);
        // Rows that only the kernel's reach adds to a tile.
        let halo = if parts == 1 { 0 } else { (w.kernel.0 - 1) * w.dilation.0 };
        let fitting = (TILE / (w.out.1 * part_depth).max(1)).saturating_sub(halo) / w.stride.0;
        Self {
            c: *c,
            channels,
            out_channels: c.out_channels / c.groups,
            depth,
            parts,
            part_depth,
            pixels,
            tile_rows: fitting.clamp(w.out.0.min(4), w.out.0),
            image: w.channels * w.height * w.width,
            out_image: c.out_channels * pixels,
            chunk: w.batch.div_ceil(CHUNKS),
            winograd: Winograd::new(c),
        }
    }

    pub(super) fn buffers(&self) -> Buffers {
        let w = &self.c.window;
        if let Some(winograd) = &self.winograd {
            let none = || Scratch::dirty(0);
            let y = Scratch::dirty(self.out_image);
            return Buffers { padded: none(), columns: none(), y, winograd: Some(winograd.buffers()) };
        }
        Buffers {
            winograd: None,
            padded: Scratch::dirty(w.padded.0 * w.padded.1 * self.channels),
            columns: Scratch::dirty(self.columns_len(self.tile_rows)),
            y: Scratch::dirty(self.out_image),
        }
    }

    /// With one channel windows are laid out cell by cell, since a window's rows would be too short to copy.
    fn is_cell_major(&self) -> bool {
        is_cell_major(&self.c.window, self.channels)
    }

    /// Rows of the padded image from the first to the last that a tile's windows meet.
    fn span(&self, rows: usize) -> usize {
        let w = &self.c.window;
        (rows - 1) * w.stride.0 + (w.kernel.0 - 1) * w.dilation.0 + 1
    }

    /// Where the tile's row of the padded image is laid out. Rows a stride apart lie together, as one row of the kernel meets
    /// them.
    #[inline(always)]
    fn place(&self, row: usize, span: usize) -> usize {
        let stride = self.c.window.stride.0;
        row % stride * span.div_ceil(stride) + row / stride
    }

    /// Values in the layout of a tile.
    fn columns_len(&self, rows: usize) -> usize {
        let w = &self.c.window;
        if self.is_cell_major() {
            return rows * w.out.1 * self.depth;
        }
        self.span(rows).div_ceil(w.stride.0) * w.stride.0 * w.out.1 * self.part_depth
    }

    /// Where in the layout the windows' values under this row of the kernel begin.
    fn part_start(&self, part: usize, rows: usize) -> usize {
        if self.is_cell_major() {
            return 0;
        }
        let w = &self.c.window;
        self.place(part * w.dilation.0, self.span(rows)) * w.out.1 * self.part_depth
    }

    /// Weights from `(out, in, row, column)` to `(group, row, column, in, out)`; and transformed, group by group.
    pub(super) fn pack(&self, weight: &[f32]) -> Scratch {
        let mut packed = Scratch::dirty(weight.len());
        self.each_weight(|position, place| packed[place] = weight[position]);
        let Some(winograd) = &self.winograd else { return packed };
        let mut transformed = Scratch::dirty(self.c.groups * winograd.weights_len());
        let groups = packed.chunks_exact(self.depth * self.out_channels);
        for (weights, transformed) in groups.zip(transformed.chunks_exact_mut(winograd.weights_len())) {
            winograd.transform_weights(weights, transformed);
        }
        transformed
    }

    fn add_unpacked(&self, packed: &[f32], weight: &mut [f32]) {
        let Some(winograd) = &self.winograd else {
            self.each_weight(|position, place| weight[position] += packed[place]);
            return;
        };
        let mut restored = Scratch::dirty(weight.len());
        let groups = restored.chunks_exact_mut(self.depth * self.out_channels);
        for (weights, transformed) in groups.zip(packed.chunks_exact(winograd.weights_len())) {
            winograd.restore_weights(transformed, weights);
        }
        self.each_weight(|position, place| weight[position] += restored[place]);
    }

    #[inline(always)]
    fn each_weight(&self, mut f: impl FnMut(usize, usize)) {
        let cells = self.c.window.kernel.0 * self.c.window.kernel.1;
        let (channels, outs) = (self.channels, self.out_channels);
        for group in 0..self.c.groups {
            let group_start = group * self.depth * outs;
            for cell in 0..cells {
                for channel in 0..channels {
                    let place = group_start + (cell * channels + channel) * outs;
                    for out in 0..outs {
                        f(((group * outs + out) * channels + channel) * cells + cell, place + out);
                    }
                }
            }
        }
    }

    /// Calls `f` with each run of values that lie together both in the padded image and in the layout of windows:
    /// (start in the image, start in the layout, length).
    #[inline(always)]
    fn each_run(&self, first_row: usize, rows: usize, mut f: impl FnMut(usize, usize, usize)) {
        let w = &self.c.window;
        let (channels, out_width) = (self.channels, w.out.1);
        if self.is_cell_major() {
            let mut to = 0;
            for ky in 0..w.kernel.0 {
                for kx in 0..w.kernel.1 {
                    for y in first_row..first_row + rows {
                        f((y * w.stride.0 + ky * w.dilation.0) * w.padded.1 + kx * w.dilation.1, to, out_width);
                        to += out_width;
                    }
                }
            }
            return;
        }
        let (steps, run) = if w.dilation.1 == 1 { (1, w.kernel.1 * channels) } else { (w.kernel.1, channels) };
        let span = self.span(rows);
        for row in 0..span {
            let is_met = |ky: usize| {
                row.checked_sub(ky * w.dilation.0).is_some_and(|row| row % w.stride.0 == 0 && row / w.stride.0 < rows)
            };
            if !(0..w.kernel.0).any(is_met) {
                continue;
            }
            let mut to = self.place(row, span) * out_width * self.part_depth;
            let row = (first_row * w.stride.0 + row) * w.padded.1;
            for x in 0..out_width {
                for kx in 0..steps {
                    f((row + x * w.stride.1 + kx * w.dilation.1) * channels, to, run);
                    to += run;
                }
            }
        }
    }

    fn lay_out(&self, padded: &[f32], first_row: usize, rows: usize, columns: &mut [f32]) {
        super::vectorized(
            #[inline(always)]
            || {
                self.each_run(first_row, rows, |from, to, len| {
                    columns[to..to + len].copy_from_slice(&padded[from..from + len]);
                });
            },
        );
    }

    fn add_back(&self, columns: &[f32], first_row: usize, rows: usize, padded: &mut [f32]) {
        super::vectorized(
            #[inline(always)]
            || {
                self.each_run(first_row, rows, |to, from, len| {
                    for (to, from) in padded[to..to + len].iter_mut().zip(&columns[from..from + len]) {
                        *to += from;
                    }
                });
            },
        );
    }

    /// A part of the layout as `(pixels, values)`.
    fn part<'a>(&self, columns: &'a [f32], part: usize, rows: usize) -> MatRef<'a, f32> {
        let pixels = rows * self.c.window.out.1;
        let columns = &columns[self.part_start(part, rows)..][..pixels * self.part_depth];
        if self.is_cell_major() {
            matrix(columns, self.part_depth, pixels).transpose()
        } else {
            matrix(columns, pixels, self.part_depth)
        }
    }

    /// The packed weights of a part, of one group.
    fn part_weights(&self, part: usize) -> std::ops::Range<usize> {
        let len = self.part_depth * self.out_channels;
        part * len..(part + 1) * len
    }

    /// The first row and number of rows of each tile.
    fn tiles(self) -> impl Iterator<Item = (usize, usize)> {
        let rows = self.c.window.out.0;
        (0..rows).step_by(self.tile_rows).map(move |first| (first, self.tile_rows.min(rows - first)))
    }

    fn group_image(&self, group: usize) -> std::ops::Range<usize> {
        let len = self.image / self.c.groups;
        group * len..(group + 1) * len
    }

    fn group_weights(&self, group: usize) -> std::ops::Range<usize> {
        let len = self.weights_len();
        group * len..(group + 1) * len
    }

    /// Values of a group's packed weights.
    fn weights_len(&self) -> usize {
        self.winograd.map_or(self.depth * self.out_channels, |winograd| winograd.weights_len())
    }

    /// `y`, as `(pixels, out channels)`, of one image.
    pub(super) fn forward(&self, image: &[f32], weights: &[f32], buffers: &mut Buffers) {
        let Buffers { padded, columns, y, winograd } = buffers;
        if let (Some(plan), Some(buffers)) = (&self.winograd, winograd) {
            for group in 0..self.c.groups {
                plan.forward(&image[self.group_image(group)], &weights[self.group_weights(group)], group, y, buffers);
            }
            return;
        }
        let (w, outs, all_outs) = (&self.c.window, self.out_channels, self.c.out_channels);
        for group in 0..self.c.groups {
            pad(&image[self.group_image(group)], self.channels, w, padded);
            let weights = &weights[self.group_weights(group)];
            for (first, rows) in self.tiles() {
                self.lay_out(padded, first, rows, columns);
                let pixels = rows * w.out.1;
                let y = &mut y[first * w.out.1 * all_outs..][..pixels * all_outs];
                let mut y = matrix_mut(y, pixels, all_outs).subcols_mut(group * outs, outs);
                for part in 0..self.parts {
                    let accum = if part == 0 { Accum::Replace } else { Accum::Add };
                    let weights = matrix(&weights[self.part_weights(part)], self.part_depth, outs);
                    multiply(y.as_mut(), accum, self.part(columns, part, rows), weights);
                }
            }
        }
    }

    /// Adds to the packed gradient of the weights and to that of the image, given that of `y` in the buffers.
    fn backward(
        &self,
        image: &[f32],
        weights: &[f32],
        buffers: &mut Buffers,
        dw: &mut [f32],
        dx: &mut [f32],
        dpadded: &mut Scratch,
    ) {
        let Buffers { padded, columns, y: dy, winograd } = buffers;
        if let (Some(plan), Some(buffers)) = (&self.winograd, winograd) {
            for group in 0..self.c.groups {
                let (range, place) = (self.group_image(group), self.group_weights(group));
                let dx = if dx.is_empty() { &mut [] } else { &mut dx[range.clone()] };
                plan.backward(&image[range], &weights[place.clone()], group, dy, buffers, &mut dw[place], dx);
            }
            return;
        }
        let (w, outs, all_outs) = (&self.c.window, self.out_channels, self.c.out_channels);
        for group in 0..self.c.groups {
            pad(&image[self.group_image(group)], self.channels, w, padded);
            let weights = &weights[self.group_weights(group)];
            let dw = &mut dw[self.group_weights(group)];
            if !dx.is_empty() {
                dpadded.fill(0.0);
            }
            for (first, rows) in self.tiles() {
                let pixels = rows * w.out.1;
                let dy = matrix(&dy[first * w.out.1 * all_outs..][..pixels * all_outs], pixels, all_outs);
                let dy = dy.subcols(group * outs, outs);
                self.lay_out(padded, first, rows, columns);
                for part in 0..self.parts {
                    let dw = matrix_mut(&mut dw[self.part_weights(part)], self.part_depth, outs);
                    multiply(dw, Accum::Add, self.part(columns, part, rows).transpose(), dy);
                }
                if dx.is_empty() {
                    continue;
                }
                let len = self.columns_len(rows);
                columns[..len].fill(0.0);
                for part in 0..self.parts {
                    let weights = matrix(&weights[self.part_weights(part)], self.part_depth, outs);
                    let dcolumns = &mut columns[self.part_start(part, rows)..][..pixels * self.part_depth];
                    if self.is_cell_major() {
                        let dcolumns = matrix_mut(dcolumns, self.part_depth, pixels);
                        multiply(dcolumns, Accum::Add, weights, dy.transpose());
                    } else {
                        multiply(matrix_mut(dcolumns, pixels, self.part_depth), Accum::Add, dy, weights.transpose());
                    }
                }
                self.add_back(columns, first, rows, dpadded);
            }
            if !dx.is_empty() {
                add_unpadded(dpadded, self.channels, w, &mut dx[self.group_image(group)]);
            }
        }
    }

    /// The backward pass over a batch: `make_dy` writes an image's gradient of `y` to the buffers.
    pub(super) fn backward_batch(
        &self,
        images: &[f32],
        weights: &[f32],
        gradients: &mut [Vec<f32>],
        has_bias: bool,
        make_dy: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let outs = self.c.out_channels;
        let (dw, rest) = gradients.split_at_mut(1);
        let (db, dx) = rest.split_at_mut(usize::from(has_bias));
        let chunk_len = self.chunk * self.image;
        let mut dx: Vec<&mut [f32]> = match dx.first_mut() {
            Some(dx) => dx.chunks_mut(chunk_len).collect(),
            None => images.chunks(chunk_len).map(|_| <&mut [f32]>::default()).collect(),
        };
        let partial: Vec<(Scratch, Scratch)> = dx
            .par_iter_mut()
            .zip(images.par_chunks(chunk_len))
            .enumerate()
            .map(|(chunk, (dx, images))| {
                let mut buffers = self.buffers();
                let mut dpadded = Scratch::dirty(if dx.is_empty() { 0 } else { buffers.padded.len() });
                let mut dw = Scratch::zeros(self.c.groups * self.weights_len());
                let mut db = Scratch::zeros(outs);
                for (index, image) in images.chunks_exact(self.image).enumerate() {
                    make_dy(chunk * self.chunk + index, &mut buffers.y);
                    for pixel in buffers.y.chunks_exact(outs) {
                        add(&mut db, pixel);
                    }
                    let dx = dx.chunks_exact_mut(self.image).nth(index).unwrap_or_default();
                    self.backward(image, weights, &mut buffers, &mut dw, dx, &mut dpadded);
                }
                (dw, db)
            })
            .collect();
        let mut partial = partial.into_iter();
        let Some((mut dw_sum, mut db_sum)) = partial.next() else { return };
        for (dw, db) in partial {
            add(&mut dw_sum, &dw);
            add(&mut db_sum, &db);
        }
        self.add_unpacked(&dw_sum, &mut dw[0]);
        if let Some(db) = db.first_mut() {
            add(db, &db_sum);
        }
    }
}

fn is_cell_major(w: &WindowOver, channels: usize) -> bool {
    channels == 1 && w.stride.1 == 1
}
