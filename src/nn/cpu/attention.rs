//! Attention, one example at a time.

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;
use rayon::prelude::*;

use super::math::exp;
use super::matmul::{Accum, matrix, matrix_mut, multiply};
use super::norm::{sum, sum_of_products};
use super::record::{flat, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::RandomStream;
use crate::nn::backend::{Attention, Sequences};

/// The sizes of an attention.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    heads: usize,
    queries: usize,
    keys: usize,
    size: usize,
    causal: bool,
    dropout: Option<(u64, u32, f32)>,
}

impl Sizes {
    fn width(&self) -> usize {
        self.size / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width() as f32).sqrt()
    }

    /// Multiplies weights by the dropout's factors, which are drawn again in the backward pass.
    fn drop(&self, example: usize, head: usize, weights: &mut [f32]) {
        let Some((key, threshold, scale)) = self.dropout else { return };
        let first = ((example * self.heads + head) * self.queries * self.keys) as u64;
        for (index, weight) in weights.iter_mut().enumerate() {
            let falls = RandomStream::bits(key, first + index as u64) < threshold;
            *weight *= if falls { 0.0 } else { scale };
        }
    }

    /// Scores become weights: each query's first `end` keys, all others 0.
    fn softmax(&self, scores: &mut [f32], end: usize) {
        super::vectorized(
            #[inline(always)]
            || {
                for (query, row) in scores.chunks_exact_mut(self.keys).enumerate() {
                    let end = if self.causal { end.min(query + 1) } else { end };
                    let (seen, unseen) = row.split_at_mut(end);
                    unseen.fill(0.0);
                    let largest = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    for score in seen.iter_mut() {
                        *score = exp(*score - largest);
                    }
                    let total = 1.0 / sum(seen);
                    for score in seen.iter_mut() {
                        *score *= total;
                    }
                }
            },
        );
    }

    fn forward(
        &self,
        (example, end): (usize, usize),
        (q, k, v): (&[f32], &[f32], &[f32]),
        weights: &mut [f32],
        y: &mut [f32],
    ) {
        let (queries, keys, size, width) = (self.queries, self.keys, self.size, self.width());
        let mut dropped = Scratch::dirty(if self.dropout.is_some() { queries * keys } else { 0 });
        for (head, weights) in weights.chunks_exact_mut(queries * keys).enumerate() {
            let columns = head * width;
            let q = matrix(q, queries, size).subcols(columns, width);
            let k = matrix(k, keys, size).subcols(columns, width);
            let v = matrix(v, keys, size).subcols(columns, width);
            multiply(matrix_mut(weights, queries, keys), Accum::Replace, q, k.transpose());
            let scale = self.scale();
            for score in weights.iter_mut() {
                *score *= scale;
            }
            self.softmax(weights, end);
            let y = matrix_mut(y, queries, size).subcols_mut(columns, width);
            if self.dropout.is_some() {
                dropped.copy_from_slice(weights);
                self.drop(example, head, &mut dropped);
                multiply(y, Accum::Replace, matrix(&dropped, queries, keys), v);
            } else {
                multiply(y, Accum::Replace, matrix(weights, queries, keys), v);
            }
        }
    }

    fn backward(
        &self,
        example: usize,
        (q, k, v): (&[f32], &[f32], &[f32]),
        weights: &[f32],
        dy: &[f32],
        (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        let (queries, keys, size, width) = (self.queries, self.keys, self.size, self.width());
        let mut dweights = Scratch::dirty(queries * keys);
        let mut dropped = Scratch::dirty(queries * keys);
        for (head, weights) in weights.chunks_exact(queries * keys).enumerate() {
            let columns = head * width;
            let q = matrix(q, queries, size).subcols(columns, width);
            let k = matrix(k, keys, size).subcols(columns, width);
            let v = matrix(v, keys, size).subcols(columns, width);
            let dy = matrix(dy, queries, size).subcols(columns, width);
            dropped.copy_from_slice(weights);
            self.drop(example, head, &mut dropped);
            let dv = matrix_mut(dv, keys, size).subcols_mut(columns, width);
            multiply(dv, Accum::Add, matrix(&dropped, queries, keys).transpose(), dy);
            multiply(matrix_mut(&mut dweights, queries, keys), Accum::Replace, dy, v.transpose());
            self.drop(example, head, &mut dweights);
            let scale = self.scale();
            super::vectorized(
                #[inline(always)]
                || {
                    for (d, w) in dweights.chunks_exact_mut(keys).zip(weights.chunks_exact(keys)) {
                        let along = sum_of_products(d, w);
                        for (d, w) in d.iter_mut().zip(w) {
                            *d = scale * w * (*d - along);
                        }
                    }
                },
            );
            let dscores = matrix(&dweights, queries, keys);
            multiply(matrix_mut(dq, queries, size).subcols_mut(columns, width), Accum::Add, dscores, k);
            multiply(matrix_mut(dk, keys, size).subcols_mut(columns, width), Accum::Add, dscores.transpose(), q);
        }
    }
}

/// See [`Backend::attention`](crate::nn::backend::Backend::attention).
pub(crate) fn attention<T: Tape<f32, Cpu>>(
    queries: Sequences<Cpu, T>,
    keys: Sequences<Cpu, T>,
    values: Sequences<Cpu, T>,
    attention: &Attention<'_>,
) -> ModelResult<Sequences<Cpu, T>> {
    let shape = *queries.shape();
    let (batch, length, size) = shape;
    let key_length = keys.shape().1;
    let Attention { heads, lengths, causal, dropout } = *attention;
    let sizes = Sizes { heads, queries: length, keys: key_length, size, causal, dropout };
    let (queries, tape) = queries.try_contiguous()?.split_tape();
    let (keys, key_tape) = keys.try_contiguous()?.split_tape();
    let (values, value_tape) = values.try_contiguous()?.split_tape();
    let mut tape = tape.merge(key_tape).merge(value_tape);
    let (q, k, v) = (Scratch::copy_of(&queries), Scratch::copy_of(&keys), Scratch::copy_of(&values));
    let mut weights = Scratch::dirty(batch * heads * length * key_length);
    let mut y = vec![0.0; batch * length * size];
    let is_empty = y.is_empty() || weights.is_empty();
    let ends: Vec<usize> = (0..batch).map(|row| lengths.map_or(key_length, |lengths| lengths[row])).collect();
    if !is_empty {
        y.par_chunks_mut(length * size)
            .zip(weights.par_chunks_mut(heads * length * key_length))
            .zip(q.par_chunks(length * size))
            .zip(k.par_chunks(key_length * size).zip(v.par_chunks(key_length * size)))
            .enumerate()
            .for_each(|(example, (((y, weights), q), (k, v)))| {
                sizes.forward((example, ends[example]), (q, k, v), weights, y);
            });
    }
    let y = queries.device().try_tensor_from_vec(y, shape)?;
    let inputs = [&flat(&queries)?, &flat(&keys)?, &flat(&values)?];
    record(&mut tape, &inputs, &[&flat(&y)?], move |gradients, dy| {
        let [dq, dk, dv] = gradients else { return };
        if is_empty {
            return;
        }
        let (one, other, w) = (length * size, key_length * size, heads * length * key_length);
        dq.par_chunks_mut(one).zip(dk.par_chunks_mut(other).zip(dv.par_chunks_mut(other))).enumerate().for_each(
            |(example, (dq, (dk, dv)))| {
                let (at, key_at) = (example * one, example * other);
                let inputs = (&q[at..at + one], &k[key_at..key_at + other], &v[key_at..key_at + other]);
                let weights = &weights[example * w..(example + 1) * w];
                sizes.backward(example, inputs, weights, &dy[0][at..at + one], (dq, dk, dv));
            },
        );
    });
    Ok(y.put_tape(tape))
}
