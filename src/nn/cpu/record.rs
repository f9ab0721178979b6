//! How an operation enters the tape.

use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor::{Cpu, Tape};
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::{Parameter, Tensor};
use crate::{ModelError, ModelResult};
use std::sync::Arc;

/// A tensor of the host without its shape: what gradients are kept for.
pub(super) type Flat = Tensor<(usize,), Cpu>;

/// The tensor in one dimension, with its identity.
pub(super) fn flat<S: Shape>(tensor: &Tensor<S, Cpu>) -> ModelResult<Flat> {
    let len = tensor.shape().num_elements();
    Ok(tensor.clone().try_reshape_like(&(len,))?)
}

/// The values of a parameter, which live on the host.
pub(super) fn host(parameter: &Parameter<Cpu>) -> ModelResult<Arc<Vec<f32>>> {
    parameter.host().cloned().ok_or_else(|| ModelError::msg("a parameter on the CPU without values on the host"))
}

/// Records `backward`, which gets the gradients of the inputs to add to, and the gradients of the outputs.
///
/// An input may appear twice: what is added to both is added up.
pub(super) fn record<T: Tape<f32, Cpu>>(
    tape: &mut T,
    inputs: &[&Flat],
    outputs: &[&Flat],
    backward: impl FnOnce(&mut [Vec<f32>], &[Vec<f32>]) + 'static,
) {
    if !T::OWNS_TAPE {
        return;
    }
    let lens: Vec<usize> = inputs.iter().map(|tensor| tensor.shape().0).collect();
    let inputs: Vec<_> = inputs.iter().map(|tensor| tensor.ghost()).collect();
    let outputs: Vec<_> = outputs.iter().map(|tensor| tensor.ghost()).collect();
    tape.add_backward_op(move |gradients| {
        // One gradient can be borrowed at a time, so they are taken out and put back.
        let mut output_gradients = Vec::with_capacity(outputs.len());
        for ghost in &outputs {
            output_gradients.push(std::mem::take(&mut **gradients.get_or_alloc_mut(ghost)?));
        }
        let mut input_gradients = Vec::with_capacity(inputs.len());
        for (ghost, len) in inputs.iter().zip(lens) {
            let mut gradient = std::mem::take(&mut **gradients.get_or_alloc_mut(ghost)?);
            if gradient.len() != len {
                gradient = vec![0.0; len];
            }
            input_gradients.push(gradient);
        }
        backward(&mut input_gradients, &output_gradients);
        for (ghosts, values) in [(inputs, input_gradients), (outputs, output_gradients)] {
            for (ghost, values) in ghosts.iter().zip(values) {
                let slot = &mut **gradients.get_or_alloc_mut(ghost)?;
                if slot.is_empty() {
                    *slot = values;
                } else {
                    for (slot, value) in slot.iter_mut().zip(values) {
                        *slot += value;
                    }
                }
            }
        }
        Ok(())
    });
}
