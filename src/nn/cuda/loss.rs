//! Softmax cross-entropy.

use cudarc::driver::{DevicePtr, DeviceRepr};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::context::{Context, size};
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::Tensor;
use crate::nn::backend::Targets;
use crate::{ModelError, ModelResult};

/// The kernels' `Targets`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct TargetPointers {
    dense: u64,
    labels: u64,
    class_weights: u64,
    smoothing: f32,
    classes: u32,
}

// SAFETY: three pointers, a float and a number of 32 bits in C's layout, as the kernels' struct has them in the same order.
unsafe impl DeviceRepr for TargetPointers {}

/// See [`Backend::cross_entropy`](crate::nn::backend::Backend::cross_entropy).
pub(super) fn cross_entropy<T: Tape<f32, Cuda>>(
    logits: Tensor<(usize, usize), Cuda, T>,
    targets: Targets<'_, Cuda>,
    row_weights: &[f32],
) -> ModelResult<Tensor<(usize,), Cuda, T>> {
    let (rows, classes) = *logits.shape();
    let grid = (size(rows)?, 1);
    // The kernels read as far as these sizes say: this is what makes that sound.
    let are_targets = match &targets {
        Targets::Dense(targets) => targets.shape() == logits.shape(),
        Targets::Sparse { labels, class_weights, .. } => {
            labels.len() == rows
                && labels.iter().all(|label| *label < classes)
                && class_weights.is_none_or(|weights| weights.len() == classes)
        }
    };
    if !are_targets || row_weights.len() != rows {
        return Err(ModelError::msg(format!(
            "cross-entropy: found targets or {} weights that do not fit {rows} rows of {classes} logits",
            row_weights.len()
        )));
    }
    let (x, tape) = logits.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;

    // All that comes from the host, in one copy: row weights, labels, class weights.
    let mut host: Vec<u32> = row_weights.iter().map(|weight| weight.to_bits()).collect();
    let mut pointers =
        TargetPointers { dense: 0, labels: 0, class_weights: 0, smoothing: 0.0, classes: size(classes)? };
    let mut dense = None;
    let (mut labels_at, mut class_weights_at) = (None, None);
    match targets {
        Targets::Dense(targets) => {
            let targets = flat(&targets.clone().try_contiguous()?)?;
            dense = Some(Values::of(&context, &targets)?);
        }
        Targets::Sparse { labels, smoothing, class_weights } => {
            labels_at = Some(host.len());
            host.extend(labels.iter().map(|label| *label as u32));
            if let Some(weights) = class_weights {
                class_weights_at = Some(host.len());
                host.extend(weights.iter().map(|weight| weight.to_bits()));
            }
            pointers.smoothing = smoothing;
        }
    }
    let from_host = context.uploaded(host)?;
    let weights = *from_host.device_ptr();
    let at = |place: Option<usize>| place.map_or(0, |place| weights + (place * size_of::<u32>()) as u64);
    (pointers.labels, pointers.class_weights) = (at(labels_at), at(class_weights_at));
    pointers.dense = dense.as_ref().map_or(0, |dense| dense.pointer());

    let values = Values::of(&context, &x)?;
    let y = Output::new(&context, x.device(), rows)?;
    let saved = context.uninitialized::<f32>(3 * rows)?;
    let block = if classes <= 64 { 32 } else { 256 };
    let arguments = (y.pointer(), *saved.device_ptr(), values.pointer(), weights, pointers);
    // SAFETY: the logits are of (rows, classes), losses and weights of the rows, saved of three times the rows; the targets are
    // dense ones of (rows, classes), or labels of the rows, below `classes`, with class weights or null.
    unsafe { context.launch("cross_entropy", grid, block, arguments) }?;
    record(tape, &[&x], y.finish()?, (rows,), move |inputs, dy| {
        let (_dense, weights) = (&dense, *from_host.device_ptr());
        let arguments = (inputs[0], dy, *saved.device_ptr(), values.pointer(), weights, pointers);
        // SAFETY: as above; the gradients are those of the logits and the losses, and what the targets point to is kept
        // by this closure.
        unsafe { context.launch("cross_entropy_backward", grid, block, arguments) }
    })
}
