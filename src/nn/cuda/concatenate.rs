//! Rows one after another.

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::Flat;
use super::context::{Context, blocks, size};
use super::elementwise::THREADS;
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::backend::Rows;
use crate::{ModelError, ModelResult};

/// See [`Backend::concatenate`](crate::nn::backend::Backend::concatenate).
pub(super) fn concatenate<T: Tape<f32, Cuda>>(parts: Vec<Rows<Cuda, T>>) -> ModelResult<Rows<Cuda, T>> {
    let Some((rows, device)) = parts.first().map(|part| (part.shape().0, part.device().clone())) else {
        return Err(ModelError::msg("concatenate: found no tensor, expected at least one"));
    };
    // The kernels write as far as these sizes say: this is what makes that sound.
    if let Some(other) = parts.iter().find(|part| part.shape().0 != rows) {
        return Err(ModelError::msg(format!(
            "concatenate: found {} and {rows} rows, expected as many",
            other.shape().0
        )));
    }
    let total = parts.iter().map(|part| part.shape().1).sum::<usize>();
    let columns = size(total)?;
    let mut tape = T::default();
    let mut inputs: Vec<Flat> = Vec::with_capacity(parts.len());
    // Where each part begins, and how wide it is.
    let mut places: Vec<(u32, u32)> = Vec::with_capacity(parts.len());
    let mut start = 0;
    for part in parts {
        let width = size(part.shape().1)?;
        let (x, own) = part.try_contiguous()?.split_tape();
        tape = tape.merge(own);
        inputs.push(flat(&x)?);
        places.push((start, width));
        // Not beyond `columns`.
        start += width;
    }
    let context = match inputs.iter().find(|x| x.shape().0 > 0) {
        Some(x) => Context::of(x)?,
        None => Context::open(&device)?,
    };
    let y = Output::new(&context, &device, rows * total)?;
    for (x, (start, width)) in inputs.iter().zip(&places) {
        let values = Values::of(&context, x)?;
        let count = x.shape().0;
        let arguments = (y.pointer(), values.pointer(), *width, columns, *start, count as u64);
        // SAFETY: x is of (rows, width), y, which is new, of (rows, columns), and start + width is at most columns.
        unsafe { context.launch("join_columns", (blocks(count, THREADS), 1), THREADS, arguments) }?;
    }
    let y = y.finish()?;
    let inputs: Vec<&Flat> = inputs.iter().collect();
    record(tape, &inputs, y, (rows, total), move |gradients, dy| {
        for (dx, (start, width)) in gradients.iter().zip(places) {
            // No more than the whole has.
            let count = rows * width as usize;
            let arguments = (*dx, dy, width, columns, start, count as u64);
            // SAFETY: as above, for the gradients. A tensor that is joined twice has one gradient, which two launches in order
            // add to.
            unsafe { context.launch("join_columns_backward", (blocks(count, THREADS), 1), THREADS, arguments) }?;
        }
        Ok(())
    })
}
