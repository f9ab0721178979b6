//! Convolutions, alone and with ReLU and pool, on the tape.

use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;
use rayon::prelude::*;

use super::convolution_plan::Plan;
use super::images::transpose;
use super::linear::add_bias;
use super::math::differentiate_all;
use super::pool::{forget_clipped, largest_of_blocks, max_blocks, unpool_blocks};
use super::record::{flat, host, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::backend::Convolution;
use crate::nn::{Activation, Parameter, Tensor};

type Images<T> = Tensor<(usize, usize, usize, usize), Cpu, T>;

/// See [`Backend::conv2d`](crate::nn::backend::Backend::conv2d).
pub(crate) fn conv2d<T: Tape<f32, Cpu>>(
    x: Images<T>,
    weight: &Parameter<Cpu>,
    bias: Option<&Parameter<Cpu>>,
    convolution: &Convolution,
    activation: Activation,
) -> ModelResult<Images<T>> {
    let plan = Plan::new(convolution);
    let w = convolution.window;
    let outs = convolution.out_channels;
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let images = Scratch::copy_of(&x);
    let weights = plan.pack(&host(weight)?);

    // What the activation's derivative needs, channels last.
    let keep = T::OWNS_TAPE && activation != Activation::Identity;
    let mut kept = Scratch::dirty(if keep { w.batch * plan.out_image } else { 0 });
    let mut y = vec![0.0; w.batch * plan.out_image];
    let chunk_out = plan.chunk * plan.out_image;
    let mut kept_chunks: Vec<&mut [f32]> = if keep {
        kept.chunks_mut(chunk_out).collect()
    } else {
        y.chunks(chunk_out).map(|_| <&mut [f32]>::default()).collect()
    };
    y.par_chunks_mut(chunk_out)
        .zip(images.par_chunks(plan.chunk * plan.image))
        .zip(kept_chunks.par_iter_mut())
        .try_for_each(|((y, images), kept)| -> ModelResult<()> {
            let mut buffers = plan.buffers();
            for (index, (y, image)) in
                y.chunks_exact_mut(plan.out_image).zip(images.chunks_exact(plan.image)).enumerate()
            {
                plan.forward(image, &weights, &mut buffers);
                let sums = add_bias(&mut buffers.y, bias, activation, keep && !activation.is_known_from_output())?;
                if let Some(kept) = kept.chunks_exact_mut(plan.out_image).nth(index) {
                    kept.copy_from_slice(sums.as_deref().unwrap_or(&buffers.y));
                }
                transpose(&buffers.y, plan.pixels, outs, y);
            }
            Ok(())
        })?;
    drop(kept_chunks);
    let y = x.device().try_tensor_from_vec(y, (w.batch, outs, w.out.0, w.out.1))?;
    if !T::OWNS_TAPE {
        return Ok(y.put_tape(tape));
    }
    let has_bias = bias.is_some();
    record_convolution(&mut tape, &x, weight, bias, convolution, &y, move |gradients, dy| {
        plan.backward_batch(&images, &weights, gradients, has_bias, |index, dz| {
            let range = index * plan.out_image..(index + 1) * plan.out_image;
            transpose(&dy[range.clone()], outs, plan.pixels, dz);
            if keep {
                differentiate_all(activation, &kept[range], dz);
            }
        });
    })?;
    Ok(y.put_tape(tape))
}

/// Records the backward pass of a convolution: gradients come as weight, bias if any, input if wanted.
fn record_convolution<T: Tape<f32, Cpu>>(
    tape: &mut T,
    x: &Images<dfdx::tensor::NoneTape>,
    weight: &Parameter<Cpu>,
    bias: Option<&Parameter<Cpu>>,
    convolution: &Convolution,
    y: &Images<dfdx::tensor::NoneTape>,
    backward: impl FnOnce(&mut [Vec<f32>], &[f32]) + 'static,
) -> ModelResult<()> {
    let (x, weight, bias) = (flat(x)?, weight.identity(), bias.map(Parameter::identity));
    let mut inputs = vec![&weight];
    inputs.extend(&bias);
    if convolution.input_gradient {
        inputs.push(&x);
    }
    record(tape, &inputs, &[&flat(y)?], move |gradients, dy| backward(gradients, &dy[0]));
    Ok(())
}

/// See [`Backend::conv_block`](crate::nn::backend::Backend::conv_block).
pub(crate) fn conv_block<T: Tape<f32, Cpu>>(
    x: Images<T>,
    weight: &Parameter<Cpu>,
    bias: Option<&Parameter<Cpu>>,
    convolution: &Convolution,
    pool: (usize, usize),
) -> ModelResult<Images<T>> {
    let plan = Plan::new(convolution);
    let w = convolution.window;
    let outs = convolution.out_channels;
    let pooled = (w.out.0 / pool.0, w.out.1 / pool.1);
    let pooled_pixels = pooled.0 * pooled.1;
    let pooled_len = outs * pooled_pixels;
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let images = Scratch::copy_of(&x);
    let weights = plan.pack(&host(weight)?);

    let mut y = vec![0.0; w.batch * pooled_len];
    let mut chosen = vec![0u8; if T::OWNS_TAPE { w.batch * pooled_len } else { 0 }];
    let chunk_out = plan.chunk * pooled_len;
    let mut chosen_chunks: Vec<&mut [u8]> = if T::OWNS_TAPE {
        chosen.chunks_mut(chunk_out).collect()
    } else {
        y.chunks(chunk_out).map(|_| <&mut [u8]>::default()).collect()
    };
    y.par_chunks_mut(chunk_out)
        .zip(images.par_chunks(plan.chunk * plan.image))
        .zip(chosen_chunks.par_iter_mut())
        .try_for_each(|((y, images), chosen)| -> ModelResult<()> {
            let mut buffers = plan.buffers();
            let mut largest = Scratch::dirty(pooled_len);
            let outputs = y.chunks_exact_mut(pooled_len).zip(images.chunks_exact(plan.image));
            for (index, (y, image)) in outputs.enumerate() {
                plan.forward(image, &weights, &mut buffers);
                // ReLU and bias may follow the pool, where there is less to do: both keep the order of values.
                match chosen.chunks_exact_mut(pooled_len).nth(index) {
                    Some(chosen) => {
                        max_blocks(&buffers.y, w.out.1, outs, pool, pooled, &mut largest, chosen);
                        add_bias(&mut largest, bias, Activation::Relu, false)?;
                        forget_clipped(&largest, chosen);
                    }
                    None => {
                        largest_of_blocks(&buffers.y, w.out.1, outs, pool, pooled, &mut largest);
                        add_bias(&mut largest, bias, Activation::Relu, false)?;
                    }
                }
                transpose(&largest, pooled_pixels, outs, y);
            }
            Ok(())
        })?;
    drop(chosen_chunks);
    let y = x.device().try_tensor_from_vec(y, (w.batch, outs, pooled.0, pooled.1))?;
    if !T::OWNS_TAPE {
        return Ok(y.put_tape(tape));
    }
    let has_bias = bias.is_some();
    record_convolution(&mut tape, &x, weight, bias, convolution, &y, move |gradients, dy| {
        plan.backward_batch(&images, &weights, gradients, has_bias, |index, dz| {
            let range = index * pooled_len..(index + 1) * pooled_len;
            let mut dy_image = Scratch::dirty(pooled_len);
            transpose(&dy[range.clone()], outs, pooled_pixels, &mut dy_image);
            unpool_blocks(&dy_image, &chosen[range], w.out, outs, pool, pooled, dz);
        });
    })?;
    Ok(y.put_tape(tape))
}
