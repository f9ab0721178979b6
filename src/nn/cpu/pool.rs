//! Pools.

use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;
use rayon::prelude::*;

use super::record::{flat, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::backend::{Images, Pooling};
use crate::nn::reference::counts;
use crate::nn::window::WindowOver;

/// The largest value of each block of `pool` pixels, and which of the block's cells it was: channels last.
pub(super) fn max_blocks(
    y: &[f32],
    width: usize,
    channels: usize,
    pool: (usize, usize),
    pooled: (usize, usize),
    largest: &mut [f32],
    chosen: &mut [u8],
) {
    super::vectorized(
        #[inline(always)]
        || {
            let outputs = largest.chunks_exact_mut(channels).zip(chosen.chunks_exact_mut(channels));
            for (index, (largest, chosen)) in outputs.enumerate() {
                let (row, column) = (index / pooled.1 * pool.0, index % pooled.1 * pool.1);
                for cell in 0..pool.0 * pool.1 {
                    let pixel = (row + cell / pool.1) * width + column + cell % pool.1;
                    let values = &y[pixel * channels..][..channels];
                    if cell == 0 {
                        largest.copy_from_slice(values);
                        chosen.fill(0);
                        continue;
                    }
                    for ((largest, chosen), value) in largest.iter_mut().zip(chosen.iter_mut()).zip(values) {
                        // NaN wins and stays.
                        let wins = *value > *largest || value.is_nan();
                        *largest = if wins { *value } else { *largest };
                        *chosen = if wins { cell as u8 } else { *chosen };
                    }
                }
            }
        },
    );
}

/// The same without which cell it was, as evaluation needs it.
pub(super) fn largest_of_blocks(
    y: &[f32],
    width: usize,
    channels: usize,
    pool: (usize, usize),
    pooled: (usize, usize),
    largest: &mut [f32],
) {
    super::vectorized(
        #[inline(always)]
        || {
            for (index, largest) in largest.chunks_exact_mut(channels).enumerate() {
                let (row, column) = (index / pooled.1 * pool.0, index % pooled.1 * pool.1);
                for cell in 0..pool.0 * pool.1 {
                    let pixel = (row + cell / pool.1) * width + column + cell % pool.1;
                    let values = &y[pixel * channels..][..channels];
                    if cell == 0 {
                        largest.copy_from_slice(values);
                        continue;
                    }
                    for (largest, value) in largest.iter_mut().zip(values) {
                        // NaN wins and stays.
                        *largest = if *value > *largest || value.is_nan() { *value } else { *largest };
                    }
                }
            }
        },
    );
}

/// Where ReLU gave 0 no cell was chosen, and none receives the gradient.
pub(super) fn forget_clipped(values: &[f32], chosen: &mut [u8]) {
    super::vectorized(
        #[inline(always)]
        || {
            for (chosen, value) in chosen.iter_mut().zip(values) {
                *chosen = if *value > 0.0 { *chosen } else { u8::MAX };
            }
        },
    );
}

/// The gradient of [`max_blocks`]: each value to the cell that was chosen, zero elsewhere.
pub(super) fn unpool_blocks(
    dy: &[f32],
    chosen: &[u8],
    (height, width): (usize, usize),
    channels: usize,
    pool: (usize, usize),
    pooled: (usize, usize),
    dz: &mut [f32],
) {
    if height != pooled.0 * pool.0 || width != pooled.1 * pool.1 {
        dz.fill(0.0);
    }
    super::vectorized(
        #[inline(always)]
        || {
            for (index, (dy, chosen)) in dy.chunks_exact(channels).zip(chosen.chunks_exact(channels)).enumerate() {
                let (row, column) = (index / pooled.1 * pool.0, index % pooled.1 * pool.1);
                for cell in 0..pool.0 * pool.1 {
                    let pixel = (row + cell / pool.1) * width + column + cell % pool.1;
                    let dz = &mut dz[pixel * channels..][..channels];
                    for ((dz, dy), chosen) in dz.iter_mut().zip(dy).zip(chosen) {
                        *dz = if *chosen == cell as u8 { *dy } else { 0.0 };
                    }
                }
            }
        },
    );
}

/// See [`Backend::pool2d`](crate::nn::backend::Backend::pool2d).
pub(crate) fn pool2d<T: Tape<f32, Cpu>>(
    x: Images<Cpu, T>,
    window: &WindowOver,
    pooling: Pooling,
) -> ModelResult<Images<Cpu, T>> {
    let w = *window;
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let input = Scratch::copy_of(&x);
    let (plane, out_plane) = (w.height * w.width, w.out.0 * w.out.1);
    let planes = w.batch * w.channels;
    let mut y = vec![0.0; planes * out_plane];
    let counts = counts(&w);
    let is_max = pooling == Pooling::Max;

    // Which value of the plane was the largest.
    let mut chosen = vec![0usize; if is_max && T::OWNS_TAPE { y.len() } else { 0 }];
    let mut chosen_planes: Vec<&mut [usize]> = if chosen.is_empty() {
        (0..planes).map(|_| <&mut [usize]>::default()).collect()
    } else {
        chosen.chunks_mut(out_plane).collect()
    };
    y.par_chunks_mut(out_plane).zip(input.par_chunks(plane)).zip(chosen_planes.par_iter_mut()).for_each(
        |((y, input), chosen)| {
            for (index, y) in y.iter_mut().enumerate() {
                if is_max {
                    let (mut largest, mut at) = (f32::NEG_INFINITY, usize::MAX);
                    each_cell(&w, index, |cell| {
                        if input[cell] > largest || input[cell].is_nan() || at == usize::MAX {
                            (largest, at) = (input[cell], cell);
                        }
                    });
                    *y = largest;
                    if let Some(chosen) = chosen.get_mut(index) {
                        *chosen = at;
                    }
                } else {
                    // A global pool adds up a whole plane.
                    let mut sum = 0.0f64;
                    each_cell(&w, index, |cell| sum += f64::from(input[cell]));
                    *y = sum as f32 * factor(&w, &counts, index);
                }
            }
        },
    );
    drop(chosen_planes);
    drop(input);
    let y = x.device().try_tensor_from_vec(y, (w.batch, w.channels, w.out.0, w.out.1))?;
    record(&mut tape, &[&flat(&x)?], &[&flat(&y)?], move |dx, dy| {
        dx[0].par_chunks_mut(plane).zip(dy[0].par_chunks(out_plane)).enumerate().for_each(|(number, (dx, dy))| {
            for (index, dy) in dy.iter().enumerate() {
                if is_max {
                    if let Some(dx) = dx.get_mut(chosen[number * out_plane + index]) {
                        *dx += dy;
                    }
                } else {
                    let share = dy * factor(&w, &counts, index);
                    each_cell(&w, index, |cell| dx[cell] += share);
                }
            }
        });
    });
    Ok(y.put_tape(tape))
}

/// Calls `f` with the place of each of a window's cells that lie in the image.
#[inline(always)]
fn each_cell(w: &WindowOver, index: usize, mut f: impl FnMut(usize)) {
    let (row, column) = (index / w.out.1 * w.stride.0, index % w.out.1 * w.stride.1);
    for ky in 0..w.kernel.0 {
        let y = (row + ky * w.dilation.0).wrapping_sub(w.pad.0);
        if y >= w.height {
            continue;
        }
        for kx in 0..w.kernel.1 {
            let x = (column + kx * w.dilation.1).wrapping_sub(w.pad.1);
            if x < w.width {
                f(y * w.width + x);
            }
        }
    }
}

fn factor(w: &WindowOver, counts: &(Vec<usize>, Vec<usize>), index: usize) -> f32 {
    1.0 / (counts.0[index / w.out.1] * counts.1[index % w.out.1]).max(1) as f32
}
