//! Scaled dot-product attention: batches of matrix products, and a kernel between them each way.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, CudaError, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::blas::{Matrix, Onto};
use super::context::{Context, blocks, size};
use super::elementwise::THREADS;
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::backend::{Attention, Sequences};
use crate::{ModelError, ModelResult};

/// The kernels' `MOST_ARRAYS`.
const MOST_ARRAYS: usize = 6;

/// The kernels' `Batches`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Batches {
    base: [u64; MOST_ARRAYS],
    outer: [u64; MOST_ARRAYS],
    inner: [u64; MOST_ARRAYS],
    arrays: u32,
    heads: u32,
    count: u32,
}

// SAFETY: arrays of 64 and numbers of 32 bits in C's layout, as the kernels' struct has them in the same order and number.
unsafe impl DeviceRepr for Batches {}

/// The kernels' `Seen`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Seen {
    lengths: u64,
    dropout_key: u64,
    heads: u32,
    queries: u32,
    keys: u32,
    causal: u32,
    threshold: u32,
    factor: f32,
}

// SAFETY: a pointer, a number of 64 and six of 32 bits in C's layout, as the kernels' struct has them in the same order.
unsafe impl DeviceRepr for Seen {}

/// The sizes of an attention, and the context that runs it.
#[derive(Clone)]
struct Sizes {
    context: Arc<Context>,
    heads: u32,
    queries: u32,
    keys: u32,
    size: u32,
    /// Of all heads of all examples.
    matrices: u32,
    /// Queries of all of them.
    rows: u32,
}

/// What a tensor is cut into, one piece for each head of each example.
#[derive(Clone, Copy)]
enum Cut {
    /// `(batch, queries, size)`
    Queries,
    /// `(batch, keys, size)`
    Keys,
    /// `(batch, heads, queries, keys)`
    Weights,
}

impl Sizes {
    fn weights(&self) -> usize {
        self.rows as usize * self.keys as usize
    }

    fn width(&self) -> u32 {
        self.size / self.heads
    }

    fn block(&self) -> u32 {
        self.keys.clamp(32, THREADS).next_power_of_two()
    }

    /// The addresses of the matrices that tensors at these places are cut into, one tensor after another.
    fn addresses<const N: usize>(&self, tensors: [(u64, Cut); N]) -> Result<CudaSlice<u64>, CudaError> {
        let mut batches = Batches {
            base: [0; MOST_ARRAYS],
            outer: [0; MOST_ARRAYS],
            inner: [0; MOST_ARRAYS],
            arrays: N as u32,
            heads: self.heads,
            count: self.matrices,
        };
        let [heads, queries, keys, size] = [self.heads, self.queries, self.keys, self.size].map(u64::from);
        for (k, (pointer, cut)) in tensors.into_iter().enumerate() {
            batches.base[k] = pointer;
            (batches.outer[k], batches.inner[k]) = match cut {
                Cut::Queries => (queries * size, size / heads),
                Cut::Keys => (keys * size, size / heads),
                Cut::Weights => (heads * queries * keys, queries * keys),
            };
        }
        let count = N * self.matrices as usize;
        let addresses = self.context.uninitialized::<u64>(count)?;
        let arguments = (*addresses.device_ptr(), batches);
        // SAFETY: the addresses are as many as arrays times matrices, and new; N is at most the most arrays. Nothing is read.
        unsafe { self.context.launch("matrices", (blocks(count, THREADS), 1), THREADS, arguments) }?;
        Ok(addresses)
    }

    /// The place of the addresses of the tensor of this number.
    fn of(&self, addresses: &CudaSlice<u64>, tensor: u32) -> u64 {
        *addresses.device_ptr() + u64::from(tensor) * u64::from(self.matrices) * size_of::<u64>() as u64
    }
}

/// See [`Backend::attention`](crate::nn::backend::Backend::attention).
pub(super) fn attention<T: Tape<f32, Cuda>>(
    queries: Sequences<Cuda, T>,
    keys: Sequences<Cuda, T>,
    values: Sequences<Cuda, T>,
    attention: &Attention<'_>,
) -> ModelResult<Sequences<Cuda, T>> {
    let shape = *queries.shape();
    let (batch, length, width) = shape;
    let key_length = keys.shape().1;
    let Attention { heads, lengths, causal, dropout } = *attention;
    // The kernels read where lengths say, and cuBLAS where sizes do: this is what makes that sound.
    let is_sound = heads > 0
        && width.is_multiple_of(heads)
        && [*keys.shape(), *values.shape()].iter().all(|other| *other == (batch, key_length, width))
        && lengths.is_none_or(|lengths| lengths.len() == batch && lengths.iter().all(|end| *end <= key_length));
    if !is_sound {
        return Err(ModelError::msg(format!(
            "attention: found keys {:?}, values {:?}, {heads} heads and lengths {lengths:?}, which do not fit queries {shape:?}",
            keys.shape(),
            values.shape()
        )));
    }
    let (queries, tape) = queries.try_contiguous()?.split_tape();
    let (keys, key_tape) = keys.try_contiguous()?.split_tape();
    let (values, value_tape) = values.try_contiguous()?.split_tape();
    let tape = tape.merge(key_tape).merge(value_tape);
    let inputs = [flat(&queries)?, flat(&keys)?, flat(&values)?];
    let context = Context::of(&inputs[0])?;
    let sizes = Sizes {
        context: context.clone(),
        heads: size(heads)?,
        queries: size(length)?,
        keys: size(key_length)?,
        size: size(width)?,
        matrices: size(batch * heads)?,
        rows: size(batch * heads * length)?,
    };
    let y = Output::new(&context, inputs[0].device(), batch * length * width)?;
    if batch * length * width == 0 || sizes.weights() == 0 {
        // Zeros where no key is seen, and nothing to learn from them.
        return record(tape, &inputs.each_ref(), y.finish()?, shape, |_, _| Ok(()));
    }

    let from_host = match lengths {
        Some(lengths) => {
            let lengths = lengths.iter().map(|length| *length as u32).collect::<Vec<_>>();
            Some(context.uploaded(lengths)?)
        }
        None => None,
    };
    let (dropout_key, threshold, factor) = dropout.unwrap_or((0, 0, 1.0));
    let seen = Seen {
        lengths: from_host.as_ref().map_or(0, |lengths| *lengths.device_ptr()),
        dropout_key,
        heads: sizes.heads,
        queries: sizes.queries,
        keys: sizes.keys,
        causal: u32::from(causal),
        threshold,
        factor,
    };
    let scale = 1.0 / (sizes.width() as f32).sqrt();

    let tensors =
        [Values::of(&context, &inputs[0])?, Values::of(&context, &inputs[1])?, Values::of(&context, &inputs[2])?];
    let weights = context.uninitialized::<f32>(sizes.weights())?;
    let dropped = dropout.map(|_| context.uninitialized::<f32>(sizes.weights())).transpose()?;
    let mixing = dropped.as_ref().map_or(*weights.device_ptr(), |dropped| *dropped.device_ptr());
    let addresses = sizes.addresses([
        (tensors[0].pointer(), Cut::Queries),
        (tensors[1].pointer(), Cut::Keys),
        (tensors[2].pointer(), Cut::Keys),
        (*weights.device_ptr(), Cut::Weights),
        (mixing, Cut::Weights),
        (y.pointer(), Cut::Queries),
    ])?;
    let [q, k, v, products, mix, out] = [0, 1, 2, 3, 4, 5].map(|tensor| sizes.of(&addresses, tensor));
    let (m, n, w, row) = (sizes.queries, sizes.keys, sizes.width(), sizes.size);
    let (q, k, v) = (Matrix::new(q, row), Matrix::new(k, row), Matrix::new(v, row));
    // SAFETY: queries and y are of (batch, queries, size), keys and values of (batch, keys, size), weights and what is left
    // of them of (batch, heads, queries, keys): the addresses are those of their heads, which the products do not leave. The
    // lengths are of the batch, at most the keys, or null. Weights, what is left of them and y are new.
    unsafe {
        let count = sizes.matrices;
        context.multiply_each((m, n, w), q, k.transposed(), Matrix::new(products, n), Onto::Replace, count)?;
        let left = dropped.as_ref().map_or(0, |dropped| *dropped.device_ptr());
        let arguments = (*weights.device_ptr(), left, scale, seen);
        context.launch("attention_weights", (sizes.rows, 1), sizes.block(), arguments)?;
        context.multiply_each((m, w, n), Matrix::new(mix, n), v, Matrix::new(out, row), Onto::Replace, count)?;
    }
    drop(dropped);
    record(tape, &inputs.each_ref(), y.finish()?, shape, move |gradients, dy| {
        let [dq, dk, dv] = *gradients else { return Ok(()) };
        // What the addresses and `seen` lead to is kept by this closure.
        let (_tensors, _from_host, _addresses) = (&tensors, &from_host, &addresses);
        let dweights = context.uninitialized::<f32>(sizes.weights())?;
        let dropped = dropout.map(|_| context.uninitialized::<f32>(sizes.weights())).transpose()?;
        let mixing = dropped.as_ref().map_or(*weights.device_ptr(), |dropped| *dropped.device_ptr());
        let others = sizes.addresses([
            (dq, Cut::Queries),
            (dk, Cut::Keys),
            (dv, Cut::Keys),
            (*dweights.device_ptr(), Cut::Weights),
            (mixing, Cut::Weights),
            (dy, Cut::Queries),
        ])?;
        let [dq, dk, dv, dproducts, mix, dy] = [0, 1, 2, 3, 4, 5].map(|tensor| sizes.of(&others, tensor));
        let (dq, dk, dv, dy) = (Matrix::new(dq, row), Matrix::new(dk, row), Matrix::new(dv, row), Matrix::new(dy, row));
        let (dproducts, mix) = (Matrix::new(dproducts, n), Matrix::new(mix, n));
        // SAFETY: as above; gradients are of the sizes of their tensors, dweights and what is left of the weights as these,
        // and new. An input may be given twice: then the products that add to its gradient come one after another.
        unsafe {
            let count = sizes.matrices;
            context.multiply_each((m, n, w), dy, v.transposed(), dproducts, Onto::Replace, count)?;
            let left = dropped.as_ref().map_or(0, |dropped| *dropped.device_ptr());
            let arguments = (*dweights.device_ptr(), left, *weights.device_ptr(), scale, seen);
            context.launch("attention_weights_backward", (sizes.rows, 1), sizes.block(), arguments)?;
            context.multiply_each((n, w, m), mix.transposed(), dy, dv, Onto::Add, count)?;
            context.multiply_each((m, w, n), dproducts, k, dq, Onto::Add, count)?;
            context.multiply_each((n, w, m), dproducts.transposed(), q, dk, Onto::Add, count)
        }
    })
}
