//! The fully connected layer.

use cudarc::driver::DevicePtr;
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, CudaError, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::Flat;
use super::blas::{Matrix, Onto};
use super::context::{Context, blocks, size};
use super::elementwise::{THREADS, code};
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::{Activation, Parameter, Tensor};
use crate::{ModelError, ModelResult};

/// Columns that one block of the kernels that add up columns works on.
pub(super) const COLUMNS_OF_A_BLOCK: u32 = 32;

/// See [`Backend::linear`](crate::nn::backend::Backend::linear).
pub(super) fn linear<T: Tape<f32, Cuda>>(
    x: Tensor<(usize, usize), Cuda, T>,
    weight: &Parameter<Cuda>,
    bias: Option<&Parameter<Cuda>>,
    activation: Activation,
    input_gradient: bool,
) -> ModelResult<Tensor<(usize, usize), Cuda, T>> {
    let (rows, inputs) = *x.shape();
    let outputs = weight.dims().first().copied().unwrap_or(0);
    let (m, n, k) = (size(rows)?, size(outputs)?, size(inputs)?);
    // The product and the kernels read as far as these sizes say: this is what makes that sound. A layer's parameters are
    // anybody's to replace.
    let biases = bias.map_or(outputs, Parameter::len);
    if weight.len() != outputs.saturating_mul(inputs) || biases != outputs {
        return Err(ModelError::msg(format!(
            "linear layer: found {} weights and {biases} biases, expected {outputs} x {inputs} and {outputs}",
            weight.len()
        )));
    }
    let count = rows * outputs;
    let (x, tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let (kind, slope) = code(activation);

    let weights = weight.lend();
    let bias = bias.map(Parameter::lend);
    let x_values = Values::of(&context, &x)?;
    let weight_values = Values::of(&context, &weights)?;
    let y = Output::new(&context, x.device(), count)?;
    // Where the derivative needs what went into the activation, the product goes to memory of its own.
    let keep = T::OWNS_TAPE && !activation.is_known_from_output();
    let before = if keep { Some(context.uninitialized::<f32>(count)?) } else { None };
    let z = before.as_ref().map_or(y.pointer(), |before| *before.device_ptr());
    let (a, b) = (Matrix::new(x_values.pointer(), k), Matrix::new(weight_values.pointer(), k).transposed());
    // SAFETY: x is (rows, inputs), weight (outputs, inputs), z new memory of (rows, outputs).
    unsafe { context.multiply((m, n, k), a, b, Matrix::new(z, n), Onto::Replace, 1) }?;
    if bias.is_some() || activation != Activation::Identity {
        let bias = bias.as_ref().map(|bias| Values::of(&context, bias)).transpose()?;
        let bias = bias.as_ref().map_or(0, |bias| bias.pointer());
        let before = if keep { z } else { 0 };
        let arguments = (y.pointer(), z, bias, before, kind, slope, count as u64, n);
        // SAFETY: y, z and before are of `count` values, bias of `outputs`; each thread reads and writes one place of
        // them, so that y may be z and before may be z.
        unsafe { context.launch("bias_activation", (blocks(count, THREADS), 1), THREADS, arguments) }?;
    }
    drop(weight_values);

    let mut recorded: Vec<&Flat> = vec![&weights];
    recorded.extend(bias.as_deref());
    if input_gradient {
        recorded.push(&x);
    }
    let y = y.finish()?;
    let output = y.clone();
    let has_bias = bias.is_some();
    let weight_values = weights.clone();
    record(tape, &recorded, y, (rows, outputs), move |gradients, dy| {
        let (dw, rest) = (gradients[0], &gradients[1..]);
        let (db, dx) = if has_bias { (rest.first(), rest.get(1)) } else { (None, rest.first()) };
        let mut owned = None;
        if activation != Activation::Identity {
            let dz = context.uninitialized::<f32>(count)?;
            let output = if keep { None } else { Some(Values::of(&context, &output)?) };
            let known = match (&before, &output) {
                (Some(before), _) => *before.device_ptr(),
                (None, Some(output)) => output.pointer(),
                (None, None) => dy,
            };
            let pointer = *dz.device_ptr();
            sum_columns(&context, db.copied(), (m, n), |sums, grid, rows_per_block, onto| {
                let arguments = (pointer, sums, dy, known, kind, slope, m, n, rows_per_block, onto);
                // SAFETY: dz, dy and known are of (rows, outputs), and sums of a row for each row of the grid, or null.
                unsafe { context.launch("bias_activation_backward", grid, THREADS, arguments) }
            })?;
            owned = Some(dz);
        } else if db.is_some() {
            sum_columns(&context, db.copied(), (m, n), |sums, grid, rows_per_block, onto| {
                // SAFETY: dy is of (rows, outputs), and sums of a row for each row of the grid.
                unsafe { context.launch("column_sums", grid, THREADS, (sums, dy, m, n, rows_per_block, onto)) }
            })?;
        }
        let dz = Matrix::new(owned.as_ref().map_or(dy, |dz| *dz.device_ptr()), n);
        let x = Matrix::new(x_values.pointer(), k);
        // SAFETY: dw is (outputs, inputs) and no other tensor's gradient; dz is (rows, outputs), x (rows, inputs).
        unsafe { context.multiply((n, k, m), dz.transposed(), x, Matrix::new(dw, k), Onto::Add, 1) }?;
        if let Some(dx) = dx {
            let weight = Values::of(&context, &weight_values)?;
            let weight = Matrix::new(weight.pointer(), k);
            // SAFETY: dx is (rows, inputs) and no other tensor's gradient, weight (outputs, inputs).
            unsafe { context.multiply((m, k, n), dz, weight, Matrix::new(*dx, k), Onto::Add, 1) }?;
        }
        Ok(())
    })
}

/// Adds the sums of columns to `total`, if there is one. `launch` gets where the sums go (a row for each row of its grid),
/// its grid, the rows of a block, and whether to add. Many rows are summed in chunks, whose number depends on the sizes
/// alone, and then the chunks: the order of a sum is always the same.
pub(super) fn sum_columns(
    context: &Context,
    total: Option<u64>,
    (rows, columns): (u32, u32),
    launch: impl FnOnce(u64, (u32, u32), u32, u32) -> Result<(), CudaError>,
) -> Result<(), CudaError> {
    let rows_per_block = rows.div_ceil(256).max(128);
    let chunks = rows.div_ceil(rows_per_block);
    let across = columns.div_ceil(COLUMNS_OF_A_BLOCK);
    match total {
        Some(total) if chunks > 1 => {
            let partial = context.uninitialized::<f32>(chunks as usize * columns as usize)?;
            let sums = *partial.device_ptr();
            launch(sums, (across, chunks), rows_per_block, 0)?;
            let arguments = (total, sums, chunks, columns, chunks, 1u32);
            // SAFETY: the sums are of (chunks, columns), total of `columns` values; partial is freed behind this launch.
            unsafe { context.launch("column_sums", (across, 1), THREADS, arguments) }
        }
        total => launch(total.unwrap_or(0), (across, chunks), rows_per_block, 1),
    }
}
