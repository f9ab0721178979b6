//! Sums of many values.

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;

use super::norm::{self, BLOCK};
use super::record::{flat, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::Tensor;
use crate::nn::backend::Rows;

/// See [`Backend::sum`](crate::nn::backend::Backend::sum).
pub(crate) fn sum<T: Tape<f32, Cpu>>(x: Tensor<(usize,), Cpu, T>) -> ModelResult<Tensor<(), Cpu, T>> {
    let len = x.shape().0;
    Ok(row_sums(x.try_reshape_like(&(1, len))?)?.try_reshape_like(&())?)
}

/// See [`Backend::row_sums`](crate::nn::backend::Backend::row_sums).
pub(crate) fn row_sums<T: Tape<f32, Cpu>>(x: Rows<Cpu, T>) -> ModelResult<Tensor<(usize,), Cpu, T>> {
    let (rows, width) = *x.shape();
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let mut sums = vec![0.0; rows];
    if width > 0 {
        let values = Scratch::copy_of(&x);
        super::vectorized(
            #[inline(always)]
            || {
                for (total, row) in sums.iter_mut().zip(values.chunks_exact(width)) {
                    *total = row.chunks(BLOCK).map(|block| f64::from(norm::sum(block))).sum::<f64>() as f32;
                }
            },
        );
    }
    let y = x.device().try_tensor_from_vec(sums, (rows,))?;
    record(&mut tape, &[&flat(&x)?], &[&y], move |dx, dy| {
        if width == 0 {
            return;
        }
        for (dx, dy) in dx[0].chunks_exact_mut(width).zip(&dy[0]) {
            dx.iter_mut().for_each(|dx| *dx += dy);
        }
    });
    Ok(y.put_tape(tape))
}
