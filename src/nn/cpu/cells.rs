//! One step of the cells of recurrent layers.

use super::math::{sigmoid, tanh};

/// A row's gates, each as a slice.
#[inline(always)]
fn gates_of(row: &mut [f32], hidden: usize) -> [&mut [f32]; 4] {
    let (a, rest) = row.split_at_mut(hidden);
    let (b, rest) = rest.split_at_mut(hidden);
    let (c, d) = rest.split_at_mut(hidden);
    [a, b, c, d]
}

/// One function per row: as arguments the slices are known not to overlap, and as slices of one length their bounds are
/// known, without which the loops would not vectorise.
macro_rules! row_loop {
    ($(#[$attribute:meta])* fn $name:ident($($mutable:ident),*; $($shared:ident),*) |$k:ident| $body:block) => {
        $(#[$attribute])*
        #[inline(always)]
        #[allow(clippy::too_many_arguments)]
        fn $name(len: usize, $($mutable: &mut [f32],)* $($shared: &[f32],)*) {
            $(let $mutable = &mut $mutable[..len];)*
            $(let $shared = &$shared[..len];)*
            for $k in 0..len $body
        }
    };
}

row_loop!(
    /// Gates in place, the cell in place, its tangent and the state.
    fn lstm_row(i, f, g, o, cell, cell_tanh, h;) |k| {
        i[k] = sigmoid(i[k]);
        f[k] = sigmoid(f[k]);
        g[k] = tanh(g[k]);
        o[k] = sigmoid(o[k]);
        cell[k] = f[k] * cell[k] + i[k] * g[k];
        cell_tanh[k] = tanh(cell[k]);
        h[k] = o[k] * cell_tanh[k];
    }
);

row_loop!(
    /// Gates become their gradients; `dc` becomes that of the cell before the step.
    fn lstm_row_back(i, f, g, o, dc; dh, before, cell_tanh) |k| {
        let d = dc[k] + dh[k] * o[k] * (1.0 - cell_tanh[k] * cell_tanh[k]);
        o[k] = dh[k] * cell_tanh[k] * o[k] * (1.0 - o[k]);
        dc[k] = d * f[k];
        f[k] = d * before[k] * f[k] * (1.0 - f[k]);
        let new = i[k];
        i[k] = d * g[k] * new * (1.0 - new);
        g[k] = d * new * (1.0 - g[k] * g[k]);
    }
);

row_loop!(
    /// Gates in place (the fourth is the new gate's share of the state) and the state.
    fn gru_row(r, z, n, h; share, before) |k| {
        r[k] = sigmoid(r[k]);
        z[k] = sigmoid(z[k]);
        n[k] = tanh(n[k] + r[k] * share[k]);
        h[k] = n[k] + z[k] * (before[k] - n[k]);
    }
);

row_loop!(
    /// Gates become their gradients; `dh` becomes what reaches the state before the step directly.
    fn gru_row_back(r, z, n, share, dh; before) |k| {
        let dn = dh[k] * (1.0 - z[k]) * (1.0 - n[k] * n[k]);
        let dz = dh[k] * (before[k] - n[k]) * z[k] * (1.0 - z[k]);
        dh[k] *= z[k];
        z[k] = dz;
        let dr = dn * share[k] * r[k] * (1.0 - r[k]);
        share[k] = dn * r[k];
        r[k] = dr;
        n[k] = dn;
    }
);

/// A step of all rows: gates in place, the cell in place, its tangent and the state.
pub(super) fn lstm_step(gates: &mut [f32], cell: &mut [f32], cell_tanh: &mut [f32], h: &mut [f32], hidden: usize) {
    super::vectorized(
        #[inline(always)]
        || {
            let rows = gates.chunks_exact_mut(4 * hidden).zip(cell.chunks_exact_mut(hidden));
            let rows = rows.zip(cell_tanh.chunks_exact_mut(hidden).zip(h.chunks_exact_mut(hidden)));
            for ((row, cell), (cell_tanh, h)) in rows {
                let [i, f, g, o] = gates_of(row, hidden);
                lstm_row(hidden, i, f, g, o, cell, cell_tanh, h);
            }
        },
    );
}

/// Gates become their gradients, and `dc` that of the cell before the step.
pub(super) fn lstm_step_back(
    gates: &mut [f32],
    (cell_before, cell_tanh): (&[f32], &[f32]),
    dh: &[f32],
    dc: &mut [f32],
    hidden: usize,
) {
    super::vectorized(
        #[inline(always)]
        || {
            let rows = gates.chunks_exact_mut(4 * hidden).zip(dh.chunks_exact(hidden).zip(dc.chunks_exact_mut(hidden)));
            let rows = rows.zip(cell_before.chunks_exact(hidden).zip(cell_tanh.chunks_exact(hidden)));
            for ((row, (dh, dc)), (before, cell_tanh)) in rows {
                let [i, f, g, o] = gates_of(row, hidden);
                lstm_row_back(hidden, i, f, g, o, dc, dh, before, cell_tanh);
            }
        },
    );
}

/// A step of all rows: gates in place and the state.
pub(super) fn gru_step(gates: &mut [f32], before: &[f32], h: &mut [f32], hidden: usize) {
    super::vectorized(
        #[inline(always)]
        || {
            let states = before.chunks_exact(hidden).zip(h.chunks_exact_mut(hidden));
            for (row, (before, h)) in gates.chunks_exact_mut(4 * hidden).zip(states) {
                let [r, z, n, share] = gates_of(row, hidden);
                gru_row(hidden, r, z, n, h, share, before);
            }
        },
    );
}

/// Gates become their gradients, and `dh` what reaches the state before the step directly.
pub(super) fn gru_step_back(gates: &mut [f32], before: &[f32], dh: &mut [f32], hidden: usize) {
    super::vectorized(
        #[inline(always)]
        || {
            let states = before.chunks_exact(hidden).zip(dh.chunks_exact_mut(hidden));
            for (row, (before, dh)) in gates.chunks_exact_mut(4 * hidden).zip(states) {
                let [r, z, n, share] = gates_of(row, hidden);
                gru_row_back(hidden, r, z, n, share, dh, before);
            }
        },
    );
}
