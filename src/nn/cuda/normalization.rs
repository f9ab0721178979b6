//! Layer normalisation.

use cudarc::driver::DevicePtr;
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::context::{Context, size};
use super::elementwise::THREADS;
use super::linear::COLUMNS_OF_A_BLOCK;
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::{Parameter, Tensor};
use crate::{ModelError, ModelResult};

/// See [`Backend::layer_norm`](crate::nn::backend::Backend::layer_norm).
pub(super) fn layer_norm<T: Tape<f32, Cuda>>(
    x: Tensor<(usize, usize), Cuda, T>,
    weight: &Parameter<Cuda>,
    bias: &Parameter<Cuda>,
    epsilon: f32,
) -> ModelResult<Tensor<(usize, usize), Cuda, T>> {
    let (rows, columns) = *x.shape();
    let (m, n) = (size(rows)?, size(columns)?);
    if (weight.len(), bias.len()) != (columns, columns) {
        return Err(ModelError::msg(format!(
            "layer normalisation: found {} gains and {} offsets, expected {columns}",
            weight.len(),
            bias.len()
        )));
    }
    let (x, tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let (weights, bias) = (weight.lend(), bias.lend());
    let values = Values::of(&context, &x)?;
    let y = Output::new(&context, x.device(), rows * columns)?;
    let saved = context.uninitialized::<f32>(2 * rows)?;
    // One warp has less to wait for than many of which most have nothing to do.
    let block = if columns <= 64 { 32 } else { THREADS };
    {
        let (gamma, beta) = (Values::of(&context, &weights)?, Values::of(&context, &bias)?);
        let arguments =
            (y.pointer(), *saved.device_ptr(), values.pointer(), gamma.pointer(), beta.pointer(), epsilon, n);
        // SAFETY: x and y are of (rows, columns), saved of twice the rows, gamma and beta of the columns; y and saved are new.
        unsafe { context.launch("layer_norm", (m, 1), block, arguments) }?;
    }
    let recorded = weights.clone();
    record(tape, &[&recorded, &bias, &x], y.finish()?, (rows, columns), move |gradients, dy| {
        let [dgamma, dbeta, dx] = *gradients else { return Ok(()) };
        let (x, saved) = (values.pointer(), *saved.device_ptr());
        let gamma = Values::of(&context, &weights)?;
        let arguments = (dx, dy, x, saved, gamma.pointer(), n);
        // SAFETY: dx, dy and x are of (rows, columns), saved and gamma as above; x and y are different tensors.
        unsafe { context.launch("layer_norm_backward", (m, 1), block, arguments) }?;

        // As sum_columns does it, with two sums at once.
        let rows_per_block = m.div_ceil(256).max(128);
        let (chunks, across) = (m.div_ceil(rows_per_block), n.div_ceil(COLUMNS_OF_A_BLOCK));
        if chunks <= 1 {
            let arguments = (dgamma, dbeta, dy, x, saved, m, n, rows_per_block, 1u32);
            // SAFETY: as above; dgamma and dbeta are of the columns, of two parameters.
            return unsafe { context.launch("layer_norm_parameters", (across, chunks), THREADS, arguments) };
        }
        let len = chunks as usize * columns;
        let partial = context.uninitialized::<f32>(2 * len)?;
        let products = *partial.device_ptr();
        let sums = products + (len * size_of::<f32>()) as u64;
        let arguments = (products, sums, dy, x, saved, m, n, rows_per_block, 0u32);
        // SAFETY: as above; products and sums are of (chunks, columns) each.
        unsafe { context.launch("layer_norm_parameters", (across, chunks), THREADS, arguments) }?;
        for (total, partial) in [(dgamma, products), (dbeta, sums)] {
            // SAFETY: the partial sums are of (chunks, columns), the total of the columns; they are freed behind this.
            unsafe { context.launch("column_sums", (across, 1), THREADS, (total, partial, chunks, n, chunks, 1u32)) }?;
        }
        Ok(())
    })
}
