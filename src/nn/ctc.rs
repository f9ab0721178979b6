//! Connectionist temporal classification.

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::backend::{Labellings, Sequences};
use crate::nn::cpu::log_sum_exp;
use crate::nn::ctc_beam::beam_search;
use crate::nn::mask::check_lengths;
use crate::nn::{Tensor, read};
use crate::{Device, ModelError, ModelResult};

const NAME: &str = "CTC";

/// Connectionist temporal classification (Graves et al. 2006): the loss of a recogniser of speech or handwriting, which gives
/// logits for every step `(batch, length, classes)` and is told what was said, but not when. One class is the blank; a way
/// to spread a target over the steps gives each step a label or the blank, and reads as the target once repeats are merged
/// and blanks left out. The loss is `-ln` of the sum of the probabilities of all ways. Targets are a list of labels for each
/// example, without the blank, and may have length 0.
///
/// On the CPU the examples are spread over the threads. There is no kernel for CUDA: the logits are read from the device and
/// the loss is computed on the host, which waits for the device once in each step.
///
/// ```
/// use elistimator::nn::{Ctc, Tensor};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let logits: Tensor<(usize, usize, usize), Cpu> =
///     dfdx::tensor::TensorFromVec::tensor_from_vec(&device, vec![0.1; 40], (2, 5, 4));
/// let ctc = Ctc::new().lengths(&[5, 3]); // class 0 is the blank
/// // Targets padded to the same length, as a batch has them, and how many count.
/// let (padded, counts) = ([3, 3, 1, 2, 0, 0], [3, 1]);
/// let targets: Vec<&[usize]> = padded.chunks(3).zip(counts).map(|(ids, count)| &ids[..count]).collect();
/// let loss = ctc.mean(logits.clone(), &targets)?;
/// let found = ctc.decode(&logits)?;
/// let likelier = ctc.beam_search(&logits, 10)?;
/// assert!(likelier[1][0].log_probability >= found[1].log_probability);
/// # drop(loss);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[doc(alias("CTCLoss", "ctc_loss"))]
pub struct Ctc {
    blank: usize,
    zero_infinity: bool,
    lengths: Option<Vec<usize>>,
}

/// What an example was read as.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelling {
    /// The labels, without blanks.
    pub labels: Vec<usize>,
    /// The logarithm of the probability: that of one way to spread the labels over the steps from [`Ctc::decode`], that of all
    /// ways which the search kept from [`Ctc::beam_search`].
    pub log_probability: f32,
}

impl Ctc {
    /// The blank is class 0; all steps count.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which class is the blank.
    #[must_use]
    pub fn blank(mut self, class: usize) -> Self {
        self.blank = class;
        self
    }

    /// Lets an example count for nothing, in loss and gradient, where its target has no way to fit or every way has
    /// probability 0: PyTorch's `zero_infinity`. Without it a target that does not fit is an error.
    #[must_use]
    pub fn zero_infinity(mut self) -> Self {
        self.zero_infinity = true;
        self
    }

    /// How many steps of each example count.
    #[must_use]
    pub fn lengths(mut self, lengths: &[usize]) -> Self {
        self.lengths = Some(lengths.into());
        self
    }

    /// The mean over the examples of each one's loss divided by the length of its target (by 1 if that is 0): PyTorch's
    /// `reduction="mean"`.
    ///
    /// # Errors
    /// When the batch is empty; when the numbers of examples, targets and lengths differ; when a label is no class or the
    /// blank; when a target does not fit its steps, unless [`zero_infinity`](Self::zero_infinity) is set: it needs one for
    /// each label, and one for the blank between two equal ones.
    pub fn mean<B: Dim, L: Dim, K: Dim, D: Device, T: Tape<f32, D>>(
        &self,
        logits: Tensor<(B, L, K), D, T>,
        targets: &[impl AsRef<[usize]>],
    ) -> ModelResult<Tensor<(), D, T>> {
        let targets: Vec<&[usize]> = targets.iter().map(AsRef::as_ref).collect();
        let count = targets.len() as f32;
        let weights: Vec<f32> = targets.iter().map(|target| 1.0 / (target.len().max(1) as f32 * count)).collect();
        D::sum(self.losses(logits, &targets, &weights)?)
    }

    /// The loss of each example: `(batch)`.
    ///
    /// # Errors
    /// As [`mean`](Self::mean).
    pub fn per_example<B: Dim, L: Dim, K: Dim, D: Device, T: Tape<f32, D>>(
        &self,
        logits: Tensor<(B, L, K), D, T>,
        targets: &[impl AsRef<[usize]>],
    ) -> ModelResult<Tensor<(usize,), D, T>> {
        let targets: Vec<&[usize]> = targets.iter().map(AsRef::as_ref).collect();
        self.losses(logits, &targets, &vec![1.0; targets.len()])
    }

    fn losses<B: Dim, L: Dim, K: Dim, D: Device, T: Tape<f32, D>>(
        &self,
        logits: Tensor<(B, L, K), D, T>,
        targets: &[&[usize]],
        weights: &[f32],
    ) -> ModelResult<Tensor<(usize,), D, T>> {
        let (shape, lengths) = self.check(logits.shape())?;
        let (batch, _, classes) = shape;
        if targets.len() != batch {
            return Err(ModelError::msg(format!("{NAME}: found {} targets for a batch of {batch}", targets.len())));
        }
        for (row, (target, steps)) in targets.iter().zip(&lengths).enumerate() {
            if let Some(at) = target.iter().position(|label| *label >= classes || *label == self.blank) {
                return Err(ModelError::msg(format!(
                    "{NAME}: found the label {} at place {at} of target {row}, expected one below the {classes} classes that is \
                     not the blank {}",
                    target[at], self.blank
                )));
            }
            let repeats = target.windows(2).filter(|pair| pair[0] == pair[1]).count();
            if target.len() + repeats > *steps && !self.zero_infinity {
                return Err(ModelError::msg(format!(
                    "{NAME}: found a target of {} labels, of which {repeats} repeat the one before, for the {steps} steps of \
                     example {row}, expected at least {} steps; with `zero_infinity` such an example counts for nothing",
                    target.len(),
                    target.len() + repeats
                )));
            }
        }
        let labellings =
            Labellings { targets, lengths: &lengths, blank: self.blank, weights, zero_infinity: self.zero_infinity };
        let logits: Sequences<D, T> = logits.try_reshape_like(&shape)?;
        D::ctc(logits, &labellings)
    }

    /// The likeliest class of each step, of equal ones the first, with repeats merged and blanks left out: best-path decoding.
    /// Reads the logits from the device.
    ///
    /// # Errors
    /// When the batch is empty, a length is impossible, or the blank is no class.
    #[doc(alias("greedy"))]
    pub fn decode<B: Dim, L: Dim, K: Dim, D: Device, T>(
        &self,
        logits: &Tensor<(B, L, K), D, T>,
    ) -> ModelResult<Vec<Labelling>> {
        self.map_examples(logits, |logits, classes| {
            let (mut labels, mut log_probability) = (Vec::new(), 0.0);
            let mut before = self.blank;
            for step in logits.chunks_exact(classes) {
                let best = (1..classes).fold(0, |best, class| if step[class] > step[best] { class } else { best });
                if best != self.blank && best != before {
                    labels.push(best);
                }
                before = best;
                log_probability += f64::from(step[best]) - log_sum_exp(step);
            }
            Labelling { labels, log_probability: log_probability as f32 }
        })
    }

    /// The likeliest labellings of each example that a search finds which keeps `width` of them after each step, best first:
    /// it adds up the ways to spread one, which [`decode`](Self::decode) does not (Graves 2012, section 7.5.3, without a
    /// language model; Hannun 2014). A width of 1 may do worse than `decode`; 10 to 100 are usual. Reads the logits from the device.
    ///
    /// # Errors
    /// When the width is 0, the batch is empty, a length is impossible, or the blank is no class.
    pub fn beam_search<B: Dim, L: Dim, K: Dim, D: Device, T>(
        &self,
        logits: &Tensor<(B, L, K), D, T>,
        width: usize,
    ) -> ModelResult<Vec<Vec<Labelling>>> {
        if width == 0 {
            return Err(ModelError::msg(format!("{NAME}: found a beam of width 0, expected at least 1")));
        }
        self.map_examples(logits, |logits, classes| beam_search(logits, classes, self.blank, width))
    }

    /// What `f` makes of the steps that count of each example, and the number of classes.
    fn map_examples<B: Dim, L: Dim, K: Dim, D: Device, T, R>(
        &self,
        logits: &Tensor<(B, L, K), D, T>,
        f: impl Fn(&[f32], usize) -> R,
    ) -> ModelResult<Vec<R>> {
        let ((_, length, classes), lengths) = self.check(logits.shape())?;
        let values = if length == 0 { Vec::new() } else { read(logits) };
        let rows = lengths.iter().enumerate();
        Ok(rows.map(|(row, steps)| f(&values[row * length * classes..][..steps * classes], classes)).collect())
    }

    /// The sizes, and how many steps of each example count.
    fn check<B: Dim, L: Dim, K: Dim>(&self, shape: &(B, L, K)) -> ModelResult<((usize, usize, usize), Vec<usize>)> {
        let (batch, length, classes) = (shape.0.size(), shape.1.size(), shape.2.size());
        if batch == 0 {
            return Err(ModelError::msg(format!("{NAME}: found an empty batch, expected at least one example")));
        }
        if self.blank >= classes {
            let found = self.blank;
            return Err(ModelError::msg(format!(
                "{NAME}: found the blank {found}, expected one below the {classes} classes"
            )));
        }
        let lengths = self.lengths.clone().unwrap_or_else(|| vec![length; batch]);
        check_lengths(NAME, &lengths, batch, length)?;
        Ok(((batch, length, classes), lengths))
    }
}
