//! Sums. dfdx's own add up their blocks in any order, and give other bits every time.

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::Flat;
use super::context::{Context, blocks, size};
use super::elementwise::THREADS;
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::ModelResult;
use crate::nn::Tensor;
use crate::nn::backend::{Rows, Sequences};

/// Values that one block adds up where there are many.
const PART: usize = 1 << 14;

/// See [`Backend::sum`](crate::nn::backend::Backend::sum).
pub(super) fn sum<T: Tape<f32, Cuda>>(x: Tensor<(usize,), Cuda, T>) -> ModelResult<Tensor<(), Cuda, T>> {
    let count = x.shape().0;
    let columns = size(count)?;
    let (x, tape) = x.try_contiguous()?.split_tape();
    let context = Context::of(&x)?;
    let total = if count > 4 * PART {
        let parts = sums(&context, &x, count.div_ceil(PART), PART)?.finish()?;
        sums(&context, &parts, 1, count.div_ceil(PART))?
    } else {
        sums(&context, &x, 1, count)?
    };
    record(tape, &[&x], total.finish()?, (), move |inputs, dy| {
        let arguments = (inputs[0], dy, columns.max(1), count as u64);
        // SAFETY: the gradients of x, of `count` values, and of y, of one.
        unsafe { context.launch("row_sums_backward", (blocks(count, THREADS), 1), THREADS, arguments) }
    })
}

/// See [`Backend::row_sums`](crate::nn::backend::Backend::row_sums).
pub(super) fn row_sums<T: Tape<f32, Cuda>>(x: Rows<Cuda, T>) -> ModelResult<Tensor<(usize,), Cuda, T>> {
    let (rows, width) = *x.shape();
    let (columns, _) = (size(width)?, size(rows)?);
    let (x, tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let y = sums(&context, &x, rows, width)?;
    record(tape, &[&x], y.finish()?, (rows,), move |inputs, dy| {
        let count = rows * width;
        let arguments = (inputs[0], dy, columns, count as u64);
        // SAFETY: the gradients of x, of (rows, columns), and of y, of the rows.
        unsafe { context.launch("row_sums_backward", (blocks(count, THREADS), 1), THREADS, arguments) }
    })
}

/// See [`Backend::middle_sums`](crate::nn::backend::Backend::middle_sums).
pub(super) fn middle_sums<T: Tape<f32, Cuda>>(x: Sequences<Cuda, T>) -> ModelResult<Rows<Cuda, T>> {
    let (outer, length, inner) = *x.shape();
    let sizes = (size(length)?, size(inner)?);
    let (x, tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let count = outer * inner;
    let (values, y) = (Values::of(&context, &x)?, Output::new(&context, x.device(), count)?);
    let arguments = (y.pointer(), values.pointer(), sizes.0, sizes.1, count as u64);
    // SAFETY: x is of (outer, length, inner), y of (outer, inner) and new.
    unsafe { context.launch("middle_sums", (blocks(count, THREADS), 1), THREADS, arguments) }?;
    record(tape, &[&x], y.finish()?, (outer, inner), move |inputs, dy| {
        let count = outer * length * inner;
        let arguments = (inputs[0], dy, sizes.0, sizes.1, count as u64);
        // SAFETY: the gradients of x and y, of these sizes.
        unsafe { context.launch("middle_sums_backward", (blocks(count, THREADS), 1), THREADS, arguments) }
    })
}

/// The sums of `rows` rows of `width` values, of which the last may be shorter.
fn sums(context: &Context, x: &Flat, rows: usize, width: usize) -> ModelResult<Output> {
    let values = Values::of(context, x)?;
    let y = Output::new(context, x.device(), rows)?;
    let arguments = (y.pointer(), values.pointer(), size(width)?, x.shape().0 as u64);
    // SAFETY: x is of that many values, in rows of `width`; y is a value for each row, new and zero.
    unsafe { context.launch("row_sums", (size(rows)?, 1), THREADS, arguments) }?;
    Ok(y)
}
