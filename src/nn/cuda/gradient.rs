//! Arithmetic on one parameter's gradient: clipping, norms, sums over micro-batches.

use cudarc::driver::DevicePtr;
use dfdx::tensor::Cuda;
use dfdx::tensor_ops::ReshapeTo;

use super::context::{Context, blocks};
use super::elementwise::THREADS;
use super::pointer::{Output, Values};
use super::record::flat;
use crate::ModelResult;
use crate::nn::{Gradients, Parameter, Tensor};

/// The most partial sums of a sum of squares.
const MOST_SUMS: usize = 1024;

/// The pointer to a gradient, valid as long as the gradients are, and its length.
fn pointer(parameter: &Parameter<Cuda>, gradients: &mut Gradients<Cuda>) -> ModelResult<(u64, usize)> {
    let pointer =
        parameter.with_identity(|tensor| gradients.get_or_alloc_mut(tensor).map(|gradient| *gradient.device_ptr()));
    Ok((pointer?, parameter.len()))
}

pub(super) fn clip_value(parameter: &Parameter<Cuda>, gradients: &mut Gradients<Cuda>, limit: f32) -> ModelResult<()> {
    let context = parameter.with_identity(Context::of)?;
    let (gradient, len) = pointer(parameter, gradients)?;
    // SAFETY: the gradient is of `len` values and borrowed here alone.
    Ok(unsafe { context.launch("clip_value", (blocks(len, THREADS), 1), THREADS, (gradient, limit, len as u64)) }?)
}

pub(super) fn square_sum(
    parameter: &Parameter<Cuda>,
    gradients: &mut Gradients<Cuda>,
) -> ModelResult<Tensor<(), Cuda>> {
    let context = parameter.with_identity(Context::of)?;
    let (gradient, len) = pointer(parameter, gradients)?;
    let total = parameter.with_identity(|tensor| Output::new(&context, tensor.device(), 1))?;
    let per_block = len.div_ceil(MOST_SUMS).max(4 * THREADS as usize);
    let count = blocks(len, per_block as u32);
    let sums = context.uninitialized::<f32>(count as usize)?;
    let pointer = *sums.device_ptr();
    let arguments = (pointer, gradient, per_block as u64, len as u64);
    // SAFETY: the gradient is of `len` values, the sums are one for each block.
    unsafe { context.launch("square_sums", (count, 1), THREADS, arguments) }?;
    // SAFETY: the sums have just been written; the total is one value, new and zero.
    unsafe { context.launch("row_sums", (1, 1), THREADS, (total.pointer(), pointer, count, u64::from(count))) }?;
    Ok(total.finish()?.try_reshape_like(&())?)
}

pub(super) fn scale(
    parameter: &Parameter<Cuda>,
    gradients: &mut Gradients<Cuda>,
    factor: &Tensor<(), Cuda>,
) -> ModelResult<()> {
    let context = parameter.with_identity(Context::of)?;
    let (gradient, len) = pointer(parameter, gradients)?;
    let factor = Values::of(&context, &flat(factor)?)?;
    let arguments = (gradient, factor.pointer(), len as u64);
    // SAFETY: the gradient is of `len` values and borrowed here alone, the factor is one value.
    Ok(unsafe { context.launch("scale", (blocks(len, THREADS), 1), THREADS, arguments) }?)
}

pub(super) fn add(
    parameter: &Parameter<Cuda>,
    sum: &mut Gradients<Cuda>,
    gradients: &mut Gradients<Cuda>,
    weight: f32,
) -> ModelResult<()> {
    let context = parameter.with_identity(Context::of)?;
    let ((sum, len), (gradient, _)) = (pointer(parameter, sum)?, pointer(parameter, gradients)?);
    let arguments = (sum, gradient, weight, len as u64);
    // SAFETY: both are gradients of this parameter, of `len` values, in two stores that are borrowed here.
    Ok(unsafe { context.launch("add_weighted", (blocks(len, THREADS), 1), THREADS, arguments) }?)
}
