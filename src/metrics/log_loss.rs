//! How surprised a classifier is by the labels.

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::accuracy::last_axis;
use crate::metrics::examples::{
    as_many_of_each, can_be_summed, class_index, is_outside_unit, is_positive, one_row_each, step_weights,
};
use crate::metrics::{Mean, Metric};
use crate::nn::{Tensor, read};
use crate::{Device, ModelError, ModelResult};

const NAME: &str = "log loss";

/// The mean of `-ln p(label)` in nats (cross-entropy): judges the probabilities, not only which class is first. From
/// probabilities, those below `f32::EPSILON` or above one minus it are taken as that, as scikit-learn does, so that one
/// certain mistake does not make it infinite.
///
/// ```
/// use elistimator::metrics::{LogLoss, Metric};
///
/// let loss = LogLoss::from_probabilities(&[0.5, 0.5, 0.25, 0.75], &[0, 1], 2).unwrap();
/// assert!((loss.value() + (0.5_f64.ln() + 0.75_f64.ln()) / 2.0).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LogLoss(Mean);

impl LogLoss {
    /// From logits `(batch, classes)` and a label per example, or `(batch, length, classes)` and a label per step; the softmax is
    /// taken here, in double precision. Where padding is among the steps, take [`of_sequences`](Self::of_sequences).
    ///
    /// # Errors
    /// When the numbers of examples and labels differ, or a label is no class.
    pub fn of<S: Shape, D: Device, T>(logits: &Tensor<S, D, T>, labels: &[usize]) -> ModelResult<Self> {
        Self::from_logits(&read(logits), labels, &vec![1.0; labels.len()], last_axis(logits))
    }

    /// From logits `(batch, length, classes)` of padded sequences and a label per step: what comes after a sequence's end does
    /// not count.
    ///
    /// # Errors
    /// Those of [`of`](Self::of), and when a length is longer than the padded one.
    pub fn of_sequences<S: Shape, D: Device, T>(
        logits: &Tensor<S, D, T>,
        labels: &[usize],
        lengths: &[usize],
    ) -> ModelResult<Self> {
        Self::from_logits(&read(logits), labels, &step_weights(NAME, labels.len(), lengths)?, last_axis(logits))
    }

    /// From logits `(examples, classes)`, row by row, with a label and a weight for every example.
    ///
    /// # Errors
    /// Those of [`weighted`](Self::weighted).
    pub fn from_logits(logits: &[f32], labels: &[usize], weights: &[f64], classes: usize) -> ModelResult<Self> {
        from_rows(logits, labels, weights, classes, |row, label| {
            let max = row.iter().copied().map(f64::from).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
            sum.ln() + max - row.get(label).copied().map_or(f64::NAN, f64::from)
        })
    }

    /// From probabilities `(examples, classes)`, row by row, and a label per example.
    ///
    /// # Errors
    /// When the numbers do not fit, a label is no class, or a value is no probability.
    pub fn from_probabilities(probabilities: &[f32], labels: &[usize], classes: usize) -> ModelResult<Self> {
        Self::weighted(probabilities, labels, &vec![1.0; labels.len()], classes)
    }

    /// From probabilities `(examples, classes)`, with a weight for every example: 0 for those that do not count, which may
    /// have any label.
    ///
    /// # Errors
    /// When the numbers do not fit, a label is no class, a value is no probability, or a weight is negative or not finite.
    pub fn weighted(probabilities: &[f32], labels: &[usize], weights: &[f64], classes: usize) -> ModelResult<Self> {
        let loss = from_rows(probabilities, labels, weights, classes, |row, label| {
            surprise(row.get(label).copied().map_or(f64::NAN, f64::from))
        })?;
        for (at, (row, _)) in
            probabilities.chunks(classes).zip(weights).enumerate().filter(|(_, (_, weight))| **weight > 0.0)
        {
            row.iter().try_for_each(|p| is_probability(*p, at))?;
        }
        Ok(loss)
    }

    /// For two classes, from the probability of class 1 and a label, 0 or 1, per example.
    ///
    /// # Errors
    /// When the numbers differ, a label is neither 0 nor 1, or a value is no probability.
    pub fn binary(probabilities: &[f32], labels: &[usize]) -> ModelResult<Self> {
        Self::binary_weighted(probabilities, labels, &vec![1.0; labels.len()])
    }

    /// For two classes, with a weight for every example.
    ///
    /// # Errors
    /// Those of [`binary`](Self::binary), and when a weight is negative or not finite.
    pub fn binary_weighted(probabilities: &[f32], labels: &[usize], weights: &[f64]) -> ModelResult<Self> {
        as_many_of_each(
            NAME,
            &[("probabilities", probabilities.len()), ("labels", labels.len()), ("weights", weights.len())],
        )?;
        can_be_summed(NAME, weights)?;
        let mut losses = Vec::with_capacity(labels.len());
        for (at, ((&p, &label), &weight)) in probabilities.iter().zip(labels).zip(weights).enumerate() {
            if weight > 0.0 {
                is_probability(p, at)?;
                let p = f64::from(p);
                losses.push((surprise(if is_positive(NAME, label, at)? { p } else { 1.0 - p }), weight));
            }
        }
        Ok(Self(Mean::weighted(losses)))
    }

    pub(crate) fn into_mean(self) -> Mean {
        self.0
    }
}

impl Metric for LogLoss {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    fn value(&self) -> f64 {
        self.0.value()
    }
}

fn surprise(p: f64) -> f64 {
    let least = f64::from(f32::EPSILON);
    -p.clamp(least, 1.0 - least).ln()
}

/// Refuses what is no probability, such as a logit; NaN is one that is not known.
fn is_probability(p: f32, example: usize) -> ModelResult<()> {
    if is_outside_unit(p) {
        return Err(ModelError::msg(format!(
            "{NAME}: found {p} for example {example}, expected a probability from 0 to 1, which a logit is not"
        )));
    }
    Ok(())
}

fn from_rows(
    values: &[f32],
    labels: &[usize],
    weights: &[f64],
    classes: usize,
    loss: impl Fn(&[f32], usize) -> f64,
) -> ModelResult<LogLoss> {
    as_many_of_each(NAME, &[("labels", labels.len()), ("weights", weights.len())])?;
    can_be_summed(NAME, weights)?;
    one_row_each(NAME, values.len(), classes, labels.len())?;
    let mut losses = Vec::with_capacity(labels.len());
    for (at, ((row, &label), &weight)) in values.chunks(classes).zip(labels).zip(weights).enumerate() {
        if weight > 0.0 {
            losses.push((loss(row, class_index(NAME, "label", label, at, classes)?), weight));
        }
    }
    Ok(LogLoss(Mean::weighted(losses)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_and_probabilities_agree_and_extremes_stay_finite() {
        let probabilities = [0.1_f32, 0.7, 0.2, 0.3, 0.3, 0.4];
        let logits = probabilities.map(|p| p.ln() + 1000.0);
        let a = LogLoss::from_probabilities(&probabilities, &[1, 2], 3).unwrap().value();
        let b = LogLoss::from_logits(&logits, &[1, 2], &[1.0, 1.0], 3).unwrap().value();
        assert!((a - b).abs() < 1e-4, "{a} {b}");
        let wrong = LogLoss::from_probabilities(&[1.0, 0.0], &[1], 2).unwrap().value();
        assert!((wrong + f64::from(f32::EPSILON).ln()).abs() < 1e-12);
        assert_eq!(LogLoss::from_logits(&[500.0, -500.0], &[1], &[1.0], 2).unwrap().value(), 1000.0);
        assert!(LogLoss::binary(&[f32::NAN], &[1]).unwrap().value().is_nan());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(LogLoss::from_probabilities(&[0.5, 0.5], &[2], 2).is_err());
        assert!(LogLoss::from_probabilities(&[0.5, 0.5, 0.0], &[1], 2).is_err());
        assert!(LogLoss::from_probabilities(&[], &[], 0).is_err());
        assert!(LogLoss::binary(&[0.5], &[2]).is_err());
        // Logits in the place of probabilities.
        assert!(LogLoss::binary(&[2.5, -3.0], &[1, 0]).is_err());
        assert!(LogLoss::binary(&[2.5], &[0]).is_err() && LogLoss::binary(&[f32::INFINITY], &[1]).is_err());
        assert!(LogLoss::from_probabilities(&[0.5, -3.0], &[0], 2).is_err());
        assert!(LogLoss::from_probabilities(&[1.000_001, 0.0], &[0], 2).is_ok());
        assert!(LogLoss::weighted(&[9.0, 9.0], &[0], &[0.0], 2).is_ok());
        assert!(LogLoss::binary(&[0.5], &[]).is_err());
        assert!(LogLoss::weighted(&[0.5, 0.5], &[9], &[0.0], 2).unwrap().value().is_nan());
    }
}
