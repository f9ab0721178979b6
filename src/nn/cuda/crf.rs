//! The linear-chain conditional random field.

use cudarc::driver::{DevicePtr, DeviceRepr};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::context::{Context, blocks, size};
use super::elementwise::THREADS;
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::Tensor;
use crate::nn::backend::{Sequences, Transitions};
use crate::{ModelError, ModelResult};

/// The kernels' `Field`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Field {
    emissions: u64,
    between: u64,
    start: u64,
    end: u64,
    lengths: u64,
    tags: u64,
    length: u32,
    count: u32,
}

// SAFETY: six pointers and two numbers of 32 bits in C's layout, as the kernels' struct has them in the same order.
unsafe impl DeviceRepr for Field {}

/// Values that the partial sums of the transitions' gradients take at most, beyond one for each of them: 16 MiB.
const MOST_PARTIAL: usize = 4 << 20;

/// See [`Backend::crf`](crate::nn::backend::Backend::crf).
pub(super) fn crf<T: Tape<f32, Cuda>>(
    emissions: Sequences<Cuda, T>,
    transitions: Transitions<'_, Cuda>,
    tags: &[usize],
    lengths: &[usize],
) -> ModelResult<Tensor<(usize,), Cuda, T>> {
    let (batch, length, count) = *emissions.shape();
    let (rows, steps, width) = (size(batch)?, size(length)?, size(count)?);
    let parameters = [transitions.between, transitions.start, transitions.end].map(|parameter| parameter.len());
    // The kernels read where tags and lengths say: this is what makes that sound.
    let is_sound = lengths.len() == batch
        && tags.len() == batch * length
        && parameters == [count * count, count, count]
        && lengths.iter().all(|steps| *steps <= length)
        && (0..batch).all(|row| tags[row * length..][..lengths[row]].iter().all(|tag| *tag < count));
    if !is_sound {
        return Err(ModelError::msg(format!(
            "conditional random field: found tags, lengths or transitions that do not fit emissions of ({batch}, {length}, \
             {count})"
        )));
    }
    let (x, tape) = emissions.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;

    // All that comes from the host, in one copy. What comes after a sequence's end is not read.
    let host: Vec<u32> = lengths.iter().chain(tags).map(|number| *number as u32).collect();
    let from_host = context.uploaded(host)?;
    let [between, start, end] =
        [transitions.between, transitions.start, transitions.end].map(|parameter| parameter.lend());
    let values = Values::of(&context, &x)?;
    let lengths = *from_host.device_ptr();
    let tags = lengths + (batch * size_of::<u32>()) as u64;
    let emissions = values.pointer();
    let field = move |between: &Values, start: &Values, end: &Values| Field {
        emissions,
        between: between.pointer(),
        start: start.pointer(),
        end: end.pointer(),
        lengths,
        tags,
        length: steps,
        count: width,
    };

    let losses = Output::new(&context, x.device(), batch)?;
    let alphas = context.uninitialized::<f32>(batch * length * count)?;
    let offsets = context.uninitialized::<f32>(batch * length)?;
    let block = width.clamp(32, THREADS).next_power_of_two();
    {
        let [between, start, end] =
            [Values::of(&context, &between)?, Values::of(&context, &start)?, Values::of(&context, &end)?];
        let field = field(&between, &start, &end);
        let arguments = (losses.pointer(), *alphas.device_ptr(), *offsets.device_ptr(), field);
        // SAFETY: emissions and alphas are of (batch, length, count), offsets and tags of (batch, length), losses and lengths
        // of the batch, the field's other tensors of (count, count) and twice the tags; no length is beyond `length`, no tag
        // before that beyond `count`. Losses, alphas and offsets are new.
        unsafe { context.launch("crf", (rows, 1), block, arguments) }?;
    }
    let recorded = [between.clone(), start.clone(), end.clone()];
    let inputs = [&recorded[0], &recorded[1], &recorded[2], &x];
    record(tape, &inputs, losses.finish()?, (batch,), move |gradients, dy| {
        let [dbetween, dstart, dend, demissions] = *gradients else { return Ok(()) };
        // What the field's pointers lead to is kept by this closure.
        let (_from_host, _emissions) = (&from_host, &values);
        let [between, start, end] =
            [Values::of(&context, &between)?, Values::of(&context, &start)?, Values::of(&context, &end)?];
        let field = field(&between, &start, &end);
        let (alphas, offsets) = (*alphas.device_ptr(), *offsets.device_ptr());
        let ends = context.uninitialized::<f32>(2 * batch * count)?;
        let after = context.uninitialized::<f32>(batch * length * count)?;
        let (ends, after) = (*ends.device_ptr(), *after.device_ptr());
        // SAFETY: as above; ends is of (batch, 2, count), after as the emissions, both new; no two of the tensors are the
        // same, and so no two gradients.
        unsafe {
            context.launch("crf_backward", (rows, 1), block, (demissions, ends, after, dy, alphas, offsets, field))
        }?;

        // The sums over the batch in chunks, whose number depends on the sizes alone: their order is always the same.
        let columns = count * count + 2 * count;
        let chunks = (MOST_PARTIAL / columns.max(1)).clamp(1, 256);
        let rows_per_block = batch.div_ceil(chunks).max(1);
        let chunks = batch.div_ceil(rows_per_block);
        // Neither is larger than the batch.
        let (grid, rows_per_block) = ((blocks(columns, THREADS), chunks as u32), rows_per_block as u32);
        let partial = context.uninitialized::<f32>(chunks * columns)?;
        let partial = *partial.device_ptr();
        let arguments = (partial, dy, alphas, after, ends, field, rows, rows_per_block);
        // SAFETY: as above; partial is of (chunks, columns), and every row of the batch in one chunk.
        unsafe { context.launch("crf_transitions", grid, THREADS, arguments) }?;
        let arguments = (dbetween, dstart, dend, partial, width, grid.1);
        // SAFETY: as above; the gradients are those of three parameters.
        unsafe { context.launch("crf_parameters", (grid.0, 1), THREADS, arguments) }
    })
}
