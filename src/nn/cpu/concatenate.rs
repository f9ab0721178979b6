//! Rows one after another.

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;

use super::elementwise::add;
use super::record::{Flat, flat, record};
use super::scratch::Scratch;
use crate::nn::backend::Rows;
use crate::{ModelError, ModelResult};

/// See [`Backend::concatenate`](crate::nn::backend::Backend::concatenate).
pub(crate) fn concatenate<T: Tape<f32, Cpu>>(parts: Vec<Rows<Cpu, T>>) -> ModelResult<Rows<Cpu, T>> {
    let Some((rows, device)) = parts.first().map(|part| (part.shape().0, part.device().clone())) else {
        return Err(ModelError::msg("concatenate: found no tensor, expected at least one"));
    };
    let widths: Vec<usize> = parts.iter().map(|part| part.shape().1).collect();
    let total: usize = widths.iter().sum();
    let mut joined = vec![0.0; rows * total];
    let mut inputs: Vec<Flat> = Vec::with_capacity(parts.len());
    let mut tape = T::default();
    let mut start = 0;
    for part in parts {
        let width = part.shape().1;
        let (x, own) = part.try_contiguous()?.split_tape();
        tape = tape.merge(own);
        if rows * width > 0 {
            let values = Scratch::copy_of(&x);
            for (to, from) in joined.chunks_exact_mut(total).zip(values.chunks_exact(width)) {
                to[start..start + width].copy_from_slice(from);
            }
        }
        start += width;
        inputs.push(flat(&x)?);
    }
    let y = device.try_tensor_from_vec(joined, (rows, total))?;
    let inputs: Vec<&Flat> = inputs.iter().collect();
    record(&mut tape, &inputs, &[&flat(&y)?], move |gradients, dy| {
        if rows * total == 0 {
            return;
        }
        let mut start = 0;
        for (dx, width) in gradients.iter_mut().zip(widths) {
            if width > 0 {
                for (dx, dy) in dx.chunks_exact_mut(width).zip(dy[0].chunks_exact(total)) {
                    add(dx, &dy[start..start + width]);
                }
            }
            start += width;
        }
    });
    Ok(y.put_tape(tape))
}
