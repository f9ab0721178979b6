//! Matrix products of slices.

pub(super) use faer::{Accum, MatMut, MatRef};

/// A row-major matrix.
pub(super) fn matrix(values: &[f32], rows: usize, columns: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(values, rows, columns)
}

/// A row-major matrix to write to.
pub(super) fn matrix_mut(values: &mut [f32], rows: usize, columns: usize) -> MatMut<'_, f32> {
    MatMut::from_row_major_slice_mut(values, rows, columns)
}

/// `out = a · b`, or `out += a · b`, on this thread.
pub(super) fn multiply(out: MatMut<'_, f32>, accum: Accum, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    faer::linalg::matmul::matmul(out, accum, a, b, 1.0, faer::Par::Seq);
}

/// Operations that make a piece worth another thread.
const PIECE: usize = 20_000_000;

/// The same on all threads: `out` is cut along its longer side into pieces whose number depends on the sizes alone.
pub(super) fn multiply_parallel(out: MatMut<'_, f32>, accum: Accum, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let work = out.nrows().saturating_mul(out.ncols()).saturating_mul(a.ncols()).saturating_mul(2);
    // A power of two, so that two or four threads have the same share.
    let pieces = (work / PIECE).clamp(1, 8).next_power_of_two();
    multiply_pieces(out, accum, a, b, pieces);
}

fn multiply_pieces(out: MatMut<'_, f32>, accum: Accum, a: MatRef<'_, f32>, b: MatRef<'_, f32>, pieces: usize) {
    if pieces <= 1 {
        return multiply(out, accum, a, b);
    }
    let (first, second) = (pieces / 2, pieces - pieces / 2);
    // Cuts at multiples of 16 keep the kernels' tiles whole.
    let cut = |size: usize| (size * first / pieces).next_multiple_of(16).min(size);
    if out.nrows() >= out.ncols() {
        let at = cut(out.nrows());
        let (top, bottom) = out.split_at_row_mut(at);
        let (a_top, a_bottom) = a.split_at_row(at);
        rayon::join(
            || multiply_pieces(top, accum, a_top, b, first),
            || multiply_pieces(bottom, accum, a_bottom, b, second),
        );
    } else {
        let at = cut(out.ncols());
        let (left, right) = out.split_at_col_mut(at);
        let (b_left, b_right) = b.split_at_col(at);
        rayon::join(
            || multiply_pieces(left, accum, a, b_left, first),
            || multiply_pieces(right, accum, a, b_right, second),
        );
    }
}
