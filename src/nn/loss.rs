//! Losses.

use dfdx::shapes::{Axis, Dim, HasShape, Shape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::{BroadcastTo, ReshapeTo, TryAdd, TryDiv, TryMul, TrySub};
use serde::{Deserialize, Serialize};

use crate::nn::Tensor;
use crate::nn::backend::{Rows, Targets};
use crate::nn::mask::{check_lengths, mask_values};
use crate::{Device, ModelError, ModelResult};

/// Scores of classes, one row per example: `(batch, classes)`, or `(batch, length, classes)` with an example per step.
pub trait Logits<D: Device, T> {
    /// `(examples, classes)`.
    ///
    /// # Errors
    /// When the device's memory runs out.
    fn into_rows(self) -> ModelResult<Tensor<(usize, usize), D, T>>;

    /// `(batch, length)` where there is an example per step.
    fn sequences(&self) -> Option<(usize, usize)> {
        None
    }
}

impl<B: Dim, K: Dim, D: Device, T: Tape<f32, D>> Logits<D, T> for Tensor<(B, K), D, T> {
    fn into_rows(self) -> ModelResult<Tensor<(usize, usize), D, T>> {
        let (batch, classes) = *self.shape();
        Ok(self.try_reshape_like(&(batch.size(), classes.size()))?)
    }
}

impl<B: Dim, L: Dim, K: Dim, D: Device, T: Tape<f32, D>> Logits<D, T> for Tensor<(B, L, K), D, T> {
    fn into_rows(self) -> ModelResult<Tensor<(usize, usize), D, T>> {
        let (batch, length, classes) = *self.shape();
        Ok(self.try_reshape_like(&(batch.size() * length.size(), classes.size()))?)
    }

    fn sequences(&self) -> Option<(usize, usize)> {
        Some((self.shape().0.size(), self.shape().1.size()))
    }
}

/// The mean over the examples of `-log softmax(logits)[label]`: the loss of a classifier, from logits `(batch, classes)` or
/// `(batch, length, classes)` and one class per example. For weights and masks see [`CrossEntropy`].
///
/// # Errors
/// When the batch is empty, the numbers of examples differ, or a label is no class.
pub fn sparse_cross_entropy<D: Device, T: Tape<f32, D>>(
    logits: impl Logits<D, T>,
    labels: &[usize],
) -> ModelResult<Tensor<(), D, T>> {
    CrossEntropy::new().sparse(logits, labels)
}

/// Softmax cross-entropy with options: `-Σ target · log softmax(logits)` for each example, then the mean of the examples by
/// their weights.
///
/// ```
/// use elistimator::nn::{CrossEntropy, Tensor};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let logits: Tensor<(usize, usize), Cpu> = dfdx::tensor::TensorFromVec::tensor_from_vec(&device, vec![0.1; 6], (2, 3));
/// let loss = CrossEntropy::new().label_smoothing(0.1).mask(&[true, false]).sparse(logits, &[2, 0])?;
/// # drop(loss);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[doc(alias("CrossEntropyLoss", "ignore_index", "class_weight"))]
pub struct CrossEntropy {
    label_smoothing: f32,
    class_weights: Option<Vec<f32>>,
    example_weights: Option<Vec<f32>>,
    lengths: Option<Vec<usize>>,
}

impl CrossEntropy {
    /// Without options: the plain mean.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spreads this share of each target evenly over all classes (Szegedy et al. 2016).
    #[must_use]
    pub fn label_smoothing(mut self, share: f32) -> Self {
        self.label_smoothing = share;
        self
    }

    /// A factor per class. As in PyTorch the mean over labels is one by these weights.
    #[must_use]
    pub fn class_weights(mut self, weights: impl Into<Vec<f32>>) -> Self {
        self.class_weights = Some(weights.into());
        self
    }

    /// A weight per example, a finite number. Examples of weight 0 may have any label.
    #[must_use]
    pub fn example_weights(mut self, weights: impl Into<Vec<f32>>) -> Self {
        self.example_weights = Some(weights.into());
        self
    }

    /// Which examples count: a weight of 1 or 0. Without any that counts the loss is 0. For padded sequences see
    /// [`lengths`](Self::lengths).
    #[must_use]
    pub fn mask(self, mask: &[bool]) -> Self {
        self.example_weights(mask.iter().map(|counts| f32::from(u8::from(*counts))).collect::<Vec<_>>())
    }

    /// Leaves out what comes after each sequence's end, for logits `(batch, length, classes)`: the loss is the mean over the steps
    /// before. Weights and a mask count beside it.
    ///
    /// ```
    /// # use elistimator::nn::{CrossEntropy, Tensor};
    /// # use elistimator::{Device, DeviceSpec, device::Cpu};
    /// # fn main() -> elistimator::ModelResult<()> {
    /// # let device = Cpu::open(DeviceSpec::Cpu, 7)?;
    /// # let values = vec![0.1; 12];
    /// # let logits: Tensor<(usize, usize, usize), Cpu> = dfdx::tensor::TensorFromVec::tensor_from_vec(&device, values, (2, 3, 2));
    /// let padding = 0;
    /// let loss = CrossEntropy::new().lengths(&[3, 1]).sparse(logits, &[1, 0, 1, 1, padding, padding])?;
    /// # drop(loss);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn lengths(mut self, lengths: &[usize]) -> Self {
        self.lengths = Some(lengths.into());
        self
    }

    /// The weighted mean, from one class per example.
    ///
    /// # Errors
    /// When the batch is empty, the numbers of examples, labels and weights differ, or a label is no class.
    pub fn sparse<D: Device, T: Tape<f32, D>>(
        &self,
        logits: impl Logits<D, T>,
        labels: &[usize],
    ) -> ModelResult<Tensor<(), D, T>> {
        let (sequences, logits) = (logits.sequences(), logits.into_rows()?);
        let (labels, weights) = self.check_sparse(logits.shape(), sequences, labels)?;
        let total: f32 = match &self.class_weights {
            Some(classes) => labels.iter().zip(&weights).map(|(label, weight)| classes[*label] * weight).sum(),
            None => weights.iter().sum(),
        };
        D::sum(self.sparse_rows(logits, &labels, &normalized(weights, total))?)
    }

    /// The loss of each example times its weight: `(examples)`.
    ///
    /// # Errors
    /// As [`sparse`](Self::sparse).
    pub fn sparse_per_example<D: Device, T: Tape<f32, D>>(
        &self,
        logits: impl Logits<D, T>,
        labels: &[usize],
    ) -> ModelResult<Tensor<(usize,), D, T>> {
        let (sequences, logits) = (logits.sequences(), logits.into_rows()?);
        let (labels, weights) = self.check_sparse(logits.shape(), sequences, labels)?;
        self.sparse_rows(logits, &labels, &weights)
    }

    fn sparse_rows<D: Device, T: Tape<f32, D>>(
        &self,
        logits: Rows<D, T>,
        labels: &[usize],
        weights: &[f32],
    ) -> ModelResult<Tensor<(usize,), D, T>> {
        let class_weights = self.class_weights.as_deref();
        let targets = Targets::Sparse { labels, smoothing: self.label_smoothing, class_weights };
        D::cross_entropy(logits, targets, weights)
    }

    /// The weighted mean, from a target per example and class, in the shape of the logits.
    ///
    /// # Errors
    /// When the batch is empty, or the numbers of examples, targets and weights differ.
    pub fn dense<D: Device, T: Tape<f32, D>>(
        &self,
        logits: impl Logits<D, T>,
        targets: impl Logits<D, dfdx::tensor::NoneTape>,
    ) -> ModelResult<Tensor<(), D, T>> {
        let (sequences, logits) = (logits.sequences(), logits.into_rows()?);
        let weights = self.check(logits.shape(), sequences)?;
        let total = weights.iter().sum();
        D::sum(self.dense_rows(logits, dense_targets(targets, sequences)?, &normalized(weights, total))?)
    }

    /// The loss of each example times its weight: `(examples)`.
    ///
    /// # Errors
    /// As [`dense`](Self::dense).
    pub fn dense_per_example<D: Device, T: Tape<f32, D>>(
        &self,
        logits: impl Logits<D, T>,
        targets: impl Logits<D, dfdx::tensor::NoneTape>,
    ) -> ModelResult<Tensor<(usize,), D, T>> {
        let (sequences, logits) = (logits.sequences(), logits.into_rows()?);
        let weights = self.check(logits.shape(), sequences)?;
        self.dense_rows(logits, dense_targets(targets, sequences)?, &weights)
    }

    fn dense_rows<D: Device, T: Tape<f32, D>>(
        &self,
        logits: Rows<D, T>,
        mut targets: Rows<D>,
        weights: &[f32],
    ) -> ModelResult<Tensor<(usize,), D, T>> {
        let shape = *logits.shape();
        if *targets.shape() != shape {
            return Err(ModelError::msg(format!(
                "cross-entropy: found targets of shape {:?}, expected {shape:?} as the logits",
                targets.shape()
            )));
        }
        if self.label_smoothing != 0.0 {
            let evenly = self.label_smoothing / shape.1 as f32;
            targets = targets.try_mul(1.0 - self.label_smoothing)?.try_add(evenly)?;
        }
        if let Some(classes) = &self.class_weights {
            let classes = logits.device().try_tensor_from_vec(classes.clone(), (shape.1,))?;
            targets = targets.try_mul(classes.try_broadcast_like::<_, Axis<0>>(&shape)?)?;
        }
        D::cross_entropy(logits, Targets::Dense(&targets), weights)
    }

    /// The weight of each example.
    fn check(&self, (rows, classes): &(usize, usize), sequences: Option<(usize, usize)>) -> ModelResult<Vec<f32>> {
        if *rows == 0 || *classes == 0 {
            return Err(ModelError::msg(format!(
                "cross-entropy: found an empty batch of {rows} rows of {classes} logits, expected at least one of each"
            )));
        }
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            let found = self.label_smoothing;
            return Err(ModelError::msg(format!("cross-entropy: found the label smoothing {found}, expected 0 to 1")));
        }
        if let Some(weights) = &self.class_weights
            && weights.len() != *classes
        {
            let message = format!("cross-entropy: found {} class weights for {classes} classes", weights.len());
            return Err(ModelError::msg(message));
        }
        let mut weights = match &self.example_weights {
            Some(weights) if weights.len() != *rows => {
                let message = format!("cross-entropy: found {} weights for {rows} examples", weights.len());
                return Err(ModelError::msg(message));
            }
            Some(weights) => weights.clone(),
            None => vec![1.0; *rows],
        };
        check_finite("cross-entropy", &weights)?;
        if let Some(lengths) = &self.lengths {
            let Some((batch, length)) = sequences else {
                let message = format!(
                    "cross-entropy: found lengths and logits ({rows}, {classes}), expected (batch, length, classes)"
                );
                return Err(ModelError::msg(message));
            };
            check_lengths("cross-entropy", lengths, batch, length)?;
            let after_end = weights.iter_mut().zip(mask_values(lengths, length)).filter(|(_, counts)| *counts == 0.0);
            after_end.for_each(|(weight, _)| *weight = 0.0);
        }
        Ok(weights)
    }

    /// The labels, with those that do not count replaced by 0, and the weight of each example.
    fn check_sparse(
        &self,
        shape: &(usize, usize),
        sequences: Option<(usize, usize)>,
        labels: &[usize],
    ) -> ModelResult<(Vec<usize>, Vec<f32>)> {
        let weights = self.check(shape, sequences)?;
        let (rows, classes) = *shape;
        if labels.len() != rows {
            return Err(ModelError::msg(format!(
                "cross-entropy: found {} labels for {rows} rows of logits, expected as many",
                labels.len()
            )));
        }
        let counted: Vec<usize> =
            labels.iter().zip(&weights).map(|(label, weight)| if *weight == 0.0 { 0 } else { *label }).collect();
        match counted.iter().position(|label| *label >= classes) {
            Some(row) => Err(ModelError::msg(format!(
                "cross-entropy: found the label {} in row {row}, expected one below the {classes} classes",
                labels[row]
            ))),
            None => Ok((counted, weights)),
        }
    }
}

/// The rows of targets, which may not be steps in another order than those of the logits.
fn dense_targets<D: Device>(
    targets: impl Logits<D, dfdx::tensor::NoneTape>,
    sequences: Option<(usize, usize)>,
) -> ModelResult<Rows<D>> {
    match (targets.sequences(), sequences) {
        (Some(found), Some(expected)) if found != expected => Err(ModelError::msg(format!(
            "cross-entropy: found targets of (batch, length) {found:?}, expected {expected:?} as the logits"
        ))),
        _ => targets.into_rows(),
    }
}

fn check_finite(loss: &str, weights: &[f32]) -> ModelResult<()> {
    match weights.iter().position(|weight| !weight.is_finite()) {
        Some(at) => Err(ModelError::msg(format!(
            "{loss}: found the weight {} of example {at}, expected a finite one",
            weights[at]
        ))),
        None => Ok(()),
    }
}

/// Weights that sum to one, or none at all.
fn normalized(mut weights: Vec<f32>, total: f32) -> Vec<f32> {
    if total != 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= total);
    }
    weights
}

/// A loss that compares predictions with targets value by value. An example is a row of the first dimension.
///
/// ```
/// use elistimator::nn::{Loss, Tensor};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let tensor = |values: Vec<f32>| -> Tensor<(usize, usize), Cpu> {
///     dfdx::tensor::TensorFromVec::tensor_from_vec(&device, values, (2, 1))
/// };
/// let loss = Loss::Huber { delta: 1.0 }.mean(tensor(vec![0.5, 2.0]), tensor(vec![0.0, 2.0]))?;
/// # drop(loss);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Loss {
    /// `(prediction - target)²`.
    #[doc(alias("MSELoss", "MSE"))]
    Squared,
    /// `|prediction - target|`.
    #[doc(alias("L1Loss", "MAE"))]
    Absolute,
    /// Half the square below `delta`, linear above it (Huber 1964).
    Huber {
        /// Where the two meet, above 0.
        delta: f32,
    },
    /// Cross-entropy of `sigmoid(prediction)` with a target from 0 to 1.
    #[doc(alias("BCEWithLogitsLoss", "pos_weight"))]
    BinaryCrossEntropy {
        /// The factor of the target's part: above 1 for rare positives; 1 is plain.
        positive_weight: f32,
    },
}

impl Loss {
    /// The mean over all values.
    ///
    /// # Errors
    /// When the shapes differ or there is no value.
    pub fn mean<S: Shape, D: Device, T: Tape<f32, D>>(
        self,
        predictions: Tensor<S, D, T>,
        targets: Tensor<S, D>,
    ) -> ModelResult<Tensor<(), D, T>> {
        let losses = self.rows(predictions, targets)?;
        let count = losses.shape().0 * losses.shape().1;
        Ok(D::sum(losses.try_reshape_like(&(count,))?)?.try_div(count as f32)?)
    }

    /// The mean over the examples by these weights (a mask has weights of 0 and 1); 0 if the weights sum to 0.
    ///
    /// # Errors
    /// As [`mean`](Self::mean), and when there are more or fewer weights than examples or one is not finite.
    pub fn weighted_mean<S: Shape, D: Device, T: Tape<f32, D>>(
        self,
        predictions: Tensor<S, D, T>,
        targets: Tensor<S, D>,
        weights: &[f32],
    ) -> ModelResult<Tensor<(), D, T>> {
        let losses = self.per_example(predictions, targets)?;
        let count = losses.shape().0;
        if weights.len() != count {
            return Err(ModelError::msg(format!("loss: found {} weights for {count} examples", weights.len())));
        }
        check_finite("loss", weights)?;
        let weights = normalized(weights.to_vec(), weights.iter().sum());
        let weights = losses.device().try_tensor_from_vec(weights, (count,))?;
        D::sum(losses.try_mul(weights)?)
    }

    /// The mean of each example's values: `(batch)`.
    ///
    /// # Errors
    /// As [`mean`](Self::mean).
    pub fn per_example<S: Shape, D: Device, T: Tape<f32, D>>(
        self,
        predictions: Tensor<S, D, T>,
        targets: Tensor<S, D>,
    ) -> ModelResult<Tensor<(usize,), D, T>> {
        let losses = self.rows(predictions, targets)?;
        let count = losses.shape().1;
        Ok(D::row_sums(losses)?.try_div(count as f32)?)
    }

    /// The loss of every value, in the shape of the predictions: to be weighted by value, by label or by step before its mean is
    /// taken.
    ///
    /// ```
    /// # use elistimator::{DeviceSpec, prelude::*};
    /// # fn main() -> ModelResult<()> {
    /// # let device = Cpu::open(DeviceSpec::Cpu, 7)?;
    /// # let logits = device.tensor_from_vec(vec![0.5, -1.0, 2.0, 0.0], (2usize, 2usize));
    /// # let targets = device.tensor_from_vec(vec![1.0, 0.0, 1.0, 1.0], (2usize, 2usize));
    /// // Positives of the second of two labels are rare and count 9 times: PyTorch's `pos_weight`.
    /// let extra = device.tensor_from_vec(vec![0.0, 8.0], (2,)).try_broadcast_like::<_, Axis<0>>(targets.shape())?;
    /// let weights = targets.clone().try_mul(extra)?.try_add(1.0)?;
    /// let losses = Loss::BinaryCrossEntropy { positive_weight: 1.0 }.per_value(logits, targets)?;
    /// let loss = elistimator::nn::mean(losses.try_mul(weights)?)?;
    /// # drop(loss);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`mean`](Self::mean).
    pub fn per_value<S: Shape, D: Device, T: Tape<f32, D>>(
        self,
        predictions: Tensor<S, D, T>,
        targets: Tensor<S, D>,
    ) -> ModelResult<Tensor<S, D, T>> {
        let shape = *predictions.shape();
        Ok(self.rows(predictions, targets)?.try_reshape_like(&shape)?)
    }

    /// The loss of every value: `(examples, values)`.
    fn rows<S: Shape, D: Device, T: Tape<f32, D>>(
        self,
        predictions: Tensor<S, D, T>,
        targets: Tensor<S, D>,
    ) -> ModelResult<Rows<D, T>> {
        let shape = *predictions.shape();
        if *targets.shape() != shape {
            return Err(ModelError::msg(format!(
                "loss: found targets of shape {:?}, expected {:?} as the predictions",
                targets.shape().concrete(),
                shape.concrete()
            )));
        }
        let count = shape.num_elements();
        let examples = shape.concrete().into_iter().next().unwrap_or(1);
        if count == 0 {
            return Err(ModelError::msg("loss: found an empty batch, expected at least one value"));
        }
        let rows = (examples, count / examples);
        let predictions = predictions.try_reshape_like(&rows)?;
        let targets = targets.try_reshape_like(&rows)?;
        Ok(match self {
            Self::Squared => predictions.try_sub(targets)?.try_square()?,
            Self::Absolute => predictions.try_sub(targets)?.try_abs()?,
            Self::Huber { delta } if delta > 0.0 => predictions.try_huber_error(targets, delta)?,
            Self::Huber { delta } => {
                return Err(ModelError::msg(format!("Huber loss: found delta {delta}, expected it above 0")));
            }
            Self::BinaryCrossEntropy { positive_weight: 1.0 } => predictions.try_bce_with_logits(targets)?,
            Self::BinaryCrossEntropy { positive_weight } => {
                // (1 - t) x + (1 + (w - 1) t) ln(1 + exp(-x)), where the logarithm is the loss for a target of 1.
                let ones = predictions.device().try_ones_like(&rows)?;
                let negative = targets.clone().try_negate()?.try_add(1.0)?;
                let factors = targets.try_mul(positive_weight - 1.0)?.try_add(1.0)?;
                let logarithm = predictions.retaped::<T>().try_bce_with_logits(ones)?.try_mul(factors)?;
                predictions.try_mul(negative)?.try_add(logarithm)?
            }
        })
    }
}
