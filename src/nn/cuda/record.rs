//! How an operation enters the tape.

use dfdx::shapes::Shape;
use dfdx::tensor::{Cuda, CudaError, PutTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::Flat;
use super::pointer::gradient_of;
use crate::ModelResult;
use crate::nn::{Gradients, Tensor};

/// The tensor in one dimension, with its identity. It must be contiguous.
pub(super) fn flat<S: Shape>(tensor: &Tensor<S, Cuda>) -> ModelResult<Flat> {
    let len = dfdx::shapes::HasShape::shape(tensor).num_elements();
    Ok(tensor.clone().try_reshape_like(&(len,))?)
}

/// Records `backward`, which gets the pointers to the inputs' gradients, to add to, and to the output's; and gives the
/// output its shape and the tape.
pub(super) fn record<S: Shape, T: Tape<f32, Cuda>>(
    mut tape: T,
    inputs: &[&Flat],
    output: Flat,
    shape: S,
    backward: impl FnOnce(&[u64], u64) -> Result<(), CudaError> + 'static,
) -> ModelResult<Tensor<S, Cuda, T>> {
    if T::OWNS_TAPE {
        let inputs = inputs.iter().map(|input| gradient_of(input)).collect::<Vec<_>>();
        let own = gradient_of(&output);
        tape.add_backward_op(move |gradients: &mut Gradients<Cuda>| {
            // Allocating one gradient does not move the others, which are memory of the device.
            let own = own(gradients)?;
            let inputs = inputs.iter().map(|gradient| gradient(gradients)).collect::<Result<Vec<_>, _>>()?;
            backward(&inputs, own)
        });
    }
    Ok(output.try_reshape_like(&shape)?.put_tape(tape))
}

/// The same for an operation with many outputs, which stay as they are.
pub(super) fn record_many<T: Tape<f32, Cuda>>(
    tape: &mut T,
    inputs: &[&Flat],
    outputs: &[&Flat],
    backward: impl FnOnce(&[u64], &[u64]) -> Result<(), CudaError> + 'static,
) {
    if T::OWNS_TAPE {
        let inputs = inputs.iter().map(|input| gradient_of(input)).collect::<Vec<_>>();
        let outputs = outputs.iter().map(|output| gradient_of(output)).collect::<Vec<_>>();
        tape.add_backward_op(move |gradients: &mut Gradients<Cuda>| {
            // Allocating one gradient does not move the others, which are memory of the device.
            let outputs = outputs.iter().map(|gradient| gradient(gradients)).collect::<Result<Vec<_>, _>>()?;
            let inputs = inputs.iter().map(|gradient| gradient(gradients)).collect::<Result<Vec<_>, _>>()?;
            backward(&inputs, &outputs)
        });
    }
}
