//! Connectionist temporal classification by the forward-backward algorithm of Graves et al. (2006), in logarithms and f64:
//! the sums over alignments of a long sequence differ by more than a float can hold.

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;
use rayon::prelude::*;

use super::record::{flat, record};
use super::scratch::Scratch;
use crate::ModelResult;
use crate::nn::Tensor;
use crate::nn::backend::{Labellings, Sequences};

/// See [`Backend::ctc`](crate::nn::backend::Backend::ctc).
pub(crate) fn ctc<T: Tape<f32, Cpu>>(
    logits: Sequences<Cpu, T>,
    labellings: &Labellings<'_>,
) -> ModelResult<Tensor<(usize,), Cpu, T>> {
    let shape = *logits.shape();
    let (logits, mut tape) = logits.try_contiguous()?.split_tape();
    let (losses, slopes) = ctc_losses(&Scratch::copy_of(&logits), shape, labellings, T::OWNS_TAPE);
    let losses = logits.device().try_tensor_from_vec(losses, (shape.0,))?;
    record(&mut tape, &[&flat(&logits)?], &[&losses], move |dx, dy| {
        let per_row = shape.1 * shape.2;
        if per_row == 0 {
            return;
        }
        for ((dx, slopes), dy) in dx[0].chunks_exact_mut(per_row).zip(slopes.chunks_exact(per_row)).zip(&dy[0]) {
            for (dx, slope) in dx.iter_mut().zip(slopes) {
                *dx += slope * dy;
            }
        }
    });
    Ok(losses.put_tape(tape))
}

/// The loss of each example, and its derivatives by the logits `(batch, length, classes)` if wanted, each times the
/// example's weight.
pub(crate) fn ctc_losses(
    logits: &[f32],
    (batch, length, classes): (usize, usize, usize),
    labellings: &Labellings<'_>,
    slopes_wanted: bool,
) -> (Vec<f32>, Vec<f32>) {
    let per_row = length * classes;
    let mut losses = vec![0.0; batch];
    let mut slopes = vec![0.0; if slopes_wanted { logits.len() } else { 0 }];
    let row_of = |row: usize| {
        let logits = &logits[row * per_row..][..labellings.lengths[row] * classes];
        Alignments { logits, classes, labels: labellings.targets[row], blank: labellings.blank }
    };
    let finish = |row: usize, loss: f64, slopes: Option<&mut [f32]>| -> f32 {
        let weight = labellings.weights[row];
        let is_left_out = loss == f64::INFINITY && labellings.zero_infinity;
        for slope in slopes.into_iter().flatten() {
            *slope = if is_left_out { 0.0 } else { *slope * weight };
        }
        if is_left_out { 0.0 } else { loss as f32 * weight }
    };
    if slopes_wanted && per_row > 0 {
        let rows = losses.par_iter_mut().zip(slopes.par_chunks_mut(per_row)).enumerate();
        rows.for_each(|(row, (loss, slopes))| {
            let value = row_of(row).loss(Some(&mut *slopes));
            *loss = finish(row, value, Some(slopes));
        });
    } else {
        losses.par_iter_mut().enumerate().for_each(|(row, loss)| *loss = finish(row, row_of(row).loss(None), None));
    }
    (losses, slopes)
}

/// The ways to spread a labelling over the steps of one example. State `2 k + 1` is label `k`, those between are blanks.
struct Alignments<'a> {
    /// `(steps, classes)`.
    logits: &'a [f32],
    classes: usize,
    labels: &'a [usize],
    blank: usize,
}

impl Alignments<'_> {
    fn states(&self) -> usize {
        2 * self.labels.len() + 1
    }

    fn class(&self, state: usize) -> usize {
        if state.is_multiple_of(2) { self.blank } else { self.labels[state / 2] }
    }

    /// Whether a state may follow the one two before it: the blank between different labels may be left out.
    fn skips(&self, state: usize) -> bool {
        state >= 3 && !state.is_multiple_of(2) && self.labels[state / 2] != self.labels[state / 2 - 1]
    }

    /// The states that are reached by this step, and from which the end is.
    fn window(&self, step: usize, steps: usize) -> std::ops::Range<usize> {
        let states = self.states();
        states.saturating_sub(2 * (steps - step))..states.min(2 * (step + 1))
    }

    /// `-ln p(labels | logits)`, and its derivatives by the logits.
    fn loss(&self, slopes: Option<&mut [f32]>) -> f64 {
        let states = self.states();
        let steps = self.logits.len() / self.classes;
        if steps == 0 {
            return if self.labels.is_empty() { 0.0 } else { f64::INFINITY };
        }
        let totals: Vec<f64> = self.logits.chunks_exact(self.classes).map(log_sum_exp).collect();
        let emission =
            |step: usize, state: usize| f64::from(self.logits[step * self.classes + self.class(state)]) - totals[step];

        let mut alphas = vec![f64::NEG_INFINITY; steps * states];
        for (state, alpha) in alphas.iter_mut().take(states.min(2)).enumerate() {
            *alpha = emission(0, state);
        }
        for step in 1..steps {
            let (before, alpha) = alphas.split_at_mut(step * states);
            let before = &before[(step - 1) * states..];
            for state in self.window(step, steps) {
                let one = if state >= 1 { before[state - 1] } else { f64::NEG_INFINITY };
                let two = if self.skips(state) { before[state - 2] } else { f64::NEG_INFINITY };
                alpha[state] = log_sum(before[state], one, two) + emission(step, state);
            }
        }
        let last = &alphas[(steps - 1) * states..];
        let blank_before = if states >= 2 { last[states - 2] } else { f64::NEG_INFINITY };
        let mut total = log_sum(last[states - 1], blank_before, f64::NEG_INFINITY);
        if !totals.iter().all(|total| total.is_finite()) {
            total = f64::NAN;
        }
        if let Some(slopes) = slopes {
            if total.is_finite() {
                self.slopes(&alphas, &totals, total, slopes);
            } else {
                slopes[..self.logits.len()].fill(f32::NAN);
            }
        }
        -total
    }

    /// Probabilities of the classes at each step less those given the labels (eq. 16 of the paper).
    fn slopes(&self, alphas: &[f64], totals: &[f64], total: f64, slopes: &mut [f32]) {
        let (states, steps) = (self.states(), totals.len());
        // Of what comes after each step.
        let mut beta = vec![f64::NEG_INFINITY; states];
        beta[states.saturating_sub(2)..].fill(0.0);
        let mut after = vec![f64::NEG_INFINITY; states + 2];
        let mut given = vec![0.0f64; self.classes];
        for step in (0..steps).rev() {
            let logits = &self.logits[step * self.classes..][..self.classes];
            let alpha = &alphas[step * states..][..states];
            given.fill(0.0);
            for state in self.window(step, steps) {
                given[self.class(state)] += (alpha[state] + beta[state] - total).exp();
            }
            let slopes = &mut slopes[step * self.classes..][..self.classes];
            for ((slope, logit), given) in slopes.iter_mut().zip(logits).zip(&given) {
                *slope = ((f64::from(*logit) - totals[step]).exp() - given) as f32;
            }
            if step > 0 {
                for (state, (after, beta)) in after.iter_mut().zip(&beta).enumerate() {
                    *after = beta + f64::from(logits[self.class(state)]) - totals[step];
                }
                beta.fill(f64::NEG_INFINITY);
                for state in self.window(step - 1, steps) {
                    let two =
                        if state + 2 < states && self.skips(state + 2) { after[state + 2] } else { f64::NEG_INFINITY };
                    beta[state] = log_sum(after[state], after[state + 1], two);
                }
            }
        }
    }
}

/// `ln Σ exp` of three, of which the largest is taken out.
fn log_sum(a: f64, b: f64, c: f64) -> f64 {
    let largest = a.max(b).max(c);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + ((a - largest).exp() + (b - largest).exp() + (c - largest).exp()).ln()
}

/// `ln Σ exp` of a step's logits.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|x| (f64::from(*x) - largest).exp()).sum::<f64>().ln()
}
