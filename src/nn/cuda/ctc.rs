//! Connectionist temporal classification. The alignments are summed on the host, in f64: the logits are read, and come back
//! as losses and slopes.

use cudarc::driver::DevicePtr;
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, CudaError, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;

use super::context::{Context, blocks, size};
use super::elementwise::THREADS;
use super::record::{flat, record};
use crate::nn::backend::{Labellings, Sequences};
use crate::nn::{Tensor, cpu, read};
use crate::{ModelError, ModelResult};

/// See [`Backend::ctc`](crate::nn::backend::Backend::ctc).
pub(super) fn ctc<T: Tape<f32, Cuda>>(
    logits: Sequences<Cuda, T>,
    labellings: &Labellings<'_>,
) -> ModelResult<Tensor<(usize,), Cuda, T>> {
    let (batch, length, classes) = *logits.shape();
    let width = size(length.saturating_mul(classes))?;
    let count = batch * length * classes;
    let (x, tape) = logits.try_contiguous()?.split_tape();
    let values = if count == 0 { Vec::new() } else { read(&x) };
    let (losses, slopes) = cpu::ctc_losses(&values, (batch, length, classes), labellings, T::OWNS_TAPE);
    let losses = x.device().try_tensor_from_vec(losses, (batch,))?;
    if !T::OWNS_TAPE || count == 0 {
        return record(tape, &[], losses, (batch,), |_, _| Ok(()));
    }
    if slopes.len() != count {
        return Err(ModelError::msg(format!("CTC: found {} slopes of {count} logits", slopes.len())));
    }
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let slopes = context.device.htod_copy(slopes).map_err(CudaError::from)?;
    record(tape, &[&x], losses, (batch,), move |gradients, dy| {
        let arguments = (gradients[0], dy, *slopes.device_ptr(), width, count as u64);
        // SAFETY: the gradient of the logits and the slopes are of `count` values in rows of `width`, that of the losses has
        // one for each row; the slopes are kept by this closure.
        unsafe { context.launch("ctc_backward", (blocks(count, THREADS), 1), THREADS, arguments) }
    })
}
