//! The fully connected layer.

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;

use super::elementwise::add;
use super::math::{apply, apply_all, differentiate_all, with_activation};
use super::matmul::{Accum, matrix, matrix_mut, multiply_parallel};
use super::record::{flat, host, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::{Activation, Parameter, Tensor};

/// See [`Backend::linear`](crate::nn::backend::Backend::linear).
pub(crate) fn linear<T: Tape<f32, Cpu>>(
    x: Tensor<(usize, usize), Cpu, T>,
    weight: &Parameter<Cpu>,
    bias: Option<&Parameter<Cpu>>,
    activation: Activation,
    input_gradient: bool,
) -> ModelResult<Tensor<(usize, usize), Cpu, T>> {
    let (rows, inputs) = *x.shape();
    let outputs = weight.dims()[0];
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let input = Scratch::copy_of(&x);
    let weights = host(weight)?;

    let mut y = vec![0.0; rows * outputs];
    multiply_parallel(
        matrix_mut(&mut y, rows, outputs),
        Accum::Replace,
        matrix(&input, rows, inputs),
        matrix(&weights, outputs, inputs).transpose(),
    );
    let keep_sum = T::OWNS_TAPE && !activation.is_known_from_output();
    let kept = add_bias(&mut y, bias, activation, keep_sum)?;
    let y = x.device().try_tensor_from_vec(y, (rows, outputs))?;
    if !T::OWNS_TAPE {
        return Ok(y.put_tape(tape));
    }

    let output = (activation != Activation::Identity).then(|| y.clone());
    let (flat_x, flat_weight) = (flat(&x)?, weight.identity());
    let flat_bias = bias.map(Parameter::identity);
    let mut to_record = vec![&flat_weight];
    to_record.extend(&flat_bias);
    if input_gradient {
        to_record.push(&flat_x);
    }
    let has_bias = bias.is_some();
    record(&mut tape, &to_record, &[&flat(&y)?], move |gradients, dy| {
        let mut dz = Scratch::dirty(rows * outputs);
        dz.copy_from_slice(&dy[0]);
        if let Some(kept) = kept.or_else(|| output.as_ref().map(Scratch::copy_of)) {
            differentiate_all(activation, &kept, &mut dz);
        }
        let (dw, rest) = gradients.split_at_mut(1);
        let (db, dx) = rest.split_at_mut(usize::from(has_bias));
        multiply_parallel(
            matrix_mut(&mut dw[0], outputs, inputs),
            Accum::Add,
            matrix(&dz, rows, outputs).transpose(),
            matrix(&input, rows, inputs),
        );
        if let Some(db) = db.first_mut() {
            for row in dz.chunks_exact(outputs) {
                add(db, row);
            }
        }
        if let Some(dx) = dx.first_mut() {
            multiply_parallel(
                matrix_mut(dx, rows, inputs),
                Accum::Add,
                matrix(&dz, rows, outputs),
                matrix(&weights, outputs, inputs),
            );
        }
    });
    Ok(y.put_tape(tape))
}

/// `y = activation(y + bias)` row by row; returns a copy of the sums if `keep`.
pub(super) fn add_bias(
    y: &mut [f32],
    bias: Option<&Parameter<Cpu>>,
    activation: Activation,
    keep: bool,
) -> ModelResult<Option<Scratch>> {
    let Some(bias) = bias else {
        let kept = keep.then(|| copy(y));
        apply_all(activation, y);
        return Ok(kept);
    };
    let bias = host(bias)?;
    if keep {
        for row in y.chunks_exact_mut(bias.len()) {
            add(row, &bias);
        }
        let kept = copy(y);
        apply_all(activation, y);
        return Ok(Some(kept));
    }
    super::vectorized(
        #[inline(always)]
        || {
            with_activation!(activation, |f| for row in y.chunks_exact_mut(bias.len()) {
                for (y, b) in row.iter_mut().zip(bias.iter()) {
                    *y = apply(f, *y + b);
                }
            })
        },
    );
    Ok(None)
}

fn copy(values: &[f32]) -> Scratch {
    let mut kept = Scratch::dirty(values.len());
    kept.copy_from_slice(values);
    kept
}
