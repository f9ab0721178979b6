//! Tables of vectors.

use dfdx::tensor::{Cpu, PutTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;

use super::elementwise::add;
use super::record::{host, record};
use crate::ModelResult;
use crate::nn::Parameter;
use crate::nn::backend::Rows;

/// See [`Backend::embedding`](crate::nn::backend::Backend::embedding).
pub(crate) fn embedding<T: Tape<f32, Cpu>>(
    weight: &Parameter<Cpu>,
    ids: Vec<usize>,
    padding: Option<usize>,
    mut tape: T,
) -> ModelResult<Rows<Cpu, T>> {
    let (size, count) = (weight.dims()[1], ids.len());
    let table = host(weight)?;
    let mut y = Vec::with_capacity(count * size);
    for id in ids.iter() {
        y.extend_from_slice(&table[id * size..(id + 1) * size]);
    }
    let weight_tensor = weight.identity();
    let y = weight_tensor.device().try_tensor_from_vec(y, (count * size,))?;
    if weight.is_trainable() {
        record(&mut tape, &[&weight_tensor], &[&y], move |dw, dy| {
            for (id, dy) in ids.into_iter().zip(dy[0].chunks_exact(size)) {
                if Some(id) != padding {
                    add(&mut dw[0][id * size..(id + 1) * size], dy);
                }
            }
        });
    }
    Ok(y.try_reshape_like(&(count, size))?.put_tape(tape))
}

/// See [`Backend::embedding_bag`](crate::nn::backend::Backend::embedding_bag).
pub(crate) fn embedding_bag<T: Tape<f32, Cpu>>(
    weight: &Parameter<Cpu>,
    ids: Vec<usize>,
    sizes: Vec<usize>,
    factors: Vec<f32>,
    mut tape: T,
) -> ModelResult<Rows<Cpu, T>> {
    let (size, bags) = (weight.dims()[1], sizes.len());
    let table = host(weight)?;
    let mut y = vec![0.0; bags * size];
    let mut start = 0;
    for (y, &bag) in y.chunks_exact_mut(size).zip(&sizes) {
        for (id, factor) in ids[start..start + bag].iter().zip(&factors[start..]) {
            for (y, v) in y.iter_mut().zip(&table[id * size..(id + 1) * size]) {
                *y += factor * v;
            }
        }
        start += bag;
    }
    let weight_tensor = weight.identity();
    let y = weight_tensor.device().try_tensor_from_vec(y, (bags * size,))?;
    if weight.is_trainable() {
        record(&mut tape, &[&weight_tensor], &[&y], move |dw, dy| {
            let mut start = 0;
            for (dy, bag) in dy[0].chunks_exact(size).zip(sizes) {
                for (id, factor) in ids[start..start + bag].iter().zip(&factors[start..]) {
                    let dw = &mut dw[0][id * size..(id + 1) * size];
                    for (dw, dy) in dw.iter_mut().zip(dy) {
                        *dw += factor * dy;
                    }
                }
                start += bag;
            }
        });
    }
    Ok(y.try_reshape_like(&(bags, size))?.put_tape(tape))
}
