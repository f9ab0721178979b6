//! The linear-chain conditional random field by the forward-backward algorithm (Lafferty et al. 2001).

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;
use rayon::prelude::*;

use super::elementwise::add;
use super::math::exp;
use super::record::{Flat, flat, host, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::Tensor;
use crate::nn::backend::{Sequences, Transitions};

/// The scores of a field.
struct Field<'a> {
    count: usize,
    between: &'a [f32],
    start: &'a [f32],
    end: &'a [f32],
}

/// `ln Σ exp`, of which the largest term is taken out.
fn log_sum_exp(values: &[f32]) -> f32 {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return largest;
    }
    let sum = super::vectorized(
        #[inline(always)]
        || values.iter().map(|v| exp(v - largest)).sum::<f32>(),
    );
    sum.ln() + largest
}

impl Field<'_> {
    /// Logarithms of the sums over paths up to each step, less an offset per step which keeps them small; the total.
    fn forward(&self, emissions: &[f32], alphas: &mut [f32]) -> f64 {
        let count = self.count;
        let mut offset = 0.0f64;
        let mut terms = vec![0.0; count];
        for (step, emissions) in emissions.chunks_exact(count).enumerate() {
            let (before, alpha) = alphas.split_at_mut(step * count);
            let alpha = &mut alpha[..count];
            for to in 0..count {
                alpha[to] = emissions[to]
                    + if step == 0 {
                        self.start[to]
                    } else {
                        let before = &before[(step - 1) * count..];
                        for from in 0..count {
                            terms[from] = before[from] + self.between[from * count + to];
                        }
                        log_sum_exp(&terms)
                    };
            }
            let largest = alpha.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if largest.is_finite() {
                for a in alpha.iter_mut() {
                    *a -= largest;
                }
                offset += f64::from(largest);
            }
        }
        let last = &alphas[emissions.len() - count..emissions.len()];
        let ends: Vec<f32> = last.iter().zip(self.end).map(|(a, e)| a + e).collect();
        offset + f64::from(log_sum_exp(&ends))
    }

    /// The score of a path, in f64 as the total is.
    fn score(&self, emissions: &[f32], tags: &[usize]) -> f64 {
        let count = self.count;
        let emitted = tags.iter().zip(emissions.chunks_exact(count)).map(|(tag, e)| f64::from(e[*tag])).sum::<f64>();
        let moved: f64 = tags.windows(2).map(|pair| f64::from(self.between[pair[0] * count + pair[1]])).sum();
        let ends = tags.first().map_or(0.0, |tag| f64::from(self.start[*tag]))
            + tags.last().map_or(0.0, |tag| f64::from(self.end[*tag]));
        emitted + moved + ends
    }

    /// Adds `weight` times the gradients of the negative log-likelihood: probabilities less what the path takes.
    fn backward(&self, emissions: &[f32], tags: &[usize], alphas: &[f32], weight: f32, to: &mut Gradients<'_>) {
        let count = self.count;
        let steps = tags.len();
        let mut beta: Vec<f32> = self.end.to_vec();
        let mut after = vec![0.0; count];
        let mut pairs = vec![0.0; count * count];
        for step in (0..steps).rev() {
            let alpha = &alphas[step * count..][..count];
            // Probabilities of the step's tags.
            let mut p: Vec<f32> = alpha.iter().zip(&beta).map(|(a, b)| a + b).collect();
            normalize(&mut p);
            let demissions = &mut to.emissions[step * count..][..count];
            for (d, p) in demissions.iter_mut().zip(&p) {
                *d += weight * p;
            }
            demissions[tags[step]] -= weight;
            if step == steps - 1 {
                for (d, p) in to.end.iter_mut().zip(&p) {
                    *d += weight * p;
                }
                to.end[tags[step]] -= weight;
            }
            if step == 0 {
                for (d, p) in to.start.iter_mut().zip(&p) {
                    *d += weight * p;
                }
                to.start[tags[0]] -= weight;
                return;
            }
            for ((s, e), b) in after.iter_mut().zip(&emissions[step * count..]).zip(&beta) {
                *s = e + b;
            }
            let before = &alphas[(step - 1) * count..][..count];
            for from in 0..count {
                for tag in 0..count {
                    pairs[from * count + tag] = before[from] + self.between[from * count + tag] + after[tag];
                }
            }
            normalize(&mut pairs);
            for (d, p) in to.between.iter_mut().zip(&pairs) {
                *d += weight * p;
            }
            to.between[tags[step - 1] * count + tags[step]] -= weight;
            for (beta, between) in beta.iter_mut().zip(self.between.chunks_exact(count)) {
                let terms: Vec<f32> = between.iter().zip(&after).map(|(between, after)| between + after).collect();
                *beta = log_sum_exp(&terms);
            }
            // Only differences matter from here on.
            let largest = beta.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if largest.is_finite() {
                for b in beta.iter_mut() {
                    *b -= largest;
                }
            }
        }
    }
}

/// Logarithms become probabilities.
fn normalize(values: &mut [f32]) {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    super::vectorized(
        #[inline(always)]
        || {
            for v in values.iter_mut() {
                *v = exp(*v - largest);
            }
        },
    );
    let total = 1.0 / values.iter().sum::<f32>();
    for v in values.iter_mut() {
        *v *= total;
    }
}

struct Gradients<'a> {
    between: &'a mut [f32],
    start: &'a mut [f32],
    end: &'a mut [f32],
    emissions: &'a mut [f32],
}

/// See [`Backend::crf`](crate::nn::backend::Backend::crf).
pub(crate) fn crf<T: Tape<f32, Cpu>>(
    emissions: Sequences<Cpu, T>,
    transitions: Transitions<'_, Cpu>,
    tags: &[usize],
    lengths: &[usize],
) -> ModelResult<Tensor<(usize,), Cpu, T>> {
    let (batch, length, count) = *emissions.shape();
    let (emissions, mut tape) = emissions.try_contiguous()?.split_tape();
    let scores = Scratch::copy_of(&emissions);
    let (between, start, end) = (host(transitions.between)?, host(transitions.start)?, host(transitions.end)?);
    let mut alphas = Scratch::dirty(scores.len());
    let mut losses = vec![0.0; batch];
    let row_len = length * count;
    if row_len > 0 {
        losses.par_iter_mut().zip(alphas.par_chunks_mut(row_len)).enumerate().for_each(|(row, (loss, alphas))| {
            let field = Field { count, between: &between, start: &start, end: &end };
            if lengths[row] > 0 {
                let emissions = &scores[row * row_len..][..lengths[row] * count];
                let tags = &tags[row * length..][..lengths[row]];
                *loss = (field.forward(emissions, alphas) - field.score(emissions, tags)) as f32;
            }
        });
    }
    let losses = emissions.device().try_tensor_from_vec(losses, (batch,))?;
    if T::OWNS_TAPE {
        let inputs: [Flat; 4] = [
            transitions.between.identity(),
            transitions.start.identity(),
            transitions.end.identity(),
            flat(&emissions)?,
        ];
        let (tags, lengths) = (tags.to_vec(), lengths.to_vec());
        record(&mut tape, &inputs.each_ref(), &[&losses], move |gradients, dy| {
            let [dbetween, dstart, dend, demissions] = gradients else { return };
            if row_len == 0 {
                return;
            }
            let parameters = count * count + 2 * count;
            let partial: Vec<Scratch> = demissions
                .par_chunks_mut(row_len)
                .enumerate()
                .map(|(row, demissions)| {
                    let mut partial = Scratch::zeros(parameters);
                    let (between_part, ends) = partial.split_at_mut(count * count);
                    let (start_part, end_part) = ends.split_at_mut(count);
                    let mut to =
                        Gradients { between: between_part, start: start_part, end: end_part, emissions: demissions };
                    let field = Field { count, between: &between, start: &start, end: &end };
                    let tags = &tags[row * length..][..lengths[row]];
                    let at = row * row_len;
                    let (emissions, alphas) = (&scores[at..at + row_len], &alphas[at..at + row_len]);
                    field.backward(emissions, tags, alphas, dy[0][row], &mut to);
                    partial
                })
                .collect();
            for partial in partial {
                add(dbetween, &partial[..count * count]);
                add(dstart, &partial[count * count..][..count]);
                add(dend, &partial[count * count + count..]);
            }
        });
    }
    Ok(losses.put_tape(tape))
}
