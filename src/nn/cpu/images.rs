//! Layouts of one image: `(channels, rows, columns)` at the seams, channels last inside.

use crate::nn::window::WindowOver;

/// `(rows, columns)` to `(columns, rows)`.
pub(super) fn transpose(from: &[f32], rows: usize, columns: usize, to: &mut [f32]) {
    // Tiles that fit the first cache, so that neither side is touched line by line more than once.
    const TILE: usize = 16;
    super::vectorized(
        #[inline(always)]
        || {
            for row in (0..rows).step_by(TILE) {
                let row_end = (row + TILE).min(rows);
                for column in 0..columns {
                    let to = &mut to[column * rows + row..column * rows + row_end];
                    let from = from[row * columns + column..].iter().step_by(columns);
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = *from;
                    }
                }
            }
        },
    );
}

/// The image with its padding, channels last: `(padded rows, padded columns, channels)`.
pub(super) fn pad(image: &[f32], channels: usize, w: &WindowOver, padded: &mut [f32]) {
    let pixels = w.height * w.width;
    if w.padded != (w.height, w.width) {
        padded.fill(0.0);
    }
    super::vectorized(
        #[inline(always)]
        || {
            for y in 0..w.height {
                let start = ((y + w.pad.0) * w.padded.1 + w.pad.1) * channels;
                let row = &mut padded[start..][..w.width * channels];
                if channels == 1 {
                    row.copy_from_slice(&image[y * w.width..][..w.width]);
                    continue;
                }
                for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
                    let from = image[y * w.width + x..].iter().step_by(pixels);
                    for (to, from) in pixel.iter_mut().zip(from) {
                        *to = *from;
                    }
                }
            }
        },
    );
}

/// Adds the inside of a padded image back to the image.
pub(super) fn add_unpadded(padded: &[f32], channels: usize, w: &WindowOver, image: &mut [f32]) {
    let pixels = w.height * w.width;
    super::vectorized(
        #[inline(always)]
        || {
            for y in 0..w.height {
                let start = ((y + w.pad.0) * w.padded.1 + w.pad.1) * channels;
                let row = &padded[start..][..w.width * channels];
                for channel in 0..channels {
                    let to = &mut image[channel * pixels + y * w.width..][..w.width];
                    let from = row[channel..].iter().step_by(channels);
                    for (to, from) in to.iter_mut().zip(from) {
                        *to += *from;
                    }
                }
            }
        },
    );
}
